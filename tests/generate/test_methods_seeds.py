"""What methods start from: seed files with bad rows, and ids that are those of the built records."""

from __future__ import annotations

import json

import pytest

from instruct_builders import load_dataset
from instruct_builders.errors import SourceError, TooManyRejected
from instruct_builders.generate import results, seeds


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


def test_rows_that_a_method_cannot_use_are_counted_with_their_reasons(tmp_path):
    system = [{"role": "system", "content": "Be brief."}]
    rows = [
        {"messages": [*system, {"role": "user", "content": "Name a river."}]},
        {"instruction": "Name a town.", "is_classification": True},
        {"instruction": "Name a town.", "output": "Ulm."},
        {
            "instruction": "Name a fruit.",
            "instances": [{"input": "", "output": "Fig."}, {"input": "", "output": "Yew"}],
        },
        {"instruction": 5},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = seeds.read(path, max_bad_fraction=0.5)

    def told(method, **options):
        shown = results.usable(method, read, results.METHODS[method].options(**options))
        assert shown.seeds == read.seeds
        places = {line["row"]: line["reason"] for line in shown.rejected if line["reason"] != "non_string"}
        return results.row_counts(shown)["used"], places

    assert told("evol_instruct") == (2, {0: "earlier_turns", 2: "duplicate_seed"})
    assert told("alpaca") == (2, {0: "no_output", 1: "no_output"})
    assert told("self_instruct") == (3, {2: "duplicate_seed"})
    assert told("self_instruct", classification_only=True) == (1, dict.fromkeys((0, 2, 3), "not_classification"))
    assert told("answer") == (4, {})
    assert results.row_counts(results.usable("evol_instruct", read, None)) == {"rows": 5, "used": 2, "rejected": 3}


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
