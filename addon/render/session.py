# SPDX-License-Identifier: GPL-3.0-or-later
"""What stays between two pictures: readers with their frames, geometry, and the drawing thread.

Blender makes a new RenderEngine for every frame (5.0: two), so nothing of value may live on it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.clip.clip import ClipInfo
from ...engine.clip.reader import ClipReader
from ...engine.errors import ClipError
from ...engine.render.look import Look, apply_look
from ...engine.render.splats import SH_COUNTS, PackedSplats, Splats
from .meshes import GeometryCache
from .picture import Canvas
from .render_thread import RenderThread

if TYPE_CHECKING:
    from .scene import ClipInstance

#: Decoded frames that one clip may keep, bytes.
CLIP_BYTES = 512 << 20
#: Points with another look than the clip's that are kept, as parts of clips.
_LOOKS = 16


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
    """Open clips by the state of their file, and what was made for drawing them. Thread-safe.

    geometry: of the scene's meshes. canvas: what final renders draw on. thread: draws viewports.
    last_final_time: scene frame of the last final render, None before the first.
    told_failure: the failure of a composite that a window shows, empty after a picture.
    viewports: those that show the engine's pictures.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[ClipKey, ClipReader] = {}
        self._looks: OrderedDict[tuple[int, Look], tuple[object, PackedSplats | Splats]] = (
            OrderedDict()
        )
        self.geometry = GeometryCache()
        self.canvas = Canvas()
        self.thread = RenderThread()
        self.last_final_time: float | None = None
        self.told_failure = ""
        self.viewports: weakref.WeakSet = weakref.WeakSet()

    def open(self, path: str) -> ClipReader:
        """The reader of the clip at the absolute `path`, shared. Raises ClipError.

        An older state of the same file is closed: a picture that is being drawn from it fails.
        """
        key = ClipKey.of(path)
        with self._lock:
            reader = self._readers.get(key)
            if reader is None:
                reader = self._opened(path)
                for old in [old for old in self._readers if old.path == path]:
                    self._readers.pop(old).close()
                self._readers[key] = reader
            return reader

    def _opened(self, path: str) -> ClipReader:
        with ClipReader(path) as head:
            frames = frames_in_budget(head.info)
        return ClipReader(path, cache_frames=frames)

    def points(self, item: ClipInstance) -> tuple[PackedSplats | Splats, ...]:
        """The parts of a frame as its look shows them; the last ones are kept. Raises ClipError."""
        parts = item.reader.packed(item.frame, static=item.background)
        if item.look.is_identity:
            return parts
        return tuple(self._looked(part, item.look) for part in parts)

    def _looked(self, part: PackedSplats, look: Look) -> PackedSplats | Splats:
        key = (id(part), look)
        with self._lock:
            known = self._looks.get(key)
            if known is not None:
                self._looks.move_to_end(key)
                return known[1]
        looked = apply_look(part, look)
        with self._lock:
            # The part itself is kept, too: its id stays its own.
            self._looks[key] = (part, looked)
            while len(self._looks) > _LOOKS:
                self._looks.popitem(last=False)
        return looked

    @property
    def clip_count(self) -> int:
        """Open clips."""
        return len(self._readers)

    def release(self) -> None:
        """Stop drawing and close every clip; frames, geometry and canvases go with them."""
        self.thread.stop()
        with self._lock:
            while self._readers:
                self._readers.popitem()[1].close()
            self._looks.clear()
        self.geometry.release()
        self.canvas = Canvas()
        self.last_final_time = None
        self.told_failure = ""


def frames_in_budget(info: ClipInfo) -> int:
    """How many decoded frames of a clip are kept."""
    # At most 12 bytes for the position, 2 for every other number.
    point_bytes = 12 + 2 + 2 + 6 * SH_COUNTS[info.sh_degree]
    frame_bytes = max(max(info.points, default=0), 1) * point_bytes
    return min(max(CLIP_BYTES // frame_bytes, 2), 64)


#: The one session of this process; `addon.unregister` and loading another file release it.
SESSION = Session()
