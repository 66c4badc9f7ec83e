"""A `.g2v` as something that every program opens: numbered images, or a movie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import OutputError
from ..progress import Progress, ProgressCallback, silent
from ..render.files import save_png, save_video
from .video import VideoReader

MOVIE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v")


def export(
    reader: VideoReader,
    output: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: range | None = None,
    threads: int = 0,
    backend: str = "auto",
    progress: ProgressCallback = silent,
) -> int:
    """Write frames as `output`/000000.png ..., which Blender loads as an image sequence, or as an
    H.264 movie where `output` ends like one (even sizes only). Returns their number.

    size: (width, height), the video's own by default. backend: "cpu", "cuda", or "auto" for the
    second where there is a GPU. Raises ClipError, CoreError, OutputError.
    """
    frames = range(reader.info.frame_count) if frames is None else frames

    def pictures() -> Iterator[np.ndarray]:
        drawn = reader.pictures(frames, size=size, threads=threads, backend=backend)
        for done, picture in enumerate(drawn, 1):
            progress(Progress("decode", done, len(frames)))
            yield picture.astype(np.float32) / 255

    if output.suffix.lower() in MOVIE_SUFFIXES:
        width, height = size or (reader.info.width, reader.info.height)
        if width < 2 or height < 2:
            raise OutputError(
                f"a movie of {width}x{height} pixels cannot be encoded",
                where=output,
                hint="Give a folder for an image sequence, or a larger --size",
            )
        return save_video(output, pictures(), reader.info.fps)
    if output.suffix and not output.is_dir():
        raise OutputError(
            f"movies of type {output.suffix} are not written",
            where=output,
            hint=f"Give a folder for an image sequence, or one of {', '.join(MOVIE_SUFFIXES)}",
        )
    for index, picture in zip(frames, pictures(), strict=True):
        save_png(output / f"{index:06d}.png", picture)
    return len(frames)
