"""Budgets: the worst case of a request is reserved before it is sent, so that no limit is ever overrun."""

from __future__ import annotations

from ..errors import ConfigError
from .asking import most_tokens

LIMITS = {"requests": "max_requests", "tokens": "max_tokens_total", "cost": "max_cost"}
MILLION = 1_000_000


class Budget:
    """What may be spent, was spent, and is reserved for requests in flight.

    Args:
        limits (`dict`): Of `requests`, `tokens` (prompt and completion) and `cost`; `None` for no limit. They hold for
            all runs on one journal together.
        prices (`dict`, *optional*): `input` and `output`: money per million tokens.
        before (`dict`): What earlier runs on the journal have spent.

    Raises:
        ConfigError: For a limit below 0, prices that are none, or `max_cost` without prices.
    """

    def __init__(self, limits: dict, prices: dict | None, before: dict):
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        for name, limit in self.limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
                raise ConfigError(f"{LIMITS[name]}={limit!r}: a number of 0 or more is allowed.")
        if "cost" in self.limits and not prices:
            raise ConfigError("max_cost needs prices: {input: ..., output: ...}, in money per million tokens.")
        if prices and (set(prices) != {"input", "output"} or not all(price >= 0 for price in prices.values())):
            raise ConfigError(f"prices={prices!r}: input and output are needed, in money per million tokens.")
        self.prices = prices or {"input": 0, "output": 0}
        self.before = before
        self.spent = {"requests": 0, "tokens": 0, "cost": 0.0}
        self.reserved = {"requests": 0, "tokens": 0, "cost": 0.0}
        self.in_flight = 0

    def worst_case(self, body: dict) -> dict:
        """What one request can cost at most.

        Raises:
            ConfigError: If tokens or money are limited and the request does not limit its answer.
        """
        prompt, completion = most_tokens(body)
        if completion is None and not {"tokens", "cost"}.isdisjoint(self.limits):
            raise ConfigError(
                "max_tokens_total and max_cost need max_tokens (or max_completion_tokens) in the parameters of every "
                "request: without it an answer has no upper bound."
            )
        return {"requests": 1, **self.charge(prompt, completion or 0)}

    def charge(self, prompt: int, completion: int) -> dict:
        """Tokens and cost of a reply."""
        cost = (prompt * self.prices["input"] + completion * self.prices["output"]) / MILLION
        return {"tokens": prompt + completion, "cost": cost}

    def lacking(self, amount: dict) -> str | None:
        """The name of the limit that `amount` does not fit under with all that is reserved, or `None`."""
        for name, limit in self.limits.items():
            taken = self.before[name] + self.spent[name] + self.reserved[name]
            if taken + amount[name] > limit:
                return LIMITS[name]
        return None

    def reserve(self, amount: dict) -> None:
        """Sets `amount` aside; ask [`lacking`] before."""
        self.in_flight += 1
        for name in self.reserved:
            self.reserved[name] += amount[name]

    def settle(self, amount: dict, actual: dict) -> None:
        """Replaces a reservation by what was really spent."""
        self.in_flight -= 1
        for name in self.reserved:
            self.reserved[name] -= amount[name]
            self.spent[name] += actual.get(name, 0)
        if not self.in_flight:
            self.reserved["cost"] = 0.0  # floats need not cancel out exactly

    def committed(self) -> dict:
        """Spent and reserved by this run: what the journal notes before anything is sent."""
        return {name: self.spent[name] + self.reserved[name] for name in self.spent}

    def why(self, name: str) -> str:
        """One line about a limit that is reached."""
        short = next(key for key, option in LIMITS.items() if option == name)
        used = self.before[short] + self.spent[short]
        return (
            f"{name}={self.limits[short]} is reached: {used:.6g} spent on this journal, and the next request might "
            f"go beyond it. Raise {name} and run the same command again to go on."
        )
