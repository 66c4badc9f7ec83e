# SPDX-License-Identifier: GPL-3.0-or-later
"""Points and meshes in the memory of Blender's graphics device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...engine.errors import CoreError
from ...engine.render.mesh import Mesh
from ...engine.render.splats import SH_COUNTS, PackedSplats, Splats
from .gl_shaders import TABLE_WIDTH

#: Kept at most, besides what the current pictures need. Integrated graphics share it with Blender.
BUDGET = 512 << 20
_HALF_MAX = 65504.0


@dataclass(frozen=True, eq=False)
class UploadedPoints:
    """points: texture of (x, y, z, radius), RGBA32F. look: density, then the harmonics of each
    point, padded to whole texels, RGBA16F. Both are TABLE_WIDTH wide. harmonics: per channel.
    bounds: (2, 3), lowest and highest position.
    """

    points: object
    look: object
    count: int
    harmonics: int
    bounds: np.ndarray
    nbytes: int


@dataclass(frozen=True, eq=False)
class UploadedMesh:
    """batch: triangles with `position` and `color` (alpha 0: holdout), None: there are none."""

    batch: object | None
    nbytes: int


@dataclass
class _Entry:
    thing: weakref.ref
    uploaded: UploadedPoints | UploadedMesh
    used: int


class Uploads:
    """What was uploaded, by the identity of the arrays it came from. For the main thread only.

    Things that have died are freed with the next picture, the least recently used ones when the
    budget is exceeded. `nbytes` and `len` are of this process.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._entries: dict[int, _Entry] = {}
        self._tick = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        return sum(entry.uploaded.nbytes for entry in self._entries.values())

    def begin_picture(self) -> None:
        """Free what is not needed any more; what is asked for from now on stays together."""
        self._tick += 1
        for key in [key for key, entry in self._entries.items() if entry.thing() is None]:
            del self._entries[key]

    def end_picture(self) -> None:
        """Free the least recently used things beyond the budget."""
        excess = self.nbytes - self.budget
        for key, entry in sorted(self._entries.items(), key=lambda item: item[1].used):
            if excess <= 0 or entry.used == self._tick:
                break
            excess -= entry.uploaded.nbytes
            del self._entries[key]

    def points(self, splats: Splats | PackedSplats) -> UploadedPoints:
        """Raises CoreError when the device's textures cannot hold them."""
        return self._get(splats, upload_points)

    def mesh(self, mesh: Mesh) -> UploadedMesh:
        return self._get(mesh, upload_mesh)

    def clear(self) -> None:
        self._entries.clear()

    def _get(self, thing: object, upload: Callable) -> UploadedPoints | UploadedMesh:
        entry = self._entries.get(id(thing))
        if entry is None or entry.thing() is not thing:
            entry = _Entry(weakref.ref(thing), upload(thing), 0)
            self._entries[id(thing)] = entry
        entry.used = self._tick
        return entry.uploaded


def upload_points(splats: Splats | PackedSplats) -> UploadedPoints:
    """Two textures; points that are not drawn anywhere get the radius 0."""
    points, look = point_tables(splats)
    count, harmonics = len(splats), SH_COUNTS[splats.sh_degree]
    position = points.reshape(-1, 4)[: max(count, 1), :3]
    bounds = np.stack([position.min(axis=0), position.max(axis=0)]).astype(np.float64)
    textures = (texture_of(points, "RGBA32F"), texture_of(look, "RGBA16F"))
    return UploadedPoints(*textures, count, harmonics, bounds, points.nbytes + look.nbytes // 2)


def point_tables(splats: Splats | PackedSplats) -> tuple[np.ndarray, np.ndarray]:
    """(rows, TABLE_WIDTH, 4) float32 each: x, y, z, radius; density and harmonics."""
    if isinstance(splats, PackedSplats):
        splats = splats.unpack()
    count, values = len(splats), 3 * splats.sh.shape[1]
    sh = splats.sh.reshape(count, values)
    points = _table(count)
    rows = points.reshape(-1, 4)[:count]
    rows[:, :3], rows[:, 3] = splats.position, splats.radius
    texels = (values + 4) // 4  # one number more, the density, in whole texels
    look = _table(count * texels)
    rows_of_look = look.reshape(-1, 4)[: count * texels].reshape(count, 4 * texels)
    rows_of_look[:, 0] = np.minimum(splats.density, 1)
    rows_of_look[:, 1 : 1 + values] = sh
    # Whether a number is finite cannot be asked reliably on every graphics device.
    with np.errstate(over="ignore", invalid="ignore"):
        sound = np.isfinite(rows.sum(axis=1) + rows_of_look.sum(axis=1))
        sound &= (rows[:, 3] > 0) & (rows_of_look[:, 0] > 0)
    if not sound.all():
        rows[~sound] = 0
        rows_of_look[~sound] = 0
    np.clip(look, -_HALF_MAX, _HALF_MAX, out=look)
    return points, look


def upload_mesh(mesh: Mesh) -> UploadedMesh:
    """Its triangles with a corner of its own for each, as each may have its own colour."""
    import gpu

    corners = mesh.vertices[mesh.triangles]  # (F, 3, 3)
    color = np.zeros((*corners.shape[:2], 4), np.float32)
    if mesh.color is not None:
        color[..., 3] = 1
        if mesh.per == "vertex":
            color[..., :3] = mesh.color[mesh.triangles]
        else:
            color[..., :3] = mesh.color if mesh.per is None else mesh.color[:, None]
    sound = np.isfinite(corners).all(axis=(1, 2))
    corners, color = corners[sound].reshape(-1, 3), color[sound].reshape(-1, 4)
    if len(corners) == 0:
        return UploadedMesh(None, 0)
    layout = gpu.types.GPUVertFormat()
    layout.attr_add(id="position", comp_type="F32", len=3, fetch_mode="FLOAT")
    layout.attr_add(id="color", comp_type="F32", len=4, fetch_mode="FLOAT")
    buffer = gpu.types.GPUVertBuf(layout, len(corners))
    buffer.attr_fill("position", np.ascontiguousarray(corners))
    buffer.attr_fill("color", np.ascontiguousarray(color))
    batch = gpu.types.GPUBatch(type="TRIS", buf=buffer)
    return UploadedMesh(batch, corners.nbytes + color.nbytes)


def _table(texels: int) -> np.ndarray:
    rows = max(-(-texels // TABLE_WIDTH), 1)
    return np.zeros((rows, TABLE_WIDTH, 4), np.float32)


def texture_of(table: np.ndarray, form: str):
    """The gpu.types.GPUTexture of (H, W) or (H, W, C) float32. CoreError if it is too large."""
    import gpu

    height, width = table.shape[:2]
    most = gpu.capabilities.max_texture_size_get()
    if max(height, width) > most:
        raise CoreError(
            "a clip has more points than this graphics device's textures hold",
            hint="Lower the clip's Points, or choose another viewport device",
        )
    buffer = gpu.types.Buffer("FLOAT", table.size, table.ravel())
    return gpu.types.GPUTexture((width, height), format=form, data=buffer)
