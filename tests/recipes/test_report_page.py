"""The report of a dataset in a real Chromium: what it shows, what it does, and what hostile rows can't make it do."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

pytestmark = pytest.mark.xdist_group("report_page")  # one worker: what the module sets up is dear

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # importlib mode puts no folder of tests on the path
    sys.path.insert(0, str(HERE))
import chromium  # noqa: E402

from instruct_builders import directory, report  # noqa: E402

DATA = Path(__file__).resolve().parents[2] / "instruct_builders" / "data"
EVIL = (
    '<script>parent.document.body.dataset.evil = 1</script><img src=x onerror="parent.document.body.dataset.evil = 1">'
    "</title></style></textarea></pre></details></table><svg onload='parent.document.body.dataset.evil = 1'>"
    '<a href="javascript:parent.document.body.dataset.evil = 1">x</a><base href=//evil.example><h1 id=evil>'
    "<link rel=stylesheet href=//evil.example/x.css><!-- ]]> {{ 7 * 7 }} {% raw %} \u2028 \u202e ' \" & &lt; \\u003c"
)

# Runs outside of the page, in the document that frames it: the page itself stays as it is, with its policy.
DRIVER = (HERE / "report_driver.js").read_text(encoding="utf-8")


def hostile() -> list[dict]:
    colours = ("red", "blue", "green")
    texts = [(f"Describe the {colour} lantern number {n}.", "Bright. " * n) for n in range(20) for colour in colours]
    texts += [
        ("ما هي عاصمة فرنسا؟", "باريس"),
        ("请写一首诗。", "春眠不觉晓。"),
        *((f"{verb} a {thing}.", "Done.") for verb in ("Write", "Describe") for thing in ("story", "recommendation")),
        (EVIL, EVIL),
        ("x" * 5000, "y" * 5000),
    ]
    return [
        {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}],
            "task": EVIL if n % 2 else "plain",
            "source": EVIL,
            "id": f"{n:032x}",
        }
        for n, (asked, said) in enumerate([(EVIL, EVIL), *texts])
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A dataset in which every text that comes from outside is hostile."""
    rows = datasets.Dataset.from_list(hostile())
    place = {
        "file": EVIL,
        "row": 1,
        "line": 2,
        "offset": 3,
        "split": "train",
        "field": EVIL,
        "detail": EVIL,
        "id": None,
    }
    rejected = [
        {**place, "stage": EVIL, "reason": reason, "raw": EVIL, "raw_bytes": 9} for reason in ("schema", "nul")
    ]
    twin = {**place, "stage": "x", "reason": "near_duplicate", "raw": json.dumps(hostile()[0]), "raw_bytes": 9}
    rejected.append({**twin, "detail": f"Jaccard similarity 0.9 with row 0 (id {0:032x})"})
    counted = {"rows_in": 70, "rows_out": 70, "changed": 0, "added": 0, "rejected": {}}
    match = {"evaluation_set": EVIL, "evaluation_row": EVIL, "row": 0, "id": EVIL, "field": EVIL, "how": EVIL}
    step = {"name": EVIL, **counted, "parameters": {EVIL: EVIL}, "contaminated": 1, "pairs": 1, EVIL: 3}
    step |= {"evaluation_sets": {EVIL: {"texts": 1, "rows": 1}}, "matches": [{**match, "text": EVIL}], "note": EVIL}
    source = {"source": EVIL, "digest": EVIL, "license": EVIL, "split": EVIL, "rows_in": len(rows) + 3, "rows_out": 9}
    drawn = {
        "name": EVIL,
        "rows": 5,
        "draws": 5,
        "rate": 1.0,
        "share": 1.0,
        "epochs": 1.0,
        "cap": None,
        "license": EVIL,
    }
    table = [{**drawn, "left_out": None}, {**drawn, "rows": 0, "draws": 0, "left_out": EVIL}]
    build = {
        **{"builder": EVIL, "format": "messages", "config_name": "default", "license": EVIL, "seed": 42},
        **{"sources": [{**source, "task": EVIL, "mixture": EVIL}], "steps": [step]},
        **{"mixture": {"table": table, "repeated": 0, "not_drawn": 0}, "left_out": [{"task": EVIL, "reason": EVIL}]},
    }
    splits = {"train": rows.select(range(len(rows) - 5)), "test": rows.select(range(len(rows) - 5, len(rows)))}
    return directory.write(tmp_path_factory.mktemp("page") / "out", splits, build, rejected, title=EVIL)


