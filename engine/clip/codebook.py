"""The codec "codebook": K-Planes whose texels are entries of codebooks, quantised and coded.

A base has the planes of a field; a fragment, the codes that change for its frames.

Source: compact volumetric video with dynamic codebooks (shared/design, method.md section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ClipError
from .clip import DAMAGED_HINT
from .compression import Compressor
from .envelope import unwrap, wrap
from .field_shape import MAX_PLANE_SIZE, FieldShape
from .fields import Fields
from .fragment import FieldCodec, Member
from .plane_field import PlaneField
from .plane_labels import CLUSTERED, KEPT, decode_classes, encode_classes
from .symbol_stream import decode_stream, encode_stream

NAME = "codebook"
BASE_MAGIC, FRAGMENT_MAGIC = b"P4DC", b"P4DY"
#: Entries that texels share, of one group, at most.
MAX_ENTRIES = 1 << 14
#: Codes have 8 bits; heads 10 (a tenth of the bytes of the planes, but every point goes through).
CODE_LEVELS, HEAD_LEVELS = 255, 1023


@dataclass(frozen=True, eq=False)
class Group:
    """Planes that share a codebook: the three space planes of a level, or its three time planes.

    step: value of one level of a code. entries: (K, C) int16, the clustered codes. kept: (M, C)
    int16, the codes of texels of their own. classes: (T,) uint8, 0 for a texel of the zero code,
    CLUSTERED or KEPT. index: (number of clustered texels,) entry of each. Texels are in the order
    of the group's planes, row by row; those of one class, too.
    """

    step: float
    entries: np.ndarray
    kept: np.ndarray
    classes: np.ndarray
    index: np.ndarray

    def codes(self) -> np.ndarray:
        """(T, C) int16 code of every texel."""
        result = np.zeros((len(self.classes), self.entries.shape[1]), dtype=np.int16)
        result[self.classes == CLUSTERED] = self.entries[self.index]
        result[self.classes == KEPT] = self.kept
        return result


@dataclass(frozen=True, eq=False)
class Base:
    """A decoded base. shape: of the planes. groups: two of each level, space then time.
    heads: (values,) float32."""

    shape: FieldShape
    groups: Sequence[Group]
    heads: np.ndarray

    def field(self, codes: Sequence[np.ndarray] | None = None, first: int = 0) -> PlaneField:
        """The field. codes: (T, C) of every group, those of the base when left out. first: step of
        the planes that is the field's first."""
        codes = codes or [group.codes() for group in self.groups]
        values = [
            own.astype(np.float32) * np.float32(group.step)
            for own, group in zip(codes, self.groups, strict=True)
        ]
        planes = self.shape.in_order(values)
        return replace(self.shape.field(planes, self.heads), first=first)


@dataclass(frozen=True, eq=False)
class Changes:
    """The dynamic codes of a fragment. first: step of the base that is its first frame.
    changed: per group (T,) bool. codes: per group (texels that change, C) int16, the new ones."""

    first: int
    changed: Sequence[np.ndarray]
    codes: Sequence[np.ndarray]


