"""What the HTML pages share: one look, light and dark; text that can neither act nor hide; no word to the network.

The page of a dataset is made by report.py, that of a training run by `trainers.page`.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from pathlib import Path

import jinja2
from markupsafe import Markup

DATA = Path(__file__).parent / "data"
BREAKS = {"\n": "\u21b5\n", "\t": "\u21e5\t"}
PLAIN = frozenset("\n\t\u200c\u200d")  # line ends, and the joiners that Persian, Indic scripts and emoji need
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))  # Unicode categories of what can't be seen


def environment(**filters) -> jinja2.Environment:
    """Jinja for a page: every text is [`readable`] and escaped, and a name that is not there is an error."""
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: readable(value) if type(value) is str else value,  # not of what is markup already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters
    return made


def style(*names: str) -> Markup:
    """Style sheets of `data/`, the shared `page.css` first, for one `<style>` element."""
    return Markup("\n".join((DATA / name).read_text(encoding="utf-8") for name in ("page.css", *names)))


def policy(style: str, script: str = "") -> str:
    """A Content-Security-Policy that allows this style sheet and this script, by their hashes, and nothing else."""
    allowed = {"style-src": style, "script-src": script}
    parts = [f"{name} '{_digest(text)}'" for name, text in allowed.items() if text]
    return "; ".join(["default-src 'none'", *parts, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def visible(text: str) -> str:
    """Text with what can't be seen, or would turn the page's text around, made visible; line ends and tabs as well."""
    return "".join(BREAKS.get(letter) or _shown(letter) for letter in text)


def readable(text: str) -> str:
    """As [`visible`], for reading: line ends, tabs and joiners stay as they are."""
    return "".join(letter if letter in PLAIN else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    return f"\u27e8U+{ord(letter):04X}\u27e9" if unicodedata.category(letter) in HIDDEN else letter


def number(value: object) -> str:
    """Numbers with commas between thousands; anything else as text."""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
