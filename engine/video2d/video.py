"""The video format (`.g2v`): what a file says about itself, its reader and its writer.

The format is specified in docs/video-format.md.
"""

from __future__ import annotations

import json
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..atomic import atomic_writer
from ..clip.archive import VIDEO, ArchiveReader
from ..clip.clip import DAMAGED_HINT
from ..clip.fields import parse_object
from ..clip.fragment_cache import FragmentCache
from ..errors import ClipError
from ..machine import cores
from ..render import backend as back_ends
from ..render.window import Window
from .cuda_gaussians import rasterizer
from .gaussians import draw
from .gop import MAX_FRAMES, MAX_GAUSSIANS, Gop
from .gop_codec import decode_gop

SCHEMA = "peel4d-video"
SCHEMA_VERSION = 1
INFO_MEMBER = "video.json"
MAX_GOPS = 1 << 20
#: Pixels of a side, and of a picture, beyond which the core draws nothing.
MAX_SIDE, MAX_PIXELS = 32767, 1 << 28
_MAX_INFO_BYTES = 1 << 26
_MAX_FPS = 10_000.0
#: Groups that are decoded ahead of the pictures, at most.
_AHEAD = 8
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_UPDATE_HINT = "Update Peel4D to open it"


@dataclass(frozen=True)
class VideoInfo:
    """width, height: pixels. fps: frames per second. gops: (frames, Gaussians) of every group.
    provenance: free JSON."""

    width: int
    height: int
    fps: float
    gops: tuple[tuple[int, int], ...]
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def frame_count(self) -> int:
        return sum(frames for frames, _ in self.gops)


def gop_member(index: int) -> str:
    """Name of the archive member that holds a group of pictures, counted from 0."""
    return f"gops/{index:06d}.bin"


def encode_info(info: VideoInfo) -> bytes:
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "width": info.width,
        "height": info.height,
        "fps": info.fps,
        "frame_count": info.frame_count,
        "color": "srgb-display",
        "gops": [{"frames": frames, "gaussians": count} for frames, count in info.gops],
        "provenance": dict(info.provenance),
    }
    return json.dumps(document, allow_nan=False).encode("ascii")


def decode_info(data: bytes, where: str) -> VideoInfo:
    """The validated head. Unknown keys are ignored. Raises ClipError."""
    fields = parse_object(data, where)
    if fields.values.get("schema") != SCHEMA:
        raise ClipError(
            f"not a Peel4D video (schema {fields.values.get('schema')!r})",
            where=where,
            hint="Choose a .g2v file that Peel4D has written",
        )
    if fields.integer("version", 1, 1 << 30) != SCHEMA_VERSION:
        raise ClipError(
            f"version {fields.values['version']} of the video format is not known to this program",
            where=where,
            hint=_UPDATE_HINT,
        )
    if fields.text("color") != "srgb-display":
        raise ClipError("its colours are not known", where=where, hint=_UPDATE_HINT)
    gops = tuple(
        (gop.integer("frames", 1, MAX_FRAMES), gop.integer("gaussians", 0, MAX_GAUSSIANS))
        for gop in fields.mappings("gops")
    )
    if not 1 <= len(gops) <= MAX_GOPS:
        raise fields.fail("gops", f"a list of 1 to {MAX_GOPS} groups")
    width, height = fields.integer("width", 1, MAX_SIDE), fields.integer("height", 1, MAX_SIDE)
    if width * height > MAX_PIXELS:
        raise fields.fail("width", f"of a picture of at most {MAX_PIXELS} pixels")
    info = VideoInfo(
        width,
        height,
        fields.number("fps", 1e-3, _MAX_FPS),
        gops,
        fields.mapping("provenance").values,
    )
    fields.integer("frame_count", info.frame_count, info.frame_count)
    return info


def write_video(path: Path, info: VideoInfo, chunks: Iterable[bytes]) -> None:
    """Write the file atomically; the same groups give the same bytes. Raises ClipError for a head
    that no reader takes, OutputError."""
    document = encode_info(info)
    decode_info(document, str(path))
    with atomic_writer(path) as file, zipfile.ZipFile(file, "w") as archive:
        for index, chunk in enumerate(chunks):
            archive.writestr(zipfile.ZipInfo(gop_member(index), _TIMESTAMP), chunk)
        archive.writestr(zipfile.ZipInfo(INFO_MEMBER, _TIMESTAMP), document)


