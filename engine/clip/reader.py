"""Reading clips: random access by frame, from any thread."""

from __future__ import annotations

import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import ClipError
from ..render.splats import PackedSplats, Splats
from .archive import ArchiveReader
from .clip import (
    DAMAGED_HINT,
    INFO_MEMBER,
    MAX_INFO_BYTES,
    STATIC_MEMBER,
    ClipInfo,
    base_member,
    fragment_member,
    fragment_of,
    frame_member,
)
from .codecs import DECODERS, FIELD_CODECS
from .field_points import decode_field_points
from .fragment_cache import DecodedFragments, ReadMember
from .predictive import decode_predictive
from .schema import decode_info

#: Cores from which on a second thread decodes ahead. On two cores it gained nothing: drawing wants
#: them, and numpy's running sums and casts keep Python's lock.
_TWO_THREADS_CORES = 4


class ClipReader:
    """An open clip; a context manager.

    path: the `.p4d` file. info: its head. cache_frames: so many frames are kept as `packed` gives
    them, the most recently used ones. The static points are kept besides, once.

    Raises ClipError, here and in every method, when the file is missing, foreign, truncated, of
    another version or damaged; the error names the file and the member.
    """

    def __init__(self, path: str | Path, *, cache_frames: int = 4) -> None:
        self.path = Path(path)
        self._archive = ArchiveReader(self.path)
        self._lock = threading.Lock()
        self._closed = False
        self._cache: OrderedDict[int, PackedSplats] = OrderedDict()
        self._cache_frames = cache_frames
        # Oldest request first; whatever is decoded leaves it for the cache.
        self._pending: dict[int, Future[PackedSplats]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._static: PackedSplats | None = None
        self._static_lock = threading.Lock()
        try:
            self.info: ClipInfo = self._read_info()
        except BaseException:
            self._archive.close()
            raise
        self._fields = self._decoded_fields()

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
        if self._fields is not None:
            self._fields.clear()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        self._archive.close()

    @property
    def total_nbytes(self) -> int:
        """Size of the file."""
        return self._archive.nbytes

    def frame_nbytes(self, index: int) -> int:
        """Bytes that frame `index` takes in the file, without the static points and what it shares
        with others."""
        return self._archive.size(frame_member(self._checked(index)))

    @property
    def shared_nbytes(self) -> int:
        """Bytes of all fragments and bases."""
        info = self.info
        members = [fragment_member(number) for number in range(len(info.fragments))]
        members += [base_member(number) for number in range(info.bases)]
        return sum(map(self._archive.size, members))

    def packed(self, index: int, *, static: bool = True) -> tuple[PackedSplats, ...]:
        """The points of frame `index`, 0 <= index < info.frame_count, as the clip stores them.

        One part, or two when the clip has static points: the frame's own and the static ones, whose
        codes mean other values. static: False leaves these out, and they are not read. Draw them as
        instances of one matrix in this order, which is that of the points in `frame`: it decides
        between points of equal depth. The arrays are shared and therefore read-only.
        """
        own = self._own(self._checked(index))
        return (own, self._static_points()) if static and self.info.static_points else (own,)

    def frame(self, index: int) -> Splats:
        """The parts of `packed(index)` as plain numbers, one after the other, decoded anew."""
        parts = self.packed(index)
        try:
            return _joined([part.unpack() for part in parts])
        except MemoryError as error:
            where = self._archive.where(frame_member(index))
            raise ClipError("not enough memory for its points", where=where) from error

    def prefetch(self, index: int, *, static: bool = True) -> None:
        """Start decoding frame `index`, and the static points, in the background. Errors appear
        when it is asked for.

        At most `cache_frames` frames are on their way: beyond that the oldest request that nobody
        has begun with is dropped, or this one if there is none.
        """
        index = self._checked(index)
        with self._lock:
            if self._closed or index in self._cache or index in self._pending:
                return
            if len(self._pending) >= self._cache_frames and not self._drop_request():
                return
            if self._executor is None:
                threads = 2 if (os.cpu_count() or 1) >= _TWO_THREADS_CORES else 1
                self._executor = ThreadPoolExecutor(threads, thread_name_prefix="peel4d-clip")
            self._pending[index] = self._executor.submit(self._prefetched, index, static)

    def decoded(self, index: int, *, static: bool = True) -> bool:
        """Whether `packed` returns this frame at once."""
        with self._lock:
            waits = static and self.info.static_points and self._static is None
            return not waits and index in self._cache

    def _drop_request(self) -> bool:
        """Whether there was a frame that waited for its turn. The lock is held."""
        for index, future in self._pending.items():
            if future.cancel():
                del self._pending[index]
                return True
        return False

    def _prefetched(self, index: int, static: bool) -> PackedSplats:
        try:
            if static and self.info.static_points:
                self._static_points()
            return self._load(index)
        finally:
            with self._lock:
                self._pending.pop(index, None)

    def _own(self, index: int) -> PackedSplats:
        """The frame's own points, from the cache if they are there."""
        with self._lock:
            splats = self._cache.get(index)
            if splats is not None:
                self._cache.move_to_end(index)
                return splats
            pending = self._pending.get(index)
        if pending is not None:
            try:
                return pending.result()
            except CancelledError:  # closed or dropped while it was waiting for its turn
                self._checked(index)
        return self._load(index)

    def _load(self, index: int) -> PackedSplats:
        splats = self._decode(frame_member(index), self.info.points[index], index)
        with self._lock:
            if not self._closed:
                self._cache[index] = splats
                self._cache.move_to_end(index)
                while len(self._cache) > self._cache_frames:
                    self._cache.popitem(last=False)
        return splats

    def _static_points(self) -> PackedSplats:
        with self._static_lock:
            static = self._static
            if static is None:
                static = self._decode(STATIC_MEMBER, self.info.static_points)
                with self._lock:
                    self._static = None if self._closed else static
            return static

    def _decode(self, name: str, points: int, frame: int | None = None) -> PackedSplats:
        """frame: which one it is, None for the static points."""
        where = self._archive.where(name)
        info = self.info
        try:
            data = self._archive.read(name)
            if not info.fragments:
                return DECODERS[info.codec](data, points, info.sh_degree, where)
            if frame is None:
                return decode_predictive(data, points, info.sh_degree, where)
            index, step = fragment_of(info.fragments, frame)
            field = self._fields.get(index)
            return decode_field_points(data, field, step, points, info.sh_degree, where)
        except MemoryError as error:
            raise ClipError(f"not enough memory for {points} points", where=where) from error

    def _decoded_fields(self) -> DecodedFragments | None:
        """Of a clip whose frames share fields."""
        fragments, archive = self.info.fragments, self._archive
        if not fragments:
            return None

        def member(name: Callable[[int], str]) -> ReadMember:
            return lambda index: (archive.read(name(index)), archive.where(name(index)))

        return DecodedFragments(
            FIELD_CODECS[self.info.codec],
            member(fragment_member),
            member(base_member),
            lambda index: fragments[index].base,
        )

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
        for index in range(len(info.fragments)):
            archive.size(fragment_member(index))
        for index in range(info.bases):
            archive.size(base_member(index))
        if info.static_points:
            archive.size(STATIC_MEMBER)
        return info


def _joined(parts: Sequence[Splats]) -> Splats:
    """All clouds as one; they have the same SH degree."""
    if len(parts) == 1:
        return parts[0]
    return Splats(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("position", "radius", "density", "sh")
        )
    )
