"""Examples -> records: prompts and answers, and what is said of how they were made."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.flan import few_shot, options
from instruct_builders.flan.assign import Renderings, assign
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.task_files import Task
from instruct_builders.flan.texts import texts
from instruct_builders.formats.turns import alternate, constant_roles, nest
from instruct_builders.records import MESSAGE_FIELDS, REJECTED, one_array


def render(
    task: Task, examples: pa.Table, pool: pa.Table, config: FlanConfig
) -> tuple[pa.Table, pa.Array, np.ndarray]:
    """Examples -> records without provenance.

    Args:
        task ([`Task`]): Theirs.
        examples (`pa.Table`): As in [`examples.examples_of`], with `_own`: each one's position in the pool, or -1.
        pool (`pa.Table`): Different examples that exemplars are taken from.

    Returns:
        `tuple`: Columns `messages`, `task`, `template`, `parent` and `meta`; one [`records.REJECTED`] per row, null
        where the prompt is within its budget; and for each row the position of its example.
    """
    what = assign(task, examples["_row"].to_numpy(), config)
    twice = (what.marker >= options.UNLABELLED) & options.ambiguous(examples)[what.example]
    what = replace(what, marker=np.where(twice, what.marker % options.UNLABELLED, what.marker))
    inputs, targets = texts(task.templates, examples, what, config.option_target)
    own = examples["_own"].to_numpy()[what.example]
    prompts, shots, over = few_shot.prompts(task, inputs, what, own, pool, config)
    verdict = pa.nulls(len(what), REJECTED)
    if over.any():
        limit = config.max_input_chars or config.max_input_tokens
        unit = "characters" if config.max_input_chars else "tokens"
        why = {"reason": "over_budget", "field": "messages[0].content", "detail": f"longer than {limit} {unit}"}
        verdict = pa.array([why], REJECTED).take(pa.array(np.zeros(len(what), np.int64), mask=~over))
    extra = one_array(examples["_extra"]) if "_extra" in examples.column_names else None
    names = pa.repeat(pa.scalar(task.name), len(examples))
    if "_task" in examples.column_names:  # a collection of many tasks in one file
        names = one_array(examples["_task"])
    ids, meta = _described(task, what, shots, config)
    if extra is not None:
        meta = extra.take(pa.array(what.example))
    if "_template" in examples.column_names:
        ids = one_array(examples["_template"]).take(pa.array(what.example))
    table = pa.table(
        {
            "messages": _messages(prompts, targets),
            "task": names.take(pa.array(what.example)),
            "template": ids,
            "parent": one_array(examples["_question"]).take(pa.array(what.example)),
            "meta": _with_answers(meta, one_array(examples["_answers"]).take(pa.array(what.example))),
        }
    )
    return table, verdict, what.example


def _messages(prompts: pa.Array, targets: pa.Array) -> pa.Array:
    size = len(prompts)
    fields = {
        name: pa.nulls(2 * size, kind if kind == pa.bool_() else pa.string()) for name, kind in MESSAGE_FIELDS.items()
    }
    fields["role"] = constant_roles(("user", "assistant"), size)
    fields["content"] = alternate(prompts, targets)
    return nest(np.arange(0, 2 * size + 1, 2), fields)


def _described(task: Task, what: Renderings, shots: np.ndarray, config: FlanConfig) -> tuple[pa.Array, pa.Array]:
    """Template ids and `meta` texts: written once per kind of rendering, and taken for each row."""
    kinds = (what.template * (len(options.MARKERS) + 1) + what.marker + 1) * 1000 + shots
    _, first, code = np.unique(kinds, return_index=True, return_inverse=True)
    ids, metas = [], []
    for place in first.tolist():
        template, marker, shot = task.templates[what.template[place]], int(what.marker[place]), int(shots[place])
        meta = {
            "category": task.category,
            "kind": task.kind,
            "metric": task.metric,
            "setting": f"{'fs' if shot else 'zs'}_{'opt' if marker >= 0 else 'noopt'}",
            "shots": shot,
            "option_style": options.style(marker) if marker >= 0 else None,
            "inverted": template.inverted,
            "cot": template.cot,
        }
        if config.collection == "p3":  # what its prompts print and ask for is not said
            meta = {"shots": shot}
        ids.append(template.id + few_shot.suffix(task, shot, config))
        metas.append(json.dumps({key: value for key, value in meta.items() if value is not None}, ensure_ascii=False))
    code = pa.array(code.reshape(-1))
    return pa.array(ids, pa.string()).take(code), pa.array(metas, pa.string()).take(code)


def _with_answers(meta: pa.Array, answers: pa.Array) -> pa.Array:
    """Adds the accepted answers where there are several: only these few rows are written one by one."""
    if answers.null_count == len(answers):
        return meta
    written = [
        None if found is None else f', "answers": {json.dumps(found, ensure_ascii=False)}}}'
        for found in answers.to_pylist()
    ]
    written = pa.array(written, pa.string())
    joined = pc.binary_join_element_wise(pc.utf8_slice_codeunits(meta, 0, -1), written, "")
    return pc.coalesce(joined, meta)
