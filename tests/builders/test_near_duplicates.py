"""Near and semantic duplicates: against brute force, in many scripts, with numba and without."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import records, transforms
from instruct_builders.errors import ConfigError
from instruct_builders.transforms import clusters, parts, shingles, similar_sets
from instruct_builders.transforms.near_duplicates import candidates
from instruct_builders.transforms.novelty import _UNSPACED, unicode_tokens
from instruct_builders.transforms.parts import row_sets

FOX = "the quick brown fox jumps over the lazy dog and runs away into the dark old forest"


def table_of(questions: list[str], answers: list[str] | None = None, **columns) -> pa.Table:
    answers = answers or ["an answer"] * len(questions)
    rows = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in zip(questions, answers, strict=True)
    ]
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    return pa.table({"messages": pa.array(rows, kind), **columns})


def rejected(table: pa.Table) -> list[int]:
    return [row for row, why in enumerate(table["rejected"].to_pylist()) if why]


def shingle_set(text: str, n: int, characters: bool = False) -> set:
    tokens = unicode_tokens(text)
    tokens = list("".join(tokens)) if characters else tokens
    return {tuple(tokens[at : at + n]) for at in range(max(1, len(tokens) - n + 1))} if tokens else set()


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def check_against_brute_force(texts: list[str], n: int, threshold: float) -> pa.Table:
    counts = Counter()
    result = transforms.near_duplicates(table_of(texts), threshold=threshold, shingle=n, counts=counts)
    sets, gone = [shingle_set(text, n) for text in texts], set(rejected(result))
    kept = [row for row in range(len(texts)) if row not in gone and sets[row]]
    assert all(jaccard(sets[a], sets[b]) < threshold for a, b in itertools.combinations(kept, 2))
    assert all(max(jaccard(sets[row], sets[other]) for other in kept) >= threshold for row in gone)
    assert counts["not_compared"] == 0
    return result


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), max_size=9).map(" ".join), min_size=1, max_size=25),
    st.integers(1, 3),
    st.sampled_from([0.2, 0.5, 2 / 3, 0.7, 1.0]),
)
def test_what_stays_is_pairwise_unlike_and_what_goes_is_like_something_that_stays(texts, n, threshold):
    check_against_brute_force(texts, n, threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_every_pair_of_a_larger_table_is_found(threshold):
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in draw.integers(0, 30, draw.integers(1, 15))) for _ in range(400)]
    texts += [f"{text} and more" for text in texts[:200]]
    values, offsets, _ = row_sets(table_of(texts), "instruction", 2, "unicode")
    pairs, scores, left_out = similar_sets.similar_pairs(values, offsets, threshold, np.ones(len(texts), bool))
    sets = [shingle_set(text, 2) for text in texts]
    true = {
        pair: jaccard(sets[pair[0]], sets[pair[1]])
        for pair in itertools.combinations(range(len(texts)), 2)
        if jaccard(sets[pair[0]], sets[pair[1]]) >= threshold
    }
    found = {(min(pair), max(pair)): score for pair, score in zip(pairs.tolist(), scores.tolist(), strict=True)}
    assert found == true and len(pairs) == len(true) > 100 and left_out == 0


@pytest.fixture(scope="module")
def rows_of_parts() -> list[tuple[str, str | None, str, str | None]]:
    """Question, context, answer and tools of 120 rows, of which most have a part or two of another's, or nearly."""
    draw = np.random.default_rng(3)

    def text(most: int) -> str:
        return " ".join(f"w{word}" for word in draw.integers(0, 40, draw.integers(0, most)))

    rows = []
    for _ in range(120):
        old = rows[draw.integers(len(rows))] if rows else (text(20), None, text(20), None)
        new = (
            text(20),
            [None, "", text(20)][draw.integers(3)],
            text(25),
            [None, "[]", '["f"]', '["g"]'][draw.integers(4)],
        )
        row = [old[part] if draw.random() < 0.8 else new[part] for part in range(4)]
        if draw.random() < 0.5:
            part = draw.integers(3)
            row[part] = f"{row[part] or ''} w{draw.integers(40)}"
        rows.append(tuple(row))
    return rows


shingles_once = functools.cache(shingle_set)


def smallest(one: tuple, other: tuple, by: str, n: int) -> float:
    """The definition: the smallest similarity of a part, and 0 for rows that are never near duplicates."""
    kinds = {"instruction": (0, 1), "output": (2,), "both": (0, 1, 2)}[by]
    sets = [tuple(shingles_once(row[part] or "", n) for part in kinds) for row in (one, other)]
    if json.loads(one[3] or "[]") != json.loads(other[3] or "[]") or not any(sets[0]) or not any(sets[1]):
        return 0.0
    if by == "both" and any(0 < len(own[2]) < parts.SHORT for own in sets) and sets[0] != sets[1]:
        return 0.0
    return min([jaccard(a, b) for a, b in zip(*sets, strict=True) if a | b])


