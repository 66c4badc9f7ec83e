"""Pictures and movies on disk. OpenCV and PyAV are imported on use."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..atomic import atomic_writer, write_bytes
from ..errors import OutputError

INSTALL_HINT = 'Install it with: pip install "peel4d[train]"'


def straight_alpha(rgba: np.ndarray) -> np.ndarray:
    """Premultiplied (H, W, 4) -> straight alpha, as PNG stores it; 0 where nothing is."""
    alpha = rgba[..., 3:]
    rgb = np.divide(rgba[..., :3], alpha, out=np.zeros_like(rgba[..., :3]), where=alpha > 0)
    return np.concatenate([rgb, alpha], axis=-1)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """[0, 1] float -> uint8, rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) or straight-alpha (H, W, 4) in [0, 1] as 8-bit PNG. Raises OutputError."""
    try:
        import cv2
    except ImportError as error:
        raise OutputError("writing PNG needs OpenCV", where=path, hint=INSTALL_HINT) from error
    code = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    write_bytes(path, cv2.imencode(".png", cv2.cvtColor(to_bytes(picture), code))[1].tobytes())


def save_video(path: str | Path, pictures: Iterable[np.ndarray], fps: float) -> int:
    """Encode (H, W, 3) pictures in [0, 1] as H.264 MP4 and return their number.

    Odd sizes lose their last row or column, because 4:2:0 video has even sizes only.
    Raises OutputError.
    """
    try:
        import av
    except ImportError as error:
        raise OutputError("writing video needs PyAV", where=path, hint=INSTALL_HINT) from error
    try:
        return _encode(av, path, pictures, Fraction(fps).limit_denominator(1001))
    except av.FFmpegError as error:
        raise OutputError(f"the movie cannot be encoded ({error})", where=path) from error


def _encode(av, path: str | Path, pictures: Iterable[np.ndarray], rate: Fraction) -> int:
    count = 0
    with atomic_writer(path) as file:
        container = av.open(file, "w", format="mp4")
        stream = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14", "preset": "medium"}
        for picture in pictures:
            even = to_bytes(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
            if count == 0:
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
        if count:
            container.mux(stream.encode(None))
        container.close()
    return count
