"""Reader of transforms.json in its nerfstudio, instant-ngp, Blender (NeRF synthetic) and D-NeRF
forms.

    transforms.json, or transforms_train.json, transforms_val.json, transforms_test.json
    {"camera_angle_x" | "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "p1", "p2", "k3", ...,
     "frames": [{"file_path", "transform_matrix", "time"?, "mask_path"?, "depth_file_path"?, and
                 any of the intrinsics, which then count for this image alone}]}

transform_matrix: (4, 4) camera to world with OpenGL camera axes (x right, y up, z backwards).
Angles are whole fields of view in radians; cx, cy default to the middle. Images without a mask
file that have an alpha channel use it as their mask. Integer depth maps are in units of
`depth_unit_scale_factor` (nerfstudio) or `integer_depth_scale` (instant-ngp), 0.001 by default.

Without `time` every image is a view of its own at the one frame. With `time` (any unit; D-NeRF's
runs from 0 to 1) the distinct times are the frames, counted from 0, and images belong to one view
by, in this order: their "camera" field; equal pose and intrinsics (static cameras); the folder
they lie in; else all are one moving camera. Time between neighbouring frames is 1 / fps (30, or
the file's own "fps"), as the unit of `time` is not known.

Views of transforms_test.json, transforms_val.json, or of the `test_filenames` and `val_filenames`
of nerfstudio, are held out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import CaptureError
from .assemble import SIZE_HINT, checked, fill_poses, unique_names
from .capture import Capture, ImageFile, View
from .image_header import has_alpha, image_size
from .listing import IMAGE_SUFFIXES
from .parsing import distortion, matrix, number, pixels, read_json
from .view_grouping import Lens, Shot, frames_of, grouped, split_into_views, view_names

_FPS = 30.0
_SPLITS = ("train", "val", "test")
_CAMERA_KEYS = ("camera", "camera_id", "cam_id", "camera_name", "cam")
_PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL")


def is_transforms(document: dict) -> bool:
    frames = document.get("frames")
    return isinstance(frames, list) and (
        not frames or any(isinstance(f, dict) and "transform_matrix" in f for f in frames)
    )


def _find(root: Path, stated: object) -> Path | None:
    """The file that a path of the json means: relative to the json, suffix optional."""
    path = root / str(stated).replace("\\", "/")
    if path.is_file():
        return path
    for suffix in IMAGE_SUFFIXES:
        candidate = path.with_name(path.name + suffix)
        if candidate.is_file():
            return candidate
    return None


def _lens_model(get: Callable[[str], object], where: str) -> tuple[str, tuple[float, ...]]:
    """(lens, distortion) from camera_model and the coefficients. Raises CaptureError."""
    model = str(get("camera_model") or "OPENCV").upper()
    k = [number(get(f"k{i}") or 0.0, f"k{i}", where) for i in range(1, 7)]
    p = [number(get(f"p{i}") or 0.0, f"p{i}", where) for i in range(1, 3)]
    if model == "OPENCV_FISHEYE" or get("is_fisheye"):
        return "fisheye", tuple(k[:4])
    if model == "FULL_OPENCV":
        return "pinhole", distortion([*k[:2], *p, *k[2:]], "the distortion", where)
    if model not in _PINHOLE_MODELS:
        raise CaptureError(
            f"the camera model {model} is not supported",
            where=where,
            hint=f"Supported are {', '.join(_PINHOLE_MODELS)}, FULL_OPENCV and OPENCV_FISHEYE",
        )
    if any(k[3:]):
        raise CaptureError(
            "k4 and above belong to no OpenCV lens of this camera model",
            where=where,
            hint="Use the camera model FULL_OPENCV or OPENCV_FISHEYE if that is what they are",
        )
    return "pinhole", distortion([*k[:2], *p, k[2]], "the distortion", where)


def _lens(
    get: Callable[[str], object],
    image: Path | None,
    size: tuple[int, int] | None,
    where: str,
) -> Lens:
    """Intrinsics of one image; `get` looks a field up in the entry, then in the whole file."""
    if get("w") is not None and get("h") is not None:
        width, height = pixels(get("w"), "w", where), pixels(get("h"), "h", where)
    else:
        found = size
        if found is None and image is not None:
            try:
                found = image_size(image)
            except OSError as error:
                raise CaptureError(f"cannot read ({error.strerror})", where=image) from error
        if found is None:
            raise CaptureError("the image size is unknown", where=where, hint=SIZE_HINT)
        width, height = found

    def focal(length: str, angle: str, extent: int) -> float | None:
        if get(length) is not None:
            return number(get(length), length, where)
        if get(angle) is None:
            return None
        view_angle = number(get(angle), angle, where)
        if not 1e-6 < view_angle < np.pi:
            raise CaptureError(
                f"{angle} is {view_angle:g}", where=where, hint="Expected radians below pi"
            )
        return 0.5 * extent / np.tan(0.5 * view_angle)

    fx = focal("fl_x", "camera_angle_x", width)
    fy = focal("fl_y", "camera_angle_y", height) if get("fl_x") is None or get("fl_y") else fx
    fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
    if fx is None:
        raise CaptureError("neither fl_x nor camera_angle_x is there", where=where)
    cx = 0.5 * width if get("cx") is None else number(get("cx"), "cx", where)
    cy = 0.5 * height if get("cy") is None else number(get("cy"), "cy", where)
    lens, coefficients = _lens_model(get, where)
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return Lens(K, width, height, coefficients, lens)


def _pose(value: object, where: str) -> tuple[np.ndarray, np.ndarray]:
    """OpenGL camera-to-world -> R, t, world to camera in OpenCV axes.

    A camera object that was scaled in its scene leaves that scale in the matrix's axes; it means
    nothing for a camera and is divided out. Other deformations stay for `health.py` to find.
    """
    rows = len(value) if isinstance(value, list) and len(value) == 3 else 4
    c2w = matrix(value, (rows, 4), "transform_matrix", where)
    axes = c2w[:3, :3] * np.array([1.0, -1.0, -1.0])  # columns: right, down, forward
    lengths = np.linalg.norm(axes, axis=0)
    if (lengths > 0).all():
        unit = axes / lengths
        if np.abs(unit.T @ unit - np.eye(3)).max() < 1e-3 < np.abs(lengths - 1).max():
            axes = unit
    R = axes.T
    return R, -R @ c2w[:3, 3]


def _listed(document: dict, split: str) -> set[str]:
    names = document.get(f"{split}_filenames")
    return {str(n).replace("\\", "/") for n in names} if isinstance(names, list) else set()


def _shots(path: Path, size: tuple[int, int] | None) -> tuple[dict, list[Shot]]:
    """The document of one file and its images. Raises CaptureError."""
    document = read_json(path)
    entries = document.get("frames")
    if not isinstance(entries, list):
        raise CaptureError("has no list 'frames'", where=path)
    root = path.parent
    file_split = next((s for s in _SPLITS if path.stem.endswith(f"_{s}")), "train")
    listed = {split: _listed(document, split) for split in ("val", "test")}
    unit = document.get("depth_unit_scale_factor", document.get("integer_depth_scale", 1e-3))
    unit = number(unit, "the depth unit", path)
    shots = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or "transform_matrix" not in entry:
            raise CaptureError("has no transform_matrix", where=f"{path}, frames[{index}]")
        stated = str(entry.get("file_path", f"frame_{index:05d}")).replace("\\", "/")
        file = PurePosixPath(stated)
        where = f"{path}, view '{stated}'"

        def get(key: str, entry: dict = entry) -> object:
            return entry.get(key, document.get(key))

        image = _find(root, stated)
        mask = _find(root, entry["mask_path"]) if entry.get("mask_path") else None
        stated_depth = entry.get("depth_file_path") or entry.get("depth_path")
        depth = _find(root, stated_depth) if stated_depth else None
        mask_file = ImageFile(mask) if mask else None
        if mask is None and image is not None and has_alpha(image):
            mask_file = ImageFile(image, layer="alpha")
        depth_file = None
        if depth is not None:
            is_float = depth.suffix.lower() in (".exr", ".npy")
            depth_file = ImageFile(depth, scale=1.0 if is_float else unit)
        R, t = _pose(entry["transform_matrix"], where)
        camera = next((str(entry[k]) for k in _CAMERA_KEYS if entry.get(k) is not None), None)
        shots.append(
            Shot(
                file,
                camera,
                None if entry.get("time") is None else number(entry["time"], "time", where),
                next((s for s, names in listed.items() if stated in names), file_split),
                _lens(get, image, size, where),
                R,
                t,
                ImageFile(image) if image else None,
                mask_file,
                depth_file,
            )
        )
    return document, shots


def _sources(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    whole = path / "transforms.json"
    if whole.is_file():
        return [whole]
    return [p for s in _SPLITS if (p := path / f"transforms_{s}.json").is_file()]


def read_transforms(path: Path, size: tuple[int, int] | None = None) -> Capture:
    """Read a folder with transforms*.json, or one such file.

    size: (width, height) where neither the file nor the images know it. Raises CaptureError.
    """
    shots: list[Shot] = []
    documents = []
    for source in _sources(path):
        document, new = _shots(source, size)
        documents.append(document)
        shots += new
    if not shots:
        raise CaptureError("lists no cameras", where=path)
    timed = [shot.time is not None for shot in shots]
    if any(timed) and not all(timed):
        raise CaptureError("some images have a time and some have none", where=path)

    fps = _FPS
    if documents[0].get("fps") is not None:
        fps = number(documents[0]["fps"], "fps", path)
        if not fps > 0:
            raise CaptureError(f"fps is {fps:g}", where=path)
    times, frame_of = np.zeros(1), {shot: 0 for shot in shots}
    if timed[0]:
        times, frame_of = frames_of(shots)
    if len(times) == 1:
        names = view_names(shots)
        groups = [(name, [shot]) for name, shot in zip(names, shots, strict=True)]
    else:
        groups = []
        for split, members in grouped(shots, lambda shot: shot.split).items():
            groups += split_into_views(members, frame_of, str(split))
        unique = unique_names([name for name, _ in groups])
        groups = [(name, group) for name, (_, group) in zip(unique, groups, strict=True)]

    views, poses = [], {}
    images, masks, depths = {}, {}, {}
    missing: list[str] = []
    for index, (name, group) in enumerate(groups):
        lens = group[0].lens
        for shot in group:
            other = shot.lens
            if (lens.width, lens.height, lens.lens, lens.distortion) != (
                other.width,
                other.height,
                other.lens,
                other.distortion,
            ):
                raise CaptureError(
                    "the images of one camera differ in size or lens",
                    where=f"{path}, view '{name}', {shot.file}",
                    hint="Give every camera its own name in a field 'camera'",
                )
            key = frame_of[shot], index
            poses[key] = other.K, shot.R, shot.t
            for found, files in ((shot.image, images), (shot.mask, masks), (shot.depth, depths)):
                if found is not None:
                    files[key] = found
            if shot.image is None:
                missing.append(str(shot.file))
        views.append(
            View(
                name,
                lens.width,
                lens.height,
                lens.distortion,
                lens.lens,
                train=group[0].split == "train",
            )
        )
    notes = []
    if missing and images:
        notes.append(f"{len(missing)} images named in the json do not exist, first {missing[0]}")
    if not images:
        masks, depths = {}, {}

    K, R, t = fill_poses(poses, len(times), len(views))
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    seconds = (times - times[0]) / step / fps
    is_blender = not any(key in documents[0] for key in ("fl_x", "fl_y", "w", "aabb_scale"))
    kind = ("dnerf" if timed[0] else "blender") if is_blender else "transforms"
    return checked(
        Capture(
            path,
            kind,
            tuple(views),
            tuple(range(len(times))),
            K,
            R,
            t,
            np.repeat(seconds[:, None], len(views), axis=1),
            images=images,
            masks=masks,
            depths=depths,
            fps=fps,
            # Blender's own world: Z is up.
            up=np.array([0.0, 0.0, 1.0]) if is_blender else None,
            notes=tuple(notes),
        )
    )
