"""Several builders -> one dataset, mixed by a plan that can be read before anything is drawn.

All sources are cleaned and split as one table, so that a duplicate between two of them, or between one's test rows and
another's training rows, is found like any other; then `mix` plans and draws the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import __version__, formats, mix, mixture_sources, pipeline, quarantine, transforms
from .builder import code_digest
from .errors import BuildError, ConfigError
from .mixture_sources import Leaf
from .pipeline import Built
from .records import REJECTED, flat_turns, one_array

# Tokens that nobody counted: UTF-8 bytes of English text per token, a rule of thumb.
BYTES_PER_TOKEN = 4
RIDERS = ("leaf", "share_of", "split", "row")  # columns beside the record's, for the time of the build


@dataclass(frozen=True)
class Prepared:
    """Everything read and planned, nothing drawn.

    Args:
        plan ([`mix.Plan`]): What will be drawn; `plan.text()` is the table to read.
        parts (`dict`): Leaf of the plan -> its training records.
        rest (`dict`): The other splits, whole: split -> records.
        account (`dict`): What becomes `build.json`, but for what the draw adds.
        rejected (`list[dict]`): The lines of `rejected.jsonl`.
    """

    plan: mix.Plan
    parts: dict[str, pa.Table]
    rest: dict[str, pa.Table]
    account: dict
    rejected: list[dict]


def prepare(
    mixture: Mapping,
    *,
    steps: Sequence[str | dict] = (),
    test_size: float | int = 0,
    seed: int = 42,
    num_proc: int | None = None,
    cache_dir: str | None = None,
    strict: bool = False,
    count_tokens: Callable[[pa.Array], int] | None = None,
) -> Prepared:
    """Reads every source of a mixture, runs the transforms, splits, and plans the draw.

    Args:
        mixture (`Mapping`):
            A group: `sources` (name -> source or group), and optionally `preset`, `cap`, `temperature`,
            `weights_by`, `max_epochs`, and at the top `total_size`. A source has `builder`, `data_files` and the
            builder's own keys, `options` (further fields of the builder's configuration), `transforms`, `weight`,
            `cap`, `max_epochs`, and `by: task` to make a group of one source per task.
        steps (`Sequence`, *optional*): Transforms of all sources together, after each source's own.
        test_size (`float` or `int`, *optional*, defaults to 0): Share or number of conversations held out, over all
            sources; a builder that makes few-shot prompts holds out its share itself, before it chooses exemplars.
        seed (`int`, *optional*, defaults to 42): For the split and the draw.
        num_proc (`int`, *optional*): Worker processes for reading.
        cache_dir (`str`, *optional*): Where the builders' own results are kept.
        strict (`bool`, *optional*, defaults to `False`): Whether a source that can't be read is an error. Otherwise
            it is left out, its share goes to the others of its group, and table and card say so.
        count_tokens (`Callable`, *optional*): Texts of all turns -> number of tokens. Without it tokens are estimated
            as UTF-8 bytes / 4.

    Raises:
        ConfigError: For a key, preset, weight or transform that can't be; nothing has been read then.
        BuildError: If nothing is left, or `strict` and a source can't be read or a transform rejected rows.
    """
    leaves = mixture_sources.leaves_of(mixture)
    transforms.check(steps)
    for leaf in leaves:
        mixture_sources.construct(leaf, test_size=test_size, seed=seed, cache_dir=cache_dir, strict=strict)
    results = [mixture_sources.read(leaf, num_proc, strict) for leaf in leaves if leaf.builder is not None]
    results = [result for result in results if result is not None]
    if not results:
        why = "\n".join(f"  {leaf.name}: {leaf.missing}" for leaf in leaves)
        raise BuildError(f"mixture: no source could be read:\n{why}")
    table, counts, dropped = pipeline.transformed(pa.concat_tables([result[0] for result in results]), steps)
    counts = [count for result in results for count in result[1]] + counts
    table, leaked = _without_leaks(_with_test(table, test_size, seed))
    lines = [line for result in results for line in result[2]] + dropped
    if strict and any(line["stage"] != "read" for line in lines):
        raise BuildError(f"strict: transforms rejected rows, such as:\n{quarantine.describe(dropped or lines)}")
    lines += leaked
    splits = {name: table.filter(pc.equal(table["split"], name)) for name in pc.unique(table["split"]).to_pylist()}
    parts = _by_leaf(splits.pop("train", table.slice(0, 0)))
    tree = _tree(mixture, "", parts, {leaf.name: leaf for leaf in leaves}, count_tokens)
    plan = mix.plan(tree, total_size=mixture.get("total_size"), strict=strict)
    account = {
        "builder": "mixture",
        "sources": [
            {"mixture": leaf.name, **entry}
            for leaf in leaves
            if leaf.builder is not None
            for entry in pipeline.sources_of(leaf.builder)
        ],
        "options": {leaf.name: leaf.given for leaf in leaves},
        "steps": counts,
        "seed": seed,
        "test_size": test_size,
        "tokens": "counted" if count_tokens else f"estimated: UTF-8 bytes / {BYTES_PER_TOKEN}",
        "versions": {"instruct_builders": __version__, "datasets": datasets.__version__, "pyarrow": pa.__version__},
        "code": code_digest(),
    }
    rest = {name: part.drop_columns(list(RIDERS)) for name, part in splits.items()}
    return Prepared(plan, parts, rest, account, lines)


def draw(
    prepared: Prepared, *, format: str = "messages", config_name: str = "default", format_options: dict | None = None
) -> Built:
    """Draws the training split as planned and converts all splits to `format`; what [`directory.write`] takes.

    Args:
        prepared ([`Prepared`]): From [`prepare`].
        format (`str`, *optional*, defaults to `"messages"`): Columns of the result.
        config_name (`str`, *optional*, defaults to `"default"`): Name of the configuration in the result.
        format_options (`dict`, *optional*): Passed on to [`formats.convert`].
    """
    names = [name for name in prepared.parts if prepared.plan.draws.get(name)]
    pool = pa.concat_tables([prepared.parts[name] for name in names])
    tables = [pool, *prepared.rest.values()]
    # Converted before the draw: a row that is drawn twice is converted once, and all splits get the same columns.
    converted = formats.convert(
        datasets.DatasetDict(zip(("train", *prepared.rest), map(datasets.Dataset, tables), strict=True)),
        "record",
        format,
        **(format_options or {}),
    )
    ends = np.cumsum([len(prepared.parts[name]) for name in names])
    starts = ends - [len(prepared.parts[name]) for name in names]
    parts = {
        name: converted["train"].select(range(start, end))
        for name, start, end in zip(names, starts, ends, strict=True)
    }
    train = mix.draw(prepared.plan, parts, seed=prepared.account["seed"])
    splits = {"train": train, **{name: converted[name] for name in prepared.rest}}
    table = [{**entry, "license": _license(prepared.parts.get(entry["name"]))} for entry in prepared.plan.table]
    repeated = sum(max(entry["draws"] - entry["rows"], 0) for entry in table)
    account = {
        **prepared.account,
        "format": format,
        "config_name": config_name,
        "license": pipeline.license_of(tables),
        "mixture": {
            "table": table,
            "repeated": repeated,
            "not_drawn": sum(max(entry["rows"] - entry["draws"], 0) for entry in table),
        },
    }
    return Built(splits, account, list(prepared.rejected))


def _with_test(table: pa.Table, test_size: float | int, seed: int) -> pa.Table:
    """Conversations moved from `train` to `test`, of those sources that have no test rows of their own."""
    if not test_size:
        return table
    have_one = pc.unique(table["leaf"].filter(pc.equal(table["split"], "test")))
    movable = pc.and_(pc.equal(table["split"], "train"), pc.invert(pc.is_in(table["leaf"], have_one)))
    if not pc.any(movable).as_py():
        return table
    groups = pc.array_filter(pipeline.lineages(table), one_array(movable))
    test = np.zeros(len(table), bool)
    test[np.asarray(movable)] = pipeline.train_test_masks(groups, test_size, seed)
    split = pc.if_else(pa.array(test), "test", one_array(table["split"]))
    return table.set_column(table.column_names.index("split"), "split", split)


def _without_leaks(table: pa.Table) -> tuple[pa.Table, list[dict]]:
    """Training rows whose conversation is also in another split are rejected: sources overlap, and bring their own
    test splits."""
    groups, training = pipeline.lineages(table), one_array(pc.equal(table["split"], "train"))
    others = pc.invert(training)
    held_out = pa.concat_arrays([pc.unique(groups.filter(others)), pc.unique(table["id"].filter(others))])
    leaked = pc.and_(training, pc.or_(pc.is_in(groups, held_out), pc.is_in(table["id"], held_out)))
    if not pc.any(leaked).as_py():
        return table, []
    bad = table.filter(leaked)
    why = {"reason": "dup_content", "field": None, "detail": "the conversation is in a split that is held out"}
    bad = bad.append_column("rejected", pa.repeat(pa.scalar(why, REJECTED), len(bad)))
    return table.filter(pc.invert(leaked)), pipeline.rejected_lines(bad, "mixture")


def _by_leaf(train: pa.Table) -> dict[str, pa.Table]:
    """The rows of each leaf: slices where they lie together, as builders emit them, and copies where they don't."""
    runs = pc.run_end_encode(one_array(train["share_of"]))
    names, ends = runs.values.to_pylist(), runs.run_ends.to_pylist()
    rows = train.drop_columns(list(RIDERS))
    if len(set(names)) == len(names):
        starts = [0, *ends[:-1]]
        return {name: rows.slice(start, end - start) for name, start, end in zip(names, starts, ends, strict=True)}
    return {name: rows.filter(pc.equal(train["share_of"], name)) for name in dict.fromkeys(names)}


