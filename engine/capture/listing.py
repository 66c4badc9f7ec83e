"""Which image and video files lie in a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DEPTH_SUFFIXES = (".png", ".exr", ".npy")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of `folder` with one of the suffixes, by name; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(suffixes)
        )
    return [folder / name for name in names]


def file_state(path: Path) -> str:
    """Size and time of a file as one text, which differs once the file was changed."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def folders_in(folder: Path) -> list[Path]:
    """Sub-folders of `folder`, by name; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def frame_number(stem: str) -> int | None:
    """The number at the end of a file's stem ("000012", "frame_12" -> 12), None without one."""
    digits = re.search(r"(\d+)$", stem)
    return int(digits.group(1)) if digits else None


def numbered_files(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """{frame number: file} of a folder. Of several files with one number the first name counts."""
    found: dict[int, Path] = {}
    for path in files_in(folder, suffixes):
        number = frame_number(path.stem)
        if number is not None:
            found.setdefault(number, path)
    return found


def camera_entry(entries: dict[str, Path], camera: str) -> Path | None:
    """The folder or file of a camera: by its name, else by its number ("1" finds "01")."""
    if camera in entries:
        return entries[camera]
    if camera.isdigit():
        same = [p for name, p in entries.items() if name.isdigit() and int(name) == int(camera)]
        if len(same) == 1:
            return same[0]
    return None
