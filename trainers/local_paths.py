"""Paths of this machine: they tell who trained where, and mean nothing to anybody else. None may be published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath

import yaml

from instruct_builders.assigned_secrets import VOCABULARIES, without_samples
from instruct_builders.errors import PublishError
from instruct_builders.outgoing import stays

# A vocabulary has "/root" and "/tmp" among its words; such files come from the base's tokenizer as they are.
VOCABULARY_KINDS = (".bpe", ".vocab", ".tiktoken")
# Where transformers writes what a thing was loaded from; the last two are in many a tokenizer of the Hub.
NAMES = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
LONGEST = 4096  # characters; a longer text is no path
HEAD = 1 << 16  # bytes; a file without a NUL in them may be text
_PART = r"\.?[\w@+][\w.@+-]*"
# Inside other text: what lies below a folder where people keep their work; not of an address (https://x.org/data/a/b).
_EMBEDDED = re.compile(
    r"(?:(?<![A-Za-z0-9_./~+}-])|(?<=\\[nrt]))(?:file://)?"
    rf"/(?:root/{_PART}|(?:home|Users|mnt|data|workspace|scratch|tmp|gpfs|lustre|fsx|nfs)/{_PART}/{_PART})(?:/{_PART})*"
    rf"|\b[A-Za-z]:\\{{1,2}}Users\\{{1,2}}{_PART}(?:\\{{1,2}}{_PART})*"
)


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
    """A YAML text in which each local path has become its last part, as a value or within one; comments stay.

    Args:
        text (`str`): As a person wrote it; what is no YAML mapping is an empty text.
    """
    return within(text, set(_strings(yaml.safe_load(text))))


def within(text: str, known: Iterable[str] = ()) -> str:
    """A text in which each local path has become its last part, and so has each of the known ones."""
    for value in sorted(filter(is_local, known), key=len, reverse=True):
        text = text.replace(value, _last(value))
    return _EMBEDDED.sub(lambda match: _last(match[0]), text)


def shortened(words: Iterable[str]) -> list[str]:
    """Words of a command line, each local path as its last part; `--key=/a/b` too."""
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        inner = key.startswith("--") and equals and is_local(value)
        short = f"{key}={_last(value)}" if inner else _last(word) if is_local(word) else word
        found.append(within(short))
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
    """Searches what is about to be published for paths of this machine: all text but vocabularies, and weights' notes.

    What models answered may name any path but those that are in use here.

    Args:
        directory (`Path`): What will be published.
        known (`Iterable`, *optional*): Paths that were in use, beside the home and the working directory.

    Raises:
        [`PublishError`]: With the file and the line, or the key, of each; nothing was sent.
    """
    # A folder straight under the root, such as /app or /root, is in many a text that is not about this machine.
    places = {str(Path(path).resolve()) for path in (Path.home(), Path.cwd(), *known)}
    told = re.compile("|".join(re.escape(place) for place in sorted(places) if len(Path(place).parts) > 2) or "(?!)")
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if stays(name) or path.name in VOCABULARIES or path.suffix in VOCABULARY_KINDS:
            continue
        if path.suffix == ".safetensors":
            found += [f"{name}: {key}" for key in _in_values(_notes(path), told)]
        elif (text := _text(path)) is not None:
            found += [f"{name}:{text.count(chr(10), 0, match.start()) + 1}" for match in told.finditer(text)]
            if path.suffix == ".json":
                found += [f"{name}: {key}" for key in _in_values(_json(path), told)]
            else:
                text = without_samples(text) if path.suffix == ".md" else text
                found += [f"{name}:{text.count(chr(10), 0, match.start()) + 1}" for match in _EMBEDDED.finditer(text)]
    if found:
        found = list(dict.fromkeys(found))
        shown, more = "\n  ".join(found[:20]), f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        raise PublishError(
            f"what was to be published holds paths of this machine, and nothing was sent:\n  {shown}{more}\n"
            "Take them out of the files; for a base model give `base:` its id on the Hub."
        )


def _in_values(content: object, told: re.Pattern, at: str = "") -> Iterator[str]:
    """Where in a JSON value a text is or holds a local path, or a key holds one."""
    if isinstance(content, dict):
        for key, inner in content.items():
            here = f"{at}.{key}" if at else key
            if here == "samples":
                continue
            if _EMBEDDED.search(key) or told.search(key):
                yield here
            yield from _in_values(inner, told, here)
    elif isinstance(content, list):
        for place, inner in enumerate(content):
            yield from _in_values(inner, told, f"{at}[{place}]")
    elif isinstance(content, str) and (is_local(content) or _EMBEDDED.search(content) or told.search(content)):
        yield at


def _text(path: Path) -> str | None:
    """A file's text; `None` for anything else."""
    with open(path, "rb") as file:
        if b"\0" in file.read(HEAD):
            return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _notes(path: Path) -> dict:
    """What safetensors keeps beside the weights, before the first of them."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")  # of the JSON header, in bytes
        try:
            content = json.loads(file.read(min(size, path.stat().st_size)))
        except ValueError as error:
            raise PublishError(f"{path.name} is no safetensors ({error}): nothing was sent. Save it again.") from error
    return content.get("__metadata__") or {}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
