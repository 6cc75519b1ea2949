"""A trainer's evaluation loss as the mean over supervised tokens.

No argument of transformers or TRL asks for it: both average over batches, whatever their number of tokens, so that the
loss depends on the batch size.
"""

from __future__ import annotations

import torch

from .labels import IGNORED


class TokenMean:
    """Stands before a `Trainer` among the bases of a trainer.

    Attributes:
        first_predicted (`int`): Position of the first label that is predicted: 1 where each token predicts the next, 0
            where a decoder's input is shifted already.
    """

    first_predicted = 1

    def prediction_step(self, model, inputs, *args, **kwargs):
        loss, *rest = super().prediction_step(model, dict(inputs), *args, **kwargs)
        number = (inputs["labels"][:, self.first_predicted :] != IGNORED).sum()
        self._evaluated = self._evaluated + torch.stack([loss.float() * number, number.float()])
        return loss, *rest

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._evaluated = torch.zeros(2, device=self.args.device)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        total, number = self.accelerator.reduce(self._evaluated, "sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = total / max(number, 1)
        return output