def drive(page: Path, folder: Path, dark: bool) -> tuple[dict, list[str]]:
    """What the driver tells of a page, and what the browser's console said."""
    wrapper = folder / "wrapper.html"
    framed = html.escape(page.read_text(encoding="utf-8"))
    scheme = "dark" if dark else "light"
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="{scheme}"><body>'
        f'<iframe style="width:1200px;height:900px"></iframe><script>{DRIVER}</script>'
        f'<template id="page" data-page="{framed}"></template>'
        '<script>frame.srcdoc = document.getElementById("page").dataset.page</script>',
        encoding="utf-8",
    )
    flags = [*chromium.FLAGS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    command = [chromium.find(), *flags, f"--blink-settings=preferredColorScheme={int(not dark)}", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, check=True)
    assert "data-evil" not in done.stdout
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request, built, tmp_path_factory) -> tuple[str, dict, list[str]]:
    told, console = drive(built / report.NAME, tmp_path_factory.mktemp("browser"), request.param == "dark")
    return request.param, told, console


def test_hostile_rows_stay_text(seen):
    _, told, console = seen
    assert console == [] and told["fetched"] == 0
    assert told["scripts"] == 1 and told["strangers"] == 0 and told["handlers"] == 0
    assert len(told["headings"]) == 1 and told["headings"][0].startswith("<script>parent.document")
    shown = told["text"]
    assert shown.startswith(EVIL.split("\u2028")[0]) and "\u27e8U+202E\u27e9" in shown and "\u202e" not in shown


def test_the_page_counts_as_the_account_does(seen, built):
    _, told, _ = seen
    build = json.loads((built / "build.json").read_text(encoding="utf-8"))
    numbers = [build["sources"][0]["rows_in"], sum(build["splits"].values()), sum(build["rejected"].values())]
    assert told["counts"] == [str(number) for number in numbers] and numbers[0] == numbers[1] + numbers[2]


def test_rows_can_be_searched_filtered_and_sorted(seen):
    _, told, _ = seen
    rows = len(hostile())
    assert told["first"] == f"{rows} of {rows} rows shown" and told["cleared"] == rows
    blue = [str(n) for n, row in enumerate(hostile()) if "blue lantern" in row["messages"][0]["content"]]
    assert told["found"] == blue and told["said"] == f"{len(blue)} of {rows} rows shown"
    assert told["none"] == [0, False]
    assert told["test"] == ["test"] * 5 and 0 < told["task"] < rows
    assert told["up"] == sorted(told["up"]) and told["down"] == sorted(told["up"], reverse=True)
    assert told["sorted"] == "descending" and len(set(told["up"])) > 5


def test_it_can_be_read_by_everybody(seen):
    scheme, told, _ = seen
    assert told["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    value, where = told["worst"]
    assert value >= 4.5, where
    assert told["dir"] and set(told["dir"]) == {"rtl"}
    assert told["keys"] and told["labelled"] and told["charts"] >= 8


def test_nothing_sticks_out_on_a_phone_or_elsewhere(seen):
    assert seen[1]["beyond"] == {"320": [], "360": [], "800": [], "1200": []}


def test_wheel_and_rows_can_be_read_on_a_phone_without_scrolling_to_the_side(seen):
    phone = seen[1]["phone"]
    assert phone["wheel"] == [True]
    assert len(phone["rows"]) == len(hostile()) and min(phone["rows"]) > 200  # pixels of 390


def test_the_policy_lets_nothing_run_that_is_not_ours(built):
    text = (built / report.NAME).read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert text.count("<script>") == 1 and (DATA / "report.js").read_text(encoding="utf-8") in text
    assert not re.search(r"@import|url\(|https?:", re.sub(r"<body>.*?<script>", "", text, flags=re.S))


def test_check_links_to_the_page_of_its_data(built, tmp_path, monkeypatch, capsys):
    import check

    args = check.CheckArguments(model_name_or_path="m", dataset_name=str(built))
    found = check.dataset_page(args)
    assert found == built / report.NAME
    monkeypatch.chdir(tmp_path)
    way = check.link(found, "pages/check.html")
    assert (tmp_path / "pages" / way).resolve() == found.resolve() and ":" not in way
    args.dataset_name = str(built / "default")
    assert check.dataset_page(args) is None


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("builder", "data", "flags"),
    [
        ("alpaca", "alpaca/alpaca_zh_demo.json", ["--quality", "default", "--dedup", "near"]),
        ("vicuna", "sharegpt/glaive_toolcall_en_demo.json", ["--format", "sharegpt", "--test_size", "20"]),
    ],
)
def test_real_data_has_a_page(shared_data, builder, data, flags, tmp_path, capsys):
    import build

    folders = ["--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")]
    build.main(["--builder", builder, "--data_files", str(shared_data / data), *folders, *flags])
    text = (tmp_path / "out" / report.NAME).read_text(encoding="utf-8")
    account = json.loads((tmp_path / "out" / "build.json").read_text(encoding="utf-8"))
    assert f'<dd id="rows-out">{sum(account["splits"].values()):,}</dd>' in text
    for reason, count in account["rejected"].items():
        assert f'<b>{reason}</b> <span class="n">{count:,}</span>' in text
    assert len(text.encode()) < 2_000_000 and str(tmp_path) not in text
    assert account["report"]["lengths"]["answer"]["pairs"] >= sum(account["splits"].values())
