"""`prepare` gives what `supervise` gives row by row, for whole datasets, and names the row that can't be prepared."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError, RowError, TemplateError

pytest.importorskip("transformers")
pytest.importorskip("trl")

from trainers import layouts, supervision, tables
from trainers.supervision import prepare, prepare_batch, supervise

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "supervision_cases.py"


def _load():
    spec = importlib.util.spec_from_file_location("supervision_cases", FILE)
    module = sys.modules.setdefault("supervision_cases", importlib.util.module_from_spec(spec))
    if not hasattr(module, "cases"):
        spec.loader.exec_module(module)
    return module


cases_of = _load()
TEMPLATES = cases_of.templates()
NAMES = [
    "ours/alpaca",
    "ours/vicuna",
    "trl/deepseek_r1_distill_training",
    "trl/gptoss",
    "trl/llama3",
    "trl/nemotron_3_nano",
    "trl/phi3_training",
    "trl/qwen3",
    "trl/qwen3_5_nothink",
]
FAST = {name: cases_of.tokenizer(name, TEMPLATES[name]) for name in NAMES}


def talk(*texts: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


def one_by_one(name: str, rows: list, **options) -> dict:
    labelled = [supervise(FAST[name], row, TEMPLATES[name], **options) for row in rows]
    return {key: [row[key] for row in labelled] for key in ("input_ids", "labels")}


def together(name: str, rows: list, **options) -> dict:
    batch = prepare_batch(
        {"messages": rows}, list(range(len(rows))), tokenizer=FAST[name], chat_template=TEMPLATES[name], **options
    )
    return {key: [list(map(int, row)) for row in column] for key, column in batch.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_of_a_dataset(name):
    rows = [talk(f"question {k}", f" answer {k}\n", *["more", "again"] * (k % 3)) for k in range(40)]
    rows += [[{"role": "system", "content": f"rules {k}"}, *talk("a", f"b{k}")] for k in range(5)]
    rows += [talk("", "<think>\nhm\n</think>\nyes"), talk("x", "<thing"), talk("y", ""), talk("z", " \n")]
    prepared = prepare(datasets.Dataset.from_dict({"messages": rows}), FAST[name], TEMPLATES[name], batch_size=16)
    assert prepared.column_names == ["input_ids", "labels"]
    due = one_by_one(name, rows)
    assert prepared["input_ids"][:] == due["input_ids"]
    assert prepared["labels"][:] == due["labels"]


PIECES = st.sampled_from(
    ["<", "\n", " ", "<think>", "</think>", "think>\n", "user", "<|im_end|>", "w0x", "é", "[", "a b"]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=4).map(
    "".join
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(NAMES), st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=4, max_size=8), st.booleans()
)
def test_any_rows(name, texts, last):
    rows, options = [talk(*pair) for pair in texts], {"train_on": "last" if last else "all"}
    try:
        due = one_by_one(name, rows, **options)
    except TemplateError:
        with pytest.raises(TemplateError, match=r"^row \d+: "):
            together(name, rows, **options)
    else:
        assert together(name, rows, **options) == due


def test_most_rows_go_the_fast_way(monkeypatch):
    careful, explain = [], supervision._explain
    monkeypatch.setattr(supervision, "_explain", lambda *row: careful.append(row) or explain(*row))
    supervision._layouts.cache_clear()
    rows = [talk(f"question {k}", f"answer {k}") for k in range(50)]
    found = together("trl/qwen3", rows)
    assert len(careful) == 1  # the first row of the shape
    assert found == one_by_one("trl/qwen3", rows)


def test_tools_as_json_and_variables_per_row():
    case = cases_of.cases()["tool call"]
    rows = datasets.Dataset.from_dict(
        {"messages": [case.messages] * 3, "tools": [json.dumps(case.tools)] * 3}, features=None
    )
    prepared = prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"])
    due = supervise(FAST["trl/qwen3"], case.messages, TEMPLATES["trl/qwen3"], case.tools)
    assert prepared[1] == due
    contexts = ["one", "", "two\n", None, "a </s> b", "three", ""]
    rows = datasets.Dataset.from_dict(
        {
            "messages": [talk(f"q{k}", f"a{k}") for k in range(7)],
            "chat_template_kwargs": [{"context": text} for text in contexts],
        }
    )
    prepared = prepare(rows, FAST["ours/alpaca"], TEMPLATES["ours/alpaca"])
    for k, text in enumerate(contexts):
        more = {"context": text} if text is not None else {}
        assert prepared[k] == supervise(FAST["ours/alpaca"], talk(f"q{k}", f"a{k}"), TEMPLATES["ours/alpaca"], **more)


def test_messages_left_out():
    rows = [talk("a", f"b{k}", "c", f"d{k}") for k in range(6)]
    for row in rows[::2]:
        row[1]["train"] = False
    due = one_by_one("trl/llama3", rows)
    assert together("trl/llama3", rows) == due
    assert sum(label != -100 for label in due["labels"][0]) < sum(label != -100 for label in due["labels"][1])


def test_the_row_at_fault_is_named():
    rows = datasets.Dataset.from_dict({"messages": [talk("a", "b"), talk("c", "d"), talk("e")]})
    with pytest.raises(RowError, match="row 2, field 'messages'"):
        prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"])
    rows = datasets.Dataset.from_dict({"messages": [talk("a", "b"), talk("c", "d", "e", "f")]})
    ends_once = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ eos_token }}"
    with pytest.raises(TemplateError, match=r"^row 1: chat template sha256:.*rule 4"):
        prepare(rows, FAST["trl/qwen3"], ends_once + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    with pytest.raises(ConfigError, match="Its columns: messages"):
        prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"], column="turns")


def test_the_same_rows_are_not_labelled_twice(tmp_path, monkeypatch):
    rows = datasets.Dataset.from_dict({"messages": [talk("a", f"b{k}", "c", "d") for k in range(5)]})
    rows.save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")
    first = prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"])
    with monkeypatch.context() as idle:
        idle.setattr(tables.Tables, "label", None)  # whoever labels now fails
        idle.setattr(supervision, "_explain", None)
        again = prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"])
    assert first.cache_files == again.cache_files
    assert again[:] == first[:]
    other = prepare(rows, FAST["trl/qwen3"], "Hello.\n" + TEMPLATES["trl/qwen3"])
    assert other.cache_files != first.cache_files
    assert other["input_ids"][0] != first["input_ids"][0]
    more = cases_of.tokenizer("trl/qwen3", TEMPLATES["trl/qwen3"])
    more.add_tokens(["b0"])
    assert prepare(rows, more, TEMPLATES["trl/qwen3"]).cache_files != first.cache_files
    last = prepare(rows, FAST["trl/qwen3"], TEMPLATES["trl/qwen3"], train_on="last")
    assert last.cache_files != first.cache_files
    assert last["labels"][0] != first["labels"][0]


def test_a_tokenizer_that_got_new_tokens_is_looked_at_again():
    fast = cases_of.tokenizer("trl/qwen3", TEMPLATES["trl/qwen3"])
    rows = [talk("a", f"b new{k}") for k in range(4)]
    before = prepare_batch({"messages": rows}, [0, 1, 2, 3], tokenizer=fast, chat_template=TEMPLATES["trl/qwen3"])
    fast.add_tokens(["new1"], special_tokens=True)
    after = prepare_batch({"messages": rows}, [0, 1, 2, 3], tokenizer=fast, chat_template=TEMPLATES["trl/qwen3"])
    assert len(after["input_ids"][1]) < len(before["input_ids"][1])
    assert after["input_ids"][1] == supervise(fast, rows[1], TEMPLATES["trl/qwen3"])["input_ids"]


def test_a_layout_that_the_template_does_not_follow_is_not_used():
    template = "{% for m in messages %}{{ m.content[:9] if loop.first else m.content }}<|im_end|>{% endfor %}"
    printer = supervision.Printer(FAST["trl/qwen3"], template)
    known = layouts.Layouts(printer)
    rows = [talk("abc", "yes"), talk("abc", "no"), talk("abcdefghijkl", "no")]
    fits = [known.fit(row, [1], {}) for row in rows]
    assert [fit is not None for fit in fits] == [False, True, False]
