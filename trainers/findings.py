"""What in a preflight report would go wrong, each with what to do about it."""

from __future__ import annotations

# From here on a fault is not a stray row any more.
SHARE = 0.01  # of the test rows that are trained on, or of the answers that begin within a token of the prompt
DROPPED = 0.05  # of the rows too long for the limit
FEW_TRAINED = 0.02  # of all tokens: most of the computation teaches nothing
TOLD = 400  # characters of a reason: a refusal quotes the conversation
UNUSABLE = {
    "no_turns": "Build the data with recipes/build.py, which leaves such rows out and counts them.",
    "schema": "Choose a chat template that prints them, or leave them out.",
}


def findings(found: dict) -> list[dict]:
    """Problems of a report, errors first.

    Args:
        found (`dict`): From [`trainers.preflight.report`], without `problems`.

    Returns:
        `list[dict]`: `severity` (`"error"`: training would stop or its result be wrong; `"warning"`: it goes, and this
        should be known), `topic`, `what` and `fix`, all text.
    """
    problems = [entry for check in CHECKS for entry in check(found)]
    names = ("severity", "topic", "what", "fix")
    told = [dict(zip(names, problem, strict=True)) for problem in problems]
    return sorted(told, key=lambda entry: entry["severity"] != "error")


def _rows(found: dict):
    rows, out, policy = found["rows"], found["left_out"], found["policy"]
    share = rows.get("too_long", 0) / max(rows["rows_in"], 1)
    if not rows["rows_out"]:
        yield "error", "rows", f"None of {rows['rows_in']:,} rows is left to train on.", "See the reasons below."
    for reason, fix in UNUSABLE.items():
        if rows.get(reason):
            first = out[reason][0]
            told = first["detail"] if len(first["detail"]) <= TOLD else f"{first['detail'][:TOLD]}..."
            yield (
                "error",
                "rows",
                f"{rows[reason]:,} rows can't be trained on, such as row {first['row']}: {told}",
                fix,
            )
    if rows.get("too_long"):
        what = f"{rows['too_long']:,} rows ({share:.1%}) are longer than max_length {policy['limit']:,}"
        if policy["overlength"] == "error":
            fix = f"Raise max_length to {found['lengths']['max']:,}, or set overlength to drop, truncate_turns or "
            fix += "split."
            yield "error", "length", f"{what}, and overlength is error.", fix
        elif share > DROPPED:
            yield "warning", "length", f"{what} and left out.", f"p99 is {found['lengths']['p99']:,} tokens."
    if rows.get("tokens_cut"):
        fix = "Set overlength to truncate_turns."
        yield "warning", "length", f"{rows['tokens_cut']:,} rows are cut, some in mid-answer.", fix
    if rows.get("split_with_loss"):
        what = f"{rows['split_with_loss']:,} of the rows that are split have rounds too long for any part."
        yield "warning", "length", what, "Raise max_length to keep them."
    positions = found["positions"]
    if positions and found["lengths"].get("max", 0) > positions and (policy["limit"] or positions + 1) > positions:
        fix = f"Set max_length to {positions:,} or less."
        yield "error", "length", f"Rows of up to {found['lengths']['max']:,} tokens, positions for {positions:,}.", fix


def _markers(found: dict):
    rows, policy = found["rows"], found["policy"]
    typed = ", ".join(f"{token!r} {count:,}x" for token, count in found["special_tokens"].items())
    if typed and policy["special_tokens"] == "reject":
        what = f"{rows.get('control_token', 0):,} rows are left out for special tokens typed in messages: {typed}."
        yield "warning", "special tokens", what, "Set special_tokens: escape to train on them as ordinary text."
    if typed and policy["special_tokens"] == "allow":
        what = f"Special tokens typed in messages become real ones: {typed}. A question can end its own turn."
        yield "error", "special tokens", what, "Set special_tokens: reject, or escape."
    stop = found["stop"]
    if stop["without"]:
        what = f"{stop['without']:,} of {stop['answers']:,} answers don't end with {stop['token']!r} (rows "
        what += f"{', '.join(map(str, stop['rows_without']))}): the model would not learn to stop."
        yield "error", "end of turn", what, "Put the end-of-turn token behind each answer of the chat template."
    twice = sum(count for number, count in found["bos"]["rows"].items() if int(number) > 1)
    if twice:
        what = f"{twice:,} rows begin with {found['bos']['token']!r} more than once."
        yield "error", "BOS", what, "Print it in one place: the chat template or the data, not both."
    none = found["bos"]["rows"].get("0", 0)
    if none and found["bos"]["wanted"]:
        what = f"{none:,} rows have no {found['bos']['token']!r}, which the model saw before every text."
        yield "warning", "BOS", what, "Print bos_token at the start of the chat template."
    if found["policy"]["train_on_prompts"]:
        what = "Questions are trained on as well as answers."
        yield "warning", "loss", what, "Leave train_on_prompts out to train on answers alone."
    elif found["tokens"]["total"] and found["tokens"]["share"] < FEW_TRAINED:
        what = f"Only {found['tokens']['share']:.2%} of the tokens are trained on."
        yield "warning", "loss", what, "Check the example rows: are the answers coloured?"


