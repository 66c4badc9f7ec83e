"""Rounding that learns: whole numbers on the way forward, the gradient of the identity back.

Source: the straight-through estimator (Bengio et al. 2013), method.md section 3.
"""

from __future__ import annotations

import math

import torch


def rounded(value: torch.Tensor, limit: float = math.inf) -> torch.Tensor:
    """Whole numbers within +-limit."""
    return value + (value.round().clamp(-limit, limit) - value).detach()
