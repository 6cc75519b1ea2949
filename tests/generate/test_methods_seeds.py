"""What methods start from: seed files with bad rows, and ids that are those of the built records."""

from __future__ import annotations

import json

import pytest

from instruct_builders import load_dataset
from instruct_builders.errors import SourceError, TooManyRejected
from instruct_builders.generate import seeds


def test_seed_files_with_bad_rows(tmp_path):
    good = [{"instruction": f"Name {n} rivers.", "output": "Many."} for n in range(8)]
    bad = [
        '{"instruction": 5}',
        '{"output": "no instruction"}',
        '{"instruction": "a", "instances": []}',
        '{"instruction": "a", "output": " "}',
        '{"messages": [{"role": "assistant", "content": "hello"}]}',
        '{"instruction": "cut',
    ]
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in good) + "\n".join(bad) + "\n")
    with pytest.raises(
        TooManyRejected, match=r"6 of 14 rows can't be used(?s:.)*line 9, row 8: non_string in instruction"
    ):
        seeds.read(path)
    read = seeds.read(path, max_bad_fraction=0.5)
    assert len(read.seeds) == 8 and read.files[0]["rows_in"] == 14
    found = [line["reason"] for line in sorted(read.rejected, key=lambda line: line["row"])]
    assert found == ["non_string", "null_field", "null_field", "empty_output", "no_turns", "bad_json"]
    path.write_text('{"text": "nothing"}\n' * 3)
    with pytest.raises(SourceError, match="no row with an instruction"):
        seeds.read(path, max_bad_fraction=1)


def test_seeds_have_the_ids_that_the_builders_give(tmp_path):
    rows = [
        {"instruction": "Name a river.", "input": "in Asia", "output": "Mekong."},
        {"instruction": "Hm?", "output": "Yes."},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = load_dataset(
        "alpaca", data_files=str(path), format="messages", split="train", cache_dir=str(tmp_path / "c")
    )
    assert [entry.id for entry in seeds.read(path).seeds] == built["id"][:]
    again = tmp_path / "messages.jsonl"
    built.to_json(str(again))
    turned = seeds.read(again).seeds
    assert [entry.id for entry in turned] == built["id"][:]
    assert (turned[0].instruction, turned[0].input, turned[0].output) == ("Name a river.", "in Asia", "Mekong.")
