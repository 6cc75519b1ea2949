"""What the engine's settings may be: said before anything is made or sent."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import ConfigError
from .demo_data import DEMO_MODEL


def check_numbers(above_0: dict, above_0_or_none: dict, not_negative: dict) -> None:
    """Raises a [`ConfigError`] for a number out of its range."""
    for name, value in above_0.items():
        if not value > 0:
            raise ConfigError(f"{name}={value!r}: a number above 0 is allowed.")
    for name, value in above_0_or_none.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value!r}: a number above 0 is allowed, or none at all.")
    for name, value in not_negative.items():
        if value is not None and value < 0:
            raise ConfigError(f"{name}={value!r}: a number of 0 or more is allowed.")


def check_url(base_url: str | None) -> None:
    """Raises a [`ConfigError`] for an address that no request can go to."""
    try:
        parts = urlsplit(base_url or "http://localhost")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of urlsplit, such as for half a bracket or a port that is no number
        known = False
    if not known:
        raise ConfigError(f"base_url={base_url!r}: an address such as http://localhost:8000/v1 is allowed.")


def shown(base_url: str) -> str:
    """An address without the user and password that it may hold."""
    parts = urlsplit(str(base_url))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def check_model(model: str | None, base_url: str | None, key: str, *, demo: bool, replay: bool, transport) -> None:
    """Raises a [`ConfigError`] where nobody can be asked, or the script would pass for a language model."""
    if isinstance(transport, str) and transport != "batch":
        raise ConfigError(f"transport={transport!r}: 'batch' or a callable is allowed.")
    if model == DEMO_MODEL and not demo:
        raise ConfigError(f"model {DEMO_MODEL!r} is a script and no language model: it needs --demo (demo=True).")
    if demo and model != DEMO_MODEL:
        raise ConfigError(f"model {model!r} with demo: the demo server has only {DEMO_MODEL!r}.")
    if not (base_url or key or demo or replay or callable(transport)):
        raise ConfigError("no LLM configured: set base_url or use --demo (demo: true in a step)")
    if not model:
        raise ConfigError("no model: give `model` as the server calls it.")
