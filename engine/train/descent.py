"""A step of an optimiser whose learning rates fall exponentially over a training."""

from __future__ import annotations

import torch


class Descent:
    """optimizer: with its rates at the start. decay: what they are multiplied by until the end."""

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float):
        self._optimizer, self._decay = optimizer, decay
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def step(self, loss: torch.Tensor, part: float) -> None:
        """Go down a loss. part: of the training that is done, 0 to 1."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._decay**part
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
