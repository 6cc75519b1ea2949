"""Ctrl-C and SIGTERM: the first one stops asking and keeps what is in flight, the second one ends at once."""

from __future__ import annotations

import asyncio
import logging
import queue
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import Stopped

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # the exit code of a shell's own commands after Ctrl-C
TOLD = "interrupted by {}: every reply is kept, run the same command to go on."


def run(engine: Engine, function: Callable[[Engine], Awaitable]):
    """Runs `await function(engine)` in a loop of its own, and the engine with it; gives its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_listening(engine, function))
    return _beside(engine, function)


def _beside(engine: Engine, function: Callable[[Engine], Awaitable]):
    """The same in another thread: a thread has one loop, and a notebook's cells are run by one."""
    loops: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()

    async def noted():
        loops.put(asyncio.get_running_loop())
        return await _listening(engine, function)

    pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
    result = pool.submit(asyncio.run, noted())
    try:
        return result.result()
    except KeyboardInterrupt:
        _tell(engine, "SIGINT")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loops.get().call_soon_threadsafe(engine.stop, Stopped(TOLD.format("SIGINT"), INTERRUPTED))
        return result.result()
    finally:
        pool.shutdown(wait=False)


def _tell(engine: Engine, name: str) -> None:
    """A word at once: what is in flight may take as long as a request may."""
    if count := engine.in_flight:
        logger.warning(
            "%s: nothing more is asked; waiting for %d replies in flight, %g s at most. Once more, and they are lost.",
            name,
            count,
            engine.timeout,
        )


async def _listening(engine: Engine, function: Callable[[Engine], Awaitable]):
    """Enters the engine and gives what `await function(engine)` returns; listens for signals meanwhile."""
    # Only the main thread may listen.
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    loop = asyncio.get_running_loop()

    def stop_listening() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def interrupt(name: str) -> None:
        stop_listening()
        _tell(engine, name)
        engine.stop(Stopped(TOLD.format(name), INTERRUPTED))

    async with engine:
        for number in signals:
            loop.add_signal_handler(number, interrupt, number.name)
        try:
            return await function(engine)
        finally:
            stop_listening()
