"""A parser of the YAML that OpenCV's FileStorage writes, without OpenCV.

Understood at the top level: scalars (`H_01: 1080`), lists (block or `[a, b]`) and
`!!opencv-matrix` nodes whose data may run over several lines. That is all that calibration files
use; nested maps are skipped.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .parsing import read_text

_KEY = re.compile(
    r"""^(?P<quote>["']?)(?P<key>[^\s"'#%-][^"']*?)(?P=quote)\s*:(?:\s+|$)(?P<rest>.*)$"""
)
_SPECIAL_FLOATS = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}

Value = str | list[str] | np.ndarray


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def yaml_float(text: str) -> float:
    """A YAML number, `.NaN` and `.Inf` included. Raises ValueError."""
    text = text.strip()
    return float(_SPECIAL_FLOATS.get(text.lower(), text))


def _items(text: str) -> list[str]:
    return [_unquoted(item) for item in text.split(",") if item.strip()]


def _matrix(text: str, key: str, path: Path) -> np.ndarray:
    fields = dict(re.findall(r"\b(rows|cols)\s*:\s*(\d+)", text))
    data = re.search(r"\bdata\s*:\s*\[(.*?)\]", text, re.DOTALL)
    if data is None or len(fields) != 2:
        raise CaptureError(
            f"the matrix '{key}' is incomplete", where=path, hint="The file may be truncated"
        )
    try:
        values = [yaml_float(item) for item in _items(data.group(1))]
        return np.array(values).reshape(int(fields["rows"]), int(fields["cols"]))
    except ValueError as error:
        raise CaptureError(
            f"the matrix '{key}' is not {fields['rows']} x {fields['cols']} numbers",
            where=path,
            hint="The file may be truncated",
        ) from error


def _value(text: str, key: str, path: Path) -> Value | None:
    text = text.strip()
    if text.startswith("!!opencv-matrix"):
        return _matrix(text, key, path)
    if text.startswith("["):
        if not text.endswith("]"):
            raise CaptureError(f"the list '{key}' does not end", where=path)
        return _items(text[1:-1])
    lines = [line.strip() for line in text.splitlines()]
    if lines and all(line.startswith("- ") for line in lines):
        return [_unquoted(line[1:]) for line in lines]
    return _unquoted(text) if len(lines) <= 1 else None


def _without_comment(line: str) -> str:
    return line if '"' in line or "'" in line else re.sub(r"(^|\s)#.*$", "", line)


def read_opencv_yaml(path: Path) -> dict[str, Value]:
    """Top-level entries of an OpenCV YAML file. Raises CaptureError."""
    entries: dict[str, list[str]] = {}
    current: list[str] | None = None
    for raw in read_text(path).splitlines():
        line = _without_comment(raw).rstrip()
        if not line or line.startswith(("%YAML", "---", "...")):
            continue
        match = _KEY.match(line)
        if match and not line[0].isspace():
            current = entries.setdefault(match.group("key"), [])
            current.clear()  # the last of equal keys counts
            current.append(match.group("rest"))
        elif current is None:
            raise CaptureError(
                "is not an OpenCV YAML file",
                where=path,
                hint="Expected lines such as 'names:' and 'K_01: !!opencv-matrix'",
            )
        else:
            current.append(line)
    if not entries:
        raise CaptureError("is empty", where=path)
    values = {key: _value("\n".join(lines), key, path) for key, lines in entries.items()}
    return {key: value for key, value in values.items() if value is not None}
