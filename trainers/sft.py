"""TRL's SFTTrainer on rows that are labelled already: faster on a CPU, honest about speed, safe to interrupt.

A method stands here only where TRL has no argument for it; each says which one is missing.
"""

from __future__ import annotations

import logging
import operator
import os
import time
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import is_peft_model
from transformers.utils.generic import is_flash_attention_requested
from trl import SFTTrainer

from instruct_builders.errors import ConfigError

from . import adapters, callbacks, checkpoints, head, throughput, varlen
from .labels import IGNORED
from .token_mean import TokenMean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer
    from trl import SFTConfig

logger = logging.getLogger(__name__)


class InstructTrainer(TokenMean, SFTTrainer):
    """`trl.SFTTrainer` for rows that have `input_ids` and `labels`.

    What is different:
      - rows are used as they are: TRL would cut rows beyond `max_length` without a word, here they are an error;
      - packing keeps documents apart and takes the device batch that the attention kernel is good for
        ([`settle_packing`]);
      - on a CPU the head scores labelled tokens only ([`head.score_labelled_only`]), with TRL's loss to 1e-6;
      - logs have `tokens_per_second` (all but padding), `supervised_tokens_per_second`, `peak_memory_gib` (first
        process) and, where the device's peak is known, `mfu` (of [`throughput.operations`]). Time for evaluating and
        saving is not counted;
      - `eval_loss` is the mean over all supervised tokens; TRL's is one of batches, so that it depends on their size;
      - checkpoints are verified, resuming is exact or refused, SIGTERM saves and exits with code 3
        ([`trainers.checkpoints`]).

    Args:
        model (`PreTrainedModel`): A loaded model; give `peft_config` for an adapter.
        args (`SFTConfig`): TRL's arguments. Batch size and accumulation may be changed here when packing.
        train_dataset (`datasets.Dataset`): Rows with `input_ids` and `labels`; other columns are ignored.
        eval_dataset (`datasets.Dataset` or `dict`, *optional*): Likewise.
        allow_changed (`bool`, *optional*, defaults to `False`): See [`trainers.checkpoints.begin`].
        **kwargs: Passed on to `SFTTrainer`.

    Raises:
        ConfigError: For rows that can't be trained on as they are, and for packing that mixes documents.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SFTConfig,
        train_dataset,
        eval_dataset=None,
        *,
        allow_changed=False,
        **kwargs,
    ):
        settle_packing(args, model.config)
        parts = eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset} if eval_dataset else {}
        for name, rows in {"train": train_dataset, **parts}.items():
            check_rows(rows, name, args.max_length)
        if not args.packing:
            args.dataset_kwargs = (args.dataset_kwargs or {}) | {"skip_prepare_dataset": True}
        args.assistant_only_loss = False  # the labels say so already; TRL would look for conversations
        with adapters.old_names_allowed():
            super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        check_sharded(self)
        if is_peft_model(self.model):
            adapters.save_trained_only(self.model)
        base = self.model.get_base_model() if is_peft_model(self.model) else self.model
        if self.accelerator.device.type == "cpu":
            head.score_labelled_only(base)
        self.allow_changed = allow_changed
        self.stop = callbacks.StopOnSignal()
        self.add_callback(callbacks.VerifiedCheckpoints())
        self.add_callback(self.stop)
        self._peak, self._operations = throughput.device_peak(self.args.device), throughput.operations(self.model)
        self._restart_clock()

    # No argument: TRL resumes from the highest number, whatever is in it.
    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As TRL's; `True` resumes from the newest checkpoint that verifies, or starts where there is none.

        Raises:
            SystemExit: With code 3, after SIGTERM; the last step is saved.
        """
        checkpoint = checkpoints.begin(self, resume_from_checkpoint, self.allow_changed)
        self._restart_clock()
        try:
            output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.stop.restore()
        if self.stop.caught:
            raise SystemExit(checkpoints.STOPPED)
        return output

    # No argument: TRL's `num_tokens` counts all tokens since the start and no time.
    def training_step(self, model, inputs, num_items_in_batch=None):
        self._clock = self._clock or time.perf_counter()
        packed = "cu_seq_lens_q" in inputs
        lengths = inputs["cu_seq_lens_q"].diff().long() if packed else inputs["attention_mask"].sum(1)
        supervised = (inputs["labels"][:, 1:] != IGNORED).sum()
        self._counted = self._counted + torch.stack([lengths.sum(), supervised, (lengths**2).sum()])
        return super().training_step(model, inputs, num_items_in_batch)

    # No argument: the one place where training stops for logs, evaluation and saves, which are not training time.
    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if self._clock is not None:
            self._seconds += time.perf_counter() - self._clock
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._clock = time.perf_counter()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._seconds:
            tokens, supervised, squares = self.accelerator.reduce(self._counted, "sum").tolist()
            logs["tokens_per_second"] = round(tokens / self._seconds, 1)
            logs["supervised_tokens_per_second"] = round(supervised / self._seconds, 1)
            if self._peak:
                counts = tokens, throughput.scored(self.args.device, tokens, supervised), squares
                done = sum(map(operator.mul, self._operations, counts))
                logs["mfu"] = round(done / self._seconds / (self._peak * self.args.world_size), 4)
            logs["peak_memory_gib"] = round(throughput.peak_memory(self.args.device) / 2**30, 3)
            self._restart_clock()
        super().log(logs, start_time)

    def _restart_clock(self) -> None:
        self._clock, self._seconds = None, 0.0
        self._counted = torch.zeros(3, dtype=torch.long, device=self.args.device)  # tokens, supervised, length^2


