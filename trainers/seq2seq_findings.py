"""What in an encoder-decoder's preflight report would go wrong, each with what to do about it."""

from __future__ import annotations

from . import seq2seq_rows
from .findings import DROPPED, data

BLANKS = {"line breaks": "\n", "tabs": "\t", "several blanks in a row": "  "}


def findings(found: dict) -> list[dict]:
    """Problems of a report, errors first.

    Args:
        found (`dict`): From [`trainers.seq2seq_preflight.report`], without `problems`.

    Returns:
        `list[dict]`: `severity` (`"error"`: training would stop or its result be wrong; `"warning"`: it goes, and this
        should be known), `topic`, `what` and `fix`, all text.
    """
    names = ("severity", "topic", "what", "fix")
    checks = (_rows, _lengths, _text, data, _memory)
    told = [dict(zip(names, one, strict=True)) for check in checks for one in check(found)]
    return sorted(told, key=lambda entry: entry["severity"] != "error")


def _rows(found: dict):
    rows, stop = found["rows"], found["stop"]
    if not rows["rows_out"]:
        yield "error", "rows", f"None of {rows['rows_in']:,} rows is left to train on.", "See the reasons below."
    for reason, entries in found["left_out"].items():
        if reason in seq2seq_rows.STOPS:
            what = f"{rows[reason]:,} rows can't be trained on ({reason}): row {entries[0]['row']} "
            fix = "Build the data with recipes/build.py, which leaves such rows out and counts them."
            yield "error", "rows", what + entries[0]["detail"], fix
        elif reason == "ends_with_user":
            what = f"{rows[reason]:,} rows go on after their last answer and are left out."
            yield "warning", "rows", what, "Build the data with recipes/build.py (trim_turns)."
    told = ", ".join(f"{token!r} {count:,}x" for token, count in found["special_tokens"].items())
    if told and found["policy"]["special_tokens"] == "reject":
        what = f"{rows.get('control_token', 0):,} rows are left out for special tokens typed in messages: {told}."
        yield "warning", "special tokens", what, "Set special_tokens: escape to train on them as ordinary text."
    if told and found["policy"]["special_tokens"] == "allow":
        what = f"Special tokens typed in messages become real ones: {told}. A question can end the encoder's text."
        yield "error", "special tokens", what, "Set special_tokens: reject, or escape."
    if stop["without"]:
        what = f"{stop['without']:,} of {stop['answers']:,} answers don't end with {stop['token']!r}."
        yield "error", "end of answer", what, "The model would not learn to stop. Use the model's own tokenizer."


def _lengths(found: dict):
    rows, policy = found["rows"], found["policy"]
    over = ", ".join(
        f"{found[side]['over']:,} {what} longer than max_{name}_length {policy[name]:,} (max {found[side]['max']:,})"
        for side, name, what in (("encoder", "source", "inputs"), ("decoder", "target", "answers"))
        if found[side].get("over")
    )
    share = rows.get("too_long", 0) / max(rows["rows_in"], 1)
    if rows.get("too_long") and policy["overlength"] == "error":
        fix = "Raise the limits, or set overlength to drop, truncate_turns or truncate_tokens."
        yield "error", "length", f"{rows['too_long']:,} rows are too long: {over}; and overlength is error.", fix
    elif share > DROPPED:
        yield "warning", "length", f"{share:.1%} of the rows are too long and left out: {over}.", "Raise the limits."
    if rows.get("tokens_cut"):
        what = f"{rows['tokens_cut']:,} rows are cut: {over}."
        yield "warning", "length", what, "A cut answer has no EOS; a cut input may have lost its question."


def _text(found: dict):
    rows, text = found["rows"], found["text"]
    told = ", ".join(f"{one!r} {count:,}x" for one, count in text["characters"])
    for side, what in (("source", "inputs"), ("target", "answers")):
        lost = text[side]
        fatal = side == "target" and found["policy"]["unknown_answers"] == "error"
        if lost["rows"]:
            said = f"{lost['rows']:,} {what} have text that the vocabulary can't express ({lost['tokens']:,} unknown "
            said += f"tokens; characters: {told or 'none alone'})."
            fix = "The model does not see it." if side == "source" else "Set unknown_answers: drop, or keep."
            if side == "target" and rows.get(seq2seq_rows.UNKNOWN_TOKEN) and not fatal:
                fix = "These rows are left out."
            elif side == "target" and not fatal:
                fix = "The model learns to write the unknown token."
            yield "error" if fatal else "warning", "vocabulary", said, fix
        blanks = ", ".join(f"{lost[name]:,} with {name}" for name in BLANKS if lost.get(name))
        if blanks:
            said = f"Blanks become one blank in {what}: {blanks}."
            fix = "The model can't tell lines apart." if side == "source" else "The model can't write them."
            yield "warning", "vocabulary", said, fix
        if lost["changed"]:
            said = f"{lost['changed']:,} {what} have letters that the tokenizer replaces by others."
            yield "warning", "vocabulary", said, "Compare a text with its decoded tokens."


def _memory(found: dict):
    memory = found["memory"]
    if "failed" in memory:
        yield "warning", "memory", f"Not estimated: {memory['failed']}.", "Try one step on the real machine."
    if memory.get("device") and memory.get("ways"):
        needed = memory["ways"][memory["chosen"]]["total"]
        if needed > memory["device"]:
            what = f"A step takes about {needed / 2**30:.1f} GiB, the device has {memory['device'] / 2**30:.1f} GiB."
            fix = "Take a smaller per_device_train_batch_size, smaller lengths, use_peft or load_in_8bit."
            yield "error", "memory", what, fix
