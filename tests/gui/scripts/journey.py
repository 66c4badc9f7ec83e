"""From the zip to the picture and back, as an artist goes: mouse, keys, and what the screen shows.

usage: blender -P journey.py -- OUT ZIP CAPTURE INTERPRETER [PRESET]
"""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import window as w
from mathutils import Vector

ZIP, CAPTURE, INTERPRETER = (Path(argument) for argument in w.ARGUMENTS[1:4])
PRESET = w.ARGUMENTS[4] if len(w.ARGUMENTS) > 4 else "draft"


def journey():
    yield from install()
    yield from import_rig()
    yield from reconstruct()
    yield from look_in_every_mode()
    yield from scrub()
    yield from render_by_key()
    yield from undo()
    yield from save_and_reload()
    yield from uninstall()


def install():
    bpy.ops.extensions.package_install_files(
        filepath=str(ZIP), repo="user_default", enable_on_install=True
    )
    yield 0.5
    assert hasattr(bpy.types.Object, "peel4d")
    preferences = bpy.context.preferences.addons[w.MODULE].preferences
    preferences.interpreter = str(INTERPRETER)
    for name in ("Cube", "Light", "Camera"):
        bpy.data.objects.remove(bpy.data.objects[name])
    bpy.context.scene.view_settings.view_transform = "Standard"
    yield from w.open_sidebar()
    w.save("1_installed")
    # In a folder of its own before anything else: relative paths, and a place for the output.
    bpy.ops.wm.save_as_mainfile(filepath=str(w.OUT / "scene.blend"))


