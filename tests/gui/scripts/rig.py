"""A capture as people meet it: dropped into the viewport, its footage behind the cameras.

usage: blender -P rig.py -- OUT CLIP CAPTURE MOVIES BENT EXPECTED INTERPRETER

MOVIES: a capture whose frame n of every view is grey of the level 40 + 30 n. BENT: one with a
distorted lens. EXPECTED: .npy, the undistorted picture of its first view and frame.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import window as w
from bpy_extras.view3d_utils import location_3d_to_region_2d

CLIP, CAPTURE, MOVIES, BENT, EXPECTED, INTERPRETER = (Path(a) for a in w.ARGUMENTS[1:7])


def rig():
    w.OUT.mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.addons[w.MODULE].preferences.interpreter = str(INTERPRETER)
    yield from empty()
    yield from drops()
    yield from movies()
    yield from masks()
    yield from undistorted()


def empty():
    bpy.ops.wm.read_homefile(use_empty=False)
    yield 0.4
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    bpy.context.scene.view_settings.view_transform = "Standard"
    yield 0.2


def drops():
    """A clip and a calibration file, dragged by mouse from Blender's file browser."""
    window, area, region = w.area_of()
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.4)
    yield 0.3
    browser = min((a for a in bpy.context.screen.areas if a.type == "VIEW_3D"), key=lambda a: a.x)
    browser.ui_type = "FILES"
    yield 0.5
    yield from drop(browser, CLIP)
    yield from w.until(
        lambda: any(t.peel4d.is_clip for t in bpy.data.objects), "the dropped clip is imported", 10
    )
    yield from drop(browser, CAPTURE / "intri.yml")
    yield from w.until(
        lambda: len(bpy.context.scene.peel4d_rig.views) > 0, "the dropped capture is imported", 10
    )
    rig = bpy.context.scene.peel4d_rig
    # A calibration file stands for its folder.
    assert len(rig.views) == 10 and rig.views[0].frames == 3, len(rig.views)
    yield 0.5
    w.save("dropped")
    yield from empty()


def drop(browser, path):
    params = browser.spaces.active.params
    params.directory = str(path.parent).encode()
    params.display_type = "LIST_VERTICAL"
    params.use_filter = False
    params.filter_search = path.name
    yield 1.2
    browser_region = w.region_of(browser)
    w.save(f"browser_{path.stem}")
    _, _, viewport = w.area_of()
    start = w.place(browser_region, 60, browser_region.height - FIRST_ROW)
    end = w.place(viewport, viewport.width / 2, viewport.height / 2)
    yield from w.drag(start, end)


#: From the top of the browser's main region to its first row, pixels.
FIRST_ROW = 36


def camera_pixels():
    """(H, W, 3) float: what the camera's frame shows in the viewport."""
    _, _area, region = w.area_of()
    camera = bpy.context.scene.camera
    corners = [
        location_3d_to_region_2d(region, _area.spaces.active.region_3d, camera.matrix_world @ c)
        for c in camera.data.view_frame(scene=bpy.context.scene)
    ]
    xs, ys = [c.x for c in corners], [c.y for c in corners]
    seen = w.shown(region).astype(float)
    top, bottom = region.height - max(ys), region.height - min(ys)
    return seen[round(top) + 3 : round(bottom) - 3, round(min(xs)) + 3 : round(max(xs)) - 3]


def look_through(view):
    _, area, region = w.area_of()
    with bpy.context.temp_override(area=area, region=region):
        assert bpy.ops.scene.peel4d_rig_look(view=view) == {"FINISHED"}
        bpy.ops.view3d.view_center_camera()
    space = area.spaces.active
    space.show_gizmo = False
    space.overlay.show_floor = space.overlay.show_axis_x = space.overlay.show_axis_y = False
    space.overlay.show_extras = space.overlay.show_cursor = False
    space.overlay.show_text = space.overlay.show_object_origins = False
    space.overlay.show_relationship_lines = False
    yield 0.5


def movies():
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(MOVIES), frame_start=11) == {"FINISHED"}
    scene = bpy.context.scene
    assert (scene.frame_start, scene.frame_end) == (11, 16)
    yield from look_through("01")
    assert scene.camera.data.background_images[0].image.source == "MOVIE"
    for frame in (0, 3, 1, 5, 4, 2):
        scene.frame_set(11 + frame)
        level = 40 + 30 * frame
        yield from w.until(
            lambda level=level: abs(np.median(camera_pixels()) - level) <= 4,
            f"frame {frame} of the movie, a grey of {level}",
            8,
        )
    w.save("movie")
    yield from empty()


def masks():
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(CAPTURE)) == {"FINISHED"}
    yield from look_through("03")
    yield 0.5
    footage = camera_pixels()
    w.save("footage")
    bpy.context.scene.peel4d_rig.show = "MASKS"
    yield 0.7
    seen = camera_pixels()
    w.save("masks")
    dark, bright = (seen < 12).all(axis=2).mean(), (seen > 243).all(axis=2).mean()
    assert dark + bright > 0.93 and 0.05 < bright < 0.6, (dark, bright)
    subject, rest = footage[(seen > 243).all(axis=2)], footage[(seen < 12).all(axis=2)]
    assert subject.mean() > rest.mean() + 50, "masks and footage do not lie on each other"
    bpy.context.scene.peel4d_rig.show = "NONE"
    yield 0.7
    assert camera_pixels().std() < 20
    yield from empty()


def undistorted():
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(BENT)) == {"FINISHED"}
    scene = bpy.context.scene
    preparation = w.package("addon.rig.preparation")
    yield from w.until(lambda: preparation.current() is None, "undistorting ends", 60)
    assert not preparation.last_message(), preparation.last_message()
    view = scene.peel4d_rig.views[0]
    assert view.is_distorted and not view.note, view.note
    yield from look_through(view.name)
    expected = np.load(EXPECTED).astype(float)
    yield 0.5
    seen = camera_pixels()
    w.save("undistorted")
    rows = (np.linspace(3, expected.shape[0] - 4, 24)).astype(int)
    columns = (np.linspace(3, expected.shape[1] - 4, 24)).astype(int)
    scale = np.array(seen.shape[:2]) / (np.array(expected.shape[:2]) - 0.0)
    # The frame without the 3 px at its sides that `camera_pixels` leaves out.
    sampled = seen[
        np.clip(((rows[:, None] + 0.5) * scale[0]).astype(int), 0, seen.shape[0] - 1),
        np.clip(((columns[None, :] + 0.5) * scale[1]).astype(int), 0, seen.shape[1] - 1),
    ]
    difference = np.abs(sampled - expected[rows[:, None], columns[None, :]])
    assert np.median(difference) < 6 and difference.mean() < 14, (
        np.median(difference),
        difference.mean(),
    )


w.run(rig())
