# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender calls when a property changes.

Blender 4.2 keeps these functions, and the methods of property groups, beyond unregistering. Where
it is a Python module itself, one of them that can reach bpy through its module keeps bpy alive
until Python has ended, and the process crashes. So this file imports nothing at its top that
imports bpy, and property groups have no methods.
"""

from __future__ import annotations


def clip_changed(clip, _context) -> None:
    """Viewports redraw; Blender notices nothing by itself when a script sets a property."""
    clip.id_data.update_tag()


def clip_path_changed(clip, context) -> None:
    """Another file: also remember what its relative path counts from."""
    from .blend_paths import remember_folder

    remember_folder(clip)
    clip_changed(clip, context)


def viewports_changed(settings, context) -> None:
    """All viewports draw anew, overlays too."""
    settings.id_data.update_tag()
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.tag_redraw()


def follow_crop_object(clip, _context) -> None:
    """Make the clip depend on its crop box, for Blender evaluates no hidden object without need."""
    clip_object = clip.id_data
    clip_object.driver_remove("peel4d.crop_motion")
    if clip.crop_object is None:
        return
    driver = clip_object.driver_add("peel4d.crop_motion").driver
    driver.type = "SUM"
    variable = driver.variables.new()
    variable.type = "TRANSFORMS"
    variable.targets[0].id = clip.crop_object


def is_camera(_view, candidate) -> bool:
    """Whether this object can stand for a view of a capture."""
    return candidate.type == "CAMERA"


def rig_display_changed(rig, _context) -> None:
    """The backgrounds of a rig's cameras follow its settings."""
    from .rig.backgrounds import apply_display

    apply_display(rig)


def test_view_changed(view, _context) -> None:
    """The camera of a view remembers whether it is trained on."""
    if view.camera is not None and view.camera.type == "CAMERA":
        view.camera.data.peel4d.train = not view.test
