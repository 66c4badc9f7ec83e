# SPDX-License-Identifier: GPL-3.0-or-later
"""The clips that a depsgraph shows, with their transforms and frames."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ...engine.clip.reader import ClipReader
from ...engine.errors import ClipError
from ...engine.render.settings import PeelSettings
from .session import Session


@dataclass(frozen=True, eq=False)
class ClipInstance:
    """One appearance of one frame of a clip.

    reader, frame: what to decode. matrix: (4, 4) float64, clip -> world. opacity: in [0, 1].
    """

    reader: ClipReader
    frame: int
    matrix: np.ndarray
    opacity: float


@dataclass(frozen=True, eq=False)
class ClipScene:
    """Everything that is peeled together.

    instances: what shows at this time. clip_count: visible clip objects, including those that
    show nothing at this time. settings: the union of what the clips were made with.
    """

    instances: tuple[ClipInstance, ...]
    clip_count: int
    settings: PeelSettings


def collect(depsgraph: bpy.types.Depsgraph, session: Session) -> ClipScene:
    """Read the visible clip instances of an evaluated scene at its current time.

    The depsgraph has already resolved view layers, hidden collections, instancing and, for a final
    render, "Disable in Renders". Raises ClipError for a clip that cannot be opened: a picture
    without it would be wrong without anybody noticing.
    """
    scene = depsgraph.scene_eval
    time = scene.frame_current_final
    layers, min_radius = [], []
    instances = []
    clip_count = 0
    for item in depsgraph.object_instances:
        # Blender reuses `item`: everything that is kept is copied.
        instance_object = item.object
        clip = instance_object.peel4d
        if not (clip.is_clip and item.show_self and instance_object.visible_camera):
            continue
        clip_count += 1
        reader = session.open(_absolute_path(instance_object))
        info = reader.info
        layers.append(info.settings.layers)
        min_radius.append(info.settings.min_radius_px)
        frame = clip.frame_mapping().clip_frame(time, info.frame_count)
        if frame is None or clip.opacity <= 0.0:
            continue
        matrix = np.array(item.matrix_world, dtype=np.float64)
        instances.append(ClipInstance(reader, frame, matrix, float(clip.opacity)))
    defaults = PeelSettings()
    settings = PeelSettings(
        layers=scene.peel4d.layers or max(layers, default=defaults.layers),
        min_radius_px=max(min_radius, default=defaults.min_radius_px),
    )
    return ClipScene(tuple(instances), clip_count, settings)


def _absolute_path(evaluated: bpy.types.Object) -> str:
    """The clip's file; `//` is beside the .blend file that holds the object, linked or not."""
    path = evaluated.peel4d.filepath
    if not path:
        raise ClipError(
            "no clip file is chosen",
            where=f"object '{evaluated.name}'",
            hint="Choose a .p4d file in the object's Peel4D panel",
        )
    return bpy.path.abspath(path, library=evaluated.original.library)
