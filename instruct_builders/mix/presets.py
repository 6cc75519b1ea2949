"""Published mixtures by name. Each takes sources by name, grouped as it says, and gives a [`Mixture`]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..errors import ConfigError, did_you_mean
from .mixture import Mixture, Source

# Source -> its numbers; or a group of sources by name, for which a Mixture without rules of its own does as well.
Sources = Mapping[str, "Source | Mapping | Mixture"]

# FLAN 2021 (google-research/FLAN, flan/mixtures.py): at most 30,000 training rows of a task are used, and at most
# 3,000 of them count for its rate; T=1.
FLAN2021_ROWS, FLAN2021_CAP = 30_000, 3_000
# FLAN 2022, the mixture the released models were trained on (google-research/FLAN, flan/v2/run_example.py).
FLAN2022_WEIGHTS = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
# The rates that flan/v2/mixtures.py has as defaults, from before the release: chains of thought are 1 in 10.
FLAN2022_DEFAULT_WEIGHTS = {"flan2021": 4, "t0": 3, "niv2": 1, "cot": 1, "dialog": 1}
# Rows of a task that count for its rate (flan/v2/mixtures.py: min(cap, num_cases)); none are cut off.
FLAN2022_CAPS = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}
# Equal parts of zero-shot and few-shot rows, with and without options (run_example.py); the others have no options.
FOUR_STYLES, TWO_STYLES = ("zsopt", "fsopt", "zsnoopt", "fsnoopt"), ("zs", "fs")
FLAN2022_STYLES = {
    "flan2021": FOUR_STYLES,
    "t0": FOUR_STYLES,
    "niv2": TWO_STYLES,
    "cot": TWO_STYLES,
    "dialog": TWO_STYLES,
}
# T5 (Raffel et al. 2020, section 3.5.2) caps at 2^21 rows when it mixes by temperature.
T5_TEMPERATURE_CAP = 2**21


def flan2021(sources: Sources) -> Mixture:
    """Tasks by size: 30,000 rows of a task are used, 3,000 count."""
    limited = {name: replace(source, limit=FLAN2021_ROWS) for name, source in tasks(sources).items()}
    return Mixture(limited, cap=FLAN2021_CAP)


def flan2022(sources: Sources) -> Mixture:
    """The released mixture: flan2021 40%, t0 32%, niv2 20%, cot 5%, dialog 3%; see [`FLAN2022_WEIGHTS`].

    Each of the five is a group of tasks, or of the styles `zsopt`, `fsopt`, `zsnoopt`, `fsnoopt` (`zs` and `fs` for
    niv2, cot and dialog), each a group of tasks. Styles have equal weights.
    """
    return _flan2022(sources, FLAN2022_WEIGHTS, "flan2022")


def flan2022_defaults(sources: Sources) -> Mixture:
    """As [`flan2022`], with the 4:3:1:1:1 that its code has as defaults: non-CoT to CoT is 9:1."""
    return _flan2022(sources, FLAN2022_DEFAULT_WEIGHTS, "flan2022_defaults")


def cot_9to1(sources: Sources) -> Mixture:
    """Nine rows of anything to one with a chain of thought: the source or group called `cot` is 10%.

    The ratio is the one of [`flan2022_defaults`]; among the others, and within `cot`, it is examples-proportional.
    """
    if "cot" not in sources or len(sources) < 2:
        raise ConfigError(
            f"cot_9to1 was given {', '.join(sources) or 'no sources'}: it needs a source or group called 'cot' and at "
            f"least one other.{did_you_mean('cot', sources)}"
        )
    others = tasks({name: source for name, source in sources.items() if name != "cot"})
    cot = sources["cot"]
    cot = _bare("cot", cot) if isinstance(cot, Source) else Mixture(tasks(_members("cot", cot)))
    return Mixture({"cot": replace(cot, weight=1), "other": Mixture(others, weight=9)})


def temperature_3(sources: Sources) -> Mixture:
    """Tasks by the cube root of their size: T=3, capped at 2^21 rows."""
    return Mixture(tasks(sources), cap=T5_TEMPERATURE_CAP, temperature=3)


def task_proportional(sources: Sources) -> Mixture:
    """Every task the same."""
    return Mixture({name: replace(source, weight=1) for name, source in tasks(sources).items()})


def examples_proportional(sources: Sources) -> Mixture:
    """Tasks by their size, without a cap: as if all were one dataset."""
    return Mixture(tasks(sources))


PRESETS: dict[str, Callable[[Sources], Mixture]] = {
    "flan2021": flan2021,
    "flan2022": flan2022,
    "flan2022_defaults": flan2022_defaults,
    "cot_9to1": cot_9to1,
    "temperature_3": temperature_3,
    "task_proportional": task_proportional,
    "examples_proportional": examples_proportional,
}


def preset(name: str, sources: Sources) -> Mixture:
    """The mixture that a published rule makes of the sources.

    Args:
        name (`str`): One of [`PRESETS`].
        sources (`Mapping`):
            Name -> [`Source`], or name -> group of sources. flan2022 and cot_9to1 go by the names of the groups; the
            others take every task alike, and name it with its group (`"cot/gsm8k"`).

    Raises:
        ConfigError: For a preset or a group that there is not.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"preset={name!r} is not one of {', '.join(PRESETS)}.{did_you_mean(str(name), PRESETS)} "
            "For other rules make a Mixture with cap, temperature or weights."
        )
    if not sources:
        raise ConfigError(f"preset {name}: there are no sources. Name at least one.")
    return PRESETS[name](sources)


