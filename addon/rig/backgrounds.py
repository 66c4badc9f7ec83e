# SPDX-License-Identifier: GPL-3.0-or-later
"""The footage and the masks of a capture as background images of its cameras."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...engine.capture.capture import Capture
from ...engine.capture.footage import (
    KINDS,
    Footage,
    files_of,
    playable,
    prepared_footage,
    why_prepared,
)

#: Kinds of background images in the order in which a captured camera has them.
_SHOWN_AS = {"images": "IMAGES", "masks": "MASKS"}


def set_backgrounds(rig, capture: Capture, cache: Path) -> None:
    """Show the footage and masks of every view that has a camera.

    rig: `Scene.peel4d_rig`. cache: folder of undistorted and renumbered files; where they are not
    complete the capture's own are shown as far as they can be, and the view's note says so.
    """
    index_of = {view.name: index for index, view in enumerate(capture.views)}
    for item in rig.views:
        index = index_of.get(item.name)
        if index is None or item.camera is None or item.camera.type != "CAMERA":
            continue
        item.note = ""
        for slot, kind in enumerate(KINDS):
            footage, why = _shown(capture, index, kind, cache)
            if why and not item.note:
                item.note = f"{'Footage' if kind == 'images' else 'Masks'}: {why}"
            _set_background(item.camera.data, slot, footage, rig, len(capture.frames))
        item.camera.data.show_background_images = True
    apply_display(rig)


def _shown(capture: Capture, view: int, kind: str, cache: Path) -> tuple[Footage | None, str]:
    """What can be shown now, and why it is not what it should be ("" if it is)."""
    why = why_prepared(capture, view, kind)
    files = files_of(capture, view, kind)
    if why is None:
        return playable(files, len(capture.frames)), ""
    prepared = prepared_footage(capture, view, kind, cache)
    if prepared is not None:
        return prepared, ""
    raw = playable(files, len(capture.frames))
    if raw is None and (first := next(iter(files.values()))).index is None:
        raw = Footage(first.path, 0, "still")
    return raw, why


def _set_background(
    data: bpy.types.Camera, slot: int, footage: Footage | None, rig, frames: int
) -> None:
    """Show `footage` in a background slot of a camera; the slots before it are made."""
    while len(data.background_images) <= slot:
        data.background_images.new()
    background = data.background_images[slot]
    background.source = "IMAGE"
    # The frame is the picture whatever the scene's format is: pixels stay where they belong.
    background.frame_method = "STRETCH"
    background.scale = 1.0
    background.rotation = 0.0
    background.offset = (0.0, 0.0)
    if footage is None or not footage.path.is_file():
        background.image = None
        return
    background.image = _image(footage, f"{data.peel4d.view} {KINDS[slot]}", masks=slot == 1)
    user = background.image_user
    # Blender shows file number (scene frame - frame_start + 1 + frame_offset), limited to
    # 1 .. duration before the offset is added; movies count their frames from 1.
    user.frame_start = rig.frame_start
    user.frame_duration = frames
    user.frame_offset = footage.first if footage.kind == "movie" else footage.first - 1
    user.use_auto_refresh = True


def _image(footage: Footage, name: str, *, masks: bool) -> bpy.types.Image:
    """The image of this file with this source; made under `name` unless there is one."""
    source = {"movie": "MOVIE", "sequence": "SEQUENCE", "still": "FILE"}[footage.kind]
    path = str(footage.path)
    for image in bpy.data.images:
        if image.source == source and bpy.path.abspath(image.filepath) == path:
            return image
    image = bpy.data.images.load(path)
    image.name = name
    image.source = source
    if masks and image.colorspace_settings.name != "Non-Color":
        image.colorspace_settings.name = "Non-Color"
    return image


def apply_display(rig) -> None:
    """Bring what `rig` says about its backgrounds to its cameras."""
    for item in rig.views:
        if item.camera is None or item.camera.type != "CAMERA":
            continue
        for background, kind in zip(item.camera.data.background_images, KINDS, strict=False):
            background.show_background_image = rig.show == _SHOWN_AS[kind]
            background.alpha = rig.opacity
            background.display_depth = rig.depth