def _tree(group: Mapping, path: str, parts: dict, leaves: dict[str, Leaf], count_tokens) -> mix.Mixture:
    """The mixture as `mix` wants it: every leaf with the rows that are there to draw from."""
    sources = {}
    for name, entry in group["sources"].items():
        below = f"{path}/{name}" if path else name
        if "sources" in entry:
            sources[name] = _tree(entry, below, parts, leaves, count_tokens)
        elif "by" in entry and leaves[below].missing is None:
            own = {
                key.removeprefix(f"{below}/"): _source(part, {}, count_tokens)
                for key, part in parts.items()
                if key.startswith(f"{below}/")
            }
            own |= {task: mix.Source(0, missing=reason) for task, reason in leaves[below].left_out.items()}
            sources[name] = _group(entry, own)
        elif below in parts:
            sources[name] = _source(parts[below], entry, count_tokens)
        else:
            why = leaves[below].missing or "no training row is left after the transforms and the split"
            sources[name] = mix.Source(0, missing=why, **_numbers(entry))
    return _group(group, sources)


def _group(entry: Mapping, sources: Mapping) -> mix.Mixture:
    given = {name: entry[name] for name in ("weight", "max_epochs", "weights_by") if name in entry}
    rules = {name: entry[name] for name in ("cap", "temperature") if name in entry}
    if entry.get("preset") is None:
        return mix.Mixture(sources, **given, **rules)
    if rules:
        raise ConfigError(f"mixture: preset: {entry['preset']} sets {', '.join(rules)} itself: give one or the other.")
    return replace(mix.preset(entry["preset"], sources), **given)


def _source(part: pa.Table, entry: Mapping, count_tokens) -> mix.Source:
    texts = pc.struct_field(flat_turns(one_array(part["messages"])), "content")
    tokens = count_tokens(texts) if count_tokens else (pc.sum(pc.binary_length(texts)).as_py() or 0) // BYTES_PER_TOKEN
    return mix.Source(len(part), tokens=tokens, **_numbers(entry))


def _numbers(entry: Mapping) -> dict:
    return {name: entry[name] for name in mixture_sources.SHARED_KEYS if name in entry}


def _license(part: pa.Table | None) -> str | None:
    return None if part is None else pipeline.license_of([part])
