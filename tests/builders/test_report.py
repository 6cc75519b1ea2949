"""The page of a built dataset: its numbers and texts, odd data, and other people's directories."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders import (
    charts,
    directory,
    formats,
    outgoing,
    page,
    pipeline,
    plots,
    report,
    report_examples,
    report_parts,
)
from instruct_builders.errors import SourceError
from instruct_builders.records import REASONS

LIMIT = 3_000_000  # bytes of a page


def conversation(question: str, answer: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def rows(count: int) -> list[dict]:
    return [
        conversation(f"Write a story about place {n}.", f"Once upon a time {n}.", id=f"{n:032x}") for n in range(count)
    ]


def account(rows_in: int, **more) -> dict:
    source = {"source": "rows.json", "digest": "00ff", "license": None, "split": "train", "added": 0, "rejected": {}}
    base = {"builder": "alpaca", "format": "messages", "config_name": "default", "license": None, "seed": 42}
    return {**base, "sources": [{**source, "rows_in": rows_in, "rows_out": rows_in}], "steps": [], **more}


def line(reason: str, raw: str, **more) -> dict:
    place = {"file": "rows.json", "row": 1, "line": 2, "offset": 3, "split": "train", "stage": "read"}
    return {**place, "reason": reason, "field": None, "detail": None, "id": None, "raw": raw, "raw_bytes": 9, **more}


def write(out: Path, some: list[dict], rejected: list[dict] = (), **more) -> Path:
    build = account(len(some) + len(rejected), **more)
    return directory.write(out, {"train": datasets.Dataset.from_list(some)}, build, rejected)


def rendered(some: list[dict], rejected: list[dict] = (), **more) -> str:
    split = datasets.Dataset.from_list(some)
    reasons = {entry["reason"]: sum(other["reason"] == entry["reason"] for other in rejected) for entry in rejected}
    build = account(len(some) + len(rejected), splits={"train": len(some)}, rejected=reasons, **more)
    return report.render(build, {"train": split}, rejected)


def words(text: str) -> str:
    """What a reader sees, roughly."""
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", text, flags=re.S)).split())


def tile(text: str, name: str) -> int:
    return int(re.search(rf'id="{name}">([\d,]+)<', text)[1].replace(",", ""))


def test_the_numbers_are_those_of_the_account(tmp_path):
    why = {"stage": "exact_duplicates", "detail": f"same conversation as row 3 (id {3:032x})"}
    twins = [line("dup_content", json.dumps(rows(4)[3]), **why) for _ in range(2)]
    out = write(tmp_path / "out", rows(300), [*twins, line("bad_json", '{"oh": ')])
    text, build = (out / report.NAME).read_text(encoding="utf-8"), json.loads((out / "build.json").read_text())
    assert tile(text, "rows-in") == 303 and tile(text, "rows-out") == build["splits"]["train"] == 300
    assert tile(text, "rows-rejected") == sum(build["rejected"].values()) == 3
    assert "303 read = 300 in the dataset + 3 rejected" in words(text)
    found = re.findall(r'data-reason="(\w+)"><summary><b>\w+</b> <span class="n">([\d,]+)</span>', text)
    assert {reason: int(count) for reason, count in found} == build["rejected"]
    numbers = build["report"]
    assert numbers["rows"] == 300 == sum(numbers["lengths"]["answer"]["counts"])
    assert numbers["duplicates"] == {"clusters": 1, "largest": 3} | {"sizes": numbers["duplicates"]["sizes"]}
    assert numbers["duplicates"]["sizes"]["3"] == 1 and sum(numbers["duplicates"]["sizes"].values()) == 1
    assert numbers["verb_objects"]["commonest"] == [
        {"verb": "write", "object": "story", "count": 300, "verb_count": 300}
    ]
    assert "3 rows dup_content Write a story about place 3." in words(text)
    assert text.count("<tr data-split=") == report_examples.ROWS


def test_a_row_that_went_on_and_was_rejected_later_is_no_row_that_stayed():
    why = {"stage": "near_duplicates", "detail": f"Jaccard similarity 0.9 with row 3 (id {999:032x})"}
    refused = {"stage": "quality", "id": f"{999:032x}", "detail": "I can not"}
    twin, gone = (json.dumps({"messages": [{"content": text}]}) for text in ("the copy", "the sorry one"))
    lines = [line("near_duplicate", twin, **why), line("refusal", gone, **refused)]
    said = words(rendered(rows(5), lines))
    assert "1 group of rows says the same or almost the same, and one row of each went on" in said
    assert "went on, and was rejected later as refusal the sorry one" in said and " stayed " not in said


def test_the_same_rows_give_the_same_bytes(tmp_path):
    first, second = (write(tmp_path / name / "out", rows(150), [line("schema", "{}")]) for name in "ab")
    assert (first / report.NAME).read_bytes() == (second / report.NAME).read_bytes()
    assert (first / "build.json").read_bytes() == (second / "build.json").read_bytes()
    assert str(tmp_path) not in (first / report.NAME).read_text(encoding="utf-8")


def test_the_seed_chooses_the_rows():
    shown = {tuple(re.findall(r'<td class="n">(\d+)</td><td><details>', rendered(rows(250), seed=n))) for n in (7, 8)}
    assert len(shown) == 2 and all(len(numbers) == report_examples.ROWS for numbers in shown)


def test_every_format_shows_the_same_conversation():
    records = datasets.Dataset.from_list(rows(3))
    for format in formats.FORMATS:
        template = {"template": "{% for turn in messages %}{{ turn.content }}\n{% endfor %}"}
        split = formats.convert(records, "messages", format, **(template if format == "text" else {}))
        build = account(3, format=format, splits={"train": 3}, rejected={})
        text = report.render(build, {"train": split}, [])
        assert "Write a story about place 2." in text and "Once upon a time 2." in text, format
        assert ("Prompts" in words(text)) == (format != "text"), format


ODD = {
    "one row": [conversation("Hi", "Hello")],
    "empty texts": [conversation("", ""), conversation("\n", " ")],
    "no answer": [{"messages": [{"role": "user", "content": "Anybody?"}]}],
    "Chinese": [conversation("请写一首关于春天的诗。", "春眠不觉晓,处处闻啼鸟。")] * 3,
    "right to left": [conversation("ما هي عاصمة فرنسا؟", "עיר הבירה היא פריז.")],
    "turned around": [conversation("a\u202eb\u2066c", "\u0000\u0007\ufeff")],
    "one long line": [conversation("x" * 50_000, "<" * 50_000)],
    "tools": [
        {
            "messages": [
                {"role": "user", "content": "Weather?", "tool_calls": None},
                {"role": "assistant", "content": "", "tool_calls": '[{"function": {"name": "weather"}}]'},
                {"role": "tool", "content": "rain", "tool_calls": None},
                {"role": "assistant", "content": "It rains.", "tool_calls": None},
            ]
        }
    ],
    "many turns": [{"messages": conversation("Again?", "Yes.")["messages"] * 400}],
    "many tasks": [conversation("Hi", "Hello", task=f"task {n}") for n in range(100)],
    "half a task": [conversation("Hi", "Hello", task="one"), conversation("Ho", "Hello", task=None)],
    "emoji": [conversation("👩‍👩‍👧 نمی‌خواهم", "👍🏽")],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_has_a_page(name):
    some = ODD[name]
    text = rendered(some)
    assert text.count("<tr data-split=") == len(some) and len(text.encode()) < LIMIT
    assert "Nothing was rejected." in text and "Nobody looked" in text
    shown = {letter for letter in html.unescape(text) if unicodedata.category(letter) in page.HIDDEN}
    assert shown <= {"\n", "\u200c", "\u200d"}
    if name == "one long line":
        assert re.search(r"\(49,\d\d\d more characters\)", text)
    if name == "tools":
        assert "weather" in text and "rain" in text and "It rains." in text
    if name == "many turns":
        assert "and 792 more turns" in text
    if name == "many tasks":
        assert "The 40 largest of 100 tasks." in text
    if name == "emoji":
        assert "👩‍👩‍👧 نمی‌خواهم" in text


@pytest.mark.parametrize("letter", ["\u0000", "\U0001f600"])
def test_no_data_makes_a_large_page(letter):
    some = [conversation(letter * 700, letter * 700, task=f"{letter * 130}{n}") for n in range(205)]
    rejected = [line(reason, letter * 600, detail=letter * 600) for reason in REASONS] * 6
    rejected[0]["raw"] *= 2_000  # a line of a megabyte
    assert len(rendered(some, rejected).encode()) < LIMIT


def test_the_page_is_made_anew_for_other_peoples_directories(tmp_path):
    out = write(tmp_path / "out", rows(30), [line("schema", "{a}")])
    before = (out / report.NAME).read_bytes()
    (out / report.NAME).unlink()
    assert report.write(out) == out / report.NAME and (out / report.NAME).read_bytes() == before
    whole = (out / "build.json").read_bytes()
    build = json.loads(whole)
    numbers = build.pop("report")
    for older in (build, {**build, "report": {"layout": 0, "rows": 7}}):  # as older versions of this package wrote it
        (out / "build.json").write_text(json.dumps(older), encoding="utf-8")
        report.write(out)
        assert json.loads((out / "build.json").read_text())["report"] == numbers
        assert (out / report.NAME).read_bytes() == before
    (out / "rejected.jsonl").unlink()  # as it comes from the Hub
    text = report.write(out).read_text(encoding="utf-8")
    assert "rejected.jsonl</code> is not here" in text and tile(text, "rows-rejected") == 1
    assert not list(out.glob(".*"))


def test_what_is_no_built_dataset_is_refused(tmp_path):
    out = write(tmp_path / "out", rows(5))
    with pytest.raises(SourceError, match=r"has no build\.json\. Give a directory"):
        report.write(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"has no build\.json"):
        report.write(out / "default")
    whole = (out / "build.json").read_text(encoding="utf-8")
    for content, says in (("{", "is no JSON"), ("[]", "lacks builder"), ('{"builder": 1}', "lacks format")):
        (out / "build.json").write_text(content, encoding="utf-8")
        with pytest.raises(SourceError, match=says):
            report.write(out)
    (out / "build.json").write_text(whole.replace('"train": 5', '"train": 6'), encoding="utf-8")
    with pytest.raises(SourceError, match=r"has 5 rows in 1 files, and build\.json says 6"):
        report.write(out)
    (out / "build.json").write_text(whole, encoding="utf-8")
    next(out.glob("default/*.parquet")).write_bytes(b"PAR1 no more")
    with pytest.raises(SourceError, match="can't be read"):
        report.write(out)


def test_an_earlier_build_with_its_page_can_be_replaced(tmp_path):
    out = write(tmp_path / "out", rows(5))
    directory.write(out, {"train": datasets.Dataset.from_list(rows(6))}, account(6), overwrite=True)
    assert tile((out / report.NAME).read_text(encoding="utf-8"), "rows-out") == 6


def test_the_page_stays_here_and_pictures_go_with_the_card(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    out = write(tmp_path / "out", rows(report.PICTURED), [line("schema", "a secret row")])
    files, left = outgoing.list_files(out)
    assert {report.NAME, "rejected.jsonl"} <= {*left} and not {report.NAME, "rejected.jsonl"} & {*files}
    pictures = sorted(name for name in files if name.endswith(".png"))
    assert len(pictures) == 2  # lengths and verbs; the scores are the best in every row
    assert all(files[name].read_bytes().startswith(b"\x89PNG") for name in pictures)
    card = files["README.md"].read_text(encoding="utf-8")
    assert all(f"]({name})" in card for name in pictures) and "a secret row" not in card
    assert "a secret row" not in files["build.json"].read_text(encoding="utf-8")
    # A page that an older version published is taken off the Hub again.
    _, stale = outgoing.difference({}, {report.NAME: "0" * 64})
    assert stale == [report.NAME]
    fewer = write(tmp_path / "few", rows(report.PICTURED - 1))
    assert not list(fewer.glob("*.png"))


def test_pictures_are_the_same_twice():
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    some = [{"verb": "write", "object": "a$b", "count": 3, "verb_count": 9}]
    assert plots.verbs_picture(some) == plots.verbs_picture(some)


STEP = {"rows_in": 3, "rows_out": 2, "changed": 0, "added": 0}


def test_what_steps_recorded_is_shown():
    match = {"evaluation_set": "exam", "evaluation_row": 4, "row": 0, "id": "ab12", "field": "messages[0].content"}
    sets = {"exam": {"texts": 10, "rows": 1, "source": "exam.jsonl"}}
    found = {"evaluation_sets": sets, "contaminated": 1, "pairs": 1, "not_at_hand": {"gsm8k": "no file"}}
    matches = [{**match, "how": "13 tokens in a row", "text": "seven apples"}]
    decontaminate = {"name": "decontaminate", **STEP, "rejected": {"contaminated": 1}, **found, "matches": matches}
    judge = {"name": "judge", **STEP, "rejected": {}, "judged": 2, "unjudged": {"no_verdict": 1}, "model": "a-judge"}
    judge |= {"scores": {"clarity": {"mean": 7.5, "counts": [0, 0, 0, 0, 0, 0, 1, 1, 0, 0]}}}
    steps = [{**decontaminate, "parameters": {"against": ["/home/me/exam.jsonl"]}}, {**judge, "parameters": {}}]
    text = rendered(rows(2), [line("contaminated", "{}")], steps=steps)
    said = words(text)
    assert "1 row holds text of an evaluation set (1 pair of a row and a question): rejected." in said
    assert "exam 4 ab12 messages[0].content 13 tokens in a row seven apples" in said
    assert "gsm8k (no file)" in said
    assert "2 rows had a verdict of a-judge , from 1 to 10; no_verdict: 1" in said
    assert "Clarity mean 7.50" in said and "exam.jsonl" in said and "/home/me" not in text


def test_a_mixture_shows_what_was_there_and_what_was_drawn():
    table = [
        {"name": "big", "rows": 900, "draws": 100, "left_out": None},
        {"name": "small", "rows": 100, "draws": 100, "left_out": None},
        {"name": "gone", "rows": 0, "draws": 0, "left_out": "the file is not there"},
    ]
    mixture = {"table": table, "repeated": 5, "not_drawn": 803}
    text = rendered(rows(2), mixture=mixture)
    said = words(text)
    assert "big 900 100 0.11 50.0%" in said and "small 100 100 1.00 50.0%" in said
    assert "Nothing drawn from gone the file is not there" in said
    assert "2 read + 5 repeated by the draw = 2 in the dataset + 0 rejected + 803 not drawn" in said


def test_what_a_build_was_told_is_kept_without_folders_and_passwords():
    given = {"journal": "/home/me/j.sqlite", "model": "org/name", "base_url": "https://me:secret@judge.example/v1"}
    told = pipeline.told({"judge": [given, "~/sets/a.jsonl"], "embed": len})
    assert told["judge"] == [
        {"journal": "j.sqlite", "model": "org/name", "base_url": "https://judge.example/v1"},
        "a.jsonl",
    ]
    assert told["embed"] == "builtins:len"


def test_no_path_of_a_machine_is_shown():
    hidden = report_parts.without_folders({"a": ["/home/me/x.txt", {"b": "~/y.txt"}], "c": 3, "d": "org/name"})
    assert hidden == {"a": ["x.txt", {"b": "y.txt"}], "c": 3, "d": "org/name"}


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_nothing_shown_is_hidden(text):
    shown = page.readable(text)
    assert not [one for one in shown if unicodedata.category(one) in page.HIDDEN and one not in page.PLAIN]
    if not any(unicodedata.category(one) in page.HIDDEN for one in text):
        assert shown == text
    page.visible(text).encode("utf-8")


@given(st.text(alphabet=st.characters(codec=None), max_size=300), st.integers(1, 200))
def test_a_cut_text_says_what_is_missing(text, limit):
    made = report_examples.cut(text, limit)
    assert made["text"] == page.readable(text[: len(text) - made["hidden"]])
    assert len(text) - made["hidden"] <= limit and len(html.escape(made["text"])) <= 2 * limit


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_bars_are_as_tall_as_their_counts(counts):
    chart = charts.histogram([str(n) for n in range(len(counts))], counts)
    for bar, count in zip(chart["bars"], counts, strict=True):
        exact = charts.HEIGHT * count / max(chart["most"], 1)
        assert (count > 0) == (bar["height"] > 0) and exact - 0.01 <= bar["height"] <= max(exact, 1.5) + 0.01
    shares = charts.parts([(str(n), count) for n, count in enumerate(counts)])
    assert not sum(counts) or abs(sum(part["share"] for part in shares) - 100) < 1e-6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=12))
def test_the_wheel_is_full(entries):
    commonest = [{"verb": verb, "object": f"o{n}", "count": count} for n, (verb, count) in enumerate(entries)]
    segments = charts.wheel(commonest)
    for ring in ("verb", "object"):
        own = [part for part in segments if part["ring"] == ring]
        assert sum(part["count"] for part in own) == sum(count for _, count in entries)
        assert all(part["path"].startswith("M") and "nan" not in part["path"] for part in own)
