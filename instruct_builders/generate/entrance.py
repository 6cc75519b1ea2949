"""Lets thousands through a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class Entrance:
    """Lets some through in each turn of the event loop.

    The loop does each step of a piece of work for all that are ready before the next step of any. Where thousands ask
    at once, or replies come all at once, the first would be as late as the last: their work is better done in turn.

    Args:
        at_once (`int`): How many in a turn: a millisecond of work or less.
        parts (`int`, *optional*): Where many wait, one in so many of them goes in a turn, so that the last ones need
            not wait for thousands of turns.
    """

    def __init__(self, at_once: int, parts: int | None = None):
        self.at_once, self.parts, self.passed = at_once, parts, 0
        self.waiting: deque[asyncio.Future] = deque()

    async def pass_through(self) -> None:
        """Returns at once for the first few of a turn of the event loop, a turn later for the next few, and so on."""
        loop = asyncio.get_running_loop()
        if not self.passed:
            loop.call_soon(self._let_in)
        self.passed += 1
        if self.passed > self.at_once:
            turn = loop.create_future()
            self.waiting.append(turn)
            await turn

    def _let_in(self) -> None:
        if not self.waiting:
            self.passed = 0
            return
        share = len(self.waiting) // self.parts if self.parts else 0
        for _ in range(min(max(self.at_once, share), len(self.waiting))):
            turn = self.waiting.popleft()
            if not turn.done():  # its asker may have been cancelled
                turn.set_result(None)
        asyncio.get_running_loop().call_soon(self._let_in)
