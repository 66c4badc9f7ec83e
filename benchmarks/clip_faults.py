# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged clips of every codec: an error that names file and member, or right frames.

    python benchmarks/clip_faults.py OUT.json [--flips 10000] [--points 800]

Three kinds of damage: bytes of the file are flipped (checksums find it), the file is cut off at
random, and bytes of a chunk are flipped behind the checksums' back, which only decoders see; there
a frame may differ, but nothing may crash, hang or take memory. The tests do the same with fewer.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from measure import write_result
from scenes import body, with_harmonics

from peel4d.engine.clip.codebook import (
    Base,
    Changes,
    Group,
    decode_base,
    encode_base,
    encode_changes,
)
from peel4d.engine.clip.codecs import (
    DECODERS,
    FIELD_CODECS,
    Baked,
    Encoder,
    FieldPoints,
    Predictive,
)
from peel4d.engine.clip.dictionary import make_layout
from peel4d.engine.clip.field_points import decode_field_points
from peel4d.engine.clip.field_shape import FieldShape, shape_header
from peel4d.engine.clip.fields import Fields
from peel4d.engine.clip.fragment import EncodedField, EncodedFragment
from peel4d.engine.clip.kplanes import encode_kplanes
from peel4d.engine.clip.plane_field import PLANE_PAIRS, PlaneField
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.residual import encode_residual
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError

BOX = np.array([[-1.0, -1.0, 0.0], [1.0, 1.0, 2.0]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--flips", type=int, default=10_000, help="of each kind (default: 10,000)")
    parser.add_argument("--points", type=int, default=800, help="of a frame (default: 800)")
    options = parser.parse_args()
    rows = []
    for encoder in (Baked(), Predictive(), kplanes(), codebooks(), residuals()):
        with tempfile.TemporaryDirectory() as folder:
            rows += faults(encoder, Path(folder), options.flips, options.points)
    for row in rows:
        print(row, flush=True)
    write_result(options.out, rows, flips=options.flips, points=options.points)
    return 0


def plane_field(random: np.random.Generator) -> PlaneField:
    size = {0: 9, 1: 8, 2: 17, 3: 3}
    planes = [
        random.normal(0, 1, (size[axes[1]], size[axes[0]], 4)).astype(np.float32)
        for pair in PLANE_PAIRS
        for axes in pair
    ]
    layers = tuple(random.normal(0, 0.3, shape) for shape in ((8, 4), 8, (14, 8), 14))
    return PlaneField(BOX, 0.02, [planes], (-1.0, 1.0), layers)


def kplanes() -> FieldPoints:
    """The encoder of three frames with one field, as it is."""
    member = encode_kplanes(plane_field(np.random.default_rng(2)))
    return FieldPoints(EncodedField("kplanes", [EncodedFragment(member, 3)]))


def residuals() -> FieldPoints:
    """The encoder of three frames in one fragment of the codec "residual"."""
    random = np.random.default_rng(3)
    layout = make_layout(BOX, 0.05, 1, (-1.0, 1.5))
    network = [np.rint(random.normal(0, 20, shape)) for shape in layout.network_shapes]
    frames = []
    for number in range(3):
        frames.append([])
        for grid in (layout.coefficient, *layout.basis):
            values = np.rint(random.laplace(0, 1.5, (grid.corners, grid.channels))).clip(-31, 31)
            values[random.random(grid.corners) < (0.3 if number == 0 else 0.9)] = 0
            frames[-1].append(values.astype(np.int16))
    member = encode_residual(layout, [weights.astype(np.int8) for weights in network], frames)
    return FieldPoints(EncodedField("residual", [EncodedFragment(member, 3)]))


def codebooks() -> FieldPoints:
    """The encoder of three frames in two fragments of the codec "codebook"."""
    random = np.random.default_rng(1)
    header = shape_header(plane_field(random))
    shape = FieldShape(Fields(header, "made"))
    groups = []
    for sizes in shape.group_sizes:
        classes = random.integers(0, 3, sum(h * w for h, w in sizes)).astype(np.uint8)
        codes = random.integers(-9, 10, (6 + int((classes == 2).sum()), 4)).astype(np.int16)
        index = random.integers(0, 6, int((classes == 1).sum()))
        groups.append(Group(0.1, codes[:6], codes[6:], classes, index))
    heads = random.normal(0, 0.3, shape.head_values).astype(np.float32)
    member = encode_base(Base(shape, groups, heads), header)
    base = decode_base(member.data, "made")
    fragments = []
    for first, frames in ((0, 2), (2, 1)):
        changed = [(g.classes != 0) & (random.random(len(g.classes)) < 0.2) for g in base.groups]
        codes = [random.integers(-9, 10, (c.sum(), 4)).astype(np.int16) for c in changed]
        changes = encode_changes(base, Changes(first, changed, codes))
        fragments.append(EncodedFragment(changes, frames, 0))
    return FieldPoints(EncodedField("codebook", fragments, [member]))


def faults(encoder: Encoder, folder: Path, flips: int, points: int) -> list[dict]:
    path, broken = folder / "clip.p4d", folder / "broken.p4d"
    frames = [with_harmonics(body(points + index).splats, 1) for index in range(3)]
    static = body(points // 2).splats
    write_clip(path, frames, fps=30, static=static, encoder=encoder)
    data, random = path.read_bytes(), np.random.default_rng(0)
    with ClipReader(path) as reader:
        truth = [reader.frame(index) for index in range(3)]

    def read_broken() -> str:
        try:
            with ClipReader(broken) as reader:
                for index in range(reader.info.frame_count):
                    frame = reader.frame(index)
                    same = all(
                        np.array_equal(getattr(frame, name), getattr(truth[index], name))
                        for name in ("position", "radius", "density", "sh")
                    )
                    if not same:
                        return "wrong"
        except ClipError as error:
            return "refused" if "broken.p4d" in str(error) else "unnamed"
        return "right"

    def flipped(original: bytes) -> bytes:
        changed = bytearray(original)
        for place in random.integers(0, len(original), random.integers(1, 4)):
            changed[place] ^= 1 << random.integers(8)
        return bytes(changed)

    def whole(change) -> str:
        broken.write_bytes(change(data))
        return read_broken()

    where = "clip.p4d, frame 0"
    chunk = encoder.encode(frames[0], where)
    shape = chunk.points, chunk.sh_degree, where

    def decoder(decode, original: bytes) -> str:
        try:
            decode(flipped(original))
        except ClipError as error:
            return "refused" if where in str(error) else "unnamed"
        return "decoded"

    kinds = {
        "file flipped": lambda: whole(flipped),
        "file cut": lambda: whole(lambda d: d[: random.integers(len(d))]),
    }
    if encoder.shared is None:
        decode = DECODERS[encoder.name]
        kinds["chunk flipped"] = lambda: decoder(lambda d: decode(d, *shape).unpack(), chunk.data)
    else:
        codec, bases = FIELD_CODECS[encoder.name], encoder.shared.bases
        fragment = encoder.shared.fragments[0].member
        base = codec.base(bases[0].data, where) if bases else None
        field = codec.fragment(fragment.data, base, where)
        position = frames[0].position
        parts = {
            "chunk flipped": (lambda d: decode_field_points(d, field, 0, *shape), chunk.data),
            "fragment flipped": (
                lambda d: codec.fragment(d, base, where).evaluate(0, position),
                fragment.data,
            ),
        }
        if bases:
            parts["base flipped"] = (
                lambda d: codec.base(d, where).field().evaluate(0, position),
                bases[0].data,
            )
        kinds |= {kind: partial(decoder, *part) for kind, part in parts.items()}
    rows = []
    for kind, once in kinds.items():
        counts: dict[str, int] = {}
        slowest = 0.0
        for _ in range(flips):
            begun = time.perf_counter()
            outcome = once()
            slowest = max(slowest, time.perf_counter() - begun)
            counts[outcome] = counts.get(outcome, 0) + 1
        if counts.get("wrong") or counts.get("unnamed"):
            sys.exit(f"{encoder.name}, {kind}: {counts}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        row = {"codec": encoder.name, "damage": kind, **counts}
        rows.append({**row, "slowest_ms": round(1e3 * slowest, 1), "peak_mib": peak})
    return rows


if __name__ == "__main__":
    sys.exit(main())
