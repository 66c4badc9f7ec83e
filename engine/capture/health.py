"""What looks wrong with a capture, found before hours are spent on it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .capture import Capture
from .describe import describe, rig_table
from .findings import Finding, enumeration
from .image_health import examine_images
from .orientation import Convergence, convergence, poses

__all__ = ["Finding", "describe", "examine", "rig_table"]

_OPENGL = np.diag([1.0, -1.0, -1.0])
_REJECT_ROTATION = 1e-2
_DOUBT_ROTATION = 1e-3
# Whole horizontal field of view, degrees: a 600 mm lens on full frame, and a fisheye's business.
_NARROW, _WIDE = 3.0, 150.0


def examine(capture: Capture, *, check_images: bool = True) -> list[Finding]:
    """Findings about calibration and footage, the worst first.

    check_images: also open image files (their headers, and masks as far as a budget of pixels
    goes; see image_health.py). Without it only the calibration and the lists of files are judged.
    """
    found = [Finding("note", note) for note in capture.notes]
    found += _rotations(capture)
    found += _intrinsics(capture)
    found += _arrangement(capture)
    found += _presence(capture)
    if check_images:
        found += examine_images(capture)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _rotations(capture: Capture) -> list[Finding]:
    R = capture.R
    deviation = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max(axis=(-1, -2))
    mirrored = np.linalg.det(R) < 0
    if capture.moving:
        deviation, mirrored = deviation.max(axis=0), mirrored.any(axis=0)
    names = np.array([view.name for view in capture.views])
    found = []
    rejected = deviation > _REJECT_ROTATION
    doubtful = (deviation > _DOUBT_ROTATION) & ~rejected
    for severity, which in (("error", rejected), ("warning", doubtful)):
        if which.any():
            found.append(
                Finding(
                    severity,
                    "the rotation is not a rotation: R R^T differs from the identity by up to "
                    f"{deviation[which].max():.2g}; the calibration is damaged or scaled",
                    f"view {enumeration(names[which].tolist())}",
                )
            )
    mirrored &= ~rejected
    if mirrored.any():
        found.append(
            Finding(
                "error",
                "the rotation mirrors the world (determinant -1); one camera axis has the wrong "
                "sign",
                f"view {enumeration(names[mirrored].tolist())}",
            )
        )
    return found


def _intrinsics(capture: Capture) -> list[Finding]:
    flaws: dict[tuple[str, str], list[str]] = {}
    for index, view in enumerate(capture.views):
        K = capture.K[0, index] if capture.K.ndim == 4 else capture.K[index]
        fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        if fx <= 0 or fy <= 0:
            flaws.setdefault(("error", "the focal length is not positive"), []).append(view.name)
            continue
        angle = 2 * np.degrees(np.arctan2(0.5 * view.width, fx))
        if angle < _NARROW or (angle > _WIDE and view.lens == "pinhole"):
            text = (
                f"a focal length of {fx:.4g} px at a width of {view.width} px means a field of "
                f"view of {angle:.3g} degrees; is it in pixels of this image size?"
            )
            flaws.setdefault(("warning", text), []).append(view.name)
        if not 0.8 * fy < fx < 1.25 * fy:
            text = f"fx and fy differ much ({fx:.4g} and {fy:.4g} px)"
            flaws.setdefault(("warning", text), []).append(view.name)
        if not (0 < cx < view.width and 0 < cy < view.height):
            text = (
                "the principal point lies outside the image; the calibration probably belongs to "
                f"another image size than {view.width}x{view.height}"
            )
            flaws.setdefault(("warning", text), []).append(view.name)
    return [
        Finding(severity, text, f"view {enumeration(names)}")
        for (severity, text), names in flaws.items()
    ]


def _alternatives(R: np.ndarray, t: np.ndarray) -> dict[str, Convergence]:
    """The rig read as the usual mistakes would have meant it."""
    inverse = np.swapaxes(R, -1, -2)
    back = -np.einsum("nij,nj->ni", inverse, t)
    return {
        "probably world-to-camera and camera-to-world are swapped: invert the poses": convergence(
            inverse, back
        ),
        "probably world-to-camera and camera-to-world are swapped, and the camera axes are "
        "OpenGL's: invert the poses and flip y and z": (
            convergence(_OPENGL @ inverse, back @ _OPENGL)
        ),
        "probably the camera axes are OpenGL's (y up, z backwards): flip y and z, unless this rig "
        "really looks outwards": convergence(_OPENGL @ R, t @ _OPENGL),
        "probably the translation is the camera's position: use t = -R C": convergence(
            R, -np.einsum("nij,nj->ni", R, t)
        ),
    }


def _arrangement(capture: Capture) -> list[Finding]:
    """Do the cameras look at something together?

    A rig is suspicious only when its axes do not converge as it stands but do under one of the
    usual mistakes. So a forward-facing rig (parallel axes either way) or a freely moving camera
    raises nothing. Two poses are too few to tell.
    """
    found = []
    R, t = poses(capture)
    if len(capture.views) == 1:
        if capture.moving:
            found.append(Finding("note", "one moving camera"))
        else:
            found.append(
                Finding("error", "there is only one camera; a reconstruction needs at least two")
            )
    if len(R) >= 3 and not convergence(R, t).surrounds:
        likely = {text: c for text, c in _alternatives(R, t).items() if c.surrounds}
        if likely:
            text = min(likely, key=lambda text: float(np.median(likely[text].angle)))
            found.append(
                Finding("warning", f"the cameras face away from each other; {text}", "poses")
            )
    if not capture.moving and len(capture.views) > 1:
        found += _equal_poses(capture)
    return found


def _equal_poses(capture: Capture) -> list[Finding]:
    centre = -np.einsum("vji,vj->vi", capture.R, capture.t)
    scale = max(float(np.ptp(centre, axis=0).max()), 1e-9)
    rounded = np.round(np.concatenate([centre / scale, capture.R.reshape(-1, 9)], axis=1), 5)
    groups: dict[tuple, list[str]] = {}
    for view, row in zip(capture.views, rounded, strict=True):
        groups.setdefault(tuple((row + 0.0).tolist()), []).append(view.name)
    same = [names for names in groups.values() if len(names) > 1]
    return [
        Finding("warning", "these cameras have the same pose", f"view {enumeration(names)}")
        for names in same
    ]


def _presence(capture: Capture) -> list[Finding]:
    if not capture.images:
        return [Finding("note", "calibration only: no images were found")]
    found = []
    present = capture.presence
    names = [view.name for view in capture.views]
    counts = present.sum(axis=0)
    without = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if without:
        found.append(Finding("warning", "no images", f"view {enumeration(without)}"))
    # The splits of a moving camera (D-NeRF) are views that take turns in time by design.
    if not capture.moving:
        found += _gaps(capture, present)
    found += _partial(capture, "masks", set(capture.masks))
    found += _partial(capture, "depth maps", set(capture.depths))
    return found


def _gaps(capture: Capture, present: np.ndarray) -> list[Finding]:
    found = []
    counts = present.sum(axis=0)
    filmed = np.flatnonzero(counts)
    if len(set(counts[filmed].tolist())) > 1:
        groups = Counter(counts[filmed].tolist())
        usual, _ = groups.most_common(1)[0]
        odd = [f"{capture.views[v].name} ({counts[v]})" for v in filmed if counts[v] != usual]
        found.append(
            Finding(
                "warning",
                f"the views have different frame counts: most have {usual}; different are "
                + enumeration(odd),
            )
        )
    missing = [
        f"view {capture.views[v].name} frame {capture.frames[f]}"
        for v in filmed
        for f in np.flatnonzero(~present[:, v])
    ]
    if missing:
        found.append(Finding("warning", "images are missing", enumeration(missing)))
    return found


def _partial(capture: Capture, what: str, files: set[tuple[int, int]]) -> list[Finding]:
    """Views with some of their masks or depth maps only."""
    if not files:
        return []
    odd = []
    for v, view in enumerate(capture.views):
        images = [f for f, w in capture.images if w == v]
        have = sum((f, v) in files for f in images)
        if 0 < have < len(images):
            odd.append(f"{view.name} ({have} of {len(images)})")
    if not odd:
        return []
    return [Finding("warning", f"{what} are missing for some frames", f"view {enumeration(odd)}")]
