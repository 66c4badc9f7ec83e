"""The codecs of clips by name: how a frame becomes a chunk, and a chunk a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import ClipError
from ..render.splats import PackedSplats, Splats
from . import codebook, kplanes, predictive, residual
from .chunk import Chunk, encode_chunk
from .clip import fragment_of
from .decode import decode_packed
from .field_points import encode_field_points
from .fragment import EncodedField, FieldCodec
from .fragment_cache import DecodedFragments
from .predictive import STATIC_STEPS, Steps, decode_predictive, encode_predictive
from .quantize import Precision


@dataclass(frozen=True)
class Baked:
    """Fine steps, byte planes, zstd: as near to the model as 8-bit pixels come."""

    precision: Precision = field(default_factory=Precision)
    name = "baked"
    #: What frames share: nothing.
    shared = None

    def encode(self, splats: Splats, where: str, *, static: bool = False, frame: int = 0) -> Chunk:
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
    #: What frames share: nothing.
    shared = None

    def encode(self, splats: Splats, where: str, *, static: bool = False, frame: int = 0) -> Chunk:
        steps, cell = (self.static_steps, self.static_cell) if static else (self.steps, self.cell)
        return encode_predictive(splats, steps, where, cell=cell)


@dataclass(frozen=True)
class FieldPoints:
    """Positions and colours of the points, and fields that many frames share for the rest.

    shared: the fields, encoded; frames are coded against what they decode to. frame_steps: of every
    frame, where they were trained with lattices of their own. own_radius: points have radii of
    their own, as factors of the field's.
    """

    shared: EncodedField
    steps: Steps = field(default_factory=Steps)
    static_steps: Steps = STATIC_STEPS
    frame_steps: tuple[Steps, ...] | None = None
    own_radius: bool = False

    @property
    def name(self) -> str:
        return self.shared.codec

    def encode(self, splats: Splats, where: str, *, static: bool = False, frame: int = 0) -> Chunk:
        if static:
            return encode_predictive(splats, self.static_steps, where)
        known = self.shared.frames
        if frame >= known:
            raise ClipError(f"no field has this frame, only {known} before it", where=where)
        index, step = fragment_of(self.shared.table, frame)
        steps = self.frame_steps[frame] if self.frame_steps else self.steps
        field = self._decoded.get(index)
        return encode_field_points(splats, field, step, steps, where, own_radius=self.own_radius)

    @cached_property
    def _decoded(self) -> DecodedFragments:
        fragments, bases = self.shared.fragments, self.shared.bases
        return DecodedFragments(
            FIELD_CODECS[self.name],
            lambda index: (fragments[index].member.data, f"fragment {index}"),
            lambda number: (bases[number].data, f"base {number}"),
            lambda index: fragments[index].base,
        )

    def scaled(self, factor: float) -> FieldPoints:
        """The steps of positions, colours and static points longer by a factor."""
        return replace(
            self, steps=self.steps.scaled(factor), static_steps=self.static_steps.scaled(factor)
        )


#: What writes the chunks of a clip.
Encoder = Baked | Predictive | FieldPoints

#: codec -> its fragments. The frames of these clips are read by `decode_field_points`, their
#: static points by `decode_predictive`.
FIELD_CODECS: Mapping[str, FieldCodec] = {
    kplanes.NAME: kplanes.CODEC,
    codebook.NAME: codebook.CODEC,
    residual.NAME: residual.CODEC,
}

#: codec -> (data, points, sh_degree, where) -> the points. Raises ClipError.
DECODERS: Mapping[str, Callable[[bytes, int, int, str], PackedSplats]] = {
    Baked.name: decode_packed,
    Predictive.name: decode_predictive,
}
