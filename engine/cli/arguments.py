"""Arguments that several commands take, and the kinds of their values."""

from __future__ import annotations

import argparse


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where to train."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="train on an NVIDIA GPU where there is one (auto), on the CPU or on the GPU",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """What draws."""
    # Not above: a worker without numpy has to say so itself.
    from ..render.backend import BACKENDS

    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="default: CUDA where there is a GPU"
    )


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
    if not 0 < value < 1 << 30:
        raise argparse.ArgumentTypeError(f"'{text}' is no amount of memory; write 4G or 500M")
    return int(value * (1 << shift))


def parse_seconds(text: str) -> float:
    """ "90", "5m" or "1.5h" -> seconds."""
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:].lower())
    try:
        return positive_float(text if factor is None else text[:-1]) * (factor or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write 90, 5m or 1h") from None


def positive_int(text: str) -> int:
    """ "3" -> 3; nothing below 1."""
    if not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)


def positive_float(text: str) -> float:
    """ "23.976" -> 23.976; finite and above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def parse_pixels(text: str) -> float:
    """ "2.4" -> 2.4; from half a pixel to 50."""
    value = positive_float(text)
    if not 0.5 <= value <= 50:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0.5 and 50 pixels")
    return value


def seed(text: str) -> int:
    """ "0" -> 0; what every random generator here accepts."""
    if not text.isdigit() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 2^63 - 1")
    return int(text)
