"""What whoever starts a recipe meets besides its own lines: extras that are missing, progress bars, the log.

Imported before any library that draws bars: they read these variables once, when they are imported.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Module -> the extra of pyproject.toml that brings it. Those that say so themselves where they are used are not here.
EXTRAS = {
    **dict.fromkeys(("openai", "aiohttp", "filelock", "rich"), "generate"),
    **dict.fromkeys(("torch", "transformers", "trl", "peft", "accelerate"), "train"),
}
# A bar in a file is hundreds of half lines; whoever sets one of these to 0 has it there too.
BARS = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")  # transformers goes by the second

if not sys.stderr.isatty():
    for name in BARS:
        os.environ.setdefault(name, "1")


@contextmanager
def extras_named() -> Iterator[None]:
    """Around a recipe's imports: one line and exit code 4, as [`arguments.run`] has it, where an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        stop_for(error)


def stop_for(error: ModuleNotFoundError) -> None:
    """Says which extra brings the module, and ends the recipe; an error of any other module is raised again."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    extra = EXTRAS[module]
    line = f'this needs {module}, which is not installed. Do: pip install "instruct-builders[{extra}]"'
    print(f"ConfigError: {line}", file=sys.stderr)
    raise SystemExit(4) from None


def show_log() -> None:
    """Log lines on standard error, each once: these two libraries have a handler of their own besides."""
    if logging.getLogger().handlers:  # whoever has set up logging before has decided
        return
    logging.basicConfig(format="%(message)s")
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).propagate = False
