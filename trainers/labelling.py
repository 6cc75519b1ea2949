"""Conversations -> rows of token ids and labels under the policies for length and for typed special tokens.

recipes/sft.py trains on what this gives and recipes/check.py reports it: one code, so that the report can't differ.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import RowError, TemplateError

from . import columns, control_tokens, lengths, outcomes, supervision, tables

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
LISTS = ["input_ids", "labels"]
# `datasets` hashes a function of a module by its name alone and would serve labels made by older code.
FILES = [Path(module.__file__) for module in (control_tokens, lengths)] + [Path(__file__)]
CODE = supervision.CODE + hashlib.sha256(b"".join(file.read_bytes() for file in FILES)).hexdigest()


class Policy(NamedTuple):
    """What is done with rows that can't be trained on as they are.

    Attributes:
        limit (`int`, *optional*): Most tokens per row; `None` for no limit.
        overlength (`str`): A key of `lengths.POLICIES`.
        special_tokens (`str`): One of `control_tokens.POLICIES`.
        train_on_prompts (`bool`): Supervise every token.
    """

    limit: int | None = None
    overlength: str = "error"
    special_tokens: str = "reject"
    train_on_prompts: bool = False


class Part(NamedTuple):
    """One row of the result; without ids where `outcome` is a reason."""

    ids: np.ndarray | list
    labels: np.ndarray | list
    row: int
    outcome: str
    detail: str = ""
    tokens: int = 0  # of the whole conversation, before any cut


def label_all(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, template: str, policy: Policy
) -> datasets.Dataset:
    """Labels every row and says of every row what became of it; raises for none.

    Args:
        rows (`datasets.Dataset`): From [`trainers.conversations.conversations`].
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        template (`str`): The chat template's text.
        policy (`Policy`): What is done with rows that are too long, or hold special tokens.

    Returns:
        `datasets.Dataset`: `input_ids`, `labels`, `length` (tokens), `trained` (tokens), `row` (position in `rows`),
        `outcome` (one of `outcomes.USED`, or a reason), `detail` and `tokens` (before any cut). Cached by `datasets`.

    Raises:
        ConfigError: For a policy that does not exist.
    """
    import datasets

    lengths.check(policy.overlength)
    control_tokens.check(policy.special_tokens)
    number, text = datasets.Value("int64"), datasets.Value("string")
    lists = {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(number)}
    fields = {"length": number, "trained": number, "row": number, "outcome": text, "detail": text, "tokens": number}
    given = {"tokenizer": tokenizer, "template": template, "policy": tuple(policy), "code": CODE}
    features = datasets.Features(lists | fields)
    if not len(rows):  # of none, `map` would make none of the columns either
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    labelled = rows.with_format("arrow").map(
        _label_table,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=features,
        fn_kwargs=given | {"features": rows.features},
        desc="Labels",
    )
    return labelled.with_format(rows.format["type"], **rows.format["format_kwargs"])


def _label_table(table: pa.Table, indices: list[int], *, tokenizer, template, policy, features, code) -> pa.Table:
    """Plain rows at once; row by row those with typed special tokens, too long, of unusual shapes, or with faults."""
    import datasets

    job = _Job(tokenizer, template, Policy(*policy))
    rows, made = job.plain(table)
    limit = job.policy.limit
    over = np.zeros(len(rows), bool) if limit is None else _length(made) > limit
    long, places = made.filter(pa.array(over)), rows[over]
    rows, made = rows[~over], made.filter(pa.array(~over))
    left = np.setdiff1d(np.arange(len(table)), rows)
    parts: list[tuple[int, Part]] = []
    if len(left):
        info = datasets.DatasetInfo(features=features)
        batch = datasets.Dataset(datasets.table.InMemoryTable(table.take(left)), info=info, fingerprint="rows")[:]
        numbers = [int(indices[place]) for place in left]
        lists = zip(np.searchsorted(left, places).tolist(), *(long[name].to_pylist() for name in LISTS), strict=True)
        known = {place: job.part(ids, labels, numbers[place]) for place, ids, labels in lists}
        parts = [(int(left[place]), part) for place, part in _label_rows(job, batch, numbers, known)]
    return _to_arrow(rows, made, parts, np.asarray(indices, np.int64), job.policy)


def _label_rows(job: _Job, batch: dict, indices: list[int], known: dict[int, Part]) -> list[tuple[int, Part]]:
    """What becomes of rows, one by one, with the place of each; `known` are those that are labelled already."""
    done = known | {
        place: part
        for place, index in enumerate(indices)
        if place not in known and (part := job.first_look(batch, place, index)) is not None
    }
    plain = [place for place in range(len(indices)) if place not in done]
    done |= zip(plain, job.label(batch, plain, indices), strict=True)
    parts: list[tuple[int, Part]] = []
    for place, index in enumerate(indices):
        part = done[place]
        over = part.outcome == "whole" and job.policy.limit is not None and len(part.ids) > job.policy.limit
        parts += [(place, one) for one in (job.shorten(batch, place, index, part) if over else [part])]
    return parts


def _to_arrow(
    rows: np.ndarray, made: pa.Table, parts: list[tuple[int, Part]], indices: np.ndarray, policy: Policy
) -> pa.Table:
    """Plain rows (their places, and their lists) and parts of others in the order of the batch, and what became of
    each, as [`label_all`] tells it."""
    if parts:
        lists = ([part.ids for _, part in parts], [part.labels for _, part in parts])
        others = [pa.array([np.asarray(one, np.int64) for one in some], pa.list_(pa.int64())) for some in lists]
        others = pa.table([others[0].cast(made.schema.field("input_ids").type), others[1]], LISTS)
        made = pa.concat_tables([made, others])
    places = np.concatenate([rows, [place for place, _ in parts]]).astype(np.int64)
    order = np.argsort(places, kind="stable")
    made = made.take(pa.array(order)) if parts else made
    if policy.train_on_prompts:
        made = made.set_column(1, "labels", made["input_ids"].cast(made.schema.field("labels").type))
    learned = pc.list_flatten(made["labels"]).to_numpy() != supervision.IGNORED
    length = _length(made)
    ends, sums = (np.concatenate([[0], np.cumsum(values)]).astype(np.int64) for values in (length, learned))

    def told(plain: object, others: list, kind: pa.DataType) -> pa.Array:
        values = np.full(len(places), plain, object)
        values[len(rows) :] = others
        return pa.array(values[order], kind)

    before = told(0, [part.tokens for _, part in parts], pa.int64()).to_numpy()
    fields = {
        "length": pa.array(length, pa.int64()),
        "trained": pa.array(sums[ends[1:]] - sums[ends[:-1]], pa.int64()),
        "row": pa.array(indices[places[order]], pa.int64()),
        "outcome": told("whole", [part.outcome for _, part in parts], pa.string()),
        "detail": told("", [part.detail for _, part in parts], pa.string()),
        "tokens": pa.array(np.where(before, before, length), pa.int64()),
    }
    return pa.table([*made.columns, *fields.values()], [*LISTS, *fields])


def _length(made: pa.Table) -> np.ndarray:
    return pc.list_value_length(made["input_ids"]).to_numpy()


class _Job:
    """Tokenizer, template and policy, for the rows of one batch."""

    def __init__(self, tokenizer, template: str, policy: Policy):
        self.tokenizer, self.template, self.policy = tokenizer, template, policy
        self.special = control_tokens.pattern(tokenizer)

    def plain(self, table: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """The rows that trainers/tables.py labels, without those with typed special tokens: places and lists."""
        nothing = np.zeros(0, np.int64)
        found = tables.Labelled(nothing, nothing, nothing, nothing)
        rows = np.arange(len(table))
        if columns.takes(table, "messages"):
            if self.policy.special_tokens != "allow":
                rows = np.flatnonzero(~control_tokens.rows_with(table, control_tokens.special_tokens(self.tokenizer)))
                table = table if len(rows) == len(table) else table.take(rows)
            special = str(self.tokenizer.special_tokens_map)
            known = tables.tables(self.tokenizer, self.template, "all", len(self.tokenizer), special)
            try:
                found = known.label(table, "messages")
            except TemplateError as error:  # one of its own checks of itself: the careful way needs none of it
                logger.warning("%d rows are labelled one by one, which is slower: %s", len(table), error)
        return np.sort(rows[found.rows]), tables.to_arrow(found, [])

    def first_look(self, batch: dict, place: int, index: int) -> Part | None:
        """What becomes of a row with typed special tokens; `None` for a row without, or where they are let through."""
        if self.policy.special_tokens == "allow":
            return None
        row = row_of(batch, place)
        found = control_tokens.typed(self.special, [row["messages"], row["tools"], row["variables"]])
        if not found:
            return None
        if self.policy.special_tokens == "reject":
            told = ", ".join(f"{token!r} {times}x" for token, times in found.items())
            return Part([], [], index, "control_token", f"special tokens typed in a message: {told}")
        return self.labelled(row, index)

    def label(self, batch: dict, places: list[int], indices: list[int]) -> list[Part]:
        """The rows at `places`, all at once; one by one where there is one among them that can't be labelled."""
        if not places:
            return []
        some = {name: [column[place] for place in places] for name, column in batch.items()}
        try:
            made = supervision.prepare_batch(
                some, [indices[place] for place in places], tokenizer=self.tokenizer, chat_template=self.template
            )
        except (RowError, TemplateError):
            return [self.labelled(row_of(batch, place), indices[place]) for place in places]
        rows = zip(made["input_ids"], made["labels"], places, strict=True)
        return [self.part(ids, labels, indices[place]) for ids, labels, place in rows]

    def labelled(self, row: dict, index: int, outcome: str = "whole") -> Part:
        one = control_tokens.escape if self.policy.special_tokens == "escape" else supervision.supervise
        if one is control_tokens.escape and not control_tokens.typed(self.special, list(row.values())):
            one = supervision.supervise
        try:
            made = one(self.tokenizer, row["messages"], self.template, row["tools"], **row["variables"])
        except RowError as error:
            return Part([], [], index, error.reason, error.message)
        except TemplateError as error:
            return Part([], [], index, "schema", str(error))
        return self.part(made["input_ids"], made["labels"], index, outcome)

    def part(self, ids, labels, index: int, outcome: str = "whole") -> Part:
        return Part(ids, ids if self.policy.train_on_prompts else labels, index, outcome)

    def shorten(self, batch: dict, place: int, index: int, whole: Part) -> list[Part]:
        """What the length policy makes of a row that is too long."""
        limit, tokens, row = self.policy.limit, len(whole.ids), row_of(batch, place)
        too_long = Part([], [], index, outcomes.TOO_LONG, f"{tokens} tokens, {limit} allowed", tokens)

        def fits(messages: list[dict], opening: bool) -> bool:
            part = self.labelled(_part(row, messages, opening), index)
            return 0 < len(part.ids) <= limit

        if self.policy.overlength == "truncate_tokens":
            ids, labels = whole.ids[:limit], whole.labels[:limit]
            learns = (np.asarray(labels) != supervision.IGNORED).any()
            return [Part(ids, labels, index, "tokens_cut", "", tokens) if learns else too_long]
        if self.policy.overlength == "truncate_turns":
            messages = lengths.truncate_turns(row["messages"], fits)
            kept = [] if messages is None else [(messages, True)]
            return [self._cut(row, kept[0], index, "turns_cut", tokens) if kept else too_long]
        if self.policy.overlength == "split":
            kept, left_out = lengths.split(row["messages"], fits)
            detail = f"{left_out} of its rounds are in no part" if left_out else ""
            return [self._cut(row, part, index, "part", tokens, detail) for part in kept] or [too_long]
        return [too_long]

    def _cut(self, row: dict, kept: tuple[list[dict], bool], index: int, outcome: str, tokens: int, detail="") -> Part:
        return self.labelled(_part(row, *kept), index, outcome)._replace(tokens=tokens, detail=detail)


def row_of(batch: dict, place: int) -> dict:
    """One conversation of a batch: its `messages` without null values, `tools`, and the template's `variables`."""
    return {
        "messages": supervision.clean(batch["messages"][place]),
        "tools": supervision.tools_of(batch, place),
        "variables": supervision.variables_of(batch, place),
    }


def _part(row: dict, messages: list[dict], opening: bool) -> dict:
    """A part that does not open the conversation is without the variables (Alpaca's input) of its first question."""
    variables = row["variables"] if opening else {k: v for k, v in row["variables"].items() if k != "context"}
    return row | {"messages": messages, "variables": variables}
