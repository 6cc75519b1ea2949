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
from .records import flat_turns, one_array

# Tokens that nobody counted: UTF-8 bytes of English text per token, a rule of thumb.
BYTES_PER_TOKEN = 4
RIDERS = ("leaf", "share_of", "split", "row")  # columns beside the record's, for the time of the build


@dataclass(frozen=True)
class Prepared:
    """Everything read and planned, nothing drawn.

    Args:
        plan ([`mix.Plan`]): What will be drawn; `plan.text()` is the table to read.
        train (`pa.Table`): The training records of all sources.
        rows (`dict`): Leaf of the plan -> its rows in `train`, int64 in ascending order.
        tokens (`np.ndarray`): Of each row in `train`.
        rest (`dict`): The other splits, whole: split -> records.
        account (`dict`): What becomes `build.json`, but for what the draw adds.
        rejected (`list[dict]`): The lines of `rejected.jsonl`.
    """

    plan: mix.Plan
    train: pa.Table
    rows: dict[str, np.ndarray]
    tokens: np.ndarray
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
    count_tokens: Callable[[pa.Array], np.ndarray] | None = None,
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
        count_tokens (`Callable`, *optional*): Texts of turns -> tokens of each, int array of the same length. Without
            it tokens are estimated as UTF-8 bytes / 4.

    Raises:
        ConfigError: For a key, preset, weight or transform that can't be; nothing has been read then.
        BuildError: If nothing is left, or `strict` and a source can't be read or a transform rejected rows.
    """
    leaves = mixture_sources.leaves_of(mixture)
    _check_numbers(mixture, leaves, seed)
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
    hold_out = [leaf.name for leaf in leaves if leaf.holds_out]
    table, leaked = pipeline.without_leaks(with_test(table, test_size, seed, hold_out))
    lines = [line for result in results for line in result[2]] + dropped
    if strict and lines:
        raise BuildError(f"strict: {len(lines)} rows were rejected, the first:\n{quarantine.describe(lines)}")
    lines += leaked
    splits = {name: table.filter(pc.equal(table["split"], name)) for name in pc.unique(table["split"]).to_pylist()}
    train = splits.pop("train", table.slice(0, 0))
    rows = _rows_of(train["share_of"])
    tokens = _tokens(train, count_tokens)
    sizes = {name: (len(own), int(tokens[own].sum())) for name, own in rows.items()}
    tree = _tree(mixture, "", sizes, {leaf.name: leaf for leaf in leaves})
    plan = mix.plan(tree, total_size=mixture.get("total_size"), strict=strict)
    account = {
        "builder": "mixture",
        "sources": [
            {"mixture": leaf.name, **entry}
            for leaf in leaves
            if leaf.builder is not None
            for entry in pipeline.sources_of(leaf.builder)
        ],
        "options": {leaf.name: pipeline.told(leaf.given) for leaf in leaves},
        "steps": counts,
        "seed": seed,
        "test_size": test_size,
        "tokens": "counted" if count_tokens else f"estimated: UTF-8 bytes / {BYTES_PER_TOKEN}",
        "versions": {"instruct_builders": __version__, "datasets": datasets.__version__, "pyarrow": pa.__version__},
        "code": code_digest(),
    }
    rest = {name: part.drop_columns(list(RIDERS)) for name, part in splits.items()}
    return Prepared(plan, train.drop_columns(list(RIDERS)), rows, tokens, rest, account, lines)


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
    names, which, numbers = mix.draw_indices(prepared.plan, prepared.account["seed"])
    firsts = np.cumsum([0, *(len(prepared.rows[name]) for name in names)])
    drawn = np.concatenate([prepared.rows[name] for name in names])[firsts[which] + numbers]
    once, places = np.unique(drawn, return_inverse=True)
    # Converted before they are repeated, and nothing that is not drawn; all splits get the same columns.
    parts = {"train": datasets.Dataset(prepared.train).select(once)}
    parts |= {name: datasets.Dataset(table) for name, table in prepared.rest.items()}
    splits = formats.convert(datasets.DatasetDict(parts), "record", format, **(format_options or {}))
    splits["train"] = splits["train"].select(places)
    licenses = one_array(prepared.train["license"])
    counts = dict(zip(names, np.bincount(which).tolist(), strict=True))
    tokens = dict(zip(names, np.bincount(which, weights=prepared.tokens[drawn]).astype(int).tolist(), strict=True))
    table = prepared.plan.drawn(counts, tokens).table
    table = [{**entry, "license": _license(licenses, prepared.rows.get(entry["name"]))} for entry in table]
    account = {
        **prepared.account,
        "format": format,
        "config_name": config_name,
        "license": pipeline.license_of([prepared.train.select(["license"]).take(once), *prepared.rest.values()]),
        "mixture": {
            "table": table,
            "repeated": len(drawn) - len(once),
            "not_drawn": len(prepared.train) - len(once),
        },
    }
    return Built(dict(splits), account, list(prepared.rejected))


def _check_numbers(mixture: Mapping, leaves: list[Leaf], seed: int) -> None:
    """Raises for weights, caps and temperatures that can't be, by a plan over sources of any size."""
    total = mixture.get("total_size")
    if total is not None and (not isinstance(total, int) or isinstance(total, bool) or total < 1):
        raise ConfigError(f"mixture: total_size={total!r}: a number of rows above 0 is allowed.")
    if seed < 0:
        raise ConfigError(f"seed={seed}: 0 or more is allowed.")
    sizes = {f"{leaf.name}/any" if "by" in leaf.given else leaf.name: (1000, 1000) for leaf in leaves}
    mix.plan(_tree(mixture, "", sizes, {leaf.name: leaf for leaf in leaves}))


