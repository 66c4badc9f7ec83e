"""The frames of a video file or of a folder of images, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..capture.decode import decode_image
from ..capture.images import rgb_over_black
from ..capture.listing import IMAGE_SUFFIXES, files_in
from ..capture.video import VideoFrames, open_video, presentation_times
from ..errors import CaptureError

#: What a folder of images plays at where nobody says.
DEFAULT_FPS = 24.0
#: Shares by which the distances of frames may differ from their mean and still be called constant.
_STEADY = 0.1


@dataclass(frozen=True)
class FrameSource:
    """width, height: pixels. fps: of the source, or `DEFAULT_FPS`. warnings: what the frames lose
    on the way in, as people read it. files: the images of a folder, empty for a video file. turns:
    quarters that a video's pictures are turned by to stand upright."""

    path: Path
    width: int
    height: int
    frame_count: int
    fps: float
    warnings: tuple[str, ...]
    files: tuple[Path, ...] = ()
    turns: int = 0

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8, display-referred RGB, from frame `first` on. Raises CaptureError."""
        last = self.frame_count if count is None else first + count
        pictures = self._images(first, last) if self.files else self._video(first, last)
        for index, picture in enumerate(pictures, first):
            if picture.shape != (self.height, self.width, 3):
                raise CaptureError(
                    f"frame {index} has {picture.shape[1]}x{picture.shape[0]} pixels, "
                    f"the first one {self.width}x{self.height}",
                    where=self.files[index] if self.files else self.path,
                    hint="All frames of a video must be of one size",
                )
            yield np.ascontiguousarray(picture)

    def _video(self, first: int, last: int) -> Iterator[np.ndarray]:
        reader = VideoFrames(open_videos=1)
        try:
            for index in range(first, min(last, self.frame_count)):
                yield np.rot90(reader.frame(self.path, index), self.turns)
        finally:
            reader.close()

    def _images(self, first: int, last: int) -> Iterator[np.ndarray]:
        for path in self.files[first:last]:
            yield rgb_over_black(decode_image(path), path)


def open_source(path: Path, fps: float | None = None) -> FrameSource:
    """A folder of images, in the order of their names, or anything that FFmpeg opens.

    fps replaces what the file says. Raises CaptureError for what has no frames.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, fps or DEFAULT_FPS)
    if not path.is_file():
        raise CaptureError("there is no such file or folder", where=path)
    times = presentation_times(path)
    count = len(times)
    container = open_video(path)
    try:
        stream = container.streams.video[0]
        rate = float(stream.average_rate) if stream.average_rate else None
        tick = float(stream.time_base) if stream.time_base else 0.0
        layout = stream.format
        frames = container.decode(stream)
        picture = next(frames, None)
        if count == 0 and picture is not None:  # no time stamps: only decoding tells
            count = 1 + sum(1 for _ in frames)
    except (OSError, ValueError) as error:  # FFmpeg's errors are of these families
        raise CaptureError(f"cannot be decoded ({error})", where=path) from error
    finally:
        container.close()
    if picture is None:
        raise CaptureError("contains no frames", where=path)
    turns = round(getattr(picture, "rotation", 0) / 90) % 4
    width, height = picture.width, picture.height
    if turns % 2:
        width, height = height, width
    warnings = []
    components = getattr(layout, "components", None) or []
    if any(component.bits > 8 for component in components):
        warnings.append("frames of more than 8 bits are rounded to 8")
    if getattr(layout, "has_alpha", False) or any(c.is_alpha for c in components):
        warnings.append("the alpha channel is left out")
    gaps = np.diff(times) * tick
    if len(gaps) > 1 and gaps.mean() > 0 and np.abs(gaps / gaps.mean() - 1).max() > _STEADY:
        rate = 1 / gaps.mean()
        warnings.append("its frame rate varies; all frames are kept and play at the mean rate")
    return FrameSource(
        path,
        width,
        height,
        count,
        fps or rate or DEFAULT_FPS,
        tuple(warnings),
        turns=turns,
    )


def _open_folder(path: Path, fps: float) -> FrameSource:
    files = tuple(files_in(path, IMAGE_SUFFIXES))
    if not files:
        raise CaptureError("the folder has no images", where=path)
    first = decode_image(files[0])
    warnings = []
    if first.dtype != np.uint8:
        warnings.append("frames of more than 8 bits are rounded to 8")
    if first.ndim == 3 and first.shape[2] == 4:
        warnings.append("pictures with an alpha channel are laid over black")
    height, width = rgb_over_black(first, files[0]).shape[:2]
    return FrameSource(path, width, height, len(files), fps, tuple(warnings), files)
