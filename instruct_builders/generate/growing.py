"""Many questions under way at once, and results that do not depend on the order in which they are answered."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from ..errors import Stopped

Item = TypeVar("Item")
Result = TypeVar("Result")
UNDER_WAY = 8192  # tasks: far more than any server takes at once, so that a slow one holds nobody back


async def in_order(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], under_way: int = UNDER_WAY
) -> AsyncIterator[Result]:
    """Yields `await function(item)` for each item, in the order of the items, computed many at a time."""
    tasks: deque[asyncio.Task] = deque()
    try:
        for item in items:
            tasks.append(asyncio.create_task(function(item)))
            if len(tasks) >= under_way:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        await abandon(tasks)


async def abandon(tasks: Iterable[asyncio.Task]) -> None:
    """Ends tasks nobody waits for any more. What they have asked is answered into the journal all the same."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Growth:
    """Questions 0, 1, 2, ..., each of which may build on what most of those before it gave.

    Answers are taken in the order of the questions. Question k sees what all answers added but the last `window`
    before it, or the last quarter where that is more, whenever it is sent: so its text does not depend on how fast
    answers come or on how many are wanted, and a higher target goes on where a lower one ended, without asking
    anything again. While one answer hangs, a third as many questions as came before it, or `window`, can go on.

    Args:
        ask (`Callable`): Number of a question and how much was there for it to see -> its result.
        window (`int`): Fewest questions that may be under way.
        barren (`int`): Answers in a row that add nothing, after which the model has nothing more to say.
    """

    def __init__(self, ask: Callable[[int, int], Awaitable], window: int, barren: int):
        self.ask, self.window, self.barren = ask, window, barren
        self.tasks: deque[asyncio.Task] = deque()
        self.sizes: list[int] = []  # how much there was after each answer
        self.started = 0

    async def until(self, goal: int, take: Callable[[int, object], int], per_question: float) -> None:
        """Asks until there is enough.

        Args:
            goal (`int`): How much is wanted.
            take (`Callable`): Number of a question and its result -> how much there is now.
            per_question (`float`): How much a question is likely to add, before any has been answered; above 0.

        Raises:
            Stopped: If `barren` answers in a row added nothing.
        """
        size = self.sizes[-1] if self.sizes else 0
        since = 0
        while size < goal:
            taken = len(self.sizes)
            likely = (size + 4 * per_question) / (taken + 4)  # one answer's luck is no rate
            under_way = max(1, math.ceil((goal - size) / likely))
            # How many is decided by answers that were taken, never by those that happen to be there already.
            while len(self.tasks) < under_way and (seen := self._sees(self.started)) < taken:
                known = self.sizes[seen] if seen >= 0 else 0
                self.tasks.append(asyncio.create_task(self.ask(self.started, known)))
                self.started += 1
            grown = take(taken, await self.tasks.popleft())
            since = 0 if grown > size else since + 1
            size = grown
            self.sizes.append(size)
            if since >= self.barren and size < goal:
                raise Stopped(
                    f"the last {since} answers brought nothing new: {size} of {goal} are there. Give more seeds or a "
                    "higher temperature, or lower the target to what is there."
                )

    def _sees(self, number: int) -> int:
        """The last answer whose additions a question may build on; below 0: none."""
        return number - max(self.window, number // 4)

    async def close(self, finished: bool) -> None:
        """Waits for questions that turned out not to be needed; after an error, leaves them to the engine."""
        if not finished:
            await abandon(self.tasks)
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, Stopped | asyncio.CancelledError):
                raise result
        self.tasks.clear()
