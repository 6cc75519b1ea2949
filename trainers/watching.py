"""Whether a template prints the messages of one shape as they are, whatever they say: proven by watching it run.

The template is run once with texts that note what is done to them. Where it only asks whether a text is there, trims
its blanks, puts it behind other text and prints it, its way through the code does not depend on what the text says,
so every conversation of that shape is printed as the same concatenation. Anything else that it does is no proof.
"""

from __future__ import annotations

import functools

from .rendering import ERRORS, Printer

# Filters that do to a text or a list only what the methods of a watched text note by themselves.
FILTERS = {"length", "count", "first", "last", "list", "reverse", "default", "d", "string", "trim", "items"}
FILTERS |= {"select", "reject", "selectattr", "rejectattr", "map"}
# Tests that come out alike for every text that is not empty.
TESTS = {"defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "boolean", "number", "callable"}
GLOBALS = ("raise_exception", "namespace", "dict", "range")  # functions that give the same each time
INTERNAL = ("_loop_vars", "_block_vars")  # what jinja passes to every call in a loop
ALLOWED = {"__add__", "__radd__", "__bool__", "__str__", "strip", "lstrip", "rstrip"}
ALLOWED |= {"__contains__", "startswith", "endswith", "split"}
NEEDED = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__doc__", "__dir__"}
NEEDED |= {"__init_subclass__", "__subclasshook__", "__getstate__", "__reduce__", "__reduce_ex__", "__sizeof__"}


class Watched(str):
    """A text that is not empty, made of the template's own texts and of numbered ones; `notes` is shared by all.

    Attributes:
        parts (`tuple[str | int, ...]`): In order; an integer stands for a numbered text.
        notes (`set[str]`): What was done to any of them that could tell one text from another.
        words (`frozenset[str]`): Words that are in none of the numbered texts.
    """

    parts: tuple
    notes: set
    words: frozenset

    @classmethod
    def of(cls, pieces: list) -> str:
        """Pieces in a row, some of them watched."""
        text = "".join([str.__str__(piece) for piece in pieces])
        watched = [piece for piece in pieces if isinstance(piece, Watched)]
        if not watched:
            return text
        parts = [part for piece in pieces for part in (piece.parts if isinstance(piece, Watched) else (piece,))]
        return cls.made(text, tuple(part for part in parts if part != ""), watched[0].notes, watched[0].words)

    @classmethod
    def made(cls, text: str, parts: tuple, notes: set[str], words: frozenset[str]) -> Watched:
        made = cls(text)
        made.parts, made.notes, made.words = parts, notes, words
        return made

    def __add__(self, other):
        return Watched.of([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other):
        return Watched.of([other, self]) if isinstance(other, str) else NotImplemented

    def __bool__(self):
        return True

    def __str__(self):
        return self

    def _lacks(self, word, what: str) -> bool:
        """Whether this is one numbered text and `word` is known not to be in it; noted if not."""
        known = isinstance(word, str) and not isinstance(word, Watched) and any(own in word for own in self.words)
        lacks = known and len(self.parts) == 1 and isinstance(self.parts[0], int)
        if not lacks:
            self.notes.add(what)
        return lacks

    def __contains__(self, word):
        return not self._lacks(word, "in") and str.__contains__(self, word)

    def startswith(self, word, *args):
        return not self._lacks(None if args else word, "startswith") and str.startswith(self, word, *args)

    def endswith(self, word, *args):
        return not self._lacks(None if args else word, "endswith") and str.endswith(self, word, *args)

    def split(self, word=None, *args):
        return [self] if self._lacks(word, "split") else str.split(self, word, *args)

    def strip(self, chars=None):
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars=None):
        return self._trim(chars, 0, str.lstrip)

    def rstrip(self, chars=None):
        return self._trim(chars, -1, str.rstrip)

    def _trim(self, chars, side: int, trim):
        """As for numbered texts that neither begin nor end with a blank."""
        if isinstance(chars, Watched) or (chars is not None and not chars.isspace()):
            self.notes.add("strip(chars)")
            return self
        self.notes.add("trim")
        parts = list(self.parts)
        while isinstance(parts[side], str):
            parts[side] = trim(parts[side], chars)
            if parts[side]:
                break
            del parts[side]
        return Watched.made(trim(str.__str__(self), chars), tuple(parts), self.notes, self.words)


def _noting(name: str):
    def method(self, *args, **options):
        self.notes.add(name)
        return getattr(str, name)(self, *args, **options)

    return method


for _name in set(dir(str)) - ALLOWED - NEEDED:
    setattr(Watched, _name, _noting(_name))


def concatenation(
    printer: Printer, messages: list[dict], variables: dict, words: frozenset[str]
) -> tuple[tuple[str, ...], tuple[int, ...], bool] | None:
    """(pieces, order, trims) of how every conversation of this shape is printed that has none of `words` in a text.

    Args:
        messages (`list[dict]`), variables (`dict`): Any texts in the places of the true ones, empty where those are.
        words (`frozenset[str]`): What the template may look for.

    Returns:
        `tuple`, *optional*: The template's own texts, the texts between them (messages first, then variables by
        name), and whether blanks at the ends of texts are trimmed. `None` where that can't be proven.
    """
    from transformers import PreTrainedTokenizerBase

    if type(printer.tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return None
    notes: set[str] = set()

    def watch(text: str, number: int) -> str:
        if not text:
            return text
        return Watched.made(text, (number,), notes, words)

    seen = [message | {"content": watch(message["content"], place)} for place, message in enumerate(messages)]
    names = sorted(name for name, value in variables.items() if isinstance(value, str))
    given = {name: watch(variables[name], len(messages) + place) for place, name in enumerate(names)}
    options = {**printer.tokenizer.special_tokens_map, **printer.variables, **variables, **given}
    try:
        template = _watching(printer.source, notes)
        text = template.render(messages=seen, tools=None, documents=None, add_generation_prompt=False, **options)
    except ERRORS:
        return None
    if notes - {"trim"} or not isinstance(text, Watched):
        return None
    pieces, order = [""], []
    for part in text.parts:
        if isinstance(part, int):
            order.append(part)
            pieces.append("")
        else:
            pieces[-1] += part
    return tuple(pieces), tuple(order), "trim" in notes


def _watching(source: str, notes: set[str]):
    """The template, compiled so that nothing is done to a watched text unseen."""
    from jinja2.runtime import Macro
    from jinja2.utils import Namespace
    from transformers.utils.chat_template_utils import _compile_jinja_template

    usual = _compile_jinja_template(source).environment
    environment = usual.overlay()
    safe = [usual.globals[name] for name in GLOBALS if name in usual.globals]

    def call(context, function, *args, **options):
        own = isinstance(function, Macro) or (isinstance(function, type) and issubclass(function, Namespace))
        given = [args, {name: value for name, value in options.items() if name not in INTERNAL}]
        if _holds(given) and not own and function is not usual.globals.get("dict"):
            notes.add("call with a text")
        if any(function is value for value in usual.globals.values()) and function not in safe:
            notes.add("call of a function")  # such as the date
        return type(usual).call(environment, context, function, *args, **options)

    def call_binop(context, sign, left, right):
        if sign != "+" and _holds([left, right]):
            notes.add(sign)
        return usual.binop_table[sign](left, right)

    def contains(item, container, negated):
        if isinstance(item, Watched) and isinstance(container, str):
            notes.add("in")
        return (item in container) != negated

    environment.call, environment.call_binop = call, call_binop
    environment.intercepted_binops = frozenset(usual.binop_table)
    environment.concat = lambda pieces: Watched.of(list(pieces))
    environment.filters = {name: _filter(name, function, notes) for name, function in usual.filters.items()}
    environment.filters |= {"_concat": lambda *pieces: Watched.of([str(piece) for piece in pieces])}
    environment.filters |= {"_in": contains}
    environment.tests = {name: _test(name, function, notes) for name, function in usual.tests.items()}
    tree = _transformer()().visit(environment.parse(source))
    return environment.template_class.from_code(environment, environment.compile(tree), environment.make_globals(None))


def _holds(value) -> bool:
    """Whether a watched text is in it."""
    if isinstance(value, Watched):
        return True
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    return isinstance(value, (list, tuple)) and any(map(_holds, value))


def _filter(name: str, function, notes: set[str]):
    @functools.wraps(function)
    def filtered(*args, **options):
        if name == "random" or (name not in FILTERS and _holds([args, options])):
            notes.add(f"filter {name}")
        return function(*args, **options)

    return filtered


def _test(name: str, function, notes: set[str]):
    @functools.wraps(function)
    def tested(*args, **options):
        if any(isinstance(arg, Watched) for arg in args):
            if name not in TESTS:
                notes.add(f"test {name}")
            args = [str.__str__(arg) if isinstance(arg, Watched) else arg for arg in args]
        return function(*args, **options)

    return tested


def _transformer():
    """Turns `a ~ b` and `a in b`, which compile to code of their own, into filters."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class Transformer(NodeTransformer):
        def visit_Concat(self, node):
            self.generic_visit(node)
            first, *others = node.nodes
            return nodes.Filter(first, "_concat", others, [], None, None, lineno=node.lineno)

        def visit_Compare(self, node):
            self.generic_visit(node)
            inside = [operand for operand in node.ops if operand.op in ("in", "notin")]
            if not inside:
                return node
            if len(node.ops) > 1:
                raise ValueError("a chain of comparisons with `in`")
            args = [inside[0].expr, nodes.Const(inside[0].op == "notin")]
            return nodes.Filter(node.expr, "_in", args, [], None, None, lineno=node.lineno)

    return Transformer
