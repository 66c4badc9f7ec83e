"""Runs inside the real Blender with a window and the extension enabled: the Rendered mode.

usage: blender -P viewport_orbit.py -- OUT [SCREEN]

OUT: folder for a clip, screenshots and orbit.json with what was measured. SCREEN: the X screen as a
file that Xvfb writes (-fbdir), default /fb/Xvfb_screen0. $PEEL4D_SITE: folder with the package
`peel4d` where the extension is not installed. Ends Blender with exit code 1 when a check fails.
"""

import importlib
import json
import os
import struct
import sys
import time
import traceback
from pathlib import Path

import bpy
import numpy as np
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Quaternion, Vector

ARGUMENTS = sys.argv[sys.argv.index("--") + 1 :]
OUT = Path(ARGUMENTS[0])
SCREEN = ARGUMENTS[1] if len(ARGUMENTS) > 1 else "/fb/Xvfb_screen0"
POINTS = 100_000
SECONDS = 5.0
LEVEL = 1 / 255


def package(name):
    """A module of the add-on, wherever it is installed."""
    engines = bpy.types.RenderEngine.__subclasses__()
    engine = next(e for e in engines if getattr(e, "bl_idname", "") == "PEEL4D")
    root = engine.__module__.removesuffix(".addon.render.engine")
    return importlib.import_module(f"{root}.{name}")


def screen():
    """(H, W, 3) uint8 of the X screen, row 0 = top; an XWD file."""
    data = Path(SCREEN).read_bytes()
    head = struct.unpack(">25I", data[:100])
    size, width, height, order, stride, colors = (head[i] for i in (0, 4, 5, 7, 12, 19))
    rows = np.frombuffer(data, np.uint8, height * stride, size + colors * 12)
    pixels = rows.reshape(height, stride)[:, : width * 4].reshape(height, width, 4)
    return pixels[..., 2::-1] if order == 0 else pixels[..., 1:4]


