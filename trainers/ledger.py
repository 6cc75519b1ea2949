"""Adds up the tensors that are alive after every operation: what a step takes at its peak."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Ledger:
    """What is alive after every operation, by the phase it was made in, while it is entered with `with`."""

    def __init__(self, known: list[torch.Tensor]):
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        ledger = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                ledger.note(tree_leaves(result))
                return result

        self.mode = Mode()
        self.phase, self.clock, self.time = "forward", 0, 0
        self.alive = {"forward": 0, "loss": 0, "backward": 0}
        self.peak = dict(self.alive)
        self.seen = {tensor.untyped_storage()._cdata: (0, "forward", 0) for tensor in known}
        self.known = known  # kept alive, so that none of their addresses is used again

    def __enter__(self):
        self.mode.__enter__()
        return self

    def __exit__(self, *error):
        return self.mode.__exit__(*error)

    def enter(self, phase: str) -> None:
        """What is made from now on belongs to `phase`. Layers that run again in the backward pass change nothing."""
        if self.phase != "backward":
            self.phase = phase

    def note(self, results: list) -> None:
        import torch

        self.clock += 1
        for tensor in results:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen[storage._cdata] = (storage.nbytes(), self.phase, self.clock)
                self.alive[self.phase] += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata)
        if sum(self.alive.values()) > sum(self.peak.values()):
            self.peak, self.time = dict(self.alive), self.clock

    def freed(self, key: int) -> None:
        size, phase, _ = self.seen.pop(key)
        self.alive[phase] -= size

    def at_peak(self, gradients: list[torch.Tensor]) -> tuple[dict[str, int], int]:
        """Bytes per phase at the peak, and how many of them are gradients."""
        found = {gradient.untyped_storage()._cdata for gradient in gradients if gradient is not None}
        entries = [self.seen[key] for key in found if key in self.seen]
        return self.peak, sum(size for size, phase, clock in entries if phase == "backward" and clock <= self.time)
