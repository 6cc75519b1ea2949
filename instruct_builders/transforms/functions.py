"""Functions of the user's own, by where they are: how YAML names a classifier, a recogniser or an embedding."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..errors import ConfigError


def function_of(place: Callable | str, what: str) -> Callable:
    """The function at `module:function`; a function itself comes back as it is.

    Args:
        place (`Callable` or `str`): Such as `my_models:toxicity`, of a module that Python finds.
        what (`str`): How errors call it, such as `"toxic: classify"`.

    Raises:
        ConfigError: If it can't be imported, or is nothing that can be called.
    """
    if callable(place):
        return place
    module, _, name = str(place).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{what}={place!r} can't be imported ({error}): give module:function, of a module that Python finds, such "
            "as a file in a folder of PYTHONPATH."
        ) from error
    if not callable(found):
        raise ConfigError(f"{what}={place!r} is a {type(found).__name__}, and no function.")
    return found
