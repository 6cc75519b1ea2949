"""What a built dataset's report shows in numbers: measured once, kept in `build.json` under `report`.

Lengths are of all rows. What takes longer is measured on a seeded sample, whose size is said.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .formats.native import shape, understand
from .formats.tables import to_record
from .records import one_array
from .transforms import flat
from .transforms.language import CODE
from .transforms.quality import PRESETS, load, scores
from .transforms.quality.distributions import score_histograms, verb_objects
from .transforms.quality.pairs import column, pairs_of, units
from .transforms.quality.wrong_language import SCRIPTS, letters_of, script_of
from .transforms.spread import spread

LAYOUT = 1  # of the numbers: raised with every change of their names, so that none of another version are shown
SAMPLED = 20_000  # rows for scores, difficulty, scripts, verbs and objects: shares are within 0.7 points (95%)
HEARD = 500  # rows whose language is told: a millisecond each
# Lingua's confidence, and the UTF-8 bytes of letters, from which a language counts. At 0.5 its quick mode takes nine
# of 1,000 English rows for Latin, Yoruba or Estonian; at 0.99 none, and leaves 32 untold.
TOLD, LETTERS = 0.99, 40
TASKS = 40  # tasks with own numbers, the largest ones
TURNS = ("messages", "context")
RIDERS = ("id", "source", "task")  # columns of the result, besides the turns, that the report reads
KEPT = re.compile(r" row (\d+)(?: \(id ([0-9a-f]+)\))?$")  # how a duplicate names the row that stays for it
DUPLICATES = ("dup_content", "dup_id", "near_duplicate")
SIZES = ((2, "2"), (3, "3"), (4, "4"), (9, "5-9"), (99, "10-99"), (None, "100+"))  # largest of a bin, and its name


def measure(build: Mapping, splits: Mapping[str, datasets.Dataset], rejected: Iterable[dict]) -> dict:
    """The numbers of the report.

    Args:
        build (`Mapping`): The account of the build; `format`, `seed` and `steps` are read.
        splits (`Mapping[str, Dataset]`): The built rows.
        rejected (`Iterable[dict]`): The lines of `rejected.jsonl`.

    Returns:
        `dict`: `layout`, `rows`, `lengths`, `tasks`, `sample`, `scores`, `difficulty`, `verb_objects`, `spread`,
        `scripts`, `languages` and `duplicates`; JSON throughout. The same input gives the same numbers.
    """
    table = rows_of(splits, build["format"])
    seed = build.get("seed", 0)
    sample = as_records(seeded(table, SAMPLED, seed), build["format"])
    pairs, summary = verb_objects(sample)
    preset, scored = _scored(sample, build)
    found = _lengths(table, build["format"])
    for task in found["tasks"]["largest"]:
        own = scored.select(["total"]).filter(pc.equal(sample["task"], task["task"]))
        (task["score"],) = _histograms(own)
    return {
        "layout": LAYOUT,
        "rows": len(table),
        **found,
        "sample": len(sample),
        "scores": {"preset": preset, "histograms": _histograms(scored)},
        "difficulty": _histograms(scores(sample, {"scores": {"difficulty": {}}}).select(["difficulty"]))[0],
        "verb_objects": {**summary, "commonest": pairs.to_pylist()},
        "spread": spread(sample, seed=seed),
        "scripts": _scripts(sample),
        "languages": _languages(seeded(sample, HEARD, seed)),
        "duplicates": cluster_sizes(clusters(rejected)),
    }


def are_there(build: Mapping) -> bool:
    """Whether an account holds the numbers as this version of the package measures them."""
    return build.get("report", {}).get("layout") == LAYOUT


def rows_of(splits: Mapping[str, datasets.Dataset], format: str) -> pa.Table:
    """All rows in one table, not copied: the format's own columns, those of [`RIDERS`] that there are, and `split`."""
    parts = []
    for name, split in splits.items():
        table = split.with_format("arrow")[:]
        native, _ = understand(shape(table.schema), format)
        riders = [rider for rider in RIDERS if rider in table.column_names and rider not in native]
        names = pa.repeat(pa.scalar(name, pa.string()), len(table))
        parts.append(table.select([*native, *riders]).append_column("split", names))
    return pa.concat_tables(parts)


def as_records(table: pa.Table, format: str) -> pa.Table:
    """Rows of [`rows_of`] as records, and with all of [`RIDERS`], null where the result lacks one."""
    native, _ = understand(shape(table.schema), format)
    record = to_record(table.select(native), format).select(TURNS)
    for rider in RIDERS:
        there = rider in table.column_names and rider not in native
        record = record.append_column(rider, table[rider] if there else pa.nulls(len(table), pa.string()))
    return record.append_column("split", table["split"])


def seeded(table: pa.Table, most: int, seed: int) -> pa.Table:
    """At most so many rows, drawn with a seed, in their order."""
    if len(table) <= most:
        return table
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(table))[:most]
    mask = np.zeros(len(table), dtype=bool)
    mask[chosen] = True
    return table.filter(pa.array(mask))


