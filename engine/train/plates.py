"""Clean plates: what a static camera sees where the subject is not.

A foreground reconstruction is composited over its camera's plate, in training and in evaluation,
so that soft edges meet the colours that really lie behind them.
"""

from __future__ import annotations

import numpy as np

from ..atomic import write_bytes
from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..progress import Progress, ProgressCallback, silent
from .metrics import dilate
from .plan import Folder

#: Samples of the clip that a plate is made of, at most: a median needs no more.
PLATE_SAMPLES = 21
#: How far around the mask shadows and soft edges still spoil the background, relative to the
#: image's longer side (9 px at 640).
PLATE_DILATION = 0.014
#: Grey levels of 255 that a background seen again may differ by, and how deep a mask's rim may be
#: background, relative to the image's longer side (13 px at 640).
PLATE_ALIKE, PLATE_RIM = 12.0, 0.02


def clean_plate(
    capture: Capture, reader: ImageReader, view: int, *, max_bytes: int = 400 << 20
) -> np.ndarray | None:
    """The masked median of a view over the whole clip.

    Returns (H, W, 4) uint8: RGB, and 255 in the fourth channel where the background was ever seen;
    what was always hidden is filled in from around it (Telea 2004). None for a moving camera and
    for a view without masks.
    """
    import cv2

    chosen = _sampled(capture, capture.images, view, max_bytes)
    if not chosen:
        return None
    images = np.stack([reader.image(f, view) for f in chosen])
    hidden = _hidden(reader, view, chosen)
    # Hidden samples sort to the end, and the median is taken among the others only.
    known = len(chosen) - hidden.sum(axis=0)
    middle = np.maximum((known - 1) // 2, 0)[None]
    plate = np.zeros((*images.shape[1:3], 4), dtype=np.uint8)
    for channel in range(3):
        values = np.where(hidden, np.int16(256), images[..., channel])
        values.sort(axis=0)
        median = np.take_along_axis(values, middle, axis=0)[0]
        plate[..., channel] = np.where(known > 0, median, 0)
    plate[..., 3] = np.where(known > 0, 255, 0)
    holes = (known == 0).astype(np.uint8)
    if holes.any() and not holes.all():
        plate[..., :3] = cv2.inpaint(
            np.ascontiguousarray(plate[..., :3]), holes, 3, cv2.INPAINT_TELEA
        )
    return plate


def plate_depth(
    capture: Capture, reader: ImageReader, view: int, *, max_bytes: int = 400 << 20
) -> np.ndarray | None:
    """The depth (H, W) float32 of a view's clean plate, camera-space z in world units, 0 = unknown.

    The masked median of its depth maps over the clip, which averages the noise of a sensor out.
    None where there are none, or where they know nothing but the subject.
    """
    chosen = _sampled(capture, capture.depths, view, max_bytes)
    if not chosen:
        return None
    depth = np.stack([reader.depth(f, view) for f in chosen])
    depth[_hidden(reader, view, chosen) | (depth <= 0)] = np.nan
    known = np.isfinite(depth).any(axis=0)
    result = np.zeros(known.shape, dtype=np.float32)
    result[known] = np.nanmedian(depth[:, known], axis=0)
    return result if known.any() else None


def _sampled(capture, files, view, max_bytes):
    """The frames that a plate is made of: spread over those with such a file and a mask.

    None of a moving camera, which sees another background in each.
    """
    if capture.moving:
        return []
    both = files.keys() & capture.masks.keys()
    frames = [f for f in range(len(capture.frames)) if (f, view) in both]
    if not frames:
        return []
    size = capture.views[view].width * capture.views[view].height
    count = int(np.clip(max_bytes // (size * 4), 3, PLATE_SAMPLES))
    return sorted({frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)})


def _hidden(reader, view, frames):
    """Where the subject and its soft edges are, (F, H, W) bool."""
    masks = [reader.mask(frame, view) for frame in frames]
    margin = round(PLATE_DILATION * max(masks[0].shape))
    return np.stack([dilate(mask, margin) for mask in masks])


def surely_subject(mask: np.ndarray, image: np.ndarray, plate: np.ndarray | None) -> np.ndarray:
    """The mask (H, W) bool without the parts of its rim that look like the clean plate.

    Outlines are often a few pixels wide of the subject. image: (H, W, 3) uint8. plate: (H, W, 4),
    or None, and then all of the mask is believed. Only what reaches the outside through pixels like
    the plate's is taken away, and not deeper than PLATE_RIM: a grey shirt before a grey wall stays.
    """
    import cv2

    if plate is None or not mask.any():
        return mask
    difference = cv2.absdiff(np.ascontiguousarray(image), np.ascontiguousarray(plate[..., :3]))
    # A pixel's noise is not its neighbours'.
    alike = cv2.blur(difference.max(axis=2).astype(np.float32), (3, 3)) < PLATE_ALIKE
    alike &= plate[..., 3] > 0
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    outside = (~mask).astype(np.uint8)
    for _ in range(max(1, round(PLATE_RIM * max(mask.shape)))):
        grown = cv2.dilate(outside, cross) & alike.astype(np.uint8) | outside
        if np.array_equal(grown, outside):
            break
        outside = grown
    return outside == 0


def composite(rgba: np.ndarray, plate: np.ndarray | None) -> np.ndarray:
    """A premultiplied picture (H, W, 4) over a plate or over black: (H, W, 3) in [0, 1]."""
    picture = rgba[..., :3]
    if plate is not None:
        picture = picture + (1 - rgba[..., 3:]) * (plate[..., :3].astype(np.float32) / 255)
    return np.clip(picture, 0, 1)


def load_plates(
    capture: Capture,
    reader: ImageReader,
    folder: Folder,
    views: list[int],
    progress: ProgressCallback = silent,
) -> dict[int, np.ndarray]:
    """The plates of the given views, by view index; made once and kept in the folder as PNG."""
    import cv2

    plates = {}
    for number, view in enumerate(views):
        path = folder.plate(capture.views[view].name)
        if path.is_file():
            stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if stored is not None and stored.ndim == 3 and stored.shape[2] == 4:
                plates[view] = cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA)
        else:
            plate = clean_plate(capture, reader, view)
            if plate is not None:
                plates[view] = plate
                encoded = cv2.imencode(".png", cv2.cvtColor(plate, cv2.COLOR_RGBA2BGRA))[1]
                write_bytes(path, encoded.tobytes())
        progress(Progress("clean plates", number + 1, len(views)))
    return plates
