"""Scores from a file, by id: noted, limits, and files that can't be right."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from instruct_builders import records, transforms
from instruct_builders.errors import ConfigError, SourceError


def table_of(*ids: str, meta: list | None = None) -> pa.Table:
    turns = [
        [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": "It."}] for name in ids
    ]
    return pa.table({"id": list(ids), "messages": turns, "meta": pa.array(meta or [None] * len(ids), records.JSON)})


def written(folder: Path, *lines) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "scores.jsonl").write_text(text, encoding="utf-8")
    return str(folder / "scores.jsonl")


def reasons(table: pa.Table) -> list:
    return [why and why["detail"] for why in table["rejected"].to_pylist()]


def test_scores_are_noted_and_limits_hold(tmp_path):
    file = written(
        tmp_path, *({"id": name, "ifd": score} for name, score in zip("abcd", (0.2, 0.5, 1.2, None), strict=True))
    )
    table = table_of(*"abcde", meta=['{"ifd": 9, "x": 1}', None, None, None, None])
    step = {"file": file, "least": 0.2, "most": 1.0}
    result, (account,) = transforms.apply(table, [{"given_scores": step}])
    assert reasons(result) == [None, None, "ifd 1.2 above 1", None, None]
    assert (account["scored"], account["missing"]) == (3, 2)
    assert result["meta"].combine_chunks().storage.to_pylist()[:2] == ['{"ifd": 0.2, "x": 1}', '{"ifd": 0.5}']
    result, (account,) = transforms.apply(table, [{"given_scores": {**step, "least": 0.3, "missing": "reject"}}])
    assert reasons(result) == ["ifd 0.2 below 0.3", None, "ifd 1.2 above 1", "no ifd is known", "no ifd is known"]
    assert account["rejected"] == {"score_out_of_range": 4} and "score_out_of_range" in records.REASONS


def test_the_better_duplicate_is_told_by_a_given_score(tmp_path):
    file = written(tmp_path, {"id": "a", "ifd": 0.4}, {"id": "b", "ifd": 0.9})
    turns = [
        [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": text}] for text in ("long", "x")
    ]
    table = table_of("a", "b").set_column(1, "messages", pa.array(turns))
    steps = [{"given_scores": {"file": file}}, {"near_duplicates": {"prefer": "meta.ifd"}}]
    result, _ = transforms.apply(table, steps)
    assert [why and why["reason"] for why in result["rejected"].to_pylist()] == ["near_duplicate", None]


@pytest.mark.parametrize(
    ("lines", "parameters", "error", "message"),
    [
        ([], {"file": None}, ConfigError, "file=None is not there"),
        ([], {"missing": "drop"}, ConfigError, "rows that the file does not know stay"),
        ([], {"least": 2, "most": 1}, ConfigError, "no score is right"),
        ([], {"leest": 2}, ConfigError, "Did you mean 'least'"),
        (["{"], {}, SourceError, "line 1: no object with id and ifd"),
        ([{"id": "a"}], {}, SourceError, "line 1: no object with id and ifd"),
        ([{"id": "a", "ifd": "1"}], {}, SourceError, "a string and a number"),
        (['{"id": "a", "ifd": NaN}'], {}, SourceError, "a string and a number"),
        ([{"id": "a", "ifd": 1}, {"id": "a", "ifd": 2}], {}, SourceError, "line 2: a second score for a: 1 and 2"),
    ],
)
def test_what_can_not_be_right_is_refused(tmp_path, lines, parameters, error, message):
    step = {"given_scores": {"file": written(tmp_path, *lines), **parameters}}
    with pytest.raises(error, match=message):
        transforms.apply(table_of("a"), [step])
