"""Every command in a README parses: make targets exist, recipes know every flag, Python compiles and imports."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
READMES = sorted(path for path in ROOT.rglob("README.md") if ".venv" not in path.parts and "data" not in path.parts)
PLACEHOLDERS = {"FILE_OR_HUB_ID": "x.json", "MODEL": "org/model", "OUT": "out", "RUN": "run"}


def commands() -> list[tuple[str, str]]:
    """`(README, command)` of every shell line: whole lines in bash blocks, those after `$ ` in console blocks."""
    found = []
    for readme in READMES:
        for kind, block in re.findall(r"```(bash|console)\n(.*?)```", readme.read_text(encoding="utf-8"), re.S):
            lines = block.replace("\\\n", " ").splitlines()
            if kind == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            found += [(str(readme.relative_to(ROOT)), line) for line in lines if line.strip()]
    return found


def test_there_are_commands():
    assert len(READMES) >= 4
    assert len(commands()) >= 12


@pytest.mark.parametrize(("readme", "command"), commands())
def test_command_parses(readme, command, monkeypatch):
    written = shlex.split(command, comments=True)
    words = [word for word in written if "=" not in word or word.startswith("-")]
    words = [PLACEHOLDERS.get(word, "template.jinja" if word == "$TEMPLATE" else word) for word in words]
    if "-c" in words:  # TEMPLATE=$(python -c "...")
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets)
        return
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.search(r"instruct-builders\[(.+)\]", command)
        assert named is None or set(named[1].split(",")) <= set(extras)
        return
    if words[0] == "sbatch":  # the script takes the recipe from the environment, and hands its own arguments on
        place = next(number for number, word in enumerate(words) if word.endswith(".sh"))
        assert (ROOT / words[place]).is_file()
        recipes = [word.removeprefix("RECIPE=") for word in written if word.startswith("RECIPE=")]
        words = ["python", *(recipes or ["recipes/sft.py"]), *words[place + 1 :]]
    if words[0] == "accelerate":
        words = words[words.index(next(word for word in words if word.endswith(".py"))) - 1 :]
    script = Path(words[1])
    assert (ROOT / script).is_file(), command
    for folder in (ROOT / "recipes", ROOT / script.parent):
        monkeypatch.syspath_prepend(str(folder))
    recipe = importlib.import_module(script.stem)
    argv = words[2:]
    trains = script.stem in ("sft", "check", "flan_t5")
    if trains and "--use_cpu" not in argv:
        argv += ["--use_cpu"]  # without a GPU or this, SFTConfig refuses bf16
    monkeypatch.chdir(ROOT)
    if hasattr(recipe, "read_arguments"):  # which classes there are depends on what is asked for
        assert recipe.read_arguments(argv)
        return
    classes = [value for value in vars(recipe).values() if isinstance(value, type)]
    own = [value for value in classes if value.__module__ == script.stem and hasattr(value, "__dataclass_fields__")]
    if trains:
        own.append(recipe.SFTConfig)
    assert sys.modules["arguments"].parse(own, argv)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_readmes_compiles_and_imports(readme):
    for block in re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.S):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_links_lead_somewhere():
    for readme in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", readme.read_text(encoding="utf-8")):
            assert target.startswith("http") or (readme.parent / target).exists(), f"{readme}: {target}"
