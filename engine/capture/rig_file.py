"""peel4d_rig.json: calibrated cameras by Peel4D itself, with the footage of another capture or
with its own.

{
  "schema": "peel4d-rig", "version": 1,
  "source": "../capture",          the capture whose footage it is; without it views name their own
  "size": [1920, 1080],            of the source's images, where the source states none
  "fps": 30, "up": [0, 0, 1],      optional; as the source says otherwise
  "views": [{
    "name": "03",                  with a source: the name of the view there
    "width": 1920, "height": 1080,
    "K": 3 x 3 or frames x 3 x 3,  pixels, (0, 0) is the image's top-left corner
    "R": 3 x 3 or frames x 3 x 3,  world to camera, OpenCV axes
    "t": 3 or frames x 3,
    "lens": "pinhole" | "fisheye", "distortion": [k1, k2, p1, p2, ...],
    "train": true,
    "images": ["03/0001.jpg", null, ...] | "videos/03.mp4",      without a source: one per frame
    "masks": the same, optional
  }]
}

Paths count from the folder of the file. Frames are those of the source; without a source they are
counted from 0 and a single image (or none) serves for one frame. Views of the source that are not
listed are left out, so a rig that was corrected, thinned out or built in Blender is reconstructed
as it stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..atomic import write_text
from ..errors import CaptureError
from .assemble import checked, static_if_constant
from .capture import Capture, ImageFile, View
from .listing import VIDEO_SUFFIXES
from .parsing import distortion, matrix, number, pixels, read_json
from .video import video_info

FILE_NAME = "peel4d_rig.json"
FORMAT = "peel4d-rig"
VERSION = 1
_LENSES = ("pinhole", "fisheye")
_FPS = 30.0


@dataclass(frozen=True, eq=False)
class RigView:
    """A view as the file states it.

    K: (3, 3) or (F, 3, 3). R: likewise. t: (3,) or (F, 3). images, masks: a video, or one path or
    None for each frame; () where the footage is the source's.
    """

    view: View
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    images: Path | Sequence[Path | None] = ()
    masks: Path | Sequence[Path | None] = ()


def is_rig(document: dict) -> bool:
    return document.get("schema") == FORMAT


def _stated_path(path: Path, folder: Path) -> str:
    """Relative where that stays readable: on the same drive and not through the root."""
    path = path.absolute()
    try:
        relative = Path(os.path.relpath(path, folder.absolute()))
    except ValueError:  # another drive on Windows
        return path.as_posix()
    return (path if relative.parts.count("..") > 3 else relative).as_posix()


def _stated_files(files: Path | Sequence[Path | None], folder: Path) -> str | list[str | None]:
    if isinstance(files, Path):
        return _stated_path(files, folder)
    return [None if file is None else _stated_path(file, folder) for file in files]


def write_rig(
    path: Path,
    views: Sequence[RigView],
    *,
    source: Path | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    up: np.ndarray | None = None,
) -> None:
    """Write the file that `open_capture(path)` reads back to the last digit.

    source: capture with the footage. size: as given to `open_capture` for it. Raises OutputError.
    """
    folder = path.parent
    document: dict[str, object] = {"schema": FORMAT, "version": VERSION}
    if source is not None:
        document["source"] = _stated_path(source, folder)
    if size is not None:
        document["size"] = list(size)
    if fps is not None:
        document["fps"] = fps
    if up is not None:
        document["up"] = np.asarray(up, dtype=np.float64).tolist()
    document["views"] = [
        {
            "name": rig_view.view.name,
            "width": rig_view.view.width,
            "height": rig_view.view.height,
            "K": np.asarray(rig_view.K, dtype=np.float64).tolist(),
            "R": np.asarray(rig_view.R, dtype=np.float64).tolist(),
            "t": np.asarray(rig_view.t, dtype=np.float64).tolist(),
            "lens": rig_view.view.lens,
            "distortion": list(rig_view.view.distortion),
            "train": rig_view.view.train,
            **({"images": _stated_files(rig_view.images, folder)} if rig_view.images else {}),
            **({"masks": _stated_files(rig_view.masks, folder)} if rig_view.masks else {}),
        }
        for rig_view in views
    ]
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _resolved(stated: str, folder: Path) -> Path:
    """Without "..", as other programs and people write the same path."""
    return Path(os.path.normpath(folder / stated))


def _files(value: object, folder: Path, what: str, where: str) -> list[ImageFile | None]:
    """One file per frame from a list of paths or a video. Raises CaptureError."""
    if value is None:
        return []
    if isinstance(value, str):
        path = _resolved(value, folder)
        if not path.name.lower().endswith(VIDEO_SUFFIXES):
            value = [value]
        else:
            count = video_info(path).frames if path.is_file() else 0
            return [ImageFile(path, index=index) for index in range(count)]
    if not isinstance(value, list) or not all(v is None or isinstance(v, str) for v in value):
        raise CaptureError(f"'{what}' is neither a path nor a list of paths", where=where)
    return [None if v is None else ImageFile(_resolved(v, folder)) for v in value]


def _view(entry: object, index: int, path: Path) -> tuple[RigView, dict]:
    """A view and its entry, K, R and t with a leading axis of frames. Raises CaptureError."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise CaptureError("has no name", where=f"{path}, views[{index}]")
    where = f"{path}, view '{entry['name']}'"
    lens = entry.get("lens", "pinhole")
    if lens not in _LENSES:
        raise CaptureError(f"the lens {lens!r} is neither pinhole nor fisheye", where=where)
    coefficients = entry.get("distortion", [])
    view = View(
        entry["name"],
        pixels(entry.get("width"), "width", where),
        pixels(entry.get("height"), "height", where),
        tuple(distortion(coefficients, "distortion", where)),
        lens,
        train=entry.get("train", True) is True,
    )
    arrays = []
    for key, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,))):
        value = entry.get(key)
        deep = isinstance(value, list) and value and np.ndim(value[0]) == len(shape)
        if deep:
            rows = [matrix(row, shape, key, where) for row in value]
            arrays.append(np.stack(rows))
        else:
            arrays.append(matrix(value, shape, key, where)[None])
    return RigView(view, *arrays), entry


