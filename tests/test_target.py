"""The search for steps that meet a size or a PSNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from peel4d.engine.clip.target import COARSEST, FINEST, Target
from peel4d.engine.errors import ClipError


def power(most: float, exponent: float, rest: float = 0.0) -> Callable[[float], float]:
    """Bytes of a clip with these steps: part of them does not depend on the steps."""
    return lambda factor: most * factor**-exponent + rest


def decay(best: float, per_decade: float, more: float = 0.0) -> Callable[[float], float]:
    """dB of a clip with these steps, which fall faster where they are long."""
    return lambda factor: best - per_decade * math.log10(factor) - more * math.log2(1 + factor)


def search(target: Target, curve: Callable[[float], float], tries: int = 9):
    tried = []

    def measure(factor: float) -> float:
        tried.append(factor)
        return curve(factor)

    found = target.factor(measure, tries)
    assert all(2**FINEST <= factor <= 2**COARSEST for factor in tried)
    assert found is None or found in tried, "what is found has been measured"
    return found, len(tried)


@pytest.mark.parametrize(
    "curve", [power(2e6, 0.6, 1e5), power(2e5, 0.6, 1e4), power(3e6, 1.2), power(4e4, 1.0, 9.7e5)]
)
def test_a_size_is_just_met(curve):
    found, tries = search(Target(nbytes=1_000_000), curve)
    assert 0.97e6 < curve(found) <= 1e6 and tries <= 6


@pytest.mark.parametrize("curve", [decay(45, 14, 2), decay(38, 8), decay(43, 20, 0.5)])
def test_a_psnr_is_just_met(curve):
    found, tries = search(Target(psnr=40.0), curve)
    assert 40.0 <= curve(found) < 40.1 and tries <= 6


def test_with_few_tries_the_best_that_meets_it_is_taken():
    curve = decay(45, 14, 2)
    found, _ = search(Target(psnr=40.0), curve, tries=2)
    assert found is not None and curve(found) >= 40.0


def test_limits():
    small, large = power(2e5, 0.6), power(2e6, 0.2)
    assert search(Target(nbytes=10**9), small)[0] == 2**FINEST  # no better can be had
    assert search(Target(psnr=20.0), decay(34, 3))[0] == 2**COARSEST
    assert search(Target(nbytes=1000), large) == (None, 2)
    assert search(Target(psnr=60.0), decay(34, 3)) == (None, 2)


def test_what_cannot_be_met_is_explained():
    error = Target(nbytes=5).unreachable(Path("a.p4d"))
    assert "larger file" in str(error) and "a.p4d" in str(error)
    assert "lower PSNR" in str(Target(psnr=90).unreachable(Path("a.p4d")))
    for both in ({}, {"nbytes": 5, "psnr": 30.0}):
        with pytest.raises(ClipError, match="to a size or to a PSNR"):
            Target(**both)
