"""What a method asks when something is changed or something hangs: little anew, and much meanwhile."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate import results, seeds
from instruct_builders.generate.drawing import Urn, shuffled
from instruct_builders.generate.engine import Engine
from instruct_builders.generate.growing import Growth
from instruct_builders.generate.statuses import Reply
from instruct_builders.generate.yields import Yield

NEW = {"instruction": "Explain to a sailor why speed is told in knots.", "output": "Knots on a line were counted."}


@pytest.mark.parametrize(
    ("method", "options"),
    [("self_instruct", {"target": 40, "window": 4}), ("alpaca", {"target": 40})],
)
def test_a_seed_more_asks_little_anew_wherever_it_stands(method, options, tmp_path):
    rows = [json.loads(line) for line in seeds.BUNDLED.read_text(encoding="utf-8").splitlines()]

    def run(rows):
        path = tmp_path / "seeds.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        engine = Engine(demo=True, journal=tmp_path / "journal.sqlite")
        chosen = results.METHODS[method].options(**options)
        results.generate(engine, method, seeds.read(path), chosen, seed=42, folder=tmp_path / "out")
        return engine.account["run"]

    paid = run(rows)["requests"]
    asked = 0
    for place in (0, len(rows) // 2, len(rows)):
        told = run([*rows[:place], NEW, *rows[place:]])
        asked += told["requests"]
        assert told["from_journal"] >= 0.8 * paid
    assert asked <= 0.2 * paid  # once for all three: where it stands makes no difference
    assert run(rows)["requests"] == 0  # without it, the prompts are what they were


TEXTS = st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(TEXTS, st.integers(0, 8), st.integers(0, 99), st.data())
def test_a_text_more_changes_only_the_draws_it_enters(texts, count, question, data):
    urn = Urn(texts)
    drawn = [texts[place] for place in urn.draw(count, question)]
    assert len(set(drawn)) == min(count, len(texts))
    fewer = list(texts)
    gone = fewer.pop(data.draw(st.integers(0, len(texts) - 1)))
    fewer = data.draw(st.permutations(fewer))
    again = [fewer[place] for place in Urn(fewer).draw(count, question)]
    if gone in drawn:
        kept = [text for text in drawn if text != gone]
        assert again[: len(kept)] == kept
    else:
        assert again == drawn
    first = data.draw(st.integers(0, len(texts)))
    assert urn.draw(count, question, among=first) == Urn(texts[:first]).draw(count, question)
    assert [text for text in shuffled(texts, question) if text != gone] == shuffled(fewer, question)


def test_every_text_is_drawn_as_often_as_the_others():
    urn = Urn(f"text {number}" for number in range(10))
    counts, firsts = [0] * 10, [0] * 10
    for question in range(3000):
        drawn = urn.draw(3, 42, "bootstrap", question)
        firsts[drawn[0]] += 1
        for place in drawn:
            counts[place] += 1
    assert min(counts) > 800 and max(counts) < 1000  # 900 expected, with a standard deviation of 25
    assert min(firsts) > 230 and max(firsts) < 370  # 300, 16


def test_one_question_that_hangs_holds_a_part_back_and_changes_nothing():
    def grow(hung):
        """Questions that began while `hung` had no answer, and what each one was shown."""

        async def main():
            release, began, shown, sizes = asyncio.Event(), [], {}, []

            async def ask(number, known):
                began.append(number)
                shown[number] = known
                if number == hung:
                    await release.wait()
                return number

            def take(number, result):
                sizes.append(2 * (number + 1))
                return sizes[-1]

            growth = Growth(ask, window=4, barren=5)
            task = asyncio.create_task(growth.until(400, take, per_question=2.0))
            for _ in range(1000):
                await asyncio.sleep(0)
            waiting = max(began)
            release.set()
            await task
            await growth.close(True)
            return waiting, shown

        return asyncio.run(main())

    waiting, shown = grow(hung=90)
    assert waiting == 118  # question 119 would see the answers up to 90, a quarter before it
    _, undisturbed = grow(hung=None)
    assert shown == undisturbed and len(shown) == 200
    assert [shown[number] for number in (3, 4, 15, 16, 100)] == [0, 2, 24, 26, 152]


def test_alpaca_goes_on_while_its_first_answer_hangs(tmp_path):
    """Its questions build on no answer: all that are likely to be needed are asked at once."""
    asked = []

    async def main():
        enough = asyncio.Event()

        async def transport(body: bytes, *_) -> Reply:
            number = len(asked)
            asked.append(number)
            if len(asked) == 120:
                enough.set()
            if number == 0:
                await asyncio.wait([asyncio.ensure_future(enough.wait())], timeout=10)
                assert enough.is_set(), f"only {len(asked)} were asked"
            task = f"4. Instruction: Tell how a{number}b met c{number}d and left e{number}f.\n4. Output: It is told."
            choice = {"message": {"role": "assistant", "content": task}, "finish_reason": "stop"}
            return Reply(200, {}, json.dumps({"choices": [choice]}).encode())

        async with Engine(
            model="m", transport=transport, journal=tmp_path / "j.sqlite", max_concurrency=200
        ) as engine:
            chosen = results.METHODS["alpaca"]
            running = chosen.run(engine, seeds.read().seeds, chosen.options(target=130, list_length=4), 42, Yield())
            return await running.run()

    assert len(asyncio.run(main())) == 130
