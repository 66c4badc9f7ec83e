"""Video files through PyAV: how many frames, how large, and any frame by its number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
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


def open_video(path: Path) -> Any:
    """A PyAV container with a video stream. Raises CaptureError."""
    av = _av()
    try:
        container = av.open(str(path))
    except MemoryError:  # PyAV's is one of FFmpeg's errors, too
        raise
    except (OSError, av.FFmpegError) as error:
        raise CaptureError("cannot be opened as a video", where=path) from error
    if not container.streams.video:
        container.close()
        raise CaptureError("contains no video", where=path)
    return container


def presentation_times(path: Path) -> list[int]:
    """Time stamps of all frames in the order of presentation; reads the packets, decodes none."""
    container = open_video(path)
    try:
        stream = container.streams.video[0]
        return sorted(
            packet.pts
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and not packet.is_discard
        )
    except MemoryError:
        raise
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


#: What tells about videos where PyAV is not installed: a program with a decoder of its own that
#: runs this code, as Blender does, adds itself. They raise CaptureError.
PROBES: list[Callable[[Path], VideoInfo]] = []


def can_probe() -> bool:
    """Whether `video_info` can work here."""
    return bool(PROBES) or av_available()


def video_info(path: Path) -> VideoInfo:
    """Size, frame count and rate of the first video stream. Raises CaptureError."""
    if PROBES and not av_available():
        return PROBES[-1](path)
    container = open_video(path)
    try:
        stream = container.streams.video[0]
        fps = float(stream.average_rate) if stream.average_rate else None
        width, height, frames = stream.width, stream.height, stream.frames
    finally:
        container.close()
    if not frames:
        frames = len(presentation_times(path))
    return VideoInfo(width, height, frames, fps)


class _Decoder:
    """One open video that remembers where it stands. Its user holds `lock`."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.closed = False
        self._times: list[int] | None = None
        self._start()

    def _start(self) -> None:
        """Stand before frame 0 of the freshly opened file."""
        self._container = open_video(self.path)
        self._stream = self._container.streams.video[0]
        self._frames = self._container.decode(self._stream)
        self._next: int | None = 0

    def _seek(self, index: int) -> None:
        """Stand at the last key frame at or before frame `index`, or at the start."""
        if self._times is None:
            self._times = presentation_times(self.path)
        if index < len(self._times):
            self._container.seek(self._times[index], stream=self._stream, backward=True)
            self._frames = self._container.decode(self._stream)
            self._next = None  # known once the first frame tells its time
        else:  # a container without time stamps, or no such frame
            self._container.close()
            self._start()

    def _decode_until(self, index: int) -> np.ndarray | None:
        """Decode on to frame `index`; None where the video ends or stands behind it."""
        for frame in self._frames:
            at = self._next
            if at is None:
                at = int(np.searchsorted(self._times, frame.pts)) if frame.pts is not None else 0
            self._next = at + 1
            if at == index:
                return frame.to_ndarray(format="rgb24")
            if at > index:
                break
        return None

    def frame(self, index: int) -> np.ndarray:
        try:
            if self._next is None or not self._next <= index <= self._next + _DECODE_AHEAD:
                self._seek(index)
            sought = self._next is None
            pixels = self._decode_until(index)
            if pixels is None and sought:  # some containers seek past the frame asked for
                self._container.close()
                self._start()
                pixels = self._decode_until(index)
        except MemoryError as error:
            raise MemoryError(f"{self.path}: no memory to decode frame {index}") from error
        except (_av().FFmpegError, ValueError) as error:
            raise CaptureError(
                f"frame {index} of the video cannot be decoded ({error})", where=self.path
            ) from error
        if pixels is None:
            raise CaptureError(f"the video has no frame {index}", where=self.path)
        return pixels

    def close(self) -> None:
        self.closed = True
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
        """(H, W, 3) uint8 RGB. Raises CaptureError; MemoryError, naming the file."""
        while True:
            decoder = self._decoder(path)
            with decoder.lock:
                if decoder.closed:  # another thread needed its place meanwhile
                    continue
                try:
                    return decoder.frame(index)
                except (CaptureError, MemoryError):
                    # It stands somewhere unknown now: open the video anew next time.
                    with self._lock:
                        if self._decoders.get(path) is decoder:
                            del self._decoders[path]
                    decoder.close()
                    raise

    def _decoder(self, path: Path) -> _Decoder:
        surplus = []
        with self._lock:
            decoder = self._decoders.pop(path, None) or _Decoder(path)
            self._decoders[path] = decoder
            while len(self._decoders) > self._limit:
                surplus.append(self._decoders.popitem(last=False)[1])
        for oldest in surplus:
            with oldest.lock:
                oldest.close()
        return decoder

    def close(self) -> None:
        with self._lock:
            decoders = list(self._decoders.values())
            self._decoders.clear()
        for decoder in decoders:
            with decoder.lock:
                decoder.close()
