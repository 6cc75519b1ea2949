"""An engine against the scripted server, over real sockets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate.demo_server import DemoServer, Options
from instruct_builders.generate.engine import Engine, Request

ROOT = Path(__file__).resolve().parent.parent.parent


def questions(count: int, **parameters) -> list[Request]:
    parameters = {"max_tokens": 400, **parameters}
    system = {"role": "system", "content": "task: answer"}
    return [
        Request(
            (system, {"role": "user", "content": f"What is there to say about the number {row}?"}),
            parameters,
            purpose="p",
        )
        for row in range(count)
    ]


@pytest.fixture
def ask_all(tmp_path):
    """Asks questions of a server in this process; gives the answers (or errors), the account and the server's log."""

    def ask(asked: list[Request], journal="run.sqlite", server=None, url=None, **settings):
        log = tmp_path / "server.log"

        async def main():
            demo = DemoServer(Options(port=0, log=str(log), **(server or {})))
            base = await demo.start()
            engine = Engine(base_url=url or base, journal=tmp_path / journal, demo=True, **settings)
            try:
                async with engine:
                    answers = await asyncio.gather(*(engine.ask(one) for one in asked), return_exceptions=True)
            finally:
                await demo.close()
            return answers, engine.account

        before = len(log.read_text().splitlines()) if log.exists() else 0
        answers, account = asyncio.run(main())
        lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
        return answers, account, lines

    return ask


@pytest.fixture
def start_server(tmp_path):
    """Starts the server in a process of its own, with its log in `tmp_path/NAME.log`; gives its base_url."""
    running = []

    def start(name: str = "server", **flags) -> str:
        given = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "instruct_builders.generate.demo_server", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--log", str(tmp_path / f"{name}.log"), *given], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process.stdout.readline().strip()

    yield start
    for process in running:
        process.terminate()
        process.wait()
        process.stdout.close()
