"""Fragments: what consecutive frames of a clip share, a field that is asked for their points.

A codec of fields is a pair of functions, `FieldCodec`; codecs.py has the table. A clip of such a
codec has members `fragments/0000.bin`, and `bases/0000.bin` for what several fragments share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np

from .clip import ClipFragment

#: A point's radius stays inside this multiple of the point spacing.
RADIUS_LIMITS = (0.25, 4.0)
#: Radius (N,), density (N,) and SH coefficients (N, B, 3) of points, float32.
Evaluated = tuple[np.ndarray, np.ndarray, np.ndarray]


class FieldFragment(Protocol):
    """A decoded fragment. Threads share it: `evaluate` must not change it."""

    def evaluate(self, step: int, position: np.ndarray) -> Evaluated:
        """What the field says of points. step: the frame's number inside the fragment, from 0.
        position: (N, 3) float32, world units; also outside of the field's bounds.

        The constant SH coefficient is what the point's own colour is added to. Radii are > 0,
        densities in (0, 1], all numbers finite. B may be any whole number of bands' coefficients.
        """
        ...


@dataclass(frozen=True)
class FieldCodec:
    """How the fragments of a clip are decoded. Both functions raise ClipError for anything that
    no encoder has written, and must not allocate beyond what the data's size or `MAX_FIELD_BYTES`
    allow.

    fragment: (data, base, where) -> the field; base: what `base` made of the fragment's base
    member, None where it names none. base: (data, where) -> anything that fragments need.
    """

    fragment: Callable[[bytes, object, str], FieldFragment]
    base: Callable[[bytes, str], object] | None = None


#: Arrays of a decoded fragment, or of a base, are together at most so large.
MAX_FIELD_BYTES = 1 << 28


@dataclass(frozen=True)
class Member:
    """An encoded base or fragment. nbytes: what its components take, by name."""

    data: bytes
    nbytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedFragment:
    """A fragment that is written. frames: that it serves. base: number of its base, or None."""

    member: Member
    frames: int
    base: int | None = None


@dataclass(frozen=True)
class EncodedField:
    """All that a clip stores beside its frames. codec: a name in `codecs.FIELD_CODECS`."""

    codec: str
    fragments: Sequence[EncodedFragment]
    bases: Sequence[Member] = ()

    @property
    def frames(self) -> int:
        return sum(fragment.frames for fragment in self.fragments)

    @cached_property
    def table(self) -> tuple[ClipFragment, ...]:
        """What the clip's head says of the fragments."""
        firsts = accumulate((fragment.frames for fragment in self.fragments), initial=0)
        return tuple(
            ClipFragment(first, fragment.frames, fragment.base)
            for first, fragment in zip(firsts, self.fragments, strict=False)
        )