def _borders(found: dict):
    seen = found["boundaries"]
    where = f"in the {seen['rows']:,} rows looked at"
    if seen["straddling"] > SHARE * seen["answers"] and not found["policy"]["train_on_prompts"]:
        what = f"{seen['straddling']:,} tokens {where} belong to a prompt and its answer, and are not learned."
        fix = "End the template's generation prompt where a token ends, mostly without the blank behind it."
        yield "warning", "boundaries", what, fix
    if wrong := seen["disagreements"]:
        each = (f"{one['markers']} {one['text'][:40]!r} (rule {one['rule']}, {one['times']:,}x)" for one in wrong)
        what = f"The template's markers break rules {where}: they {', '.join(each)}. The labels follow the rules."
        yield "warning", "markers", what, "Nothing to do here; other tools would train on what the markers say."
    if seen["unprinted"]:
        told = ", ".join(f"{field} {count:,}x" for field, count in seen["unprinted"].items())
        what = f"The template does not print {told} {where}, so nothing of it is learned."
        fix = "Take a template that does, or split conversations so that it stands in a last turn."
        yield "warning", "template", what, fix


def data(found: dict):
    """Duplicates, test rows in training, and columns that nothing reads; for an encoder-decoder as well."""
    exact, near, rows = found["twins"]["exact"], found["twins"]["normalised"], found["rows"]
    if near["duplicates"]:
        what = f"{near['duplicates']:,} rows repeat an earlier one ({exact['duplicates']:,} exactly)."
        yield "warning", "duplicates", what, "Add the step exact_duplicates to recipes/build.py's transforms."
    if near["overlap"]:
        share = near["overlap"] / rows["test"]
        what = f"{near['overlap']:,} of {rows['test']:,} test rows ({share:.1%}) are trained on, such as rows "
        what += f"{', '.join(map(str, near['rows']))}: their loss says nothing about new questions."
        fix = "Remove duplicates with recipes/build.py (exact_duplicates) before the split."
        yield "error" if share >= SHARE else "warning", "test rows", what, fix
    if found["twins"]["parts"]:
        what = f"Conversations with parts both in training and among the test rows: {found['twins']['parts']:,}."
        yield "error", "test rows", what, "Make the test split with test_size, which keeps a conversation together."
    if found["columns"]["unread"]:
        names = ", ".join(found["columns"]["unread"])
        yield "warning", "columns", f"Columns that nothing reads: {names}.", "Nothing to do unless they hold the data."


def _machine(found: dict):
    steps, memory = found["steps"], found["memory"]
    if steps["packed_rows"] and steps["batch"] > 1 and not steps["varying"]:
        what = (
            f"Packing without a flash attention kernel: the device batch becomes 1 instead of {steps['batch']}, and "
        )
        what += f"gradient_accumulation_steps {steps['batch']} times as high. The loss stays the same."
        yield "warning", "packing", what, "Nothing to do; or set attn_implementation: flash_attention_2 on a GPU."
    if "failed" in memory:
        yield "warning", "memory", f"Not estimated: {memory['failed']}.", "Try one step on the real machine."
    device = memory.get("device")
    if device and memory.get("ways"):
        way = memory["ways"][memory["chosen"]]
        if way["total"] > device:
            fits = [name for name, other in memory["ways"].items() if other["total"] < 0.9 * device]
            less = "smaller max_length or per_device_train_batch_size, or activation_checkpointing: true"
            fix = f"{' or '.join(fits)} would fit, or a {less}." if fits else f"Take a {less}."
            what = f"A step takes about {way['total'] / 2**30:.1f} GiB, the device has {device / 2**30:.1f} GiB."
            yield "error", "memory", what, fix


CHECKS = (_rows, _markers, _borders, data, _machine)
