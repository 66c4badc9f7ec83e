# SPDX-License-Identifier: GPL-3.0-or-later
"""Rate and distortion of the codec "residual", of what it is made of, and of what it replaces.

    python benchmarks/residual.py DIR OUT.json [--frames 10:15]

DIR is a finished reconstruction of explicit points. Every row is one rate point: bytes per frame of
all that the subject takes (frames and fragments with positions, colours and networks; the static
background and the clip's head are the same for all and left out), and the PSNR of the held-out
views' full pictures over all frames, from decoded points. Codecs:

residual: the product's presets, through its own chunks. residual, fields apart: every frame has a
field of its own (no C_t and R_t). residual, rate apart: trained without quantisation and rate loss,
quantised afterwards. predictive: `peel4d pack`. rerf: grids coded in the way of ReRF (`rerf.py`),
over several qualities and lattices, with the points that `peel4d pack` keeps; rerf, no own radii:
the same with radii from the field alone; rerf, same points: with the points of "residual", which
are merged where they share a cell, and their lattices: only field, coding and training differ.
zstd: fields apart, of float16, and byte planes of the points' codes, all through zstd.
BD-rate and BD-PSNR are taken against the best points of a curve, those that no other point of it
beats in both rate and PSNR.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import write_result
from rerf import GridFragment, GridSequence, compress, train_grids

from peel4d.engine.clip import morton, planes
from peel4d.engine.clip.compression import Compressor
from peel4d.engine.clip.field_points import decode_field_points, encode_field_points
from peel4d.engine.clip.predictive import Steps, decode_predictive, encode_predictive
from peel4d.engine.clip.residual import decode_residual
from peel4d.engine.render.splats import Splats
from peel4d.engine.train.evaluate import held_out_pictures
from peel4d.engine.train.metrics import psnr
from peel4d.engine.train.plan import Folder, load_plan, select_frames
from peel4d.engine.train.rate_distortion import bd_psnr, bd_rate
from peel4d.engine.train.residual import (
    SourceFrame,
    TrainedFragment,
    train_fragment,
)
from peel4d.engine.train.residual_clip import encoder_of, source_footage, source_frame
from peel4d.engine.train.residual_settings import PRESETS, ResidualSettings
from peel4d.engine.train.run import Run

#: What a member takes in the archive beside its data.
ENTRY = 130
COARSENESS = (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
#: Quality of ReRF's transform, and steps of positions (median radii), colours and radii.
RERF = (
    (1 / 64, 1 / 6, 1 / 40, 0.15),
    (1 / 32, 1 / 4, 1 / 28, 0.2),
    (1 / 16, 1 / 4, 1 / 28, 0.2),
    (1 / 16, 1 / 2.5, 1 / 20, 0.25),
    (1 / 8, 1 / 2.5, 1 / 20, 0.25),
    (1 / 8, 1 / 2, 1 / 14, 0.35),
    (1 / 4, 1 / 2, 1 / 14, 0.35),
    (1 / 4, 1 / 1.5, 1 / 10, 0.5),
    (1 / 2, 1 / 1.5, 1 / 10, 0.5),
)
#: Qualities for the points of each preset.
SAME_POINTS = {
    "standard": (1 / 16, 1 / 8, 1 / 4),
    "small": (1 / 8, 1 / 4, 1 / 2),
    "smallest": (1 / 8, 1 / 4, 1 / 2),
}


#: What each part measures.
CODECS_OF = {
    "predictive": ("predictive",),
    "rerf": ("rerf", "rerf, no own radii"),
    "residual": (
        "residual",
        "residual, fields apart",
        "residual, rate apart",
        "rerf, same points",
        "zstd",
    ),
}


class Bench:
    """An open reconstruction, and what has been measured so far."""

    def __init__(self, run: Run, output: Path, presets: Sequence[str], *, ablations: bool) -> None:
        self.run, self.output, self.presets, self.ablations = run, output, presets, ablations
        self.rows: list[dict] = []

    def keep(self, part: str) -> None:
        """Take over what an earlier run has measured of the other parts and presets."""
        if self.output.is_file():
            rows = json.loads(self.output.read_text())["rows"]
            self.rows = [
                row
                for row in rows
                if row["codec"] not in CODECS_OF[part]
                or (part == "residual" and row.get("preset", row["point"]) not in self.presets)
            ]

    def score(self, splats: Splats, frame: int) -> float:
        shown = held_out_pictures(self.run, splats, frame, "full")
        return float(np.mean([psnr(*picture[1:]) for picture in shown]))

    def add(self, codec: str, point: object, sizes: Sequence[float], scores: Sequence[float], **of):
        row = {
            "codec": codec,
            "point": point,
            "frames": len(scores),
            "bytes_per_frame": round(float(np.sum(sizes)) / len(scores)),
            "psnr": round(float(np.mean(scores)), 4),
            **of,
        }
        self.rows.append(row)
        print(row, flush=True)
        write_result(self.output, self.rows, gains=self.gains())

    def curve(self, codec: str) -> list[tuple[float, float]]:
        points = sorted(
            (row["bytes_per_frame"], row["psnr"]) for row in self.rows if row["codec"] == codec
        )
        best: list[tuple[float, float]] = []
        for rate, score in points:
            if not best or score > best[-1][1]:
                best.append((rate, score))
        return best

    def gains(self) -> dict:
        gains = {}
        new = self.curve("residual")
        for codec in sorted({row["codec"] for row in self.rows} - {"residual"}):
            old = self.curve(codec)
            if min(len(new), len(old)) >= 2:
                gains[f"residual against {codec}"] = {
                    "bd_rate_percent": bd_rate(old, new),
                    "bd_psnr_db": bd_psnr(old, new),
                }
        return gains

    def fragments(self, codec: str, point: str, fragments: Sequence[TrainedFragment], **of):
        """Score trained fragments as a player decodes them."""
        encoder = encoder_of(fragments)
        sizes = {"fragments": 0.0, "position": 0, "radius": 0, "density": 0, "sh": 0}
        total, scores, decoding, index = 0, [], [], 0
        for number, fragment in enumerate(fragments):
            member = encoder.shared.fragments[number].member
            total += len(member.data) + ENTRY
            sizes["fragments"] += len(member.data)
            decoded = decode_residual(member.data, None, "fragment")
            for step, frame in enumerate(fragment.frames):
                chunk = encoder.encode(fragment.splats(step), "frame", frame=index)
                index += 1
                total += len(chunk.data) + ENTRY
                for name, nbytes in chunk.nbytes.items():
                    sizes[name] += nbytes
                begun = time.perf_counter()
                shown = decode_field_points(
                    chunk.data, decoded, step, chunk.points, chunk.sh_degree, "frame"
                ).unpack()
                decoding.append(time.perf_counter() - begun)
                scores.append(self.score(shown, frame.source.frame))
        self.add(
            codec,
            point,
            [total],
            scores,
            parts={name: round(nbytes / len(scores)) for name, nbytes in sizes.items()},
            decode_ms=round(1e3 * float(np.median(decoding)), 2),
            **of,
        )


def measure_residual(bench: Bench, labels: Sequence[int]) -> None:
    run = bench.run
    common = run.spacing, run.color, run.images, run.plan.settings
    for name in bench.presets:
        settings = PRESETS[name]
        begun = time.process_time()
        sources = [source_frame(run, label, settings) for label in labels]
        whole = train_fragment(sources, *common, settings)
        seconds = round((time.process_time() - begun) / len(labels), 1)
        bench.fragments("residual", name, [whole], train_seconds_per_frame=seconds)
        if name == "high" or not bench.ablations:
            continue  # they are taken where the codec is meant to be used
        apart = [train_fragment([source], *common, settings) for source in sources]
        bench.fragments("residual, fields apart", name, apart)
        _naive(bench, name, apart)
        late = train_fragment(sources, *common, replace(settings, joint=False))
        bench.fragments("residual, rate apart", name, [late])
        late = replace(settings, joint=False)
        sequence = train_grids(whole.layout, sources, run.color, run.images, common[3], late)
        for quality in SAME_POINTS[name]:
            _rerf(bench, "rerf, same points", sequence, quality, settings, preset=name)


def measure_predictive(bench: Bench, labels: Sequence[int]) -> None:
    sources = [_unrounded(bench.run, label) for label in labels]
    for coarseness in COARSENESS:
        sizes, scores = [], []
        for source in sources:
            chunk = encode_predictive(source.splats, Steps().scaled(coarseness), "frame")
            shown = decode_predictive(chunk.data, chunk.points, chunk.sh_degree, "frame").unpack()
            sizes.append(len(chunk.data) + ENTRY)
            scores.append(bench.score(shown, source.frame))
        bench.add("predictive", coarseness, sizes, scores)


def measure_rerf(bench: Bench, labels: Sequence[int]) -> None:
    run = bench.run
    sources = [_unrounded(run, label) for label in labels]
    late = replace(PRESETS["standard"], joint=False)
    # The layout says how large a field is; the frames that it is made for are the same.
    untrained = replace(late, first_steps=0, fit_steps=0)
    common = run.color, run.images, run.plan.settings
    layout = train_fragment(sources[:1], run.spacing, *common, untrained).layout
    sequence = train_grids(layout, sources, *common, late)
    print("rerf:", sequence.grid, "for", layout.values, "values", flush=True)
    for quality, position, color, radius in RERF:
        settings = replace(late, position=position, color=color, radius=radius)
        for own_radius in (True, False):
            codec = "rerf" if own_radius else "rerf, no own radii"
            _rerf(bench, codec, sequence, quality, settings, own_radius=own_radius)


def _rerf(
    bench: Bench,
    codec: str,
    sequence: GridSequence,
    quality: float,
    settings: ResidualSettings,
    *,
    own_radius: bool = True,
    **of: object,
) -> None:
    """Code a trained sequence and score what is decoded."""
    decoded, sizes = compress(sequence, quality)
    scores, fields = [], sum(sizes)
    for number, frame in enumerate(sequence.frames):
        trained = GridFragment(sequence.layout, sequence.grid, sequence.network, frame.grid)
        at = frame.source.splats.position
        radii, density, sh = trained.evaluate(0, at)
        sh[:, 0] += frame.color
        wanted = Splats(at, radii * frame.radius, density, sh)
        # Points that are on a grid already stay on it.
        step = max(
            settings.position * float(np.median(frame.source.splats.radius)) * 0.999,
            frame.source.grid_step * (1 - 1e-7),
        )
        steps = Steps(
            position=step / float(np.median(wanted.radius)),
            color=settings.color,
            radius=settings.radius,
        )
        field = replace(trained, values=decoded[number])
        chunk = encode_field_points(wanted, field, 0, steps, "frame", own_radius=own_radius)
        shown = decode_field_points(
            chunk.data, field, 0, chunk.points, chunk.sh_degree, "frame"
        ).unpack()
        sizes[number] += len(chunk.data) + ENTRY
        scores.append(bench.score(shown, frame.source.frame))
    point = [quality, settings.position, settings.color, settings.radius]
    parts = {"fields": round(fields / len(scores))}
    bench.add(codec, point, sizes, scores, parts=parts, **of)


def _unrounded(run: Run, label: int) -> SourceFrame:
    """A frame on a grid so fine that it does not matter."""
    return source_frame(run, label, replace(PRESETS["standard"], position=1 / 256))


def _naive(bench: Bench, name: str, fragments: Sequence[TrainedFragment]) -> None:
    """Models of single frames, their numbers as float16 and the points' codes as byte planes."""
    compressor = Compressor()
    sizes, scores = [], []
    for fragment in fragments:
        frame = fragment.frames[0]
        arrays = [frame.state.coefficient, *frame.state.basis, *fragment.network]
        half = np.concatenate([array.ravel() for array in arrays]).astype("<f2").tobytes()
        raw = [half]
        codes = morton.interleave(frame.source.cells.astype(np.uint64))
        raw += planes.split_sorted(codes)
        colors = (frame.colors - frame.colors.min(axis=0)).T
        radii = (frame.radii - frame.radii.min())[None]
        for rows in (colors, radii):
            word = planes.word_bytes(int(rows.max(initial=0)))
            raw += planes.split(rows, word, delta=True, color=len(rows) == 3)
        sizes.append(sum(len(compressor.compress(part)) for part in raw) + ENTRY + 200)
        scores.append(bench.score(fragment.splats(0), frame.source.frame))
    bench.add("zstd", name, sizes, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", default="10:15")
    parser.add_argument("--only", choices=tuple(CODECS_OF), help="measure this part again")
    parser.add_argument(
        "--presets",
        nargs="+",
        default=["small", "smallest", "standard", "high"],
        choices=tuple(PRESETS),
        help="of the residual codec and its variants",
    )
    parser.add_argument(
        "--no-ablations", action="store_true", help="only the codec itself, without its variants"
    )
    options = parser.parse_args()
    folder = Folder(options.directory)
    run = source_footage(folder).open()
    labels = [
        n for n in select_frames(run.capture, options.frames) if n in load_plan(folder).frames
    ]
    run = source_footage(folder, frames=labels).open()
    bench = Bench(run, options.output, options.presets, ablations=not options.no_ablations)
    if options.only:
        bench.keep(options.only)
    parts = {
        "predictive": measure_predictive,
        "rerf": measure_rerf,
        "residual": measure_residual,
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part(bench, labels)
    for name, gain in bench.gains().items():
        print(name, gain)


if __name__ == "__main__":
    main()
