"""The house rules that an import can break: who may import whom, and each third party's one home."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("instruct_builders", "trainers", "recipes", "benchmarks")
TENSORS = {"torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes"}
# Third party -> the files that may import it (prefixes of paths below the repository's root).
HOMES = {
    "openai": ("instruct_builders/generate/openai_transport.py",),
    "huggingface_hub": (
        *("instruct_builders/publish.py", "instruct_builders/hub_attempts.py", "instruct_builders/sources.py"),
        "instruct_builders/hub_places.py",
        "instruct_builders/transforms/evaluation_sets.py",
        *("trainers/base_model.py", "trainers/scores.py", "trainers/places.py"),
    ),
    "jinja2": ("instruct_builders/cards.py", "instruct_builders/page.py", "instruct_builders/formats/", "trainers/"),
    "argparse": ("recipes/", "benchmarks/"),
    "lm_eval": ("trainers/evaluation/harness.py",),
    "ray": ("instruct_builders/on_ray/",),
    "numba": ("instruct_builders/transforms/compiled.py",),
    "phonenumbers": ("instruct_builders/transforms/quality/pii_phones.py",),
    "matplotlib": ("instruct_builders/plots.py",),
    "sentence_transformers": ("instruct_builders/transforms/embedding.py",),
    **dict.fromkeys(TENSORS, ("trainers/", "recipes/", "benchmarks/")),
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of the modules a file imports, wherever in the file; relative ones made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_there_are_sources():
    assert len(sources()) > 20


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room, used = path.relative_to(ROOT).parts[0], top(imports(path))
    forbidden = {"instruct_builders": {"trainers", "recipes", *TENSORS}, "trainers": {"recipes"}}.get(room, set())
    assert not used & forbidden, f"{path.name} imports {used & forbidden}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_third_party_has_one_home(path):
    place = path.relative_to(ROOT).as_posix()
    strangers = {name for name in top(imports(path)) & HOMES.keys() if not place.startswith(HOMES[name])}
    assert not strangers, f"{place} imports {strangers}, whose home is elsewhere (see HOMES)"


def test_no_recipe_shadows_a_library():
    # `python recipes/x.py` puts recipes/ first on sys.path, so a recipe named like a library would hide it.
    script = "import importlib.util, sys; sys.path = [p for p in sys.path if 'recipes' not in p]; "
    for path in (ROOT / "recipes").glob("*.py"):
        check = script + f"sys.exit(importlib.util.find_spec({path.stem!r}) is not None)"
        found = subprocess.run([sys.executable, "-c", check], cwd=ROOT.parent, check=False)
        # `build` is a packaging tool that nothing here imports, and DESIGN calls the recipe so.
        assert path.stem == "build" or found.returncode == 0, f"recipes/{path.name} hides a library of that name"


def test_no_file_is_called_after_nothing():
    names = {path.stem for path in sources()}
    assert not names & {"utils", "common", "helpers", "misc"}


def test_import_is_light():
    """`import instruct_builders` must not drag in a tensor library, nor cost much more than `import datasets`."""
    heavy_names = sorted(TENSORS | {"openai", "markdownify", "lingua"})
    script = (
        "import datasets, sys, time; start = time.process_time(); import instruct_builders; "
        "from instruct_builders import load_dataset, Alpaca; print(time.process_time() - start); "
        f"print(*(name for name in {heavy_names} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *heavy = result.stdout.split()
    assert not heavy
    assert float(seconds) < 0.5


def test_every_module_imports():
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "instruct_builders":
            name = ".".join(part for part in parts if part != "__init__")
            assert importlib.util.find_spec(name) is not None
