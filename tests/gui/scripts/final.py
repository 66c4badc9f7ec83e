"""Renders an animation in the window, as Ctrl-F12 does, and cancels another one with Esc.

usage: blender -P final.py -- OUT SHOT.blend

SHOT.blend is made by make_shot.py. OUT/window/ gets its frames; where Peel4D renders it,
OUT/viewport.png what the viewport shows through the camera at 100 %, and OUT/still/ the same as a
final render; where it is a composite, OUT/missing/ a frame whose clip is gone. OUT/final.json tells
what happened.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import window as w
from bpy_extras.view3d_utils import location_3d_to_region_2d

SHOT = w.ARGUMENTS[1]
FOUND = {"stats": [], "written": []}


def final():
    bpy.ops.wm.open_mainfile(filepath=SHOT, load_ui=False)
    yield 1.0
    listen()
    yield from render_all()
    if bpy.context.scene.render.engine == "PEEL4D":
        yield from compare_viewport()
    yield from cancel_by_key()
    if bpy.context.scene.render.engine != "PEEL4D":
        yield from lose_the_clip()
    (w.OUT / "final.json").write_text(json.dumps(FOUND))


def listen():
    handlers = bpy.app.handlers
    handlers.render_stats.append(lambda *args: FOUND["stats"].append(str(args[0])[-160:]))
    handlers.render_write.append(lambda scene, *_: FOUND["written"].append(scene.frame_current))
    handlers.render_complete.append(lambda *_: FOUND.setdefault("complete", time.monotonic()))
    handlers.render_cancel.append(lambda *_: FOUND.setdefault("cancelled", time.monotonic()))


def running():
    return bpy.app.is_job_running("RENDER")


def start(folder):
    """Ctrl-F12, on a job's thread, shown in a window of its own or in an editor."""
    scene = bpy.context.scene
    scene.render.filepath = str(w.OUT / folder) + "/"
    FOUND.pop("complete", None)
    FOUND.pop("cancelled", None)
    FOUND["written"].clear()
    window, area, region = w.area_of()
    bpy.context.preferences.view.render_display_type = "AREA"
    with bpy.context.temp_override(window=window, area=area, region=region):
        assert bpy.ops.render.render("INVOKE_DEFAULT", animation=True) == {"RUNNING_MODAL"}
    yield from w.until(running, "a render job runs", 5)


def viewport_again():
    """The editor that shows the render was the viewport before."""
    for each in bpy.context.window_manager.windows[0].screen.areas:
        if each.type == "IMAGE_EDITOR":
            each.type = "VIEW_3D"
    yield 0.5


def render_all():
    yield from start("window")
    yield from w.until(lambda: len(FOUND["written"]) >= 5, "frames are written", 60)
    w.save("1_animation")
    yield from w.until(lambda: not running(), "the animation is rendered", 120)
    yield 0.5
    assert "complete" in FOUND and "cancelled" not in FOUND
    FOUND["all"] = list(FOUND["written"])


def compare_viewport():
    """The camera's view at 100 % in the viewport, and the same as a final render."""
    scene = bpy.context.scene
    w.save("2_rendered")
    yield from viewport_again()
    window, area, region = w.area_of()
    space = area.spaces.active
    space.shading.type = "RENDERED"
    space.overlay.show_overlays = space.show_gizmo = False
    space.show_region_header = space.show_region_toolbar = False
    space.region_3d.view_perspective = "CAMERA"
    scene.camera.data.show_passepartout = False
    scene.render.film_transparent = False
    scene.world = bpy.data.worlds.new("grey")
    scene.world.color = (0.1, 0.1, 0.1)
    scene.peel4d.samples = "1"
    scene.frame_set(20)
    yield 0.3
    # Whole pixels to both sides: the picture would lie between the screen's pixels else.
    scene.render.resolution_x = 320 + region.width % 2
    scene.render.resolution_y = 240 + region.height % 2
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.view3d.view_center_camera()
        bpy.ops.view3d.zoom_camera_1_to_1()
    yield from w.move(3, 3)  # the pointer would be in the picture
    yield from w.until_drawn()
    w.save("3_viewport")
    corners = [scene.camera.matrix_world @ c for c in scene.camera.data.view_frame(scene=scene)]
    corners = [location_3d_to_region_2d(region, space.region_3d, c) for c in corners]
    left, right = (limit(c.x for c in corners) for limit in (min, max))
    low, high = (limit(c.y for c in corners) for limit in (min, max))
    assert all(abs(edge - round(edge)) < 0.01 for edge in (left, right, low, high))
    size = (scene.render.resolution_x, scene.render.resolution_y)
    assert (round(right - left), round(high - low)) == size
    top = region.height - round(high)
    seen = w.shown(region)[top : region.height - round(low), round(left) : round(right)]
    w.save("viewport", seen)
    scene.frame_start = scene.frame_end = 20
    yield from start("still")
    yield from w.until(lambda: not running(), "the still is rendered", 60)
    scene.frame_start, scene.frame_end = 1, 24
    yield from viewport_again()


def cancel_by_key():
    scene = bpy.context.scene
    yield from viewport_again()
    scene.render.resolution_x, scene.render.resolution_y = 3840, 2160
    if scene.render.engine == "PEEL4D":
        scene.peel4d.samples = "4"
    else:
        scene.cycles.samples = 16
    yield from start("cancelled")
    yield 1.5
    w.save("4_before_escape")
    pressed = time.monotonic()
    yield from w.key("Escape")
    yield from w.until(lambda: not running(), "Esc ends the render", 30)
    yield 0.3
    FOUND["seconds"] = FOUND.get("cancelled", 1e9) - pressed
    assert "complete" not in FOUND
    FOUND["before"] = list(FOUND["written"])
    w.save("5_cancelled")
    # Blender is as it was: it renders again.
    scene.render.resolution_x, scene.render.resolution_y = 240, 160
    scene.frame_start = scene.frame_end = 3
    yield from viewport_again()
    yield from start("again")
    yield from w.until(lambda: not running(), "it renders again", 60)
    yield 0.3
    assert "complete" in FOUND


def lose_the_clip():
    clip = next(item for item in bpy.context.scene.objects if item.peel4d.is_clip)
    path = Path(bpy.path.abspath(clip.peel4d.filepath))
    path.rename(path.with_suffix(".away"))
    yield from viewport_again()
    yield from start("missing")
    yield from w.until(lambda: not running(), "it renders without the clip", 60)
    yield 1.0
    w.save("6_missing")
    path.with_suffix(".away").rename(path)


w.run(final())
