"""text: one string a row. Read as one assistant turn; written from that, or rendered with a chat template."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import TemplateError
from instruct_builders.formats.layout import Layout
from instruct_builders.formats.turns import Batch, constant_roles, first_true, join_context, nest
from instruct_builders.formats.turns import text as text_of
from instruct_builders.records import JSON, MESSAGE_FIELDS


def read(columns: dict[str, pa.Array]) -> Batch:
    content = text_of(columns["text"], "text")
    offsets = np.arange(len(content) + 1, dtype=np.int32)
    batch = Batch(offsets, {"role": constant_roles(("assistant",), len(content)), "content": content})
    batch.meta = text_of(columns["meta"], "meta") if "meta" in columns else None
    return batch


def write(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    out = {"text": _plain(batch) if layout.options.get("template") is None else render(batch, **layout.options)}
    layout.add(batch, out, "meta", batch.meta)
    return out


def _plain(batch: Batch) -> pa.Array:
    hint = "; pass template= (a chat template's Jinja source) to render it"
    for name in ("context", "tools"):
        values = getattr(batch, name)
        if values is not None and values.null_count < len(values):
            batch.fail(
                first_true(values.is_valid()), name, f"has a value, and text holds one assistant turn alone{hint}"
            )
    counts = np.diff(batch.offsets)
    bad = np.flatnonzero(counts != 1)
    if len(bad):
        batch.fail(bad[0], "messages", f"{counts[bad[0]]} turns, and text holds one assistant turn{hint}")
    wrong = pc.not_equal(batch.fields["role"], "assistant")
    if pc.any(wrong).as_py():
        row = first_true(wrong)
        given = batch.fields["role"][row].as_py()
        batch.fail(row, "messages[0].role", f"is {given!r}, and text holds one assistant turn{hint}")
    others = [name for name, values in batch.fields.items() if values.null_count < len(values)]
    if extra := [name for name in others if name not in ("role", "content")]:
        turn = first_true(batch.fields[extra[0]].is_valid())
        batch.fail(turn, f"messages[0].{extra[0]}", f"has a value, and text holds the content alone{hint}")
    return batch.fields["content"]


def render(batch: Batch, template: str, bos_token: str = "", eos_token: str = "") -> pa.Array:
    """Each row through a chat template, as transformers renders it.

    A template that names `context` gets it, and the turns as they are; any other gets the turns with the context
    joined. A row with tools and a template that does not name `tools` is an error.
    """
    from jinja2 import TemplateError as JinjaError
    from jinja2 import meta

    environment = _environment()
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
        compiled = environment.from_string(template)
    except JinjaError as error:
        raise TemplateError(f"the template does not compile: {error}") from error
    content = batch.fields["content"] if "context" in names else join_context(batch)
    fields = {**batch.fields, "content": content}
    rows = nest(batch.offsets, fields).to_pylist()
    json_fields = [name for name in fields if MESSAGE_FIELDS[name] == JSON]
    tools = [None] * len(batch) if batch.tools is None else batch.tools.to_pylist()
    contexts = [None] * len(batch) if batch.context is None else batch.context.to_pylist()
    texts = []
    for row, (turns, context, listed) in enumerate(zip(rows, contexts, tools, strict=True)):
        if listed is not None and "tools" not in names:
            batch.fail(row, "tools", "has a value, and the template does not name tools")
        for turn in turns:
            for name in [name for name, value in turn.items() if value is None]:
                del turn[name]  # templates ask "is defined"
            for name in json_fields:
                if name in turn:
                    turn[name] = json.loads(turn[name])
        try:
            texts.append(
                compiled.render(
                    messages=turns,
                    context=context,
                    tools=None if listed is None else json.loads(listed),
                    bos_token=bos_token,
                    eos_token=eos_token,
                    add_generation_prompt=False,
                )
            )
        except JinjaError as error:
            batch.fail(row, "messages", f"the template refuses this row: {error}")
    return pa.array(texts, pa.string())


def _environment():
    """The sandbox and the names that transformers gives a chat template."""
    from jinja2.exceptions import TemplateError as JinjaError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}` marks what is trained on; the text is printed as it is."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message):
        raise JinjaError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment
