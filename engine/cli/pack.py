"""`peel4d pack DIR|CLIP -o OUT.p4d`."""

from __future__ import annotations

import argparse
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from ..clip.pack import CODECS, Fitter, Packed, PackSettings, pack
from ..clip.schema import FIELD_CODECS
from ..clip.target import Target
from ..errors import ClipError
from ..progress import ProgressCallback
from .arguments import parse_memory, positive_float, positive_int
from .console import progress_reporter
from .reconstruct import add_machine

_DEFAULTS = PackSettings()
#: Rate points of --codec residual (engine/train/residual_settings.py).
RATE_POINTS = ("high", "standard", "small", "smallest")
_TUNING = 300


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "pack",
        help="make a clip smaller",
        description="Write the clip of a reconstruction, or any clip, so that it needs fewer bytes "
        "for the same pictures.",
    )
    parser.add_argument("source", type=Path, metavar="DIR|CLIP")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.p4d")
    parser.add_argument(
        "--codec",
        default=_DEFAULTS.codec,
        choices=CODECS + FIELD_CODECS,
        help="predictive (default): small; baked: as exact as 8-bit pixels are; codebook: the "
        "fields that frames share, for the smallest files, from DIR; kplanes: these as float16; "
        "residual: fields, colours and radii trained for rate and pictures at once, from DIR",
    )
    parser.add_argument(
        "--lambda",
        dest="rate_point",
        default="standard",
        choices=RATE_POINTS,
        help="how much a bit must be worth to --codec residual (default standard)",
    )
    parser.add_argument(
        "--gop",
        type=positive_int,
        default=10,
        metavar="N",
        help="frames that --codec residual codes one after the other (default 10)",
    )
    parser.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="processes that learn from the footage (default: as many as use the machine well)",
    )
    parser.add_argument(
        "--tuning",
        type=_steps,
        metavar="STEPS",
        help="in which codes learn from the footage: so many for those that all frames share, two "
        f"thirds for each fragment's own (default {_TUNING}; 0: none)",
    )
    parser.add_argument(
        "--dynamic",
        type=_share,
        metavar="SHARE",
        help="of the codes that each fragment of 5 frames has anew, as 0.1 (default 0: none; they "
        "pay for fields of many frames)",
    )
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument(
        "--coarseness",
        type=positive_float,
        default=_DEFAULTS.coarseness,
        metavar="FACTOR",
        help="of the steps of positions and attributes: 0.5 finer, 2 coarser (default 1, of the "
        "predictive codec with --capture 2)",
    )
    quality.add_argument(
        "--target-size",
        type=parse_memory,
        metavar="3M",
        help="as good as a file of this size can be",
    )
    quality.add_argument(
        "--target-psnr",
        type=positive_float,
        metavar="DB",
        help="as small as pictures can be that differ so little from the source's",
    )
    parser.add_argument(
        "--prune",
        type=_not_negative,
        metavar="SHARE",
        help="leave out the points that together make less than this share of the cameras' "
        "pictures, because they lie inside or are next to transparent "
        f"(default {_DEFAULTS.prune:g}; 0 keeps all)",
    )
    parser.add_argument(
        "--capture",
        type=Path,
        help="the footage that DIR was made from: fit the packed points to it, which takes a "
        "second or two per frame and makes clips smaller by a third at the same quality; --codec "
        "codebook and residual always learn from it, and have to be told only where it was moved",
    )
    add_machine(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    settings = PackSettings(
        codec=options.codec,
        coarseness=options.coarseness,
        prune=_DEFAULTS.prune if options.prune is None else options.prune,
        target_bytes=options.target_size,
        target_psnr=options.target_psnr,
    )
    with progress_reporter(json_lines=False) as progress:
        if options.codec in FIELD_CODECS:
            packed = _pack_fields(options, settings, progress)
        else:
            fitting = nullcontext() if options.capture is None else _fitter(options, progress)
            with fitting as fitter:
                packed = pack(
                    options.source, options.output, settings, fitter=fitter, progress=progress
                )
    frames = packed.info.frame_count
    result = {
        "clip": str(options.output),
        "codec": settings.codec,
        "frames": frames,
        "bytes": packed.nbytes,
        "bytes_per_frame": round(packed.nbytes / frames),
        "source_bytes": packed.source_nbytes,
        "pruned": packed.pruned,
        "coarseness": packed.coarseness,
    }
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
        return 0
    print(
        f"{options.output}: {frames} frames, {packed.nbytes / frames / 1000:.1f} kB per frame, "
        f"{packed.source_nbytes / packed.nbytes:.1f} x smaller than {options.source} "
        f"({packed.pruned:.0%} of the points were left out, coarseness {packed.coarseness:.2f})"
    )
    return 0


def _fitter(
    options: argparse.Namespace, progress: ProgressCallback
) -> AbstractContextManager[Fitter]:
    if not options.source.is_dir():
        raise ClipError(
            "only the clip of a reconstruction's folder can be fitted to its footage",
            where=options.source,
            hint="Name the folder that `peel4d reconstruct` wrote, or leave out --capture",
        )
    # torch takes seconds to import, and packing alone does without.
    from ..train.refit import Refit

    return Refit(
        options.source,
        options.capture,
        jobs=options.jobs,
        max_memory=options.max_memory,
        device=options.device,
        progress=progress,
    )


def _pack_fields(
    options: argparse.Namespace, common: PackSettings, progress: ProgressCallback
) -> Packed:
    from ..worker.run import explained, needs

    if not (options.source / "reconstruction.json").is_file():
        raise ClipError(
            "fields are packed from a reconstruction, which knows them; a clip does not",
            where=options.source,
            hint="Name the folder that `peel4d reconstruct` has made",
        )
    target = None
    if options.target_size is not None or options.target_psnr is not None:
        target = Target(options.target_size, options.target_psnr)
    try:
        with explained(options.source):
            if options.codec == "residual":
                return _pack_residual(options, target, progress)
            from ..train.pack_fields import FieldPackSettings, pack_fields

            settings = FieldPackSettings(
                codec=common.codec, coarseness=common.coarseness or 1.0, prune=common.prune
            )
            if options.tuning is not None:
                steps = {"tuning": options.tuning, "dynamic_steps": 2 * options.tuning // 3}
                settings = replace(settings, **steps)
            if options.dynamic is not None:
                settings = replace(settings, dynamic=options.dynamic)
            return pack_fields(
                options.source,
                options.output,
                settings,
                target=target,
                capture=options.capture,
                jobs=options.jobs,
                max_memory=options.max_memory,
                progress=progress,
            )
    except ModuleNotFoundError as error:
        raise needs(error) from error


def _pack_residual(
    options: argparse.Namespace, target: Target | None, progress: ProgressCallback
) -> Packed:
    from ..train.residual_clip import pack_residual
    from ..train.residual_settings import PRESETS

    settings = replace(
        PRESETS[options.rate_point].scaled(options.coarseness or 1.0), gop=options.gop
    )
    if options.prune is not None:
        settings = replace(settings, prune=options.prune)
    return pack_residual(
        options.source,
        options.output,
        settings,
        target=target,
        capture=options.capture,
        jobs=options.jobs,
        max_memory=options.max_memory,
        progress=progress,
    )


def _share(text: str) -> float:
    value = _not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share between 0 and 1")
    return value


def _steps(text: str) -> int:
    return 0 if text.strip() == "0" else positive_int(text)


def _not_negative(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else positive_float(text)
