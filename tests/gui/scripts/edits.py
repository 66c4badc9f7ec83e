"""People go on working while Peel4D draws and renders: edits, undo, other files, two windows.

usage: blender -P edits.py -- OUT CLIP OTHER_CLIP {CPU|GL}

Blender must not crash, no error may be missed, and what is seen in the end must be right.
"""

import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import window as w

CLIP, OTHER, BACKEND = w.ARGUMENTS[1:4]
OWN = w.OUT / "own.p4d"
done = []


def edits():
    w.OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLIP, OWN)
    for part in (
        make_scene,
        render_and_edit,
        escape,
        delete_while_rendering,
        two_windows,
        the_file_changes,
        undo_storm,
        another_file_while_rendering,
        disable_while_rendering,
    ):
        print(f"part: {part.__name__}", flush=True)
        yield from part()


def make_scene():
    for name in ("Light", "Camera", "Cube"):
        bpy.data.objects.remove(bpy.data.objects[name])
    assert bpy.ops.import_scene.peel4d(filepath=str(OWN), up="Z") == {"FINISHED"}
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 1, 5
    scene.peel4d.viewport_backend = BACKEND
    scene.view_settings.view_transform = "Standard"
    render = scene.render
    # Slow enough for several edits in every frame.
    render.resolution_x, render.resolution_y, render.resolution_percentage = 1920, 1280, 100
    scene.peel4d.samples = "4"
    render.filepath = str(w.OUT / "frame_")
    render.use_overwrite = True
    scene.camera = bpy.data.objects["cam00"]
    # Blender itself crashes, with any engine, when the parent of a camera is deleted while it
    # renders (Workbench does, without Peel4D); Render > Lock Interface is its answer.
    for thing in bpy.data.objects:
        if thing.type == "CAMERA":
            thing.parent = None
    for handlers, what in (
        (bpy.app.handlers.render_write, "frame"),
        (bpy.app.handlers.render_complete, "complete"),
        (bpy.app.handlers.render_cancel, "cancel"),
    ):
        # It stays when another file is loaded.
        handlers.append(bpy.app.handlers.persistent(lambda *_, what=what: done.append(what)))
    yield from look("RENDERED")
    bpy.ops.wm.save_as_mainfile(filepath=str(w.OUT / "scene.blend"))


def look(mode):
    _, area, _ = w.area_of()
    space = area.spaces.active
    space.shading.type = mode
    space.overlay.show_overlays = False
    space.region_3d.view_location, space.region_3d.view_distance = (0, 0, 0), 3.0
    yield 0.3
    if mode == "RENDERED":
        yield from w.until(
            lambda: all(v.is_complete for v in w.package("addon.render.session").SESSION.viewports),
            "the viewport is complete",
        )
    yield 0.3


def the_clip():
    return bpy.data.objects.get("own")


def is_rendering():
    return bpy.app.is_job_running("RENDER")


def start_animation():
    done.clear()
    window, area, region = w.area_of()
    for _ in range(100):
        try:
            with bpy.context.temp_override(window=window, area=area, region=region):
                bpy.ops.render.render("INVOKE_DEFAULT", animation=True)
            break
        except RuntimeError as error:
            # No operator may begin while an engine of Python's draws a last picture elsewhere.
            assert "can't modify blend data in this state" in str(error), error
            yield 0.1
    yield from w.until(is_rendering, "the animation renders")


def until_it_draws():
    """Wait until Peel4D draws a picture of the animation, or the animation ends.

    Between two pictures Blender itself reads the scene in its job thread, with any engine, and may
    crash when an object is removed meanwhile: its own rule is Render > Lock Interface.
    """
    renders = w.package("addon.render.running").FINAL_RENDERS
    yield from w.until(lambda: renders.drawing or not is_rendering(), "Peel4D draws", 60)


def close_render_window():
    """The window that a render opens takes the place of the viewport's; go back."""
    while len(bpy.context.window_manager.windows) > 1:
        window = bpy.context.window_manager.windows[-1]
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.window_close()
        yield 0.3