def _lengths(table: pa.Table, format: str) -> dict:
    """`lengths` of all prompts and answers, and `tasks`: how many there are, and the same of the largest.

    Slice by slice: of a million rows only the numbers are in memory.
    """
    words: dict[str, list[np.ndarray]] = {"prompt": [], "answer": []}
    rows = []
    for start in range(0, len(table), SAMPLED):
        pairs = pairs_of(as_records(table.slice(start, SAMPLED), format))
        rows.append(pairs["row"].to_numpy() + start)
        words["prompt"].append(units(column(pairs, "instruction")) + units(column(pairs, "context")))
        words["answer"].append(pairs["words"].to_numpy())
    found = {name: np.concatenate(parts) for name, parts in words.items()}
    if not found["prompt"].any():  # plain text
        del found["prompt"]
    names = one_array(table["task"]) if "task" in table.column_names else pa.nulls(len(table), pa.string())
    counts = sorted(
        pc.value_counts(names.drop_null()).to_pylist(), key=lambda entry: (-entry["counts"], entry["values"])
    )
    encoded = pc.index_in(names, pa.array([entry["values"] for entry in counts[:TASKS]], names.type))
    codes = encoded.fill_null(-1).to_numpy(zero_copy_only=False)[np.concatenate(rows)]
    largest = [
        {
            "task": entry["values"],
            "rows": entry["counts"],
            **{name: _summary(values[codes == code]) for name, values in found.items()},
        }
        for code, entry in enumerate(counts[:TASKS])
    ]
    everything = {name: _summary(values) for name, values in found.items()}
    return {"lengths": everything, "tasks": {"count": len(counts), "largest": largest}}


def _summary(words: np.ndarray) -> dict:
    """Of lengths in words what [`distributions.lengths`] has: `pairs`, `quartiles`, `counts` per power of two."""
    if not len(words):
        return {"pairs": 0, "quartiles": [0.0] * 5, "counts": [0]}
    quartiles = [round(value, 1) for value in np.quantile(words, [0, 0.25, 0.5, 0.75, 1]).tolist()]
    counts = np.bincount(np.ceil(np.log2(words + 1)).astype(np.int64)).tolist()
    return {"pairs": len(words), "quartiles": quartiles, "counts": counts}


def _scored(sample: pa.Table, build: Mapping) -> tuple[str, pa.Table]:
    """The name of the preset that the build used, else `default`, and its scores."""
    used = [step for step in build["steps"] if step["name"] == "quality"]
    named, given = "default", load("default")["scores"]
    if used and used[-1].get("preset", {}).get("scores"):
        # As it was in force then: a preset's file may have changed or gone since.
        chosen, given = used[-1]["parameters"].get("preset", "default"), used[-1]["preset"]["scores"]
        named = chosen if chosen in PRESETS else "the build's own preset"
    return named, scores(sample, {"scores": given})


def _histograms(scored: pa.Table) -> list[dict]:
    rows = score_histograms(scored).to_pylist()
    shown = [{**row, "mean": None if row["mean"] is None else round(row["mean"], 4)} for row in rows]
    return sorted(shown, key=lambda row: row["score"] != "total")


def _texts(table: pa.Table) -> pa.Array:
    """All that users and assistants say in a row, in one text."""
    offsets, turns = flat.flatten(table)
    spoken = np.isin(flat.roles(turns), (flat.USER, flat.ASSISTANT))
    contents = pc.fill_null(flat.text(turns).filter(pa.array(spoken)), "").cast(pa.large_string())
    bounds = pa.array(flat.offsets_of(flat.sum_per_row(spoken, offsets)))
    return pc.binary_join(pa.LargeListArray.from_arrays(bounds, contents), pa.scalar("\n", pa.large_string()))


def _scripts(table: pa.Table) -> dict[str, int]:
    """Writing system -> rows of which it has most letters; `mixed or none` where none has four of five."""
    found = script_of(_texts(table), 1, 0.8)
    names = [*SCRIPTS, "mixed or none"]
    counts = Counter(names[code] for code in found.tolist())  # -1 is the last name
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


@cache
def _detector():
    from lingua import LanguageDetectorBuilder

    # By groups of three letters alone: 80 MB instead of 1 GB, and enough for whole conversations.
    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


def _languages(table: pa.Table) -> dict | None:
    """Language -> rows, by lingua; `None` where the extra `lang` is not installed."""
    if importlib.util.find_spec("lingua") is None:
        return None
    texts = pc.utf8_slice_codeunits(pc.replace_substring_regex(_texts(table), CODE, " "), 0, 1000)
    ranked = _detector().compute_language_confidence_values_in_parallel(texts.to_pylist())
    told = zip(ranked, letters_of(texts).tolist(), strict=True)
    best = [values[0] if values and values[0].value >= TOLD and many >= LETTERS else None for values, many in told]
    names = Counter(value.language.name.capitalize() for value in best if value)
    counts = dict(sorted(names.items(), key=lambda entry: (-entry[1], entry[0])))
    return {"by": "lingua", "rows": len(table), "counts": counts, "not_told": len(table) - sum(counts.values())}


def clusters(rejected: Iterable[dict]) -> dict[tuple, list[dict]]:
    """Row that stays -> the lines of the rows that were rejected as its duplicates, the largest cluster first.

    A row is known by its id; where it has none, by its place in the step's table.
    """
    found: dict[tuple, list[dict]] = {}
    for line in rejected:
        kept = KEPT.search(line["detail"] or "") if line["reason"] in DUPLICATES else None
        if kept:
            found.setdefault(("id", kept[2]) if kept[2] else (line["stage"], kept[1]), []).append(line)
    return dict(sorted(found.items(), key=lambda entry: -len(entry[1])))


def cluster_sizes(found: Mapping[tuple, list[dict]]) -> dict:
    """How many clusters, the rows in the largest, and a histogram of their sizes, the row that stays included."""
    sizes = [len(lines) + 1 for lines in found.values()]
    bins: dict[str, int] = {name: 0 for _, name in SIZES}
    for size in sizes:
        bins[next(name for most, name in SIZES if most is None or size <= most)] += 1
    return {"clusters": len(sizes), "largest": max(sizes, default=0), "sizes": bins}


def answers(table: pa.Table) -> np.ndarray:
    """Words of all answers of each row (int64)."""
    pairs = pairs_of(table)
    rows = pairs["row"].to_numpy()
    return np.bincount(rows, column(pairs, "words").to_numpy(), minlength=len(table)).astype(np.int64)
