"""ShareGPT's JSON texts: function calls and tools, to and from what a record holds. One text at a time."""

from __future__ import annotations

from instruct_builders.formats import kept

# A call is stored between these, so that the source's own bytes of it come back.
PREFIX, SUFFIX = '[{"type": "function", "function": ', "}]"


def stored_calls(value: str | None) -> tuple[str | None, bool]:
    """`(tool_calls, whether writing gives back value)` of a function_call's value; None where it is no call."""
    if value is None:
        return None, False
    try:
        given = kept.loads(value)
    except ValueError:
        return None, False
    calls = given if isinstance(given, list) else [given]
    functions = [_function(call) for call in calls]
    if not functions or None in functions:
        return None, False
    if isinstance(given, dict) and functions[0] is given:
        stored = PREFIX + value + SUFFIX
    else:
        stored = kept.dumps([{"type": "function", "function": function} for function in functions])
    return stored, written_calls(stored) == value


def _function(call) -> dict | None:
    """A call whose arguments are an object; OpenAI's arguments, a string that holds one, are opened."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
        return None
    if isinstance(call["arguments"], dict):
        return call
    try:
        arguments = kept.loads(call["arguments"]) if isinstance(call["arguments"], str) else None
    except ValueError:
        return None
    return {**call, "arguments": arguments} if isinstance(arguments, dict) else None


def written_calls(stored: str) -> str | None:
    """The function_call value that tool_calls are written as; None where ShareGPT has no place for what they say."""
    if stored.startswith(PREFIX) and stored.endswith(SUFFIX):
        inner = stored[len(PREFIX) : -len(SUFFIX)]
        try:
            if isinstance(kept.loads(inner), dict):
                return inner
        except ValueError:  # more than one call
            pass
    functions = _functions(stored)
    if functions is None or not all(_function(call) is call for call in functions):
        return None
    return kept.dumps(functions[0] if len(functions) == 1 else functions)


def _functions(stored: str) -> list | None:
    """The functions of a list of {"type": "function", "function": {...}} that says nothing more."""
    try:
        listed = kept.loads(stored)
    except ValueError:
        return None
    if not isinstance(listed, list) or not listed:
        return None
    plain = [
        item.get("function") if isinstance(item, dict) and item.get("type") == "function" and len(item) == 2 else None
        for item in listed
    ]
    return plain if all(isinstance(function, dict) for function in plain) else None


def stored_tools(value: str) -> tuple[str | None, str | None] | None:
    """`(tools as a record holds them, what to keep aside as JSON)`; None where the value is no list of tools."""
    if not value.strip():
        return None, kept.dumps(value)
    try:
        listed = kept.loads(value)
    except ValueError:
        return None
    if not listed:
        return None, kept.dumps(value)
    listed = listed if isinstance(listed, list) else [listed]
    if _functions(value) is not None:
        return value, "true"  # wrapped already: its own bytes are the record's
    wrapped = [
        tool if isinstance(tool, dict) and "function" in tool else {"type": "function", "function": tool}
        for tool in listed
    ]
    if not all(isinstance(tool["function"], dict) and "name" in tool["function"] for tool in wrapped):
        return None
    stored = kept.dumps(wrapped)
    return stored, None if written_tools(stored) == value else kept.dumps(value)


def written_tools(stored: str) -> str | None:
    functions = _functions(stored)
    return None if functions is None else kept.dumps(functions)