def when_allowed(write):
    """Write, and wait with it where Blender says no: it lets no script write while an engine's own
    Python runs, and in the job thread that may give way to this script at any time."""
    while True:
        try:
            return write()
        except AttributeError as error:
            assert "Writing to ID classes in this context" in str(error), error
            yield 0.02


def edit(clip, number):
    """Another value for everything that can change."""
    clip.peel4d.exposure = 0.2 * (number % 5)
    clip.peel4d.opacity = 1.0 - 0.1 * (number % 4)
    clip.peel4d.sequence_mode = ("CLIP", "REPEAT", "EXTEND", "PING_PONG")[number % 4]
    clip.location.x = 0.01 * (number % 3)
    clip.name = ("own", "renamed")[number % 2]


def render_and_edit():
    """Every property, the transform, copies and names change while the job thread draws."""
    yield from start_animation()
    clip, edits = the_clip(), 0
    while is_rendering():
        edits += 1
        yield from when_allowed(lambda number=edits: edit(clip, number))
        if edits % 2 == 0:
            yield from until_it_draws()
        if edits % 4 == 0:
            bpy.ops.object.select_all(action="DESELECT")
            clip.select_set(True)
            bpy.context.view_layer.objects.active = clip
            bpy.ops.object.duplicate()
            bpy.data.objects.remove(bpy.context.object)
            clip.select_set(True)
            bpy.context.view_layer.objects.active = clip
        if edits % 6 == 0:
            bpy.ops.object.peel4d_add_crop_box()
            box = clip.peel4d.crop_object
            yield 0.1
            yield from until_it_draws()
            yield from when_allowed(lambda: setattr(clip.peel4d, "crop_object", None))
            bpy.data.objects.remove(box)
        yield 0.1
    clip.name = "own"
    assert done[-1] == "complete" and done.count("frame") == 5, done
    assert edits > 5, "the animation was too fast to be disturbed"
    print(f"{edits} edits during an animation", flush=True)
    yield from close_render_window()


def escape():
    """Esc ends the animation, and the next one is whole again."""
    clip = the_clip()
    clip.peel4d.exposure, clip.peel4d.opacity, clip.location.x = 0.0, 1.0, 0.0
    yield from start_animation()
    yield from w.until(lambda: "frame" in done, "the first frame")
    xy = bpy.context.window_manager.windows[-1]
    yield from w.move(200 + xy.x, 300)
    for _ in range(20):
        yield from w.key("Escape")
        if not is_rendering():
            break
    yield from w.until(lambda: not is_rendering(), "Esc ends the animation", 15)
    assert done[-1] == "cancel" and done.count("frame") < 5, done
    yield from close_render_window()


def delete_while_rendering():
    yield from start_animation()
    yield from w.until(lambda: "frame" in done, "the first frame")
    yield from until_it_draws()
    assert is_rendering()
    bpy.data.objects.remove(the_clip())
    yield from w.until(lambda: not is_rendering(), "the animation without its clip ends", 60)
    yield from close_render_window()
    bpy.ops.wm.open_mainfile(filepath=str(w.OUT / "scene.blend"))
    yield 0.5
    assert the_clip() is not None
    yield from look("RENDERED")


def two_windows():
    """A second window with a scene of its own; both show clips; one is closed while it draws."""
    bpy.ops.wm.window_new_main()
    yield 0.7
    manager = bpy.context.window_manager
    assert len(manager.windows) == 2
    second = manager.windows[-1]
    scene = bpy.data.scenes.new("second")
    scene.render.engine = "PEEL4D"
    scene.peel4d.viewport_backend = BACKEND
    second.scene = scene
    with bpy.context.temp_override(window=second, scene=scene, view_layer=scene.view_layers[0]):
        assert bpy.ops.import_scene.peel4d(filepath=OTHER, up="Z", cameras=False) == {"FINISHED"}
    for window in manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.shading.type = "RENDERED"
    session = w.package("addon.render.session").SESSION
    yield from w.until(
        lambda: len([v for v in session.viewports if v.is_complete]) == 2, "both windows draw", 20
    )
    # It opens over the first one. Its picture is there before Blender has drawn it on the screen.
    area = max((a for a in second.screen.areas if a.type == "VIEW_3D"), key=lambda a: a.width)
    yield from w.until(
        lambda: middle(w.region_of(area), second.x).std() > 10, "the second window shows its clip"
    )
    w.save("two_windows")
    assert session.clip_count == 2
    for turn in range(6):
        for window in manager.windows:
            window.scene.frame_set(1 + turn % 5)
        yield 0.1
    with bpy.context.temp_override(window=second):
        bpy.ops.wm.window_close()
    yield 0.5
    bpy.data.scenes.remove(scene)
    yield 0.3
    yield from look("RENDERED")