@pytest.mark.parametrize(("by", "threshold"), [("instruction", 0.5), ("output", 0.7), ("both", 0.4), ("both", 0.7)])
def test_rows_are_alike_where_every_part_is(rows_of_parts, by, threshold):
    questions, contexts, answers, tools = zip(*rows_of_parts, strict=True)
    table = table_of(questions, answers, context=pa.array(contexts, pa.string()), tools=pa.array(tools, pa.string()))
    values, offsets, bounds = row_sets(table, by, 2, "unicode")
    short, group = parts.short_answers(bounds, by), similar_sets.same_sets(values, offsets)
    pairs, scores, left_out = candidates(values, offsets, bounds, threshold, ~short)
    found = {(min(pair), max(pair)): score for pair, score in zip(pairs.tolist(), scores.tolist(), strict=True)}
    same = {pair: 1.0 for pair in itertools.combinations(range(120), 2) if group[pair[0]] == group[pair[1]] >= 0}
    every = {
        pair: smallest(rows_of_parts[pair[0]], rows_of_parts[pair[1]], by, 2)
        for pair in itertools.combinations(range(120), 2)
    }
    assert found | same == {pair: score for pair, score in every.items() if score >= threshold}
    assert len(found) > 10 and left_out == 0
    result = transforms.near_duplicates(table, by=by, threshold=threshold, shingle=2)
    gone = set(rejected(result))
    kept = [row for row in range(120) if row not in gone]
    assert all(every[pair] < threshold for pair in itertools.combinations(kept, 2))
    assert all(max(every[min(row, other), max(row, other)] for other in kept) >= threshold for row in gone)


def test_what_is_rendered_from_a_template_stays():
    frame = "A man put two cups on a table, cup A and cup B, and sugar in both. Which cup has a {} of {}?"
    things = [(how, what) for how in ("higher share", "lower share") for what in ("sugar", "water", "salt")]
    questions = [frame.format(*thing) for thing in things]
    long = "It is the one on the left that has more of what you ask for, as everyone can see."
    table = table_of(questions * 2, ["cup A", "cup B"] * 3 + [long] * 6)
    counts = Counter()
    result = transforms.near_duplicates(table, by="both", counts=counts)
    assert min(rejected(result)) >= 6 and counts["short_answers"] == 6  # equal long answers say that rows are alike
    assert len(rejected(transforms.near_duplicates(table, by="instruction"))) > 6
    twice = table_of([questions[0], questions[0].upper() + "!"], ["cup A", "Cup A."])
    assert rejected(transforms.near_duplicates(twice, by="both", prefer="earlier")) == [1]
    context = pa.array([FOX * 20] * 2)
    two = table_of(["How many animals are named?", "Where does the fox go?"], context=context)
    assert rejected(transforms.near_duplicates(two)) == []


def test_rows_with_other_tools_or_calls_are_no_duplicates():
    def row(tools: str | None, *called: str) -> dict:
        calls = json.dumps([{"type": "function", "function": {"name": name, "arguments": {}}} for name in called])
        turns = [{"role": "user", "content": FOX}, {"role": "assistant", "content": FOX, "tool_calls": calls}]
        return {"messages": turns, "tools": tools}

    tools = [None, "[]", '[{"a": 1, "b": 2}]', '[{"b": 2, "a": 1}]', '[{"a": 1}]']
    table = pa.Table.from_pylist(
        [row(offered) for offered in tools] + [row(None, "f"), row(None, "g"), row(None, "f")]
    )
    for by in parts.BY:
        assert rejected(transforms.near_duplicates(table, by=by, prefer="earlier")) == [1, 3, 7]
    same = transforms.semantic_duplicates(table, embed=lambda texts: np.ones((len(texts), 2)), prefer="earlier")
    assert rejected(same) == [1, 3, 7]


def test_a_template_of_more_rows_than_can_be_compared_is_searched_by_its_answers(monkeypatch):
    monkeypatch.setattr(similar_sets, "PAIRS_PER_SET", 2)
    monkeypatch.setattr(similar_sets, "BATCH", 1 << 10)
    draw, counts = np.random.default_rng(5), Counter()
    answers = [" ".join(f"w{word}" for word in draw.integers(0, 3000, 20)) for _ in range(500)]
    answers[400:] = [f"{answer} again" for answer in answers[:100]]
    questions = [f"{FOX} {FOX.replace('e', 'a')} {FOX.replace('o', 'u')} number {row}" for row in range(500)]
    result = transforms.near_duplicates(table_of(questions, answers), by="both", prefer="earlier", counts=counts)
    assert rejected(result) == list(range(400, 500)) and counts["not_compared"] == 0


