"""Video files through PyAV: how many frames, how large, and any frame by its number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CaptureError

_INSTALL = 'Install it with: pip install "peel4d[train]"'
# Reaching a frame at most so far ahead by decoding on costs less than a seek to a key frame.
_DECODE_AHEAD = 24


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise CaptureError("PyAV is needed to read videos", hint=_INSTALL) from error
    return av


def av_available() -> bool:
    try:
        _av()
    except CaptureError:
        return False
    return True


def _open(path: Path) -> Any:
    av = _av()
    try:
        container = av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise CaptureError("cannot be opened as a video", where=path) from error
    if not container.streams.video:
        container.close()
        raise CaptureError("contains no video", where=path)
    return container


def _presentation_times(path: Path) -> list[int]:
    """Time stamps of all frames in the order of presentation; reads the packets, decodes none."""
    container = _open(path)
    try:
        stream = container.streams.video[0]
        return sorted(
            packet.pts
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and not packet.is_discard
        )
    except _av().FFmpegError as error:
        raise CaptureError(f"is damaged ({error})", where=path) from error
    finally:
        container.close()


@dataclass(frozen=True)
class VideoInfo:
    """width, height: pixels. frames: count. fps: None where the file does not say."""

    width: int
    height: int
    frames: int
    fps: float | None


def video_info(path: Path) -> VideoInfo:
    """Size, frame count and rate of the first video stream. Raises CaptureError."""
    container = _open(path)
    try:
        stream = container.streams.video[0]
        fps = float(stream.average_rate) if stream.average_rate else None
        width, height, frames = stream.width, stream.height, stream.frames
    finally:
        container.close()
    if not frames:
        frames = len(_presentation_times(path))
    return VideoInfo(width, height, frames, fps)


class _Decoder:
    """One open video that remembers where it stands."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self._container = _open(path)
        self._stream = self._container.streams.video[0]
        self._frames = self._container.decode(self._stream)
        self._next = 0
        self._times: list[int] | None = None

    def _seek(self, index: int) -> None:
        """Stand at the last key frame at or before frame `index`."""
        if self._times is None:
            self._times = _presentation_times(self.path)
        if index >= len(self._times):
            raise self._ended(index, len(self._times))
        self._container.seek(self._times[index], stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._next = -1  # known once the first frame tells its time

    def _ended(self, index: int, count: int) -> CaptureError:
        return CaptureError(
            f"the video has no frame {index}, it ends after {count} frames", where=self.path
        )

    def frame(self, index: int) -> np.ndarray:
        if index < self._next or index > self._next + _DECODE_AHEAD:
            self._seek(index)
        try:
            for frame in self._frames:
                if self._next < 0:
                    assert self._times is not None
                    at = int(np.searchsorted(self._times, frame.pts))
                else:
                    at = self._next
                self._next = at + 1
                if at == index:
                    return frame.to_ndarray(format="rgb24")
                if at > index:
                    break
        except _av().FFmpegError as error:
            raise CaptureError(
                f"frame {index} cannot be decoded ({error})", where=self.path
            ) from error
        raise self._ended(index, max(self._next, 0))

    def close(self) -> None:
        self._container.close()


class VideoFrames:
    """Frames of many videos, each kept open so that reading on costs one decoded frame.

    Thread-safe. At most `open_videos` decoders stay open, the least recently used one closes.
    """

    def __init__(self, open_videos: int = 32):
        self._limit = open_videos
        self._lock = threading.Lock()
        self._decoders: OrderedDict[Path, _Decoder] = OrderedDict()

    def frame(self, path: Path, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises CaptureError."""
        with self._lock:
            decoder = self._decoders.pop(path, None) or _Decoder(path)
            self._decoders[path] = decoder
            while len(self._decoders) > self._limit:
                _, oldest = self._decoders.popitem(last=False)
                with oldest.lock:
                    oldest.close()
            decoder.lock.acquire()
        try:
            return decoder.frame(index)
        except CaptureError:
            with self._lock:  # a failed decoder stands somewhere unknown: open it anew next time
                if self._decoders.get(path) is decoder:
                    del self._decoders[path]
            raise
        finally:
            decoder.lock.release()

    def close(self) -> None:
        with self._lock:
            for decoder in self._decoders.values():
                with decoder.lock:
                    decoder.close()
            self._decoders.clear()
