"""One HTML page that shows what a dataset is made of: numbers from `build.json`, texts from its rows, nothing loaded.

Every text of the data is escaped by the template and stands in no script; the page's policy lets nothing else run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from . import __version__, page, plots, quarantine, report_examples, report_numbers, report_parts
from .errors import BuildError, SourceError, own_error

NAME, BUILD_FILE = "report.html", "build.json"
NEEDED = ("builder", "format", "config_name", "sources", "steps", "splits", "rejected")  # keys of build.json
PICTURED = 100  # rows from which a histogram says something


def render(build: Mapping, splits: Mapping[str, datasets.Dataset], rejected: Iterable[dict]) -> str:
    """The page of a built dataset.

    Args:
        build (`Mapping`): What `build.json` holds. Without the numbers of this version they are measured here.
        splits (`Mapping[str, Dataset]`): The built rows.
        rejected (`Iterable[dict]`): The lines of `rejected.jsonl`.

    Returns:
        `str`: HTML, a few hundred kilobytes. The same dataset gives the same page.
    """
    lines = list(rejected)
    table = report_numbers.rows_of(splits, build["format"])
    numbers = build["report"] if report_numbers.are_there(build) else report_numbers.measure(build, splits, lines)
    judged = next((step for step in build["steps"] if step["name"] == "judge"), {"scores": {}})
    style, script = page.style("report.css"), Markup((page.DATA / "report.js").read_text(encoding="utf-8"))
    return _template().render(
        build=build,
        numbers=numbers,
        totals=report_parts.totals(build),
        flow=report_parts.flow_of(build),
        sources=sorted(build["sources"], key=lambda file: -file["rows_in"])[: report_parts.LISTED],
        steps=[report_parts.step_of(step) for step in build["steps"]],
        mixture=report_parts.mixture_of(build),
        contamination=report_parts.contamination_of(build),
        rejected=report_examples.rejected_rows(lines),
        clusters=report_examples.duplicates(lines, table, build["format"]),
        rows=report_examples.sample_rows(table, build["format"], build.get("seed", 0)),
        drawn=report_parts.drawn(numbers, judged["scores"]),
        judged=judged,
        listed=report_parts.LISTED,
        version=__version__,
        style=style,
        script=script,
        policy=page.policy(style, script),
    )


@cache
def _template():
    """Compiled once: it takes longer than to show a small dataset."""
    made = page.environment(number=page.number, percent=_percent, short=_short)
    return made.from_string((page.DATA / "report.html.jinja").read_text(encoding="utf-8"))


def write(directory: str | os.PathLike) -> Path:
    """Makes the page of a built directory anew, for one that was built earlier or comes from elsewhere.

    Its `build.json` gets the numbers, where it has none of this version. Rejected rows stay with whoever built the
    data: without their file, the page shows how many there were, and none of them.

    Returns:
        `Path`: The page.

    Raises:
        SourceError: If the directory is none that a build has finished, or its rows are not those of its account.
        BuildError: If it can't be written to.
    """
    folder = Path(directory)
    build, splits = read(folder)
    lines = list(quarantine.read_lines(folder / "rejected.jsonl"))
    try:
        if not report_numbers.are_there(build):
            build = {**build, "report": report_numbers.measure(build, splits, lines)}
            _replace(folder / BUILD_FILE, as_json(build))
        _replace(folder / NAME, render(build, splits, lines))
    except OSError as error:
        raise _unwritable(error, folder) from error
    return folder / NAME


def as_json(build: Mapping) -> str:
    """The text of `build.json`."""
    return json.dumps(build, indent=1, ensure_ascii=False) + "\n"


def pictures(build: Mapping) -> dict[str, bytes]:
    """Caption -> PNG for the card; none without matplotlib, or for fewer than [`PICTURED`] rows."""
    numbers = build["report"]
    if not plots.available() or numbers["rows"] < PICTURED:
        return {}
    made = {"How long prompts and answers are": plots.lengths_picture(numbers["lengths"])}
    if plots.telling(numbers["scores"]["histograms"]):
        made["Quality scores"] = plots.scores_picture(numbers["scores"]["histograms"])
    if numbers["verb_objects"]["commonest"]:
        made["The commonest verbs of the instructions and their objects"] = plots.verbs_picture(
            numbers["verb_objects"]["commonest"]
        )
    return made


def read(folder: Path) -> tuple[dict, dict[str, datasets.Dataset]]:
    """The account and the rows of a built directory.

    Raises:
        SourceError: If it is none.
    """
    path = folder / BUILD_FILE
    if not path.is_file():
        raise SourceError(
            f"{folder} is no built dataset: it has no {BUILD_FILE}. Give a directory that recipes/build.py wrote."
        )
    try:
        build = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is no JSON ({error}). Build the dataset again.") from error
    missing = [key for key in NEEDED if key not in build] if isinstance(build, dict) else [*NEEDED]
    if missing:
        raise SourceError(f"{path} is no account of a build: it lacks {', '.join(missing)}. Build the dataset again.")
    splits = {name: _rows(folder, build["config_name"], name, count) for name, count in build["splits"].items()}
    return build, splits


def _rows(folder: Path, config: str, split: str, count: int) -> datasets.Dataset:
    files = sorted((folder / config).glob(f"{split}-*-of-*.parquet"))
    try:
        tables = [pq.read_table(file) for file in files]
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{folder}: the split {split!r} can't be read ({error}). Build or load it again.") from error
    rows = sum(map(len, tables))
    if rows != count:
        raise SourceError(
            f"{folder}: the split {split!r} has {rows:,} rows in {len(files)} files, and {BUILD_FILE} says {count:,}. "
            "Files are missing or changed: build or load the dataset again."
        )
    return datasets.Dataset(pa.concat_tables(tables))


def _replace(path: Path, text: str) -> None:
    """The whole file or the old one. A link, as in the Hub's cache, is replaced and not written through."""
    staged = path.with_name(f".{path.name}.tmp")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _unwritable(error: OSError, folder: Path) -> BaseException:
    found = own_error(error, folder)
    return found if found is not error else BuildError(f"{folder}: {error.strerror or error}: no report was written.")


def _percent(share: float) -> str:
    """A share in percent that is never shown as 0 or 100 when it is not."""
    if 0 < share < 0.05 or 99.95 < share < 100:
        return "<0.1%" if share < 50 else ">99.9%"
    return f"{share:.1f}%"


def _short(text: object, limit: int = 120) -> str:
    """Text on one line, with an ellipsis where it is cut."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "\u2026"
