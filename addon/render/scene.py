# SPDX-License-Identifier: GPL-3.0-or-later
"""The clips that a depsgraph shows, with their transforms and frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np

from ...engine.clip.reader import ClipReader
from ...engine.errors import ClipError
from ...engine.render.look import Look
from ...engine.render.settings import PeelSettings
from ..clip_file import clip_path
from ..timing import FrameMapping, frame_mapping
from .session import Session


@dataclass(frozen=True, eq=False)
class ClipInstance:
    """One appearance of one frame of a clip.

    reader, frame: what to decode. matrix: (4, 4) float64, clip -> world. opacity: in [0, 1].
    look: changes to its points. background: whether its static points are shown. mapping: which
    other frames other times show.
    """

    reader: ClipReader
    frame: int
    matrix: np.ndarray
    opacity: float
    look: Look
    background: bool
    mapping: FrameMapping

    @property
    def points_key(self) -> tuple[object, ...]:
        """Equal for instances that show the same points, wherever they are."""
        return id(self.reader), self.frame, self.look, self.background


@dataclass(frozen=True, eq=False)
class ClipScene:
    """Everything that is peeled together.

    instances: what shows at this time. clip_count: visible clip objects, including those that
    show nothing at this time. settings: the union of what the clips were made with. time: the
    scene's frame with its fraction.
    """

    instances: tuple[ClipInstance, ...]
    clip_count: int
    settings: PeelSettings
    time: float = 0.0


def collect(
    depsgraph: bpy.types.Depsgraph,
    session: Session,
    visible: Callable[[bpy.types.Object], bool] = lambda _object: True,
) -> ClipScene:
    """Read the visible clip instances of an evaluated scene at its current time.

    The depsgraph has already resolved view layers, hidden collections, instancing and, for a final
    render, "Disable in Renders". visible: an additional condition on the object, or on the
    instancer where it is an instance. Raises ClipError for a clip that cannot be opened: a picture
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
        if not visible(item.parent if item.is_instance and item.parent else instance_object):
            continue
        clip_count += 1
        reader = session.open(_absolute_path(instance_object))
        info = reader.info
        layers.append(info.settings.layers)
        min_radius.append(info.settings.min_radius_px)
        mapping = frame_mapping(clip)
        frame = mapping.clip_frame(time, info.frame_count)
        if frame is None or clip.opacity <= 0.0:
            continue
        instances.append(
            ClipInstance(
                reader,
                frame,
                matrix=np.array(item.matrix_world, dtype=np.float64),
                opacity=float(clip.opacity),
                look=clip_look(instance_object, depsgraph),
                background=bool(clip.show_background and info.static_points),
                mapping=mapping,
            )
        )
    defaults = PeelSettings()
    settings = PeelSettings(
        layers=scene.peel4d.layers or max(layers, default=defaults.layers),
        min_radius_px=max(min_radius, default=defaults.min_radius_px),
    )
    return ClipScene(tuple(instances), clip_count, settings, time)


def clip_look(clip_object: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> Look:
    """How an evaluated clip object shows its points.

    The crop box is taken relative to the object itself, so that all its instances are cut alike.
    """
    clip = clip_object.peel4d
    crop = None
    if clip.crop_object is not None:
        box = clip.crop_object.evaluated_get(depsgraph)
        try:
            from_world = np.linalg.inv(
                np.array(box.matrix_world, dtype=np.float64) @ _unit_cube_to_box(box)
            )
        except np.linalg.LinAlgError:
            from_world = _NOWHERE  # a flat box holds no point
        # An instance's own matrix_world is that of the instance.
        itself = clip_object.original.evaluated_get(depsgraph)
        crop = from_world @ np.array(itself.matrix_world, dtype=np.float64)
    return Look(
        exposure=clip.exposure,
        saturation=clip.saturation,
        point_density=clip.point_density,
        crop=crop,
    )


#: Takes every point to (2, 2, 2), outside of the cube.
_NOWHERE = np.array([[0.0, 0.0, 0.0, 2.0]] * 3 + [[0.0, 0.0, 0.0, 1.0]])


def _unit_cube_to_box(box: bpy.types.Object) -> np.ndarray:
    """(4, 4): the cube [-1, 1]^3 -> the object's bounding box, an empty's drawn size."""
    if box.type == "EMPTY":
        return np.diag([*[box.empty_display_size] * 3, 1.0])
    corners = np.array([tuple(corner) for corner in box.bound_box], dtype=np.float64)
    low, high = corners.min(axis=0), corners.max(axis=0)
    matrix = np.diag([*(high - low) / 2, 1.0])
    matrix[:3, 3] = (low + high) / 2
    return matrix


def _absolute_path(evaluated: bpy.types.Object) -> str:
    """The clip's file; `//` is beside the .blend file that holds the object, linked or not."""
    path = clip_path(evaluated.original)
    if not path:
        raise ClipError(
            "no clip file is chosen",
            where=f"object '{evaluated.name}'",
            hint="Choose a .p4d file in the object's Peel4D panel",
        )
    return path
