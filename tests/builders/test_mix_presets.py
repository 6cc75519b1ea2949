"""The published mixtures as presets: their shares and caps, and what is said of sources that are absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from instruct_builders.errors import ConfigError
from instruct_builders.mix import PRESETS, Mixture, Source, draw_indices, plan, preset

SIZES = [100_000, 30_000, 3_000, 300]
GROUPS = {
    "flan2021": {"rte": Source(2_490), "wmt": Source(4_500_000)},
    "t0": {"race": Source(90_000), "qasc": Source(8_000)},
    "niv2": {"task001": Source(6_500), "task002": Source(400)},
    "cot": {"gsm8k": Source(7_473), "qasc": Source(1_084)},
    "dialog": {"wiki_dialog": Source(11_264_000), "qrecc": Source(58_000)},
}


def group_shares(made):
    shares = {}
    for row in made.table:
        group = row["name"].split("/")[0]
        shares[group] = shares.get(group, 0) + row["share"]
    return shares


def test_flan2022_shares_and_caps():
    made = plan(preset("flan2022", GROUPS), total_size=100_000)
    assert group_shares(made) == pytest.approx({"flan2021": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03})
    assert {row["name"].split("/")[0]: row["cap"] for row in made.table} == {
        "flan2021": 30_000,
        "t0": 20_000,
        "niv2": 5_000,
        "cot": 100_000,
        "dialog": 200_000,
    }
    rates = {row["name"]: row["rate"] for row in made.table}
    assert rates["flan2021/rte"] == pytest.approx(2_490 / 32_490)
    old = group_shares(plan(preset("flan2022_defaults", GROUPS), total_size=1000))
    assert old == pytest.approx({"flan2021": 0.4, "t0": 0.3, "niv2": 0.1, "cot": 0.1, "dialog": 0.1})


def test_flan2022_styles_are_equal_parts_and_absent_ones_are_named():
    styles = dict.fromkeys(("zsopt", "fsopt", "zsnoopt"), GROUPS["flan2021"])
    made = plan(preset("flan2022", {"flan2021": styles, "cot": {"zs": Source(50), "fs": Source(70)}}), total_size=4500)
    assert made.left_out["flan2021/fsnoopt"] == "no such part of flan2021 was given"
    assert set(made.left_out) == {"flan2021/fsnoopt", "dialog", "niv2", "t0"}
    shares = {}
    for row in made.table:
        group = "/".join(row["name"].split("/")[:2])
        shares[group] = shares.get(group, 0) + row["share"]
    assert shares["flan2021/zsopt"] == pytest.approx(0.4 / 0.45 / 3)
    assert shares["cot/zs"] == shares["cot/fs"] == pytest.approx(0.05 / 0.45 / 2)


def test_flan2021_uses_30000_rows_of_which_3000_count():
    made = plan(preset("flan2021", GROUPS["flan2021"]))
    assert made.draws == {"rte": 2490, "wmt": 3000}
    long = plan(preset("flan2021", {"rte": Source(300), "wmt": Source(4_500_000)}), total_size=40_000)
    names, labels, numbers = draw_indices(long)
    assert len(np.unique(numbers[labels == names.index("wmt")])) == 30_000


def test_cot_9to1():
    made = plan(preset("cot_9to1", GROUPS), total_size=10_000)
    assert sum(count for name, count in made.draws.items() if name.startswith("cot/")) == 1000
    with pytest.raises(ConfigError, match="needs a source or group called 'cot'"):
        preset("cot_9to1", {"flan2021": Source(5)})


def test_flat_presets():
    sources = {str(size): Source(size) for size in SIZES}
    rates = {row["name"]: row["rate"] for row in plan(preset("temperature_3", sources)).table}
    np.testing.assert_allclose([rates[str(size)] for size in SIZES], [0.4707, 0.3151, 0.1463, 0.0679], atol=5e-5)
    same = plan(preset("task_proportional", GROUPS), total_size=1000)
    assert set(same.draws.values()) == {100}
    assert "flan2021/rte" in same.draws
    assert plan(preset("examples_proportional", sources)).draws == {str(size): size for size in SIZES}


@pytest.mark.parametrize(
    ("name", "sources", "says"),
    [
        ("flan2023", GROUPS, "Did you mean 'flan202[12]'"),
        ("flan2022", {}, "no sources"),
        ("flan2022", {"flan": Source(5)}, "does not know 'flan'(.|\n)*Did you mean 'flan2021'"),
        ("flan2022", {"cot": {"zs": Source(5), "gsm8k": Source(5)}}, "cot does not know 'gsm8k'"),
        ("flan2022", {"cot": {}}, "no sources"),
        ("flan2021", {"a": 5}, "'a' is a int"),
        ("flan2021", {"a": Source(5, weight=2)}, "'a' has weight=2"),
        ("flan2022", {"cot": Mixture({"a": Source(5)}, temperature=2)}, "rules of its own"),
    ],
)
def test_presets_that_can_not_be(name, sources, says):
    with pytest.raises(ConfigError, match=says):
        preset(name, sources)


def test_a_group_may_be_a_mixture_without_rules():
    grouped = {name: Mixture(group) for name, group in GROUPS.items()}
    for name in PRESETS:
        assert plan(preset(name, grouped), total_size=5000) == plan(preset(name, GROUPS), total_size=5000)


@pytest.mark.shared_data
def test_every_task_of_the_flan_collection_can_be_planned_and_drawn(shared_data):
    sizes = json.loads((shared_data / "flan" / "task_sizes.json").read_text(encoding="utf-8"))
    groups = {"flan2021": {}, "t0": {}, "niv2": {}, "cot": {}, "dialog": {}}
    for task, counts in sizes["cases"].items():
        if task == "tfds_natural_instructions":
            continue  # all of niv2 as one task
        group = "flan2021"
        if task.startswith("t0_task_adaptation:"):
            group = "t0"
        elif task.startswith(("cot_", "stream_")):
            group = "cot"
        elif task.startswith(("wiki_dialog", "qrecc")):
            group = "dialog"
        zero, few = ("zs", "fs") if group in ("cot", "dialog") else ("zsopt", "fsopt")
        groups[group].setdefault(zero, {})[task] = Source(counts["zero_shot"])
        groups[group].setdefault(few, {})[task] = Source(counts["five_shot"])
    groups["niv2"] = {task: Source(rows) for task, rows in sizes["niv2"].items()}
    assert set(sizes["t0_train"]) - set(sizes["t0_in_flan"]) == {name.split(":")[1] for name in groups["t0"]["zsopt"]}

    made = plan(preset("flan2022", groups), total_size=1_000_000)
    shares = group_shares(made)
    assert shares == pytest.approx({"flan2021": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03})
    tasks = {row["name"].split("/")[-1] for row in made.table if not row["left_out"]}
    assert len(tasks) == 71 + 193 + 1654 + 18 + 4  # more than the 1,836 that were published in the end
    assert min(count for name, count in made.draws.items() if name not in made.left_out) > 0
    assert set(made.left_out) == {
        f"{group}/{style}" for group in ("flan2021", "t0") for style in ("zsnoopt", "fsnoopt")
    }

    names, labels, numbers = draw_indices(made, seed=7)
    assert dict(zip(names, np.bincount(labels).tolist(), strict=True)) == {k: v for k, v in made.draws.items() if v}
    rows = {row["name"]: row["rows"] for row in made.table}
    assert (numbers < np.array([rows[name] for name in names])[labels]).all()
