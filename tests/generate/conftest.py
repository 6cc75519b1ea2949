"""An engine against the scripted server, over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate.demo_server import DemoServer, Options
from instruct_builders.generate.engine import Engine, Request


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