def _over_frames(array: np.ndarray, frames: int, what: str, where: str) -> np.ndarray:
    """(1 or F, ...) -> (F, ...). Raises CaptureError for another number of frames."""
    if len(array) not in (1, frames):
        raise CaptureError(f"{what} has {len(array)} frames instead of {frames}", where=where)
    return np.broadcast_to(array, (frames, *array.shape[1:]))


def _calibration(
    views: Sequence[RigView], frames: int, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R, t as a Capture has them: with frames only where something moves."""

    def stacked(name: str) -> np.ndarray:
        return np.stack(
            [
                _over_frames(getattr(v, name), frames, name, f"{path}, view '{v.view.name}'")
                for v in views
            ],
            axis=1,
        )

    pose = static_if_constant(np.concatenate([stacked("R"), stacked("t")[..., None]], axis=-1))
    return static_if_constant(stacked("K")), pose[..., :3].copy(), pose[..., 3].copy()


def _without_source(path: Path, views: list[RigView], entries: list[dict], fps: float) -> Capture:
    footage = {}
    for kind in ("images", "masks"):
        footage[kind] = [
            _files(entry.get(kind), path.parent, kind, f"{path}, view '{entry['name']}'")
            for entry in entries
        ]
    frames = max(
        1,
        *(len(files) for kind in footage.values() for files in kind),
        *(len(v.R) for v in views),
    )
    found: dict[str, dict] = {"images": {}, "masks": {}}
    missing = []
    for kind, listed in footage.items():
        for view, files in enumerate(listed):
            for frame, file in enumerate(files):
                if file is None:
                    continue
                if file.path.is_file():
                    found[kind][frame, view] = file
                else:
                    missing.append(str(file.path))
    notes = (f"{len(missing)} files do not exist, first {missing[0]}",) if missing else ()
    K, R, t = _calibration(views, frames, path)
    time = np.repeat(np.arange(frames)[:, None] / fps, len(views), axis=1)
    return Capture(
        path,
        FORMAT,
        tuple(v.view for v in views),
        tuple(range(frames)),
        K,
        R,
        t,
        time,
        images=found["images"],
        masks=found["masks"],
        fps=fps,
        notes=notes,
    )


def _with_source(path: Path, views: list[RigView], source: Capture) -> Capture:
    columns = [source.view_index(v.view.name) for v in views]
    new_index = {column: index for index, column in enumerate(columns)}

    def kept(files: dict) -> dict:
        return {(f, new_index[v]): file for (f, v), file in files.items() if v in new_index}

    K, R, t = _calibration(views, len(source.frames), path)
    return replace(
        source,
        path=path,
        format=FORMAT,
        views=tuple(v.view for v in views),
        K=K,
        R=R,
        t=t,
        time=source.time[:, columns],
        images=kept(source.images),
        masks=kept(source.masks),
        depths=kept(source.depths),
    )


def rig_source(path: Path, document: dict) -> tuple[Path, tuple[int, int] | None] | None:
    """The capture that a rig file takes its footage from, and its size where that is needed.

    None without one. Raises CaptureError.
    """
    if document.get("version") != VERSION:
        raise CaptureError(
            f"is a rig of version {document.get('version')}, this is for version {VERSION}",
            where=path,
            hint="Update Peel4D, or write the rig again",
        )
    size = document.get("size")
    if size is not None:
        width, height = matrix(size, (2,), "size", path)
        size = pixels(width, "size", path), pixels(height, "size", path)
    stated = document.get("source")
    if stated is None:
        return None
    if not isinstance(stated, str):
        raise CaptureError("'source' is not a path", where=path)
    return _resolved(stated, path.parent), size


def read_rig(path: Path, source: Capture | None) -> Capture:
    """Read a rig file; source: the opened capture that `rig_source` names. Raises CaptureError."""
    document = read_json(path)
    entries = document.get("views")
    if not isinstance(entries, list) or not entries:
        raise CaptureError("lists no cameras", where=path)
    parsed = [_view(entry, index, path) for index, entry in enumerate(entries)]
    views = [view for view, _ in parsed]
    fps = None
    if document.get("fps") is not None:
        fps = number(document["fps"], "fps", path)
        if not fps > 0:
            raise CaptureError(f"fps is {fps:g}", where=path)
    if source is None:
        capture = _without_source(path, views, [entry for _, entry in parsed], fps or _FPS)
    else:
        capture = _with_source(path, views, source)
        if fps is not None:
            capture = replace(capture, fps=fps, time=capture.time * (capture.fps / fps))
    if document.get("up") is not None:
        up = matrix(document["up"], (3,), "up", path)
        length = float(np.linalg.norm(up))
        if length == 0:
            raise CaptureError("up has no direction", where=path)
        capture = replace(capture, up=up / length)
    return checked(capture)
