"""The points of one frame, as every renderer takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import CoreError, PeelError

#: Spherical-harmonics basis functions for degree 0, 1, 2, 3.
SH_COUNTS = (1, 4, 9, 16)
#: Y_0: a point of constant colour c has the single coefficient c / SH_C0.
SH_C0 = 0.28209479177387814


@dataclass(frozen=True, eq=False)
class Splats:
    """N points of one frame.

    position: (N, 3) float32, world units of the clip.
    radius: (N,) float32, world units; the point is a disk of this radius that faces the camera.
    density: (N,) float32 in [0, 1], opacity at the centre.
    sh: (N, B, 3) float32, B in {1, 4, 9, 16}: colour(d) = clip(sum_b Y_b(d) sh_b, 0, 1) in the
        clip's display-referred sRGB, d = unit direction from the camera centre to the point in the
        clip's world. Real spherical harmonics in the order and sign of the core's sh.h.
    """

    position: np.ndarray
    radius: np.ndarray
    density: np.ndarray
    sh: np.ndarray

    def __post_init__(self) -> None:
        for name in ("position", "radius", "density", "sh"):
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, array)
        n = len(self.position)
        if (
            self.position.shape != (n, 3)
            or self.radius.shape != (n,)
            or self.density.shape != (n,)
            or self.sh.ndim != 3
            or self.sh.shape[0] != n
            or self.sh.shape[1] not in SH_COUNTS
            or self.sh.shape[2] != 3
        ):
            raise PeelError(
                "point arrays disagree: "
                f"position {self.position.shape}, radius {self.radius.shape}, "
                f"density {self.density.shape}, sh {self.sh.shape}",
                hint="Expected (N, 3), (N,), (N,) and (N, 1 | 4 | 9 | 16, 3)",
            )

    def __len__(self) -> int:
        return len(self.position)

    @property
    def sh_degree(self) -> int:
        return SH_COUNTS.index(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        return self.position.nbytes + self.radius.nbytes + self.density.nbytes + self.sh.nbytes

    def select(self, which: np.ndarray) -> Splats:
        """The points that a boolean mask (N,) or an index array picks."""
        return Splats(self.position[which], self.radius[which], self.density[which], self.sh[which])

    @classmethod
    def from_colors(
        cls, position: np.ndarray, radius: np.ndarray, density: np.ndarray, rgb: np.ndarray
    ) -> Splats:
        """Points of constant colour; rgb: (N, 3) in [0, 1], display-referred sRGB."""
        sh = np.asarray(rgb, dtype=np.float32)[:, None, :] / np.float32(SH_C0)
        return cls(position, radius, density, sh)

    @classmethod
    def empty(cls, sh_degree: int = 0) -> Splats:
        """No points at all."""
        return cls(
            np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, SH_COUNTS[sh_degree], 3))
        )


@dataclass(frozen=True, eq=False)
class Quantized:
    """An attribute of N points as integer codes, C components each.

    codes: (N, C) uint8 or uint16, any strides. They are decoded in one of two ways:
    table: (L,) float32, component = table[min(code, L - 1)];
    low, high, step: (C,) float64, component = min(code step + low, high), see `values` and
        `positions` for the rounding.
    Raises CoreError for wrong shapes and types, and for low, high or step beyond float32.
    """

    codes: np.ndarray
    table: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    step: np.ndarray | None = None

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim != 2 or codes.dtype not in (np.uint8, np.uint16):
            raise CoreError(
                f"codes of type {codes.dtype} and shape {codes.shape}",
                hint="Expected (N, C), uint8 or uint16",
            )
        if not codes.flags.aligned or any(stride % codes.itemsize for stride in codes.strides):
            codes = np.ascontiguousarray(codes)  # the core counts strides in codes
        object.__setattr__(self, "codes", codes)
        ramp = [name for name in ("low", "high", "step") if getattr(self, name) is not None]
        if len(ramp) != (3 if self.table is None else 0):
            raise CoreError(
                "codes need either a table or low, high and step",
                hint=f"Given: {', '.join(ramp + ['table'] * (self.table is not None)) or 'none'}",
            )
        if self.table is not None:
            table = np.ascontiguousarray(self.table, dtype=np.float32)
            if table.ndim != 1 or len(table) == 0:
                raise CoreError(f"a table of shape {table.shape}", hint="Expected (L,), L > 0")
            object.__setattr__(self, "table", table)
        for name in ramp:
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if array.shape != (codes.shape[1],):
                raise CoreError(
                    f"{name} has shape {array.shape}", hint=f"Expected {codes.shape[1:]}"
                )
            if not (np.abs(array) <= np.finfo(np.float32).max).all():
                raise CoreError(f"{name} is not finite in float32")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        arrays = (self.codes, self.table, self.low, self.high, self.step)
        return sum(array.nbytes for array in arrays if array is not None)

    def values(self) -> np.ndarray:
        """(N, C) float32: by the table, or min(code step + low, high), each operation rounded to
        float32."""
        if self.table is not None:
            return np.take(self.table, self.codes, mode="clip")
        values = self.codes.astype(np.float32)
        with np.errstate(over="ignore"):
            values *= self.step.astype(np.float32)
        values += self.low.astype(np.float32)
        return np.minimum(values, self.high.astype(np.float32), out=values)

    def positions(self) -> np.ndarray:
        """(N, C) float32: min(code step + low, high) in float64, then rounded."""
        return np.minimum(self.codes * self.step + self.low, self.high).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PackedSplats:
    """N points of one frame, as small as a clip keeps them; the core draws them as they are.

    position: (N, 3) float32, or Quantized uint16 without a table.
    radius, density: (N,) float32 or float16, or Quantized with one component.
    sh: (N, B, 3) float32 or float16, or Quantized without a table and with 3 B components,
        component 3 basis + channel.
    Units as in `Splats`. Raises CoreError where the arrays disagree.
    """

    position: np.ndarray | Quantized
    radius: np.ndarray | Quantized
    density: np.ndarray | Quantized
    sh: np.ndarray | Quantized

    def __post_init__(self) -> None:
        for name in ("position", "radius", "density", "sh"):
            attribute = getattr(self, name)
            if not isinstance(attribute, Quantized):
                half = name != "position" and np.asarray(attribute).dtype == np.float16
                dtype = np.float16 if half else np.float32
                object.__setattr__(self, name, np.ascontiguousarray(attribute, dtype=dtype))
        count = len(self.position)
        wanted = {"position": [(count, 3)], "radius": [(count,)], "density": [(count,)]}
        wanted["sh"] = [(count, basis, 3) for basis in SH_COUNTS]
        for name, shapes in wanted.items():
            attribute = getattr(self, name)
            if isinstance(attribute, Quantized):
                # Position (N, 3) and harmonics (N, 3 B) are codes of these shapes, numbers (N, 1).
                shapes = [(count, int(np.prod(shape[1:], dtype=int))) for shape in shapes]
                shape = attribute.codes.shape
            else:
                shape = attribute.shape
            if shape not in shapes:
                raise CoreError(
                    f"{name} has shape {shape}", hint=f"Expected {' or '.join(map(str, shapes))}"
                )
        for name in ("position", "sh"):
            attribute = getattr(self, name)
            if isinstance(attribute, Quantized) and attribute.table is not None:
                raise CoreError(f"{name} decoded by a table", hint="Use low, high and step")
        if isinstance(self.position, Quantized) and self.position.codes.dtype != np.uint16:
            raise CoreError("positions as 8-bit codes", hint="Use uint16")

    def __len__(self) -> int:
        return len(self.position)

    @property
    def sh_degree(self) -> int:
        if isinstance(self.sh, Quantized):
            return SH_COUNTS.index(self.sh.codes.shape[1] // 3)
        return SH_COUNTS.index(self.sh.shape[1])

    @property
    def nbytes(self) -> int:
        return self.position.nbytes + self.radius.nbytes + self.density.nbytes + self.sh.nbytes

    def unpack(self) -> Splats:
        """The points with exactly the float32 values that the core uses."""
        position = self.position
        if isinstance(position, Quantized):
            position = position.positions()
        radius, density, sh = (
            array.values() if isinstance(array, Quantized) else array.astype(np.float32)
            for array in (self.radius, self.density, self.sh)
        )
        count, basis = len(self), SH_COUNTS[self.sh_degree]
        return Splats(
            position,
            radius.reshape(count),
            density.reshape(count),
            sh.reshape(count, basis, 3),
        )

    @classmethod
    def pack_half(cls, splats: Splats) -> PackedSplats:
        """Everything but the position rounded to float16; CoreError for values beyond 65,504."""
        half = {}
        for name in ("radius", "density", "sh"):
            values = getattr(splats, name)
            with np.errstate(over="ignore"):
                half[name] = values.astype(np.float16)
            if (np.isinf(half[name]) & np.isfinite(values)).any():
                raise CoreError(f"{name} is too large for float16", hint="Use float32")
        return cls(splats.position, **half)