TEXTS = st.lists(st.text(max_size=30) | st.text("aB ,.é’ß中文ไท🙂İ\u0301ﬁ０９", max_size=30), max_size=12)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 4), st.booleans())
def test_hashes_stand_for_tokens_and_runs(texts, n, characters):
    tokens, offsets = shingles.hashed_tokens(pa.array(texts, pa.string()), "characters" if characters else "unicode")
    words = [unicode_tokens(text) for text in texts]
    if not characters:
        assert np.diff(offsets).tolist() == [len(own) for own in words]
        names = dict(zip(tokens.tolist(), [word for own in words for word in own], strict=True))
        assert len(names) == len({word for own in words for word in own})
        hashes, text_of = shingles.runs(tokens, offsets, n)
        for text, own in enumerate(words):
            assert len(set(hashes[text_of == text].tolist())) == len(shingle_set(texts[text], n)) or not own


def test_no_script_before_thai_is_written_without_spaces():
    import unicodedata

    before = [chr(code) for code in range(shingles.UNSPACED_FROM)]
    assert not [letter for letter in before if unicodedata.name(letter, "").startswith(_UNSPACED)]


def test_the_same_hashes_and_rows_with_numba_and_without(monkeypatch):
    pytest.importorskip("numba", reason="the extra 'dedup' is not installed")
    draw = np.random.default_rng(1)
    words = ["ein", "zwei", "drei", "vier", "čtyři", "五", "六七", "แปด", "🙂", "don’t", "x1", "THE"]
    texts = [" ".join(draw.choice(words, draw.integers(0, 12))) for _ in range(3000)] + ["🙂🙂", "", "!?"]
    table, outcomes = table_of(texts), []
    for loops in (shingles.loops(), None):
        monkeypatch.setattr(shingles, "loops", lambda loops=loops: loops)
        monkeypatch.setattr(similar_sets, "loops", lambda loops=loops: loops)
        hashes = [
            shingles.hashed_tokens(table_texts, name)
            for name in shingles.TOKENIZERS
            for table_texts in [pa.array(texts)]
        ]
        sets = row_sets(table, "both", 3, "unicode")
        result = transforms.near_duplicates(table, threshold=0.6)
        ordered = [np.sort(sets[0][start:end]) for start, end in itertools.pairwise(sets[1])]
        outcomes.append((hashes, (np.concatenate(ordered), sets[1]), result["rejected"].to_pylist()))
    for one, other in zip(*(outcome[0] + [outcome[1]] for outcome in outcomes), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert outcomes[0][2] == outcomes[1][2] and any(outcomes[0][2])


def test_the_hash_of_a_text_is_the_same_everywhere():
    tokens, _ = shingles.hashed_tokens(pa.array(["Hello 世界"]))
    assert tokens.tolist() == HELLO
    assert shingles.runs(tokens, np.array([0, 3]), 2)[0].tolist() == HELLO_RUNS


HELLO = [2032218872104493458, 5166562748758109041, 9536112951295020207]
HELLO_RUNS = [6226544657470067925, 3072337372193545173]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (FOX, FOX.upper().replace(" ", ",  ") + "!!", True),  # case, punctuation, white space
        (FOX, FOX.replace("forest", "woods"), True),
        (FOX, " ".join(reversed(FOX.split())), False),  # the same words, in another order
        ("写一首关于春天的诗歌，要求押韵并且不少于二十行", "写一首关于春天的诗歌,要求押韵,并且不少于二十行。", True),
        ("写一首关于春天的诗歌，要求押韵并且不少于二十行", "请解释量子力学的基本原理以及它在现代技术中的应用", False),
        ("เขียนบทกวีเกี่ยวกับฤดูใบไม้ผลิ", "เขียนบทกวีเกี่ยวกับฤดูใบไม้ผลิ!", True),
        ("🙂🙂🙃", "🙂🙂🙃", True),
        ("🙂🙂🙃", "🚗🚗", False),
        ("ﬁve  ＡＢＣ", "five abc", True),  # compatibility forms
        ("hello world", "hello world again", False),  # shorter than a shingle: as a whole
    ],
)
def test_pairs(one, other, alike):
    assert rejected(transforms.near_duplicates(table_of([one, other]))) == ([1] if alike else [])


