"""Contamination: planted rows are found, clean ones are not, and evaluation sets are read as they come."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from instruct_builders import pipeline, quarantine, records, transforms
from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.transforms import evaluation_sets
from instruct_builders.transforms.novelty import unicode_tokens

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?"
)
SHORT = "Rewrite your previous response; start every sentence with A."  # 9 tokens
TINY = "Who wrote Faust?"
CHINESE = "娜塔莉亚在四月份卖给了她的四十八个朋友发夹，然后五月份卖出的数量减半，请问她一共卖了多少个发夹？"
ESSAY = "Here is my homework for today, please have a look. {} That was all, and thank you very much in advance!"


def table_of(pairs: list[tuple[str, str]], **columns) -> pa.Table:
    rows = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in pairs
    ]
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    return pa.table({"messages": pa.array(rows, kind), **columns})


def rejected(table: pa.Table) -> list[int]:
    return [row for row, why in enumerate(table["rejected"].to_pylist()) if why]


@pytest.fixture
def exam(tmp_path: Path) -> str:
    path = tmp_path / "exam.jsonl"
    rows = [{"question": text, "answer": "secret"} for text in (QUESTION, SHORT, TINY, CHINESE)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (QUESTION, True),
        (QUESTION.upper(), True),
        (QUESTION.replace(",", " -").replace("?", "") + "\n\n", True),
        (QUESTION.replace(" ", "\u00a0\n"), True),
        (ESSAY.format(QUESTION), True),
        (QUESTION.replace("sold", "gave").replace(" in ", " during "), False),  # changed too often: another question
        (ESSAY.format(SHORT.upper()), True),
        (TINY.lower(), True),
        (f"I ask you: {TINY}", False),  # three words stand in many texts
        ("Who wrote it?", False),
        (CHINESE, True),
        ("请回答：" + CHINESE.replace("，", "").replace("？", "。") + "谢谢！", True),
        ("她在四月份卖给了朋友什么东西呢？请用一句话回答这个问题。", False),
        (ESSAY.format("Nothing of the kind."), False),
    ],
)
def test_a_question_is_found_wherever_it_stands(exam, text, found):
    clean = "an answer that has nothing to do with it"
    table = table_of([(text, clean), ("Tell me a story.", text)])
    both = [0] if text == TINY.lower() else [0, 1]  # an answer of three words says little
    assert rejected(transforms.decontaminate(table, exam)) == (both if found else [])


def test_short_questions_are_looked_for_among_what_users_say_and_the_shortest_not_at_all(tmp_path):
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Yes", "Ja?", TINY)))
    rows = [(f"Is sentence {n} a good one?", ("Yes", "ja", TINY)[n % 3]) for n in range(30)]
    counts = Counter()
    result = transforms.decontaminate(
        table_of([*rows, ("yes", "x"), (TINY, "x")]), str(tmp_path / "exam.jsonl"), counts=counts
    )
    assert rejected(result) == [31]
    (own,) = counts["evaluation_sets"].values()
    assert (own["texts"], own["too_short"], own["rows"]) == (3, 2, 1)


FRAME = (
    "Read the following passage carefully and answer the question that follows it with yes or no. Passage: {} "
    "Question: {}"
)
ANIMALS = ["a dog", "two cats", "a very old parrot", "one goldfish in a bowl"]
THINGS = [
    "The sea is blue and wide",
    "Many birds fly south",
    "Iron rusts in wet air",
    "The moon has no air of its own",
]


@pytest.mark.parametrize("slice_rows", [7, 1024])
def test_what_many_rows_or_questions_share_is_no_sign_and_is_listed(tmp_path, monkeypatch, slice_rows):
    monkeypatch.setattr(sys.modules[transforms.decontaminate.__module__], "ROWS", slice_rows)
    exam = [FRAME.format(f"Tom has {animal}.", f"Has Tom {animal}?") for animal in ANIMALS]
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in exam))
    clean = [(FRAME.format(f"{THINGS[n % 4]}, says number {n}.", f"Is it number {n}?"), "no") for n in range(40)]
    planted = [
        (exam[0], "yes"),
        (exam[1].upper().replace(".", " ;"), "yes"),
        (ESSAY.format(exam[2]), "yes"),
        ("What is asked?", exam[3]),
    ]
    table, counts = table_of([*clean, *planted, *planted * 12]), Counter()
    result = transforms.decontaminate(table, str(tmp_path / "exam.jsonl"), counts=counts)
    assert rejected(result) == list(range(40, 92))  # a whole question counts, in however many rows
    ignored = counts["ignored"]
    assert ignored["runs"] > 5 and ignored["passages"][0]["rows"] == 92 and ignored["passages"][0]["questions"] == 4
    assert ignored["passages"][0]["text"].startswith("read the following passage carefully and answer the question")
    few = transforms.decontaminate(table_of(clean[:3] + planted[:1]), str(tmp_path / "exam.jsonl"))
    assert rejected(few) == [0, 1, 2, 3]  # three rows could as well be parts of the question
    many = [FRAME.format(f"Tom has {n} dogs.", f"Has Tom {n} dogs?") for n in range(11)]
    (tmp_path / "exam.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in many))
    few = transforms.decontaminate(table_of([*clean[:3], (many[7], "yes")]), str(tmp_path / "exam.jsonl"))
    assert rejected(few) == [3]  # eleven questions say that it is a template


def test_a_question_in_very_many_rows_is_found_in_all_of_them_and_in_what_is_near_to_it(exam):
    rows = [(QUESTION, "x")] * 12 + [(QUESTION.replace("and May?", "and in June?"), "x"), (QUESTION[:90], "x")]
    counts = Counter()
    result = transforms.decontaminate(table_of(rows), exam, counts=counts)
    assert rejected(result) == list(range(13))  # a mere part that so many rows have is not gone by, which is told
    assert result["rejected"][12].as_py()["detail"].startswith("Jaccard similarity 0.900 ")
    assert counts["ignored"]["passages"][0]["rows"] == 14


def test_rows_that_are_near_a_question_by_their_template_stay(tmp_path):
    frame = "Is the following review of a film positive or negative in its tone? {}"  # under 13 tokens in a row
    texts = [f"word{n} " * 2 for n in range(40)]
    (tmp_path / "exam.jsonl").write_text(json.dumps({"prompt": frame.format("great film")}) + "\n")
    rows = [(frame.replace("tone", f"tone{n % 2}").format(text), "positive") for n, text in enumerate(texts)]
    counts = Counter()
    table = table_of([*rows, (frame.format("Great film!"), "positive")])
    result = transforms.decontaminate(table, str(tmp_path / "exam.jsonl"), counts=counts, threshold=0.5)
    assert rejected(result) == [40] and counts["ignored"]["questions"] == 1
    assert counts["ignored"]["passages"][0]["rows"] == 40


def test_a_near_duplicate_without_a_long_run_is_found(tmp_path):
    words = [f"word{number}" for number in range(36)]
    path = tmp_path / "exam.json"
    path.write_text(json.dumps([{"prompt": " ".join(words)}]), encoding="utf-8")
    words[12] = words[24] = "changed"
    table = table_of([(" ".join(words), "x"), (ESSAY.format(" ".join(words)), "x")])
    result = transforms.decontaminate(table, str(path))
    assert rejected(result) == [0]  # a part of a longer text is no near duplicate of it
    assert (
        result["rejected"][0].as_py()["detail"].startswith("Jaccard similarity 0.700 as in exam.json row 0: 'word0 ")
    )


def test_a_question_divided_into_instruction_and_context_is_found(exam):
    first, rest = QUESTION.split(" then ")
    context = pa.array(["... and then " + rest, None])
    table = table_of([(first, "x"), ("clean", "y")], context=context)
    assert rejected(transforms.decontaminate(table, exam, ngram=20)) == [0]


def test_the_reason_the_account_and_the_lines_of_rejected_jsonl(exam):
    table = table_of([("fine", "fine"), (ESSAY.format(QUESTION), "x"), (SHORT, CHINESE)], id=pa.array(["a", "b", "c"]))
    result, (account,) = transforms.apply(table, [{"decontaminate": {"against": exam}}])
    assert account["rejected"] == {"contaminated": 2} and account["rows_out"] == 1
    (own,) = account["evaluation_sets"].items()
    assert own[0] == "exam.jsonl" and (own[1]["texts"], own[1]["rows"]) == (4, 2)
    assert own[1]["source"].startswith("exam.jsonl sha256:")
    assert (account["contaminated"], account["pairs"]) == (2, 3)
    first = account["matches"][0]
    assert (first["row"], first["id"], first["evaluation_set"], first["evaluation_row"]) == (1, "b", "exam.jsonl", 0)
    assert first["text"] == "natalia sold clips to 48 of her friends in april and then she"
    json.dumps(account)
    why = result["rejected"][2].as_py()
    assert why["reason"] in records.REASONS and why["field"] == "messages[0].content"
    assert why["detail"].startswith("9 tokens in a row as in exam.jsonl row 1: 'rewrite your previous")
    assert why["detail"].endswith("; also exam.jsonl row 3")


def test_flagged_rows_stay(exam):
    meta = pa.array(['{"stars": 5}', None, None])
    table = table_of([(QUESTION, "x"), (QUESTION, "x"), ("clean", "x")], meta=meta)
    counts = Counter()
    result = transforms.decontaminate(table, exam, action="flag", counts=counts)
    assert "rejected" not in result.column_names and counts["contaminated"] == 2
    flagged = [value and json.loads(value) for value in result["meta"].to_pylist()]
    assert flagged == [
        {"stars": 5, "contaminated": ["exam.jsonl row 0"]},
        {"contaminated": ["exam.jsonl row 0"]},
        None,
    ]
    with pytest.raises(ConfigError, match="column 'meta'"):
        transforms.decontaminate(table.drop_columns("meta"), exam, action="flag")


def test_rows_that_are_rejected_already_are_not_looked_at(exam):
    table = table_of([(QUESTION, "x"), (QUESTION, "x")])
    why = pa.array([{"reason": "too_long", "field": None, "detail": None}, None], records.REJECTED)
    counts = Counter()
    result = transforms.decontaminate(table.append_column("rejected", why), exam, counts=counts)
    assert [entry["reason"] for entry in result["rejected"].to_pylist()] == ["too_long", "contaminated"]
    assert counts["contaminated"] == 1


@pytest.mark.parametrize(
    ("rows", "columns", "texts"),
    [
        ([{"question": "one"}, {"question": "two", "prompt": "not this"}], None, ["one", "two"]),
        ([{"turns": ["one", "two"]}], None, ["one", "two"]),
        ([{"instruction": "do", "input": "this"}, {"instruction": "that", "input": ""}], None, ["do\nthis", "that\n"]),
        ([{"inputs": "one", "targets": "1"}], None, ["one"]),
        ([{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]}], None, ["one"]),
        ([{"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "1"}]}], None, ["one"]),
        ([{"goal": "one", "sol": ["two", "three"]}], ["goal", "sol"], ["one", "two", "three"]),
        ([{"problem": "one", "text": "two"}], None, ["one"]),
        ([{"premise": "one", "hypothesis": "two", "label": 1}], None, ["one\ntwo"]),
    ],
)
def test_evaluation_sets_are_read_as_they_come(tmp_path, rows, columns, texts):
    (tmp_path / "set.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    for name in ("set.json", "set.parquet"):
        questions = evaluation_sets.read({"mine": str(tmp_path / name)}, columns)
        assert questions.texts == texts and questions.sets == {"mine": len(texts)}


def test_columns_go_with_a_set_of_its_own(exam, tmp_path, monkeypatch):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"riddle": QUESTION, "hint": "one two three"}) + "\n")
    table = table_of([(QUESTION, "x"), (CHINESE, "x"), ("one two three", "x")])
    for columns, rows in (("riddle", [0, 1]), (["riddle", "hint"], [0, 1, 2])):
        against = [exam, {"mine": {"file": str(own), "columns": columns}}]
        assert rejected(transforms.decontaminate(table, against)) == rows
    assert evaluation_sets.named({"mine": {"file": str(own)}}) == {"mine": str(own)}
    monkeypatch.setenv(evaluation_sets.VARIABLE, str(own))
    monkeypatch.setattr(evaluation_sets, "KNOWN", {})
    with pytest.raises(ConfigError) as caught:
        transforms.decontaminate(table, ["at_hand"])
    shown = f"[at_hand, {{own: {{file: {own}, columns: [NAME]}}}}]"
    assert shown in str(caught.value) and "it has hint, riddle" in str(caught.value)
    named = yaml.safe_load(shown.replace("NAME", "riddle"))  # the way that the message names
    assert rejected(transforms.decontaminate(table, named)) == [0]


def test_of_a_folder_with_splits_training_rows_are_left_out(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"question,answer\nwhat is in {split},x\n", encoding="utf-8")
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "".join(f"  - split: {split}\n    path: {split}.csv\n" for split in ("train", "test"))
    (tmp_path / "README.md").write_text(card + "---\n", encoding="utf-8")
    assert evaluation_sets.read(str(tmp_path)).texts == ["what is in test"]


def test_a_set_on_the_hub_goes_by_its_id_or_short_name(hub, monkeypatch):
    from huggingface_hub import HfApi

    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in (QUESTION, CHINESE)).encode()
    HfApi().create_repo("org/exam", repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=rows, path_in_repo="test.jsonl", repo_id="org/exam", repo_type="dataset")
    monkeypatch.setitem(evaluation_sets.KNOWN, "ifeval", ("org/exam", None))
    table = table_of([(QUESTION, "x"), ("clean", "x")])
    for name in ("org/exam", "ifeval"):
        counts = Counter()
        assert rejected(transforms.decontaminate(table, [name], counts=counts)) == [0]
        own = counts["evaluation_sets"][name]
        assert (own["texts"], own["rows"]) == (2, 1) and own["source"].startswith("org/exam@")


def test_at_hand_is_what_the_variable_names_and_what_lies_in_the_hub_cache(hub, tmp_path, exam, monkeypatch):
    from huggingface_hub import HfApi, snapshot_download

    rows = json.dumps({"prompt": CHINESE}).encode()
    HfApi().create_repo("org/cached", repo_type="dataset")
    for name in ("train", "test"):
        place = {"path_in_repo": f"{name}.jsonl", "repo_id": "org/cached", "repo_type": "dataset"}
        HfApi().upload_file(path_or_fileobj=rows if name == "test" else rows.replace(b"prompt", b"x"), **place)
    monkeypatch.setitem(evaluation_sets.KNOWN, "ifeval", ("org/cached", None))
    there, missing = evaluation_sets.at_hand()
    assert not there and missing["ifeval"] == "org/cached is not in the Hub cache."
    snapshot_download("org/cached", repo_type="dataset")
    monkeypatch.setenv(evaluation_sets.VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", None)  # whoever asked the Hub would fail
    assert evaluation_sets.named(["at_hand", {"mine": exam}]).keys() == {"exam", "ifeval", "mine"}
    there, missing = evaluation_sets.at_hand()
    assert there == {"exam": exam, "ifeval": "at_hand:ifeval"} and missing.keys() == {"mt_bench", "gsm8k"}
    counts = Counter()
    table = table_of([(QUESTION, "x"), ("clean", "x"), (CHINESE, "x")])
    assert rejected(transforms.decontaminate(table, ["at_hand"], counts=counts)) == [0, 2]
    assert {name: own["rows"] for name, own in counts["evaluation_sets"].items()} == {"exam": 2, "ifeval": 1}
    assert counts["evaluation_sets"]["ifeval"]["source"].startswith("org/cached@")
    assert counts["not_at_hand"] == missing and "note" not in counts
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(evaluation_sets.VARIABLE, f"{exam}:{tmp_path}/empty")
    with pytest.raises(ConfigError, match="empty' holds no file of an evaluation set"):
        evaluation_sets.named("at_hand")
    monkeypatch.setenv(evaluation_sets.VARIABLE, f"{tmp_path}/nothing")
    with pytest.raises(ConfigError, match=r"INSTRUCT_EVALUATION_SETS: .*nothing' is not there"):
        transforms.check([{"decontaminate": {"against": ["at_hand"]}}])


def test_with_nothing_at_hand_the_step_says_so_and_changes_nothing(monkeypatch):
    monkeypatch.delenv(evaluation_sets.VARIABLE, raising=False)
    monkeypatch.setattr(evaluation_sets, "KNOWN", {"ifeval": ("org/nowhere", None)})
    table = table_of([(QUESTION, "x")])
    result, (account,) = transforms.apply(table, [{"decontaminate": {"against": ["at_hand"]}}])
    assert result.equals(table) and account["rows_out"] == 1 and account["evaluation_sets"] == {}
    assert account["note"].startswith("no evaluation set is at hand") and account["not_at_hand"].keys() == {"ifeval"}
    assert (account["contaminated"], account["pairs"], account["matches"]) == (0, 0, [])


@pytest.mark.parametrize(
    ("against", "parameters", "error", "message"),
    [
        ([], {}, ConfigError, "give evaluation sets: mt_bench, gsm8k, ifeval"),
        (["mt-bench"], {}, ConfigError, "Did you mean 'mt_bench'"),
        ([3], {}, ConfigError, "3 is no evaluation set"),
        ([{"x": {"file": "y.json", "colums": "z"}}], {}, ConfigError, "Did you mean 'columns'"),
        ([{"x": {"columns": ["z"]}}], {}, ConfigError, r"must be \{file: FILE"),
        ("EXAM", {"common": 0}, ConfigError, "1 or more rows"),
        ("EXAM", {"ngram": "13"}, ConfigError, "ngram='13'"),
        ("EXAM", {"action": "flagg"}, ConfigError, "Did you mean 'flag'"),
        ("EXAM", {"ngram": 5}, ConfigError, "shortest not above ngram"),
        ("EXAM", {"threshold": 2}, ConfigError, "above 0 up to 1"),
        ("EXAM", {"columns": "questions"}, ConfigError, "it has answer, question.*Did you mean 'question'"),
        (["EXAM", "EXAM"], {}, ConfigError, "two evaluation sets are called 'exam.jsonl'"),
        (["gsm8k"], {}, SourceError, "openai/gsm8k on the Hub, which can't be had now.*gsm8k: FILE"),
    ],
)
def test_bad_arguments(exam, hub, against, parameters, error, message):
    given = exam if against == "EXAM" else [exam if entry == "EXAM" else entry for entry in against]
    with pytest.raises(error, match=message):
        transforms.decontaminate(table_of([("a", "b")]), given, **parameters)


def test_a_damaged_evaluation_set_is_an_error(tmp_path):
    path = tmp_path / "exam.jsonl"
    path.write_text('{"question": "one"}\n{"question": \n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"exam.jsonl, row 1 can't be read: bad_json"):
        evaluation_sets.read(str(path))


def real_rows(shared_data: Path, name: str) -> list[tuple[str, str]]:
    rows = json.loads((shared_data / "alpaca" / name).read_text(encoding="utf-8"))
    return [(f"{row['instruction']}\n{row['input']}", row["output"]) for row in rows]


@pytest.mark.shared_data
def test_misses_and_false_alarms_on_real_data(shared_data):
    """160 turns of MT-Bench planted in every way among 1,999 real rows."""
    path = str(shared_data / "mt_bench" / "question.jsonl")
    turns = evaluation_sets.read(path).texts
    assert len(turns) == 160
    english, chinese = (real_rows(shared_data, f"alpaca_{name}_demo.json") for name in ("en", "zh"))
    planted = {
        "verbatim": lambda turn: turn,
        "case and punctuation": lambda turn: turn.swapcase().replace(".", " ;").replace(",", ""),
        "in longer text": lambda turn: ESSAY.format(turn),
        "in an answer in Chinese": lambda turn: f"{chinese[0][1]}{turn}{chinese[1][1]}",
    }
    misses = {}
    for name, plant in planted.items():
        rows = [(plant(turn), "x") if "answer" not in name else ("x", plant(turn)) for turn in turns]
        found = rejected(transforms.decontaminate(table_of([*rows, *english[:50]]), path))
        assert all(row < len(turns) for row in found)
        misses[name] = [turns[row] for row in range(len(turns)) if row not in found]
    assert not misses["verbatim"] and not misses["case and punctuation"]
    for name in ("in longer text", "in an answer in Chinese"):  # those that are too short to be looked for inside text
        assert {len(unicode_tokens(turn)) < 8 for turn in misses[name]} <= {True}
        assert len(misses[name]) < 10
    counts = Counter()
    alarms = rejected(transforms.decontaminate(table_of(english + chinese), path, counts=counts))
    assert len(alarms) <= 1, counts["matches"]  # two loops over a table, in Python, which an MT-Bench turn has as well


@pytest.mark.shared_data
def test_a_build_leaves_contaminated_rows_out_and_says_so(shared_data, tmp_path):
    from instruct_builders import Alpaca

    path = shared_data / "mt_bench" / "question.jsonl"
    turn = json.loads(path.read_text(encoding="utf-8").splitlines()[0])["turns"][0]
    rows = [{"instruction": text, "input": "", "output": "An answer."} for text in (turn, "Name a tree.")]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    builder = Alpaca(str(tmp_path / "rows.json"), format="record", cache_dir=str(tmp_path / "cache"))
    built = pipeline.build(builder, steps=[{"decontaminate": {"against": {"mt_bench": str(path)}}}])
    assert built.splits["train"].num_rows == 1 and quarantine.reasons(built.rejected) == {"contaminated": 1}
    assert built.build["steps"][0]["evaluation_sets"]["mt_bench"]["rows"] == 1
    assert built.build["steps"][0]["parameters"] == {"against": {"mt_bench": "question.jsonl"}}  # no path of ours
    assert built.rejected[0]["detail"].startswith("13 tokens in a row as in mt_bench row 0: 'compose an engaging")
