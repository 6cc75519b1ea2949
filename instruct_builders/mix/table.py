"""The plan of a mixture as a table: what is to be drawn from each source, and what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BuildError, ConfigError

# Column -> how it is printed. `name` and `left_out` are texts.
COLUMNS = {
    "rows": "{:,}",
    "limit": "{:,}",
    "cap": "{:,}",
    "rate": "{:.4f}",
    "temperature": "{:g}",
    "share": "{:.4f}",
    "draws": "{:,}",
    "epochs": "{:.3f}",
    "tokens": "{:,}",
    "drawn": "{:,}",
    "drawn_tokens": "{:,}",
}


@dataclass(frozen=True)
class Plan:
    """How many rows each source gives; made by [`plan`].

    Args:
        table (`list[dict]`):
            One row per source, sorted by name at every level: `name` (such as `"flan2022/cot/gsm8k"`), `rows`,
            `limit` (rows of them that are used, `None` for all), `cap`, `rate` (within its mixture), `temperature`,
            `share` (of the whole, before any source is full), `draws`, `epochs` (draws per usable row), `tokens` (that
            the draws have in the mean; `None` if not known), `left_out` (the reason, else `None`).
        total_size (`int`): Sum of the draws.
        weights_by (`str`): What rates and shares are of: `"rows"` or `"tokens"`.
    """

    table: list[dict]
    total_size: int
    weights_by: str = "rows"

    @property
    def draws(self) -> dict[str, int]:
        """Source -> rows to draw, for every source, in the order of the table."""
        return {row["name"]: row["draws"] for row in self.table}

    @property
    def left_out(self) -> dict[str, str]:
        """Source -> why nothing is drawn from it."""
        return {row["name"]: row["left_out"] for row in self.table if row["left_out"]}

    def drawn(self, counts: Mapping[str, int], tokens: Mapping[str, int] | None = None) -> Plan:
        """The same table after drawing: with `drawn`, and `drawn_tokens` where they were counted.

        Args:
            counts (`Mapping[str, int]`): Source -> rows found in the mixed dataset; those without rows may be absent.
            tokens (`Mapping[str, int]`, *optional*): Source -> tokens of these rows.

        Raises:
            BuildError: If a count is not the planned one.
        """
        planned = self.draws
        wrong = {
            name: (counts.get(name, 0), planned.get(name, 0))
            for name in [*planned, *(name for name in counts if name not in planned)]
            if counts.get(name, 0) != planned.get(name, 0)
        }
        if wrong:
            first = list(wrong.items())[:20]
            listed = "\n".join(f"  {name}: {found:,} for {asked:,}" for name, (found, asked) in first)
            raise BuildError(f"{len(wrong)} sources were not drawn from as planned (found for planned):\n{listed}")
        extra = [
            {"drawn": row["draws"], **({} if tokens is None else {"drawn_tokens": tokens.get(row["name"], 0)})}
            for row in self.table
        ]
        table = [{**row, **more} for row, more in zip(self.table, extra, strict=True)]
        return Plan(table, self.total_size, self.weights_by)

    def text(self, most: int | None = None) -> str:
        """The table as aligned text, with a last line of sums.

        Args:
            most (`int`, *optional*): Print only so many sources, those with most draws; the last line sums up all.
        """
        if most is not None and most < 1:
            raise ConfigError(f"most={most}: 1 or more lines are allowed, or leave it out for all.")
        shown = self.table
        if most is not None and len(shown) > most:
            largest = {row["name"] for row in sorted(shown, key=lambda row: -row["draws"])[:most]}
            shown = [row for row in shown if row["name"] in largest]
        used = [name for name in COLUMNS if any(row.get(name) is not None for row in self.table)]
        lines = [["source", *used, ""]]
        for row in shown:
            cells = [COLUMNS[name].format(row[name]) if row.get(name) is not None else "-" for name in used]
            lines.append([row["name"], *cells, f"left out: {row['left_out']}" if row["left_out"] else ""])
        sums = {
            name: sum(row[name] or 0 for row in self.table)
            for name in used
            if name in ("rows", "share", "draws", "tokens", "drawn", "drawn_tokens")
        }
        label = f"all {len(self.table):,} sources"
        if len(shown) < len(self.table):
            label += f" ({len(self.table) - len(shown):,} not shown)"
        cells = [COLUMNS[name].format(sums[name]) if name in sums else "" for name in used]
        lines.append([label, *cells, f"shares of {self.weights_by}"])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(map(str.rjust, line[1:-1], widths[1:-1])), line[-1]]).rstrip()
            for line in lines
        )
