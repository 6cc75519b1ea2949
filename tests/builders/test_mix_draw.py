"""Drawing, streaming and writing a mixture: exact counts, no row twice in a pass, the same rows either way."""

from __future__ import annotations

import collections
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import BuildError, ConfigError
from instruct_builders.mix import (
    Mixture,
    Source,
    count_sources,
    draw,
    draw_indices,
    plan,
    stream,
    write_arrow,
)

SIZES = {"a": 1000, "b": 300, "c": 7}


def make(name, rows):
    turns = [[{"role": "user", "content": f"{name}{i}"}, {"role": "assistant", "content": None}] for i in range(rows)]
    return datasets.Dataset.from_dict({"id": [f"{name}{i}" for i in range(rows)], "messages": turns})


def plan_of(sizes):
    sources = {name: Source(rows) for name, rows in sizes.items()}
    return plan(Mixture(sources, temperature=2, max_epochs=3), total_size=1500)


@pytest.fixture(scope="module")
def sources():
    return {name: make(name, rows) for name, rows in SIZES.items()}


@pytest.fixture(scope="module")
def stored(sources, tmp_path_factory):
    """The same on disk, as memory-mapped files of several record batches."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: write_arrow(source, folder / f"{name}.arrow") for name, source in sources.items()}


@pytest.fixture(scope="module")
def planned():
    """a in part, b once and a part, c three times."""
    return plan_of(SIZES)


def ids(rows):
    return collections.Counter(row["id"] for row in rows)


# Indices.


@st.composite
def plans(draw_from):
    sizes = draw_from(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    limits = draw_from(st.lists(st.none() | st.integers(1, 80), min_size=len(sizes), max_size=len(sizes)))
    temperature, total = draw_from(st.sampled_from([1, 3])), draw_from(st.integers(1, 400))
    sources = {f"s{i}": Source(size, limit=limit) for i, (size, limit) in enumerate(zip(sizes, limits, strict=True))}
    return sources, plan(Mixture(sources, temperature=temperature), total_size=total)


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 2**40), st.integers(0, 50))
def test_a_source_gives_all_its_rows_before_it_gives_one_again(made, seed, epoch):
    sources, made = made
    names, labels, numbers = draw_indices(made, seed, epoch)
    assert len(labels) == len(numbers) == made.total_size
    for label, name in enumerate(names):
        rows, usable = numbers[labels == label], min(sources[name].rows, sources[name].limit or 10**9)
        assert len(rows) == made.draws[name]
        assert ((rows >= 0) & (rows < sources[name].rows)).all()
        assert len(np.unique(rows)) == min(usable, len(rows))
        for start in range(0, len(rows), usable):
            one_pass = rows[start : start + usable]
            assert len(np.unique(one_pass)) == len(one_pass)


def test_the_same_seed_gives_the_same_rows_and_another_gives_others(planned):
    first, again, other = draw_indices(planned, 1), draw_indices(planned, 1), draw_indices(planned, 2)
    assert all(np.array_equal(here, there) for here, there in zip(first[1:], again[1:], strict=True))
    assert not np.array_equal(first[2], other[2])
    # Bytes that every machine and numpy must give: a built dataset can be built again.
    assert first[1][:12].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert first[2][:12].tolist() == [866, 437, 318, 70, 102, 245, 135, 656, 327, 586, 634, 393]


def test_a_source_gives_the_same_rows_whatever_it_is_mixed_with():
    alone = plan(Mixture({"a": Source(1000)}), total_size=100)
    mixed = plan(Mixture({"a": Source(1000, weight=1), "b": Source(50, weight=3)}), total_size=400)
    names, labels, numbers = draw_indices(mixed, 5)
    assert numbers[labels == names.index("a")].tolist() == draw_indices(alone, 5)[2].tolist()


def test_epochs_draw_other_rows_as_long_as_there_are_any():
    made = plan(Mixture({"a": Source(1000)}), total_size=240)
    rows = [set(draw_indices(made, 3, epoch)[2].tolist()) for epoch in range(5)]
    assert len(set.union(*rows[:4])) == 960
    assert rows[4] & rows[0]
    assert rows[4] not in rows[:4]


def test_rows_of_all_sources_are_mixed_evenly(planned):
    _, labels, numbers = draw_indices(planned, 0)
    for part in np.array_split(labels, 5):
        assert 120 < (part == 0).sum() < 260  # 191 of 300 in the mean
    assert abs(numbers[labels == 0].mean() - 500) < 30


# Map-style.


def test_draw_gives_what_was_planned(planned, stored):
    mixed = draw(planned, stored, source_column="from")
    assert len(mixed) == 1500
    after = planned.drawn(count_sources(mixed, "from"))
    assert [row["drawn"] for row in after.table] == list(planned.draws.values())
    assert all(row["id"].startswith(row["from"]) for row in mixed)
    assert mixed.remove_columns("from")[:] == draw(planned, stored)[:]
    assert mixed.features["messages"] == stored["a"].features["messages"]
    names, labels, numbers = draw_indices(planned)
    assert mixed["id"][:] == [f"{names[label]}{row}" for label, row in zip(labels, numbers, strict=True)]


def test_the_order_of_the_datasets_is_of_no_account(planned, stored):
    backwards = dict(reversed(stored.items()))
    again = plan_of(dict(reversed(SIZES.items())))
    assert again == planned
    assert draw(again, backwards)[:] == draw(planned, stored)[:]
    columns = {**stored, "b": stored["b"].select_columns(["messages", "id"])}
    assert draw(planned, columns)[:] == draw(planned, stored)[:]


def test_drawing_leaves_the_sources_on_disk(planned, stored):
    mixed = draw(planned, stored)
    assert {file["filename"] for file in mixed.cache_files} == {
        file["filename"] for source in stored.values() for file in source.cache_files
    }


def test_shuffled_and_filtered_sources_are_drawn_from_as_they_are(planned, stored):
    shuffled = {name: source.shuffle(seed=3) for name, source in stored.items()}
    mixed = draw(planned, shuffled)
    names, labels, numbers = draw_indices(planned)
    texts = {name: shuffled[name]["id"][:] for name in shuffled}
    expected = [texts[names[label]][row] for label, row in zip(labels, numbers, strict=True)]
    assert mixed["id"][:] == expected
    assert draw(planned, shuffled, source_column="from")["id"][:] == expected
    assert ids(stream(planned, shuffled, buffer_size=64)) == collections.Counter(expected)


# Streaming.


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 5), st.integers(1, 200), st.integers(1, 5), st.booleans())
def test_stream_gives_the_rows_that_draw_gives(made, epoch, buffer_size, num_shards, arrow):
    sources, made = made
    tables = {name: make(name + "_", source.rows) for name, source in sources.items()}
    expected = ids(draw(made, tables, seed=9, epoch=epoch))
    streamed = stream(made, tables, seed=9, buffer_size=buffer_size, num_shards=num_shards, source_column="from")
    streamed = streamed.with_format("arrow") if arrow else streamed
    streamed.set_epoch(epoch)
    rows = [row for table in streamed.iter(17) for row in table.to_pylist()] if arrow else list(streamed)
    assert ids(rows) == expected
    assert all(row["id"].rsplit("_", 1)[0] == row["from"] for row in rows)


def test_stream_is_shuffled_within_and_among_sources(planned, stored):
    rows = [row["id"] for row in stream(planned, stored, buffer_size=200)]
    order = [int(text[1:]) for text in rows if text[0] == "a"]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.2
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.1
    for start in range(0, 1400, 100):
        assert 35 < sum(text[0] == "a" for text in rows[start : start + 100]) < 90  # 64 in the mean


def test_every_epoch_of_a_stream_is_drawn_anew_and_can_be_had_again(planned, stored):
    streamed = stream(planned, stored)

    def epoch(number):
        streamed.set_epoch(number)
        return [row["id"] for row in streamed]

    first, second = epoch(0), epoch(1)
    assert first != second
    assert set(first) != set(second)
    assert epoch(0) == first
    assert epoch(1) == second
    assert collections.Counter(second) == ids(draw(planned, stored, epoch=1))


def test_an_iterable_dataset_is_drawn_from_like_a_stored_one(planned, stored):
    either = {**stored, "a": stored["a"].to_iterable_dataset(), "c": stored["c"].to_iterable_dataset()}
    streamed = stream(planned, either, buffer_size=100)
    assert ids(streamed) == ids(draw(planned, stored))
    streamed.set_epoch(2)
    assert ids(streamed) == ids(draw(planned, stored, epoch=2))
    limited = plan(Mixture({"a": Source(1000, limit=40), "c": Source(7)}), total_size=130)
    chosen = {"a": either["a"], "c": stored["c"]}
    assert ids(stream(limited, chosen)) == ids(draw(limited, {name: stored[name] for name in "ac"}))


@pytest.mark.parametrize("wrong", [900, 1100])
def test_an_iterable_dataset_with_other_rows_than_planned_is_found_out(planned, stored, wrong):
    other = {**stored, "a": make("a", wrong).to_iterable_dataset()}
    with pytest.raises(BuildError, match="'a' was planned with 1,000 rows, but gives"):
        list(stream(planned, other))


def test_stream_keeps_map_filter_and_formats(planned, stored):
    streamed = stream(planned, stored)
    mapped = streamed.map(lambda row: {"size": len(row["id"])}).filter(lambda row: row["size"] > 2)
    mixed = draw(planned, stored)
    assert ids(mapped) == ids(row for row in mixed if len(row["id"]) > 2)
    assert ids(streamed.shuffle(seed=1, buffer_size=50).take(5)).total() == 5
    frames = list(streamed.with_format("pandas").iter(500))
    assert [len(frame) for frame in frames] == [500, 500, 500]


def test_stream_resumes_where_it_was_left(planned, stored):
    expected = [row["id"] for row in stream(planned, stored, buffer_size=100, num_shards=4)]
    streamed = stream(planned, stored, buffer_size=100, num_shards=4)
    seen = []
    for row in streamed:
        seen.append(row["id"])
        if len(seen) == 777:
            break
    state = streamed.state_dict()
    fresh = stream(planned, stored, buffer_size=100, num_shards=4)
    fresh.load_state_dict(state)
    assert seen + [row["id"] for row in fresh] == expected


def test_data_loader_workers_share_the_stream(planned, stored):
    torch_data = pytest.importorskip("torch.utils.data")
    streamed = stream(planned, stored, num_shards=4)
    streamed.set_epoch(1)
    loader = torch_data.DataLoader(streamed, batch_size=8, num_workers=2, collate_fn=lambda rows: rows)
    assert ids(row for batch in loader for row in batch) == ids(draw(planned, stored, epoch=1))


def test_processes_share_the_stream(planned, stored):
    streamed = stream(planned, stored)
    parts = [ids(split_dataset_by_node(streamed, rank=rank, world_size=4)) for rank in range(4)]
    assert sum(parts, collections.Counter()) == ids(draw(planned, stored))
    assert max(part.total() for part in parts) - min(part.total() for part in parts) <= 3 * 4


# Writing.


def test_write_arrow_keeps_rows_order_and_features(planned, stored, tmp_path):
    mixed = draw(planned, stored, source_column="from")
    # Pages of a few rows, so that there are many.
    written = write_arrow(mixed, tmp_path / "new" / "mixed.arrow", page_bytes=5000)
    assert written.features == mixed.features
    assert written[:] == mixed[:]
    assert written.data.table.equals(mixed.flatten_indices().data.table)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mixed.arrow"]
    assert datasets.Dataset.from_file(str(tmp_path / "new" / "mixed.arrow"))[:] == mixed[:]


def test_write_arrow_leaves_nothing_behind_on_a_full_disk(planned, stored, tmp_path):
    # A file-size limit stands for a full disk; it is set in a process of its own, since it can't be lifted again.
    source, target = stored["a"].cache_files[0]["filename"], tmp_path / "out.arrow"
    script = (
        "import datasets, resource, signal, sys\n"
        "from instruct_builders.errors import BuildError\n"
        "from instruct_builders.mix import write_arrow\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_arrow(datasets.Dataset.from_file(sys.argv[1]), sys.argv[2])\n"
        "except (BuildError, OSError) as error:\n"
        "    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, source, str(target)], capture_output=True, text=True)
    assert done.stdout.strip() in ("OSError", "BuildError"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_columns_and_struct_lists_survive(tmp_path):
    features = datasets.Features({"id": datasets.Value("string"), "tools": datasets.List(datasets.Json())})
    parts = {
        name: datasets.Dataset.from_dict(
            {"id": [f"{name}{i}" for i in range(30)], "tools": [[{"name": name, "arguments": {"k": i}}]] * 30},
            features=features,
        )
        for name, i in (("a", 1), ("b", "x"))
    }
    made = plan(Mixture({name: Source(30) for name in parts}), total_size=100)
    mixed = draw(made, parts)
    written = write_arrow(mixed, tmp_path / "json.arrow")
    assert written[:] == mixed[:]
    assert written[0]["tools"][0]["arguments"] in ({"k": 1}, {"k": "x"})
    key = str
    assert sorted(stream(made, parts), key=key) == sorted(mixed, key=key)


# Bad input.


def test_features_that_differ_are_named(planned, stored):
    other = datasets.Dataset.from_dict({"id": list(range(300)), "text": ["x"] * 300})
    for way in (draw, stream):
        with pytest.raises(ConfigError, match=r"'a' and 'b' differ in columns: id \(.*messages.*text \(absent"):
            way(planned, {**stored, "b": other})


def test_the_order_of_struct_fields_counts():
    # `Features` compares as a dict does, but Arrow would not put the two tables together.
    first = datasets.Dataset(pa.table({"m": pa.array([{"x": 1, "y": 2}])}))
    other = datasets.Dataset(pa.table({"m": pa.array([{"y": 1, "x": 2}])}))
    with pytest.raises(ConfigError, match="differ in columns: m"):
        draw(plan(Mixture({"a": Source(1), "b": Source(1)})), {"a": first, "b": other})


def test_a_dataset_with_other_rows_than_planned_is_refused(planned, stored):
    for way in (draw, stream):
        with pytest.raises(BuildError, match="'b' has 299 rows, but was planned with 300"):
            way(planned, {**stored, "b": stored["b"].select(range(299))})


def test_names_must_be_those_of_the_plan(planned, stored):
    with pytest.raises(ConfigError, match="no dataset: c"):
        draw(planned, {name: stored[name] for name in "ab"})
    with pytest.raises(ConfigError, match=r"'alpacca' is not in the plan\..*'alpaca'"):
        draw(plan(Mixture({"alpaca": Source(7)})), {"alpacca": stored["c"]})
    with pytest.raises(ConfigError, match="column 'id' already"):
        draw(planned, stored, source_column="id")
    with pytest.raises(ConfigError, match="stream takes both"):
        draw(planned, {**stored, "a": stored["a"].to_iterable_dataset()})


def test_a_source_that_is_left_out_needs_no_dataset(stored):
    made = plan(Mixture({"a": Source(1000), "gone": Source(0, missing="404")}), total_size=10)
    assert len(draw(made, {"a": stored["a"]})) == 10
    assert len(list(stream(made, {"a": stored["a"]}))) == 10


def test_a_test_split_is_not_mixed_with_training_data(planned, stored):
    def with_split(source, split):
        return datasets.Dataset(source.data, split=split)

    for split in ("test", "validation[:50%]", "test_sft", "eval"):
        mixed = {**stored, "a": with_split(stored["a"], "train"), "b": with_split(stored["b"], split)}
        with pytest.raises(ConfigError, match="held-out"):
            draw(planned, mixed)
    for split in ("train[:50%]", "train_sft", "testimony"):
        draw(planned, {**stored, "a": with_split(stored["a"], "train"), "b": with_split(stored["b"], split)})
    draw(planned, {name: with_split(source, "test") for name, source in stored.items()})


@pytest.mark.parametrize("numbers", [{"seed": -1}, {"seed": 1.5}, {"epoch": -1}, {"seed": True}])
def test_seeds_and_epochs_are_whole_numbers(planned, stored, numbers):
    with pytest.raises(ConfigError, match="a whole number of 0 or more"):
        draw(planned, stored, **numbers)


@pytest.mark.parametrize("numbers", [{"buffer_size": 0}, {"num_shards": -1}])
def test_stream_sizes_are_1_or_more(planned, stored, numbers):
    with pytest.raises(ConfigError, match="1 or more"):
        stream(planned, stored, **numbers)


def test_an_iterable_dataset_has_one_shard(planned, stored):
    with pytest.raises(ConfigError, match="one shard only"):
        stream(planned, {**stored, "a": stored["a"].to_iterable_dataset()}, num_shards=2)
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"id": "x"}]))
    with pytest.raises(ConfigError, match="'a' does not know its features"):
        stream(planned, {**stored, "a": unknown})
