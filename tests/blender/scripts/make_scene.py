"""Runs inside the real Blender with the extension enabled: saves a scene that shows a clip.

usage: blender -b -P make_scene.py -- CLIP OUT.blend {PNG|EXR} [CAMERA_TYPE]
"""

import sys
from pathlib import Path

import bpy

clip, blend, picture, *camera_type = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_homefile(use_empty=True)  # not the factory's: that would disable the extension
scene = bpy.context.scene
bpy.ops.wm.save_as_mainfile(filepath=blend)
bpy.ops.import_scene.peel4d(filepath=clip, up="Z")
assert bpy.context.active_object.peel4d.filepath.startswith("//")
camera = scene.camera
with bpy.context.temp_override(active_object=camera, object=camera):
    bpy.ops.camera.peel4d_use_captured_format()
if camera_type:
    camera.data.type = camera_type[0]
scene.render.film_transparent = True
scene.render.dither_intensity = 0.0
scene.view_settings.view_transform = "Standard"
bpy.context.view_layer.use_pass_z = True
image = scene.render.image_settings
if picture == "PNG":
    image.file_format, image.color_mode = "PNG", "RGBA"
else:
    if hasattr(image, "media_type"):  # Blender 5
        image.media_type = "MULTI_LAYER_IMAGE"
        image.use_exr_interleave = True
    image.file_format, image.color_depth, image.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"
scene.render.filepath = f"//{Path(blend).stem}_"
bpy.ops.wm.save_mainfile()
