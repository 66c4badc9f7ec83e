"""usage: blender -b SHOT.blend -P soak.py -- OUT.json: memory after every frame of 120.

The shot is rendered five times over, with persistent data: what stays between two frames must not
add up.
"""

import json
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
from resources import Held

OUT = Path(sys.argv[sys.argv.index("--") + 1])
held = []


def measure(*_args):
    held.append(Held.now().as_dict())


scene = bpy.context.scene
scene.render.use_persistent_data = True
scene.render.filepath = str(OUT.parent / "soak") + "/"
bpy.app.handlers.render_post.append(measure)
for _ in range(5):
    bpy.ops.render.render(animation=True)
OUT.write_text(json.dumps(held))
