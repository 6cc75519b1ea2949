"""Invariants of rendering: prompts say what the example says, exemplars are others, and the seed decides alone."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instruct_builders.flan import few_shot, options
from instruct_builders.flan.assign import assign
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.draws import below, chosen, draw, uniform
from instruct_builders.flan.examples import examples_of
from instruct_builders.flan.hold_out import held_out, linked
from instruct_builders.flan.prepare import Shard, divided
from instruct_builders.flan.render import render
from instruct_builders.flan.task_files import Task, parse_templates
from instruct_builders.records import REJECTED, one_array
from instruct_builders.sources import SourceFile

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).map(str.strip).filter(bool)
ASKED = [{"input": f"Q{n}: {{text}}\n\n{{options_}}", "target": "{answer}"} for n in range(8)]
INVERTED = [{"input": "Ask for {answer}.", "target": "{text}", "inverted": True}] * 2
TASK = Task("pick", (), {"text": "text"}, {"column": "answer"}, {"column": "options"})
TASK = Task(**{**TASK.__dict__, "templates": parse_templates(TASK, ASKED + INVERTED, None, "pick.yaml")})

SEED = st.integers(0, 99)


def examples(found: list[dict], start: int = 0) -> pa.Table:
    table = pa.Table.from_pylist(found)
    good, verdict = examples_of(TASK, table, np.arange(start, start + len(found)))
    assert verdict.null_count == len(found), verdict
    return good.append_column("_own", pa.array(np.arange(len(found)) + start, pa.int32()))


def rendered(good: pa.Table, pool: pa.Table | None = None, task: Task = TASK, **given) -> list[dict]:
    pool = good.slice(0, 0) if pool is None else pool
    table, verdict, _ = render(task, good.combine_chunks(), pool, FlanConfig(**given))
    assert verdict.type == REJECTED
    return table.to_pylist()


def numbered(count: int) -> list[dict]:
    return [{"text": f"<{n}>", "answer": "yes", "options": ["yes", "no"]} for n in range(count)]


@st.composite
def multiple_choice(draw_):
    choices = draw_(st.lists(TEXT, min_size=2, max_size=30, unique=True))
    return {"text": draw_(TEXT), "options": choices, "answer": draw_(st.sampled_from(choices))}


def parsed(block: str, marker: int, count: int) -> dict[str, str]:
    """Label -> text, read back from the lines of a block."""
    found = {}
    for place, line in enumerate(block.split("\n")[1 : 1 + count]):
        lead = options.prefix(marker, place)
        assert line.startswith(lead)
        found[options.label(marker, place)] = line.removeprefix(lead)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(multiple_choice(), min_size=1, max_size=12), st.integers(0, 2**32))
def test_the_label_leads_back_to_the_answer(found, seed):
    good = examples(found)
    what = assign(TASK, good["_row"].to_numpy(), FlanConfig(seed=seed))
    for row, source, marker in zip(rendered(good, seed=seed), found, what.marker.tolist(), strict=True):
        prompt, answer = (turn["content"] for turn in row["messages"])
        if marker < 0:
            assert prompt == f"Ask for {source['answer']}." and answer == source["text"]
            continue
        question, block = prompt.split("\n\n", 1)
        assert question.endswith(source["text"])
        items = parsed(block, marker, len(source["options"]))
        assert list(items.values()) == source["options"] or None in items
        if None in items:  # a marker without labels: the answer is the text
            assert answer == source["answer"]
        else:
            assert items[answer] == source["answer"]


@pytest.mark.parametrize("marker", range(len(options.MARKERS)))
def test_labels_are_different_and_stand_in_front(marker):
    names = [options.label(marker, place) for place in range(60)]
    if names[0] is None:
        assert set(names) == {None}
        return
    assert len(set(names)) == 60
    assert all(options.prefix(marker, place).startswith(name) for place, name in enumerate(names))
    assert [name.strip("()[]").lower() for name in names[25:28]] in (["z", "aa", "ab"], ["26", "27", "28"])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.one_of(st.integers(0, 8), st.tuples(st.integers(0, 4), st.integers(4, 8)).map(list)),
    st.integers(0, 2**32),
    st.sampled_from([1, 3, "all"]),
)
def test_exemplars_are_different_and_never_the_row(size, shots, seed, many):
    good = examples(numbered(size))
    config = {"shots": shots, "seed": seed, "templates_per_row": many, "options": False, "inverted": 0.0}
    low, high = FlanConfig(**config).shot_range
    for row in rendered(good, good, **config):
        template = row["template"].split("/")[1]
        *before, own = row["messages"][0]["content"].split("\n\n")
        assert len(set(before)) == len(before) and own not in [shot.split("\n")[0] for shot in before]
        assert min(low, size - 1) <= len(before) <= high
        assert f'"shots": {len(before)},' in row["meta"]
        assert all(shot.startswith(f"Q{template}: ") and shot.endswith("\nyes") for shot in before)


@settings(max_examples=100, deadline=None)
@example(size=13, pieces=5, seed=0, few=True)  # once drew by the most shots of the slice
@given(st.integers(2, 60), st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_a_slice_is_rendered_as_the_whole_is(size, pieces, seed, few):
    good = examples(numbered(size))
    config = {
        **{"seed": seed, "assignment": "random", "templates_per_row": 2, "inverted": 0.3, "options": 0.5},
        **({"shots": [0, 4], "separator": "random", "answer_separator": "random"} if few else {}),
    }
    whole = rendered(good, good, **config)
    cuts = np.linspace(0, size, pieces + 1).astype(int)
    parts = [rendered(good.slice(a, b - a), good, **config) for a, b in pairwise(cuts) if b > a]
    assert [row for part in parts for row in part] == whole


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 8), st.integers(5, 60), st.integers(0, 99))
def test_a_budget_keeps_a_beginning_of_the_exemplars(size, shots, budget, seed):
    good = examples(numbered(size))
    config = {"shots": shots, "seed": seed, "options": False, "inverted": 0.0}
    free = rendered(good, good, **config)
    table, verdict, _ = render(TASK, good, good, FlanConfig(**config, max_input_chars=budget))
    for row, why, unbound in zip(table.to_pylist(), verdict.to_pylist(), free, strict=True):
        prompt, full = row["messages"][0]["content"], unbound["messages"][0]["content"]
        own = full.split("\n\n")[-1]
        if why:
            assert why["reason"] == "over_budget" and len(own) > budget
            continue
        kept = prompt.split("\n\n")
        assert len(prompt) <= budget
        assert kept == [*full.split("\n\n")[: len(kept) - 1], own]
        longer = "\n\n".join([*full.split("\n\n")[: len(kept)], own])
        assert len(kept) == len(full.split("\n\n")) or len(longer) > budget


def test_the_parts_of_a_row_draw_apart():
    rows = np.arange(100_000)
    one, other = draw(1, "task", "header", rows), draw(1, "task", "marker", rows)
    assert abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]) < 0.02
    assert not np.array_equal(one, draw(2, "task", "header", rows))
    assert np.array_equal(one[50:60], draw(1, "task", "header", rows[50:60]))
    counts = np.bincount(below(10, one), minlength=10)
    assert counts.min() > 9_600 and counts.max() < 10_400
    assert abs(chosen(0.3, one).mean() - 0.3) < 0.01 and not chosen(0.0, one).any() and chosen(1.0, one).all()


def test_draws_are_the_same_on_every_machine():
    # Worked out once with Python's own integers: a change of numpy must not change rows.
    def by_hand(key: int, counter: int) -> int:
        mask = 2**64 - 1
        z = ((counter + 1) * 0x9E3779B97F4A7C15 + key) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = int.from_bytes(hashlib.blake2b(b"7\0rte\0header", digest_size=8).digest(), "little")
    rows = np.array([0, 1, 2**31, 2**40])
    assert draw(7, "rte", "header", rows).tolist() == [by_hand(key, row) for row in rows.tolist()]


def test_every_exemplar_has_its_turn():
    own = np.full(20_000, -1)
    picked, counts = few_shot.choose(own, np.arange(20_000), np.full(20_000, 3), 3, 50, 0, "task")
    assert (counts == 3).all()
    often = np.bincount(picked, minlength=50)
    assert often.min() > 1_000 and often.max() < 1_400


ENTRY = st.tuples(st.integers(0, 20), st.integers(0, 12), st.integers(0, 1))  # row, question, task


@settings(max_examples=200, deadline=None)
@example(found=[(0, 0, 0), (1, 0, 0), (1, 0, 1), (2, 1, 1), (3, 2, 0)], size=0.5, seed=0)
@given(
    st.lists(ENTRY, min_size=1, max_size=60), st.one_of(st.floats(0, 0.9, exclude_min=True), st.integers(1, 9)), SEED
)
def test_neither_rows_nor_questions_are_on_both_sides(found, size, seed):
    row, question, task = (np.unique(column, return_inverse=True)[1] for column in zip(*found, strict=True))
    drawn = uniform(draw(seed, "digest", "held out", row))
    mask = held_out(row, question, task, drawn, size)
    for key in (row, question):
        assert not set(key[mask]) & set(key[~mask])
    if len(set(task)) == 1:
        group = linked(row, question)
        many, out = len(set(group)), len(set(group[mask]))
        assert out == min(size, many // 2) if isinstance(size, int) else min(1, many - 1) <= out <= max(many - 1, 0)
    again = held_out(row[::-1], question[::-1], task[::-1], drawn[::-1], size)
    assert np.array_equal(again[::-1], mask)


def test_a_share_of_the_questions_is_held_out_however_many_answers_they_have():
    rows = np.arange(40_000)
    drawn = uniform(draw(3, "digest", "held out", rows))
    for answers in (1, 4):
        mask = held_out(rows, rows // answers, np.zeros_like(rows), drawn, 0.2)
        assert abs(mask.mean() - 0.2) < 0.01
    assert np.array_equal(held_out(rows, rows, np.zeros_like(rows), drawn, 0.2), drawn < 0.2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 6))
def test_shards_are_divided_without_a_gap(sizes, count):
    file = SourceFile("", "x", "train", "", "")
    shards = [Shard(file, 0, path=str(n), stop=size) for n, size in enumerate(sizes)]
    groups = divided(shards, count)
    assert 1 <= len(groups) <= count
    covered: dict[str, list] = {}
    for shard in (shard for group in groups for shard in group):
        covered.setdefault(shard.path, []).extend(range(shard.start, shard.stop))
    assert covered == {str(n): list(range(size)) for n, size in enumerate(sizes)}
    limit = -(-sum(sizes) // count)
    assert all(sum(shard.stop - shard.start for shard in group) <= max(limit, 1) for group in groups)


def test_a_question_is_the_same_whatever_its_answer_and_the_order_of_its_options():
    found = [*numbered(3), *numbered(3)]
    found.append({"text": "<0>", "answer": "no", "options": ["no", "yes"]})
    found.append({"text": "<0>", "answer": "yes", "options": ["yes", "no", "<1>"]})
    questions = one_array(examples(found)["_question"]).to_pylist()
    assert questions[:3] == questions[3:6] and questions[6] == questions[0] and len(set(questions)) == 4


def test_an_answer_that_stands_twice_among_the_options_is_not_asked_for_by_label():
    twice = [{"text": f"t{n}", "answer": "x", "options": ["x", "y", "x"]} for n in range(60)]
    other = [{"text": f"t{n}", "answer": "y", "options": ["x", "y", "x"]} for n in range(60)]
    styles = [set(), set()]
    for seen, found in zip(styles, (twice, other), strict=True):
        for row in rendered(examples(found), inverted=0.0):
            seen.add(json.loads(row["meta"])["option_style"])
            assert found is other or row["messages"][1]["content"] == "x"
    assert styles[0] == {"-", "*", "•"} and len(styles[1]) > 8
