"""Reading clips: random access by frame, from any thread."""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import ClipError
from ..render.splats import Splats
from .archive import ArchiveReader
from .chunk import decode_chunk
from .clip import (
    DAMAGED_HINT,
    INFO_MEMBER,
    MAX_INFO_BYTES,
    STATIC_MEMBER,
    ClipInfo,
    frame_member,
)
from .schema import decode_info


class ClipReader:
    """An open clip; a context manager.

    path: the `.p4d` file. info: its head. cache_frames: so many decoded frames are kept, the most
    recently used ones. Arrays of the frames are shared and therefore read-only.

    Raises ClipError, here and in every method, when the file is missing, foreign, truncated, of
    another version or damaged; the error names the file and the member.
    """

    def __init__(self, path: str | Path, *, cache_frames: int = 4) -> None:
        self.path = Path(path)
        self._archive = ArchiveReader(self.path)
        self._lock = threading.Lock()
        self._closed = False
        self._cache: OrderedDict[int, Splats] = OrderedDict()
        self._cache_frames = cache_frames
        self._pending: dict[int, Future[Splats]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._static: Splats | None = None
        try:
            self.info: ClipInfo = self._read_info()
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a prefetch that is under way is waited for. May be called twice."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
            self._cache.clear()
            self._static = None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self._archive.close()

    @property
    def total_nbytes(self) -> int:
        """Size of the file."""
        return self._archive.nbytes

    def frame_nbytes(self, index: int) -> int:
        """Bytes that frame `index` takes in the file, without the static points."""
        return self._archive.size(frame_member(self._checked(index)))

    def frame(self, index: int) -> Splats:
        """The points of frame `index`, 0 <= index < info.frame_count, static ones at the end."""
        index = self._checked(index)
        with self._lock:
            splats = self._cached(index)
            pending = self._pending.get(index)
        if splats is not None:
            return splats
        if pending is not None:
            try:
                return pending.result()
            except CancelledError:  # closed while the prefetch was waiting for its turn
                index = self._checked(index)
        return self._load(index)

    def prefetch(self, index: int) -> None:
        """Start decoding frame `index` in the background. Errors appear when `frame` is called."""
        index = self._checked(index)
        with self._lock:
            if self._closed or index in self._cache or index in self._pending:
                return
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="peel4d-clip")
            self._pending[index] = self._executor.submit(self._prefetched, index)

    def _prefetched(self, index: int) -> Splats:
        try:
            return self._load(index)
        finally:
            with self._lock:
                self._pending.pop(index, None)

    def _cached(self, index: int) -> Splats | None:
        splats = self._cache.get(index)
        if splats is not None:
            self._cache.move_to_end(index)
        return splats

    def _load(self, index: int) -> Splats:
        splats = self._decode(frame_member(index), self.info.points[index])
        if self.info.static_points:
            splats = _joined(splats, self._static_splats())
        for array in (splats.position, splats.radius, splats.density, splats.sh):
            array.setflags(write=False)
        with self._lock:
            if not self._closed:
                self._cache[index] = splats
                self._cache.move_to_end(index)
                while len(self._cache) > self._cache_frames:
                    self._cache.popitem(last=False)
        return splats

    def _static_splats(self) -> Splats:
        static = self._static
        if static is None:
            static = self._static = self._decode(STATIC_MEMBER, self.info.static_points)
        return static

    def _decode(self, name: str, points: int) -> Splats:
        where = self._archive.where(name)
        try:
            return decode_chunk(self._archive.read(name), points, self.info.sh_degree, where)
        except MemoryError as error:
            raise ClipError(f"not enough memory for {points} points", where=where) from error

    def _checked(self, index: int) -> int:
        if self._closed:
            raise ClipError("the clip is closed", where=self.path)
        index = operator.index(index)
        if not 0 <= index < self.info.frame_count:
            raise ClipError(
                f"there is no frame {index}",
                where=self.path,
                hint=f"It has frames 0 to {self.info.frame_count - 1}",
            )
        return index

    def _read_info(self) -> ClipInfo:
        archive = self._archive
        where = archive.where(INFO_MEMBER)
        if INFO_MEMBER not in archive.members:
            raise ClipError(
                f"not a Peel4D clip (a ZIP archive without {INFO_MEMBER})",
                where=self.path,
                hint="Choose a .p4d file that Peel4D has written",
            )
        if archive.size(INFO_MEMBER) > MAX_INFO_BYTES:
            raise ClipError("absurdly large", where=where, hint=DAMAGED_HINT)
        info = decode_info(archive.read(INFO_MEMBER), where)
        for index in range(info.frame_count):
            archive.size(frame_member(index))
        if info.static_points:
            archive.size(STATIC_MEMBER)
        return info


def _joined(first: Splats, second: Splats) -> Splats:
    """Both clouds as one; they have the same SH degree."""
    return Splats(
        np.concatenate([first.position, second.position]),
        np.concatenate([first.radius, second.radius]),
        np.concatenate([first.density, second.density]),
        np.concatenate([first.sh, second.sh]),
    )
