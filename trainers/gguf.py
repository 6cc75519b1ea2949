"""A model as one GGUF file for llama.cpp, by llama.cpp's own converter."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from instruct_builders.errors import BuildError, ConfigError, did_you_mean

logger = logging.getLogger(__name__)
SCRIPT = "convert_hf_to_gguf.py"
HOME = "LLAMA_CPP_DIR"  # the environment variable that names a checkout of llama.cpp
TYPES = ("f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "auto")  # what the converter writes by itself
MAGIC = b"GGUF"


def check(kind: str) -> Path:
    """The converter, before any work is done.

    Args:
        kind (`str`): One of `TYPES`.

    Raises:
        ConfigError: For a type that the converter does not write, or where there is no converter.
    """
    if kind not in TYPES:
        raise ConfigError(
            f"gguf: {kind!r} given; the converter writes {', '.join(TYPES)}.{did_you_mean(kind, TYPES)} Smaller types "
            "such as Q4_K_M are made from one of these with llama.cpp's llama-quantize."
        )
    folder = os.environ.get(HOME)
    on_path = shutil.which(SCRIPT)
    found = Path(folder, SCRIPT) if folder else Path(on_path) if on_path else None
    if found is None or not found.is_file():
        where = f"{HOME} names a folder without it" if folder else f"it is not on PATH and {HOME} is not set"
        raise ConfigError(
            f"gguf: needs {SCRIPT} of llama.cpp, and {where}. Clone https://github.com/ggml-org/llama.cpp, run "
            f"`pip install gguf`, and set {HOME} to that folder; or leave gguf out."
        )
    return found


def convert(model_dir: str | Path, output: str | Path, kind: str) -> Path:
    """Writes `output` from a folder of safetensors and its tokenizer.

    Args:
        model_dir (`str` or `Path`): Whole weights, not an adapter.
        output (`str` or `Path`): The file to write.
        kind (`str`): One of `TYPES`.

    Raises:
        BuildError: If the converter fails, with its last words; no file is left.
    """
    script, output = check(kind), Path(output)
    command = [sys.executable, str(script), str(model_dir), "--outfile", str(output), "--outtype", kind]
    logger.info("converting to %s with %s", output.name, script.name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not _is_gguf(output):
        output.unlink(missing_ok=True)
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        why = f"exit code {done.returncode}" if done.returncode else "it wrote no GGUF file"
        raise BuildError(f"gguf: {script.name} failed ({why}): {lines[-1]} The model may be of a kind it lacks.")
    return output


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
