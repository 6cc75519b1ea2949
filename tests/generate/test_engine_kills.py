"""Processes that are killed, interrupted, or find the disk full: nothing that was answered is lost or asked again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("engine_process.py")
KILLS = 30


def command(*given) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, given)]


def log_of(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]


def wait_for_lines(path: Path, count: int) -> None:
    for _ in range(1200):
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {count} lines")


def test_thirty_kills_lose_nothing_and_ask_nothing_again(start_server, tmp_path):
    base = start_server(latency=0.04)
    (tmp_path / "server.log").touch()
    given = (base, tmp_path / "killed.sqlite", tmp_path / "killed.jsonl", tmp_path / "server.log", KILLS)
    done = subprocess.run(command("kill", *given), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["killed"] == KILLS and result["last"] == 0
    assert result["resent"] == 0  # no answered request was sent again
    paid = Counter(line["row"] for line in log_of(tmp_path))
    assert len(paid) == 1500  # every row was asked
    assert result["replies"] - 1500 <= 8 * KILLS  # twice at most what was in flight at a kill
    straight = (base, tmp_path / "straight.sqlite", tmp_path / "straight.jsonl", 1500, 64)
    assert subprocess.run(command("run", *straight), timeout=120).returncode == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "straight.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("task", "number"), [("run", signal.SIGINT), ("run", signal.SIGTERM), ("notebook", signal.SIGINT)]
)
def test_an_interrupt_waits_for_what_is_in_flight(task, number, start_server, tmp_path):
    base, output = start_server(latency=0.5), tmp_path / "out.jsonl"
    given = command(task, base, tmp_path / "run.sqlite", output, 200, 16)
    with subprocess.Popen(given, stderr=subprocess.PIPE, text=True) as process:
        wait_for_lines(tmp_path / "server.log", 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    told, why = said.splitlines()  # the first line at once, the second one when what was in flight has come
    assert "nothing more is asked; waiting for 16 replies in flight" in told and number.name in told
    assert number.name in why and "the same command" in why
    before = log_of(tmp_path)
    assert 20 <= len(before) < 200 and not output.exists()
    assert subprocess.run(given, timeout=60).returncode == 0
    # Nothing was bought twice: the replies in flight at the signal are in the journal.
    paid = Counter(line["row"] for line in log_of(tmp_path))
    assert len(paid) == 200 and set(paid.values()) == {1}


def test_a_full_disk_stops_sending_at_the_first_failed_write(start_server, tmp_path):
    base, output = start_server(latency=0.1), tmp_path / "out.jsonl"
    given = command("run", base, tmp_path / "run.sqlite", output, 600, 8)
    full = subprocess.run([*given, "400000"], capture_output=True, text=True, timeout=60)
    assert full.returncode == 4 and "can't be written" in full.stderr and full.stderr.count("\n") == 1
    before = len(log_of(tmp_path))
    assert 0 < before < 500 and not output.exists()
    assert subprocess.run(given, timeout=60).returncode == 0
    paid = Counter(line["row"] for line in log_of(tmp_path))
    assert len(paid) == 600 and len(log_of(tmp_path)) - 600 <= 2 * 8  # twice only what came or was in flight then


def test_two_runs_on_one_journal_at_once_are_refused(start_server, tmp_path):
    base = start_server(latency=0.5)
    given = command("run", base, tmp_path / "run.sqlite", tmp_path / "out.jsonl", 60, 8)
    with subprocess.Popen(given) as first:
        wait_for_lines(tmp_path / "server.log", 4)
        second = subprocess.run(given, capture_output=True, text=True, timeout=60)
        assert second.returncode == 4 and "another run" in second.stderr
        assert first.wait(timeout=60) == 0
    paid = Counter(line["row"] for line in log_of(tmp_path))
    assert len(paid) == 60 and set(paid.values()) == {1}