def check_sharded(trainer: Trainer) -> None:
    """Refuses FSDP that accelerate has left out without a word, as it does on CPUs."""
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and trainer.accelerator.num_processes > 1
    if wanted and not trainer.is_fsdp_enabled:
        raise ConfigError(
            "the launcher's configuration asks for FSDP, and accelerate shards nothing on this device: every process "
            "would hold the whole model. Take recipes/accelerate/ddp.yaml, or run on GPUs."
        )


def check_rows(rows: datasets.Dataset, name: str, max_length: int | None) -> None:
    """Refuses streams, rows that TRL would cut, and rows from which nothing can be learned."""
    if isinstance(rows, datasets.IterableDataset):
        raise ConfigError(
            f"the {name} rows are a stream, which a resumed run would have to read all over again. Load them without "
            "streaming."
        )
    if not isinstance(rows, datasets.Dataset) or not {"input_ids", "labels"} <= set(rows.column_names):
        raise ConfigError(f"the {name} rows must be a datasets.Dataset with input_ids and labels; label them first.")
    lengths, learned = [], []
    for table in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(batch_size=10_000):
        ids, labels = (pa.concat_arrays(table[column].chunks) for column in ("input_ids", "labels"))
        size, same = ids.value_lengths().to_numpy(False), labels.value_lengths().to_numpy(False)
        if not np.array_equal(size, same):
            row = int(np.flatnonzero(size != same)[0]) + sum(map(len, lengths))
            raise ConfigError(f"{name} row {row}: input_ids and labels differ in length. Label the rows anew.")
        on = labels.flatten().to_numpy(zero_copy_only=False) != IGNORED
        ends = np.cumsum(size)
        on[(ends - size)[size > 0]] = False  # the first token is never predicted
        lengths.append(size)
        learned.append(np.diff(np.concatenate([[0], np.cumsum(on)])[np.concatenate([[0], ends])]))
    lengths, learned = (np.concatenate(part) if part else np.zeros(0) for part in (lengths, learned))
    for wrong, what, cure in (
        (
            lengths > (max_length or np.inf),
            f"are longer than max_length {max_length}",
            "Cut or drop them, with a count",
        ),
        (learned == 0, "have no token to train on", "Remove them"),
    ):
        if wrong.any():
            raise ConfigError(
                f"{wrong.sum()} of {len(rows)} {name} rows {what} (the first is row {wrong.argmax()}). {cure}."
            )


def settle_packing(args: SFTConfig, config) -> None:
    """Sets the device batch that packing needs with the attention kernel that is there, and says so in the log.

    TRL lays the rows of a device batch end to end. A kernel for sequences of varying length (flash attention, flex
    attention's blocks) computes each document by itself. SDPA and eager attention compute the whole square and mask
    it, so that a batch of 8 costs 8 times too much: there the device batch becomes 1 and accumulation takes its place.
    The loss is normalised over all tokens of a step, so it stays the same.

    Args:
        args (`SFTConfig`): Changed in place.
        config (`PreTrainedConfig`): The loaded model's.

    Raises:
        ConfigError: For `packing_strategy="wrapped"`, which lets documents see each other, and for packed evaluation
            of training that is not packed (TRL would collate it as if it were padded).
    """
    if args.eval_packing and not args.packing:
        raise ConfigError("eval_packing needs packing: without it documents would see each other. Leave it out.")
    if not args.packing:
        return
    if args.packing_strategy == "wrapped":
        raise ConfigError("packing_strategy: 'wrapped' lets documents see each other. Allowed: bfd, bfd_split.")
    attention, batch = config._attn_implementation, args.per_device_train_batch_size
    varying = is_flash_attention_requested(config) or attention in ("flex_attention", varlen.NAME)
    if not varying:
        args.gradient_accumulation_steps *= batch
        args.per_device_train_batch_size = args.per_device_eval_batch_size = 1
    if varying or batch == 1:
        logger.info("packing with %s attention: documents are apart; device batch %d", attention, batch)
        return
    logger.warning(
        "packing with %s attention: documents are apart by a mask over the whole device batch, so the device batch is "
        "1 instead of %d and gradient_accumulation_steps %d: the same loss, less work",
        attention,
        batch,
        args.gradient_accumulation_steps,
    )
