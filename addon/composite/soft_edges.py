# SPDX-License-Identifier: GPL-3.0-or-later
"""What a holdout of opaque triangles cannot follow: glass, hair, textures of alpha, blur."""

from __future__ import annotations

from dataclasses import dataclass

import bpy

from ..render.materials import Opacity, opacity_of


@dataclass(frozen=True)
class Softness:
    """Names of what is soft in a scene.

    opaque: objects that hide clips everywhere although they are transparent in places. clear:
    objects that one can see through; they hide no clip. hair: objects that are no surfaces; they
    hide no clip. blurred: settings that blur the CG but not the hole it cuts into the clips.
    """

    opaque: tuple[str, ...]
    clear: tuple[str, ...]
    hair: tuple[str, ...]
    blurred: tuple[str, ...]


def softness_of(scene: bpy.types.Scene) -> Softness:
    opaque, clear, hair = [], [], []
    known: dict[int, Opacity] = {}
    for item in scene.objects:
        if item.hide_render or item.peel4d.is_clip:
            continue
        if item.type in ("CURVES", "POINTCLOUD") or _has_hair(item):
            hair.append(item.name)
        if item.type not in ("MESH", "CURVE", "SURFACE", "FONT", "META"):
            continue
        kinds = {_known(slot.material, known) for slot in item.material_slots}
        if Opacity.PARTLY in kinds:
            opaque.append(item.name)
        elif Opacity.CLEAR in kinds:
            clear.append(item.name)
    return Softness(tuple(opaque), tuple(clear), tuple(hair), _blurred(scene))


def _has_hair(item: bpy.types.Object) -> bool:
    return any(
        modifier.type == "PARTICLE_SYSTEM"
        and modifier.show_render
        and modifier.particle_system.settings.type == "HAIR"
        and modifier.particle_system.settings.render_type == "PATH"
        for modifier in item.modifiers
    )


def _known(material: bpy.types.Material | None, known: dict[int, Opacity]) -> Opacity:
    place = 0 if material is None else material.as_pointer()
    if place not in known:
        known[place] = opacity_of(material)
    return known[place]


def _blurred(scene: bpy.types.Scene) -> tuple[str, ...]:
    names = []
    if scene.render.use_motion_blur:
        names.append("motion blur")
    camera = scene.camera
    if camera is not None and camera.type == "CAMERA" and camera.data.dof.use_dof:
        names.append("depth of field")
    return tuple(names)
