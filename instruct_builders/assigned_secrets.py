"""Credentials without a shape of their own, found by what they are assigned to: `api_key: ...`, `export X_TOKEN=...`.

Names alone are everywhere (`eos_token`, `"password": "your-password"`), so a value counts where it looks drawn by
chance: letters and digits mixed within a word. In a recipe, which a person wrote for one run, any value counts. Rows
and samples are not searched: they are what people and models said, and code in them assigns made-up keys all the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .secret_scan import Finding

WRITTEN = (  # by us or by a person, and read as text; .jsonl, .csv and the like are rows
    *(".md", ".json", ".yaml", ".yml", ".txt", ".toml", ".cfg", ".ini", ".conf", ".sh", ".py", ".ipynb", ".jinja"),
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
LARGEST = 1 << 24  # bytes; what is larger are rows, whatever its name
LEFT_OUT = "<left out>"
_NAME = r"(api[_-]?key|access[_-]?key|secret[_-]?key|token|secret|passw(?:or)?d|passphrase)"
_ASSIGNED = re.compile(
    rf"(?i){_NAME}(?:\\?[\"'])?[ \t]{{0,4}}[:=][ \t]{{0,4}}"
    r"(?:\\?[\"'])?([A-Za-z0-9_+/=.~-]{16,512})(?![A-Za-z0-9_(\[])"
)
# A line of its own, commented out or not, with nothing but the value after the name.
_LINE = re.compile(
    rf"(?im)^[ \t#]*(?:-[ \t]+)?(?:export[ \t]+)?[\"']?(?:\w[\w.-]{{0,63}}?)?{_NAME}[\"']?[ \t]*[:=][ \t]*[\"']?"
    r"([^\s\"'#,<>$*{}\[\]]{8,512})[\"']?[ \t]*(?:#.*)?$"
)
_BEFORE = re.compile(r"[\w-]{0,40}$")
# What a token may be of to be a credential: not of a vocabulary ("eos", "pad"), and not of a count ("per").
_TOKENS_OF = (
    *("", "hub", "hf", "face", "huggingface", "auth", "access", "api", "bearer", "refresh", "session", "bot", "user"),
    *("wandb", "github", "gitlab", "slack", "discord", "telegram", "personal", "deploy", "my", "private", "secret"),
    *("id", "jwt", "oauth", "client", "service", "read", "write"),
)
_MADE_UP = re.compile(r"(?i)your|example|placeholder|change.?me|dummy|x{4}|insert|replace|not.?needed|no.?key")


def scan(paths: Iterable[Path]) -> list[Finding]:
    """The assignments in texts that people or programs wrote, by file and line; see the head of this module."""
    found = []
    for path in paths:
        if path.suffix not in WRITTEN or path.name in VOCABULARIES or path.stat().st_size > LARGEST:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        samples = _samples(text) if path.suffix == ".json" else ""
        text = without_samples(text) if path.suffix == ".md" else text
        for start, name, value in _random(text):
            if value not in samples:
                found.append(Finding(str(path), text.count("\n", 0, start) + 1, _shown(name, value)))
    return sorted(set(found))


def of_recipe(text: str, name: str) -> list[Finding]:
    """The assignments in a recipe or a command line, whatever their values look like.

    Args:
        text (`str`): YAML, or flags.
        name (`str`): What the findings call it.
    """
    places = sorted({*_random(text), *_lines(text)})
    return sorted({Finding(name, text.count("\n", 0, start) + 1, _shown(key, value)) for start, key, value in places})


def hidden(text: str) -> str:
    """A recipe's text with `<left out>` in place of each value that [`of_recipe`] would find."""
    for start, _, value in sorted({*_random(text), *_lines(text)}, reverse=True):
        text = text[:start] + text[start:].replace(value, LEFT_OUT, 1)
    return text


def hidden_flags(words: Iterable[str]) -> list[str]:
    """The words of a command line with `<left out>` after each flag that names a credential."""
    found: list[str] = []
    for word in words:
        named = found and found[-1].startswith("--") and _is_credential(found[-1].lstrip("-"))
        key, equals, value = word.partition("=")
        if equals and value and key.startswith("--") and _is_credential(key.lstrip("-")):
            found.append(f"{key}={LEFT_OUT}")
        else:
            found.append(LEFT_OUT if named and not word.startswith("--") else hidden(word))
    return found


def without_samples(card: str) -> str:
    """A card's text with blank lines in place of the blocks in which it quotes rows and answers."""
    kept, fence = [], None
    for line in card.split("\n"):
        opened = re.fullmatch(r"(`{3,})(?:text|json)", line) if fence is None else None
        kept.append("" if opened or fence else line)
        fence = opened[1] if opened else None if line == fence else fence
    return "\n".join(kept)


def _random(text: str) -> Iterator[tuple[int, str, str]]:
    """(place, name, value) of each value that looks drawn by chance."""
    for match in _ASSIGNED.finditer(text):
        name = _before(text, match.start()) + match[1]
        if _is_credential(name) and _is_random(match[2]):
            yield match.start(), name, match[2]


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    for match in _LINE.finditer(text):
        name = _before(text, match.start(1)) + match[1]
        # In capitals it is the name of the environment variable that holds it.
        if _is_credential(name) and not re.fullmatch(r"[A-Z][A-Z0-9_]*", match[2]) and not _MADE_UP.search(match[2]):
            yield match.start(1), name, match[2]


def _before(text: str, place: int) -> str:
    """The part of a name that ends at `place`, without the letter of an escape, as in `\\ntoken` inside JSON."""
    found = _BEFORE.search(text, max(0, place - 40), place)
    return found[0][1:] if text[found.start() - 1 : found.start()] == "\\" else found[0]


def _is_credential(name: str) -> bool:
    name = name.lower()
    if name.endswith("token"):
        return re.split(r"[_-]", name.removesuffix("token").rstrip("_-"))[-1] in _TOKENS_OF
    return re.search(f"{_NAME}$", name) is not None


def _is_random(value: str) -> bool:
    """Whether a word of it mixes letters and digits, unlike `your-api-key`, `reserved_token_250` or a number."""
    if _MADE_UP.search(value) or re.fullmatch(r"[0-9.]+(?:[eE][+-]?[0-9]+)?", value):
        return False
    words = re.split(r"[_./~-]", value)
    return any(len(word) >= 4 and re.search(r"[A-Za-z]", word) and re.search(r"[0-9]", word) for word in words)


def _samples(text: str) -> str:
    """What a result or a run's notes quote under `samples`, as JSON writes it; a list is rows, and quoted whole."""
    try:
        content = json.loads(text)
    except ValueError:
        return ""  # whoever reads it says so
    quoted = content.get("samples") if isinstance(content, dict) else content
    return json.dumps(quoted, ensure_ascii=False)


def _shown(name: str, value: str) -> str:
    return f"value of {name} ({value[: min(4, len(value) // 4)]}...)"
