# SPDX-License-Identifier: GPL-3.0-or-later
"""What stays open between two pictures: the readers of the clips, with the frames they keep.

Blender makes a new RenderEngine for every frame (5.0: two), so nothing of value may live on it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from ...engine.clip.reader import ClipReader
from ...engine.errors import ClipError


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
    """Open clips by the state of their file. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[ClipKey, ClipReader] = {}

    def open(self, path: str) -> ClipReader:
        """The reader of the clip at the absolute `path`, shared. Raises ClipError.

        An older state of the same file is closed: a picture that is being drawn from it fails.
        """
        key = ClipKey.of(path)
        with self._lock:
            reader = self._readers.get(key)
            if reader is None:
                reader = ClipReader(path)
                for old in [old for old in self._readers if old.path == path]:
                    self._readers.pop(old).close()
                self._readers[key] = reader
            return reader

    @property
    def clip_count(self) -> int:
        """Open clips."""
        return len(self._readers)

    def release(self) -> None:
        """Close every clip; their frames go with them."""
        with self._lock:
            while self._readers:
                self._readers.popitem()[1].close()


#: The one session of this process; `addon.unregister` and loading another file release it.
SESSION = Session()
