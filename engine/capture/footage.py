"""The footage of a view as programs that play image sequences and movies want it, and as files
that they can show where the capture's own cannot be: undistorted, renumbered, masks made visible.

Run as a module it does that for a capture and prints JSON lines (see `main`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..atomic import write_bytes, write_text
from ..errors import CaptureError, PeelError
from ..progress import Progress, ProgressCallback, silent
from ..worker.lifeline import ORPHANED, die_with, listen
from .capture import Capture, ImageFile
from .detect import open_capture
from .images import ImageReader, bends
from .listing import file_state

KINDS = ("images", "masks")
#: Marks a complete folder of prepared files; holds what they were made of.
MARK = "peel4d_footage.json"
_SUFFIX = {"images": ".jpg", "masks": ".png"}
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Footage:
    """What a view shows over the frames of its capture.

    path: a movie, or a file of a numbered sequence, or one still image.
    first: number of the file (or of the movie's frame) that shows frame index 0.
    kind: "movie", "sequence" or "still" (the one image of a capture with one frame).
    """

    path: Path
    first: int
    kind: str


def files_of(capture: Capture, view: int, kind: str) -> dict[int, ImageFile]:
    """{frame index: file} of one view; kind: "images" or "masks"."""
    files = capture.images if kind == "images" else capture.masks
    return {frame: file for (frame, v), file in sorted(files.items()) if v == view}


def playable(files: Mapping[int, ImageFile], frames: int) -> Footage | None:
    """The footage, if a player of sequences can show it from the files as they are.

    That needs a movie without gaps, or files that differ in one number that counts with the frame.
    frames: of the capture. None where the files have to be prepared first.
    """
    if not files or any(file.layer != "rgb" for file in files.values()):
        return None
    frame0, file0 = next(iter(files.items()))
    if file0.index is not None:
        first = file0.index - frame0
        straight = all(
            f.path == file0.path and f.index == first + frame for frame, f in files.items()
        )
        return Footage(file0.path, first, "movie") if straight else None
    if frames == 1:
        return Footage(file0.path, 0, "still")
    # The last number of the stem, as in Blender's BLI_path_sequence_decode.
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", file0.path.stem, re.DOTALL)
    if match is None:
        return None
    head, digits, tail = match.groups()
    first = int(digits) - frame0

    def expected(frame: int) -> str:
        return f"{head}{str(first + frame).zfill(len(digits))}{tail}{file0.path.suffix}"

    straight = all(
        file.index is None
        and file.path.parent == file0.path.parent
        and file.path.name == expected(frame)
        for frame, file in files.items()
    )
    return Footage(file0.path, first, "sequence") if straight else None


def why_prepared(capture: Capture, view: int, kind: str) -> str | None:
    """Why the files of a view cannot be shown as they are, None where they can (or are none)."""
    files = files_of(capture, view, kind)
    if not files:
        return None
    if bends(capture.views[view]):
        return "the lens is distorted"
    if playable(files, len(capture.frames)) is not None:
        return None
    if any(file.layer == "alpha" for file in files.values()):
        return "the mask is the images' alpha channel"
    return "the files are not numbered like the frames"


def prepared_name(capture: Capture, view: int, kind: str) -> str:
    """A folder name that changes with everything that prepared files are made of."""
    v = capture.views[view]
    K = capture.K[:, view] if capture.K.ndim == 4 else capture.K[view]
    digest = hashlib.sha256(repr((kind, v.width, v.height, v.lens, v.distortion)).encode())
    digest.update(np.ascontiguousarray(K).tobytes() if bends(v) else b"")
    known: dict[Path, str] = {}
    for frame, file in files_of(capture, view, kind).items():
        if file.path not in known:
            known[file.path] = f"{file.path} {file_state(file.path)}"
        digest.update(f"{frame} {file.index} {file.layer} {known[file.path]}\n".encode())
    return f"{v.name}-{kind}-{digest.hexdigest()[:12]}"


def prepared_footage(capture: Capture, view: int, kind: str, cache: Path) -> Footage | None:
    """The prepared files of a view in the folder `cache`, None where they are not complete."""
    folder = cache / prepared_name(capture, view, kind)
    if not (folder / MARK).is_file():
        return None
    frame0 = next(iter(files_of(capture, view, kind)), None)
    if frame0 is None:
        return None
    path = _prepared_file(folder, frame0, kind)
    return Footage(path, 0, "sequence" if len(capture.frames) > 1 else "still")


def _prepared_file(folder: Path, frame: int, kind: str) -> Path:
    return folder / f"{frame:06d}{_SUFFIX[kind]}"


def prepare(
    capture: Capture,
    cache: Path,
    wanted: Sequence[tuple[int, str]],
    *,
    progress: ProgressCallback = silent,
    finished: Callable[[int, str], None] = lambda view, kind: None,
) -> list[str]:
    """Write undistorted, plainly numbered files of views into `cache`, 8-bit JPEG and PNG.

    wanted: (view index, "images" or "masks"). finished: called when one of them is complete.
    Files that are there already (an interrupted run) are kept. Returns what could not be read,
    one text for each such file; its frame is left out. Raises OutputError.
    """
    import cv2

    faults = []
    total = sum(len(files_of(capture, view, kind)) for view, kind in wanted)
    done = 0
    with ImageReader(capture, cache_bytes=64 << 20) as reader:
        for view, kind in wanted:
            folder = cache / prepared_name(capture, view, kind)
            for frame in files_of(capture, view, kind):
                path = _prepared_file(folder, frame, kind)
                if not path.is_file():
                    try:
                        pixels = _pixels(reader, frame, view, kind)
                        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                        _, data = cv2.imencode(path.suffix, pixels, options)
                        write_bytes(path, data.tobytes())
                    except CaptureError as error:
                        faults.append(str(error))
                done += 1
                progress(Progress("footage", done, total))
            write_text(folder / MARK, json.dumps({"capture": str(capture.path)}))
            finished(view, kind)
    return faults


def _pixels(reader: ImageReader, frame: int, view: int, kind: str) -> np.ndarray:
    """As OpenCV writes them: BGR, or grey for masks."""
    if kind == "images":
        return reader.image(frame, view)[..., ::-1]
    return reader.mask(frame, view).astype(np.uint8) * 255


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare what `why_prepared` names. With --parent: stdin is open while the result is wanted.

    Prints {"event": "progress", step, total}, {"event": "finished", view, kind},
    {"event": "warning" | "error", message} and {"event": "done"}.
    """
    parser = argparse.ArgumentParser(prog="footage", description="Undistort a capture's footage.")
    parser.add_argument("capture", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--views", nargs="*", help="names; default all")
    parser.add_argument("--size", type=int, nargs=2)
    parser.add_argument("--parent", type=int, metavar="PID", help="end when it has gone")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        die_with(options.parent)
        listen(lambda: os._exit(ORPHANED))

    def emit(event: str, **values: object) -> None:
        print(json.dumps({"event": event, **values}), flush=True)

    try:
        capture = open_capture(options.capture, size=tuple(options.size) if options.size else None)
        wanted = [
            (index, kind)
            for index, view in enumerate(capture.views)
            if options.views is None or view.name in options.views
            for kind in KINDS
            if why_prepared(capture, index, kind)
            and prepared_footage(capture, index, kind, options.cache) is None
        ]
        # Images before masks: they are what people wait for.
        wanted.sort(key=lambda item: KINDS.index(item[1]))
        faults = prepare(
            capture,
            options.cache,
            wanted,
            progress=lambda p: emit("progress", step=p.step, total=p.total),
            finished=lambda view, kind: emit("finished", view=capture.views[view].name, kind=kind),
        )
        for fault in faults[:8]:
            emit("warning", message=fault)
    except PeelError as error:
        emit("error", message=str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        emit("error", message=f"undistorting needs OpenCV: {error}")
        return 2
    emit("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
