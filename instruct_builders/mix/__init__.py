"""Mixing sources: plan first (a table of shares, caps and draws), then draw exactly that, map-style or streaming.

mixture = Mixture({"alpaca": Source(52_002), "flan": Source(1_000_000)}, cap=100_000, temperature=2)
table = plan(mixture, total_size=120_000)
print(table.text())
dataset = draw(table, {"alpaca": alpaca, "flan": flan}, seed=42)
"""

from __future__ import annotations

from .drawing import count_sources, draw, draw_indices
from .mixture import Mixture, Source
from .planning import plan
from .presets import PRESETS, preset
from .rates import mixing_rates
from .streaming import stream
from .table import Plan
from .writing import write_arrow

__all__ = [
    "PRESETS",
    "Mixture",
    "Plan",
    "Source",
    "count_sources",
    "draw",
    "draw_indices",
    "mixing_rates",
    "plan",
    "preset",
    "stream",
    "write_arrow",
]
