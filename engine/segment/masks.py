"""Masks for a capture without them: which pixels show the subject, and how far to trust that."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..atomic import write_bytes
from ..capture.capture import Capture, ImageFile
from ..capture.images import ImageReader, UnreadableImage, bends
from ..errors import ReconstructionError
from ..progress import Progress, ProgressCallback, silent
from .appearance import claim_unknown
from .background import (
    RIVAL,
    Background,
    Samples,
    largest,
    light_change,
    model_background,
    read_samples,
)
from .chroma import Key, even_backdrop, find_key, key_likelihood, screen_color
from .cleanup import UNKNOWN, grade
from .consistency import CONTRADICTED, agree
from .difference import foreground_likelihood
from .report import State

logger = logging.getLogger(__name__)

METHODS = ("auto", "plate", "chroma")
_GRADED = ".graded"

#: A plate needs as many images: the background must be seen more than once.
MIN_SAMPLES = 5
#: A subject that moves changes at least this share of the image (4 px in ten thousand).
_MOTION = 4e-4
#: And a picture that changes by more than this share has a camera that moves.
_EVERYTHING = 0.85
#: And one in which more than this share of the places have no clear background.
_UNCLEAR = 0.4
#: A background is seen in at least this share of the samples.
_SEEN = 0.12
#: and in no fewer than so many.
MIN_SEEN = 2.5
#: Scenery beside a screen changes by less than so many levels over the clip.
_STILL = 24
_PATCH = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class _Separation:
    """How one view tells its subject from the rest. unknown: (H, W) bool or None, for all frames.

    doubt: share of the evidence that speaks against it, 0 to 1.
    """

    method: str
    reason: str
    key: Key | None = None
    background: Background | None = None
    unknown: np.ndarray | None = None
    doubt: float = 0.0


def estimate_masks(
    capture: Capture,
    reader: ImageReader,
    folder: Path,
    views: list[int],
    frames: list[int],
    *,
    method: str = "auto",
    progress: ProgressCallback = silent,
) -> Capture:
    """Make masks for the given views and frames and return the capture with them.

    views, frames: *indices*. method: "plate" (difference from each static camera's own
    background), "chroma" (a green or blue screen or an even backdrop) or "auto" (a key where there
    is one, else the plate, per view).
    Writes `folder/<view>/<frame label:06d>.png`, (H, W) uint8 of the stored, still distorted image:
    255 subject, 0 background, 128 unknown; and `folder/masks.json` with a `MaskReport` per view.
    Files that are there already stay as they are, so a run that was interrupted goes on. The
    views are then compared (`consistency.agree`). The masks of a view that cannot be told from its
    background are 128 where the others allow the subject, and not in the returned capture. Images
    that are missing or unreadable get no mask.
    Memory: the samples of one view (400 MB at most), then the masks of one frame.
    Raises ReconstructionError where no view can be separated from its background, with the reason
    per view, or where the folder holds masks of another method.
    """
    if method not in METHODS:
        raise ReconstructionError(
            f"'{method}' is no way to make masks", hint=f"Choose one of {', '.join(METHODS)}"
        )
    folder = Path(folder)
    state = State.begin(folder, method)
    total, done = (len(views) + 1) * len(frames), 0
    for view in views:
        todo = _missing(capture, folder, view, frames)
        name = capture.views[view].name
        if todo or name not in state.views:
            separation = _separate(capture, reader, view, method)
            state.views[name] = _described(separation, state.views.get(name))
            if separation.method != "none":
                for frame in todo:
                    _grade_image(capture, reader, folder, view, frame, separation)
                    done += 1
                    progress(Progress("masks", done, total))
            state.save()
        done = (views.index(view) + 1) * len(frames)
        progress(Progress("masks", done, total))
    names = [capture.views[view].name for view in views]
    if all(state.views[name]["method"] == "none" for name in names):
        reasons = sorted({state.views[name]["reason"] for name in names})
        raise ReconstructionError(
            "no view can be told from its background: " + "; ".join(reasons),
            where=capture.path,
            hint="Add masks to the capture, or use a longer take in which the subject moves away",
        )
    for frame in frames:
        _finish_frame(capture, reader, folder, views, frame, state)
        done += 1
        progress(Progress("masks", done, total))
    # Only now: an interrupted run compares all views of its last frame again.
    shutil.rmtree(folder / _GRADED, ignore_errors=True)
    return _with_masks(capture, folder, views, frames, state)


def _described(separation: _Separation, before: dict | None) -> dict:
    frames = before["frames"] if before else {}
    return {
        "method": separation.method,
        "reason": separation.reason,
        "doubt": round(separation.doubt, 4),
        "frames": frames,
    }


def _file(root: Path, capture: Capture, frame: int, view: int) -> Path:
    name = capture.views[view].name.replace("/", "_")
    return root / name / f"{capture.frames[frame]:06d}.png"


def _missing(capture: Capture, folder: Path, view: int, frames: Sequence[int]) -> list[int]:
    """The frames of which a view has an image, but neither a mask nor a graded one."""
    return [
        frame
        for frame in frames
        if (frame, view) in capture.images
        and not _file(folder, capture, frame, view).is_file()
        and not _file(folder / _GRADED, capture, frame, view).is_file()
    ]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    import cv2

    write_bytes(path, cv2.imencode(".png", pixels)[1].tobytes())


def _moves(capture: Capture, view: int) -> bool:
    """Whether this camera is another one in some frame; others of the rig may stand still."""
    for array in (capture.K, capture.R, capture.t):
        if array.ndim == (3 if array is capture.t else 4):
            own = array[:, view]
            if np.abs(own - own[0]).max() > 1e-6 * max(1.0, float(np.abs(own).max())):
                return True
    return False


def _separate(capture: Capture, reader: ImageReader, view: int, method: str) -> _Separation:
    """Find out how a view can tell its subject from the rest; method "none" where it cannot."""
    samples = read_samples(capture, reader, view)
    if not len(samples.frames):
        return _Separation("none", "there is no readable image")
    moves = _moves(capture, view)
    if method != "plate":
        key = find_key(samples.images)
        if key is not None:
            scenery = None if moves else _scenery(samples, key)
            reason = f"a {key.name} screen of saturation {key.saturation:.2f}"
            return _Separation(f"{key.name} screen", reason, key=key, unknown=scenery)
        backdrop = even_backdrop(samples)
        if backdrop is not None:
            level = ", ".join(f"{c:.0f}" for c in np.median(backdrop.color, axis=(0, 1)))
            reason = f"an even backdrop of colour ({level})"
            return _Separation("even backdrop", reason, background=backdrop)
        if method == "chroma":
            return _Separation("none", "there is neither a green or blue screen nor a backdrop")
    if moves:
        return _Separation("none", "the camera moves and there is no screen or even backdrop")
    if len(samples.frames) < MIN_SAMPLES:
        return _Separation(
            "none", f"a background needs {MIN_SAMPLES} images, there are {len(samples.frames)}"
        )
    return _plate(model_background(samples))


def _plate(background: Background) -> _Separation:
    """Judge a background model by what it says about the samples that it was made of."""
    import cv2

    samples = background.samples
    some = np.linspace(0, len(samples.frames) - 1, min(len(samples.frames), 9)).round().astype(int)
    step = max(1, max(samples.images.shape[1:3]) // 480)
    noise = background.noise[::step, ::step]
    covered = np.zeros(noise.shape, np.float32)
    areas = []
    for index in some:
        color = background.at(int(samples.frames[index]))[::step, ::step]
        subject = foreground_likelihood(samples.images[index, ::step, ::step], color, noise) > 0.9
        areas.append(float(subject.mean()))
        covered += subject
    if max(areas) < _MOTION:
        return _Separation("none", "nothing moves before this camera, so nothing stands out")
    if np.median(areas) > _EVERYTHING:
        return _Separation(
            "none", "nearly everything changes: does this camera really stand still?"
        )
    few = background.share * len(samples.frames) < MIN_SEEN
    ambiguous = (background.rival > RIVAL) | (background.share < _SEEN) | few
    # One pixel in doubt among others that are not is chance.
    ambiguous = cv2.morphologyEx(ambiguous.astype(np.uint8), cv2.MORPH_OPEN, _PATCH) > 0
    ever = covered > 0
    doubt = float((ambiguous[::step, ::step] & ever).sum() / max(1, ever.sum()))
    if ambiguous.mean() > _UNCLEAR:
        return _Separation(
            "none", "no background is seen again and again: does this camera really stand still?"
        )
    reason = f"a background seen in {len(samples.frames)} images"
    if background.drifts:
        reason += ", whose light drifts"
    if doubt > 0.25:
        reason += f"; {doubt:.0%} of the subject's places have no clear background"
    return _Separation(
        "plate", reason, background=background, unknown=ambiguous, doubt=min(1.0, doubt)
    )


def _scenery(samples: Samples, key: Key) -> np.ndarray | None:
    """What stands beside a screen: never the screen, never in motion, and it reaches the rim.

    It may be a part of the studio or a subject that stands still, which nobody can say here.
    """
    import cv2

    if len(samples.images) < MIN_SAMPLES:
        return None
    low, high = samples.images.min(axis=0), samples.images.max(axis=0)
    still = largest(high - low) < _STILL
    for image in samples.images:
        still &= key_likelihood(image, key) > 0.5
    _, labels = cv2.connectedComponents(still.astype(np.uint8))
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    scenery = np.isin(labels, touching[touching > 0])
    return scenery if scenery.any() else None


def _grade_image(capture, reader, folder, view, frame, separation: _Separation) -> None:
    """Write the graded mask of one image, still undistorted."""
    try:
        image = reader.image(frame, view)
    except UnreadableImage as error:
        logger.warning("no mask: %s", error)
        return
    if separation.key is not None:
        likelihood = key_likelihood(image, separation.key)
        color = screen_color(image, separation.key)
    else:
        background = separation.background
        color = background.at(frame)
        gain = light_change(image, color) if separation.method == "plate" else None
        if gain is not None:
            color = np.minimum(color / gain, 255)
        likelihood = foreground_likelihood(image, color, background.noise)
    valid = reader.valid(frame, view)
    if valid is not None:
        likelihood = np.where(valid, likelihood, 0).astype(np.float32)
    graded = grade(likelihood, image, background=color, unknown=separation.unknown)
    _write_png(_file(folder / _GRADED, capture, frame, view), graded)


def _finish_frame(capture, reader, folder, views, frame, state: State) -> None:
    """Compare the graded masks of one frame and write the final ones that are missing."""
    import cv2

    present = [view for view in views if (frame, view) in capture.images]
    label = str(capture.frames[frame])
    entries = {view: state.views[capture.views[view].name] for view in present}
    missing = [
        view
        for view in present
        if not _file(folder, capture, frame, view).is_file() or label not in entries[view]["frames"]
    ]
    if not missing:
        return
    graded: list[np.ndarray | None] = []
    for view in present:
        v = capture.views[view]
        path = _file(folder / _GRADED, capture, frame, view)
        if not path.is_file() and not bends(v):
            path = _file(folder, capture, frame, view)  # finished in an earlier run
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
        if entries[view]["method"] == "none":
            mask = np.full((v.height, v.width), UNKNOWN, np.uint8)
        graded.append(mask)
    cameras = [capture.camera(frame, view) for view in present]
    compared = agree(cameras, graded, capture.bounds)
    weak = [a is not None and a < CONTRADICTED for a in compared.agreement]
    if any(weak):
        # What its colours claim back in one view is evidence in all of them.
        claimed = [
            claim_unknown(mask, reader.image(frame, view)) if again else mask
            for view, mask, again in zip(present, compared.masks, weak, strict=True)
        ]
        compared = agree(cameras, claimed, capture.bounds, doubt=False)
    for view, mask, agreement in zip(present, compared.masks, compared.agreement, strict=True):
        if view not in missing or mask is None:
            continue
        _write_png(_file(folder, capture, frame, view), to_stored(mask, capture, frame, view))
        entries[view]["frames"][label] = {
            "unknown": round(float((mask == UNKNOWN).mean()), 5),
            "agreement": None if agreement is None else round(agreement, 4),
        }
    state.save()


def to_stored(mask: np.ndarray, capture: Capture, frame: int, view: int) -> np.ndarray:
    """A mask (H, W) of the undistorted image as one of the stored image, which the lens bends.

    Unknown where the undistorted image does not reach. It undoes what `ImageReader` will do.
    """
    import cv2

    v = capture.views[view]
    if not bends(v):
        return mask
    K = capture.camera(frame, view).K.copy()
    K[:2, 2] -= 0.5  # OpenCV's (0, 0) is the centre of the first pixel
    rows, columns = np.mgrid[: v.height, : v.width]
    stored = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    coefficients = np.array(v.distortion or (0.0,) * 4, dtype=np.float64)
    if v.lens == "fisheye":
        straight = cv2.fisheye.undistortPoints(stored, K, coefficients[:4], P=K)
    else:
        straight = cv2.undistortPoints(stored, K, coefficients, P=K)
    where = straight.reshape(v.height, v.width, 2).astype(np.float32)
    return cv2.remap(
        mask,
        where,
        None,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=UNKNOWN,
    )


def stored_masks(capture: Capture, folder: Path) -> Capture:
    """The capture with the masks that `estimate_masks` has left in a folder.

    Raises ReconstructionError where there are none.
    """
    state = State.load(Path(folder))
    views = [index for index, view in enumerate(capture.views) if view.name in state.views]
    return _with_masks(capture, Path(folder), views, range(len(capture.frames)), state)


def _with_masks(capture, folder, views, frames, state: State) -> Capture:
    masks = dict(capture.masks)
    for view in views:
        known = state.views[capture.views[view].name]["method"] != "none"
        for frame in frames:
            masks.pop((frame, view), None)
            path = _file(folder, capture, frame, view)
            if known and path.is_file():
                masks[frame, view] = ImageFile(path, layer="estimated")
    return replace(capture, masks=masks)
