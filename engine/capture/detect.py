"""Find out by which program a capture was written, and read it."""

from __future__ import annotations

from pathlib import Path

from ..errors import CaptureError
from .capture import Capture
from .dynamic3dgs import is_dynamic3dgs, read_dynamic3dgs
from .easyvolcap import read_easyvolcap
from .listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_in, folders_in
from .parsing import read_json
from .sidecar import FILE_NAME, apply_sidecar

SUPPORTED = (
    "Dynamic 3D Gaussians (train_meta.json), EasyVolcap/EasyMocap (intri.yml, extri.yml), "
    "nerfstudio/instant-ngp/Blender/D-NeRF (transforms*.json)"
)
_HINT = f"Supported are {SUPPORTED}"


def _is_transforms(document: dict) -> bool:
    frames = document.get("frames")
    return isinstance(frames, list) and any(
        isinstance(frame, dict) and "transform_matrix" in frame for frame in frames
    )


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
        raise CaptureError("is JSON of an unknown kind", where=path, hint=_HINT)
    if suffix in (".yml", ".yaml"):
        return read_easyvolcap(path, size)
    raise CaptureError("is not a calibration file of a known kind", where=path, hint=_HINT)


def _read_folder(path: Path, size: tuple[int, int] | None) -> Capture:
    if any((path / name).is_file() for name in ("train_meta.json", "test_meta.json")):
        return read_dynamic3dgs(path)
    if any(files_in(path, (".yml",))) or any(
        (p / "intri.yml").is_file() for p in folders_in(path / "cameras")
    ):
        return read_easyvolcap(path, size)
    raise CaptureError("is not a capture of a known kind", where=path, hint=_HINT)


def open_capture(path: str | Path, *, size: tuple[int, int] | None = None) -> Capture:
    """Read the capture at `path`, a folder or one calibration file; the format is detected.

    size: (width, height) in pixels for calibrations that state none. Raises CaptureError.
    """
    path = Path(path)
    if not path.exists():
        raise CaptureError("no such file or folder", where=path)
    capture = _read_folder(path, size) if path.is_dir() else _read_file(path, size)
    sidecar = (path if path.is_dir() else path.parent) / FILE_NAME
    return apply_sidecar(capture, sidecar) if sidecar.is_file() else capture
