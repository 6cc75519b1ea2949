"""A run in a process of its own, to be killed, interrupted or starved: writes its answers when it is complete."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import sys
import time
import zlib
from hashlib import sha256
from pathlib import Path
from random import Random

from instruct_builders.errors import InstructError
from instruct_builders.generate.engine import Engine, Request


def run(base: str, journal: str, output: str, rows: int, concurrency: int, **settings) -> int:
    """Asks `rows` questions; gives the exit code of a recipe."""

    async def main(engine: Engine) -> list[str]:
        system = {"role": "system", "content": "task: answer"}
        asked = [
            Request((system, {"role": "user", "content": f"What of row {row}?"}), {"max_tokens": 300})
            for row in range(rows)
        ]
        return [answer.text for answer in await asyncio.gather(*map(engine.ask, asked))]

    engine = Engine(base_url=base, journal=journal, demo=True, max_concurrency=concurrency, **settings)
    try:
        texts = engine.run(main)
    except InstructError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(output).write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    return 0


def answered(journal: str) -> set[str]:
    """Digests of the requests whose replies a journal holds: as the server logs them."""
    if not Path(journal).exists():
        return set()
    with sqlite3.connect(journal) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'replies'").fetchone():
            return set()  # killed before its first commit
        rows = db.execute("SELECT asked FROM replies").fetchall()
    db.close()
    return {sha256(zlib.decompress(asked)).hexdigest()[:16] for (asked,) in rows}


def kill_again_and_again(base: str, journal: str, output: str, log: str, kills: int) -> dict:
    """Forks runs and kills each at a random moment; the last one may finish.

    Gives how many were killed before their end, how many requests were sent whose reply was in the journal when their
    run began, and the replies the server gave in all.
    """
    draw, killed, resent = Random(7), 0, 0
    for kill in range(kills + 1):
        held = answered(journal)
        before = len(Path(log).read_text().splitlines())
        child = os.fork()
        if not child:
            os._exit(run(base, journal, output, 1500, 8))
        if kill < kills:
            time.sleep(draw.uniform(0.03, 0.3))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        time.sleep(0.1)  # what the server still answers to the dead
        sent = [json.loads(line) for line in Path(log).read_text().splitlines()[before:]]
        resent += sum(line["body"] in held for line in sent)
    return {"killed": killed, "resent": resent, "last": status, "replies": len(Path(log).read_text().splitlines())}


if __name__ == "__main__":
    task, *given = sys.argv[1:]
    if task == "kill":
        base, journal, output, log, kills = given
        sys.stdout.write(json.dumps(kill_again_and_again(base, journal, output, log, int(kills))))
    else:
        base, journal, output, rows, concurrency, *limit = given
        if limit:  # the largest file this process may write: a full disk for the journal alone
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), resource.RLIM_INFINITY))
        given = (base, journal, output, int(rows), int(concurrency))

        async def cell() -> int:
            return run(*given)

        # A notebook calls the code of a cell from a loop that is running.
        sys.exit(asyncio.new_event_loop().run_until_complete(cell()) if task == "notebook" else run(*given))
