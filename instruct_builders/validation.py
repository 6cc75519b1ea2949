"""Which records are no good, and why: every rule over whole Arrow tables, one reason per row.

Rules in order; the first that a row breaks is its reason: null_field, no_turns, bad_role, role_order, ends_with_user,
empty_output, nul, control_token, too_long. (Half of a UTF-16 pair can't be in an Arrow string: the reader rejects it.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError
from instruct_builders.records import REJECTED, ROLES, flat_turns, one_array

# What chat templates put between turns: typed into a text, it would end or forge a turn.
SPECIAL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
)
EXCERPT = 80  # characters of a text shown in a detail
ROWS = 50_000  # rows checked at a time: keeps 32-bit string offsets far from their 2 GiB
# C0 and C1 but tab, newline and carriage return; NUL has a reason of its own.
CONTROL = r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"
SAYS_SOMETHING = r"[^\s\pZ\x0b\x1c-\x1f\x{85}]"  # RE2's \s is ASCII only
TEXTS = ("content", "reasoning_content", "tool_calls", "tool_call_id", "name")

# What may follow what: rows are the turn before, columns the turn. "calls" is an assistant turn that calls tools.
START, CALLS = 4, 5
FOLLOWS = {
    START: ("system", "user"),
    0: ("user",),
    1: ("assistant",),
    2: ("user",),
    3: ("tool", "assistant"),
    CALLS: ("tool", "user"),
}


def validate(
    table: pa.Table,
    *,
    special_tokens: Iterable[str] = SPECIAL_TOKENS,
    max_chars: int | None = None,
    on_control_token: str = "reject",
) -> pa.Array:
    """What is wrong with each record.

    Turns must be: an optional system turn first, then user and assistant turns in alternation, the last an answer;
    tool turns only after an assistant turn that calls tools, or another tool turn. A lone assistant turn is fine: that
    is what plain text is read as.

    Args:
        table (`pa.Table`): Records, or at least their `messages`. Rows that its column `rejected` names keep that.
        special_tokens (`Iterable[str]`): Texts that no turn, context or tool may contain.
        max_chars (`int`, *optional*): Most characters in a row's contents, reasoning, tool calls and context.
        on_control_token (`str`, *optional*, defaults to `"reject"`): `"reject"` rows with control characters or
            special tokens, or `"keep"` them.

    Returns:
        `pa.Array` of [`records.REJECTED`]: null where the record is fine.
    """
    if on_control_token not in ("reject", "keep"):
        raise ConfigError(f"on_control_token={on_control_token!r}: allowed are 'reject' and 'keep'")
    if isinstance(special_tokens, str) or not all(special_tokens := tuple(special_tokens)):
        raise ConfigError(f"special_tokens={special_tokens!r}: a list of texts, none of them empty, belongs there")
    if max_chars is not None and max_chars < 1:
        raise ConfigError(f"max_chars={max_chars}: it must be at least 1")
    tokens = special_tokens if on_control_token == "reject" else None
    verdicts = []
    for start in range(0, len(table), ROWS):
        rows = _Rows(table.slice(start, ROWS))
        for rule in (_nulls, _no_turns, _bad_role, _role_order, _ends_with_user, _empty_output):
            rule(rows)
        _characters(rows, tokens)
        if max_chars is not None:
            _too_long(rows, max_chars)
        verdicts.append(rows.verdict())
    return pa.concat_arrays(verdicts) if verdicts else pa.nulls(0, REJECTED)


class _Rows:
    """A slice of records laid flat, and what was found so far."""

    def __init__(self, table: pa.Table):
        messages = one_array(table["messages"])
        self.size = len(table)
        self.null = messages.is_null().to_numpy(zero_copy_only=False)
        self.counts = pc.list_value_length(messages).fill_null(0).to_numpy()
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        turns = flat_turns(messages)
        self.fields = {n: _text(a) for n, a in zip(turns.type.names, turns.flatten(), strict=True) if n in TEXTS}
        self.role = pc.struct_field(turns, "role")
        self.turns = len(turns)
        codes = pc.index_in(self.role, value_set=pa.array(ROLES, self.role.type)).fill_null(-1)
        self.codes = codes.to_numpy()
        calls = self.fields.get("tool_calls", pa.nulls(self.turns, pa.string()))
        self.calls = pc.and_(calls.is_valid(), pc.not_equal(calls, "[]").fill_null(False)).to_numpy(
            zero_copy_only=False
        )
        self.columns = {
            name: _text(one_array(table[name])) for name in ("context", "tools") if name in table.column_names
        }
        self.found: dict[int, tuple[str, str | None, str | None]] = {}
        self.open = np.ones(self.size, bool)  # nothing found yet
        if "rejected" in table.column_names:
            for row, verdict in enumerate(table["rejected"].to_pylist()):
                if verdict is not None:
                    self.reject(row, **verdict)

    def reject(self, row: int, reason: str, field: str | None, detail: str | None) -> None:
        self.open[row] = False
        self.found[int(row)] = (reason, field, detail)

    def open_turns(self, bad: np.ndarray):
        """`(row, turn in the row, flat position)` of the first bad turn of each row that nothing was found in."""
        at = np.flatnonzero(bad)
        rows = np.searchsorted(self.offsets, at, side="right") - 1
        rows, first = np.unique(rows, return_index=True)
        for row, position in zip(rows, at[first], strict=True):
            if self.open[row]:
                yield int(row), int(position - self.offsets[row]), int(position)

    def open_rows(self, bad: np.ndarray) -> list[int]:
        return np.flatnonzero(bad & self.open).tolist()

    def verdict(self) -> pa.Array:
        if not self.found:
            return pa.nulls(self.size, REJECTED)
        rows = np.array(sorted(self.found))
        values = [dict(zip(REJECTED.names, self.found[row], strict=True)) for row in rows.tolist()]
        index = np.full(self.size, -1)
        index[rows] = np.arange(len(rows))
        return pa.array(values, REJECTED).take(pa.array(index, mask=index < 0))


def _text(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _mask(array: pa.Array) -> np.ndarray:
    return array.fill_null(False).to_numpy(zero_copy_only=False)


def _nulls(rows: _Rows) -> None:
    for row in rows.open_rows(rows.null):
        rows.reject(row, "null_field", "messages", "null; a list of turns belongs here")
    for name, values in (("role", rows.role), ("content", rows.fields["content"])):
        if values.null_count:
            for row, turn, _ in rows.open_turns(_mask(values.is_null())):
                rows.reject(row, "null_field", f"messages[{turn}].{name}", "null; text belongs here")


def _no_turns(rows: _Rows) -> None:
    answers = np.concatenate([[0], np.cumsum(rows.codes == ROLES.index("assistant"))])[rows.offsets]
    for row in rows.open_rows((np.diff(answers) == 0) & ~_has(rows, rows.codes < 0)):
        turns = rows.counts[row]
        rows.reject(row, "no_turns", "messages", f"{turns} turns, none of them an answer" if turns else "no turns")


def _has(rows: _Rows, turns: np.ndarray) -> np.ndarray:
    """Rows with such a turn: a row with an unknown role is told so, not that it has no answer."""
    return np.diff(np.concatenate([[0], np.cumsum(turns)])[rows.offsets]) > 0


def _bad_role(rows: _Rows) -> None:
    for row, turn, position in rows.open_turns(rows.codes < 0):
        given = rows.role[position].as_py()
        detail = f"{given[:EXCERPT]!r}; allowed are {', '.join(ROLES)}"
        rows.reject(row, "bad_role", f"messages[{turn}].role", detail)


def _role_order(rows: _Rows) -> None:
    if not rows.turns:
        return
    allowed = np.zeros((CALLS + 1, len(ROLES)), bool)
    for before, after in FOLLOWS.items():
        allowed[before, [ROLES.index(role) for role in after]] = True
    kinds = np.where((rows.codes == ROLES.index("assistant")) & rows.calls, CALLS, rows.codes)
    before = np.concatenate([[START], kinds[:-1]])
    before[rows.offsets[:-1][rows.counts > 0]] = START
    wrong = ~allowed[before, rows.codes]
    lone = rows.offsets[:-1][rows.counts == 1]
    wrong[lone[rows.codes[lone] == ROLES.index("assistant")]] = False
    for row, turn, position in rows.open_turns(wrong):
        last = "the start" if turn == 0 else "an assistant turn that calls tools"
        if turn and before[position] != CALLS:
            last = f"a turn of {ROLES[before[position]]}"
        after = " or ".join(FOLLOWS[int(before[position])])
        detail = f"{ROLES[rows.codes[position]]} after {last}; allowed there: {after}"
        rows.reject(row, "role_order", f"messages[{turn}].role", detail)


def _ends_with_user(rows: _Rows) -> None:
    last = np.full(rows.size, ROLES.index("assistant"))
    said = rows.counts > 0
    last[said] = rows.codes[rows.offsets[1:][said] - 1]
    for row in rows.open_rows(last != ROLES.index("assistant")):
        place = f"messages[{rows.counts[row] - 1}].role"
        rows.reject(row, "ends_with_user", place, f"the last turn is {ROLES[last[row]]}; an answer must end the row")


def _empty_output(rows: _Rows) -> None:
    says = _mask(pc.match_substring_regex(rows.fields["content"], SAYS_SOMETHING))
    empty = ~says & ~rows.calls & (rows.codes == ROLES.index("assistant"))
    for row, turn, _ in rows.open_turns(empty):
        detail = "no text and no tool calls; an answer belongs here"
        rows.reject(row, "empty_output", f"messages[{turn}].content", detail)


def _characters(rows: _Rows, tokens: tuple[str, ...] | None) -> None:
    """NUL anywhere; and, unless `tokens` is None, other control characters and special tokens."""
    used = {name: values for name, values in rows.fields.items() if values.null_count < len(values)}
    patterns = [r"\x00"]
    if tokens is not None:
        patterns += [CONTROL, *(re.escape(token) for token in tokens)]
    finder = "|".join(patterns)
    hits: dict[int, dict[str, tuple[str, str]]] = {}  # row -> reason -> (field, detail)
    for name, values in used.items():
        for position in np.flatnonzero(_mask(pc.match_substring_regex(values, finder))).tolist():
            row = int(np.searchsorted(rows.offsets, position, side="right")) - 1
            field = f"messages[{position - rows.offsets[row]}].{name}"
            _note(hits.setdefault(row, {}), field, values[position].as_py(), tokens)
    for name, values in rows.columns.items():
        if values.null_count < len(values):
            for row in np.flatnonzero(_mask(pc.match_substring_regex(values, finder))).tolist():
                _note(hits.setdefault(row, {}), name, values[row].as_py(), tokens)
    for row in sorted(hits):
        reason = "nul" if "nul" in hits[row] else "control_token"
        if rows.open[row]:
            rows.reject(row, reason, *hits[row][reason])


def _note(found: dict[str, tuple[str, str]], field: str, text: str, tokens: tuple[str, ...] | None) -> None:
    if "\0" in text:
        found.setdefault("nul", (field, f"NUL {_around(text, text.index(chr(0)))}"))
        return
    match = re.search("|".join([r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", *map(re.escape, tokens or ())]), text)
    what = f"U+{ord(match[0]):04X}" if len(match[0]) == 1 and not match[0].isprintable() else repr(match[0])
    found.setdefault("control_token", (field, f"{what} {_around(text, match.start())}"))


def _around(text: str, at: int) -> str:
    start = max(0, at - EXCERPT // 2)
    return f"at character {at}, in {text[start : start + EXCERPT]!r}"


def _too_long(rows: _Rows, max_chars: int) -> None:
    chars = np.zeros(rows.turns, np.int64)
    for name in ("content", "reasoning_content", "tool_calls"):
        if name in rows.fields:
            chars += pc.utf8_length(rows.fields[name]).fill_null(0).to_numpy()
    total = np.diff(np.concatenate([[0], np.cumsum(chars)])[rows.offsets])
    if "context" in rows.columns:
        total = total + pc.utf8_length(rows.columns["context"]).fill_null(0).to_numpy()
    for row in rows.open_rows(total > max_chars):
        rows.reject(row, "too_long", "messages", f"{total[row]} characters; at most {max_chars}")
