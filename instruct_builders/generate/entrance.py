"""Lets thousands of questions in a few at a time."""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 8  # per turn of the event loop: about a millisecond of work


class Entrance:
    """Where thousands ask at once, preparing all their questions first would hold back the first replies."""

    def __init__(self):
        self.passed = 0
        self.waiting: deque[asyncio.Future] = deque()

    async def pass_through(self) -> None:
        """Returns at once for the first few of a turn of the event loop, a turn later for the next few, and so on."""
        loop = asyncio.get_running_loop()
        if not self.passed:
            loop.call_soon(self._let_in)
        self.passed += 1
        if self.passed > AT_ONCE:
            turn = loop.create_future()
            self.waiting.append(turn)
            await turn

    def _let_in(self) -> None:
        if not self.waiting:
            self.passed = 0
            return
        for _ in range(min(AT_ONCE, len(self.waiting))):
            turn = self.waiting.popleft()
            if not turn.done():  # its asker may have been cancelled
                turn.set_result(None)
        asyncio.get_running_loop().call_soon(self._let_in)
