"""Recipes are scripts: their folder goes first on `sys.path`, as `python recipes/X.py` puts it."""

import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
if str(RECIPES) not in sys.path:
    sys.path.insert(0, str(RECIPES))