def middle(region=None, left=0):
    """The screen where the clip is: (H, W, 3) float. left: where the region's window is."""
    region = region or w.region_of(w.area_of()[1])
    seen = w.shown(region).astype(float)
    height, width = seen.shape[:2]
    x = width // 2 + left
    return seen[height // 2 - 60 : height // 2 + 60, x - 60 : x + 60]


def settled():
    """The middle of the screen when it has not changed for a while."""
    before, since = middle(), time.monotonic()
    while time.monotonic() - since < 1.0:
        yield 0.1
        now = middle()
        if np.abs(now - before).max() > 0:
            before, since = now, time.monotonic()
    return before


def touch():
    """As the job does it when it has written a clip."""
    the_clip().update_tag()
    for area in bpy.context.screen.areas:
        area.tag_redraw()


def the_file_changes():
    """The clip is written anew, damaged, removed and put back while viewports draw it."""
    for mode in ("RENDERED", "SOLID"):
        yield from look(mode)
        before = yield from settled()
        assert before.std() > 15, "no clip in the middle of the viewport"
        shutil.copy(OTHER, OWN)
        touch()
        yield from w.until(lambda b=before: np.abs(middle() - b).mean() > 5, f"{mode}: new file")
        OWN.write_bytes(OWN.read_bytes()[:3000])
        touch()
        yield 1.0
        w.save(f"damaged_{mode.lower()}")
        OWN.unlink()
        touch()
        yield 1.0
        assert middle().std() < 15, f"{mode}: a clip without a file is still shown"
        shutil.copy(CLIP, OWN)
        touch()
        yield from w.until(
            lambda b=before: np.abs(middle() - b).mean() < 3, f"{mode}: it is back", 90
        )


def undo_storm():
    """Undo and redo make every object anew while the drawing thread is at work."""
    yield from look("RENDERED")
    window, area, region = w.area_of()
    with bpy.context.temp_override(window=window, area=area, region=region):
        for step in range(8):
            bpy.context.scene.frame_set(1 + step % 5)
            the_clip().location.x = 0.05 * step
            bpy.ops.ed.undo_push(message=f"step {step}")
            yield 0.03
    yield from w.move(*w.place(region, region.width / 2, region.height / 2))
    for name in ["ctrl+z"] * 7 + ["ctrl+shift+z"] * 7 + ["ctrl+z"] * 7:
        w.xdotool("key", name)
        yield 0.08
    yield 0.5
    assert abs(the_clip().location.x) < 1e-6, the_clip().location
    yield from look("RENDERED")
    assert middle().std() > 15
    w.save("undone")


def another_file_while_rendering():
    yield from start_animation()
    yield from w.until(lambda: "frame" in done, "the first frame")
    bpy.ops.wm.open_mainfile(filepath=str(w.OUT / "scene.blend"))
    yield 1.0
    assert not is_rendering() and the_clip() is not None
    yield from close_render_window()
    yield from look("RENDERED")
    assert middle().std() > 15


def disable_while_rendering():
    yield from start_animation()
    yield 0.5
    bpy.ops.preferences.addon_disable(module=w.MODULE)
    yield 1.0
    yield from w.until(lambda: not is_rendering(), "the render ends with its engine", 60)
    assert not hasattr(bpy.types.Object, "peel4d")
    assert bpy.ops.preferences.addon_enable(module=w.MODULE) == {"FINISHED"}
    yield from close_render_window()
    bpy.ops.wm.open_mainfile(filepath=str(w.OUT / "scene.blend"))
    yield 0.5
    yield from look("RENDERED")
    assert middle().std() > 15


w.run(edits())
