"""Reader of EasyVolcap / EasyMocap captures.

    intri.yml, extri.yml          calibration as OpenCV's FileStorage writes it
    images/<cam>/000000.jpg       or videos/<cam>.mp4
    masks/<cam>/000000.png        foreground masks (also mask/), optional; without this folder the
                                  alpha channel of PNG images is the mask
    depth/<cam>/000000.png        depth maps (also depths/), optional: camera-space z

intri.yml: `names`, per camera K_<cam> (3, 3), D_<cam> or dist_<cam>, optionally H_<cam>, W_<cam>.
extri.yml: R_<cam> (Rodrigues vector) and/or Rot_<cam> (3, 3), T_<cam> (3): world to camera, OpenCV
axes. Where both rotations stand, R_ counts, as in EasyVolcap's own reader. Moving cameras follow
EasyVolcap's monocular layout: cameras/<cam>/{intri,extri}.yml, whose entries are frame numbers.

Frame numbers are the digits at the end of the file names; images, masks and depth belong together
by number. Depth as 16-bit PNG is in millimetres of a metric world (0.001 world units per step;
`depth_scale` in peel4d.json changes that), as .exr or .npy in world units; 0 is unknown.

One calibration file may be given instead of a folder; its partner is looked for beside it. The
format has no held-out views, frame rate or up direction: peel4d.json adds them (see sidecar.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from .assemble import SIZE_HINT, checked, fill_poses
from .capture import Capture, ImageFile, View
from .image_header import has_alpha, image_size
from .listing import (
    DEPTH_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    camera_entry,
    files_in,
    folders_in,
    numbered_files,
)
from .opencv_yaml import Value, read_opencv_yaml
from .parsing import distortion, matrix, number, pixels
from .video import can_probe, video_info

_FPS = 30.0
MILLIMETRE = 1e-3


_KINDS = ("intri", "extri")


def calibration_files(folder: Path) -> list[Path]:
    """The .yml files of a folder that call themselves intri or extri, by name."""
    return [
        p
        for p in files_in(folder, (".yml", ".yaml"))
        if any(kind in p.stem.lower() for kind in _KINDS)
    ]


def camera_folders(folder: Path) -> list[Path]:
    """cameras/<cam> of EasyVolcap's layout for moving cameras."""
    return [p for p in folders_in(folder / "cameras") if (p / "intri.yml").is_file()]


@dataclass(frozen=True, eq=False)
class _Calibrated:
    """One entry of a pair of calibration files. size: (width, height) or None."""

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    distortion: tuple[float, ...]
    size: tuple[int, int] | None


