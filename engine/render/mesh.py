"""Opaque triangles that stand among the points."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from ..errors import CoreError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles in the world, opaque and visible from both sides.

    vertices: (V, 3) float32, world units; triangles with a corner that is not finite are ignored.
    triangles: (F, 3) int32, indices of vertices.
    color: (V, 3) per vertex, (F, 3) per triangle or (3,) for all, float32, display-referred sRGB as
        the points', clipped to [0, 1] where it is drawn; None: a holdout, which hides what is
        behind it and shows nothing itself.
    id: what the picture's ids show for the mesh.
    per: "vertex" or "triangle", what the rows of `color` belong to. May be left out unless V == F;
        afterwards it is one of the two, or None where there is one colour or none.
    Raises CoreError for wrong shapes, indices out of range and colours that are not finite.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    color: np.ndarray | None
    id: int = -2
    per: str | None = None

    def __post_init__(self) -> None:
        vertices = _floats(self.vertices, "vertices")
        if vertices.ndim != 2 or vertices.shape[1] != 3:
            raise CoreError(
                f"a mesh's vertices have shape {vertices.shape}", hint="Expected (V, 3)"
            )
        triangles = np.asarray(self.triangles)
        if triangles.ndim != 2 or triangles.shape[1] != 3:
            raise CoreError(
                f"a mesh's triangles have shape {triangles.shape}", hint="Expected (F, 3)"
            )
        if not np.issubdtype(triangles.dtype, np.integer):
            raise CoreError(
                f"a mesh's triangles are of type {triangles.dtype}", hint="Expected whole numbers"
            )
        if triangles.size and not (triangles.min() >= 0 and triangles.max() < len(vertices)):
            raise CoreError(
                f"a mesh's triangles name vertices {triangles.min()} to {triangles.max()}",
                hint=f"It has {len(vertices)} vertices",
            )
        try:
            number = operator.index(self.id)
        except TypeError:
            raise CoreError(f"a mesh's id is {self.id!r}", hint="Use a whole number") from None
        if not -(2**31) <= number < 2**31:
            raise CoreError(f"a mesh's id is {number}", hint="It must fit into 32 bits")
        color, per = self._colors(len(vertices), len(triangles))
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "triangles", np.ascontiguousarray(triangles, dtype=np.int32))
        object.__setattr__(self, "id", number)
        object.__setattr__(self, "color", color)
        object.__setattr__(self, "per", per)

    def _colors(self, vertices: int, triangles: int) -> tuple[np.ndarray | None, str | None]:
        rows = {"vertex": (vertices, 3), "triangle": (triangles, 3)}
        if self.per is not None and self.per not in rows:
            raise CoreError(f"colours per {self.per!r}", hint="Use 'vertex' or 'triangle'")
        if self.color is None:
            return None, None
        color = _floats(self.color, "colours")
        if not np.isfinite(color).all():
            raise CoreError("a mesh has colours that are not finite")
        if color.shape == (3,):
            return color, None
        fits = [per for per in rows if color.shape == rows[per] and self.per in (None, per)]
        if not fits:
            raise CoreError(
                f"a mesh's colours have shape {color.shape}",
                hint=f"Expected (3,), per vertex {rows['vertex']} or per triangle "
                f"{rows['triangle']}",
            )
        if len(fits) > 1 and vertices > 0:
            raise CoreError(
                f"a mesh has as many vertices as triangles, {vertices}, and one colour for each",
                hint="Say which with per='vertex' or per='triangle'",
            )
        return color, fits[0]

    @property
    def holdout(self) -> bool:
        return self.color is None

    def __len__(self) -> int:
        """Number of triangles."""
        return len(self.triangles)


def _floats(array: np.ndarray, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # beyond float32: not finite, as if it had been before
            return np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise CoreError(f"a mesh's {name} are no array of numbers ({error})") from error
