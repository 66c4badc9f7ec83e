"""The kinds of values that commands take."""

from __future__ import annotations

import argparse


def parse_size(text: str) -> tuple[int, int]:
    """ "640x360" -> (640, 360)."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write WIDTHxHEIGHT, as 640x360")
    return int(width), int(height)


def parse_names(text: str) -> list[str]:
    """ "5,14,22" -> ["5", "14", "22"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_memory(text: str) -> int:
    """ "4G" or "500M" -> bytes."""
    units = {"k": 10, "m": 20, "g": 30}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "g")
    try:
        value = float(number)
        shift = units[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write 4G or 500M") from None
    if value <= 0:
        raise argparse.ArgumentTypeError("memory must be more than nothing")
    return int(value * (1 << shift))
