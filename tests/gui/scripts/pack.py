"""Pack Clip in a window: it runs beside Blender, Esc stops it, and the object shows the result.

usage: blender -P pack.py -- OUT CLIP
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import window as w

CLIP = Path(w.ARGUMENTS[1])


def packing():
    """The operator that is at work, if any."""
    modal = bpy.context.window_manager.windows[0].modal_operators
    return any(operator.bl_idname == "OBJECT_OT_peel4d_pack_clip" for operator in modal)


def start(name: str, **options):
    window, area, region = w.area_of()
    with bpy.context.temp_override(window=window, area=area, region=region):
        done = bpy.ops.object.peel4d_pack_clip(
            "EXEC_DEFAULT", filepath=str(w.OUT / name), **options
        )
    assert done == {"RUNNING_MODAL"}, done


def scenario():
    w.OUT.mkdir(parents=True, exist_ok=True)
    assert bpy.ops.import_scene.peel4d(filepath=str(CLIP), up="Z") == {"FINISHED"}
    clip = bpy.context.object
    yield from w.open_sidebar(width=420)
    _, area, region = w.area_of()
    yield from w.find_button("bpy.ops.object.peel4d_pack_clip()")

    start("stopped.p4d", goal="PSNR", psnr=45.0, prune=0.0)  # it searches for a while
    yield from w.until(packing, "it runs beside Blender")
    clip.location.x += 0.1  # Blender goes on
    yield 0.5
    w.save("packing")
    yield from w.move(*w.place(region, region.width / 2, region.height / 2))
    yield from w.key("Escape")
    yield from w.until(lambda: not packing(), "Esc stops it")
    assert not (w.OUT / "stopped.p4d").exists()
    assert Path(bpy.path.abspath(clip.peel4d.filepath)) == CLIP

    start("packed.p4d")
    yield from w.until(lambda: not packing(), "it ends", 120)
    assert Path(bpy.path.abspath(clip.peel4d.filepath)) == w.OUT / "packed.p4d"
    assert (w.OUT / "packed.p4d").stat().st_size < 0.6 * CLIP.stat().st_size
    area.spaces.active.shading.type = "RENDERED"
    yield from w.until_drawn()
    w.save("packed")
    middle = w.shown(region)[region.height // 3 : -region.height // 3, region.width // 3 :]
    assert middle.std() > 10


w.run(scenario())
