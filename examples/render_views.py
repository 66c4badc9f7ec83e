# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a clip in Blender from the cameras that captured it.

    python examples/render_views.py CLIP OUT [--views 20,21] [--save scene.blend]

With Blender's module (pip install bpy); every picture is OUT/<view>_<frame>.png, RGBA, under the
Standard view transform, which shows display-referred footage unchanged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bpy

import peel4d
from peel4d.addon.cameras import use_captured_format
from peel4d.addon.import_clip import import_clip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--views", help="comma-separated; default: all cameras of the clip")
    parser.add_argument("--save", type=Path, help="keep the scene as a .blend file")
    options = parser.parse_args()

    peel4d.register()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    imported = import_clip(
        scene, scene.collection, options.clip.resolve(), set_engine=True, set_frame_rate=True
    )
    for warning in imported.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    scene.render.film_transparent = True
    scene.render.dither_intensity = 0.0
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Standard"

    names = options.views.split(",") if options.views else list(imported.cameras)
    first = scene.frame_start
    for name in names:
        camera = imported.cameras[name]
        scene.camera = camera
        use_captured_format(scene, camera.data)
        for frame in range(first, scene.frame_end + 1):
            scene.frame_set(frame)
            picture = options.output.resolve() / f"{name}_{frame - first:06d}.png"
            scene.render.filepath = str(picture)
            bpy.ops.render.render(write_still=True)
    if options.save:
        bpy.ops.wm.save_as_mainfile(filepath=str(options.save.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
