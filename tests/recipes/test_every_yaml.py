"""Every YAML that ships goes through its recipe's own parser; nothing is skipped, and their number is known."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
YAMLS = sorted(path for path in RECIPES.rglob("*.yaml"))
# The first word of a file's name says which recipe reads it.
RECIPE_OF = {"data": ("build", "BuildArguments"), "sft": ("sft", "SftArguments")}
REQUIRED = {
    "build": ["--data_files", "x.json", "--output_dir", "out"],
    "sft": ["--model_name_or_path", "org/model", "--dataset_name", "org/data", "--output_dir", "out"],
}


def test_the_yamls_are_all_here():
    assert len(YAMLS) == 12


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_yaml_parses(path):
    if path.parent.name == "accelerate":
        from accelerate.commands.config.config_args import load_config_from_file

        assert load_config_from_file(str(path)).distributed_type
        return
    recipe_name, _ = RECIPE_OF[path.stem.split("_")[0]]
    recipe = importlib.import_module(recipe_name)
    given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    flags = REQUIRED[recipe_name]
    pairs = zip(flags[::2], flags[1::2], strict=True)
    missing = [word for flag, value in pairs if flag[2:] not in given for word in (flag, value)]
    parsed = recipe.read_arguments(["--config", str(path), *missing])
    values = {key: value for instance in parsed for key, value in vars(instance).items()}
    assert given.keys() <= values.keys()
