# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be reconstructed, from the scene's settings and its rig, as a command line."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import bpy

from ...engine.errors import OutputError, ReconstructionError
from ..rig import path_to_reconstruct, views_to_reconstruct

#: Seconds between previews.
PREVIEW_SECONDS = 5


@dataclass(frozen=True)
class Request:
    """frames: "a:b" with a <= number < b, or None for all. views, test_views: names, None as the
    capture says. background: "auto", or "none" for the subject only. cameras: "auto", or "given":
    not refined. size: pixels of captures that do not state it. steps: per frame, and point_pixels:
    distance of the subject's points, None as the preset says. resume: go on with what is in
    `output`; nothing else counts then."""

    capture: Path | None
    output: Path
    preset: str = "standard"
    frames: str | None = None
    views: tuple[str, ...] | None = None
    test_views: tuple[str, ...] | None = None
    background: str = "auto"
    cameras: str = "auto"
    size: tuple[int, int] | None = None
    steps: int | None = None
    point_pixels: float | None = None
    resume: bool = False

    def arguments(self, *, memory_limit: int | None, previews: bool) -> list[str]:
        """The worker's arguments."""
        options: list[str] = []
        if previews:
            options += ["--preview", str(PREVIEW_SECONDS)]
        options += memory_arguments(memory_limit)
        if self.resume:
            return ["resume", str(self.output), *options]
        # With "=": a name may begin with a dash.
        options += [f"--output={self.output}", f"--preset={self.preset}"]
        options += [f"--background={self.background}", f"--cameras={self.cameras}"]
        if self.frames is not None:
            options.append(f"--frames={self.frames}")
        if self.views is not None:
            options.append(f"--views={','.join(self.views)}")
        if self.test_views is not None:
            options.append(f"--test-views={','.join(self.test_views)}")
        if self.size is not None:
            options.append(f"--size={self.size[0]}x{self.size[1]}")
        if self.steps is not None:
            options.append(f"--steps={self.steps}")
        if self.point_pixels is not None:
            options.append(f"--point-pixels={self.point_pixels:.3g}")
        return ["reconstruct", str(self.capture.absolute()), *options]


def capture_path(scene: bpy.types.Scene) -> str:
    """The capture of the scene: the one named for the job, else the one of its rig; may be ""."""
    return scene.peel4d_job.capture_path.strip() or rig_capture_path(scene)


def rig_capture_path(scene: bpy.types.Scene) -> str:
    return scene.peel4d_rig.capture_path.strip()


def uses_rig(scene: bpy.types.Scene) -> bool:
    """Whether the views are those of the scene's rig."""
    path, rig = capture_path(scene), rig_capture_path(scene)
    return bool(rig) and bpy.path.abspath(path) == bpy.path.abspath(rig)


def output_folder(scene: bpy.types.Scene) -> Path | None:
    """Where the reconstruction goes; None while neither a folder nor a .blend file is named."""
    named = scene.peel4d_job.output.strip()
    if named:
        if named.startswith("//") and not bpy.data.is_saved:
            return None
        return Path(bpy.path.abspath(named))
    capture = capture_path(scene)
    if not capture or not bpy.data.is_saved:
        return None
    name = Path(bpy.path.abspath(capture).rstrip("/\\")).stem
    name = re.sub(r"[^\w.-]+", "_", name) or "capture"
    return Path(bpy.path.abspath("//")) / "peel4d" / name


def memory_arguments(limit: int | None) -> list[str]:
    """A limit in bytes as a worker wants to hear it."""
    return [] if limit is None else ["--max-memory", f"{max(1, limit >> 10)}K"]


def has_reconstruction(output: Path | None) -> bool:
    return output is not None and (output / "reconstruction.json").is_file()


def finished_clip(output: Path | None) -> Path | None:
    """The clip of a reconstruction that is complete."""
    clip = None if output is None else output / "clip.p4d"
    return clip if has_reconstruction(output) and clip.is_file() else None


def next_folder(output: Path) -> Path:
    """The first of name_2, name_3, ... beside `output` without a reconstruction in it."""
    name = re.sub(r"_\d+$", "", output.name)
    numbers = itertools.count(2)
    return next(
        folder
        for folder in (output.with_name(f"{name}_{number}") for number in numbers)
        if not has_reconstruction(folder)
    )


def request_from_scene(scene: bpy.types.Scene) -> Request:
    """What the scene asks for. Raises PeelError when that is not enough.

    A rig whose cameras were changed is written to a file that becomes the scene's capture.
    """
    job = scene.peel4d_job
    path = capture_path(scene)
    if not path:
        raise ReconstructionError(
            "no capture is chosen", hint="Import a rig, or choose the capture's folder"
        )
    output = output_folder(scene)
    if output is None:
        raise OutputError("no output folder is chosen", hint="Choose one, or save the .blend file")
    frames = None
    if job.use_frame_range:
        if job.frame_last < job.frame_first:
            raise ReconstructionError(
                f"frames {job.frame_first} to {job.frame_last} are none",
                hint="Set Last to at least First",
            )
        frames = f"{job.frame_first}:{job.frame_last + 1}"
    views, tests, size = names(job.views), names(job.test_views), None
    capture = Path(bpy.path.abspath(path))
    if uses_rig(scene):
        # The rig is what people see, mark and move; fields beside it would contradict it.
        capture = path_to_reconstruct(scene)
        rig = scene.peel4d_rig
        size = tuple(rig.size) if all(rig.size) else None
        if len(rig.views):
            views, tests = map(tuple, views_to_reconstruct(scene))
    return Request(
        capture,
        output,
        frames=frames,
        views=views,
        test_views=tests,
        size=size,
        **recipe(job),
    )


def recipe(job: bpy.types.PropertyGroup) -> dict[str, object]:
    """What the scene says of how any capture is reconstructed, for a `Request`."""
    return {
        "preset": job.preset,
        "background": job.background,
        "cameras": "auto" if job.refine_cameras else "given",
        "point_pixels": job.point_pixels if job.use_point_pixels else None,
    }


def names(text: str) -> tuple[str, ...] | None:
    """ "a, b" -> ("a", "b"), nothing -> None."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) or None
