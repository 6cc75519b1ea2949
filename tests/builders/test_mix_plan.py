"""Planning a mixture: rates, exact counts, nested shares, limits, presets, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import BuildError, ConfigError
from instruct_builders.mix import Mixture, Source, mixing_rates, plan

SIZES = [100_000, 30_000, 3_000, 300]


@pytest.mark.parametrize(
    ("cap", "temperature", "rates"),
    [
        (3000, 1, [0.3226, 0.3226, 0.3226, 0.0323]),
        (3000, 3, [0.2887, 0.2887, 0.2887, 0.1340]),
        (2**21, 3, [0.4707, 0.3151, 0.1463, 0.0679]),
    ],
)
def test_golden_rates(cap, temperature, rates):
    # What seqio computes for the same sizes.
    found = mixing_rates(SIZES, cap=cap, temperature=temperature)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, rates, atol=5e-5)


def test_rates_without_cap_and_with_weights():
    np.testing.assert_allclose(mixing_rates([1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(mixing_rates([1, 3], weights=[1, 1]), [0.5, 0.5])
    np.testing.assert_allclose(mixing_rates([10, 1000], cap=[5, 15]), [0.25, 0.75])
    np.testing.assert_allclose(mixing_rates([1, 10**9], temperature=1e9), [0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sizes": []}, "at least one number"),
        ({"sizes": [1, -1]}, "negative"),
        ({"sizes": [1, math.nan]}, "NaN"),
        ({"sizes": [0, 0]}, "must have rows"),
        ({"sizes": [1], "cap": 0}, "cap of 0"),
        ({"sizes": [1], "cap": math.nan}, "cap"),
        ({"sizes": [1], "temperature": 0}, "above 0"),
        ({"sizes": [1], "temperature": -2}, "above 0"),
        ({"sizes": [1], "temperature": math.nan}, "above 0"),
        ({"sizes": [1, 2], "weights": [1, -1]}, "negative"),
        ({"sizes": [1, 2], "weights": [0, 0]}, "all are zero"),
        ({"sizes": [1, 2], "weights": [1]}, "1 weights for 2 sources"),
        ({"sizes": [1, 2], "weights": [1, 1], "temperature": 2}, "taken as they are"),
    ],
)
def test_rates_that_can_not_be(arguments, says):
    with pytest.raises(ConfigError, match=says):
        mixing_rates(**arguments)


# Plans.

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=8, unique=True)
ROWS = st.integers(1, 5000)


@st.composite
def mixtures(draw, depth=2):
    """Mixtures nested up to three levels, with caps, temperatures, weights and limits."""
    weighted = draw(st.booleans())
    sources = {}
    for name in draw(NAMES):
        weight = draw(st.floats(0.01, 10)) if weighted else None
        if depth and draw(st.integers(0, 3)) == 0:
            sources[name] = replace(draw(mixtures(depth=depth - 1)), weight=weight)
        else:
            epochs, limit = draw(st.sampled_from([None, None, 0.5, 1, 2.5])), draw(st.none() | st.integers(1, 6000))
            sources[name] = Source(draw(ROWS), weight=weight, max_epochs=epochs, limit=limit)
    if weighted:
        return Mixture(sources)
    return Mixture(
        sources, cap=draw(st.none() | st.integers(1, 4000)), temperature=draw(st.sampled_from([0.5, 1, 2, 3]))
    )


def room(mixture, inherited=math.inf):
    return sum(
        room(one, inherited if one.max_epochs is None else one.max_epochs)
        if isinstance(one, Mixture)
        else (one.max_epochs or inherited) * one.rows
        for one in mixture.sources.values()
    )


@settings(max_examples=150, deadline=None)
@given(mixtures(), st.integers(1, 20_000))
def test_counts_are_exact_and_no_source_gives_more_than_it_may(mixture, total):
    try:
        made = plan(mixture, total_size=total)
    except ConfigError as error:
        assert "rows are possible" in str(error)
        return
    assert sum(made.draws.values()) == made.total_size == total
    by_path = leaves(mixture)
    for row in made.table:
        source = by_path[row["name"]]
        usable = min(source.rows, source.limit or source.rows)
        if source.max_epochs is not None:
            assert row["draws"] <= math.floor(source.max_epochs * usable + 1e-6)
    if math.isinf(room(mixture)):
        return
    assert total <= room(mixture)


def leaves(mixture, prefix=""):
    found = {}
    for name, one in mixture.sources.items():
        found |= leaves(one, f"{prefix}{name}/") if isinstance(one, Mixture) else {prefix + name: one}
    return found


def unlimited(mixture):
    sources = {
        name: unlimited(one) if isinstance(one, Mixture) else replace(one, max_epochs=None, limit=None)
        for name, one in mixture.sources.items()
    }
    return replace(mixture, sources=sources)


@settings(max_examples=100, deadline=None)
@given(mixtures(), st.integers(1, 20_000))
def test_nested_shares_are_products_and_every_group_is_exact_to_one_row(mixture, total):
    mixture = unlimited(mixture)
    made = plan(mixture, total_size=total)

    def check(group, prefix, share):
        sizes = [weighed(one) for one in group.sources.values()]
        weights = [one.weight for one in group.sources.values()]
        rates = mixing_rates(sizes, group.cap, group.temperature, None if weights[0] is None else weights)
        for (name, one), rate in zip(group.sources.items(), rates, strict=True):
            path = prefix + name
            below = [row for row in made.table if row["name"] == path or row["name"].startswith(f"{path}/")]
            assert sum(row["share"] for row in below) == pytest.approx(share * rate)
            assert abs(sum(row["draws"] for row in below) - total * share * rate) < 1 + 1e-5
            if isinstance(one, Mixture):
                check(one, f"{path}/", share * rate)

    def weighed(one):
        if isinstance(one, Source):
            return one.rows
        return sum(min(weighed(part), one.cap or math.inf) for part in one.sources.values())

    check(mixture, "", 1.0)


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.randoms(use_true_random=False))
def test_the_order_of_the_sources_is_of_no_account(mixture, random):
    def shuffled(group):
        items = list(group.sources.items())
        random.shuffle(items)
        return replace(
            group, sources={name: shuffled(one) if isinstance(one, Mixture) else one for name, one in items}
        )

    try:
        first = plan(mixture)
    except ConfigError:
        return
    assert plan(shuffled(mixture)).table == first.table


def test_without_a_total_nothing_is_repeated_and_shares_are_exact():
    sources = {str(size): Source(size) for size in SIZES}
    made = plan(Mixture(sources, cap=3000))
    assert made.total_size == 9300  # the sum of min(rows, cap)
    assert made.draws == {"100000": 3000, "300": 300, "3000": 3000, "30000": 3000}
    assert max(row["epochs"] for row in plan(Mixture(sources, temperature=3)).table) == pytest.approx(1, abs=0.01)
    assert plan(Mixture(sources, cap=3000, max_epochs=2)).total_size == 18_600


def test_a_full_source_leaves_its_rest_to_the_others_in_its_mixture_first():
    group = Mixture({"small": Source(10), "large": Source(10_000)}, cap=10, weight=1)
    made = plan(Mixture({"group": group, "other": Source(10_000, weight=1)}, max_epochs=1), total_size=1000)
    assert made.draws == {"group/large": 490, "group/small": 10, "other": 500}
    with pytest.raises(ConfigError, match="20,010 rows are possible"):
        plan(Mixture({"group": group, "other": Source(10_000, weight=1)}, max_epochs=1), total_size=20_011)
    full = plan(Mixture({"group": group, "other": Source(10_000, weight=1)}, max_epochs=1), total_size=20_010)
    assert full.draws == {"group/large": 10_000, "group/small": 10, "other": 10_000}


def test_by_tokens_the_long_rows_are_drawn_less_often():
    sources = {"short": Source(1000, tokens=10_000, weight=1), "long": Source(1000, tokens=90_000, weight=1)}
    made = plan(Mixture(sources, weights_by="tokens"), total_size=1000)
    assert made.draws == {"long": 100, "short": 900}
    assert {row["name"]: row["tokens"] for row in made.table} == {"long": 9000, "short": 9000}
    # As many tokens as there are, without weights: every row once.
    bare = {name: replace(source, weight=None) for name, source in sources.items()}
    assert plan(Mixture(bare, weights_by="tokens")).draws == {"long": 1000, "short": 1000}


def test_by_tokens_a_full_source_is_made_up_for_in_tokens():
    group = Mixture({"short": Source(100, tokens=1000), "long": Source(10_000, tokens=10**6)}, cap=1000, weight=1)
    whole = Mixture(
        {"group": group, "other": Source(10**6, tokens=10**7, weight=1)}, weights_by="tokens", max_epochs=1
    )
    made = plan(whole, total_size=11_000)
    tokens = {row["name"]: row["tokens"] for row in made.table}
    assert made.draws["group/short"] == 100
    assert tokens["group/short"] + tokens["group/long"] == pytest.approx(tokens["other"], rel=0.01)
    assert sum(made.draws.values()) == 11_000


def test_missing_and_empty_sources_are_listed_and_their_share_goes_to_their_siblings():
    cot = Mixture({"gsm8k": Source(100), "gone": Source(0, missing="column 'chain' is not there")}, weight=1)
    mixture = Mixture({"cot": cot, "empty": Source(0, weight=1), "rest": Source(900, weight=2)})
    made = plan(mixture, total_size=300)
    assert made.left_out == {"cot/gone": "column 'chain' is not there", "empty": "it has no rows"}
    assert made.draws == {"cot/gone": 0, "cot/gsm8k": 100, "empty": 0, "rest": 200}
    assert "left out: column 'chain' is not there" in made.text()
    with pytest.raises(BuildError, match=r"2 of 4 sources(.|\n)*cot/gone: column 'chain' is not there"):
        plan(mixture, total_size=300, strict=True)
    with pytest.raises(BuildError, match="none of the 1 sources"):
        plan(Mixture({"a": Source(0)}))


def test_a_source_with_weight_0_is_listed_but_no_error():
    made = plan(Mixture({"a": Source(10, weight=0), "b": Source(10, weight=1)}), strict=True)
    assert made.draws == {"a": 0, "b": 10}
    assert made.left_out == {"a": "its rate is 0"}


@pytest.mark.parametrize(
    ("mixture", "arguments", "says"),
    [
        (Mixture({}), {}, "at least one named source"),
        (Mixture([Source(1)]), {}, "at least one named source"),
        (Mixture({"a": Mixture({})}), {}, "mixture 'a' has sources={}"),
        (Mixture({"a": Source(1)}), {"total_size": 0}, "total_size=0"),
        (Mixture({"a": Source(1)}), {"total_size": -3}, "total_size=-3"),
        (Mixture({"a": Source(1)}), {"total_size": 1.5}, "total_size=1.5"),
        (Mixture({"a": Source(1)}, cap=0), {}, "cap=0"),
        (Mixture({"a": Source(1, cap=0)}), {}, "'a' has cap=0"),
        (Mixture({"a": Source(1)}, temperature=0), {}, "temperature=0"),
        (Mixture({"a": Source(1)}, temperature=math.nan), {}, "temperature=nan"),
        (Mixture({"a": Source(1, weight=-1)}), {}, "'a' has weight=-1"),
        (Mixture({"a": Source(1, weight=math.nan)}), {}, "weight=nan"),
        (Mixture({"a": Source(1, weight=0), "b": Source(1, weight=0)}), {}, "all are zero"),
        (Mixture({"a": Source(1, weight=1), "b": Source(1)}), {}, "not for b"),
        (Mixture({"a": Source(1, weight=1), "b": Source(1, weight=1)}, cap=3), {}, "taken as they are"),
        (Mixture({"a": Source(1, max_epochs=0)}), {}, "max_epochs=0"),
        (Mixture({"a": Source(-1)}), {}, "rows=-1"),
        (Mixture({"a": Source(1, limit=0)}), {}, "limit=0"),
        (Mixture({"a": Source(1)}, weights_by="bytes"), {}, "'rows' or 'tokens'"),
        (Mixture({"a": Source(1)}, weights_by="tokens"), {}, "tokens=None"),
        (Mixture({"b": Mixture({"a": Source(1)}, weights_by="tokens")}), {}, "outermost"),
        (Mixture({"a/b": Source(1), "a": Mixture({"b": Source(1)})}), {}, "both called a/b"),
        (Mixture({"a": 5}), {}, "'a' is a int"),
        (Mixture({"": Source(1)}), {}, "called ''"),
        (Mixture({"a": Source(5, max_epochs=math.inf)}), {}, "give total_size"),
        (Mixture({"a": Source(2, weight=1e-9), "b": Source(9, max_epochs=0.01, weight=1)}), {}, "no row can be drawn"),
        (Source(1), {}, "needs a Mixture"),
    ],
)
def test_plans_that_can_not_be(mixture, arguments, says):
    with pytest.raises(ConfigError, match=says):
        plan(mixture, **arguments)


def test_the_table_after_drawing_must_be_the_planned_one():
    made = plan(Mixture({"a": Source(1000), "b": Source(10)}))
    after = made.drawn({"a": 1000, "b": 10}, tokens={"a": 5000, "b": 70})
    assert [(row["drawn"], row["drawn_tokens"]) for row in after.table] == [(1000, 5000), (10, 70)]
    assert "drawn_tokens" in after.text()
    assert json.loads(json.dumps(after.table)) == after.table  # it goes into build.json
    with pytest.raises(BuildError, match=r"b: 9 for 10(.|\n)*c: 4 for 0"):
        made.drawn({"a": 1000, "b": 9, "c": 4})


def test_a_long_table_can_be_cut_but_its_sums_are_of_all():
    made = plan(Mixture({f"s{number:02}": Source(number + 1) for number in range(20)}))
    lines = made.text(most=3).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["s17", "s18", "s19"]
    assert "all 20 sources (17 not shown)" in lines[-1]
    assert "210" in lines[-1]
    assert len(made.text().splitlines()) == 22
