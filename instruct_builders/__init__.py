"""Build instruction data with `datasets`: sources -> records -> Hub-publishable datasets, and nothing passes silently.

Names are loaded when first used, so that `import instruct_builders` costs little more than `import datasets`.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "load_dataset": "loading",
    "BUILDERS": "loading",
    "InstructBuilder": "builder",
    "InstructConfig": "builder_config",
    "Alpaca": "alpaca",
    "Vicuna": "vicuna",
    "Flan": "flan",
    "SelfInstruct": "self_instruct",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
