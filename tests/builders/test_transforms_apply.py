"""Steps in a row: their account, ids, errors, `Dataset.map`, and real conversations that need no cleaning."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest

from instruct_builders import formats, records, transforms
from instruct_builders.errors import ConfigError

S, U, A, T = "system", "user", "assistant", "tool"
MARKED = '<div class="markdown prose"><p>An <em>answer</em> of some length</p></div>'
ROWS = [
    [(A, "left over"), (U, "first question"), (A, MARKED)],
    [(U, "first question"), (A, "An *answer* of some length"), (U, "more"), (A, "said")],
    [(U, "a long enough question"), (A, "Too many requests in 1 hour. Try again later.")],
    [(U, "a"), (A, "b")],
    [(U, "a long enough question"), (A, "a long enough answer"), (U, "and?"), (A, "")],
    [(U, "untouched question"), (A, "untouched answer")],
    [(U, "two in a row"), (U, "two in a row"), (A, "x")],
]


def record_table(rows: list) -> pa.Table:
    """A table with every column of a record."""
    turns = [{"role": role, "content": content} for row in rows for role, content in row]
    struct = records.MESSAGES.value_type
    size, offsets = len(turns), [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    fields = [
        pa.array([turn[field.name] for turn in turns], field.type)
        if field.name in ("role", "content")
        else pa.nulls(size, field.type)
        for field in struct
    ]
    turns = pa.StructArray.from_arrays(fields, fields=list(struct))
    messages = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns, type=records.MESSAGES)
    columns = [messages if f.name == "messages" else pa.nulls(len(rows), f.type) for f in records.RECORD]
    table = pa.Table.from_arrays(columns, schema=records.RECORD)
    return table.set_column(0, records.RECORD.field(0), records.content_ids(table))


def contents(table: pa.Table) -> list:
    return [[turn["content"] for turn in row] for row in table["messages"].to_pylist()]


def test_the_vicuna_preset_and_its_account():
    table = record_table(ROWS)
    result, account = transforms.apply(table, transforms.VICUNA)
    assert [row and row["reason"] for row in result["rejected"].to_pylist()] == [
        *[None, "dup_content", "error_page", "too_short", None, None, "role_order"]
    ]
    assert contents(result)[0] == ["first question", "An *answer* of some length"]
    assert contents(result)[4] == ["a long enough question", "a long enough answer"]
    assert result.schema.remove(result.schema.get_field_index("rejected")) == table.schema
    assert [entry["name"] for entry in account] == [
        *["trim_turns", "alternation", "html_to_markdown", "ui_residue", "strip_whitespace", "error_page"],
        *["empty_turns", "too_short", "exact_duplicates"],
    ]
    assert [entry["changed"] for entry in account] == [1, 0, 1, 0, 0, 0, 1, 0, 0]
    assert account[1] == {
        **{"name": "alternation", "rows_in": 7, "added": 0, "changed": 0, "rejected": {"role_order": 1}, "rows_out": 6}
    }
    for entry in account:
        assert entry["rows_in"] + entry["added"] == entry["rows_out"] + sum(entry["rejected"].values())
    # Ids tell the contents: new for rows 0 and 4, as they were for the others.
    assert result["id"].to_pylist() == records.content_ids(result).to_pylist()
    assert [a == b for a, b in zip(result["id"].to_pylist(), table["id"].to_pylist(), strict=True)] == [
        *[False, True, True, True, False, True, True]
    ]
    again, account = transforms.apply(result, transforms.VICUNA)
    assert again.equals(result) and not any(entry["changed"] or entry["rejected"] for entry in account)


def test_parts_point_to_the_whole_as_it_was_when_split():
    table = record_table([[(U, " q "), (A, "a"), (U, "r"), (A, "b")], ROWS[5]])
    result, account = transforms.apply(table, ["strip_whitespace", {"split_long": {"max_chars": 2}}, "too_short"])
    whole = transforms.apply(table, ["strip_whitespace"])[0]["id"][0].as_py()
    assert result["parent"].to_pylist() == [whole, whole, None]
    assert result["id"].to_pylist() == records.content_ids(result).to_pylist()
    assert account[1] == {
        **{"name": "split_long", "rows_in": 2, "added": 1, "changed": 0, "rejected": {"too_long": 1}, "rows_out": 2},
        "split": 1,
    }


def test_many_rows_are_worked_on_in_slices_and_come_back_in_order(monkeypatch):
    table = record_table(ROWS * 3)
    steps = [*transforms.VICUNA, {"split_long": {"max_chars": 30}}]
    expected, account = transforms.apply(table, steps)
    monkeypatch.setattr(transforms, "SLICE", 4)
    monkeypatch.setattr(transforms.dedup, "SLICE", 5)
    result, sliced = transforms.apply(pa.Table.from_batches(table.to_batches(max_chunksize=3)), steps)
    assert result.to_pylist() == expected.to_pylist() and sliced == account


def test_a_slice_without_a_rejected_row_goes_with_the_others(monkeypatch):
    """A slice may get the column `rejected` from a check, from a score behind it, or not at all."""
    monkeypatch.setattr(transforms, "SLICE", 2)
    good = [(U, "Name a bird that sings."), (A, "The nightingale sings at night.")]
    refused, low = [good[0], (A, "I'm sorry, but I can't assist with that.")], [good[0], (A, "x")]
    preset = {"checks": {"refusal": None}, "scores": {"length": {"min_score": 0.6}}}
    rows = [good, good, good, refused, low, good, good, good]
    table, (account,) = transforms.apply(record_table(rows), [{"quality": {"preset": preset}}])
    assert account["rejected"] == {"low_score": 1, "refusal": 1} and account["rows_out"] == 6
    said = [row["rejected"] and row["rejected"]["reason"] for row in table.to_pylist()]
    assert said == [None, None, None, "refusal", "low_score", None, None, None]


def test_batches_add_up_to_the_whole():
    table = record_table(ROWS)
    stages = transforms.stages(transforms.VICUNA)
    assert [(whole, len(steps)) for whole, steps in stages] == [(False, 8), (True, 1)]
    batches = [transforms.apply(table.slice(start, 3), stages[0][1]) for start in range(0, len(table), 3)]
    joined, last = transforms.apply(pa.concat_tables([batch for batch, _ in batches]), stages[1][1])
    whole, account = transforms.apply(table, transforms.VICUNA)
    assert joined.to_pylist() == whole.to_pylist()
    assert transforms.add_counts([counts for _, counts in batches]) + last == account
    with pytest.raises(ValueError, match="different steps"):
        transforms.add_counts([batches[0][1][:1], last])


def test_tables_without_rows():
    told = (
        "language",
        "split_long",
        "semantic_duplicates",
        "decontaminate",
        "judge",
        "given_scores",
    )  # need to be told something
    steps = [name for name in transforms.TRANSFORMS if name not in told]
    for table in (record_table(ROWS).slice(0, 0), pa.Table.from_batches([], records.RECORD)):
        result, account = transforms.apply(table, [*steps, {"split_long": {"max_chars": 9}}])
        assert result.num_rows == 0 and "rejected" in result.column_names
        assert all(entry["rows_in"] == entry["rows_out"] == 0 for entry in account)


def test_no_steps_change_nothing():
    table = record_table(ROWS)
    assert transforms.apply(table, []) == (table, [])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["trim_turn"], "'trim_turn' is not known.*Did you mean 'trim_turns'"),
        ([{"too_short": {"min_char": 3}}], "too_short: 'min_char' is no parameter.*Did you mean 'min_chars'"),
        ([{"trim_turns": {"x": 3}}], "trim_turns: 'x' is no parameter; it has none"),
        ([{"language": {"counts": 3}}], "language: 'counts' is no parameter"),
        ([{"too_short": {}, "trim_turns": {}}], "a step is a name or"),
        ([{"too_short": 3}], "a step is a name or"),
        ([3], "a step is a name or"),
        ("trim_turns", "give a list of steps"),
    ],
)
def test_misspelt_steps_are_refused_before_anything_runs(steps, message):
    with pytest.raises(ConfigError, match=message):
        transforms.check(steps)
    with pytest.raises(ConfigError, match=message):
        transforms.apply(record_table(ROWS), steps)


def test_transforms_run_in_dataset_map():
    dataset = datasets.Dataset(record_table(ROWS)).with_format("arrow")
    names = [name for name in transforms.VICUNA if isinstance(name, str)]
    for name in names:
        dataset = dataset.map(transforms.TRANSFORMS[name], batched=True, batch_size=3)
    dataset = dataset.map(
        transforms.split_long, batched=True, batch_size=3, fn_kwargs={"max_chars": 30, "overhead_per_turn": 1}
    )
    expected, _ = transforms.apply(
        record_table(ROWS), [*names, {"split_long": {"max_chars": 30, "overhead_per_turn": 1}}]
    )
    mapped = dataset.with_format("arrow")[:]
    assert contents(mapped) == contents(expected)
    assert mapped["rejected"].to_pylist() == expected["rejected"].to_pylist()
    assert mapped["meta"].to_pylist() == expected["meta"].to_pylist()


def test_every_reason_is_in_the_vocabulary():
    rows = [*ROWS, [(U, "x" * 40), (A, "b" * 40)], [(U, "blocked word here"), (A, "is rejected")]]
    steps = [*transforms.VICUNA, {"split_long": {"max_chars": 70}}, {"blocked_words": {"words": ["blocked"]}}]
    _, account = transforms.apply(record_table(rows), steps)
    used = {reason for entry in account for reason in entry["rejected"]}
    assert used <= records.REASONS.keys() and len(used) == 6


def real_records(folder) -> pa.Table:
    path = folder / "sharegpt" / "glaive_toolcall_en_demo.json"
    native = datasets.load_dataset("json", data_files=str(path), split="train")
    table = formats.to_record(native.with_format("arrow")[:], "sharegpt")
    return table.append_column("id", records.content_ids(table))


@pytest.mark.shared_data
def test_real_conversations_with_tool_calls_need_no_cleaning(shared_data):
    table = real_records(shared_data)
    steps = [*transforms.VICUNA[:-1], "role_names", "no_input_markers", {"alternation": {"repair": "merge"}}]
    steps += [{"blocked_words": {"words": ["openai"]}}, {"split_long": {"max_chars": 100_000}}]
    result, account = transforms.apply(table, steps)
    assert not any(entry["changed"] or entry["rejected"] or entry["added"] for entry in account)
    assert result.select(table.column_names).equals(table)


@pytest.mark.shared_data
def test_real_duplicates_are_those_that_a_plain_loop_finds(shared_data):
    table = real_records(shared_data)

    def said(turn):
        return turn["role"], " ".join(turn["content"].lower().split()), (turn["tool_calls"] or "").lower()

    whole, first = [], []
    for row in table.to_pylist():
        whole.append([said(turn) for turn in row["messages"]] + [row["tools"]])
        turns = [turn for turn in row["messages"] if turn["role"] != S]
        edges = [n for n, turn in enumerate(turns) if turn["role"] == U] + [len(turns)]
        first.append([said(turn) for turn in turns[edges[0] : edges[1]]])
    for on, keys in (("conversation", whole), ("first_round", first)):
        found = transforms.exact_duplicates(table, by=on)["rejected"].is_valid().to_pylist()
        assert found == [key in keys[:n] for n, key in enumerate(keys)] and sum(found) > 30


@pytest.mark.shared_data
def test_real_conversations_split_and_joined_are_what_they_were(shared_data):
    table = real_records(shared_data)
    parts, (counts,) = transforms.apply(table, [{"split_long": {"max_chars": 2500}}])
    joined, rows = [], iter(parts.to_pylist())
    for row in rows:
        turns = row["messages"]
        meta = json.loads(row["meta"] or "{}")
        for _ in range(meta.get("parts", 1) - meta.get("part", 1)):
            more = next(rows)["messages"]
            turns = turns + more[more[0]["role"] == S :]
        joined.append(turns)
    assert joined == table["messages"].to_pylist()
    assert counts["split"] > 10 and set(parts["parent"].drop_null().to_pylist()) <= set(table["id"].to_pylist())


def test_a_dataset_is_refused_with_what_to_give():
    dataset = datasets.Dataset(record_table(ROWS))
    with pytest.raises(ConfigError, match=r'with_format\("arrow"\)\[:\]'):
        transforms.apply(dataset, transforms.VICUNA)
    table, counts = transforms.apply(dataset.with_format("arrow")[:], transforms.VICUNA)
    assert table.num_rows >= len(ROWS) and counts[0]["rows_in"] == len(ROWS)
