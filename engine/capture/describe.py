"""A capture as a table for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .capture import Capture, View
from .findings import Finding
from .orientation import estimate_up, focus_point

_COLUMNS = (
    "view",
    "size",
    "fx",
    "fy",
    "position",
    "focus",
    "lens",
    "frames",
    "masks",
    "depth",
    "use",
)
_LEFT_ALIGNED = ("view", "lens", "use")


def _lens_text(view: View) -> str:
    if view.lens == "fisheye":
        return "fisheye"
    if not view.distortion:
        return "no distortion"
    return f"k1 {view.distortion[0]:+.3f}"


def _counts(capture: Capture, files: dict) -> np.ndarray:
    counts = np.zeros(len(capture.views), dtype=int)
    for _, view in files:
        counts[view] += 1
    return counts


def rig_table(capture: Capture) -> str:
    """The rig as text: a line about the whole, then one line per view.

    Position and focal length of a moving camera are those of its first frame. "focus" is the
    distance to the point that the cameras look at, "-" where their axes do not meet.
    """
    focus = focus_point(capture)
    images, masks, depths = (
        _counts(capture, files) for files in (capture.images, capture.masks, capture.depths)
    )
    header = list(_COLUMNS)
    rows = [header]
    for index, view in enumerate(capture.views):
        camera = capture.camera(0, index)
        centre = " ".join(f"{value:8.3f}" for value in camera.centre)
        distance = "-" if focus is None else f"{np.linalg.norm(focus - camera.centre):.3f}"
        rows.append(
            [
                view.name,
                f"{view.width}x{view.height}",
                f"{camera.K[0, 0]:.1f}",
                f"{camera.K[1, 1]:.1f}",
                centre,
                distance,
                _lens_text(view),
                str(images[index]),
                str(masks[index]),
                str(depths[index]),
                "train" if view.train else "test",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if _COLUMNS[column] in _LEFT_ALIGNED else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([f"{capture.path}", _summary(capture), "", *lines])


def _summary(capture: Capture) -> str:
    frames = capture.frames
    labels = f" ({frames[0]} to {frames[-1]})" if len(frames) > 1 else ""
    held_out = sum(not view.train for view in capture.views)
    parts = [
        capture.format,
        f"{len(capture.views)} views" + (f", {held_out} held out" if held_out else ""),
        f"{len(frames)} frames{labels} at {capture.fps:g} fps",
        f"{len(capture.images)} images, {len(capture.masks)} masks, "
        f"{len(capture.depths)} depth maps",
    ]
    if capture.moving:
        parts.append("moving cameras")
    up = capture.up if capture.up is not None else estimate_up(capture)
    if up is not None:
        text = " ".join(f"{value:.2f}" for value in up + 0.0)
        parts.append(f"up {text}" + ("" if capture.up is not None else " (estimated)"))
    return "; ".join(parts)


def _listed(array: np.ndarray | None) -> list | None:
    return None if array is None else np.asarray(array, dtype=np.float64).tolist()


def describe(capture: Capture, findings: Sequence[Finding] = ()) -> dict:
    """The capture as JSON-able data.

    {path, format, fps, frames: {count, first, last}, moving, up, estimated_up, focus, bounds,
     images, masks, depths (counts), views: [{name, width, height, fx, fy, cx, cy, lens,
     distortion, position, forward, train, images, masks, depths}],
     findings: [{severity, text, where}]}. Poses of moving cameras are those of the first frame.
    """
    counts = {
        name: _counts(capture, files)
        for name, files in (
            ("images", capture.images),
            ("masks", capture.masks),
            ("depths", capture.depths),
        )
    }
    views = []
    for index, view in enumerate(capture.views):
        camera = capture.camera(0, index)
        views.append(
            {
                "name": view.name,
                "width": view.width,
                "height": view.height,
                "fx": float(camera.K[0, 0]),
                "fy": float(camera.K[1, 1]),
                "cx": float(camera.K[0, 2]),
                "cy": float(camera.K[1, 2]),
                "lens": view.lens,
                "distortion": list(view.distortion),
                "position": _listed(camera.centre),
                "forward": _listed(camera.forward),
                "train": view.train,
                **{name: int(count[index]) for name, count in counts.items()},
            }
        )
    return {
        "path": str(capture.path),
        "format": capture.format,
        "fps": capture.fps,
        "frames": {
            "count": len(capture.frames),
            "first": capture.frames[0],
            "last": capture.frames[-1],
        },
        "moving": capture.moving,
        "up": _listed(capture.up),
        "estimated_up": _listed(estimate_up(capture)),
        "focus": _listed(focus_point(capture)),
        "bounds": _listed(capture.bounds),
        **{name: int(count.sum()) for name, count in counts.items()},
        "views": views,
        "findings": [{"severity": f.severity, "text": f.text, "where": f.where} for f in findings],
    }
