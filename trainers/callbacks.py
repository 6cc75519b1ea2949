"""What happens beside the steps of a training run: checkpoints made whole, SIGTERM, sample answers."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback

from . import checkpoints
from .labels import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
SHOWN = 200  # characters of a cell in the log's table; files and trackers get everything
COLUMNS = ("step", "prompt", "answer", "expected")


class VerifiedCheckpoints(TrainerCallback):
    """Puts `run.json` and the manifest into each checkpoint when every process has written its part.

    All processes must write to one file system. Costs one reading of the checkpoint; several files are hashed at once.
    """

    def on_save(self, args, state, control, **kwargs):
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
            (checkpoint / checkpoints.RUN).write_bytes(Path(args.output_dir, checkpoints.RUN).read_bytes())
            checkpoints.write_manifest(checkpoint, state.global_step)


class StopOnSignal(TrainerCallback):
    """SIGTERM (a spot machine's or Slurm's notice) ends training after the current step, with a checkpoint.

    Slurm sends it ahead of the time limit with `--signal=TERM@120`; torchrun passes it on to its processes and kills
    them 30 seconds later. `caught` is true from the first signal on, on every process alike.
    """

    def __init__(self):
        self.caught, self._before = False, None

    def on_train_begin(self, args, state, control, **kwargs):
        owner = os.getpid()

        def catch(number, frame):
            if os.getpid() != owner:  # a data loader's worker: ends as it always did
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            self.caught = True

        self._before = signal.signal(signal.SIGTERM, catch)

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:  # one process may see the signal a step before another
            flag = torch.tensor(int(self.caught), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.caught = bool(flag)
        if self.caught:
            logger.warning("SIGTERM: saving after step %d, then exit code %d", state.global_step, checkpoints.STOPPED)
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def restore(self) -> None:
        """Gives SIGTERM back its old meaning, however training ended."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


class SampleGenerations(TrainerCallback):
    """The model's answers to fixed prompts after each evaluation, greedily, so that they can be compared over time.

    They go to the log as a table, to `<output_dir>/samples.jsonl`, and to wandb, trackio and TensorBoard where
    `report_to` names them. No random number is drawn: training goes on as it would without.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of the model.
        prompts (`list[dict]`):
            From [`first_prompts`] or [`chat_prompts`]: token ids `input_ids`, and the text `expected` where known.
        max_new_tokens (`int`, *optional*, defaults to 64): Of one answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: list[dict], max_new_tokens: int = 64):
        self.tokenizer, self.prompts, self.max_new_tokens = tokenizer, prompts, max_new_tokens
        self._answered: int | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        # A resumed run comes by the steps after its checkpoint again; a kill may have torn the last line.
        path = Path(args.output_dir, "samples.jsonl")
        if state.is_world_process_zero and path.is_file():
            lines = [
                line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
            ]
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            path.write_text("".join(kept), encoding="utf-8")

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if self._answered == state.global_step:  # evaluated again at the end, or on several sets of rows
            return
        self._answered = state.global_step
        rows = self.answers(model, state.global_step)  # on every process: sharded weights need all of them
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir, "samples.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        logger.info("answers after step %d\n%s", state.global_step, table(rows, SHOWN))
        for name in args.report_to:
            if name in TRACKERS:
                TRACKERS[name](args, rows)

    def answers(self, model: torch.nn.Module, step: int) -> list[dict]:
        """One row per prompt: `step`, `prompt`, `answer` (with its special tokens) and `expected`."""
        was_training, rows = model.training, []
        model.eval()
        for prompt in self.prompts:
            ids = torch.tensor([prompt["input_ids"]], device=model.device)
            with torch.no_grad():
                out = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=self.max_new_tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=self.tokenizer.pad_token_id,
                    # a model's own sampling settings would be complained about, and are not used
                    **dict.fromkeys(("temperature", "top_p", "top_k"), None),
                )
            text, answer = (self.tokenizer.decode(part) for part in (ids[0], out[0, ids.shape[1] :]))
            rows.append({"step": step, "prompt": text, "answer": answer, "expected": prompt.get("expected")})
        model.train(was_training)
        return rows


def first_prompts(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, number: int = 4) -> list[dict]:
    """Prompts of the first labelled rows: all before the first supervised token, with what is expected after it."""
    prompts = []
    for row in rows.select(range(min(number, len(rows)))):
        start = next(place for place, label in enumerate(row["labels"]) if label != IGNORED)
        end = next((p for p in range(start, len(row["labels"])) if row["labels"][p] == IGNORED), len(row["labels"]))
        # Where everything is supervised, the first half is the prompt.
        start = start or end // 2
        ids = row["input_ids"]
        prompts.append({"input_ids": ids[:start], "expected": tokenizer.decode(ids[start:end])})
    return prompts


def chat_prompts(conversations: list[list[dict]], tokenizer: PreTrainedTokenizerBase, template: str) -> list[dict]:
    """Prompts from conversations that end with the user, as they are printed at inference."""
    options = {"chat_template": template, "add_generation_prompt": True, "return_dict": True}
    printed = [tokenizer.apply_chat_template(messages, **options) for messages in conversations]
    return [{"input_ids": list(prompt["input_ids"])} for prompt in printed]


def table(rows: list[dict], width: int | None = None) -> str:
    """Rows of [`SampleGenerations`] as a Markdown table; cells longer than `width` end in `...`."""

    def cell(value) -> str:
        text = "" if value is None else str(value)
        text = text if width is None or len(text) <= width else text[:width] + "..."
        return text.replace("|", "\\|").replace("\n", "\\n")

    lines = [COLUMNS, ["---"] * len(COLUMNS), *([row[name] for name in COLUMNS] for row in rows)]
    return "\n".join(f"| {' | '.join(cell(value) for value in line)} |" for line in lines)


def _to_wandb(args, rows: list[dict]) -> None:
    import wandb

    wandb.log({"samples": wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])})


def _to_trackio(args, rows: list[dict]) -> None:
    import pandas
    import trackio

    trackio.log({"samples": trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(COLUMNS)))})


def _to_tensorboard(args, rows: list[dict]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    # The trainer's own writer can't be reached from a callback; TensorBoard reads all files below one folder.
    folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(args.output_dir, "runs")
    with SummaryWriter(log_dir=str(Path(folder, "samples"))) as writer:
        writer.add_text("samples", table(rows), rows[0]["step"])


TRACKERS = {"wandb": _to_wandb, "trackio": _to_trackio, "tensorboard": _to_tensorboard}
