"""What a packed clip is asked for, and the search for the steps that just give it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ClipError
from ..render.backend import Instance, render_scene
from ..render.camera import Camera
from ..render.core import IDENTITY
from ..render.settings import PeelSettings
from ..render.splats import Splats
from .reader import ClipReader

#: Frames and cameras that pictures are compared in, at most.
SAMPLED_FRAMES, SAMPLED_CAMERAS = 6, 4
#: log2 of the factors of steps that are tried.
FINEST, COARSEST = -5.0, 4.0
#: For twice the steps, before it is known: log2 of the bytes, and dB.
_BYTES_SLOPE, _PSNR_SLOPE = -0.8, -5.0
#: What slopes are taken to be at most: a line that does not fall meets nothing.
_FLATTEST = -0.01
#: Factors that differ by less are the same, log2.
_CLOSE = 1e-3
#: A file is aimed at so much below the target and may be so much smaller, log2; likewise dB.
_BYTES_AIM, _PSNR_AIM = 0.01, 0.02


@dataclass(frozen=True)
class Target:
    """nbytes: of the file; psnr: dB of the packed pictures against the source's, in the clip's
    cameras. One of them. Raises ClipError otherwise."""

    nbytes: int | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        if (self.nbytes is None) == (self.psnr is None):
            raise ClipError("a clip is packed to a size or to a PSNR", hint="Ask for one of them")

    def unreachable(self, where: Path) -> ClipError:
        """The error for what no steps give."""
        larger = self.nbytes is not None
        return ClipError(
            "the target cannot be met with any steps",
            where=where,
            hint="Ask for a larger file" if larger else "Ask for a lower PSNR, or --prune 0",
        )

    def factor(self, measure: Callable[[float], float], tries: int) -> float | None:
        """The factor of all steps that just meets the target; None where none was found.

        measure(factor): bytes of the file, or dB, with these steps, one of `tries` at most; both
        fall where steps become longer, nearly along a line over log2 of the factor, so the next
        factor is where the line through the last two points meets the target.
        """
        sized = self.nbytes is not None
        goal = math.log2(self.nbytes) - _BYTES_AIM if sized else self.psnr + _PSNR_AIM
        near = 2 * (_BYTES_AIM if sized else _PSNR_AIM)
        slope = _BYTES_SLOPE if sized else _PSNR_SLOPE
        # Steps that are known to be too short and too long, or limits that were not tried.
        low, high = FINEST, COARSEST
        tried: dict[float, float] = {}
        met: list[float] = []
        at = 0.0
        for _ in range(tries):
            value = measure(2.0**at)
            if value <= self.nbytes if sized else value >= self.psnr:
                met.append(at)
            value = math.log2(max(value, 1.0)) if sized else value
            if met and met[-1] == at and abs(value - goal) <= near:
                break
            if tried:
                other, known = list(tried.items())[-1]
                slope = min((value - known) / (at - other), _FLATTEST)
            tried[at] = value
            low, high = (at, high) if value > goal else (low, at)
            if high - low < _CLOSE:
                break
            at = min(max(at + (goal - value) / slope, low), high)
            if at in tried:
                at = 0.5 * (low + high)
        if not met:
            return None
        return 2.0 ** (min(met) if sized else max(met))


def clip_psnr(original: ClipReader, coded: ClipReader, first: int = 0) -> float:
    """PSNR in dB of a packed clip's pictures against its source's, in some frames and cameras.

    first: the source's frame that is the packed clip's first one. Raises ClipError where the source
    has no cameras.
    """
    cameras = sampled_cameras(original)
    errors = []
    for index in sampled_frames(coded, SAMPLED_FRAMES):
        pair = [
            [part.unpack() for part in reader.packed(frame)]
            for reader, frame in ((original, first + index), (coded, index))
        ]
        errors += [picture_error(*pair, camera, original.info.settings) for camera in cameras]
    return psnr_of(errors)


def sampled_frames(clip: ClipReader, most: int) -> list[int]:
    """Indices spread over a clip."""
    count = clip.info.frame_count
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def sampled_cameras(clip: ClipReader) -> list[Camera]:
    """Cameras of a clip that its pictures are compared in. Raises ClipError where it has none."""
    cameras = [camera.camera() for camera in clip.info.cameras if camera.train]
    if not cameras:
        raise ClipError(
            "the clip has no cameras to compare pictures in",
            where=clip.path,
            hint="Use --target-size instead",
        )
    return cameras[:: max(1, len(cameras) // SAMPLED_CAMERAS)][:SAMPLED_CAMERAS]


@contextmanager
def trial_file(output: Path) -> Iterator[Path]:
    """A file beside `output` for clips that may not be what is wanted; it does not stay."""
    trial = output.with_name(f".{output.name}.trial")
    try:
        yield trial
    finally:
        trial.unlink(missing_ok=True)


def psnr_of(errors: Sequence[float]) -> float:
    """dB of the mean of squared errors."""
    return -10 * math.log10(max(float(np.mean(errors)), 1e-12))


def picture_error(
    first: Sequence[Splats], second: Sequence[Splats], camera: Camera, settings: PeelSettings
) -> float:
    """Mean squared difference of two pictures, over what either covers."""
    pictures = [
        render_scene([Instance(part, IDENTITY) for part in parts], camera, settings).rgba
        for parts in (first, second)
    ]
    covered = (pictures[0][..., 3] > 0) | (pictures[1][..., 3] > 0)
    if not covered.any():
        return 0.0
    return float(((pictures[0] - pictures[1])[covered][:, :3] ** 2).mean())
