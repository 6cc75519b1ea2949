"""Ctrl-C and SIGTERM: the first one stops asking and keeps what is in flight, the second one ends at once."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..errors import Stopped

if TYPE_CHECKING:
    from .engine import Engine

INTERRUPTED = 130  # the exit code of a shell's own commands after Ctrl-C


async def run(engine: Engine, function: Callable[[Engine], Awaitable]):
    """Enters the engine and gives what `await function(engine)` returns; listens for signals meanwhile."""
    # Only the main thread may listen.
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    loop = asyncio.get_running_loop()

    def stop_listening() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def interrupt(name: str) -> None:
        stop_listening()
        told = f"interrupted by {name}: every reply is kept, run the same command to go on."
        engine.stop(Stopped(told, INTERRUPTED))

    async with engine:
        for number in signals:
            loop.add_signal_handler(number, interrupt, number.name)
        try:
            return await function(engine)
        finally:
            stop_listening()
