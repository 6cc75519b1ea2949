"""Paths of this machine: they tell who trained where, and mean nothing to anybody else. None may be published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

import yaml

from instruct_builders.errors import PublishError

TEXTS = (".md", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".jinja")
# A vocabulary has "/root" and "/tmp" among its words; these files come from the base's tokenizer as they are.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
NAMES = ("_name_or_path", "name_or_path")  # where transformers writes what a thing was loaded from
LONGEST = 4096  # characters; a longer text is no path


def local_name(path: str | Path) -> str:
    """What a directory may be called in public: its own name, and its parent's where a recipe made it."""
    path = Path(path).resolve()
    return f"{path.parent.name}/{path.name}" if path.name in ("final", "merged") else path.name


def is_local(value: object) -> bool:
    """Whether a text is a path that says where something lies on a machine."""
    if not isinstance(value, str) or "\n" in value or not 1 < len(value) < LONGEST:
        return False
    return bool(
        re.match(r"(file://)?/[\w.~-]+/[\w.~-]|~[\w.-]*/|\.\.?/", value) or re.match(r"[A-Za-z]:[\\/]|\\\\\w", value)
    )


def without(text: str) -> str:
    """A YAML text in which each value that is a local path has become its last part; comments stay.

    Args:
        text (`str`): As a person wrote it; what is no YAML mapping is an empty text.
    """
    content = yaml.safe_load(text)
    for value in sorted(set(_strings(content)), key=len, reverse=True):
        if is_local(value):
            text = text.replace(value, _last(value))
    return text


def shortened(words: Iterable[str]) -> list[str]:
    """Words of a command line, each local path as its last part; `--key=/a/b` too."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        inner = key.startswith("--") and equals and is_local(value)
        found.append(f"{key}={_last(value)}" if inner else _last(word) if is_local(word) else word)
    return found


def _last(value: str) -> str:
    return PureWindowsPath(value).name or "path" if "\\" in value else local_name(value) or "path"


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the encoding as well
        raise PublishError(f"{path.name} is no JSON ({error}): nothing was sent. Mend it, or take it away.") from error


def clean_configs(directory: Path) -> None:
    """Takes local paths out of the places where transformers and PEFT write what a thing was loaded from."""
    for path in sorted(directory.glob("*.json")):
        if path.name in VOCABULARIES:
            continue
        content = _json(path)
        if not isinstance(content, dict):
            continue
        kept = {key: value for key, value in content.items() if not (key in NAMES and is_local(value))}
        if kept != content:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse(directory: Path, known: Iterable[str | Path] = ()) -> None:
    """Searches what is about to be published for paths of this machine.

    Args:
        directory (`Path`): What will be published.
        known (`Iterable`, *optional*): Paths that were in use, beside the home and the working directory.

    Raises:
        [`PublishError`]: With the file and the line of each; nothing was sent.
    """
    # A folder straight under the root, such as /app or /root, is in many a text that is not about this machine.
    places = {str(Path(path).resolve()) for path in (Path.home(), Path.cwd(), *known)}
    told = re.compile("|".join(re.escape(place) for place in sorted(places) if len(Path(place).parts) > 2) or "(?!)")
    found = []
    for path in sorted(directory.rglob("*")):
        if path.suffix not in TEXTS or path.name in VOCABULARIES or not path.is_file():
            continue
        text, name = path.read_text(encoding="utf-8", errors="replace"), path.relative_to(directory).as_posix()
        found += [f"{name}:{text.count(chr(10), 0, match.start()) + 1}" for match in told.finditer(text)]
        if path.suffix == ".json" and "/" not in name:
            found += [
                f"{name}: {key}"
                for key, value in _leaves(_json(path))
                if is_local(value) and not key.startswith("samples[")
            ]
    if found:
        shown = "\n  ".join(dict.fromkeys(found[:20]))
        raise PublishError(
            f"what was to be published holds paths of this machine, and nothing was sent:\n  {shown}\n"
            "Take them out of the files; for a base model give `base:` its id on the Hub."
        )


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{place}]")
    else:
        yield key, value


def _strings(value: object) -> Iterator[str]:
    return (inner for _, inner in _leaves(value) if isinstance(inner, str))
