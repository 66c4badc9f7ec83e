"""`peel4d video encode | decode | info`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from .arguments import (
    add_backend,
    add_device,
    parse_memory,
    parse_seconds,
    parse_size,
    positive_float,
    positive_int,
    seed,
)
from .console import progress_reporter

#: Steps of a group: name of the preset -> number.
PRESETS = {"draft": 300, "standard": 1500, "high": 6000}


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "video",
        help="a video as two-dimensional Gaussians: any resolution, any frame at once",
        description="Encode a movie or a folder of images as Gaussians that move (D2GV), and back.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_encode(actions.add_parser("encode", help="train a .g2v from frames"))
    _add_decode(actions.add_parser("decode", help="write a .g2v as images or as a movie"))
    info = actions.add_parser("info", help="describe a .g2v")
    info.add_argument("video", type=Path, metavar="VIDEO.g2v")
    info.set_defaults(run=_info)
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="machine-readable output")
        action.add_argument("-v", "--verbose", action="store_true", help="say more")


def _add_encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="a movie, or a folder of images")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.g2v")
    add_recipe(parser)
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument(
        "--coarseness",
        type=positive_float,
        metavar="FACTOR",
        help="of all rounding: 0.5 finer and larger, 2 coarser and smaller (default 0.7)",
    )
    quality.add_argument(
        "--target-size", type=parse_memory, metavar="3M", help="the largest file that is wanted"
    )
    quality.add_argument(
        "--target-psnr",
        type=positive_float,
        metavar="DB",
        help="of every group; the smallest file that shows so much",
    )
    parser.add_argument("--fps", type=positive_float, help="instead of what the input says")
    parser.add_argument("--jobs", type=positive_int, metavar="N", help="processes (default: cores)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted encoding")
    add_device(parser)
    parser.set_defaults(run=_encode)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """What `encode` is told about training."""
    parser.add_argument("--gop", type=positive_int, default=10, metavar="N", help="frames a group")
    parser.add_argument(
        "--gaussians",
        type=positive_int,
        metavar="N",
        help="of every group (default: one for 46 pixels)",
    )
    parser.add_argument("--preset", default="standard", choices=tuple(PRESETS))
    parser.add_argument(
        "--steps", type=positive_int, metavar="N", help="of a group, one frame each"
    )
    parser.add_argument(
        "--gop-seconds", type=parse_seconds, metavar="5m", help="an end to a group by the clock"
    )
    parser.add_argument(
        "--prune",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="leave out this share of the Gaussians, those that show least: 0.3 for 3 of 10",
    )
    parser.add_argument("--seed", type=seed, default=0)


def recipe(options: argparse.Namespace):
    """The EncodeSettings of `add_recipe`. Raises ModuleNotFoundError without torch."""
    from ..train.video_encode import EncodeSettings
    from ..train.video_gop import GopSettings

    training = GopSettings(steps=options.steps or PRESETS[options.preset], prune=options.prune)
    if options.gop_seconds is not None:
        training = replace(training, steps=options.steps or 1 << 30, seconds=options.gop_seconds)
    return EncodeSettings(
        gop=options.gop, gaussians=options.gaussians, seed=options.seed, training=training
    )


def _encode(options: argparse.Namespace) -> int:
    from ..video2d.source import open_source
    from ..worker.run import needs

    try:
        from ..train.video_encode import encode

        settings = recipe(options)
    except ModuleNotFoundError as error:
        raise needs(error) from error
    settings = replace(
        settings,
        coarseness=options.coarseness or settings.coarseness,
        target_bytes=options.target_size,
        target_psnr=options.target_psnr,
    )
    source = open_source(options.input, options.fps)
    with progress_reporter(json_lines=False) as progress:
        result = encode(
            source,
            options.output,
            settings,
            jobs=options.jobs,
            device=options.device,
            resume=options.resume,
            progress=progress,
        )
    frames = result.info.frame_count
    words = {
        "video": str(options.output),
        "width": result.info.width,
        "height": result.info.height,
        "fps": result.info.fps,
        "frames": frames,
        "bytes": result.nbytes,
        "bytes_per_frame": round(result.nbytes / frames),
        "psnr": sum(result.psnr) / frames,
        "seconds": result.seconds,
        "device": result.device,
        "warnings": list(source.warnings),
        "gops": list(result.gops),
    }
    if options.json:
        print(json.dumps(words, indent=1, allow_nan=False))
        return 0
    for warning in source.warnings:
        print(f"warning: {warning}")
    print(
        f"{options.output}: {frames} frames, {result.nbytes / frames / 1000:.1f} kB per frame, "
        f"{words['psnr']:.2f} dB, {result.seconds:.0f} s"
    )
    return 0


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", type=Path, metavar="VIDEO.g2v")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR|MOVIE",
        help="a folder for PNG images, or a movie (.mp4, .mkv, .mov)",
    )
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the pictures")
    parser.add_argument("--frames", type=_frames, metavar="A:B", help="from A on, B not included")
    add_backend(parser)
    parser.set_defaults(run=_decode)


def _decode(options: argparse.Namespace) -> int:
    from ..errors import ClipError
    from ..video2d.export import export
    from ..video2d.video import VideoReader

    with VideoReader(options.video) as reader, progress_reporter(json_lines=False) as progress:
        frames = range(reader.info.frame_count)
        if options.frames is not None:
            frames = frames[options.frames]
        if not frames:
            raise ClipError(
                f"none of the {reader.info.frame_count} frames are wanted",
                where=options.video,
                hint="Frames count from 0; write --frames FIRST:END",
            )
        count = export(
            reader,
            options.output,
            size=options.size,
            frames=frames,
            backend=options.backend,
            progress=progress,
        )
        width, height = options.size or (reader.info.width, reader.info.height)
    words = {"output": str(options.output), "frames": count, "width": width, "height": height}
    if options.json:
        print(json.dumps(words, indent=1))
    else:
        print(f"{options.output}: {count} frames of {width}x{height} pixels")
    return 0


def _info(options: argparse.Namespace) -> int:
    from ..video2d.video import VideoReader

    with VideoReader(options.video) as reader:
        info = reader.info
        gops = [
            {"frames": frames, "gaussians": count, "bytes": reader.gop_nbytes(index)}
            for index, (frames, count) in enumerate(info.gops)
        ]
        words = {
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "frames": info.frame_count,
            "bytes": reader.nbytes,
            "bytes_per_frame": round(reader.nbytes / info.frame_count),
            "gops": gops,
            "provenance": dict(info.provenance),
        }
    if options.json:
        print(json.dumps(words, indent=1, allow_nan=False))
        return 0
    most = max(count for _, count in info.gops)
    print(f"{info.width}x{info.height}, {info.frame_count} frames at {info.fps:g} per second")
    print(f"{len(gops)} groups of up to {most} Gaussians")
    print(f"{words['bytes']} bytes, {words['bytes_per_frame'] / 1000:.1f} kB per frame")
    return 0


def _share(text: str) -> float:
    try:
        if not 0 <= float(text) < 1:
            raise ValueError
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no share; write 0.3 for 3 of 10") from None


def _frames(text: str) -> slice:
    first, colon, end = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(first) if first else None, int(end) if end else None)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' are no frames; write FIRST:END") from None
