"""The live line of a run: accepted and rejected per reason, tokens, cost, requests a second, time left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine

REASONS_SHOWN = 5
PLAIN_SECONDS = 30.0  # between lines where standard error is a file


def describe(account: dict, accepted: int | None, goal: int | None = None, tries: int | None = None) -> str:
    """One line about a run.

    Args:
        account (`dict`): As [`Engine.account`] gives it.
        accepted (`int`, *optional*): Rows that a method accepted. `None` where nothing is decided: then answered
            questions are shown.
        goal (`int`, *optional*): Of these, those wanted, of a method that goes on until they are there.
        tries (`int`, *optional*): Candidates, of a method that decides on so many. Without either, no time left is
            shown.
    """
    run, seconds = account["run"], max(account["run"]["seconds"], 1e-9)
    done = account["questions"]["answered"] if accepted is None else accepted
    head, end = "answered" if accepted is None else "accepted", goal
    if tries is not None:
        accepted = accepted or 0
        done, end = accepted + sum(account["rejected"].values()), tries
        head = f"tried · {accepted} accepted"
    parts = [
        f"{done} {head}" if end is None else f"{done}/{end} {head}",
        *([] if accepted is None else [_counted(account["rejected"], "rejected")]),
        *([_counted(account["reasons"], "replies unusable")] if account["reasons"] else []),
        f"{sum(account['usage'][name] for name in ('prompt_tokens', 'completion_tokens')):,} tokens",
        *([] if account["cost"] is None else [f"cost {account['cost']:.4f}"]),
        f"{run['requests'] / seconds:.1f} requests/s",
    ]
    if end and 0 < done < end:
        left = round(seconds * (end - done) / done)
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return " · ".join(parts)


def _counted(reasons: dict, what: str) -> str:
    """How many there are, and the commonest reasons."""
    named = ", ".join(f"{reason} {count}" for reason, count in Counter(reasons).most_common(REASONS_SHOWN))
    return f"{sum(reasons.values())} {what}" + (f" ({named})" if named else "")


class Line:
    """Shows the line on standard error: live in a terminal, now and then a plain one in a log file.

    Args:
        engine ([`Engine`]): Whose run it is; read from another thread, never changed.
    """

    def __init__(self, engine: Engine):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self.engine, self.text = engine, Text
        self.console = Console(stderr=True)
        self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._plain, name="progress", daemon=True)
        if self.console.is_terminal:
            self.live.start()
        else:
            self._thread.start()

    def line(self) -> str:
        engine = self.engine
        return describe(engine.account, engine.accepted, engine.goal, engine.tries)

    def _render(self):
        return self.text(self.line())  # over several lines where the terminal is narrow

    def _plain(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(PLAIN_SECONDS):
            self.console.print(f"{time.monotonic() - started:.0f} s: {self.line()}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the last state of the line behind."""
        if self.console.is_terminal:
            self.live.stop()
        else:
            self._stop.set()
            self._thread.join()
            self.console.print(self.line(), highlight=False, soft_wrap=True)
