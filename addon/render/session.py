# SPDX-License-Identifier: GPL-3.0-or-later
"""What stays open between two pictures: readers of clips and decoded frames.

Blender makes a new RenderEngine for every frame (5.0: two), so nothing of value may live on it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ...engine.clip.reader import ClipReader
from ...engine.errors import ClipError
from ...engine.render.splats import Splats


@dataclass(frozen=True)
class ClipKey:
    """One state of one file: a clip that was written anew is another clip."""

    path: str
    modified_ns: int
    size: int

    @classmethod
    def of(cls, path: str) -> ClipKey:
        """Raises ClipError when there is no such file."""
        try:
            status = Path(path).stat()
        except OSError as error:
            raise ClipError(
                f"cannot open the clip ({error.strerror})",
                where=path,
                hint="Choose the file again in the object's Peel4D panel",
            ) from error
        return cls(path, status.st_mtime_ns, status.st_size)


class Session:
    """Open clips and their most recently used frames. Thread-safe.

    frame_bytes: decoded frames are kept up to this size (at least one stays).
    """

    def __init__(self, frame_bytes: int = 512 << 20):
        self._frame_bytes = frame_bytes
        self._lock = threading.RLock()
        self._readers: dict[ClipKey, ClipReader] = {}
        self._frames: OrderedDict[tuple[ClipKey, int], Splats] = OrderedDict()

    def open(self, path: str) -> tuple[ClipKey, ClipReader]:
        """The reader of the clip at the absolute `path`. Raises ClipError."""
        key = ClipKey.of(path)
        with self._lock:
            reader = self._readers.get(key)
            if reader is None:
                reader = ClipReader(Path(path))
                self._forget(path)
                self._readers[key] = reader
            return key, reader

    def frame(self, key: ClipKey, index: int) -> Splats:
        """Decoded frame `index` of an open clip. Raises ClipError."""
        with self._lock:
            splats = self._frames.get((key, index))
            if splats is None:
                reader = self._readers.get(key) or self.open(key.path)[1]
                splats = reader.frame(index)
                self._frames[key, index] = splats
                self._shrink()
            else:
                self._frames.move_to_end((key, index))
            return splats

    def release(self) -> None:
        """Close every clip and drop every frame."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            self._frames.clear()

    def _forget(self, path: str) -> None:
        """Close older states of a file that was written anew."""
        for key in [key for key in self._readers if key.path == path]:
            self._readers.pop(key).close()
            for frame in [frame for frame in self._frames if frame[0] == key]:
                del self._frames[frame]

    def _shrink(self) -> None:
        total = sum(splats.nbytes for splats in self._frames.values())
        while total > self._frame_bytes and len(self._frames) > 1:
            total -= self._frames.popitem(last=False)[1].nbytes


#: The one session of this process; `addon.unregister` and loading another file release it.
SESSION = Session()
