"""The codecs of clips by name: how a frame becomes a chunk, and a chunk a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..render.splats import PackedSplats, Splats
from . import predictive
from .chunk import Chunk, encode_chunk
from .decode import decode_packed
from .predictive import STATIC_STEPS, Steps, decode_predictive, encode_predictive
from .quantize import Precision


@dataclass(frozen=True)
class Baked:
    """Fine steps, byte planes, zstd: as near to the model as 8-bit pixels come."""

    precision: Precision = field(default_factory=Precision)
    name = "baked"

    def encode(self, splats: Splats, where: str, *, static: bool = False) -> Chunk:
        return encode_chunk(splats, self.precision, where)


@dataclass(frozen=True)
class Predictive:
    """Coarse steps, octree, predicted codes, range coding: a third to a quarter of the bytes."""

    #: Widths of the positions' grids, world units; None: it follows from every frame's radii.
    cell: float | None = None
    static_cell: float | None = None
    steps: Steps = field(default_factory=Steps)
    static_steps: Steps = STATIC_STEPS
    name = predictive.CODEC

    def encode(self, splats: Splats, where: str, *, static: bool = False) -> Chunk:
        steps, cell = (self.static_steps, self.static_cell) if static else (self.steps, self.cell)
        return encode_predictive(splats, steps, where, cell=cell)


#: What writes the chunks of a clip.
Encoder = Baked | Predictive

#: codec -> (data, points, sh_degree, where) -> the points. Raises ClipError.
DECODERS: Mapping[str, Callable[[bytes, int, int, str], PackedSplats]] = {
    Baked.name: decode_packed,
    Predictive.name: decode_predictive,
}
