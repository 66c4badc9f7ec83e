"""Health checks that open the image files of a capture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .capture import Capture, ImageFile
from .decode import opencv_available
from .findings import Finding, enumeration
from .image_header import image_size, is_truncated
from .images import ImageReader
from .video import video_info

# Masks are decoded up to so many pixels in all (about two seconds), then every n-th of each view.
_MASK_PIXELS = 400_000_000
_HEADER_SUFFIXES = (".jpg", ".jpeg", ".png")


def examine_images(capture: Capture) -> list[Finding]:
    """Sizes that disagree with the calibration, damaged files, empty masks."""
    found = []
    for what, files in (
        ("image", capture.images),
        ("mask", capture.masks),
        ("depth map", capture.depths),
    ):
        flaws, bad = _sizes(capture, what, files)
        found += flaws
        if what == "mask":
            found += _masks(capture, sorted(set(files) - bad, key=lambda key: key[::-1]))
    return found


def _place(capture: Capture, frame: int, view: int) -> str:
    return f"view {capture.views[view].name} frame {capture.frames[frame]}"


def _stored_size(file: ImageFile) -> tuple[int, int] | None:
    """(width, height) from the header. Raises CaptureError for a damaged file."""
    if file.index is not None:
        info = video_info(file.path)
        return info.width, info.height
    if file.path.suffix.lower() not in _HEADER_SUFFIXES:
        return None
    try:
        size = image_size(file.path)
        if size is None:
            raise CaptureError("is not a readable image", where=file.path)
        if not _ends_well(file.path) and is_truncated(file.path.read_bytes()):
            raise CaptureError("is cut off", where=file.path)
    except OSError as error:
        raise CaptureError(f"cannot be read ({error.strerror})", where=file.path) from error
    return size


def _ends_well(path: Path) -> bool:
    """The usual case: the end mark stands at the very end, so the rest need not be read."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 12))
        tail = file.read()
    return tail.endswith(b"\xff\xd9") or b"IEND" in tail


def _sizes(
    capture: Capture, what: str, files: dict[tuple[int, int], ImageFile]
) -> tuple[list[Finding], set[tuple[int, int]]]:
    """Findings about headers, and the keys of the files that they are about."""
    bad = set()
    wrong: dict[tuple[str, str], list[str]] = {}
    damaged: dict[str, list[str]] = {}
    known: dict[Path, tuple[int, int] | None] = {}  # a video is asked once, not for every frame
    for (frame, view), file in sorted(files.items(), key=lambda item: item[0][::-1]):
        try:
            if file.path not in known:
                known[file.path] = _stored_size(file)
        except CaptureError as error:
            known[file.path] = None
            damaged.setdefault(error.what, []).append(str(file.path))
            bad.add((frame, view))
            continue
        size, expected = known[file.path], capture.views[view]
        if size is not None and size != (expected.width, expected.height):
            key = f"{size[0]}x{size[1]}", f"{expected.width}x{expected.height}"
            wrong.setdefault(key, []).append(_place(capture, frame, view))
            bad.add((frame, view))
    found = [
        Finding(
            "error",
            f"the size of {len(places)} {what}s is {stored}, the calibration says {calibrated}",
            enumeration(places, 4),
        )
        for (stored, calibrated), places in wrong.items()
    ]
    found += [
        Finding("error", f"{what} file {fault}", enumeration(paths, 4))
        for fault, paths in damaged.items()
    ]
    return found, bad


def _masks(capture: Capture, keys: list[tuple[int, int]]) -> list[Finding]:
    """Empty, full and undecodable masks among `keys`, (frame, view) indices."""
    views = [capture.views[view] for _, view in keys]
    pixels = sum(view.width * view.height for view in views)
    step = max(1, -(-pixels // _MASK_PIXELS))
    empty, full, found = [], [], []
    checked = 0
    with ImageReader(capture, cache_bytes=0) as reader:
        for frame, view in keys[::step]:
            try:
                share = float(np.mean(reader.mask(frame, view)))
            except CaptureError as error:
                if not opencv_available():  # said once, for all
                    return [Finding("note", f"masks were not checked: {error.what}")]
                found.append(Finding("error", error.what, error.where or ""))
                continue
            checked += 1
            if share == 0:
                empty.append((frame, view))
            elif share == 1:
                full.append((frame, view))
    if checked and len(empty) == checked:
        found.append(Finding("error", "all masks are empty", str(capture.path)))
    elif empty:
        found.append(
            Finding(
                "warning",
                f"{len(empty)} of {checked} masks are empty",
                enumeration([_place(capture, *key) for key in empty]),
            )
        )
    if full:
        found.append(
            Finding(
                "warning",
                f"{len(full)} of {checked} masks cover the whole image",
                enumeration([_place(capture, *key) for key in full]),
            )
        )
    if step > 1:
        found.append(Finding("note", f"every {step}th mask was checked ({checked})"))
    return found
