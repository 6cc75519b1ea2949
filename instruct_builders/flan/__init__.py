"""FLAN on plain `datasets`: tasks in YAML, their templates, few-shot and chain-of-thought rendering."""

from instruct_builders.flan.builder import Flan
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.task_files import Task, find_tasks, load_task, shipped_tasks

__all__ = ["Flan", "FlanConfig", "Task", "find_tasks", "load_task", "shipped_tasks"]
