"""One YAML and its flags -> dataclasses. YAML keys and flags have the same names and the same rules.

`python recipes/X.py --config FILE [--key value ...]`: the YAML sets values, flags override them. An unknown key is an
error with a did-you-mean, a value of the wrong type is an error, and nothing is converted but an integer where a float
belongs and numbers such as `2e-5`, which YAML 1.1 reads as text.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import types
import typing
import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

import keys_help
import terminal
import yaml

from instruct_builders.errors import ConfigError, InstructError, did_you_mean
from instruct_builders.unique_keys import UniqueKeys

# Says on some CPUs that a kernel can't be loaded which is not needed; importing TRL imports bitsandbytes.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# A secret in a YAML or on a command line ends up in shell histories, process lists and checkpoints.
SECRET_KEYS = {
    "hub_token": "HF_TOKEN",
    "token": "HF_TOKEN",
    "hf_token": "HF_TOKEN",
    "api_key": "OPENAI_API_KEY",
    "openai_api_key": "OPENAI_API_KEY",
}


# Keys for a path or a truth value that transformers annotates as text alone; `trainers.checkpoints` reads both.
PATH_OR_TRUE = ("resume_from_checkpoint",)
# Keys with the word none that do not have it as their default.
OR_NONE = ("decontaminate",)


def parse(config_classes: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Reads `--config FILE` and `--key value` flags into one instance per dataclass.

    Args:
        config_classes (`Sequence[type]`):
            Dataclasses whose fields are the allowed keys. Where two have a field of the same name both get the value.
        argv (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`):
            `--key value`, `--key=value`, or `--key` alone for `true`. Several values after a flag make a list.

    Returns:
        `tuple`: One instance per class, in order.

    Raises:
        ConfigError: For an unknown key, a wrong type, a missing required key, a missing or broken YAML file.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    allowed = {field.name: field for cls in config_classes for field in dataclasses.fields(cls) if field.init}
    if "-h" in argv or "--help" in argv:
        print(keys_help.text(config_classes, _spell, hidden=tuple(SECRET_KEYS)))
        raise SystemExit(0)
    flags = _flags(argv)
    given: dict[str, tuple[object, str]] = {}
    path = flags.pop("config", None)
    if path is not None:
        if not isinstance(path, str):
            raise ConfigError(f"--config takes one YAML file, got {path!r}.")
        given.update({key: (value, f"{path}: ") for key, value in _load_yaml(path).items()})
    for key in _of_something_else(allowed, given, flags):
        value, owner = given.pop(key)[0], allowed[key].metadata["belongs_to"]
        print(f"{key}: {value!r} of {path} is left out: it goes with the {owner} there", file=sys.stderr)
    given.update({key: (value, "--") for key, value in flags.items()})
    for key, (_, where) in given.items():
        if key in SECRET_KEYS:
            raise ConfigError(
                f"{where}{key}: a secret does not belong in a configuration or a command line. "
                f"Set the environment variable {SECRET_KEYS[key]} and leave {key} out."
            )
        if key not in allowed:
            raise ConfigError(f"{where}{key}: unknown key.{did_you_mean(key, allowed)} See --help for all keys.")
    for key in given.keys() & PATH_OR_TRUE:
        value, where = given[key]
        given[key] = (str(value).lower() if isinstance(value, bool) else value, where)
    for key, (value, where) in given.items():
        if _has_none(allowed[key]) and (value is False or str(value).lower() in ("no", "off", "false")):
            given[key] = ("none", where)  # YAML 1.1 reads a bare no or off as a truth value
    instances = []
    for cls in config_classes:
        hints = typing.get_type_hints(cls)
        own = {field.name for field in dataclasses.fields(cls) if field.init}
        values = {key: _typed(value, hints[key], where + key) for key, (value, where) in given.items() if key in own}
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.init
            and field.name not in values
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(
                f"required and not given: {', '.join(missing)}. Set in the YAML or as --{missing[0]} VALUE."
            )
        try:
            with warnings.catch_warnings():
                if "gradient_checkpointing" not in values:  # TRL's own default, which no one here has set
                    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
                instances.append(cls(**values))
        except (ValueError, TypeError, ImportError) as error:  # what the class itself checks
            where = " On a machine without a GPU: --use_cpu." if "use_cpu" in str(error) else ""
            raise ConfigError(f"{cls.__name__}: {error}{where}") from error
    return tuple(instances)


def given(argv: Sequence[str]) -> set[str]:
    """The keys that flags or their YAML name."""
    flags = _flags([word for word in argv if word != "-h"])
    path = flags.get("config")
    return {*flags, *(_load_yaml(path) if isinstance(path, str) else ())}


def _has_none(field: dataclasses.Field) -> bool:
    """Whether the word none is a value of a key: then no, off and false mean it as well."""
    return field.default == "none" or "none" in field.metadata.get("allowed", ()) or field.name in OR_NONE


def _of_something_else(allowed: dict, given: dict, flags: dict) -> list[str]:
    """Keys of the YAML that say more about a value (`belongs_to` in their metadata) which a flag replaces.

    A revision pins the model that the YAML names; of another `--model_name_or_path` it would say nothing.
    """
    owners = {key: field.metadata.get("belongs_to") for key, field in allowed.items() if key in given}
    return [key for key, owner in owners.items() if owner in given and owner in flags and key not in flags]


def _load_yaml(path: str) -> dict:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"--config {path}: no such file (looked in {file.parent.resolve().name!r}). Give the path of a YAML file."
        )
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: must be a mapping of keys to values, found {type(content).__name__}.")
    return content


class Flag(str):
    """The text after a flag: read as YAML where a number, list or mapping is wanted, as it stands where text is."""


def _flags(argv: list[str]) -> dict[str, object]:
    """`["--a", "1", "--b=x", "--c"]` -> `{"a": Flag("1"), "b": Flag("x"), "c": True}`."""
    flags: dict[str, object] = {}
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("--") or word == "--":
            raise ConfigError(
                f"unexpected word {word!r}: flags are --key value (several values after a key make a list)."
            )
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if key in flags:
            raise ConfigError(f"--{key} is given twice.")
        values = [Flag(value)] if equals else []
        while not equals and position < len(argv) and not argv[position].startswith("--"):
            values.append(Flag(argv[position]))
            position += 1
        flags[key] = True if not values else values[0] if len(values) == 1 else values
    return flags


def _typed(value: object, hint: object, where: str) -> object:
    """`value` if it fits the annotation `hint`, else a `ConfigError` that names both."""
    fits, result = _read(value, hint)
    if fits:
        return result
    quote = ' (YAML reads a bare no, off or yes as a truth value: write "no")' if isinstance(value, bool) else ""
    raise ConfigError(f"{where}: {value!r} is {_spell(type(value))}, but {_spell(hint)} is allowed{quote}.")


def _read(value: object, hint: object) -> tuple[bool, object]:
    if isinstance(value, Flag):
        return _read_flag(value, hint)
    fits, result = _exact(value, hint)
    return (fits, result) if fits else _widened(value, hint)


def _read_flag(text: Flag, hint: object) -> tuple[bool, object]:
    """Text stays text where only text is allowed (`--tag 1.0`); elsewhere the YAML reading goes first."""
    plain = str(text)
    members = _members(hint)
    try:
        value = yaml.safe_load(plain) if plain else ""
    except yaml.YAMLError:
        value = plain  # such as "a: b: c": text, if the annotation allows text
    is_choice = any(isinstance(member, type) and issubclass(member, Enum) for member in members)
    text_first = is_choice or all(member in (str, type(None)) for member in members)
    order = [plain, value] if text_first and not (value is None and type(None) in members) else [value, plain]
    for reading in order:
        fits, result = _read(reading, hint)
        if fits:
            return True, result
    return False, None


def _members(hint: object) -> tuple:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(hint) for member in _members(part))
    return (hint,)


def _exact(value: object, hint: object) -> tuple[bool, object]:
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if member is typing.Any or (value is None and member is type(None)):
            return True, value
        if origin is typing.Literal and any(
            value == choice and type(value) is type(choice) for choice in typing.get_args(member)
        ):
            return True, value
        if isinstance(origin, type) and issubclass(origin, Enum) and value in [item.value for item in origin]:
            return True, value
        if origin in (list, Sequence) and isinstance(value, list):
            item = (typing.get_args(member) or (typing.Any,))[0]
            results = [_read(entry, item) for entry in value]
            if all(fits for fits, _ in results):
                return True, [result for _, result in results]
        if origin is dict and isinstance(value, dict):
            return True, value
        if origin in (str, int, float, bool) and type(value) is origin:
            return True, value
    return False, None


def _widened(value: object, hint: object) -> tuple[bool, object]:
    """The few readings that lose nothing: 1 as 1.0, `2e-5` as a float, one value as a list of one."""
    members = [typing.get_origin(member) or member for member in _members(hint)]
    if float in members and type(value) is int:
        return True, float(value)
    if float in members and isinstance(value, str) and str not in members:
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if list in members and not isinstance(value, (list, dict, type(None))):
        return _exact([value], hint)
    return False, None


SPELLED = {
    type(None): "null",
    str: "text",
    Flag: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
}


def _spell(hint: object) -> str:
    parts = []
    for member in _members(hint):
        origin = typing.get_origin(member) or member
        if origin is typing.Literal:
            parts += [repr(choice) for choice in typing.get_args(member)]
        elif origin is list:
            parts.append("a list")
        else:
            parts.append(SPELLED.get(origin) or getattr(origin, "__name__", str(origin)))
    return " or ".join(dict.fromkeys(parts))


def run(main: Callable[[], int | None]) -> None:
    """Calls a recipe's `main` and turns an expected error into one line on stderr and exit code 4."""
    try:
        code = main()
    except InstructError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(4) from None
    except ModuleNotFoundError as error:
        terminal.stop_for(error)
    raise SystemExit(code or 0)