def rodrigues(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a rotation vector (3,): axis times angle in radians."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def _names(entries: dict[str, Value], prefix: str) -> list[str]:
    """The cameras of one file: `names`, or without such a list what follows `prefix` in keys."""
    names = entries.get("names")
    if names is not None:
        names = names if isinstance(names, list) else [str(names)]
        return [name for name in names if name and name != "none"]
    return [key[len(prefix) :] for key in entries if key.startswith(prefix)]


def _rotation(extri: dict[str, Value], name: str, where: str) -> tuple[np.ndarray, bool]:
    """(R, whether R_ and Rot_ of this camera contradict each other)."""
    vector, full = extri.get(f"R_{name}"), extri.get(f"Rot_{name}")
    if vector is None and full is None:
        raise CaptureError(f"neither R_{name} nor Rot_{name} is there", where=where)
    if vector is None:
        return matrix(full, (3, 3), f"Rot_{name}", where), False
    if np.size(vector) == 9:  # some exporters put the matrix under R_
        return matrix(vector, (3, 3), f"R_{name}", where), False
    R = rodrigues(matrix(vector, (3,), f"R_{name}", where))
    if full is None:
        return R, False
    return R, bool(np.abs(matrix(full, (3, 3), f"Rot_{name}", where) - R).max() > 1e-2)


def _read_pair(intri_path: Path, extri_path: Path) -> tuple[dict[str, _Calibrated], list[str]]:
    """Cameras that both files know, in the order of intri.yml, and notes. Raises CaptureError."""
    intri, extri = read_opencv_yaml(intri_path), read_opencv_yaml(extri_path)
    intri_names = _names(intri, "K_")
    extri_names = _names(extri, "T_")
    for path, names in ((intri_path, intri_names), (extri_path, extri_names)):
        if not names:
            raise CaptureError("lists no cameras", where=path)
    common = [name for name in intri_names if name in set(extri_names)]
    if not common:
        raise CaptureError(
            f"has no camera in common with {intri_path.name}",
            where=extri_path,
            hint=f"{intri_path.name} has {', '.join(intri_names[:8])}; "
            f"{extri_path.name} has {', '.join(extri_names[:8])}",
        )
    notes = []
    for path, names in ((intri_path, intri_names), (extri_path, extri_names)):
        only = [name for name in names if name not in set(common)]
        if only:
            notes.append(
                f"{len(only)} cameras stand in {path.name} only and are left out: "
                + ", ".join(only[:12])
                + (", ..." if len(only) > 12 else "")
            )
    cameras, contradictions = {}, []
    for name in common:
        here, there = f"{intri_path}, view '{name}'", f"{extri_path}, view '{name}'"
        for key, entries, where in ((f"K_{name}", intri, here), (f"T_{name}", extri, there)):
            if key not in entries:
                raise CaptureError(f"{key} is missing", where=where)
        coefficients = intri.get(f"D_{name}", intri.get(f"dist_{name}", ()))
        R, contradicts = _rotation(extri, name, there)
        if contradicts:
            contradictions.append(name)
        width, height = intri.get(f"W_{name}"), intri.get(f"H_{name}")
        size = None
        # EasyVolcap writes -1 for an unknown size.
        if width is not None and number(width, f"W_{name}", here) > 0 and height is not None:
            size = pixels(width, f"W_{name}", here), pixels(height, f"H_{name}", here)
        cameras[name] = _Calibrated(
            matrix(intri[f"K_{name}"], (3, 3), f"K_{name}", here),
            R,
            matrix(extri[f"T_{name}"], (3,), f"T_{name}", there),
            distortion(coefficients, f"D_{name}", here),
            size,
        )
    if contradictions:
        notes.append(
            f"R_ and Rot_ differ for {', '.join(contradictions)}; R_ is used, as EasyVolcap does"
        )
    return cameras, notes


def _partner(path: Path) -> tuple[Path, Path]:
    """(intri, extri) when `path` is one of them.

    The partner has the same name with intri and extri swapped, or is the only file of the folder
    with the other word in its name. Raises CaptureError that says which file is missing.
    """
    own = next((kind for kind in _KINDS if kind in path.stem.lower()), None)
    if own is None:
        keys = read_opencv_yaml(path)
        own = "intri" if any(key.startswith("K_") for key in keys) else "extri"
    other = _KINDS[1 - _KINDS.index(own)]
    swapped = path.name.lower().replace(own, other)
    candidates = [
        p for p in calibration_files(path.parent) if other in p.stem.lower() and p != path
    ]
    same_name = [p for p in candidates if p.name.lower() == swapped]
    if same_name or len(candidates) == 1:
        partner = (same_name or candidates)[0]
    else:
        found = f"{len(candidates)} files could be it" if candidates else f"no {other}.yml is there"
        raise CaptureError(
            f"the {'extrinsics' if other == 'extri' else 'intrinsics'} are missing: {found}",
            where=path,
            hint=f"Put {other}.yml beside {path.name}",
        )
    return (path, partner) if own == "intri" else (partner, path)


def _entries(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Camera folders of the first of the folders `names` that exists."""
    for name in names:
        if (root / name).is_dir():
            return {p.name: p for p in folders_in(root / name)}
    return {}


def _folder_images(
    root: Path, folders: tuple[str, ...], cameras: list[str], suffixes: tuple[str, ...]
) -> dict[int, dict[int, Path]]:
    """{view index: {frame number: file}} of images/<cam>/..."""
    entries = _entries(root, folders)
    found = {}
    for view, camera in enumerate(cameras):
        folder = camera_entry(entries, camera)
        if folder is not None:
            found[view] = numbered_files(folder, suffixes)
    return found


@dataclass(frozen=True)
class _Footage:
    """images: {(frame number, view index): file}. sizes: of the videos, by view index."""

    images: dict[tuple[int, int], ImageFile]
    sizes: dict[int, tuple[int, int]]
    fps: float | None
    notes: tuple[str, ...]


def _video_footage(root: Path, cameras: list[str]) -> _Footage:
    entries = {p.stem: p for p in files_in(root / "videos", VIDEO_SUFFIXES)}
    if not entries:
        return _Footage({}, {}, None, ())
    if not can_probe():
        note = 'videos/ is not read because PyAV is missing: pip install "peel4d[train]"'
        return _Footage({}, {}, None, (note,))
    images, sizes, rates = {}, {}, []
    for view, camera in enumerate(cameras):
        path = camera_entry(entries, camera)
        if path is None:
            continue
        info = video_info(path)
        sizes[view] = info.width, info.height
        if info.fps:
            rates.append(info.fps)
        for frame in range(info.frames):
            images[frame, view] = ImageFile(path, index=frame)
    notes = ()
    if rates and max(rates) - min(rates) > 0.01:
        notes = (f"the videos have different frame rates, {min(rates):g} to {max(rates):g} fps",)
    return _Footage(images, sizes, rates[0] if rates else None, notes)


def _footage(root: Path, cameras: list[str]) -> _Footage:
    stills = _folder_images(root, ("images",), cameras, IMAGE_SUFFIXES)
    images = {
        (frame, view): ImageFile(path)
        for view, files in stills.items()
        for frame, path in files.items()
    }
    return _Footage(images, {}, None, ()) if images else _video_footage(root, cameras)


def _view_size(
    calibrated: _Calibrated,
    size: tuple[int, int] | None,
    video_size: tuple[int, int] | None,
    first_image: Path | None,
    where: str,
) -> tuple[int, int]:
    """The calibration's own size, else the user's, else that of the footage."""
    known = calibrated.size or size or video_size
    if known is None and first_image is not None:
        try:
            known = image_size(first_image)
        except OSError as error:
            raise CaptureError(f"cannot read ({error.strerror})", where=first_image) from error
    if known is None:
        raise CaptureError("the image size is unknown", where=where, hint=SIZE_HINT)
    return known


def _alpha_masks(images: dict[tuple[int, int], ImageFile]) -> dict[tuple[int, int], ImageFile]:
    """The alpha channels as masks, of views whose first image has one."""
    views: dict[int, bool] = {}
    for (_, view), image in sorted(images.items()):
        if view not in views:
            views[view] = image.index is None and has_alpha(image.path)
    return {key: replace(image, layer="alpha") for key, image in images.items() if views[key[1]]}


def _calibration(
    path: Path,
) -> tuple[Path, dict[str, dict[int | None, _Calibrated]], list[str]]:
    """(root, {camera: {frame number, or None for every frame: entry}}, notes)."""
    if path.is_file():
        cameras, notes = _read_pair(*_partner(path))
        return path.parent, {name: {None: c} for name, c in cameras.items()}, notes
    stated = calibration_files(path)
    folders = camera_folders(path)
    if folders and not any(p.stem in _KINDS for p in stated):
        moving: dict[str, dict[int | None, _Calibrated]] = {}
        notes = []
        for folder in folders:
            entries, folder_notes = _read_pair(*_partner(folder / "intri.yml"))
            notes += folder_notes
            if not all(name.isdecimal() for name in entries):
                raise CaptureError("the entries are not frame numbers", where=folder / "intri.yml")
            moving[folder.name] = {int(name): c for name, c in entries.items()}
        return path, moving, notes
    start = next((p for p in stated if p.stem in _KINDS), stated[0])
    cameras, notes = _read_pair(*_partner(start))
    return path, {name: {None: c} for name, c in cameras.items()}, notes


def read_easyvolcap(path: Path, size: tuple[int, int] | None = None) -> Capture:
    """Read an EasyVolcap folder or one of its calibration files.

    size: (width, height) where neither calibration nor footage knows it. Raises CaptureError.
    """
    root, calibration, notes = _calibration(path)
    names = list(calibration)
    footage = _footage(root, names)
    notes += footage.notes
    numbers = {frame for frame, _ in footage.images}
    for entries in calibration.values():
        numbers |= {frame for frame in entries if frame is not None}
    labels = sorted(numbers) or [0]
    frame_of = {label: index for index, label in enumerate(labels)}

    views, poses = [], {}
    for index, name in enumerate(names):
        entries = calibration[name]
        any_entry = next(iter(entries.values()))
        stills = (footage.images.get((label, index)) for label in labels)
        still = next((s.path for s in stills if s is not None and s.index is None), None)
        where = f"{path}, view '{name}'"
        width, height = _view_size(any_entry, size, footage.sizes.get(index), still, where)
        views.append(View(name, width, height, any_entry.distortion))
        for label, entry in entries.items():
            frame = 0 if label is None else frame_of[label]
            poses[frame, index] = entry.K, entry.R, entry.t

    if any(None in entries for entries in calibration.values()):
        K, R, t = (np.stack([poses[0, v][i] for v in range(len(names))]) for i in range(3))
    else:
        K, R, t = fill_poses(poses, len(labels), len(names))

    images = {(frame_of[label], v): image for (label, v), image in footage.images.items()}

    def beside(folders: tuple[str, ...], suffixes: tuple[str, ...], scale: float = 1.0) -> dict:
        found = {}
        for view, files in _folder_images(root, folders, names, suffixes).items():
            for label, file in files.items():
                if label in frame_of:
                    factor = 1.0 if file.suffix.lower() in (".exr", ".npy") else scale
                    found[frame_of[label], view] = ImageFile(file, scale=factor)
        return found

    masks = beside(("masks", "mask"), IMAGE_SUFFIXES)
    if not masks:
        masks = _alpha_masks(images)
    fps = footage.fps or _FPS
    return checked(
        Capture(
            path,
            "easyvolcap",
            tuple(views),
            tuple(labels),
            K,
            R,
            t,
            np.repeat(np.array(labels, dtype=np.float64)[:, None] / fps, len(views), axis=1),
            images=images,
            masks=masks,
            depths=beside(("depth", "depths"), DEPTH_SUFFIXES, MILLIMETRE),
            fps=fps,
            notes=tuple(notes),
        )
    )
