"""What a mixture is made of: sources by their numbers, nested as one likes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """One dataset in a mixture, by its numbers.

    Args:
        rows (`int`): Rows there are.
        tokens (`int`, *optional*): Tokens of all rows together; needed for `weights_by="tokens"`.
        weight (`float`, *optional*): Explicit weight among its siblings, which then all need one.
        cap (`int`, *optional*): Largest size that counts for the rate, instead of the mixture's.
        max_epochs (`float`, *optional*): How often a row may be drawn, in the mean; instead of the mixture's.
        missing (`str`, *optional*): Why there is nothing to draw from. The source is then left out with this reason.
        limit (`int`, *optional*): Use only so many of the rows, chosen by the seed, the same in every epoch.
    """

    rows: int
    tokens: int | None = None
    weight: float | None = None
    cap: float | None = None
    max_epochs: float | None = None
    missing: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Mixture:
    """Sources, or mixtures of them, and how they are weighed against each other.

    Args:
        sources (`Mapping`): Name -> [`Source`] or [`Mixture`]. The order is of no account.
        cap (`float`, *optional*): Largest size of a source that counts for its rate.
        temperature (`float`, *optional*, defaults to 1.0): See [`mixing_rates`].
        weight (`float`, *optional*): Of this mixture among its siblings. Without weights its size among them is the
            sum of the capped sizes in it.
        max_epochs (`float`, *optional*): For the sources in it that have none of their own.
        weights_by (`str`, *optional*):
            `"rows"`, or `"tokens"`: sizes, caps, weights and shares are then all of tokens, and a source with long
            rows gives fewer of them. One for the whole plan: to be set on the outermost mixture.
    """

    sources: Mapping[str, Source | Mixture]
    cap: float | None = None
    temperature: float = 1.0
    weight: float | None = None
    max_epochs: float | None = None
    weights_by: str | None = None
