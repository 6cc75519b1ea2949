"""What a `mixture:` says, checked before anything is read, and its sources read: one builder each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import pyarrow as pa
import pyarrow.compute as pc

from . import mix, pipeline, transforms
from .builder import InstructBuilder
from .errors import BuildError, ConfigError, SourceError, did_you_mean
from .loading import BUILDERS, check_name
from .records import one_array

# Keys of one source, beside those that it hands on to its builder; of a group; of both.
SOURCE_KEYS = ("builder", "data_files", "data_config", "transforms", "options", "by")
BUILDER_KEYS = ("revision", "columns", "field", "license", "strict", "max_bad_fraction", "max_chars", "control_tokens")
GROUP_KEYS = ("sources", "preset", "temperature", "weights_by")
SHARED_KEYS = ("weight", "cap", "max_epochs")
TOP_KEYS = ("total_size", "tokenizer")
BY = ("task", "source", "template")  # columns of a record that can divide one builder's rows into sources
UNSTATED = "(none stated)"


@dataclass
class Leaf:
    """One source: what the YAML says of it, and what became of it.

    Args:
        name (`str`): Its path in the mixture, such as `"chat/vicuna"`.
        given (`dict`): Its entry in the YAML.
        builder ([`InstructBuilder`], *optional*): `None` where it could not be made or read.
        missing (`str`, *optional*): Why it is left out.
        holds_out (`bool`): Whether its builder holds out test rows itself, since its prompts show other rows.
        left_out (`dict`): With `by: task`, the tasks that could not be read, with the reason.
    """

    name: str
    given: dict
    builder: InstructBuilder | None = None
    missing: str | None = None
    holds_out: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def leaves_of(mixture: Mapping) -> list[Leaf]:
    """All sources of a mixture, in order.

    Raises:
        ConfigError: For an unknown key, builder, preset or transform, with the path of the entry.
    """
    leaves: list[Leaf] = []
    _check_group(mixture, "", leaves)
    return leaves


def _check_group(group: object, path: str, leaves: list[Leaf]) -> None:
    where = f"mixture: {path}" if path else "mixture"
    if not isinstance(group, Mapping) or not isinstance(group.get("sources"), Mapping) or not group["sources"]:
        raise ConfigError(f"{where}: give `sources`, a mapping from a name to a source or a group, not {group!r}.")
    _check_keys(group, (*GROUP_KEYS, *SHARED_KEYS, *(() if path else TOP_KEYS)), where)
    for name, entry in group["sources"].items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ConfigError(f"{where}: {name!r} is no name for a source: a text without '/' is allowed.")
        below = f"{path}/{name}" if path else name
        if isinstance(entry, Mapping) and "sources" in entry:
            _check_group(entry, below, leaves)
        else:
            _check_source(entry, f"mixture: {below}")
            leaves.append(Leaf(below, dict(entry)))
    _check_preset(group.get("preset"), where)
    if group.get("preset") is not None:
        mix.preset(group["preset"], {name: mix.Source(1) for name in group["sources"]})  # groups it does not know


def _check_source(entry: object, where: str) -> None:
    if not isinstance(entry, Mapping) or "builder" not in entry:
        raise ConfigError(f"{where}: a source needs `builder` ({', '.join(BUILDERS)}), a group needs `sources`.")
    divided = GROUP_KEYS[1:] if "by" in entry else ()
    _check_keys(entry, (*SOURCE_KEYS, *BUILDER_KEYS, *SHARED_KEYS, *divided), where)
    try:
        check_name(entry["builder"])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if entry.get("by", "task") not in BY:
        raise ConfigError(f"{where}: by={entry['by']!r}: {', '.join(BY)} are allowed.")
    options = entry.get("options") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where}: options={options!r}: a mapping of the builder's own options is allowed.")
    for key in {"test_size", "seed"} & set(options):  # two sources of the same data must hold out the same rows
        raise ConfigError(f"{where}: options: {key} is one for the whole mixture: set it beside `mixture`.")
    _check_preset(entry.get("preset"), where)
    transforms.check(entry.get("transforms") or [])


def _check_preset(name: object, where: str) -> None:
    if name is not None and name not in mix.PRESETS:
        hint = did_you_mean(str(name), mix.PRESETS)
        raise ConfigError(f"{where}: no preset {name!r}; there are {', '.join(mix.PRESETS)}.{hint}")


def _check_keys(given: Mapping, allowed: Sequence[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            hint = did_you_mean(str(key), allowed)
            raise ConfigError(f"{where}: unknown key {key!r}; there are {', '.join(allowed)}.{hint}")


def construct(leaf: Leaf, *, test_size: float | int, seed: int, cache_dir: str | None, strict: bool) -> None:
    """Makes the builder, which finds and digests its files; a source that is not there is left out, with the reason.

    A builder that shows other rows in its prompts (few-shot) holds out test rows itself, so it gets `test_size`.
    """
    cls, given = BUILDERS[leaf.given["builder"]], leaf.given
    options = {key: given[key] for key in BUILDER_KEYS if key in given} | dict(given.get("options") or {})
    leaf.holds_out = "test_size" in {each.name for each in fields(cls.BUILDER_CONFIG_CLASS)}
    if leaf.holds_out:
        if test_size and not isinstance(test_size, float):
            raise ConfigError(f"test_size={test_size}: {leaf.name} holds out per task; give a share such as 0.02.")
        options |= {"test_size": test_size, "seed": seed}
    try:
        leaf.builder = cls(
            given.get("data_files"),
            config_name=given.get("data_config"),
            cache_dir=cache_dir,
            format="record",
            **options,
        )
    except SourceError as error:  # not there, or without the columns; a mistake in the YAML is another error
        _leave_out(leaf, error, strict)


def read(leaf: Leaf, num_proc: int | None, strict: bool) -> tuple[pa.Table, list[dict], list[dict]] | None:
    """A source's records after its own transforms, the transforms' counts, and the lines of its rejected rows.

    Two columns are added: `leaf`, the source's name, and `share_of`, which is the leaf of the plan: the same, or
    with `by` the name and the column's value. `None` where the source turns out to be unreadable.
    """
    try:
        table, rejected = pipeline.collect(leaf.builder, num_proc)
    except SourceError as error:  # too many bad rows is another error: that data is there, and someone should look
        _leave_out(leaf, error, strict)
        return None
    table, steps, dropped = pipeline.transformed(table, leaf.given.get("transforms") or [])
    name = pa.repeat(pa.scalar(leaf.name, pa.string()), len(table))
    part = name
    if "by" in leaf.given:
        values = pc.coalesce(one_array(table[leaf.given["by"]]), pa.scalar(UNSTATED))
        part = pc.binary_join_element_wise(name, pc.replace_substring(values, "/", "-"), "/")
        leaf.left_out = {entry["task"]: entry["reason"] for entry in getattr(leaf.builder, "left_out", [])}
    table = table.append_column("leaf", name).append_column("share_of", part)
    return table, [{**step, "name": f"{leaf.name}: {step['name']}"} for step in steps], rejected + dropped


def _leave_out(leaf: Leaf, error: SourceError, strict: bool) -> None:
    if strict:
        raise BuildError(f"strict: the source {leaf.name} of the mixture can't be read: {error}") from error
    leaf.builder, leaf.missing = None, _without_folders(" ".join(str(error).split()))


def _without_folders(message: str) -> str:
    """A message for `build.json`, which is published: where a file lies on this machine is not said."""
    return re.sub(r"(?<![\w:/.])~?/(?:[^\s/'\"]+/)+(?=[^\s/])", "", message)
