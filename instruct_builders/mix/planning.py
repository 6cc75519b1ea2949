"""From a mixture to the plan that says how many rows are drawn from each source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import BuildError, ConfigError
from .mixture import Mixture, Source
from .rates import NEAR, largest_remainder, mixing_rates, water_fill
from .table import Plan

UNITS = ("rows", "tokens")


@dataclass
class _Node:
    """A source or mixture while its numbers are worked out; `unit` is a row, or a token."""

    name: str
    source: Source | None = None
    children: list[_Node] = field(default_factory=list)
    weight: float | None = None
    cap: float | None = None
    temperature: float = 1.0  # of the mixture it is in
    left_out: str | None = None
    usable: int = 0  # rows
    per_row: float = 1.0  # units
    size: float = 0.0  # units
    room: float = 0.0  # units
    rate: float = 0.0  # within its mixture
    share: float = 0.0  # of the whole
    amount: float = 0.0  # units
    draws: int = 0

    def leaves(self) -> Iterator[_Node]:
        if self.source is not None:
            yield self
        for child in self.children:
            yield from child.leaves()

    def rows(self) -> float:
        """Rows, not yet whole ones, that the amount is made of."""
        return self.amount / self.per_row if self.source else sum(child.rows() for child in self.children)


def plan(mixture: Mixture, *, total_size: int | None = None, strict: bool = False) -> Plan:
    """Works out how many rows each source gives, and refuses what can't be drawn.

    The counts are exact: their sum is `total_size`, and each source and each mixture in the mixture gets its
    share to within one row. A source with `max_epochs` gives at most that often its rows; what it can't give the
    others in its mixture give, by their rates, and beyond them the other mixtures. Missing and empty sources are
    listed with the reason, and their share goes to the others in their mixture.

    Args:
        mixture ([`Mixture`]): What to draw from.
        total_size (`int`, *optional*):
            Rows to draw. By default the most for which every share is met and no source gives more than `max_epochs`
            (here 1 where none is set) times its rows: for T=1 without weights that is the sum of min(rows, cap).
            With a total, a source without `max_epochs` is repeated as often as it takes.
        strict (`bool`, *optional*, defaults to `False`): Whether a missing or empty source is an error.

    Raises:
        ConfigError: For a number that can't be, or a total that can't be reached.
        BuildError: If nothing is left to draw from, or `strict` and a source is missing.
    """
    if not isinstance(mixture, Mixture):
        raise ConfigError(f"plan needs a Mixture, not a {type(mixture).__name__}: wrap it as Mixture({{name: ...}}).")
    unit = mixture.weights_by or "rows"
    if unit not in UNITS:
        raise ConfigError(f"weights_by={unit!r}: {' or '.join(map(repr, UNITS))} is allowed.")
    if total_size is not None and (not _whole(total_size) or total_size <= 0):
        raise ConfigError(f"total_size={total_size!r}: a whole number of rows above 0 is allowed, or leave it out.")
    root = _grow("", mixture, unit, 1.0 if total_size is None else math.inf)
    leaves = list(root.leaves())
    _check_leaves(leaves, strict)
    root.share = root.rate = 1.0
    _share(root)
    live = [leaf for leaf in leaves if leaf.share > 0]
    total = _one_pass(live) if total_size is None else int(total_size)
    _fill(root, live, total)
    root.draws = total
    _settle(root)
    return Plan([_row(leaf) for leaf in leaves], total, unit)


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _grow(name: str, item: Source | Mixture, unit: str, max_epochs: float) -> _Node:
    """The tree of nodes, sorted by name at every level, with sizes, room, and rates among siblings."""
    if isinstance(item, Source):
        return _leaf(name, item, unit, max_epochs)
    place = f"mixture {name!r}" if name else "the mixture"
    if not isinstance(item, Mixture):
        raise ConfigError(f"{name!r} is a {type(item).__name__}: a Source or a Mixture is needed.")
    if not isinstance(item.sources, Mapping) or not item.sources:
        raise ConfigError(f"{place} has sources={item.sources!r}: a mapping with at least one named source is needed.")
    if item.weights_by not in (None, unit):
        raise ConfigError(
            f"{place} has weights_by={item.weights_by!r} in a plan by {unit!r}: set it on the outermost mixture only."
        )
    node = _Node(name, weight=_number(name, "weight", item.weight, zero=True))
    epochs = _number(name, "max_epochs", item.max_epochs)
    for key in sorted(item.sources):
        if not isinstance(key, str) or not key:
            raise ConfigError(f"{place} has a source called {key!r}: a name is a text of at least one character.")
        below = f"{name}/{key}" if name else key
        node.children.append(_grow(below, item.sources[key], unit, max_epochs if epochs is None else epochs))
    _rate(node, item, place)
    return node


def _leaf(name: str, source: Source, unit: str, max_epochs: float) -> _Node:
    for key in ("rows", "tokens", "limit"):
        value = getattr(source, key)
        if value is not None and (not _whole(value) or value < (key == "limit")):
            raise ConfigError(f"source {name!r} has {key}={value!r}: a whole number of {key} is needed.")
    own = _number(name, "max_epochs", source.max_epochs)
    node = _Node(name, source, weight=_number(name, "weight", source.weight, zero=True))
    node.cap = _number(name, "cap", source.cap)
    node.left_out = source.missing or (None if source.rows else "it has no rows")
    if node.left_out:
        return node
    node.usable = source.rows if source.limit is None else min(source.rows, source.limit)
    if unit == "tokens":
        if not source.tokens:
            raise ConfigError(f"source {name!r} has tokens={source.tokens}: a plan by tokens needs their number.")
        node.per_row = source.tokens / source.rows
    node.size = node.usable * node.per_row
    epochs = max_epochs if own is None else own
    node.room = math.inf if math.isinf(epochs) else math.floor(epochs * node.usable + NEAR) * node.per_row
    return node


def _number(name: str, key: str, value: float | None, zero: bool = False) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or math.isnan(value):
        raise ConfigError(f"{name or 'the mixture'!r} has {key}={value!r}: a number is needed.")
    if value < 0 or (value == 0 and not zero) or (zero and math.isinf(value)):
        allowed = "0 or more" if zero else "above 0"
        raise ConfigError(f"{name or 'the mixture'!r} has {key}={value}: a number {allowed} is allowed.")
    return value


def _rate(node: _Node, item: Mixture, place: str) -> None:
    """Rates of the children, of which those with nothing to draw from have none."""
    weighted = [child.weight is not None for child in node.children]
    if any(weighted) and not all(weighted):
        bare = ", ".join(child.name for child in node.children if child.weight is None)
        raise ConfigError(f"{place}: weights are given for some sources but not for {bare}. Give all, or none.")
    own = _number(node.name, "cap", item.cap)
    for child in node.children:
        child.temperature = item.temperature
        child.cap = own if child.cap is None else child.cap
    try:
        if all(weighted):
            cap = next((child.cap for child in node.children if child.cap is not None), None)
            mixing_rates(weighted, cap, item.temperature, [child.weight for child in node.children])
        live = [child for child in node.children if not child.left_out and child.weight != 0]
        caps = [math.inf if child.cap is None else child.cap for child in live]
        weights = [child.weight for child in live] if all(weighted) else None
        rates = mixing_rates([child.size for child in live], caps, item.temperature, weights) if live else []
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    for child, rate, cap in zip(live, rates, caps, strict=True):
        child.rate = float(rate)
        node.size += min(child.size, cap)
        node.room += child.room if rate > 0 else 0.0
    if not live:
        node.left_out = "nothing in it can be drawn from"
    _number(node.name, "max_epochs", item.max_epochs)


def _share(node: _Node) -> None:
    for child in node.children:
        child.share = node.share * child.rate
        _share(child)


def _check_leaves(leaves: list[_Node], strict: bool) -> None:
    names = [leaf.name for leaf in leaves]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"two sources are both called {', '.join(twice)}: rename one; '/' stands between levels.")
    missing = [leaf for leaf in leaves if leaf.left_out]
    listed = "\n".join(f"  {leaf.name}: {leaf.left_out}" for leaf in missing[:20])
    if strict and missing:
        raise BuildError(f"strict: {len(missing)} of {len(leaves)} sources have nothing to draw from:\n{listed}")
    if len(missing) == len(leaves):
        raise BuildError(f"none of the {len(leaves)} sources has anything to draw from:\n{listed}")


def _one_pass(live: list[_Node]) -> int:
    """Rows of the largest mixture in which every share is exact and no source is asked for more than it has."""
    if all(math.isinf(leaf.room) for leaf in live):
        raise ConfigError("no source has a finite max_epochs, so there is no largest mixture: give total_size.")
    first = min(live, key=lambda leaf: leaf.room / leaf.share)
    units = first.room / first.share
    total = math.floor(sum(units * leaf.share / leaf.per_row for leaf in live) + NEAR)
    if total < 1:
        raise ConfigError(
            f"no row can be drawn with every share exact: {first.name!r} has {first.usable} rows for a share of "
            f"{first.share:.3g}. Give total_size, or a larger max_epochs."
        )
    return total


def _fill(root: _Node, live: list[_Node], total: int) -> None:
    """Sets the amounts so that they make `total` rows."""
    possible = sum(leaf.room / leaf.per_row for leaf in live)  # whole rows, but for rounding
    if total > possible + NEAR:
        raise ConfigError(
            f"total_size={total:,}: {round(possible):,} rows are possible with the max_epochs of the sources. "
            "Ask for fewer, or raise max_epochs."
        )
    if all(leaf.per_row == 1 for leaf in live):
        _pour(root, float(total))
        return
    # By tokens, a full source changes the mean length of a row: find the tokens that make as many rows.
    low, high = 0.0, total / sum(leaf.share / leaf.per_row for leaf in live)
    enough = min(total, possible) * (1 - 1e-12)
    while _pour(root, high) < enough:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if _pour(root, middle) < enough else (low, middle)
    _pour(root, high)


def _pour(node: _Node, amount: float) -> float:
    """Divides an amount of units down the tree; returns the rows it makes."""
    node.amount = amount
    if node.children:
        rates = np.array([child.rate for child in node.children])
        room = np.array([child.room for child in node.children])
        for child, part in zip(node.children, water_fill(rates, room, amount), strict=True):
            _pour(child, float(part))
    return node.rows()


def _settle(node: _Node) -> None:
    """Whole rows, level by level, so that mixtures in the mixture are exact too."""
    if not node.children:
        return
    parts = np.array([child.rows() for child in node.children])
    for child, draws in zip(node.children, largest_remainder(parts, node.draws), strict=True):
        child.draws = int(draws)
        _settle(child)


def _row(leaf: _Node) -> dict:
    source = leaf.source
    left_out = leaf.left_out or (None if leaf.share else "its rate is 0")
    tokens = None if source.tokens is None else round(leaf.draws * source.tokens / source.rows) if source.rows else 0
    return {
        "name": leaf.name,
        "rows": source.rows,
        "limit": source.limit,
        "cap": None if leaf.cap is None or math.isinf(leaf.cap) else leaf.cap,
        "rate": leaf.rate,
        "temperature": leaf.temperature,
        "share": leaf.share,
        "draws": leaf.draws,
        "epochs": leaf.draws / leaf.usable if leaf.usable else 0.0,
        "tokens": tokens,
        "left_out": left_out,
    }
