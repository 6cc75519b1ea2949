"""The live line of a run: accepted and rejected per reason, tokens, cost, requests a second, time left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine

REASONS_SHOWN = 3
PLAIN_SECONDS = 30.0  # between lines where standard error is a file


def describe(account: dict, accepted: int, goal: int | None) -> str:
    """One line about a run.

    Args:
        account (`dict`): As [`Engine.account`] gives it.
        accepted (`int`): Rows that a method accepted; where it counts none, answered questions are shown.
        goal (`int`, *optional*): Rows wanted; without it there is no time left.
    """
    run, seconds = account["run"], max(account["run"]["seconds"], 1e-9)
    done = accepted or account["questions"]["answered"]
    rejected = Counter(account["rejected"]) + Counter(account["reasons"])
    named = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common(REASONS_SHOWN))
    parts = [
        f"{done}/{goal} accepted" if goal else f"{done} accepted",
        f"{rejected.total()} rejected" + (f" ({named})" if named else ""),
        f"{sum(account['usage'][name] for name in ('prompt_tokens', 'completion_tokens')):,} tokens",
        *([] if account["cost"] is None else [f"cost {account['cost']:.4f}"]),
        f"{run['requests'] / seconds:.1f} requests/s",
    ]
    if goal and 0 < done < goal:
        left = round(seconds * (goal - done) / done)
        parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return " · ".join(parts)


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
        return describe(engine.account, engine.accepted, engine.goal)

    def _render(self):
        return self.text(self.line(), no_wrap=True, overflow="ellipsis")

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
