"""What a conversion writes, settled before its first row: the columns and message fields of all its batches."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError
from instruct_builders.formats import sharegpt
from instruct_builders.formats.json_texts import decoded_type
from instruct_builders.formats.native import OPTIONAL, REQUIRED, turn_fields, understand
from instruct_builders.formats.tables import convert_batch
from instruct_builders.formats.turns import flatten, is_list, is_text
from instruct_builders.records import MESSAGE_FIELDS


def first_plan(columns: dict[str, pa.DataType], source: str, target: str, asked: dict) -> dict:
    """The keyword arguments of [`convert_batch`], the layout still as asked for."""
    native, turns = understand(columns, source)
    strangers = [name for name in columns if name not in native]
    if source != target:
        taken = [name for name in strangers if name in (*REQUIRED[target], *OPTIONAL[target]) and name != "meta"]
        if taken:
            raise ConfigError(
                f"the column {taken[0]!r} is not part of {source} as it is here, and {target} has one of that name; "
                "rename or remove it first"
            )
    options = dict(asked["options"])
    named = options.pop("turns", "") or (turns if source == target else "")
    if named != turns and named in strangers:
        raise ConfigError(f"turns={named!r}, but there is a column of that name; rename or remove it first")
    layout = dict(asked, options=options, turns=named)
    if target == source == "prompt_completion" and "conversational" not in layout["options"]:
        conversational = is_list(columns["prompt"])
        layout["options"] = {**layout["options"], "conversational": conversational}
    types = {name: decoded_type(columns[name], name) for name in native} if source == target else {}
    return {"source": source, "target": target, "native": native, "turns": turns, "layout": layout, "types": types}


def _mirrored(plan: dict) -> set[str]:
    """The target's optional columns that the source has as well, whatever they hold."""
    source, target, native = plan["source"], plan["target"], set(plan["native"])
    if source == "record":  # has them all, always
        return set()
    if "input" in native and target != "alpaca":
        native = native - {"input"} | {"context"}
    if "context" in native and target == "alpaca":
        native = native - {"context"} | {"input"}
    own = set() if source == target else {"meta", "system"}
    return {name for name in OPTIONAL[target] if name in native - own}


def decide(plan: dict, batches) -> dict:
    """The plan with its layout settled for all rows: by a look at the roles, or by a conversion that is thrown away.

    Args:
        batches (`Callable`): Column names -> `(first row, table)` of the whole dataset.
    """
    layout = dict(plan["layout"])
    mirrored = _mirrored(plan)
    if layout["columns"] is not None and layout["message_fields"] is not None:
        return plan
    if _is_plain(plan, batches):
        columns, fields = mirrored, {"role", "content"}
    else:
        columns, fields = set(mirrored), {"role", "content"}
        trial = {**plan, "layout": {**layout, "columns": _trial_columns(plan)}}
        for start, table in batches(plan["native"]):
            out = convert_batch(table, [start], **trial)
            columns |= {name for name in out.column_names if name in OPTIONAL[plan["target"]]}
            for name in out.column_names:
                fields |= (turn_fields(out.schema.field(name).type) or set()) & MESSAGE_FIELDS.keys()
    if layout["columns"] is None:
        layout["columns"] = tuple(name for name in OPTIONAL[plan["target"]] if name in columns)
    if layout["message_fields"] is None:
        layout["message_fields"] = tuple(name for name in MESSAGE_FIELDS if name in fields)
    return {**plan, "layout": layout}


def _trial_columns(plan: dict) -> tuple[str, ...] | None:
    """Columns of the trial: what the rows need, except where the target has columns that must be asked for."""
    if plan["layout"]["columns"] is not None:
        return plan["layout"]["columns"]
    return tuple(_mirrored(plan)) if plan["source"] == plan["target"] == "alpaca" else None


def _is_plain(plan: dict, batches) -> bool:
    """Whether every row is in its format's default spelling, told without converting: then nothing goes to `meta`."""
    native, turns = set(plan["native"]), plan["turns"]
    if plan["source"] == "alpaca":
        return not native & {"system", "history", "meta"}
    if plan["source"] == "text":
        return "meta" not in native
    if plan["source"] == "sharegpt" and native == {turns}:
        plain = pa.array([name for name in sharegpt.WRITTEN.values() if name != "observation"])
        for _, table in batches([turns]):
            for chunk in table[turns].chunks:
                values = flatten(chunk)[1] if is_list(chunk.type) else chunk
                if not pa.types.is_struct(values.type) or "from" not in values.type.names:
                    return False
                spelled = pc.struct_field(values, "from")
                if not is_text(spelled.type):
                    return False
                if not pc.all(pc.is_in(spelled, value_set=plain.cast(spelled.type))).as_py():
                    return False
        return True
    return False


def stream_layout(plan: dict, columns: dict[str, pa.DataType]) -> dict:
    """A stream's layout, from its columns alone."""
    layout, fields = dict(plan["layout"]), {"role", "content"}
    if plan["source"] in ("messages", "record"):
        fields |= turn_fields(columns[plan["turns"]]) or set()
    elif plan["source"] == "prompt_completion":
        fields |= turn_fields(columns["prompt"]) or set()
    elif plan["source"] == "sharegpt" and "tools" in plan["native"]:
        fields.add("tool_calls")
    if layout["message_fields"] is None:
        layout["message_fields"] = tuple(name for name in MESSAGE_FIELDS if name in fields)
    if layout["columns"] is None:
        found = _mirrored(plan) | (
            {"meta"} if plan["source"] == "sharegpt" and plan["target"] != "sharegpt" else set()
        )
        if plan["source"] == "record":
            found = {"input" if n == "context" and plan["target"] == "alpaca" else n for n in plan["native"]}
        layout["columns"] = tuple(name for name in OPTIONAL[plan["target"]] if name in found)
    return layout
