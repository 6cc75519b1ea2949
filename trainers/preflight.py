"""What a training run will do, before it does it: seconds, no weights, no GPU.

The rows are loaded, converted, labelled and split by the functions that recipes/sft.py trains with; what they give is
reported. census.py counts it, findings.py says what is wrong with it, memory.py what it needs, page.py shows it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from . import adapters, census, conversations, findings, labelling, models, outcomes, reading, templates
from . import memory as estimate
from .labels import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import PretrainedConfig, PreTrainedTokenizerBase
    from trl import SFTConfig

SHOWN = 1500  # tokens of an example row: enough to see its turns, few enough for a page


def report(
    args: object,
    training: SFTConfig,
    *,
    examples: int = 8,
    world_size: int = 1,
    device_memory: int | None = None,
    memory: bool = True,
) -> dict:
    """Everything there is to know about a run before it starts, as JSON types.

    Args:
        args (`SftArguments`): The arguments of recipes/sft.py.
        training (`SFTConfig`): TRL's.
        examples (`int`, *optional*, defaults to 8): Rows shown token by token.
        world_size (`int`, *optional*, defaults to 1): Processes that share each batch.
        device_memory (`int`, *optional*): Bytes of one GPU, to be compared with the estimate.
        memory (`bool`, *optional*, defaults to `True`): Estimate it, which takes most of the time with few rows.

    Returns:
        `dict`: `problems` (see [`findings.findings`]) and what they were found in, per topic.

    Raises:
        InstructError: Where recipes/sft.py would stop before there are rows to speak of: no such data, no such model,
            a template that can't be used.
    """
    policy = policy_of(args, training)
    tokenizer, template, added = models.load_tokenizer(args)
    config = load_config(args)
    adapters.check_targets(args, config)
    place = (args.dataset_name, args.dataset_config, args.dataset_revision)
    raw = reading.load_rows(*place, args.dataset_train_split, args.dataset_format)
    rows = conversations.conversations(raw, args.dataset_format, template, tokenizer)
    labelled = labelling.label_all(rows, tokenizer, template, policy)
    source = raw
    if args.dataset_test_split:
        more = reading.load_rows(*place, args.dataset_test_split, args.dataset_format)
        source, more = more, conversations.conversations(more, args.dataset_format, template, tokenizer)
        held = labelling.label_all(more, tokenizer, template, policy)
        train, test, held = outcomes.used(labelled), outcomes.used(held), outcomes.counts(held)
    else:
        more = rows
        train, test, held = outcomes.used(labelled), None, {}
        if args.test_size and len(train) > 1:
            train, test = conversations.hold_out(train, args.test_size, args.split_seed, conversations.families(raw))
    found = {
        "model": {"name": args.model_name_or_path, "chat_template": args.chat_template}
        | {"tokens_added": tokenizer.convert_ids_to_tokens(added)},
        "data": reading.describe(raw, args.dataset_name, args.dataset_train_split, args.dataset_license),
        "policy": policy._asdict(),
        "columns": census.columns(raw, args.dataset_format),
        "roles": census.roles(raw, rows),
        "rows": outcomes.counts(labelled) | {"train": len(train), "test": len(test or [])},
        "test_rows": held,  # of a test split of its own
        "left_out": census.left_out(labelled),
        "lengths": census.lengths(_whole(labelled), policy.limit),
        "tokens": census.tokens(train),
        "bos": census.bos(train, tokenizer),
        "stop": census.stops(train, tokenizer, templates.stops(template, tokenizer)),
        "boundaries": census.boundaries(labelled, rows, tokenizer, template),
        "special_tokens": census.specials(rows, tokenizer),
        "twins": census.twins(rows, train, more, test) | {"parts": census.parts(train, raw, test, source)},
        "steps": steps(train, training, world_size, args.attn_implementation),
        "positions": getattr(config.get_text_config(), "max_position_embeddings", None),
        "memory": {},
    }
    if len(train) and memory:
        longest = int(np.max(train["length"][:]))
        share = found["tokens"]["share"]
        found["memory"] = estimate.ways(config, args, training, longest, len(tokenizer), added, share)
        found["memory"]["device"] = device_memory
    found["problems"] = findings.findings(found)
    found["examples"] = shown(train, tokenizer, examples)
    found["short"] = short(found)
    return found


def policy_of(args: object, training: SFTConfig) -> labelling.Policy:
    """The policy that a recipe's arguments ask for."""
    return labelling.Policy(training.max_length, args.overlength, args.special_tokens, args.train_on_prompts)