def import_rig():
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(CAPTURE)) == {"FINISHED"}
    yield 0.5
    rig = bpy.context.scene.peel4d_rig
    assert len(rig.views) == len([o for o in bpy.data.objects if o.type == "CAMERA"]) > 0
    _, area, region = w.area_of()
    area.spaces.active.shading.type = "SOLID"
    with bpy.context.temp_override(area=area, region=region):
        bpy.ops.view3d.view_all()
    yield 1.0
    w.save("2_rig")
    # Through the eyes of a camera: its footage must fill what the camera sees.
    yield from w.press("bpy.ops.scene.peel4d_rig_look")
    yield from w.until(
        lambda: area.spaces.active.region_3d.view_perspective == "CAMERA", "the view is a camera's"
    )
    yield 1.5
    seen = w.shown(region, w.save("3_look_through")).astype(float)
    middle = seen[region.height // 3 : -region.height // 3, region.width // 3 : -region.width // 3]
    assert middle.std() > 8, "no footage behind the camera"
    area.spaces.active.region_3d.view_perspective = "PERSP"


def reconstruct():
    scene = bpy.context.scene
    scene.peel4d_job.preset = PRESET
    scene.peel4d_job.output = "//reconstruction"
    _, area, _ = w.area_of()
    area.spaces.active.shading.type = "RENDERED"
    scene.render.engine = "PEEL4D"
    yield from fold_rig(True)
    yield from w.press("bpy.ops.peel4d.reconstruct")
    session = w.package("addon.job.session").SESSION
    yield from w.until(lambda: session.job is not None, "the button started the job", 5)
    job = session.job
    yield from w.until(
        lambda: not session.is_active or (job.fraction > 0.02 and "training_psnr" in job.metrics),
        "training shows its progress",
        120,
    )
    assert session.is_active, job.message
    # The preview appears while it trains.
    yield from w.until(
        lambda: not session.is_active or "Peel4D Preview" in bpy.data.objects, "a preview", 120
    )
    assert session.is_active, job.message
    yield 1.0
    w.save("4_training")
    clips = w.package("addon.job.job").State
    yield from w.until(lambda: not session.is_active, "the reconstruction ends", 1800)
    assert job.state is clips.DONE, job.message
    yield from w.until(lambda: the_clip() is not None, "the clip is in the scene", 20)
    assert "Peel4D Preview" not in bpy.data.objects
    yield from w.until_drawn()
    w.save("5_done")
    # Nothing can be resumed any more, and what is finished is not written over.
    yield from w.find_button("bpy.ops.peel4d.reconstruct(again=True)")


def fold_rig(close):
    """Put the rig's panel out of the way by a click on its header (or back)."""
    _, area, _ = w.area_of()
    region = w.region_of(area, "UI")
    yield from w.click(*w.place(region, 0.3 * region.width, region.height - 14))
    yield 0.3


def the_clip():
    return next((thing for thing in bpy.data.objects if thing.peel4d.is_clip), None)


def frame_the_clip():
    """The subject fills the middle of the viewport."""
    _, area, _ = w.area_of()
    bounds = [the_clip().matrix_world @ Vector(corner) for corner in the_clip().bound_box]
    view = area.spaces.active.region_3d
    view.view_perspective = "PERSP"
    view.view_location = sum(bounds, Vector()) / 8
    view.view_distance = 2.2 * max((a - b).length for a in bounds for b in bounds)
    yield 0.2


def expected_picture():
    """(H, W, 4) float32, row 0 = top: what the engine draws for the viewport's camera, display
    referred and premultiplied."""
    viewport = w.viewports()[0]
    return viewport.finished.picture.rgba


def visible_part(region):
    """Rows and columns of the viewport that no header and no sidebar covers."""
    _, area, _ = w.area_of()
    side = w.region_of(area, "UI").width + 20
    tools = w.region_of(area, "TOOLS").width + 20
    return slice(90, -40), slice(tools, region.width - side)


def look_in_every_mode():
    _, area, region = w.area_of()
    space = area.spaces.active
    space.overlay.show_overlays = False
    space.show_gizmo = False
    yield from frame_the_clip()
    yield from w.until_drawn()
    rows, columns = visible_part(region)
    picture = expected_picture()
    part = picture[rows, columns]
    inside = part[..., 3] > 0.99
    assert inside.sum() > 500, "the subject is not in the middle of the viewport"
    w.save("6_rendered")
    for mode in ("RENDERED", "SOLID", "MATERIAL", "WIREFRAME"):
        space.shading.type = mode
        yield 0.5
        if mode == "RENDERED":
            yield from w.until_drawn()
        # EEVEE compiles shaders first.
        yield from w.until(
            lambda: difference(region, rows, columns, part, inside) < 0.03,
            f"{mode} shows the clip as the engine draws it",
            90,
        )
        w.save(f"6_{mode.lower()}")
    space.shading.type = "RENDERED"
    space.overlay.show_overlays = True
    yield from w.until_drawn()


def difference(region, rows, columns, part, inside):
    """Mean absolute difference of the screen and the picture where the picture is opaque."""
    seen = w.shown(region)[rows, columns] / 255.0
    return float(np.abs(seen - part[..., :3])[inside].mean())


def scrub():
    """Drag the playhead of the timeline."""
    scene = bpy.context.scene
    _, area, region = w.area_of("DOPESHEET_EDITOR")
    scene.frame_set(scene.frame_start)
    with bpy.context.temp_override(area=area, region=region):
        bpy.ops.action.view_all()
    yield from w.until_drawn()
    _, _, view = w.area_of()
    before = w.shown(view).astype(float)
    first = region.view2d.view_to_region(scene.frame_start, 0, clip=False)[0]
    last = region.view2d.view_to_region(scene.frame_end, 0, clip=False)[0]
    top = region.height - 8
    yield from w.drag(w.place(region, first, top), w.place(region, last, top))
    yield from w.until(lambda: scene.frame_current == scene.frame_end, "the last frame is shown", 5)
    yield from w.until_drawn()
    after = w.shown(view, w.save("7_scrubbed")).astype(float)
    assert np.abs(after - before).max() > 20, "the picture did not follow the playhead"


def render_by_key():
    scene = bpy.context.scene
    rig = [thing for thing in bpy.data.objects if thing.type == "CAMERA"]
    scene.camera = rig[0]
    scene.render.resolution_percentage = 100
    # An OpenEXR beside it, because what the window shows cannot be read back.
    scene.render.image_settings.file_format = "OPEN_EXR"
    done = []
    bpy.app.handlers.render_complete.append(lambda *_: done.append(True))
    _, _, region = w.area_of()
    yield from w.move(*w.place(region, region.width / 2, region.height / 2))
    if bpy.app.version < (5, 1, 0):
        yield from w.key("F12")
    else:
        # Its F12 renders the sequencer's scene where there is none, without any extension, too.
        bpy.ops.render.render("INVOKE_DEFAULT", use_viewport=True)
    yield from w.until(lambda: bool(done), "F12 renders", 60)
    yield 1.0
    result = bpy.data.images["Render Result"]
    path = w.OUT / "f12.exr"
    result.save_render(str(path))
    image = bpy.data.images.load(str(path))
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)
    bpy.data.images.remove(image)
    assert pixels[..., 3].max() > 0.99 and pixels[..., :3].std() > 0.02, "the render is empty"
    w.save("8_f12")
    np.save(w.OUT / "f12.npy", pixels[::-1])
    # There is no window manager that gives the picture's window the keys, so no Escape.
    for window in list(bpy.context.window_manager.windows)[1:]:
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.window_close()
    yield 0.5


