"""Changes to the look of a clip that need no new clip: brightness, colour, number of points, crop.

Rules, per point:

    colour    every spherical-harmonics coefficient s_b (3,) becomes M s_b with
              M = 2^(exposure / 2.2) (saturation I + (1 - saturation) 1 w^T), w the luma weights of
              Rec. 709. The colour before its clipping to [0, 1] is linear in the coefficients, so
              every viewing direction sees M times that colour. The clip's colours are
              display-referred: 2^(1 / 2.2) doubles the light that a display of gamma 2.2 shows.
              Nothing is decoded, so white clips, as it does in an 8-bit picture.
    density   point i stays where frac(i (sqrt(5) - 1) / 2) < share: multiples of the golden ratio
              spread evenly (Knuth, The Art of Computer Programming 3, 6.4), and clips store
              neighbours in space side by side, so what stays is even in space, too. It depends on i
              only: every frame keeps the same places, and a larger share all of a smaller one. The
              radius grows by 1 / sqrt(share), which keeps the area covered.
    crop      a point stays where crop (position, 1) lies in [-1, 1]^3, borders included. The
              others are removed, they do not just become invisible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..errors import CoreError
from .splats import PackedSplats, Quantized, Splats

#: Luma of a display-referred Rec. 709 (sRGB) colour.
LUMA = np.array([0.2126, 0.7152, 0.0722])
#: Exponent of the displays that exposure thinks of.
DISPLAY_GAMMA = 2.2
#: 2^32 times the golden ratio's fraction, odd.
_GOLDEN = np.uint32(2654435769)
#: Points whose colours are mixed at once: their floats stay in a core's cache.
_BLOCK = 4096
#: Codes of mixed colours have 16 bits.
_LAST_CODE = 65535


@dataclass(frozen=True, eq=False)
class Look:
    """How a clip is shown; the default shows it as it is. Compares and hashes by its values.

    exposure: stops of light, 0 = as captured. saturation: 0 = grey, 1 = as captured.
    point_density: share of the points that is shown, in (0, 1].
    crop: (4, 4) affine, clip -> the cube [-1, 1]^3 that is kept; None = everything is.
    Raises CoreError for values out of range.
    """

    exposure: float = 0.0
    saturation: float = 1.0
    point_density: float = 1.0
    crop: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.exposure) and abs(self.exposure) <= 64):
            raise CoreError(f"an exposure of {self.exposure} stops", hint="Use -10 to 10")
        if not (math.isfinite(self.saturation) and 0 <= self.saturation <= 1000):
            raise CoreError(f"a saturation of {self.saturation}", hint="Use 0 to 10")
        if not 0 < self.point_density <= 1:
            raise CoreError(
                f"a point density of {self.point_density}", hint="Use more than 0, up to 1"
            )
        if self.crop is not None:
            crop = np.array(self.crop, dtype=np.float64)
            if crop.shape != (4, 4) or not np.isfinite(crop).all():
                raise CoreError("the crop is not a finite 4 x 4 matrix")
            crop.setflags(write=False)
            object.__setattr__(self, "crop", crop)

    def _values(self) -> tuple[object, ...]:
        crop = None if self.crop is None else self.crop.tobytes()
        return self.exposure, self.saturation, self.point_density, crop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Look) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    @property
    def is_identity(self) -> bool:
        """Whether it shows every clip as it is."""
        return self == _AS_IT_IS

    @property
    def color_matrix(self) -> np.ndarray:
        """M, (3, 3) float64."""
        gain = 2.0 ** (self.exposure / DISPLAY_GAMMA)
        grey = np.broadcast_to(LUMA, (3, 3))
        return gain * (self.saturation * np.eye(3) + (1.0 - self.saturation) * grey)


_AS_IT_IS = Look()


def apply_look(part: Splats | PackedSplats, look: Look) -> Splats | PackedSplats:
    """The points of `part` as `look` shows them, in their order; of the same type as `part`.

    What is not changed is shared with `part`, which is returned itself when nothing is. Packed
    points stay packed.
    """
    if look.is_identity or not len(part):
        return part
    keep = _kept(part, look)
    if keep is not None:
        part = _selected(part, keep)
    changed = {}
    if look.point_density < 1:
        changed["radius"] = _scaled(part.radius, 1.0 / math.sqrt(look.point_density))
    if look.saturation != 1:
        changed["sh"] = _mixed(part.sh, look.color_matrix)
    elif look.exposure != 0:
        changed["sh"] = _scaled(part.sh, 2.0 ** (look.exposure / DISPLAY_GAMMA))
    return replace(part, **changed) if changed else part


def _kept(part: Splats | PackedSplats, look: Look) -> np.ndarray | None:
    """Indices of the points that stay, ascending; None: all of them."""
    count = len(part)
    share = _share(count, look.point_density) if look.point_density < 1 else None
    if look.crop is None:
        return share
    position = part.position
    if share is not None:
        position = _taken(position, share)
    inside = _inside(position, look.crop)
    if inside.all():
        return share
    inside = np.flatnonzero(inside)
    return inside if share is None else share[inside]


@lru_cache(maxsize=4)
def _share(count: int, share: float) -> np.ndarray:
    """Indices below `count` that a share keeps. Cached: frames have about the same count."""
    hashed = np.arange(count, dtype=np.uint32) * _GOLDEN
    kept = np.flatnonzero(hashed < np.uint32(min(round(share * 2.0**32), 2**32 - 1)))
    kept.setflags(write=False)
    return kept


def _inside(position: np.ndarray | Quantized, crop: np.ndarray) -> np.ndarray:
    """(N,) bool: which positions the crop keeps."""
    linear, shift = crop[:3, :3], crop[:3, 3]
    if isinstance(position, Quantized):
        # The codes themselves are transformed: the decoding is a scale and a shift, too.
        shift = shift + linear @ position.low
        linear = linear * position.step
        position = position.codes
    inside = np.empty(len(position), dtype=bool)
    for start in range(0, len(position), _BLOCK):
        block = slice(start, start + _BLOCK)
        axes = position[block].T.astype(np.float64)
        inside[block] = (np.abs(linear @ axes + shift[:, None]) <= 1.0).all(axis=0)
    return inside


def _selected(part: Splats | PackedSplats, keep: np.ndarray) -> Splats | PackedSplats:
    names = ("position", "radius", "density", "sh")
    return type(part)(*(_taken(getattr(part, name), keep) for name in names))


def _taken(attribute: np.ndarray | Quantized, keep: np.ndarray) -> np.ndarray | Quantized:
    """Rows `keep`; codes that lie component by component stay so."""
    if not isinstance(attribute, Quantized):
        return np.take(attribute, keep, axis=0)
    return replace(attribute, codes=np.take(attribute.codes.T, keep, axis=1).T)


def _scaled(attribute: np.ndarray | Quantized, factor: float) -> np.ndarray | Quantized:
    """Values times factor > 0; codes stay and mean other values."""
    if not isinstance(attribute, Quantized):
        return attribute.astype(np.float32) * np.float32(factor)
    names = ("table",) if attribute.table is not None else ("low", "high", "step")
    return replace(attribute, **{name: getattr(attribute, name) * factor for name in names})


def _mixed(sh: np.ndarray | Quantized, matrix: np.ndarray) -> np.ndarray | Quantized:
    """Every coefficient times the matrix: (N, B, 3) float32, or codes for codes."""
    if isinstance(sh, Quantized):
        return _mixed_codes(sh, matrix)
    count, basis, _ = sh.shape
    flat = sh.reshape(count * basis, 3)
    return (flat.astype(np.float32) @ matrix.T.astype(np.float32)).reshape(count, basis, 3)


def _mixed_codes(sh: Quantized, matrix: np.ndarray) -> Quantized:
    """The same from codes (N, 3 B) to codes of 16 bits, which lie component by component.

    Their range holds whatever the matrix can make of the old range, so that they are off by half a
    step at most: that range / 131,070.
    """
    low, high, step = (values.reshape(-1, 3) for values in (sh.low, sh.high, sh.step))  # (B, 3)
    ends = matrix * low[:, None], matrix * high[:, None]  # (B, 3 to, 3 from)
    new_low, new_high = np.minimum(*ends).sum(axis=2), np.maximum(*ends).sum(axis=2)
    new_step = (new_high - new_low) / _LAST_CODE
    per_code = np.divide(1.0, new_step, out=np.zeros_like(new_step), where=new_step > 0)
    # matrix (code step + low) = (matrix step) code + matrix low, in units of the new codes.
    scale = (per_code[:, :, None] * matrix * step[:, None]).astype(np.float32)
    shift = (per_code * (low @ matrix.T - new_low) + 0.5).astype(np.float32)[:, :, None]
    codes = sh.codes.T.reshape(len(low), 3, len(sh))
    # Codes beyond `high` mean `high`.
    last = np.divide(high - low, step, out=np.zeros_like(step), where=step > 0)[:, :, None]
    clipped = bool((last < np.iinfo(codes.dtype).max - 1e-3).any())
    last = last.astype(np.float32)
    mixed = np.empty(codes.shape, dtype=np.uint16)
    for start in range(0, codes.shape[2], _BLOCK):
        block = slice(start, start + _BLOCK)
        values = codes[:, :, block].astype(np.float32)
        if clipped:
            np.minimum(values, last, out=values)
        values = np.matmul(scale, values)
        values += shift
        mixed[:, :, block] = values
    ramp = {"low": new_low.ravel(), "high": new_high.ravel(), "step": new_step.ravel()}
    return Quantized(mixed.reshape(3 * len(low), len(sh)).T, **ramp)