def with_test(table: pa.Table, test_size: float | int, seed: int, hold_out: list[str]) -> pa.Table:
    """Conversations moved from `train` to `test`, of those sources that have no test rows of their own.

    Never of those in `hold_out`: their prompts show other rows, which only the builder can keep out of them.
    """
    if not test_size:
        return table
    have_one = pc.unique(table["leaf"].filter(pc.equal(table["split"], "test"))).to_pylist()
    fixed = pa.array([*have_one, *hold_out], pa.string())
    movable = pc.and_(pc.equal(table["split"], "train"), pc.invert(pc.is_in(table["leaf"], fixed)))
    if not pc.any(movable).as_py():
        return table
    groups = pc.array_filter(pipeline.lineages(table), one_array(movable))
    test = np.zeros(len(table), bool)
    test[np.asarray(movable)] = pipeline.train_test_masks(groups, test_size, seed)
    split = pc.if_else(pa.array(test), "test", one_array(table["split"]))
    return table.set_column(table.column_names.index("split"), "split", split)


def _rows_of(names: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Where each leaf's rows are, in one pass however they lie."""
    encoded = one_array(names).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))[:-1]
    return dict(zip(encoded.dictionary.to_pylist(), np.split(order, bounds), strict=True)) if len(codes) else {}


def _tokens(train: pa.Table, count_tokens) -> np.ndarray:
    """Tokens of each row. Chunk by chunk: the texts of one source can be more than an array holds."""
    tokens = [np.zeros(0, np.int64)]
    for chunk in train["messages"].chunks:
        texts = pc.struct_field(flat_turns(chunk), "content")
        sizes = count_tokens(texts) if count_tokens else pc.binary_length(texts).fill_null(0).to_numpy()
        ends = np.cumsum(pc.list_value_length(chunk).to_numpy(zero_copy_only=False))
        tokens.append(np.diff(np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], ends])]))
    counted = np.concatenate(tokens)
    return counted if count_tokens else -(-counted // BYTES_PER_TOKEN)


def _tree(group: Mapping, path: str, sizes: dict[str, tuple[int, int]], leaves: dict[str, Leaf]) -> mix.Mixture:
    """The mixture as `mix` wants it: every leaf with the rows and tokens that are there to draw from."""
    sources = {}
    for name, entry in group["sources"].items():
        below = f"{path}/{name}" if path else name
        if "sources" in entry:
            sources[name] = _tree(entry, below, sizes, leaves)
        elif "by" in entry and leaves[below].missing is None:
            parts = [key for key in sizes if key.startswith(f"{below}/")]
            own = {key.removeprefix(f"{below}/"): mix.Source(sizes[key][0], tokens=sizes[key][1]) for key in parts}
            own |= {task: mix.Source(0, missing=reason) for task, reason in leaves[below].left_out.items()}
            sources[name] = _group(entry, own)
        elif below in sizes:
            sources[name] = mix.Source(sizes[below][0], tokens=sizes[below][1], **_numbers(entry))
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


def _numbers(entry: Mapping) -> dict:
    return {name: entry[name] for name in mixture_sources.SHARED_KEYS if name in entry}


def _license(licenses: pa.Array, rows: np.ndarray | None) -> str | None:
    if rows is None or not len(rows):
        return None
    return pipeline.license_of([pa.table({"license": licenses.take(pa.array(rows))})])