def undo():
    _, area, region = w.area_of()
    clip = the_clip()
    name, before = clip.name, clip.matrix_world.copy()
    bpy.ops.object.select_all(action="DESELECT")
    clip.select_set(True)
    bpy.context.view_layer.objects.active = clip
    with bpy.context.temp_override(area=area, region=region):
        bpy.ops.ed.undo_push(message="before")
        bpy.ops.transform.translate(value=(0.5, 0, 0))
        bpy.ops.ed.undo_push(message="moved")
    yield from w.until_drawn()
    moved = bpy.data.objects[name].matrix_world.translation.copy()
    assert (moved - before.translation).length > 0.1
    yield from w.move(*w.place(region, region.width / 2, region.height / 2))
    yield from w.key("ctrl+z")
    yield from w.until(
        lambda: (
            (bpy.data.objects[name].matrix_world.translation - before.translation).length < 1e-5
        ),
        "Ctrl-Z moves the clip back",
        5,
    )
    yield from w.until_drawn()
    w.save("9_undone")


def save_and_reload():
    path = w.OUT / "scene.blend"
    _, area, region = w.area_of()
    yield from frame_the_clip()
    area.spaces.active.overlay.show_overlays = False
    yield from w.until_drawn()
    rows, columns = visible_part(region)
    before = w.shown(region)[rows, columns].astype(float)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(app_template="")
    yield 1.0
    bpy.ops.wm.open_mainfile(filepath=str(path))
    yield 1.0
    assert the_clip() is not None
    # Blender opens files whose viewport was in Rendered mode in Solid mode.
    _, area, region = w.area_of()
    assert area.spaces.active.shading.type == "SOLID"
    w.save("10_reloaded_solid")
    area.spaces.active.shading.type = "RENDERED"
    yield from w.until_drawn()
    after = w.shown(region, w.save("10_reloaded"))[rows, columns].astype(float)
    assert before.std() > 5
    assert np.abs(after - before).mean() < 1, "the file looks different after loading it again"


def uninstall():
    bpy.ops.extensions.package_uninstall(repo_index=repository(), pkg_id="peel4d")
    yield 1.5
    assert not hasattr(bpy.types.Object, "peel4d")
    assert not hasattr(bpy.types, "PEEL4D_PT_reconstruct")
    threads = [thread.name for thread in threading.enumerate() if "peel4d" in thread.name]
    assert not threads, f"left behind: {threads}"
    modules = [name for name in sys.modules if name.startswith(w.MODULE)]
    assert not modules, f"left behind: {modules}"
    assert not (Path(bpy.utils.user_resource("EXTENSIONS")) / "user_default" / "peel4d").exists()
    w.save("11_uninstalled")
    # The scene stays usable.
    bpy.context.scene.render.engine = "BLENDER_WORKBENCH"
    _, area, _ = w.area_of()
    area.spaces.active.shading.type = "SOLID"
    yield 1.0


def repository():
    repositories = bpy.context.preferences.extensions.repos
    return next(i for i, repo in enumerate(repositories) if repo.module == "user_default")


w.run(journey())
