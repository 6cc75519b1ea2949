"""The live line of a run, as somebody at a terminal sees it, and as a log file gets it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate.progress import describe

ROOT = Path(__file__).resolve().parents[2]


def watch(command: list[str], columns: int) -> tuple[int, str]:
    """Runs a command whose standard error is a terminal; gives its exit code and what the terminal was sent."""
    here, there = pty.openpty()
    terminal = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=there, cwd=ROOT, env={**os.environ, **terminal}
    ) as process:
        os.close(there)
        sent = b""
        while True:
            try:
                sent += os.read(here, 65536)
            except OSError:  # so Linux says that nobody holds the other end any more
                break
    os.close(here)
    return process.returncode, sent.decode("utf-8")


RUN = """
import sys
from pathlib import Path
from instruct_builders.generate import results, seeds, self_instruct
from instruct_builders.generate.engine import Engine
url, folder = sys.argv[1], Path(sys.argv[2])
settings = {"demo": True, "base_url": url, "progress": True, "max_concurrency": 4}
engine = Engine(journal=folder / "journal.sqlite", prices={"input": 1.0, "output": 2.0}, **settings)
options = self_instruct.SelfInstructOptions(target=20, window=4)
results.generate(engine, "self_instruct", seeds.read(), options, seed=42, folder=folder)
"""


def test_a_terminal_shows_how_far_a_run_is_and_what_it_costs(start_server, tmp_path):
    url = start_server(latency=0.15, fault="refusal", fault_share=0.3)
    code, sent = watch([sys.executable, "-c", RUN, url, str(tmp_path)], columns=60)
    assert code == 0
    # Before it is drawn again, each line of it is wiped: what stands between is a state.
    plain = re.sub(r"\x1b\[[0-9;?]*[A-JL-Za-z]", "", sent)
    states = [" ".join(state.split()) for state in re.split(r"(?:\r?\x1b\[2?K)+", plain)]
    whole = (
        r"(\d+)/20 accepted · (\d+) rejected(?: \(([^)]*)\))?(?: · (\d+) replies unusable \(([^)]*)\))? · "
        r"[\d,]+ tokens · cost \d+\.\d{4} · \d+\.\d requests/s( · \d:\d\d:\d\d left)?"
    )
    seen = [found for found in (re.fullmatch(whole, state) for state in states) if found]
    assert len(seen) >= 3  # several times while it ran
    accepted = [int(found[1]) for found in seen]
    assert accepted == sorted(accepted) and accepted[0] < 20 <= accepted[-1]
    assert any(found[6] for found in seen)
    named = [(seen[-1][place] or "").split(", ") for place in (3, 5)]
    rows, replies = (dict(one.rsplit(" ", 1) for one in reasons if one) for reasons in named)
    assert sum(map(int, rows.values())) == int(seen[-1][2]) and sum(map(int, replies.values())) == int(seen[-1][4])
    assert "refusal" in replies and "refusal" not in rows  # a row is got by asking again: it is not rejected


def test_the_line_names_the_commonest_reasons_and_leaves_out_what_is_not_known():
    account = {
        "run": {"seconds": 10.0, "requests": 40},
        "questions": {"answered": 30},
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "estimated_replies": 0},
        "rejected": {"similar": 6, "too_short": 1},
        "reasons": {"length": 2},
        "cost": None,
    }
    said = describe(account, accepted=20, goal=80)
    assert said == (
        "20/80 accepted · 7 rejected (similar 6, too_short 1) · 2 replies unusable (length 2) · 1,500 tokens · "
        "4.0 requests/s · 0:00:30 left"
    )
    assert describe(account, accepted=0, goal=80).startswith("0/80 accepted · 7 rejected")
    assert describe(account, None, goal=60).startswith("30/60 answered · 2 replies unusable (length 2)")
    assert describe(account, 20, tries=54).startswith("27/54 tried · 20 accepted · 7 rejected")
    assert describe(account, 20, tries=54).endswith("0:00:10 left") and "left" not in describe(account, 20, tries=27)
    said = describe(account | {"cost": 0.25}, accepted=None)
    assert said.startswith("30 answered · 2 replies unusable") and "cost 0.2500" in said and "left" not in said
