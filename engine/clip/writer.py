"""Writing clips: frames stream through, the file appears when it is complete."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..atomic import atomic_writer
from ..errors import ClipError
from ..render.settings import PeelSettings
from ..render.splats import SH_COUNTS, Splats
from .chunk import Chunk
from .clip import (
    COLOR_SPACE,
    FOOTPRINT_VERSION,
    INFO_MEMBER,
    MAX_DECODED_BYTES,
    MAX_FRAMES,
    SCHEMA_VERSION,
    STATIC_MEMBER,
    ClipAttribute,
    ClipCamera,
    ClipInfo,
    base_member,
    fragment_member,
    frame_member,
)
from .codecs import Baked, Encoder
from .fragment import EncodedField
from .schema import decode_info, encode_info, point_nbytes

DEFAULT_SETTINGS = PeelSettings()
DEFAULT_ENCODER = Baked()
# A fixed time stamp: the same frames give the same file, byte for byte.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_ATTRIBUTES = ("position", "radius", "density", "sh")

_T = TypeVar("_T")


def write_clip(
    path: str | Path,
    frames: Iterable[Splats],
    *,
    fps: float,
    cameras: Sequence[ClipCamera] = (),
    settings: PeelSettings = DEFAULT_SETTINGS,
    provenance: Mapping[str, object] | None = None,
    first_frame: int = 0,
    up: np.ndarray | Sequence[float] | None = None,
    static: Splats | Callable[[], Splats | None] | None = None,
    encoder: Encoder = DEFAULT_ENCODER,
) -> ClipInfo:
    """Write `frames` as a clip and return its head.

    frames: one Splats per frame, pulled one at a time and not kept. Degrees of SH may differ; the
    reader gives every frame the highest. fps: frames per second. first_frame: label of the first.
    up: (3,) the world's upward direction. static: points of every frame, stored once;
    a function that makes them is called after the last frame. encoder: the codec and its settings.
    Points that nobody can see (radius <= 0 or density <= 0) are left out, and points are
    reordered along a Morton curve.

    Raises ClipError for frames or a head that a reader would refuse (NaN, no frames, fps <= 0),
    OutputError when the file cannot be written, and whatever `frames` raises. In all these cases
    an older file of the same name stays as it was and nothing else is left behind.
    """
    path = Path(path)
    head = _Head(path, encoder, fps, tuple(cameras), settings, provenance or {}, first_frame, up)
    shared = encoder.shared
    few = [0] * (shared.frames if shared else 1)
    head.document(_Totals(path, few))  # a bad argument shows before hours of frames, not after
    total = _Totals(path, [])
    try:
        with atomic_writer(path) as file, zipfile.ZipFile(file, "w") as archive:
            for number, member in enumerate(shared.bases if shared else ()):
                _store(archive, base_member(number), member.data)
            for number, fragment in enumerate(shared.fragments if shared else ()):
                _store(archive, fragment_member(number), fragment.member.data)
            if isinstance(static, Splats):
                _store_static(archive, static, encoder, total)
            for index, splats in enumerate(_shielded(frames)):
                if index == MAX_FRAMES:
                    raise ClipError(f"more than {MAX_FRAMES} frames", where=path)
                chunk = encoder.encode(splats, f"{path}, frame {index}", frame=index)
                total.add(chunk, "frame")
                _store(archive, frame_member(index), chunk.data)
            if callable(static) and (late := _called(static)) is not None:
                _store_static(archive, late, encoder, total)
            if not total.points:
                raise ClipError("there are no frames to write", where=path)
            info, document = head.document(total)
            _store(archive, INFO_MEMBER, document)
    except _SourceError as error:
        raise error.error from error.error.__cause__
    return info


class _SourceError(Exception):
    """Carries an OSError of the caller's frames past the writer, which would take it for its own
    (a full disk)."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def _shielded(frames: Iterable[_T]) -> Iterator[_T]:
    try:
        yield from frames
    except OSError as error:
        raise _SourceError(error) from error


def _called(function: Callable[[], _T]) -> _T:
    try:
        return function()
    except OSError as error:
        raise _SourceError(error) from error


def _store_static(
    archive: zipfile.ZipFile, static: Splats, encoder: Encoder, total: _Totals
) -> None:
    chunk = encoder.encode(static, f"{total.path}, static points", static=True)
    total.add(chunk, "static")
    _store(archive, STATIC_MEMBER, chunk.data)


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _TIMESTAMP), data, zipfile.ZIP_STORED)


