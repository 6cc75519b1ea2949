"""An engine against the scripted server, over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate import results, seeds
from instruct_builders.generate.demo_answers import kind_of
from instruct_builders.generate.demo_server import DemoServer, Options
from instruct_builders.generate.engine import Engine, Request
from instruct_builders.generate.statuses import Reply


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
def run_with(tmp_path):
    """Runs a method with a function from (kind of question, request, its number) to text or (text, finish reason)."""

    def run(method, model, options=None, given=None, review=None, **settings):
        seen = []

        async def transport(body: bytes, *_) -> Reply:
            request = json.loads(body)
            said = model(kind_of(request["messages"]), request, len(seen))
            seen.append(request)
            text, finish = said if isinstance(said, tuple) else (said, "stop")
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
            return Reply(200, {}, json.dumps({"choices": [choice]}).encode())

        settings = {"max_retries": 1, "max_concurrency": 4} | settings
        engine = Engine(model="m", transport=transport, journal=tmp_path / "journal.sqlite", **settings)
        chosen = results.METHODS[method].options(**(options or {}))
        given = given or seeds.read()
        result = results.generate(engine, method, given, chosen, seed=1, folder=tmp_path / "out", review_file=review)
        return result, seen

    return run
