"""Typed access to JSON from a file that nobody has to trust."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import ClipError
from .clip import DAMAGED_HINT, MAX_MAGNITUDE


@dataclass(frozen=True)
class Fields:
    """One JSON object and where it came from. Every accessor raises ClipError on a wrong value."""

    values: Mapping[str, object]
    where: str

    def fail(self, key: str, expected: str) -> ClipError:
        """The error for a value that is not as `expected`; the caller raises it."""
        what = f"'{key}' is missing" if key not in self.values else f"'{key}' is not {expected}"
        return ClipError(what, where=self.where, hint=DAMAGED_HINT)

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.values.get(key)
        if type(value) is not int or not low <= value <= high:  # bool is an int to isinstance
            raise self.fail(key, f"an integer in [{low}, {high}]")
        return value

    def number(self, key: str, low: float = -MAX_MAGNITUDE, high: float = MAX_MAGNITUDE) -> float:
        value = self.values.get(key)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.fail(key, f"a number in [{low:g}, {high:g}]")
        return float(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.fail(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """A list of exactly `count` integers in [low, high]."""
        value = self.values.get(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(v) is int and low <= v <= high for v in value)
        ):
            raise self.fail(key, f"a list of {count} integers in [{low}, {high}]")
        return tuple(value)

    def array(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Nested lists of finite numbers, as float64 of exactly this shape."""
        flat: list[float] = []
        if not _flatten(self.values.get(key), shape, flat):
            raise self.fail(key, f"an array of {' x '.join(map(str, shape))} finite numbers")
        return np.array(flat, dtype=np.float64).reshape(shape)

    def mapping(self, key: str) -> Fields:
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Fields(value, f"{self.where}, {key}")

    def mappings(self, key: str) -> list[Fields]:
        """A list of objects."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.fail(key, "a list of objects")
        return [Fields(v, f"{self.where}, {key}[{i}]") for i, v in enumerate(value)]


def parse_object(data: bytes, where: str) -> Fields:
    """The JSON object in `data` (UTF-8). Raises ClipError for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # nesting as deep as the stack is not ours
        raise ClipError(f"not valid JSON ({error})", where=where, hint=DAMAGED_HINT) from error
    if not isinstance(value, dict):
        raise ClipError("not a JSON object", where=where, hint=DAMAGED_HINT)
    return Fields(value, where)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _flatten(value: object, shape: tuple[int, ...], flat: list[float]) -> bool:
    if not shape:
        if type(value) not in (int, float) or not abs(value) <= MAX_MAGNITUDE:
            return False
        flat.append(float(value))
        return math.isfinite(flat[-1])
    if not isinstance(value, list) or len(value) != shape[0]:
        return False
    return all(_flatten(v, shape[1:], flat) for v in value)
