"""The codecs of clips by name: how a frame becomes a chunk, and a chunk a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import ClipError
from ..render.splats import PackedSplats, Splats
from . import codebook, kplanes, predictive
from .chunk import Chunk, encode_chunk
from .decode import decode_packed
from .field_points import encode_field_points
from .fragment import EncodedField, FieldCodec, FieldFragment
from .fragment_cache import FragmentCache
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

    shared: the fields, encoded; frames are coded against what they decode to.
    """

    shared: EncodedField
    steps: Steps = field(default_factory=Steps)
    static_steps: Steps = STATIC_STEPS

    @property
    def name(self) -> str:
        return self.shared.codec

    def encode(self, splats: Splats, where: str, *, static: bool = False, frame: int = 0) -> Chunk:
        if static:
            return encode_predictive(splats, self.static_steps, where)
        fields, first = self._fragments, 0
        for index, fragment in enumerate(self.shared.fragments):
            if frame < first + fragment.frames:
                decoded = fields.get(index)
                return encode_field_points(splats, decoded, frame - first, self.steps, where)
            first += fragment.frames
        raise ClipError(f"no field has this frame, only {first} before it", where=where)

    @cached_property
    def _fragments(self) -> FragmentCache[FieldFragment]:
        codec = FIELD_CODECS[self.name]
        members = self.shared

        def decode(index: int) -> FieldFragment:
            fragment = members.fragments[index]
            base = None
            if fragment.base is not None and codec.base is not None:
                base = codec.base(members.bases[fragment.base].data, f"base {fragment.base}")
            return codec.fragment(fragment.member.data, base, f"fragment {index}")

        return FragmentCache(decode)

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
}

#: codec -> (data, points, sh_degree, where) -> the points. Raises ClipError.
DECODERS: Mapping[str, Callable[[bytes, int, int, str], PackedSplats]] = {
    Baked.name: decode_packed,
    Predictive.name: decode_predictive,
}
