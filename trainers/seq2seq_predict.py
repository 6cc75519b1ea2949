"""Answers of an encoder-decoder to prompts, as lines of JSON: batched by length, resumed where it was stopped.

With a file for the answers, each batch is appended to `<file>.part` as whole lines, on the disk before the next batch
begins; the last thing is the file itself, in the order of the prompts. Started again, it answers what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError, SourceError

from . import seq2seq_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainingArguments

    from .seq2seq_models import Seq2SeqArguments

SUFFIXES = (".txt", ".jsonl")
POLICIES = ("error", "drop", "truncate_tokens")


def run(
    args: Seq2SeqArguments,
    training: Seq2SeqTrainingArguments,
    show: Callable[[str], None],
    note: Callable[[str], None],
) -> int:
    """Answers `args.predict` and shows the lines, or writes them to `args.predictions`.

    Args:
        args (`Seq2SeqArguments`): The model, lengths, `overlength` (`"drop"` leaves prompts unanswered that are too
            long, `"truncate_tokens"` cuts them; both are marked), `predict` and `predictions`.
        training (`Seq2SeqTrainingArguments`): `per_device_eval_batch_size`, `generation_num_beams` and `use_cpu`.
        show (`Callable`), note (`Callable`): Where lines go, and where progress goes.

    Returns:
        `int`: 0.

    Raises:
        SourceError: If there are no prompts, or no model.
        ConfigError: For prompts that are too long with `overlength="error"`, or a file of other answers.
    """
    prompts = read_prompts(args.predict)
    target = Path(args.predictions) if args.predictions else None
    if target is not None and target.exists():
        raise ConfigError(f"predictions: {target} is there already. Choose another file, or delete it.")
    seq2seq_models.load_config(args, training)
    tokenizer = seq2seq_models.load_tokenizer(args)
    entries = encode(prompts, tokenizer, args)
    settings = {
        "max_new_tokens": args.max_target_length or 256,
        "num_beams": training.generation_num_beams or 1,
        "dtype": args.dtype,
        "quantized": "8bit" if args.load_in_8bit else "4bit" if args.load_in_4bit else None,
    }
    asked = [args.model_name_or_path, args.model_revision, settings, args.overlength, args.max_source_length, prompts]
    journal = Journal(target, asked)
    waiting = [entry for entry in entries if entry["line"]["index"] not in journal.done]
    model, revision = None, args.model_revision
    if any(entry["ids"] is not None for entry in waiting):
        model, revision = seq2seq_models.load_model(args, tokenizer, training.use_cpu)
        if not hasattr(model, "hf_device_map"):  # a quantised model is where it belongs
            model.to("cpu" if training.use_cpu else training.device)
    named = {"model": f"{args.model_name_or_path}@{revision}" if revision else args.model_name_or_path}
    for lines in answers(waiting, model, tokenizer, training.per_device_eval_batch_size, settings):
        journal.add([line | named | {"settings": settings} for line in lines])
        note(f"{len(journal.done):,} of {_counted(len(prompts), 'prompt')} answered")
    lines = journal.finish()
    if target is None:
        for line in lines:
            show(json.dumps(line, ensure_ascii=False))
    note(summary(lines, settings["max_new_tokens"]))
    note(f"wrote {target}" if target else "set predictions to write them to a file")
    return 0


def summary(lines: list[dict], limit: int) -> str:
    """What was not answered, not read to its end, or not written to its end."""
    counts = {name: sum(bool(line[name]) for line in lines) for name in ("input_cut", "cut", "unknown_tokens")}
    skipped = sum(line["answer"] is None for line in lines)
    return (
        f"{_counted(len(lines), 'prompt')}: {skipped:,} too long and not answered, {counts['input_cut']:,} cut before "
        f"they were read; {_counted(counts['cut'], 'answer')} cut at {limit:,} tokens; "
        f"{_counted(counts['unknown_tokens'], 'prompt')} with text that the vocabulary can't express"
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def read_prompts(given: str) -> list[str]:
    """The prompts that are given: one as it is, a .txt file's lines, or a .jsonl file's texts (or their `prompt`).

    Raises:
        SourceError: If there is no such file, no prompt in it, or a line that is none.
    """
    path = Path(given)
    if not given.endswith(SUFFIXES):
        if not given.strip():
            raise SourceError("predict: an empty prompt was given. Give a text, or a .txt or .jsonl file of them.")
        return [given]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"predict: can't read {given}: {error}. Give a text, or a .txt or .jsonl file.") from error
    if path.suffix == ".txt":
        prompts = [line for line in lines if line.strip()]
    else:
        prompts = [_prompt(line, f"{given}:{place}") for place, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise SourceError(f"predict: {given} has no prompts.")
    return prompts


def _prompt(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SourceError(f"predict: {place} is not JSON: {error}") from error
    text = row.get("prompt") if isinstance(row, dict) else row
    if not isinstance(text, str) or not text.strip():
        raise SourceError(f'predict: {place} has no prompt. Lines are texts ("...") or objects ({{"prompt": "..."}}).')
    return text


def encode(prompts: list[str], tokenizer: PreTrainedTokenizerBase, args: Seq2SeqArguments) -> list[dict]:
    """Per prompt `ids` (`None` where it is left unanswered) and the beginning of its `line`."""
    if args.overlength not in POLICIES:
        raise ConfigError(f"overlength: with predict allowed are {', '.join(POLICIES)}; {args.overlength!r} given.")
    made = tokenizer(prompts, return_attention_mask=False)["input_ids"]
    limit, entries = args.max_source_length or max(map(len, made)), []
    over = [place for place, ids in enumerate(made) if len(ids) > limit]
    if over and args.overlength == "error":
        raise ConfigError(
            f"{len(over)} of {len(prompts)} prompts are longer than max_source_length {limit} (the first, number "
            f"{over[0] + 1}, has {len(made[over[0]])} tokens). Raise it, or set overlength to drop or truncate_tokens."
        )
    for place, (prompt, ids) in enumerate(zip(prompts, made, strict=True)):
        line = {"index": place, "prompt": prompt, "answer": None, "input_tokens": len(ids)}
        line |= {"input_cut": False, "cut": False, "unknown_tokens": ids.count(tokenizer.unk_token_id)}
        if len(ids) > limit:
            line["input_cut"] = args.overlength == "truncate_tokens"
            ids = [*ids[: limit - 1], ids[-1]] if line["input_cut"] else None
        entries.append({"ids": ids, "line": line})
    return entries


def answers(
    entries: list[dict], model: PreTrainedModel | None, tokenizer, batch_size: int, settings: dict
) -> Iterator[list[dict]]:
    """Finished lines, a batch at a time, the longest prompts first: what does not fit fails at once."""
    import torch

    if skipped := [entry["line"] for entry in entries if entry["ids"] is None]:
        yield skipped
    entries = sorted((entry for entry in entries if entry["ids"] is not None), key=lambda entry: -len(entry["ids"]))
    if not entries:
        return
    config = seq2seq_models.generation(model, settings["max_new_tokens"], settings["num_beams"])
    stop = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    model.eval()
    for start in range(0, len(entries), batch_size):
        some = entries[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [entry["ids"] for entry in some]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            written = model.generate(**batch, generation_config=config).cpu()
        said = tokenizer.batch_decode(written, skip_special_tokens=True)
        ended = torch.isin(written[:, 1:], torch.tensor(stop)).any(1).tolist()
        yield [
            entry["line"] | {"answer": text, "cut": not end}
            for entry, text, end in zip(some, said, ended, strict=True)
        ]


class Journal:
    """Finished lines by index, kept in `<target>.part` until all are there; only in memory without a target."""

    def __init__(self, target: Path | None, asked: list):
        self.target, self.done = target, {}
        self.path = target.with_name(target.name + ".part") if target else None
        if self.path is None:
            return
        said = json.dumps(asked, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
        first = json.dumps({"asked": hashlib.sha256(said).hexdigest()}).encode() + b"\n"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]  # a kill may have torn the last one
        if whole and whole[0] != first:
            raise ConfigError(
                f"{self.path} holds answers to other prompts, of another model or with other settings. Delete it, or "
                "choose another file for predictions."
            )
        os.ftruncate(self.file, sum(map(len, whole)))
        if not whole:
            os.write(self.file, first)
        for line in whole[1:]:
            row = json.loads(line)
            self.done[row["index"]] = row

    def add(self, lines: list[dict]) -> None:
        self.done |= {line["index"]: line for line in lines}
        if self.path is not None and lines:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
            while text:
                text = text[os.write(self.file, text) :]
            os.fsync(self.file)

    def finish(self) -> list[dict]:
        """All lines in order; the target takes the place of the part, whole."""
        lines = [self.done[index] for index in sorted(self.done)]
        if self.path is not None:
            draft = self.target.with_name(self.target.name + ".draft")
            with draft.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.target)
            os.close(self.file)
            self.path.unlink()
        return lines
