"""Find out by which program a capture was written, and read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import CaptureError
from .capture import Capture
from .dynamic3dgs import is_dynamic3dgs, read_dynamic3dgs
from .easyvolcap import calibration_files, camera_folders, read_easyvolcap
from .listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_in, folders_in
from .parsing import read_json
from .rig_file import FILE_NAME as RIG_FILE_NAME
from .rig_file import FORMAT as RIG_FORMAT
from .rig_file import is_rig, read_rig, rig_source
from .sidecar import FILE_NAME, apply_sidecar
from .transforms import is_transforms, read_transforms

SUPPORTED = (
    "Dynamic 3D Gaussians (train_meta.json), EasyVolcap/EasyMocap (intri.yml, extri.yml), "
    "nerfstudio/instant-ngp/Blender/D-NeRF (transforms*.json), Peel4D rigs (peel4d_rig.json)"
)
_HINT = f"Supported are {SUPPORTED}"


def _foreign_file(path: Path) -> str | None:
    """What an unsupported file seems to be, from its name and first bytes."""
    name = path.name.lower()
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise CaptureError(f"cannot read ({error.strerror or error})", where=path) from error
    if name in ("cameras.bin", "images.bin", "points3d.bin"):
        return "a COLMAP binary model"
    if name in ("cameras.txt", "images.txt", "points3d.txt"):
        return "a COLMAP text model"
    if name.endswith(".db") or head.startswith(b"SQLite format 3"):
        return "a COLMAP database"
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return "a Metashape camera file (XML)" if b"<chunk" in head else "an XML file"
    if head.startswith(b"\x93NUMPY"):
        return "LLFF poses (.npy)" if "poses_bounds" in name else "a NumPy array"
    if name.endswith(".smc") or head.startswith(b"\x89HDF"):
        return "a DNA-Rendering .smc file (HDF5)"
    if head.startswith(b"PK"):
        return "a Peel4D clip, not a capture" if name.endswith(".p4d") else "a ZIP archive"
    if name.endswith(VIDEO_SUFFIXES):
        return "a video without a calibration"
    if name.endswith(IMAGE_SUFFIXES):
        return "an image without a calibration"
    return None


def _read_file(path: Path, size: tuple[int, int] | None) -> Capture:
    foreign = _foreign_file(path)
    if foreign:
        raise CaptureError(f"seems to be {foreign}", where=path, hint=_HINT)
    suffix = path.suffix.lower()
    if suffix == ".json":
        document = read_json(path)
        if is_dynamic3dgs(document):
            return read_dynamic3dgs(path)
        if is_rig(document):
            return _read_rig_file(path, document)
        if is_transforms(document):
            return read_transforms(path, size)
        raise CaptureError("is JSON, but no calibration of a known kind", where=path, hint=_HINT)
    if suffix in (".yml", ".yaml"):
        return read_easyvolcap(path, size)
    raise CaptureError("is not a calibration file of a known kind", where=path, hint=_HINT)


def _read_rig_file(path: Path, document: dict) -> Capture:
    stated = rig_source(path, document)
    if stated is None:
        return read_rig(path, None)
    source_path, size = stated
    if _is_rig_path(source_path):  # such chains end nowhere when two files name each other
        raise CaptureError(
            "takes its footage from another rig", where=path, hint="Name the capture itself"
        )
    return read_rig(path, open_capture(source_path, size=size))


def _read_rig_folder(folder: Path, size: tuple[int, int] | None) -> Capture:
    return _read_file(folder / RIG_FILE_NAME, size)


def _is_rig_path(path: Path) -> bool:
    if path.is_dir():
        return _by_standard_names(path) is _read_rig_folder
    return path.suffix.lower() == ".json" and path.is_file() and is_rig(read_json(path))


def _by_standard_names(folder: Path) -> Callable[[Path, tuple[int, int] | None], Capture] | None:
    """The reader of a folder whose calibration goes by its program's own file names."""
    if any((folder / name).is_file() for name in ("train_meta.json", "test_meta.json")):
        return lambda path, size: read_dynamic3dgs(path)
    if calibration_files(folder) or camera_folders(folder):
        return read_easyvolcap
    names = ("transforms", "transforms_train", "transforms_val", "transforms_test")
    if any((folder / f"{name}.json").is_file() for name in names):
        return read_transforms
    if (folder / RIG_FILE_NAME).is_file():
        return _read_rig_folder
    return None


def _calibrations_by_content(folder: Path) -> list[Path]:
    """JSON files of the folder that are calibrations under another name."""
    found = []
    for path in files_in(folder, (".json",)):
        try:
            document = read_json(path)
        except CaptureError:
            continue
        if is_dynamic3dgs(document) or is_transforms(document):
            found.append(path)
    return found


def _foreign_folder(folder: Path) -> str | None:
    """What a folder without a calibration of ours seems to be."""
    for place in (folder, folder / "sparse", folder / "sparse" / "0", folder / "colmap"):
        if any((place / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return "a COLMAP model"
    if (folder / "poses_bounds.npy").is_file():
        return "an LLFF / Neural 3D Video capture (poses_bounds.npy)"
    if (folder / "dataset.json").is_file() and (folder / "camera").is_dir():
        return "a Nerfies / HyperNeRF capture"
    for path in files_in(folder, (".xml", ".db", ".smc", ".p4d")):
        return _foreign_file(path)
    places = [folder, *folders_in(folder), *folders_in(folder / "images")]
    if any(files_in(place, IMAGE_SUFFIXES) for place in places):
        return "images without a calibration"
    if any(files_in(place, VIDEO_SUFFIXES) for place in places):
        return "videos without a calibration"
    return None


def _read_folder(path: Path, size: tuple[int, int] | None) -> Capture:
    reader = _by_standard_names(path)
    if reader is not None:
        return reader(path, size)
    others = _calibrations_by_content(path)
    if len(others) == 1:
        return _read_file(others[0], size)
    if others:
        raise CaptureError(
            "holds several calibrations: " + ", ".join(p.name for p in others),
            where=path,
            hint="Give the one to use instead of the folder",
        )
    if next(path.iterdir(), None) is None:
        raise CaptureError("the folder is empty", where=path, hint=_HINT)
    foreign = _foreign_folder(path)
    if foreign:
        raise CaptureError(f"seems to be {foreign}", where=path, hint=_HINT)
    inside = [p.name for p in folders_in(path) if _by_standard_names(p)]
    hint = f"Did you mean the folder '{inside[0]}' in it?" if inside else _HINT
    raise CaptureError("is not a capture of a known kind", where=path, hint=hint)


def open_capture(path: str | Path, *, size: tuple[int, int] | None = None) -> Capture:
    """Read the capture at `path`, a folder or one calibration file; the format is detected.

    size: (width, height) in pixels for calibrations that state none. Raises CaptureError.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise CaptureError(
                "no such file or folder",
                where=path,
                hint="Give the folder of a capture, or its calibration file",
            )
        capture = _read_folder(path, size) if path.is_dir() else _read_file(path, size)
        if capture.format == RIG_FORMAT:  # states everything itself
            return capture
        sidecar = (path if path.is_dir() else path.parent) / FILE_NAME
        return apply_sidecar(capture, sidecar) if sidecar.is_file() else capture
    except OSError as error:
        where = error.filename or path
        raise CaptureError(f"cannot read ({error.strerror or error})", where=where) from error
