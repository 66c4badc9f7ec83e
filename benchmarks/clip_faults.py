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
from pathlib import Path

import numpy as np
from measure import write_result
from scenes import body, with_harmonics

from peel4d.engine.clip.codecs import DECODERS, Baked, Encoder, Predictive
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--flips", type=int, default=10_000, help="of each kind (default: 10,000)")
    parser.add_argument("--points", type=int, default=800, help="of a frame (default: 800)")
    options = parser.parse_args()
    rows = []
    for encoder in (Baked(), Predictive()):
        with tempfile.TemporaryDirectory() as folder:
            rows += faults(encoder, Path(folder), options.flips, options.points)
    for row in rows:
        print(row, flush=True)
    write_result(options.out, rows, flips=options.flips, points=options.points)
    return 0


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

    chunk = encoder.encode(frames[0], "clip.p4d, frame 0")

    def decoder() -> str:
        try:
            decode = DECODERS[encoder.name]
            decode(flipped(chunk.data), chunk.points, chunk.sh_degree, "clip.p4d, frame 0").unpack()
        except ClipError as error:
            return "refused" if "clip.p4d, frame 0" in str(error) else "unnamed"
        return "decoded"

    kinds = {
        "file flipped": lambda: whole(flipped),
        "file cut": lambda: whole(lambda d: d[: random.integers(len(d))]),
        "chunk flipped": decoder,
    }
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