def test_what_is_compared():
    other = "an answer of its own that is long enough to make a difference in the end"
    questions, answers = [FOX, FOX, f"something else: {other}"], ["in short: yes", other, "in short: yes"]
    for by, gone in {"instruction": [1], "output": [2], "both": []}.items():
        assert rejected(transforms.near_duplicates(table_of(questions, answers), by=by, prefer="earlier")) == gone
    context = pa.array(["given " + FOX, None, "here"])
    assert rejected(transforms.near_duplicates(table_of(["Shorten this."] * 3, context=context))) == []
    no_text = table_of(["", "?", ""])
    assert rejected(transforms.near_duplicates(no_text)) == []
    assert transforms.near_duplicates(no_text.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize(
    ("prefer", "stays"),
    [("score", 1), ("longer", 2), ("earlier", 0), ("meta.stars", 0), ("rating", 2)],
)
def test_which_row_stays(prefer, stays):
    meta = [json.dumps({"score": score, "stars": stars}) for score, stars in ((1, 5), (2.5, 4), (None, None))]
    table = table_of([FOX] * 3, ["short", "middling", "the longest answer"], rating=[1, 2, 3], meta=meta)
    assert rejected(transforms.near_duplicates(table, prefer=prefer)) == [row for row in range(3) if row != stays]


def test_a_chain_loses_only_what_is_like_a_row_that_stays():
    words = [f"w{number}" for number in range(26)]
    chain = [" ".join(words[start : start + 20]) for start in (0, 2, 4, 6)]
    counts = Counter()
    result = transforms.near_duplicates(table_of(chain), prefer="earlier", counts=counts)
    assert rejected(result) == [1, 3]  # the third is unlike the first, and the second is gone
    assert (counts["pairs"], counts["clusters"], counts["largest_cluster"]) == (3, 1, 4)


def test_the_account_and_the_reason():
    table = table_of([FOX, "unlike all others in here", FOX + " again"])
    table = table.append_column("id", pa.array(["a", "b", "c"]))
    result, (account,) = transforms.apply(table, [{"near_duplicates": {"prefer": "earlier"}}])
    assert account["rejected"] == {"near_duplicate": 1} and account["rows_out"] == 2 and account["clusters"] == 1
    why = result["rejected"][2].as_py()
    assert why["reason"] in records.REASONS
    assert why["detail"] == "Jaccard similarity 0.938 with row 0 (id a)"
    again, (second,) = transforms.apply(result, ["near_duplicates"])
    assert second["rows_in"] == second["rows_out"] == 2 and again.equals(result)


def test_a_large_family_of_copies_is_not_compared_pair_by_pair(monkeypatch):
    monkeypatch.setattr(similar_sets, "PAIRS_PER_SET", 4)
    monkeypatch.setattr(similar_sets, "BATCH", 1 << 10)
    family = [f"{FOX} {FOX.replace('e', 'a')} number {row}" for row in range(3000)]
    counts = Counter()
    result = transforms.near_duplicates(table_of(family), counts=counts)
    assert result["rejected"].null_count == 1 and counts["largest_cluster"] == 3000
    assert counts["pairs"] < 300_000  # of 4.5 million


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"by": "outputs"}, "Did you mean 'output'"),
        ({"by": ["both"]}, "is not known"),
        ({"threshold": 0}, "above 0 up to 1"),
        ({"threshold": "high"}, "threshold='high'"),
        ({"shingle": 0}, "1 or more"),
        ({"tokenizer": "unicod"}, "Did you mean 'unicode'"),
        ({"prefer": "scores"}, "Did you mean 'score'"),
        ({"prefer": "words.x"}, "neither known nor a column"),
        ({"prefer": "words"}, "of row 0 is 'no number'"),
        ({"treshold": 0.5}, "Did you mean 'threshold'"),
    ],
)
def test_bad_arguments(parameters, message):
    table = table_of([FOX, FOX], words=["no number", "x"])
    with pytest.raises(ConfigError, match=message):
        transforms.apply(table, [{"near_duplicates": parameters}])


def test_clusters_by_hand():
    pairs = np.array([[0, 1], [1, 2], [4, 5]])
    rank = np.array([2, 0, 1, 5, 4, 3])
    assert clusters.keep_best(6, pairs, rank).tolist() == [False, True, False, True, False, True]
    assert clusters.components(6, pairs).tolist() == [0, 0, 0, 3, 4, 4]


@pytest.mark.shared_data
def test_real_questions_against_brute_force(shared_data):
    for name in ("alpaca_en_demo.json", "alpaca_zh_demo.json"):
        rows = json.loads((shared_data / "alpaca" / name).read_text(encoding="utf-8"))
        result = check_against_brute_force([row["instruction"] for row in rows][:600], 3, 0.7)
        assert 0 < len(rejected(result)) < 30
