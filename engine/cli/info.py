"""`peel4d info PATH`: a capture, a clip or a reconstruction."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .arguments import parse_size


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "info",
        help="describe a capture, a clip or a reconstruction, and say what looks wrong",
        description="Describe a capture (rig table and health check), a clip or a reconstruction.",
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="image size, if not stored")
    parser.add_argument("--quick", action="store_true", help="do not open images")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.path.suffix.lower() == ".p4d":
        return _clip(options)
    if (options.path / "reconstruction.json").is_file():
        return _reconstruction(options)
    return _capture(options)


def _capture(options: argparse.Namespace) -> int:
    from ..capture.detect import open_capture
    from ..capture.health import describe, examine, rig_table

    capture = open_capture(options.path, size=options.size)
    findings = examine(capture, check_images=not options.quick)
    if options.json:
        print(json.dumps(describe(capture, findings), indent=1, allow_nan=False))
    else:
        print(rig_table(capture))
        for finding in findings:
            where = f" [{finding.where}]" if finding.where else ""
            print(f"{finding.severity}: {finding.text}{where}")
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def _clip(options: argparse.Namespace) -> int:
    from ..clip.describe import describe
    from ..clip.reader import ClipReader

    with ClipReader(options.path) as clip:
        description = describe(clip)
    if options.json:
        print(json.dumps(description, indent=1, allow_nan=False))
        return 0
    for name, value in description.items():
        if name == "attributes":  # a table for programs; --json has it
            continue
        if name == "fragments":
            bases = {row["base"] for row in value} - {None}
            value = f"{len(value)}, {len(bases)} bases" if value else "none"
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(item)}" for key, item in value.items())
        print(f"{name.replace('_', ' '):18} {_short(value)}")
    return 0


def _reconstruction(options: argparse.Namespace) -> int:
    from ..train.plan import Folder, load_plan

    folder = Folder(options.path)
    plan = load_plan(folder)
    done = sum(folder.frame(label).is_file() for label in plan.frames)
    description = {
        "capture": plan.capture,
        "model": plan.settings.model,
        "preset": plan.preset,
        "points": plan.points,
        "masks": plan.masks if plan.masks == "capture" else f"estimated ({plan.masks})",
        "frames": len(plan.frames),
        "frames_done": done,
        "training_views": list(plan.views),
        "test_views": list(plan.test_views),
        "clip": str(folder.clip) if folder.clip.is_file() else None,
    }
    if options.json:
        print(json.dumps(description, indent=1, allow_nan=False))
        return 0
    for name, value in description.items():
        text = " ".join(value) if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):18} {text}")
    if done < len(plan.frames):
        print(f"unfinished: peel4d reconstruct {plan.capture} -o {options.path} --resume")
    return 0


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"{len(value)} entries" if len(value) > 12 else ", ".join(map(_short, value))
    return str(value)
