"""Intervals and the length control against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError
from trainers.evaluation import length_bias, results

SMALL = settings(max_examples=40, deadline=None)
NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


@SMALL
@given(NUMBERS, st.integers(0, 5))
def test_a_metric_is_the_mean_inside_its_interval(values, seed):
    found = results.metric(values, seed=seed)
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-5) and found["n"] == len(values)
    assert found == results.metric(values, seed=seed)
    if found["low"] is not None:
        assert min(values) - 1e-6 <= found["low"] <= found["high"] <= max(values) + 1e-6


@SMALL
@given(NUMBERS)
def test_each_value_twice_is_no_news(values):
    """Two turns with the same score are one question: only the grouping may say how sure we are."""
    single = results.metric(values, seed=1)
    doubled = results.metric(np.repeat(values, 2), seed=1, groups=np.repeat(np.arange(len(values)), 2).tolist())
    assert [doubled[name] for name in ("value", "low", "high")] == pytest.approx(
        [single[name] for name in ("value", "low", "high")], abs=2e-6
    )


def test_no_interval_is_claimed_where_draws_tell_nothing():
    assert results.metric([1.0] * 50)["low"] is None
    assert results.metric([1.0, 3.0], groups=["q", "q"]) == {"value": 2.0, "low": None, "high": None, "n": 2}
    for wrong in ([], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(ConfigError, match="values"):
            results.metric(wrong)
    with pytest.raises(ConfigError, match="each value needs its group"):
        results.metric([1.0, 2.0], groups=["a"])


def test_95_percent_intervals_hold_the_truth_in_about_95_percent_of_cases():
    """80 questions of two turns that have much in common; without the groups the intervals would be far too narrow."""
    draw, held, held_without, trials = np.random.default_rng(5), 0, 0, 160
    for trial in range(trials):
        question = draw.normal(6, 2, 80)
        values = np.repeat(question, 2) + draw.normal(0, 0.3, 160)
        found = results.metric(values, seed=trial, groups=np.repeat(np.arange(80), 2).tolist())
        held += found["low"] <= 6 <= found["high"]
        if trial < 80:
            alone = results.metric(values, seed=trial)
            held_without += alone["low"] <= 6 <= alone["high"]
    assert 0.90 <= held / trials <= 0.99
    assert held_without / 80 < 0.90


def test_draws_are_known_numbers_in_blocks_of_any_size():
    """PCG64's raw stream is fixed for ever; these are its first draws, whatever numpy is installed."""
    drawn = np.concatenate(list(results.draws(10, 42, 5)))
    assert drawn.shape == (5, 10) and drawn[0].tolist() == [8, 7, 8, 9, 8, 9, 9, 8, 2, 9]
    large = list(results.draws(1 << 21, 1, 3))
    assert [len(block) for block in large] == [2, 1]


def planted(a: float, b: float, size: int, shift: float, seed: int = 3):
    """Outcomes with logit a + b * tanh(gap / spread), and the gaps."""
    draw = np.random.default_rng(seed)
    gaps = draw.normal(shift, 300, size).round()
    p = 1 / (1 + np.exp(-(a + b * np.tanh(gaps / gaps.std()))))
    return (draw.random(size) < p).astype(float), gaps


@pytest.mark.parametrize(("a", "b"), [(0.0, 2.0), (0.8, 0.0), (-0.7, 1.5), (1.0, -1.0)])
def test_the_length_control_finds_what_was_planted(a, b):
    outcomes, gaps = planted(a, b, 8000, shift=200)
    value = length_bias._win_rates(np.ones((1, 8000)), outcomes, np.tanh(gaps / gaps.std()))[0]
    assert value == pytest.approx(1 / (1 + np.exp(-a)), abs=0.03)
    if b:  # the plain win rate is led astray by the longer answers
        assert abs(outcomes.mean() - 1 / (1 + np.exp(-a))) > 0.05


def test_the_controlled_interval_holds_the_truth():
    held = 0
    for seed in range(12):
        outcomes, gaps = planted(0.5, 1.5, 160, shift=100, seed=seed)
        found = length_bias.controlled_win_rate(outcomes, gaps, np.repeat(np.arange(80), 2).tolist(), seed)
        held += found["low"] <= 1 / (1 + np.exp(-0.5)) <= found["high"]
        assert found["low"] <= found["value"] <= found["high"]
    assert held >= 10  # fewer by chance in one of 50 such tests


def test_extremes_stay_finite():
    everything = length_bias.controlled_win_rate([1.0] * 20, list(range(20)), list(range(20)))
    assert 0.9 < everything["value"] < 1 and everything["low"] > 0.9
    same = length_bias.controlled_win_rate([1.0, 0.0, 0.5, 1.0], [0, 0, 0, 0], list(range(4)))
    assert same["value"] == pytest.approx(0.625, abs=0.01)
    apart = length_bias.controlled_win_rate([1.0] * 10 + [0.0] * 10, [100] * 10 + [-100] * 10, list(range(20)))
    assert apart["value"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shift", [5000, -5000, 900])
def test_where_one_model_is_always_longer_no_controlled_win_rate_is_made_up(shift):
    """With all differences alike the ridge would halve the logit: 0.70 would become 0.60, with a narrow interval."""
    gaps = shift + np.random.default_rng(0).integers(-100, 100, 160)
    assert length_bias.controlled_win_rate([1.0] * 112 + [0.0] * 48, gaps, list(range(160))) is None


def test_win_rates_by_length():
    found = length_bias.by_length([1.0, 0.0, 0.5, 1.0], [10, 20, -5, 0], ["a", "b", "c", "d"])
    assert found["win_rate_when_longer"]["value"] == 0.5 and found["win_rate_when_shorter"]["value"] == 0.5
    assert found["longer_wins"] == {"value": 0.5, **{k: found["longer_wins"][k] for k in ("low", "high")}, "n": 2}
    assert length_bias.by_length([0.5], [0], ["a"]) == {}


def test_rank_correlation():
    assert length_bias.correlation([1, 2, 3, 10], [5, 6, 7, 8]) == pytest.approx(1)
    assert length_bias.correlation([1, 2, 3, 4], [8, 7, 6, 5]) == pytest.approx(-1)
    assert length_bias.correlation([1, 1, 2, 2], [1, 2, 1, 2]) == pytest.approx(0, abs=1e-12)
    assert length_bias.correlation([5, 5, 5], [1, 2, 3]) is None and length_bias.correlation([1, 2], [1, 2]) is None
