"""The clips' files are gone when frame 13 begins.

usage: blender -b SHOT.blend -P lose_clip.py -a
"""

from pathlib import Path

import bpy


def lose(scene, *_args):
    if scene.frame_current == 13:
        for item in bpy.data.objects:
            if item.peel4d.is_clip:
                Path(bpy.path.abspath(item.peel4d.filepath)).unlink(missing_ok=True)


bpy.app.handlers.render_pre.append(lose)