class VideoReader:
    """An open `.g2v`. Frames may be asked for in any order and from any thread."""

    def __init__(self, path: str | Path, *, cached_gops: int = 2) -> None:
        """Raises ClipError when the file is missing, foreign, damaged or too new."""
        self._archive = ArchiveReader(path, VIDEO)
        self.path = self._archive.path
        try:
            if self._archive.size(INFO_MEMBER) > _MAX_INFO_BYTES:
                raise ClipError(
                    "the head is too large",
                    where=self._archive.where(INFO_MEMBER),
                    hint=DAMAGED_HINT,
                )
            self.info = decode_info(
                self._archive.read(INFO_MEMBER), self._archive.where(INFO_MEMBER)
            )
            for index in range(len(self.info.gops)):
                self._archive.size(gop_member(index))
        except BaseException:
            self._archive.close()
            raise
        self._first = np.cumsum([0, *(frames for frames, _ in self.info.gops)])
        self._gops = FragmentCache(self._decoded, cached_gops)

    @property
    def nbytes(self) -> int:
        return self._archive.nbytes

    def gop_nbytes(self, index: int) -> int:
        return self._archive.size(gop_member(index))

    def gop(self, index: int) -> Gop:
        """A group of pictures. Raises ClipError when it is damaged or not what the head says."""
        return self._gops.get(index)

    def _decoded(self, index: int) -> Gop:
        where = self._archive.where(gop_member(index))
        gop = decode_gop(self._archive.read(gop_member(index)), where)
        frames, count = self.info.gops[index]
        if (gop.frames, len(gop), gop.width, gop.height) != (
            frames,
            count,
            self.info.width,
            self.info.height,
        ):
            raise ClipError("the group is not what the head says", where=where, hint=DAMAGED_HINT)
        return gop

    def frame(
        self,
        index: int,
        *,
        size: tuple[int, int] | None = None,
        threads: int = 0,
        backend: str = "auto",
    ) -> np.ndarray:
        """(H, W, 3) uint8 of frame `index`, counted from 0; size: (width, height) of the picture,
        the video's own by default; backend: see `export`. Raises ClipError, CoreError, IndexError.
        """
        number, frame = self._place(index)
        return self._drawn(self.gop(number), frame, size, threads, backend)

    def pictures(
        self,
        frames: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        threads: int = 0,
        backend: str = "auto",
    ) -> Iterator[np.ndarray]:
        """`frame` of each of these. The groups that they need next are decoded ahead by threads of
        their own, so that drawing does not wait for the range coder at every group."""
        places = [self._place(index) for index in frames]
        turns = [
            number
            for at, (number, _) in enumerate(places)
            if at == 0 or number != places[at - 1][0]
        ]
        ahead = min(_AHEAD, cores())
        waiting: deque[Future[Gop]] = deque()
        with ThreadPoolExecutor(ahead) as pool:
            try:
                upcoming = iter(turns)
                for _, number in zip(range(ahead), upcoming, strict=False):
                    waiting.append(pool.submit(self._decoded, number))
                current, gop = None, None
                for number, frame in places:
                    if number != current:
                        current, gop = number, waiting.popleft().result()
                        for following in upcoming:
                            waiting.append(pool.submit(self._decoded, following))
                            break
                    yield self._drawn(gop, frame, size, threads, backend)
            finally:
                for future in waiting:
                    future.cancel()

    def _place(self, index: int) -> tuple[int, int]:
        """The group of a frame, and its number there. Raises IndexError."""
        if not 0 <= index < self.info.frame_count:
            raise IndexError(index)
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return number, index - int(self._first[number])

    def _drawn(
        self,
        gop: Gop,
        frame: int,
        size: tuple[int, int] | None,
        threads: int,
        backend: str,
    ) -> np.ndarray:
        width, height = size or (self.info.width, self.info.height)
        if back_ends.select(backend) == "cuda":
            return rasterizer().draw_frame(gop, frame, size=(width, height))
        gaussians = gop.at(frame).resized(width / self.info.width, height / self.info.height)
        return draw(gaussians, Window(0, 0, width, height), threads=threads)

    def close(self) -> None:
        self._archive.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
