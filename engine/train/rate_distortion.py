"""Rate and distortion of packed clips: PSNR of held-out views over bytes per frame.

Frames are coded apart, so the baseline is what zstd makes of the very same lattices: their codes as
byte planes of differences along the Morton curve. At one coarseness both have the same pictures.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..atomic import write_text
from ..clip import morton, planes
from ..clip.compression import Compressor
from ..clip.pack import Fitter, PackSettings, pack
from ..clip.reader import ClipReader
from ..errors import ReconstructionError
from ..progress import Progress, ProgressCallback, silent
from ..render.splats import PackedSplats, Quantized
from .evaluate import evaluate
from .pack_fields import CODECS as FIELD_CODECS
from .pack_fields import FieldPackSettings, prepare_fields
from .plan import Folder, load_plan

COARSENESS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
#: Of points that are fitted to the footage, and what of them is left out: either costs pictures.
FITTED = ((1.5, 0.003), (2.0, 0.003), (2.5, 0.006), (3.0, 0.01))
FIELD_COARSENESS = (0.5, 1.0, 2.0)
#: Bytes that a frame's header takes in the baseline.
_HEADER = 200
#: Frames that are decoded to tell how long it takes.
_TIMED = 20


@dataclass(frozen=True)
class Point:
    """One clip. codec: "baked" (the source), "predictive", "fitted" (predictive, its points fitted
    to the footage), "zstd" (the baseline), "codebook" or "kplanes".

    bytes_per_frame: of the whole file. psnr, ssim: against the footage. encode_seconds, decode_ms:
    of all frames, and of one; None for the source and the baseline.
    """

    codec: str
    coarseness: float | None
    prune: float | None
    bytes_per_frame: int
    points_per_frame: int
    static_points: int
    psnr: float
    ssim: float
    encode_seconds: float | None = None
    decode_ms: float | None = None


def measure_rate(
    directory: Path,
    *,
    region: str = "full",
    frames: int = 4,
    fitter: Fitter | None = None,
    jobs: int | None = None,
    progress: ProgressCallback = silent,
) -> dict:
    """Pack a finished reconstruction at several coarsenesses, with and without pruning, and score;
    with a field also by the codecs of fields, tuned where the footage is there.

    fitter: packs it with fitted points, too, which takes minutes per clip. jobs: processes that
    encode fields. frames: so many of the
    clip's are scored, evenly spread. Returns {"region", "scored" images,
    "frames" of the clip, "rows": `Point`s as dicts, "bd_rate_percent": {codec: against zstd}}.
    Raises PeelError.
    """
    folder = Folder(Path(directory))
    plan = load_plan(folder)
    if not folder.clip.is_file():
        raise ReconstructionError(
            "the reconstruction is not finished", where=folder.root, hint="Go on with --resume"
        )
    step = max(1, len(plan.frames) // frames)
    only = {(view, label) for label in plan.frames[::step] for view in plan.test_views}
    prunes = (0.0, PackSettings().prune)
    runs = [("predictive", coarseness, prune) for prune in prunes for coarseness in COARSENESS]
    if fitter is not None:
        runs += [("fitted", *run) for run in FITTED]
    fields = FIELD_CODECS if plan.settings.model == "field" else ()
    total = 1 + len(runs) + len(fields) * len(FIELD_COARSENESS)

    def scored(clip: Path) -> dict[str, float]:
        mean = evaluate(folder.root, region=region, clip=clip, only=only)["mean"]
        return {name: round(mean[name], 4) for name in ("psnr", "ssim")}

    rows = []
    with ClipReader(folder.clip) as reader:
        rows.append(_point("baked", None, None, reader, reader.total_nbytes, scored(folder.clip)))
    progress(Progress("rate", len(rows), total))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "packed.p4d"

        def measured(codec: str, coarseness: float, prune: float, seconds: float) -> None:
            """Score the clip at `path`."""
            scores = scored(path)
            with ClipReader(path, cache_frames=1) as reader:
                common = coarseness, prune, reader
                times = {"encode_seconds": round(seconds, 2), "decode_ms": _decoding(reader)}
                rows.append(_point(codec, *common, reader.total_nbytes, {**scores, **times}))
                if codec == "predictive":
                    rows.append(_point("zstd", *common, _zstd_bytes(reader), scores))
            clips = sum(row.codec != "zstd" for row in rows)
            progress(Progress("rate", clips, total))

        for codec, coarseness, prune in runs:
            begun = time.perf_counter()
            settings = PackSettings(coarseness=coarseness, prune=prune)
            pack(folder.clip, path, settings, fitter=fitter if codec == "fitted" else None)
            measured(codec, coarseness, prune, time.perf_counter() - begun)
        for codec in fields:
            begun = time.perf_counter()
            packer = prepare_fields(folder.root, FieldPackSettings(codec=codec), jobs=jobs)
            seconds = time.perf_counter() - begun
            for coarseness in FIELD_COARSENESS:
                packer.write(path, coarseness)
                measured(codec, coarseness, prunes[1], seconds)

    def points(codec: str, prune: float | None) -> list[tuple[float, float]]:
        return [
            (row.bytes_per_frame, row.psnr)
            for row in rows
            if row.codec == codec and prune in (None, row.prune)
        ]

    baseline = points("zstd", 0.0)
    gains = {
        "predictive": bd_rate(baseline, points("predictive", 0.0)),
        "predictive, pruned": bd_rate(baseline, points("predictive", prunes[1])),
    }
    if fitter is not None:
        gains["fitted"] = bd_rate(baseline, points("fitted", None))
    for codec in fields:
        gains[f"{codec}, pruned"] = bd_rate(baseline, points(codec, prunes[1]))
    return {
        "region": region,
        "scored": len(only),
        "frames": len(plan.frames),
        "rows": [asdict(row) for row in rows],
        "bd_rate_percent": gains,
    }


def bd_rate(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float | None:
    """Bytes of the second curve over those of the first at equal PSNR, percent, less 100.

    first, second: (rate, PSNR) of at least two points. None where they have no PSNR in common.
    Source: Bjontegaard, VCEG-M33, the mean of log rate over the common range of PSNR; between
    points it is linear. One cubic through all of them, as there, swings where a curve saturates.
    """
    curves = [[(psnr, np.log(rate)) for rate, psnr in points] for points in (first, second)]
    mean = _mean_difference(*curves)
    return None if mean is None else float(100 * (np.exp(mean) - 1))


def bd_psnr(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float | None:
    """PSNR of the second curve less that of the first, dB, averaged over the logarithm of the rates
    that both have; arguments as of `bd_rate`. None where they have no rate in common."""
    return _mean_difference(
        *([(np.log(rate), psnr) for rate, psnr in points] for points in (first, second))
    )


def _mean_difference(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> float | None:
    """The second curve less the first, (x, y) each, on average over the x that both have; None
    without any. Between points they are linear."""
    curves = [np.array(sorted(points)).T for points in (first, second)]
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low >= high:
        return None
    grid = np.unique(np.clip(np.concatenate([[low, high], *(x for x, _ in curves)]), low, high))
    before, after = (np.interp(grid, *curve) for curve in curves)
    difference = after - before
    return float((0.5 * (difference[1:] + difference[:-1]) * np.diff(grid)).sum() / (high - low))


def draw(result: dict, path: Path) -> None:
    """The curves as an SVG picture: PSNR over kB per frame."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in result["rows"]:
        pruned = row["prune"] and row["codec"] != "fitted"
        name = row["codec"] + (", pruned" if pruned else "")
        series.setdefault(name, []).append((row["bytes_per_frame"] / 1e3, row["psnr"]))
    every = [point for points in series.values() for point in points]
    most = 1.05 * max(rate for rate, _ in every)
    low, high = (edge(psnr for _, psnr in every) for edge in (min, max))
    margin = 0.05 * max(high - low, 0.1)
    low, high = low - margin, high + margin
    width, height, left, bottom = 720, 440, 60, 40

    def place(rate: float, psnr: float) -> str:
        x = left + rate / most * (width - left - 20)
        y = (height - bottom) * (1 - (psnr - low) / (high - low)) + 10
        return f"{x:.1f},{y:.1f}"

    colors = ("#222", "#1b7f79", "#c0392b", "#2c6fbb", "#d98e04")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + 20}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in np.linspace(0, most, 6)[:-1]:
        x, y = place(tick, low).split(",")
        parts.append(
            f'<text x="{x}" y="{float(y) + 16:.1f}" text-anchor="middle">{tick:.0f}</text>'
        )
    for tick in np.linspace(low, high, 6):
        x, y = place(0, tick).split(",")
        end = place(most, tick).split(",")[0]
        parts.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y}" text-anchor="end">{tick:.2f}</text>')
    for index, (name, points) in enumerate(series.items()):
        color = colors[index % len(colors)]
        line = " ".join(place(*point) for point in sorted(points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for point in points:
            x, y = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{color}"/>')
        y = height - bottom - 20 * (len(series) - index)
        parts.append(f'<text x="{width - 190}" y="{y}" fill="{color}">{name}</text>')
    parts.append(f'<text x="{left}" y="{height + 12}">kB per frame; PSNR in dB</text></svg>')
    write_text(path, "\n".join(parts))


def _point(codec, coarseness, prune, reader: ClipReader, nbytes: int, scores: dict) -> Point:
    info = reader.info
    return Point(
        codec,
        coarseness,
        prune,
        round(nbytes / info.frame_count),
        round(float(np.mean(info.points))),
        info.static_points,
        **scores,
    )


def _decoding(reader: ClipReader) -> float:
    """Milliseconds from the file to codes, median of some frames."""
    times = []
    for index in range(min(reader.info.frame_count, _TIMED)):
        begun = time.perf_counter()
        reader.packed(index, static=False)
        times.append(time.perf_counter() - begun)
    return round(1e3 * float(np.median(times)), 2)


def _zstd_bytes(reader: ClipReader) -> int:
    """What the codes of a clip would take as byte planes, frame by frame."""
    info = reader.info
    total = reader.total_nbytes
    for index in range(info.frame_count):
        total += _plane_bytes(reader.packed(index, static=False)[0]) - reader.frame_nbytes(index)
    if info.static_points:
        total += _plane_bytes(reader.packed(0)[1])
        total -= sum(row.nbytes for row in info.attributes if row.scope == "static")
    return total


def _plane_bytes(part: PackedSplats) -> int:
    compressor = Compressor()

    def size(raw: list[bytes]) -> int:
        return sum(len(compressor.compress(plane)) for plane in raw)

    total = _HEADER
    for attribute in (part.position, part.radius, part.density, part.sh):
        if not isinstance(attribute, Quantized):
            raise ReconstructionError(
                "a grid of more than 16 bits per axis has no baseline",
                hint="Reconstruct without points far away from the subject",
            )
        codes = attribute.codes.T.astype(np.int64)
        if attribute is part.position:
            total += size(planes.split_sorted(morton.interleave(codes.T.astype(np.uint64))))
            continue
        for first in range(0, len(codes), 3):
            rows = codes[first : first + 3]
            nbytes = planes.word_bytes(int(rows.max(initial=0)))
            colors = (False, True) if len(rows) == 3 else (False,)
            total += min(
                size(planes.split(rows, nbytes, delta=delta, color=color))
                for delta in (False, True)
                for color in colors
            )
    return total