def load_config(args: object) -> PretrainedConfig:
    """The model's config.json and nothing else of it."""
    from transformers import AutoConfig

    from instruct_builders.errors import SourceError

    try:
        return AutoConfig.from_pretrained(args.model_name_or_path, revision=args.model_revision or "main")
    except (OSError, ValueError) as error:
        raise SourceError(f"no model in {args.model_name_or_path!r}: {error}") from error


def steps(train: datasets.Dataset, training: SFTConfig, world_size: int, attention: str | None = None) -> dict:
    """Optimizer steps, and the rows and tokens in each; whether `attention` takes rows of varying length."""
    rows, packed = len(train), 0
    if training.packing and rows:
        from trl import pack_dataset

        pieces = pack_dataset(train.select_columns(["input_ids"]), training.max_length, training.packing_strategy)
        rows = packed = len(pieces)
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    batches = math.ceil(rows / (training.per_device_train_batch_size * world_size))
    per_epoch = max(math.ceil(batches / training.gradient_accumulation_steps), 1) if rows else 0
    total = training.max_steps if training.max_steps > 0 else math.ceil(per_epoch * training.num_train_epochs)
    length = np.asarray(train["length"][:]) if len(train) else np.zeros(0)
    batch = training.per_device_train_batch_size
    cells = 0  # tokens with padding, in the order the rows are in: what a random order gives on average
    for start in range(0, len(length) - batch + 1, batch):
        cells += batch * int(length[start : start + batch].max())
    full = int(length[: len(length) // batch * batch].sum())
    return {
        "per_epoch": per_epoch,
        "epochs": round(total / per_epoch, 2) if per_epoch else 0,
        "total": total,
        "rows_per_step": min(per_step, rows),
        "tokens_per_epoch": int(length.sum()),
        "trained_per_epoch": int(np.sum(train["trained"][:])) if len(train) else 0,
        "packed_rows": packed,
        "padding": 0.0 if packed or not cells else round(1 - full / cells, 3),
        "batch": training.per_device_train_batch_size,
        "varying": estimate.varying(attention),
    }


def shown(train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, number: int) -> list[dict]:
    """Rows token by token: the first, the longest, the ones with most and least to learn, and some between."""
    if not len(train) or not number:
        return []
    length, share = np.asarray(train["length"][:]), np.asarray(train["trained"][:]) / np.asarray(train["length"][:])
    order = [0, int(length.argmax()), int(share.argmin()), int(share.argmax()), int(length.argmin())]
    order += np.linspace(0, len(train) - 1, number, dtype=int).tolist()
    found = []
    for place in list(dict.fromkeys(order))[:number]:
        entry = train[place]
        ids, labels = entry["input_ids"][:SHOWN], entry["labels"][:SHOWN]
        found.append(
            {"row": entry["row"], "outcome": entry["outcome"], "length": entry["length"], "trained": entry["trained"]}
            | {"tokens": pieces(ids, labels, tokenizer), "hidden": max(entry["length"] - SHOWN, 0)}
        )
    return found


def pieces(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """The text of each token, and whether it is learned. Tokens that are parts of one character are put together."""
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    found: list[dict] = []
    pending: list[int] = []
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        pending.append(token)
        # Behind the token before it: some tokenizers drop the blank that a text begins with.
        anchor = ids[place - len(pending) : place - len(pending) + 1] if place >= len(pending) else []
        before = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
        text = tokenizer.decode([*anchor, *pending], clean_up_tokenization_spaces=False)
        text = text[len(before) :] if text.startswith(before) else tokenizer.decode(pending)
        last = place + 1 == len(ids) or (labels[place + 1] != IGNORED) != (label != IGNORED)
        if text.endswith("\ufffd") and not last and len(pending) < 4:
            continue
        found.append({"text": text, "trained": label != IGNORED, "special": token in special, "ids": pending})
        pending = []
    return found


def _whole(labelled: datasets.Dataset) -> np.ndarray:
    """Tokens of each conversation before it was cut or split."""
    _, first = np.unique(np.asarray(labelled["row"][:]), return_index=True)
    return np.asarray(labelled["tokens"][:])[first]


def short(found: dict) -> str:
    """A report in a dozen lines, for a terminal and the model card."""
    rows, length, steps = found["rows"], found["lengths"], found["steps"]
    lines = [f"rows: {_in_and_used(rows)}; {rows['train']:,} to train on, {rows['test']:,} held out"]
    if found["model"]["tokens_added"]:
        lines.append(f"added to the vocabulary: {', '.join(found['model']['tokens_added'])}")
    columns = found["columns"]
    lines.append(f"read as {columns['format']}: {', '.join(columns['read'])}; turns: {_listed(found['roles'])}")
    if found["test_rows"]:
        lines.append(f"test rows: {_in_and_used(found['test_rows'])}")
    if length["rows"]:
        lines.append(
            f"tokens per row: p50 {length['p50']:,}, p90 {length['p90']:,}, p99 {length['p99']:,}, "
            f"max {length['max']:,}; limit {length['limit'] or 'none'}, {length['over']:,} beyond it"
        )
    lines.append(f"trained on: {found['tokens']['trained']:,} of {found['tokens']['total']:,} tokens "
                 f"({found['tokens']['share']:.1%})")  # fmt: skip
    lines.append(_boundaries(found["boundaries"]))
    stop = found["stop"]
    lines.append(f"end of turn {stop['token']!r}: learned in {stop['answers'] - stop['without'] - stop['cut']:,} "
                 f"of {stop['answers']:,} answers")  # fmt: skip
    per = ", ".join(f"{count:,} rows with {number}" for number, count in found["bos"]["rows"].items())
    lines.append(f"BOS {found['bos']['token']!r}: {per or 'not counted'}")
    lines.append(f"special tokens typed in messages: {_listed(found['special_tokens']) or 'none'}")
    exact, near = found["twins"]["exact"], found["twins"]["normalised"]
    lines.append(f"duplicates: {exact['duplicates']:,} exact, {near['duplicates']:,} but for case and blanks; "
                 f"test rows in training: {exact['overlap']:,} and {near['overlap']:,}")  # fmt: skip
    lines.append(
        f"steps: {steps['per_epoch']:,} per epoch, {steps['total']:,} in all; {steps['tokens_per_epoch']:,} tokens "
        f"per epoch, {steps['padding']:.0%} padding"
    )
    for name, way in found["memory"].get("ways", {}).items():
        chosen = " (this run)" if name == found["memory"]["chosen"] else ""
        lines.append(f"memory, {name}{chosen}: {way['total'] / 2**30:.2f} GiB")
    lines += [f"{entry['severity']}: {entry['what']} {entry['fix']}" for entry in found.get("problems", [])]
    return "\n".join(lines)


def _boundaries(found: dict) -> str:
    """How the labels were found, and what was counted at the borders of answers."""
    how = "by the template's markers" if found["has_markers"] else "derived, the template has no markers"
    where = (
        f"all {found['of']:,} rows" if found["rows"] == found["of"] else f"{found['rows']:,} of {found['of']:,} rows"
    )
    wrong = sum(one["times"] for one in found["disagreements"])
    told = f"labels: {how}; in {where}: {found['straddling']:,} tokens straddle a boundary and are left out"
    return told + (f", markers put right {wrong:,} times" if wrong else "")


def _in_and_used(rows: dict) -> str:
    others = {name: count for name, count in rows.items() if name not in ("rows_in", "rows_out", "train", "test")}
    return f"{rows['rows_in']:,} in, {rows['rows_out']:,} used ({_listed(others)})"


def _listed(counts: dict) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