def tasks(sources: Sources, prefix: str = "") -> dict[str, Source]:
    """Every source of nested groups, by its path: `{"cot": {"gsm8k": ...}}` -> `{"cot/gsm8k": ...}`.

    Raises:
        ConfigError: For an empty group, a weight or another rule of its own, or something that is no source.
    """
    found = {}
    for name, item in sources.items():
        path = f"{prefix}{name}"
        if isinstance(item, Source):
            found[path] = _bare(path, item)
        else:
            found |= tasks(_members(path, item), f"{path}/")
    if not found:
        raise ConfigError(f"{prefix.rstrip('/') or 'the preset'} has no sources. Name at least one, or leave it out.")
    return found


def _bare(path: str, item: Source | Mixture) -> Source | Mixture:
    if item.weight is not None:
        raise ConfigError(f"{path!r} has weight={item.weight}: leave it out, a preset says the weights.")
    return item


def _members(path: str, item: Mapping | Mixture) -> Mapping:
    """What is in a group."""
    if isinstance(item, Mapping):
        return item
    if not isinstance(item, Mixture):
        raise ConfigError(f"{path!r} is a {type(item).__name__}: a Source or a group of sources is needed.")
    if _bare(path, item) != Mixture(item.sources):
        raise ConfigError(f"{path!r} has rules of its own, but a preset says the rules. Leave out one or the other.")
    return item.sources


def _flan2022(sources: Sources, weights: Mapping[str, float], preset_name: str) -> Mixture:
    _only(sources, weights, preset_name)
    groups: dict[str, Source | Mixture] = {}
    for group, weight in weights.items():
        item = sources.get(group)
        if item is None:
            groups[group] = Source(0, weight=weight, missing=f"no such group was given to {preset_name}")
        elif isinstance(item, Source):
            groups[group] = replace(_bare(group, item), weight=weight)
        else:
            groups[group] = replace(_styles(group, _members(group, item)), weight=weight)
    return Mixture(groups)


def _styles(group: str, item: Mapping) -> Mixture:
    """The equal parts of a group, or its tasks where it is not divided into styles."""
    known, cap = FLAN2022_STYLES[group], FLAN2022_CAPS[group]
    if not set(item) & set(FOUR_STYLES + TWO_STYLES):
        return Mixture(tasks(item), cap=cap)
    _only(item, known, group)
    parts: dict[str, Source | Mixture] = {}
    for style in known:
        part = item.get(style)
        if part is None:
            parts[style] = Source(0, weight=1, missing=f"no such part of {group} was given")
        elif isinstance(part, Source):
            parts[style] = replace(_bare(f"{group}/{style}", part), weight=1)
        else:
            parts[style] = Mixture(tasks(_members(f"{group}/{style}", part)), cap=cap, weight=1)
    return Mixture(parts)


def _only(given: Mapping, known: Mapping | tuple[str, ...], where: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(
            f"{where} does not know {unknown[0]!r}: its parts are {', '.join(known)}."
            f"{did_you_mean(str(unknown[0]), known)} Put tasks into them, or use another preset."
        )
