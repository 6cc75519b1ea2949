"""transformers' Seq2SeqTrainer on rows that are labelled already: the right loss, exact resuming, metrics per task.

A method stands here only where the trainer has no argument for it; each says which one is missing.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from . import adapters, callbacks, checkpoints, seq2seq_models
from .evaluation import task_metrics
from .labels import IGNORED
from .token_mean import TokenMean

if TYPE_CHECKING:
    import datasets
    from peft import LoraConfig
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Seq2SeqTrainingArguments

logger = logging.getLogger(__name__)


class Seq2SeqInstructTrainer(TokenMean, Seq2SeqTrainer):
    """`transformers.Seq2SeqTrainer` for rows of [`trainers.seq2seq_rows`].

    What is different:
      - the loss of a step is the mean over all answer tokens in it. T5's own is one of each device batch, and since
        its `forward` takes any keyword the trainer (5.23) holds it for normalised already: with N accumulated batches
        the gradient is N times too large;
      - `eval_loss` is the mean over all answer tokens, however they are batched;
      - with `predict_with_generate`, answers are scored by their tasks' metrics, per task and overall;
      - `group_by_length` draws from a seed and the epoch, so that a resumed run goes on in the same order;
      - checkpoints are verified, resuming is exact or refused, SIGTERM saves and exits with code 3
        ([`trainers.checkpoints`]).

    Args:
        model (`PreTrainedModel`): From [`trainers.seq2seq_models.load_model`].
        args (`Seq2SeqTrainingArguments`): Changed where it groups by length.
        train_dataset (`datasets.Dataset`), eval_dataset (`datasets.Dataset`, *optional*): Labelled rows.
        processing_class (`PreTrainedTokenizerBase`): The tokenizer.
        held (`task_metrics.References`, *optional*): What answers to `eval_dataset` are compared with.
        max_target_length (`int`, *optional*, defaults to 256): Most tokens of an answer that is written.
        peft_config (`LoraConfig`, *optional*): For an adapter.
        allow_changed (`bool`, *optional*, defaults to `False`): See [`trainers.checkpoints.begin`].
    """

    first_predicted = 0

    def __init__(
        self,
        model: PreTrainedModel,
        args: Seq2SeqTrainingArguments,
        train_dataset: datasets.Dataset,
        eval_dataset: datasets.Dataset | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        held: task_metrics.References | None = None,
        max_target_length: int | None = 256,
        peft_config: LoraConfig | None = None,
        allow_changed: bool = False,
    ):
        base = model
        if peft_config is not None:
            from peft import get_peft_model

            with adapters.old_names_allowed():
                model = get_peft_model(model, peft_config)
            model.enable_input_require_grads()  # a frozen embedding in front of checkpointed layers has no gradient
        self.lengths = None
        if args.train_sampling_strategy == "group_by_length":
            self.lengths = np.asarray(train_dataset["length"][:]).tolist()
        self.scored = held is not None and args.predict_with_generate
        self.held, self.allow_changed, self.base = held, allow_changed, base
        self.writes = seq2seq_models.generation(base, max_target_length or 256, args.generation_num_beams)
        super().__init__(
            model=model,
            args=args,
            data_collator=DataCollatorForSeq2Seq(
                processing_class, model=model, pad_to_multiple_of=8 if args.device.type == "cuda" else None
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_loss_func=mean_over_answers,
            compute_metrics=self.score if self.scored else None,
        )
        self.stop = callbacks.StopOnSignal()
        self.add_callback(callbacks.VerifiedCheckpoints())
        self.add_callback(self.stop)

    # No argument: the trainer resumes from the highest number, whatever is in it.
    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As the trainer's; `True` resumes from the newest checkpoint that verifies, or starts where there is none.

        Raises:
            SystemExit: With code 3, after SIGTERM; the last step is saved.
        """
        checkpoint = checkpoints.begin(self, resume_from_checkpoint, self.allow_changed)
        try:
            output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.stop.restore()
        if self.stop.caught:
            raise SystemExit(checkpoints.STOPPED)
        return output

    # No argument: the trainer's LengthGroupedSampler takes no seed.
    def _get_train_sampler(self, train_dataset=None):
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupedByLength(self.lengths, together, seed)

    # No argument: the trainer fills the model's own generation config with defaults, and would save them.
    def evaluate(self, *args, **kwargs):
        own = self.base.generation_config
        self.write_as(copy.deepcopy(self.writes))
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.write_as(own)

    def write_as(self, config: GenerationConfig) -> None:
        """How answers are written from now on; PEFT asks the base, and the trainer the adapter's model."""
        self.base.generation_config = self.model.generation_config = config

    def score(self, output) -> dict[str, float]:
        """The metrics of written answers; with several processes the last batch is filled up with rows seen before."""
        ids = output.predictions[: len(self.held.answers)]
        ids = np.where(ids == IGNORED, self.processing_class.pad_token_id, ids)
        said = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        return task_metrics.by_task(said, self.held)


def mean_over_answers(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
    """Cross-entropy over the answer tokens of a device batch, divided by their number in the whole step.

    Args:
        outputs (`Seq2SeqLMOutput`): With `logits`, shape (batch, length, vocabulary).
        labels (`torch.Tensor`): Shape (batch, length), `-100` where there is nothing to learn.
        num_items_in_batch (`int` or `torch.Tensor`, *optional*): Answer tokens of the step; by default those here.
    """
    logits = outputs.logits.float()  # in bfloat16 a vocabulary of 32,000 leaves a log-sum with two digits
    total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


class GroupedByLength(LengthGroupedSampler):
    """Rows of about the same length together, in an order that the seed and the epoch decide."""

    def __init__(self, lengths: list[int], together: int, seed: int):
        super().__init__(together, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()
