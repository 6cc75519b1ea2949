"""The license of a mixture: an order that does not depend on how the parts were put together."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders import licenses
from instruct_builders.licenses import is_non_commercial, normalise, strictest

ANY = st.one_of(
    st.none(), st.sampled_from([*licenses._RANK, "CC BY-NC 4.0", "GPL-3.0-only", "my own", " "]), st.text()
)


@given(st.lists(ANY, max_size=6), st.lists(ANY, max_size=6), st.randoms())
def test_order_grouping_and_repetition_do_not_matter(first, second, rng):
    whole = strictest(first + second) if first or second else "unknown"
    shuffled = first + second + first
    rng.shuffle(shuffled)
    assert strictest(shuffled) == whole
    if first and second:
        assert strictest([strictest(first), strictest(second)]) == whole
    assert strictest([whole, whole]) == whole


@given(st.lists(ANY, min_size=1))
def test_never_freer_than_any_part_and_always_one_of_them(parts):
    whole = strictest(parts)
    assert all(licenses._RANK[whole] >= licenses._RANK[normalise(part)] for part in parts)
    assert whole in set(map(normalise, parts))
    assert is_non_commercial(whole) == any(map(is_non_commercial, parts))


def test_one_of_each_group_in_the_documented_order():
    order = ["cc0-1.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "llama3", "unknown", "cc-by-nd-4.0", "cc-by-nc-4.0"]
    order += ["cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"]
    for free, strict in itertools.combinations(order, 2):
        assert strictest([free, strict]) == strictest([strict, free]) == strict
    assert [name for name in order if is_non_commercial(name)] == order[-3:]


@pytest.mark.parametrize(
    "written, identifier",
    [
        (None, "unknown"),
        ("", "unknown"),
        ("  ", "unknown"),
        ("Apache-2.0", "apache-2.0"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("all rights reserved", "other"),
        ("cc-by-nc-4.0 and mit", "other"),
    ],
)
def test_what_sources_write(written, identifier):
    assert normalise(written) == identifier
    assert normalise(identifier) == identifier


def test_nothing_given_is_unknown_and_unknown_is_no_free_license():
    assert strictest([]) == "unknown"
    assert strictest([None, "apache-2.0", "cc-by-sa-4.0"]) == "unknown"
    assert strictest([None, "cc-by-nc-4.0"]) == "cc-by-nc-4.0"
