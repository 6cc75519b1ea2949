"""Conversations -> rows of token ids and labels under the policies for length and for typed special tokens.

recipes/sft.py trains on what this gives and recipes/check.py reports it: one code, so that the report can't differ.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError, RowError, TemplateError

from . import columns, control_tokens, lengths, supervision, tables

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

# What became of a row, or of a part of it. All but these four mean that it is not trained on.
USED = ("whole", "turns_cut", "part", "tokens_cut")
TOO_LONG = "too_long"  # like the reasons below a key of instruct_builders.records.REASONS
STOPS = ("no_turns", "schema")  # reasons that say that the data is not what the recipe takes it for
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
        `outcome` (one of `USED`, or a reason), `detail` and `tokens` (before any cut). Cached by `datasets`.

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
    labelled = rows.with_format("arrow").map(
        _label_table,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=datasets.Features(lists | fields),
        fn_kwargs=given | {"features": rows.features},
        desc="Labels",
    )
    return labelled.with_format(rows.format["type"], **rows.format["format_kwargs"])


def settle(labelled: datasets.Dataset, policy: Policy) -> tuple[datasets.Dataset, dict[str, int]]:
    """The rows to train on, and how many came to what; raises where training should not start.

    Args:
        labelled (`datasets.Dataset`): From [`label_all`].
        policy (`Policy`): The same.

    Returns:
        `tuple`: The used rows, and [`counts`].

    Raises:
        RowError: For the first row that has nothing to learn from or that the template can't print.
        ConfigError: For rows that are too long with `overlength="error"`, and if no row is left.
    """
    outcomes = np.asarray(labelled["outcome"][:])
    for place in np.flatnonzero(np.isin(outcomes, STOPS))[:1]:
        entry = labelled[int(place)]
        raise RowError(entry["detail"], reason=entry["outcome"], row=entry["row"], field="messages")
    over = outcomes == TOO_LONG
    if over.any() and policy.overlength == "error":
        tokens = np.asarray(labelled["tokens"][:])
        longest = int(np.where(over, tokens, 0).argmax())
        raise ConfigError(
            f"{over.sum()} of {counts(labelled)['rows_in']} rows are longer than max_length {policy.limit} (the "
            f"longest, row {labelled[longest]['row']}, has {tokens[longest]} tokens). Raise max_length, or set "
            f"overlength to one of {', '.join(name for name in lengths.POLICIES if name != 'error')}."
        )
    used = np.flatnonzero(np.isin(outcomes, USED))
    if not len(used):
        raise ConfigError(f"no row is left to train on: {counts(labelled)}. Raise max_length, or mend the data.")
    return (labelled if len(used) == len(labelled) else labelled.select(used)), counts(labelled)


def counts(labelled: datasets.Dataset) -> dict[str, int]:
    """Rows in, rows out, and rows per outcome (parts of a split row: `parts`). Nothing is lost between them."""
    outcomes, rows = np.asarray(labelled["outcome"][:]), np.asarray(labelled["row"][:])
    found = dict(sorted(Counter(outcomes.tolist()).items()))
    parts = found.pop("part", 0)
    split = len(np.unique(rows[outcomes == "part"])) if parts else 0
    used = int(np.isin(outcomes, USED).sum())
    total = {"rows_in": len(np.unique(rows)), "rows_out": used}
    return total | ({"split": split, "parts": parts} if parts else {}) | found


def _label_table(table: pa.Table, indices: list[int], *, tokenizer, template, policy, features, code) -> pa.Table:
    """Plain rows at once; row by row those with typed special tokens, too long, of unusual shapes, or with faults."""
    import datasets

    job = _Job(tokenizer, template, Policy(*policy))
    found = job.plain(table)
    limit = job.policy.limit
    over = np.zeros(len(found.rows), bool) if limit is None else found.counts > limit
    long, found = tables._take(found, np.flatnonzero(over)), tables._take(found, np.flatnonzero(~over))
    left = np.setdiff1d(np.arange(len(table)), found.rows)
    parts: list[tuple[int, Part]] = []
    if len(left):
        info = datasets.DatasetInfo(features=features)
        batch = datasets.Dataset(datasets.table.InMemoryTable(table.take(left)), info=info, fingerprint="rows")[:]
        numbers = [int(indices[place]) for place in left]
        ends = np.cumsum(long.counts)[:-1]
        made = zip(np.split(long.ids, ends), np.split(long.labels, ends), strict=True) if len(long.rows) else ()
        places = np.searchsorted(left, long.rows).tolist()
        known = {
            place: job.part(ids, labels, numbers[place]) for place, (ids, labels) in zip(places, made, strict=True)
        }
        parts = [(int(left[place]), part) for place, part in _label_rows(job, batch, numbers, known)]
    return _to_arrow(found, parts, np.asarray(indices, np.int64), job.policy)


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


def _to_arrow(found: tables.Labelled, parts: list[tuple[int, Part]], indices: np.ndarray, policy: Policy) -> pa.Table:
    """Plain rows and parts of others, in the order of the batch, with what [`label_all`] says of each."""
    if policy.train_on_prompts:
        found = found._replace(labels=found.ids)
    lists = [(place, np.asarray(part.ids, np.int64), np.asarray(part.labels, np.int64)) for place, part in parts]
    made = tables.to_arrow(found, lists)
    length = pc.list_value_length(made["input_ids"]).to_numpy()
    learned = pc.list_flatten(made["labels"]).to_numpy() != supervision.IGNORED
    ends, sums = (np.concatenate([[0], np.cumsum(values)]).astype(np.int64) for values in (length, learned))
    places = np.concatenate([found.rows, [place for place, _ in parts]]).astype(np.int64)
    order = np.argsort(places, kind="stable")  # as tables.to_arrow has it

    def told(plain: object, others: list, kind: pa.DataType) -> pa.Array:
        values = np.full(len(places), plain, object)
        values[len(found.rows) :] = others
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
    return pa.table([*made.columns, *fields.values()], [*made.column_names, *fields])


class _Job:
    """Tokenizer, template and policy, for the rows of one batch."""

    def __init__(self, tokenizer, template: str, policy: Policy):
        self.tokenizer, self.template, self.policy = tokenizer, template, policy
        self.special = control_tokens.pattern(tokenizer)

    def plain(self, table: pa.Table) -> tables.Labelled:
        """The rows that trainers/tables.py labels, without those with typed special tokens."""
        if not columns.takes(table, "messages"):
            nothing = np.zeros(0, np.int64)
            return tables.Labelled(nothing, nothing, nothing, nothing)
        rows = np.arange(len(table))
        if self.policy.special_tokens != "allow":
            rows = np.flatnonzero(~_typed(table, control_tokens.special_tokens(self.tokenizer)))
            table = table if len(rows) == len(table) else table.take(rows)
        special = str(self.tokenizer.special_tokens_map)
        known = tables.tables(self.tokenizer, self.template, "all", len(self.tokenizer), special)
        found = known.label(table, "messages")
        return found._replace(rows=rows[found.rows])

    def first_look(self, batch: dict, place: int, index: int) -> Part | None:
        """What becomes of a row with typed special tokens; `None` for a row without, or where they are let through."""
        if self.policy.special_tokens == "allow":
            return None
        row = _row(batch, place)
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
            return [self.labelled(_row(batch, place), indices[place]) for place in places]
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
        limit, tokens, row = self.policy.limit, len(whole.ids), _row(batch, place)
        too_long = Part([], [], index, TOO_LONG, f"{tokens} tokens, {limit} allowed", tokens)

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


def _row(batch: dict, place: int) -> dict:
    return {
        "messages": supervision.clean(batch["messages"][place]),
        "tools": supervision._tools(batch, place),
        "variables": supervision._variables(batch, place),
    }


def _part(row: dict, messages: list[dict], opening: bool) -> dict:
    """A part that does not open the conversation is without the variables (Alpaca's input) of its first question."""
    variables = row["variables"] if opening else {k: v for k, v in row["variables"].items() if k != "context"}
    return row | {"messages": messages, "variables": variables}


def _typed(table: pa.Table, tokens: list[str]) -> np.ndarray:
    """Rows with special tokens in a content or a variable; rows with other texts are not plain in any case."""
    found = np.zeros(len(table), bool)
    if not tokens or not len(table):
        return found
    lists = table["messages"].combine_chunks()
    content = pc.struct_field(pc.list_flatten(lists), "content")
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    found[np.repeat(np.arange(len(table)), counts)[_holds(content, tokens)]] = True
    if columns.VARIABLES in table.column_names:
        given = table[columns.VARIABLES].combine_chunks()
        for field in given.type:
            if pa.types.is_string(field.type) and field.name != "role":  # as control_tokens.typed
                found |= _holds(pc.struct_field(given, field.name), tokens)
    return found


def _holds(texts: pa.Array, tokens: list[str]) -> np.ndarray:
    """Which of some texts hold one of some tokens."""
    pattern = "|".join(map(re.escape, tokens))
    return pc.fill_null(pc.match_substring_regex(texts, pattern), False).to_numpy(zero_copy_only=False)
