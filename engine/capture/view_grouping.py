"""Which images of a transforms.json belong to one view, and which time is which frame."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from .assemble import unique_names
from .capture import ImageFile
from .listing import IMAGE_SUFFIXES

# Times closer than this share of the whole range are the same frame.
_SAME_TIME = 1e-6


@dataclass(frozen=True, eq=False)
class Lens:
    """Intrinsics of one image. K: (3, 3). lens and distortion as in `View`."""

    K: np.ndarray
    width: int
    height: int
    distortion: tuple[float, ...]
    lens: str


@dataclass(frozen=True, eq=False)
class Shot:
    """One entry of `frames`.

    file: its path as stated, with forward slashes. camera: its "camera" field. time: as stated.
    split: "train", "val" or "test". R (3, 3), t (3,): world to camera, OpenCV axes.
    """

    file: PurePosixPath
    camera: str | None
    time: float | None
    split: str
    lens: Lens
    R: np.ndarray
    t: np.ndarray
    image: ImageFile | None
    mask: ImageFile | None
    depth: ImageFile | None


def grouped(shots: Iterable[Shot], key: Callable[[Shot], Hashable]) -> dict[Hashable, list[Shot]]:
    groups: dict[Hashable, list[Shot]] = {}
    for shot in shots:
        groups.setdefault(key(shot), []).append(shot)
    return groups


def _pose_key(shot: Shot) -> Hashable:
    """Equal for images of a camera that did not move, whatever digits its pose was printed with."""
    numbers = np.concatenate([shot.R.ravel(), shot.t, shot.lens.K.ravel()])
    return tuple(np.round(numbers, 5).tolist()), shot.lens.distortion


def _is_consistent(groups: Iterable[list[Shot]], frame_of: dict[Shot, int]) -> bool:
    """True where no view has two images at one frame."""
    frames = [[frame_of[shot] for shot in group] for group in groups]
    return all(len(set(f)) == len(f) for f in frames)


def split_into_views(
    shots: list[Shot], frame_of: dict[Shot, int], split: str
) -> list[tuple[str, list[Shot]]]:
    """(name, images) of each view of one split; see transforms.py for the rules."""
    if all(shot.camera is not None for shot in shots):
        groups = grouped(shots, lambda shot: shot.camera)
        if _is_consistent(groups.values(), frame_of):
            return [(str(name).replace("/", "_"), group) for name, group in groups.items()]
    folders = grouped(shots, lambda shot: shot.file.parent)
    by_folder = _is_consistent(folders.values(), frame_of)
    static = grouped(shots, _pose_key)
    if _is_consistent(static.values(), frame_of) and 2 * len(static) <= len(shots):
        if by_folder and len(folders) == len(static):
            return [(folder.name or split, group) for folder, group in folders.items()]
        return [(f"camera_{i:02d}", group) for i, group in enumerate(static.values())]
    if by_folder:
        named = len(folders) > 1
        return [(folder.name if named else split, group) for folder, group in folders.items()]
    # Several images share a time and nothing says which belong together: by order of appearance.
    ranks: dict[int, int] = {}
    rank_of = {}
    for shot in shots:
        frame = frame_of[shot]
        rank_of[shot] = ranks[frame] = ranks.get(frame, -1) + 1
    groups = grouped(shots, lambda shot: rank_of[shot])
    return [(f"camera_{rank:02d}", group) for rank, group in groups.items()]


def frames_of(shots: list[Shot]) -> tuple[np.ndarray, dict[Shot, int]]:
    """Distinct times, ascending, and the frame index of each shot."""
    stated = np.array([shot.time for shot in shots], dtype=np.float64)
    order = np.argsort(stated, kind="stable")
    ascending = stated[order]
    gap = _SAME_TIME * max(float(ascending[-1] - ascending[0]), 1e-12)
    is_new = np.concatenate([[True], np.diff(ascending) > gap])
    frame = np.cumsum(is_new) - 1
    frame_of = {shots[i]: int(f) for i, f in zip(order, frame, strict=True)}
    return ascending[is_new], frame_of


def view_names(shots: list[Shot]) -> list[str]:
    """File stems, with the folder in front where stems alone are not unique."""
    names = [
        shot.file.stem if shot.file.suffix.lower() in IMAGE_SUFFIXES else shot.file.name
        for shot in shots
    ]
    if len(set(names)) < len(names):
        names = [
            f"{shot.file.parent.name}_{name}" if shot.file.parent.name else name
            for shot, name in zip(shots, names, strict=True)
        ]
    return unique_names(names)
