"""Reader of Dynamic 3D Gaussians captures (Luiten et al. 2023; the PanopticSports packing).

    train_meta.json, test_meta.json   {"w", "h", "k", "w2c", "fn", "cam_id"}, each a list over
                                      frames of lists over cameras
    ims/<fn>                          images, fn such as "12/000034.jpg"
    seg/<fn with .png>                foreground masks where there are any

k: (3, 3) pixels; w2c: (4, 4) world to camera, OpenCV axes. The views of test_meta.json are held
out (train=False). A single JSON file loads too, with images when `ims/` lies beside it.
The format states neither a frame rate nor an up direction; Panoptic's cameras run at 30 fps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .assemble import checked, fill_poses
from .capture import Capture, ImageFile, View
from .listing import files_in, frame_number
from .parsing import matrix, pixels, read_json

_FPS = 30.0
_MASK_SUFFIXES = (".png", ".jpg", ".jpeg")


def is_dynamic3dgs(document: dict) -> bool:
    return "w2c" in document and "k" in document


@dataclass(frozen=True, eq=False)
class _Shot:
    """One camera at one frame. label: the source's frame number. file: relative to `ims/`."""

    camera: str
    label: int
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    file: str | None


def _frame_label(names: list[str], index: int) -> int:
    """The number in the file names of a frame where all cameras agree on it, else its index."""
    numbers = {frame_number(Path(name).stem) for name in names}
    number = numbers.pop() if len(numbers) == 1 else None
    return index if number is None else number


def _table(document: dict, key: str, path: Path, like: list | None) -> list:
    """`document[key]` as a list over frames of lists over cameras, shaped as `like`."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise CaptureError(f"'{key}' is not a list over frames of lists over cameras", where=path)
    if like is not None and [len(row) for row in value] != [len(row) for row in like]:
        raise CaptureError(
            f"'{key}' does not have as many frames and cameras as 'k'",
            where=path,
            hint="The file is damaged or was edited by hand",
        )
    return value


def _shots(document: dict, path: Path) -> list[_Shot]:
    ks = _table(document, "k", path, None)
    poses = _table(document, "w2c", path, ks)
    files = _table(document, "fn", path, ks) if "fn" in document else None
    cameras = _table(document, "cam_id", path, ks) if "cam_id" in document else None
    labels = [
        _frame_label([str(name) for name in files[i]], i) if files else i for i in range(len(ks))
    ]
    if len(set(labels)) != len(labels):
        labels = list(range(len(ks)))
    shots = []
    for i, label in enumerate(labels):
        for j in range(len(ks[i])):
            camera = str(cameras[i][j]) if cameras else str(j)
            here = f"{path}, view '{camera}', frame {label}"
            w2c = poses[i][j]
            rows = 3 if isinstance(w2c, list) and len(w2c) == 3 else 4
            pose = matrix(w2c, (rows, 4), "w2c", here)
            file = str(files[i][j] or "").replace("\\", "/") if files else ""
            K = matrix(ks[i][j], (3, 3), "k", here)
            shots.append(_Shot(camera, label, K, pose[:3, :3], pose[:3, 3], file or None))
    return shots


def _image_files(folder: Path, shots: list[_Shot]) -> dict[str, set[str]]:
    """Names that exist in the folders that the shots point into: one listing per folder."""
    parents = {str(Path(shot.file).parent) for shot in shots if shot.file}
    return {p: {f.name for f in files_in(folder / p, ("",))} for p in parents}


def _natural_order(name: str) -> tuple[bool, int, str]:
    """Sort key: numbered cameras by number, then the others by name."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def read_dynamic3dgs(path: Path) -> Capture:
    """Read a folder with train_meta.json and/or test_meta.json, or one such file.

    Raises CaptureError.
    """
    if path.is_dir():
        sources = [p for n in ("train_meta.json", "test_meta.json") if (p := path / n).is_file()]
        root = path
    else:
        sources, root = [path], path.parent

    notes: list[str] = []
    shots: list[_Shot] = []
    sizes: dict[str, tuple[int, int]] = {}
    train: dict[str, bool] = {}
    for source in sources:
        document = read_json(source)
        size = (pixels(document.get("w"), "w", source), pixels(document.get("h"), "h", source))
        new = _shots(document, source)
        repeated = sorted({shot.camera for shot in new} & set(sizes))
        if repeated:
            notes.append(f"{source.name} repeats cameras of the other file: {', '.join(repeated)}")
        for shot in new:
            if shot.camera not in repeated:
                shots.append(shot)
                sizes[shot.camera] = size
                train[shot.camera] = not source.stem.endswith("test_meta")
    if not shots:
        raise CaptureError("lists no cameras", where=path)

    names = sorted(
        sizes, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    view_of = {name: index for index, name in enumerate(names)}
    labels = sorted({shot.label for shot in shots})
    frame_of = {label: index for index, label in enumerate(labels)}
    views = tuple(View(name, *sizes[name], train=train[name]) for name in names)

    image_names = _image_files(root / "ims", shots)
    mask_names = _image_files(root / "seg", shots)
    poses, images, masks = {}, {}, {}
    missing: list[str] = []
    for shot in shots:
        key = frame_of[shot.label], view_of[shot.camera]
        poses[key] = shot.K, shot.R, shot.t
        if shot.file is None:
            continue
        parent, name = str(Path(shot.file).parent), Path(shot.file)
        if name.name in image_names[parent]:
            images[key] = ImageFile(root / "ims" / name)
        else:
            missing.append(shot.file)
        for suffix in _MASK_SUFFIXES:
            if name.stem + suffix in mask_names[parent]:
                masks[key] = ImageFile(root / "seg" / name.with_suffix(suffix))
                break
    if missing and images:
        notes.append(
            f"{len(missing)} images named in the json do not exist, first ims/{missing[0]}"
        )

    K, R, t = fill_poses(poses, len(labels), len(views))
    time = np.repeat(np.array(labels, dtype=np.float64)[:, None] / _FPS, len(views), axis=1)
    return checked(
        Capture(
            path,
            "dynamic3dgs",
            views,
            tuple(labels),
            K,
            R,
            t,
            time,
            images=images,
            masks=masks,
            fps=_FPS,
            notes=tuple(notes),
        )
    )
