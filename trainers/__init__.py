"""Tensors in, weights out: chat templates, models and releases.

Import the room you need (`from trainers import models`); nothing heavy is imported here.
"""
