"""One chat template with one tokenizer: prints conversations, knows its markers, its own words, its special tokens."""

from __future__ import annotations

import copy
import functools
import json
import re

from jinja2.exceptions import TemplateError as JinjaError

from instruct_builders.errors import TemplateError

# What a template's own code raises: `raise_exception`, `None + str`, a missing key, an empty list, `1 / 0`.
ERRORS = (JinjaError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class Raised(Exception):
    """The template itself raised an error; its cause is that error."""


class Unaligned(Exception):
    """Two texts that should be one are not, so nothing can be told from their difference."""


class Printer:
    """One chat template with one tokenizer, tools and variables."""

    def __init__(self, tokenizer, chat_template: str | None = None, tools=None, variables: dict | None = None):
        if not tokenizer.is_fast:
            raise TemplateError(
                f"{type(tokenizer).__name__} is a slow tokenizer: it gives no character offsets, so the assistant's "
                "tokens can't be found. Use a model that has a tokenizer.json."
            )
        try:
            self.source = tokenizer.get_chat_template(chat_template, tools)
        except ValueError as error:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template. Give chat_template: the text of a "
                ".jinja file, such as one of trainers/chat_templates."
            ) from error
        self.tokenizer, self.tools, self.variables = tokenizer, tools, variables or {}
        self.usual: str | None = None  # the generation prompt behind one user message, once it is known
        self.has_markers = re.search(r"\{%-?\s*generation\s*-?%\}", self.source) is not None
        added = [token for token in map(str, tokenizer.added_tokens_decoder.values()) if token.strip()]
        added.sort(key=len, reverse=True)
        self.trims = trims_offsets(tokenizer)
        self.added = re.compile("|".join(map(re.escape, added)) or "(?!)")

    def given(self, variables: dict, tools: list | None = None) -> Printer:
        """The same template with these variables and tools."""
        other = copy.copy(self)
        other.variables, other.tools, other.usual = variables, tools, None
        return other

    def text(self, messages: list[dict], prompt: bool = False) -> str:
        """What `apply_chat_template` prints; `prompt` is its `add_generation_prompt`."""
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=self.tools,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.variables,
            )
        except ERRORS as error:
            raise Raised(str(error)) from error

    def marked_spans(self, messages: list[dict], text: str) -> list[tuple[int, int]]:
        """The characters between `{% generation %}` and `{% endgeneration %}`, as transformers tells them."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[messages],
            tools=self.tools,
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **self.variables},
        )
        if texts[0] != text:
            raise Unaligned("the template prints another text each time")
        return [(start, end) for start, end in spans[0] if end > start]


def trims_offsets(tokenizer) -> bool:
    """Whether the tokenizer's offsets leave out the blank that a token begins with."""
    step = tokenizer.backend_tokenizer.post_processor
    step = json.loads(step.__getstate__()) if step else {}
    return any(part.get("trim_offsets", False) for part in [step, *step.get("processors", [])])


@functools.lru_cache(maxsize=64)
def literals(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """Texts that a template may look for in a message: those that look like tags, and all of them."""
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tree = _compile_jinja_template(source).environment.parse(source)

    texts = {node.value.strip() for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    tags = {text for text in texts if 2 < len(text) < 64 and re.search(r"[<>\[\]|/{}]", text)}
    return frozenset(tags), frozenset(text for text in texts if len(text) > 2)


def common_prefix(a: str, b: str) -> int:
    """Number of equal characters at the start."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(a: str, b: str) -> int:
    """Number of equal characters at the end."""
    return common_prefix(a[::-1], b[::-1])