class _Totals:
    """What the head says about the frames that have passed by."""

    def __init__(self, path: Path, points: list[int]) -> None:
        self.path = path
        self.points = points
        self.static_points = 0
        self.sh_degree = 0
        # scope -> lowest and highest position
        self.extents: dict[str, np.ndarray] = {}
        # (scope, attribute) -> [lowest, highest, bytes]
        self.rows: dict[tuple[str, str], list[float]] = {}

    def add(self, chunk: Chunk, scope: str) -> None:
        if scope == "static":
            self.static_points = chunk.points
        else:
            self.points.append(chunk.points)
        self.sh_degree = max(self.sh_degree, chunk.sh_degree)
        most = max(self.points, default=0) + self.static_points
        if most * point_nbytes(self.sh_degree) > MAX_DECODED_BYTES:
            raise ClipError(
                f"{most} points are more than a frame can hold",
                where=self.path,
                hint="Use a coarser point spacing",
            )
        if chunk.bounds is None:
            return
        self.extents[scope] = _around(self.extents.get(scope, chunk.bounds), chunk.bounds)
        for name, (low, high) in chunk.ranges.items():
            row = self.rows.setdefault((scope, name), [low, high, 0])
            row[0], row[1] = min(row[0], low), max(row[1], high)
            row[2] += chunk.nbytes[name]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(2, 3) of all points and of the frames' own."""
        if not self.extents:
            return np.zeros((2, 3)), np.zeros((2, 3))
        everything = _around(*self.extents.values())
        return everything, self.extents.get("frame", everything)

    def attributes(self) -> Iterator[ClipAttribute]:
        components = {"position": 3, "sh": 3 * SH_COUNTS[self.sh_degree]}
        for scope in ("frame", "static"):
            for name in _ATTRIBUTES:
                if (scope, name) in self.rows:
                    low, high, nbytes = self.rows[scope, name]
                    count = components.get(name, 1)
                    yield ClipAttribute(name, "float32", count, scope, low, high, int(nbytes))


def _shared_rows(shared: EncodedField) -> Iterator[ClipAttribute]:
    """What the components of fields take, all fragments and bases together."""
    sizes: dict[str, int] = {}
    for member in (*shared.bases, *(fragment.member for fragment in shared.fragments)):
        for name, nbytes in member.nbytes.items():
            sizes[name] = sizes.get(name, 0) + nbytes
    for name, nbytes in sizes.items():
        yield ClipAttribute(name, "field", 1, "fragment", 0.0, 0.0, nbytes)


def _around(*boxes: np.ndarray) -> np.ndarray:
    """The box (2, 3) around boxes."""
    return np.stack([np.min([low for low, _ in boxes], 0), np.max([high for _, high in boxes], 0)])


@dataclass(frozen=True, eq=False)
class _Head:
    """What the head says about everything but the frames."""

    path: Path
    encoder: Encoder
    fps: float
    cameras: tuple[ClipCamera, ...]
    settings: PeelSettings
    provenance: Mapping[str, object]
    first_frame: int
    up: np.ndarray | Sequence[float] | None

    def document(self, total: _Totals) -> tuple[ClipInfo, bytes]:
        """The head and its `clip.json`. Raises ClipError for one that no reader takes."""
        up = self.up
        if up is not None:
            up = np.asarray(up, dtype=np.float64).reshape(3)
            up = up / max(np.linalg.norm(up), 1e-300)
        bounds, frame_bounds = total.bounds()
        shared = self.encoder.shared
        info = ClipInfo(
            version=SCHEMA_VERSION,
            codec=self.encoder.name,
            frame_count=len(total.points),
            first_frame=int(self.first_frame),
            fps=float(self.fps),
            points=tuple(total.points),
            static_points=total.static_points,
            sh_degree=total.sh_degree,
            bounds=bounds,
            frame_bounds=frame_bounds,
            up=up,
            color=COLOR_SPACE,
            footprint=FOOTPRINT_VERSION,
            settings=self.settings,
            cameras=self.cameras,
            attributes=(*total.attributes(), *(_shared_rows(shared) if shared else ())),
            provenance=dict(self.provenance),
            fragments=shared.table if shared else (),
        )
        document = encode_info(info, str(self.path))
        decode_info(document, str(self.path))
        return info, document
