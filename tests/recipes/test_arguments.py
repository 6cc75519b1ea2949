"""YAML and flags -> dataclasses: what is understood, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Literal

import arguments
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError


@dataclasses.dataclass
class Data:
    dataset_name: str
    max_length: int = 1024
    test_size: float | int = 0
    columns: dict | None = None
    transforms: list | None = None
    language: list[str] | None = None
    tag: str | None = None
    push_to_hub: bool = False
    mode: Literal["drop", "error"] = "error"


@dataclasses.dataclass
class Pinned:
    name: str
    revision: str | None = dataclasses.field(default=None, metadata={"belongs_to": "name"})


@dataclasses.dataclass
class Training:
    learning_rate: float = 2e-5
    max_length: int | None = 512


def read(*argv: str) -> Data:
    return arguments.parse((Data, Training), argv)[0]


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_flags_override_the_yaml(config):
    path = config("dataset_name: org/name\nmax_length: 64\nlearning_rate: 2e-4\ncolumns: {output: response}\n")
    data, training = arguments.parse((Data, Training), ["--config", path, "--max_length", "32"])
    assert data == Data("org/name", max_length=32, columns={"output": "response"})
    assert training == Training(learning_rate=2e-4, max_length=32)  # YAML 1.1 reads 2e-4 as text; a float is wanted


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--push_to_hub"], "push_to_hub", True),
        (["--push_to_hub", "false"], "push_to_hub", False),
        (["--push-to-hub"], "push_to_hub", True),
        (["--language", "en", "de"], "language", ["en", "de"]),
        (["--language", "en"], "language", ["en"]),
        (["--tag", "1.0"], "tag", "1.0"),  # text stays text
        (["--tag", "null"], "tag", None),
        (["--tag=--odd"], "tag", "--odd"),
        (["--columns", "{output: response}"], "columns", {"output": "response"}),
        (["--test_size", "0.1"], "test_size", 0.1),
        (["--test_size", "10"], "test_size", 10),
        (["--mode", "drop"], "mode", "drop"),
    ],
)
def test_flags_are_read(argv, field, value):
    assert getattr(read("--dataset_name", "x", *argv), field) == value


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--datset_name", "x"], ["datset_name", "unknown key", "Did you mean 'dataset_name'?"]),
        ([], ["required and not given: dataset_name"]),
        (["--dataset_name", "x", "--max_length", "1.5"], ["max_length", "1.5", "an integer is allowed"]),
        (["--dataset_name", "x", "--learning_rate", "fast"], ["learning_rate", "'fast'", "a number"]),
        (["--dataset_name", "x", "--push_to_hub", "maybe"], ["push_to_hub", "true or false"]),
        (["--dataset_name", "x", "--mode", "cut"], ["mode", "'drop' or 'error'"]),
        (["--dataset_name", "x", "--dataset_name", "y"], ["given twice"]),
        (["stray"], ["unexpected word 'stray'"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["--hub_token", "hf_secret"], ["hub_token", "HF_TOKEN"]),
        (["--api_key", "sk-secret"], ["api_key", "OPENAI_API_KEY"]),
    ],
)
def test_wrong_words_are_named(argv, words):
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value).replace("a secret", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset_nam: x\n", ["run.yaml", "dataset_nam", "Did you mean 'dataset_name'?"]),
        ("- a\n- b\n", ["must be a mapping", "list"]),
        ("a: [1\n", ["not valid YAML"]),
        ("dataset_name: x\ndataset_name: y\n", ["'dataset_name' is given twice", "line 2"]),
        ("dataset_name: x\nmax_length: many\n", ["run.yaml", "max_length", "'many'", "an integer"]),
        ("dataset_name: no\n", ["dataset_name", 'write "no"']),
        ("dataset_name: x\nhub_token: hf_x\n", ["hub_token", "HF_TOKEN"]),
    ],
)
def test_a_wrong_yaml_is_named(config, text, words):
    with pytest.raises(ConfigError) as caught:
        read("--config", config(text))
    for word in words:
        assert word in str(caught.value)


@dataclasses.dataclass
class Resumed:
    resume_from_checkpoint: str | None = None


def test_a_run_is_resumed_from_a_path_or_from_the_newest(config):
    def read(*argv: str) -> str | None:
        return arguments.parse((Resumed,), argv)[0].resume_from_checkpoint

    for text, due in (("true", "true"), ("false", "false"), ("out/checkpoint-2", "out/checkpoint-2"), ("null", None)):
        assert read("--config", config(f"resume_from_checkpoint: {text}\n")) == due
    assert read("--resume_from_checkpoint") == read("--resume_from_checkpoint", "true") == "true"


@pytest.mark.parametrize("word", ["off", "no", "false", "none", "No", "'no'"])
def test_no_and_off_mean_none_where_none_is_a_value(config, word):
    import build_arguments

    keys = ("quality", "dedup", "decontaminate")
    path = config("builder: alpaca\noutput_dir: out\n" + "".join(f"{key}: {word}\n" for key in keys))
    flags = [part for key in keys for part in (f"--{key}", word.strip("'"))]
    for argv in (["--config", path], ["--builder", "alpaca", "--output_dir", "out", *flags]):
        (args,) = arguments.parse((build_arguments.BuildArguments,), argv)
        assert [getattr(args, key) for key in keys] == ["none"] * 3
    with pytest.raises(ConfigError, match="true or false, but text"):
        arguments.parse((build_arguments.BuildArguments,), ["--config", config("quality: yes\n")])


def test_a_revision_stays_with_the_name_it_pins(config, capsys):
    path = config("name: org/a\nrevision: v1\n")
    read = [arguments.parse((Pinned,), ["--config", path, *flags])[0] for flags in ([], ["--name", "org/b"])]
    assert read == [Pinned("org/a", "v1"), Pinned("org/b", None)]
    assert "revision: 'v1'" in capsys.readouterr().err
    (both,) = arguments.parse((Pinned,), ["--config", path, "--name", "org/b", "--revision", "v2"])
    assert both == Pinned("org/b", "v2")


def test_yaml_cannot_run_code(config):
    with pytest.raises(ConfigError, match="not valid YAML"):
        read("--config", config("dataset_name: !!python/object/apply:os.getcwd []\n"))


@given(
    st.fixed_dictionaries(
        {
            "dataset_name": st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
            "max_length": st.integers(1, 10**6),
            "push_to_hub": st.booleans(),
            "language": st.none() | st.lists(st.sampled_from(["en", "de", "zh"]), min_size=1),
        }
    )
)
def test_yaml_and_flags_agree(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("agree") / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    words = []
    for key, value in values.items():
        if value is not None:
            words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    if values["dataset_name"].lower() != "null":
        assert read("--config", str(path)) == read(*words)


def test_an_expected_error_is_one_line_and_exit_code_4(capsys):
    with pytest.raises(SystemExit) as caught:
        arguments.run(lambda: read("--datset_name", "x"))
    assert caught.value.code == 4
    assert capsys.readouterr().err.splitlines() == [
        "ConfigError: --datset_name: unknown key. Did you mean 'dataset_name'? See --help for all keys."
    ]


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    out = capsys.readouterr().out
    assert all(f"--{field.name}:" in out for cls in (Data, Training) for field in dataclasses.fields(cls))


@dataclasses.dataclass(kw_only=True)
class Told:
    """What is told.

    Args:
        first (`int`, *optional*, defaults to 1), second (`int`, *optional*):
            Said of both, over
            two lines; see [`somewhere.else`].
        way (`str`, *optional*, defaults to `"fast"`): How, such as `"slow"`.

    Raises:
        ConfigError: Never (`str`): shown.
    """

    first: int = 1
    second: int | None = None
    way: str = dataclasses.field(default="fast", metadata={"allowed": ("fast", "slow")})
    name: str


def test_help_says_what_the_docstring_says_and_what_is_needed_comes_first(capsys):
    with pytest.raises(SystemExit):
        arguments.parse((Told,), ["--help"])
    out = capsys.readouterr().out
    assert "Required:\n  --name: text\n\nWhat is told:\n  --first: an integer (default 1)\n" in out
    assert "      Said of both, over two lines; see `somewhere.else`.\n" in out and "      See --first.\n" in out
    assert "      How, such as slow. Allowed: fast, slow.\n" in out or out.endswith("Allowed: fast, slow.\n")
    assert "shown" not in out


@pytest.mark.parametrize(
    ("recipe", "module", "extra"),
    [("sft", "transformers", "train"), ("check", "trl", "train"), ("flan_t5", "torch", "train")],
)
def test_an_extra_that_is_missing_is_one_line(recipe, module, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(Path(arguments.__file__).with_name(f"{recipe}.py")), run_name="__main__")
    assert caught.value.code == 4
    line = f'this needs {module}, which is not installed. Do: pip install "instruct-builders[{extra}]"'
    assert capsys.readouterr().err == f"ConfigError: {line}\n"


def test_an_import_inside_of_main_is_told_as_well_and_others_are_not_hidden(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SystemExit):
        arguments.run(lambda: __import__("openai"))
    assert capsys.readouterr().err.endswith('pip install "instruct-builders[generate]"\n')
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        arguments.run(lambda: __import__("no_such_module"))


def test_a_log_file_gets_no_bars_and_each_line_once():
    code = (
        "import terminal, datasets, huggingface_hub; terminal.show_log(); "
        "list(datasets.tqdm(range(3))); huggingface_hub.utils.logging.get_logger('huggingface_hub.x').warning('once')"
    )
    bars = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
    environment = {name: value for name, value in os.environ.items() if name not in bars}
    place = Path(arguments.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == "once\n"