def save(name, pixels):
    """Write a screenshot as PNG."""
    height, width = pixels.shape[:2]
    image = bpy.data.images.new(name, width, height)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = pixels[::-1] / np.float32(255)
    image.pixels.foreach_set(rgba.ravel())
    image.filepath_raw, image.file_format = str(OUT / f"{name}.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)


def make_clip(path):
    splats_of = package("engine.render.splats").Splats
    rng = np.random.default_rng(5)
    frames = []
    for frame in range(3):
        direction = rng.normal(size=(POINTS, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        bumps = 0.42 + 0.06 * np.sin(7 * direction[:, :1] + frame) * np.cos(6 * direction[:, 1:2])
        rgb = 0.5 + 0.5 * np.sin(5 * direction + [0, 2, 4])
        frames.append(
            splats_of.from_colors(
                direction * bumps * [1, 1, 1.4],
                np.full(POINTS, 0.006),
                rng.uniform(0.4, 1.0, POINTS),
                rgb,
            )
        )
    settings = package("engine.render.settings").PeelSettings(layers=12)
    package("engine.clip.writer").write_clip(
        path, frames, fps=25.0, settings=settings, provenance={"made_by": "viewport_orbit.py"}
    )


def make_scene(clip):
    bpy.ops.object.select_all(action="SELECT")
    bpy.ops.object.delete()
    bpy.ops.import_scene.peel4d(filepath=str(clip), up="Z")
    bpy.ops.mesh.primitive_torus_add(
        major_radius=0.75, minor_radius=0.05, major_segments=96, minor_segments=16
    )
    material = bpy.data.materials.new("ring")
    material.diffuse_color = (0.9, 0.25, 0.02, 1.0)
    bpy.context.object.data.materials.append(material)
    bpy.context.object.select_set(False)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    bpy.context.scene.collection.objects.link(camera)
    camera.location = (2.4, -2.0, 1.3)
    direction = Vector((0, 0, 0)) - camera.location
    camera.rotation_euler = direction.to_track_quat("-Z", "Y").to_euler()
    camera.data.shift_x, camera.data.shift_y = 0.07, -0.04
    scene = bpy.context.scene
    scene.camera = camera
    scene.render.engine = "PEEL4D"
    scene.view_settings.view_transform = "Standard"
    scene.peel4d.viewport_backend = "CPU"
    scene.peel4d.overlay = False  # Solid is the measure of what Blender itself takes
    scene.world.color = (0.02, 0.03, 0.05)


def the_view():
    area = max((a for a in bpy.context.screen.areas if a.type == "VIEW_3D"), key=lambda a: a.width)
    region = next(r for r in area.regions if r.type == "WINDOW")
    return area, region, area.spaces.active


def viewports():
    return [v for v in package("addon.render.session").SESSION.viewports if v.finished is not None]


def wait_complete(limit=30.0):
    """Steps until a viewport shows its newest request in full."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        yield 0.05
        if any(viewport.is_complete for viewport in viewports()):
            yield 0.3
            return
    raise AssertionError("the viewport was not drawn")


def orbit(space, seconds, gaps):
    """Turn the view in steps as fast as Blender redraws it."""
    turn = Quaternion((0, 0, 1), 0.03)
    until = time.monotonic() + seconds
    last = time.perf_counter()
    while time.monotonic() < until:
        space.region_3d.view_rotation = turn @ space.region_3d.view_rotation
        yield 0.005
        now = time.perf_counter()
        gaps.append(now - last)
        last = now


def shown(region, pixels):
    """The region of a screenshot, row 0 = top."""
    bottom = pixels.shape[0] - region.y
    return pixels[bottom - region.height : bottom, region.x : region.x + region.width]


def expected(viewport, world):
    """(H, W, 3) float under Standard: what the screen should show of a complete picture."""
    color = package("addon.render.color")
    picture = viewport.finished.picture
    linear = color.over_background(
        color.scene_linear_from_clip(picture.rgba.copy()), np.array(world.color)
    )[..., :3]
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def check_projection(region, space, viewport):
    """Blender's own projection of points against the picture's camera."""
    camera = viewport.finished.view.camera
    worst = 0.0
    for point in np.random.default_rng(1).uniform(-0.6, 0.6, (40, 3)):
        place = location_3d_to_region_2d(region, space.region_3d, Vector(point))
        pixel, _ = camera.project(point)
        worst = max(worst, abs(pixel[0] - place.x), abs(region.height - pixel[1] - place.y))
    assert worst <= 0.25, f"a point is {worst} pixels off"
    return worst


def check_screen(region, world, name):
    """The screen shows the finished picture."""
    pixels = screen()
    save(name, pixels)
    part = shown(region, pixels)[40:-40, 80:-80] / 255.0
    wanted = expected(viewports()[0], world)[40:-40, 80:-80]
    assert wanted.shape == part.shape, (wanted.shape, part.shape)
    difference = np.abs(part - wanted)
    assert wanted.std() > 0.05, "the test would compare nothing"
    assert np.quantile(difference, 0.9999) <= 2 * LEVEL, f"{name}: off by {difference.max()}"
    return float(difference.max())


def steps():
    report = {}
    clip = OUT / "orbit.p4d"
    make_clip(clip)
    make_scene(clip)
    area, region, space = the_view()
    yield 0.3
    # Only the viewport stays (screen_full_area out of a timer crashes 4.3).
    for other in [other for other in bpy.context.screen.areas if other != area]:
        with bpy.context.temp_override(area=other):
            bpy.ops.screen.area_close()
        yield 0.1
    area.spaces.active.show_region_header = False
    area.spaces.active.show_region_toolbar = False
    area.spaces.active.show_region_ui = False
    yield 0.5
    area, region, space = the_view()
    space.overlay.show_overlays = False
    space.show_gizmo = False
    space.region_3d.view_perspective = "PERSP"
    space.region_3d.view_location = (0, 0, 0)
    space.region_3d.view_distance = 2.6
    space.region_3d.view_rotation = Quaternion((0.85, 0.45, 0.12, 0.24)).normalized()
    yield 0.3
    report["region"] = [region.width, region.height]

    space.shading.type = "SOLID"
    gaps = []
    yield from orbit(space, 2.0, gaps)
    report["solid_gap_p99_ms"] = 1000 * float(np.quantile(gaps, 0.99))
    report["solid_gap_median_ms"] = 1000 * float(np.median(gaps))

    space.shading.type = "RENDERED"
    yield from wait_complete()
    (viewport,) = viewports()
    world = bpy.context.scene.world
    report["screen_difference"] = check_screen(region, world, "perspective")
    report["projection_perspective"] = check_projection(region, space, viewport)

    # Orbiting.
    published = []
    publish = type(viewport)._publish

    def counted(self, *arguments, **options):
        published.append(time.monotonic())
        return publish(self, *arguments, **options)

    type(viewport)._publish = counted
    viewport.ui_seconds.clear()
    gaps = []
    try:
        yield from orbit(space, SECONDS, gaps)
    finally:
        type(viewport)._publish = publish
    save("moving", screen())
    ui = 1000 * np.array(viewport.ui_seconds)
    report["pictures_per_second"] = len(published) / SECONDS
    report["moving_scale"] = viewport.finished.scale
    report["picture_ms"] = 1000 * viewport.finished.seconds
    report["gap_p99_ms"] = 1000 * float(np.quantile(gaps, 0.99))
    report["gap_median_ms"] = 1000 * float(np.median(gaps))
    report["ui_p99_ms"] = float(np.quantile(ui, 0.99))
    report["ui_median_ms"] = float(np.median(ui))
    yield from wait_complete()

    # Frames and edits.
    bpy.context.scene.frame_set(2)
    yield from wait_complete()
    report["screen_difference_frame"] = check_screen(region, world, "frame")

    space.region_3d.view_perspective = "ORTHO"
    yield 0.3
    yield from wait_complete()
    report["projection_orthographic"] = check_projection(region, space, viewport)
    report["screen_difference_orthographic"] = check_screen(region, world, "orthographic")

    space.region_3d.view_perspective = "CAMERA"
    for zoom, offset in ((0.0, (0.0, 0.0)), (20.0, (0.12, -0.05)), (-10.0, (-0.2, 0.1))):
        space.region_3d.view_camera_zoom = zoom
        space.region_3d.view_camera_offset = offset
        yield 0.3
        yield from wait_complete()
        name = f"projection_camera_{zoom:g}"
        report[name] = check_projection(region, space, viewport)
    space.overlay.show_overlays = True
    space.region_3d.view_camera_zoom = 0.0
    space.region_3d.view_camera_offset = (0.0, 0.0)
    yield 0.3
    yield from wait_complete()
    save("camera", screen())
    space.overlay.show_overlays = False

    # A file that is gone is a text in the viewport, and comes back.
    clip_object = next(o for o in bpy.data.objects if o.peel4d.is_clip)
    path = clip_object.peel4d.filepath
    clip_object.peel4d.filepath = str(OUT / "gone.p4d")
    clip_object.update_tag()
    space.overlay.show_overlays = True
    yield 0.6
    save("missing", screen())
    space.overlay.show_overlays = False
    assert viewport.finished is None
    clip_object.peel4d.filepath = path
    clip_object.update_tag()
    yield 0.3
    yield from wait_complete()

    (OUT / "orbit.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1), flush=True)
    assert report["pictures_per_second"] >= 10.0, report
    assert report["ui_p99_ms"] < 50.0, report


def run(generator):
    def step():
        try:
            return next(generator)
        except StopIteration:
            quit_with(0)
        except BaseException:
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            quit_with(1)
        return None

    bpy.app.timers.register(step, first_interval=1.0)


def quit_with(code):
    if code:
        os._exit(code)
    bpy.ops.wm.quit_blender()


bpy.context.preferences.view.show_splash = False
site = os.environ.get("PEEL4D_SITE")
if site:
    sys.path.insert(0, site)
    importlib.import_module("peel4d").register()
run(steps())