def encode_base(base: Base, shape_fields: dict[str, object]) -> Member:
    """shape_fields: what `FieldShape` reads, of the same field (`field_shape.shape_header`)."""
    compressor = Compressor()
    groups, sizes = base.groups, base.shape.group_sizes
    channels = base.shape.channels
    parts, header = [], []

    def add(symbols: np.ndarray, contexts: np.ndarray, count: int) -> int:
        fields, payload = encode_stream(symbols, contexts, count)
        header.append(fields)
        parts.append(payload)
        return len(payload)

    labels = 0
    for symbols, contexts, count in encode_classes([g.classes for g in groups], sizes):
        labels += add(symbols, contexts, count)
    index = np.concatenate([group.index for group in groups])
    labels += add(index, _of_group([len(group.index) for group in groups]), len(groups))
    centers = [_centers(np.concatenate([g.entries, g.kept]), channels) for g in groups]
    rows = [
        rows.astype(np.int64) - center
        for group, center in zip(groups, centers, strict=True)
        for rows in (group.entries, group.kept)
    ]
    lowest = min((int(r.min()) for r in rows if r.size), default=0)
    contexts = _of_group([r.size for r in rows])
    flat = np.concatenate([r.ravel() for r in rows]) - lowest
    values = add(flat, contexts, len(rows))
    head_fields, head_codes = _quantized_heads(base)
    heads = add(head_codes.ravel() + HEAD_LEVELS // 2 + 1, np.zeros(head_codes.size, int), 1)
    document = {
        **shape_fields,
        "compression": compressor.method,
        "steps": [group.step for group in groups],
        "entries": [len(group.entries) for group in groups],
        "centers": [center.tolist() for center in centers],
        "lowest": lowest,
        "head_steps": head_fields,
        "streams": header,
    }
    entries = sum(g.entries.size for g in groups) / max(1, len(flat))
    shares = {
        "codebook": round(values * entries),
        "codes": values - round(values * entries),
        "indices": labels,
        "heads": heads,
    }
    return Member(wrap(BASE_MAGIC, document, parts), shares)


def decode_base(data: bytes, where: str) -> Base:
    """What `encode_base` has written. Raises ClipError for anything else."""
    fields, payload = unwrap(data, BASE_MAGIC, NAME, where)
    shape = FieldShape(fields)
    sizes, channels = shape.group_sizes, shape.channels
    count = len(sizes)
    compression = fields.text("compression")
    steps = _steps(fields, "steps", count)
    entries = fields.integers("entries", count, 0, MAX_ENTRIES)
    streams = _Streams(fields, payload, compression)
    classes = decode_classes(sizes, streams.next)

    clustered = [int((group == CLUSTERED).sum()) for group in classes]
    kept = [int((group == KEPT).sum()) for group in classes]
    index = streams.next(sum(clustered), _of_group(clustered), count)
    index = np.split(index, np.cumsum(clustered)[:-1])
    for own, most in zip(index, entries, strict=True):
        if own.max(initial=-1) >= most:
            raise ClipError("a texel has no code", where=where, hint=DAMAGED_HINT)

    centers = fields.values.get("centers")
    if not isinstance(centers, list) or len(centers) != count:
        raise fields.fail("centers", f"a list of {count} lists")
    centers = [
        Fields({"centers": own}, where).integers("centers", channels, -(1 << 14), 1 << 14)
        for own in centers
    ]
    lowest = fields.integer("lowest", -(1 << 14), 1 << 14)
    rows = [n for pair in zip(entries, kept, strict=True) for n in pair]
    values = streams.next(sum(rows) * channels, _of_group([n * channels for n in rows]), len(rows))
    values = (values + lowest).reshape(-1, channels)
    pieces = np.split(values, np.cumsum(rows)[:-1])
    groups = []
    for g in range(count):
        own, single = (
            (p + np.array(centers[g])).astype(np.int16) for p in pieces[2 * g : 2 * g + 2]
        )
        groups.append(Group(steps[g], own, single, classes[g], index[g]))

    head_steps = _steps(fields, "head_steps", len(shape.head_shapes))
    codes = streams.next(shape.head_values, np.zeros(shape.head_values, dtype=np.int32), 1)
    streams.end()
    widths = [int(np.prod(s)) for s in shape.head_shapes]
    heads = (codes - (HEAD_LEVELS // 2 + 1)) * np.repeat(head_steps, widths)
    return Base(shape, groups, heads.astype(np.float32))


def encode_changes(base: Base, changes: Changes) -> Member:
    """A fragment: which texels have codes of their own, and how these differ from the base's."""
    header: list[dict[str, object]] = []
    parts = []
    used = [group.classes != 0 for group in base.groups]
    flags = np.concatenate([own[use] for own, use in zip(changes.changed, used, strict=True)])
    deltas = [
        new.astype(np.int64) - group.codes()[own]
        for new, group, own in zip(changes.codes, base.groups, changes.changed, strict=True)
    ]
    lowest = min((int(d.min()) for d in deltas if d.size), default=0)
    streams = [
        (flags.astype(int), _of_group([int(use.sum()) for use in used])),
        (
            np.concatenate([d.ravel() for d in deltas]) - lowest,
            _of_group([d.size for d in deltas]),
        ),
    ]
    for symbols, contexts in streams:
        fields, payload = encode_stream(symbols, contexts, len(base.groups))
        header.append(fields)
        parts.append(payload)
    document = {
        "compression": Compressor().method,
        "first": changes.first,
        "lowest": lowest,
        "streams": header,
    }
    sizes = {"dynamic indices": len(parts[0]), "dynamic codes": len(parts[1])}
    return Member(wrap(FRAGMENT_MAGIC, document, parts), sizes)


def decode_changes(data: bytes, base: object, where: str) -> PlaneField:
    """The field of a fragment: its base's, with the codes that change. Raises ClipError."""
    fields, payload = unwrap(data, FRAGMENT_MAGIC, NAME, where)
    if not isinstance(base, Base):
        raise ClipError("the fragment has no base", where=where, hint=DAMAGED_HINT)
    first = fields.integer("first", 0, MAX_PLANE_SIZE)
    lowest = fields.integer("lowest", -(1 << 14), 1 << 14)
    streams = _Streams(fields, payload, fields.text("compression"))
    used = [np.flatnonzero(group.classes) for group in base.groups]
    contexts = _of_group([len(own) for own in used])
    flags = streams.next(len(contexts), contexts, len(used))
    if flags.max(initial=0) > 1:
        raise ClipError("a flag is neither 0 nor 1", where=where, hint=DAMAGED_HINT)
    changed = [
        own[flag == 1]
        for own, flag in zip(
            used, np.split(flags, np.cumsum([len(own) for own in used])[:-1]), strict=True
        )
    ]
    channels = base.shape.channels
    rows = [len(own) for own in changed]
    deltas = streams.next(sum(rows) * channels, _of_group([n * channels for n in rows]), len(rows))
    streams.end()
    deltas = (deltas + lowest).reshape(-1, channels)
    codes = [group.codes() for group in base.groups]
    for own, texels, delta in zip(
        codes, changed, np.split(deltas, np.cumsum(rows)[:-1]), strict=True
    ):
        own[texels] += delta.astype(np.int16)
    return base.field(codes, first)


CODEC = FieldCodec(decode_changes, decode_base)


class _Streams:
    """The parts of a payload, one after the other, as the header announces them."""

    def __init__(self, fields: Fields, payload: memoryview, compression: str) -> None:
        self._fields = iter(fields.mappings("streams"))
        self._parent, self._payload, self._compression = fields, payload, compression

    def next(self, count: int, contexts: np.ndarray, context_count: int) -> np.ndarray:
        fields = next(self._fields, None)
        if fields is None:
            raise self._parent.fail("streams", "a list of all streams")
        nbytes = fields.integer("bytes", 0, len(self._payload))
        part, self._payload = self._payload[:nbytes], self._payload[nbytes:]
        return decode_stream(fields, part, count, contexts, context_count, self._compression)

    def end(self) -> None:
        if len(self._payload) or next(self._fields, None) is not None:
            raise ClipError("bytes are left over", where=self._parent.where, hint=DAMAGED_HINT)


def quantized_heads(layers: Sequence[np.ndarray]) -> tuple[list[float], np.ndarray]:
    """Steps and codes of the heads' tensors, one after the other."""
    steps, codes = [], []
    for layer in layers:
        step = max(2 * float(np.abs(layer).max()) / (HEAD_LEVELS - 1), 1e-12)
        steps.append(step)
        codes.append(np.rint(layer.ravel() / step).astype(np.int64))
    return steps, np.concatenate(codes)


def rounded_heads(layers: Sequence[np.ndarray]) -> np.ndarray:
    """What is left of the heads' tensors, one after the other, (values,) float32."""
    steps, codes = quantized_heads(layers)
    return (codes * np.repeat(steps, [layer.size for layer in layers])).astype(np.float32)


def _quantized_heads(base: Base) -> tuple[list[float], np.ndarray]:
    widths = [int(np.prod(shape)) for shape in base.shape.head_shapes]
    return quantized_heads(np.split(base.heads, np.cumsum(widths)[:-1]))


def _centers(codes: np.ndarray, channels: int) -> np.ndarray:
    """(C,) median code of every channel: what is coded are differences from it."""
    if len(codes) == 0:
        return np.zeros(channels, dtype=np.int64)
    return np.median(codes, axis=0).astype(np.int64)


def _of_group(sizes: Sequence[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _steps(fields: Fields, key: str, count: int) -> list[float]:
    steps = fields.array(key, (count,))
    if not ((steps > 0) & (steps < 1e12)).all():
        raise fields.fail(key, "steps above 0")
    return steps.tolist()
