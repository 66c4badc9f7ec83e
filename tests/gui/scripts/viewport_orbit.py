"""The Rendered mode while the view turns, and what it shows when that stands still.

usage: blender -P viewport_orbit.py -- OUT

Writes OUT/orbit.json. What it asserts is right or wrong; benchmarks/viewport.py measures.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import orbit_scene
import window as w
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Vector

POINTS = 40_000
LENGTH = 40
#: Decoding a frame is made to take so long, seconds.
DECODING = 2.5
FOUND = {"differences": {}}


def orbiting():
    w.OUT.mkdir(parents=True, exist_ok=True)
    clip = w.OUT / "orbit.p4d"
    orbit_scene.write_clip(clip, POINTS, LENGTH)
    orbit_scene.make_scene(clip)
    scene = bpy.context.scene
    scene.peel4d.viewport_backend = "CPU"
    yield 0.3
    _, region, space = yield from orbit_scene.one_viewport()
    FOUND["region"] = [region.width, region.height]
    space.shading.type = "RENDERED"
    yield from w.until_drawn()
    (viewport,) = w.viewports()
    compare("perspective", region, viewport)

    yield from turn(space, region, viewport)
    compare("turned", region, viewport)
    scene.frame_set(2)
    yield from w.until_drawn()
    compare("frame", region, viewport)
    yield from final_render(region, space, viewport)
    yield from graphics(region, space, viewport)
    yield from scrubbing(region, space, viewport)
    yield from missing(viewport, space)
    (w.OUT / "orbit.json").write_text(json.dumps(FOUND, indent=1))


def turn(space, region, viewport):
    """Smaller pictures while the view moves, the newest view always, and all of it in the end."""
    request = w.package("addon.render.viewport_request")
    peel_view, drawn = request.peel_view, []

    def slow(wanted, instances, scale, *arguments):
        drawn.append((wanted, scale))
        time.sleep(0.25 * scale**2)  # a clip that takes long to draw
        return peel_view(wanted, instances, scale, *arguments)

    request.peel_view = slow
    viewport.ui_seconds.clear()
    try:
        yield from orbit_scene.orbit(space, 3.0)
        moving = list(drawn)
        yield from w.until_drawn()
    finally:
        request.peel_view = peel_view
    w.save("turned")
    assert len(moving) >= 4, f"{len(moving)} pictures in 3 s"
    # Where Blender itself hardly redraws, the view stands still in between.
    assert np.median([scale for _, scale in moving]) < 0.9, [scale for _, scale in moving]
    assert drawn[-1][1] == 1.0 and viewport.finished.fine
    assert viewport.finished.view is viewport.pictures.wanted
    places = [view.camera.t.tobytes() for view, scale in drawn if scale < 1.0]
    assert len(set(places)) == len(places), "a view was drawn twice"
    # The UI thread never waits for the drawing one, which took 60 ms and more for each picture.
    ui = np.array(viewport.ui_seconds)
    FOUND["callbacks_ms"] = [1000 * float(np.quantile(ui, q)) for q in (0.5, 0.9)]
    assert np.quantile(ui, 0.9) < 0.05, FOUND["callbacks_ms"]
    worst = 0.0
    for point in np.random.default_rng(1).uniform(-0.6, 0.6, (40, 3)):
        place = location_3d_to_region_2d(region, space.region_3d, Vector(point))
        pixel, _ = viewport.finished.view.camera.project(point)
        worst = max(worst, abs(pixel[0] - place.x), abs(region.height - pixel[1] - place.y))
    assert worst <= 0.25, f"a point is {worst} pixels off"


def final_render(region, space, viewport):
    """The final render of a camera that sees what the viewport sees is the same picture."""
    scene = bpy.context.scene
    window = space.region_3d.window_matrix
    camera = bpy.data.objects.new("same", bpy.data.cameras.new("same"))
    scene.collection.objects.link(camera)
    camera.matrix_world = space.region_3d.view_matrix.inverted()
    camera.data.sensor_fit = "HORIZONTAL"
    camera.data.lens = camera.data.sensor_width * window[0][0] / 2
    camera.data.clip_start, camera.data.clip_end = space.clip_start, space.clip_end
    scene.camera = camera
    render = scene.render
    render.resolution_x, render.resolution_y = region.width, region.height
    render.resolution_percentage, render.dither_intensity = 100, 0.0
    render.image_settings.file_format = "PNG"
    render.filepath = str(w.OUT / "final.png")
    yield 0.2
    yield from w.until_drawn()
    shown = w.shown(region, w.save("viewport"))
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(render.filepath)
    image.colorspace_settings.name = "Non-Color"
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    final = pixels.reshape(image.size[1], image.size[0], 4)[::-1, :, :3]
    bpy.data.images.remove(image)
    judge("final", shown / 255.0, final)


def graphics(region, space, viewport):
    """The same picture from Blender's graphics device, refined step by step; its figures."""
    bpy.context.scene.peel4d.samples = "1"  # as many as the graphics device draws
    yield 0.3
    yield from w.until_drawn()
    wanted = w.shown(region) / 255.0
    choose("GL", region)
    viewport.ui_seconds.clear()
    yield from w.until(lambda: viewport.finished is None, "the graphics device draws")
    yield from w.until(lambda: viewport.is_complete, "a complete picture", 60.0)
    yield 0.4
    judge("graphics", w.shown(region, w.save("graphics")) / 255.0, wanted, quantile=0.999)
    FOUND["graphics_callbacks_ms"] = [
        1000 * float(np.quantile(viewport.ui_seconds, q)) for q in (0.5, 0.9, 1.0)
    ]
    lines = w.package("addon.render.display_panel").report_lines()
    assert any(f"{POINTS:,} points" in one for one in lines), lines
    assert any(one.startswith(f"Graphics, {region.width} x") for one in lines), lines
    yield from orbit_scene.orbit(space, 2.0)
    report = viewport.report()
    assert report.width < region.width and report.device == "gl", report
    FOUND["graphics_moving"] = [report.width, report.height, report.points, report.layers]
    yield from w.until(lambda: viewport.is_complete, "a complete picture", 60.0)
    # Nothing stays on the device when it is not used.
    peel = w.package("addon.render.gl_peel")
    assert peel.owners()
    choose("CPU", region)
    yield from w.until_drawn()
    assert not peel.owners(), "the graphics device keeps pictures of nobody"


def scrubbing(region, space, viewport):
    """Jumps to frames that take long to decode: Blender goes on meanwhile, whatever draws."""
    reader = w.package("engine.clip.reader").ClipReader
    decode, scene = reader._decode, bpy.context.scene
    overlay = w.package("addon.render.overlay").OVERLAY

    def slow(*arguments):
        time.sleep(DECODING)
        return decode(*arguments)

    reader._decode = slow
    FOUND["longest_wait_ms"] = {}
    try:
        for device, frame in (("CPU", 15), ("GL", 27), ("overlay", 39)):
            if device == "overlay":
                scene.peel4d.overlay, space.shading.type = True, "SOLID"
            else:
                choose(device, region)
            yield 1.0
            begin = last = time.monotonic()
            longest, shown = 0.0, False
            scene.frame_set(frame)
            region.tag_redraw()
            while not shown:
                yield 0.01
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                assert last - begin < 60.0, f"frame {frame} was never shown by {device}"
                if device == "overlay":
                    views = overlay.views.values()
                    shown = bool(views) and not any(view.loading.busy for view in views)
                else:
                    clips, _ = viewport.pictures.loaded
                    shown = clips is not None and clips.time == frame and viewport.is_complete
            FOUND["longest_wait_ms"][device] = 1000 * longest
            assert last - begin > 0.9 * DECODING, f"{device}: it was decoded before"
            assert longest < 0.8 * DECODING, f"{device} made Blender wait for {longest:.2f} s"
    finally:
        reader._decode = decode
    scene.peel4d.overlay, space.shading.type = False, "RENDERED"
    choose("CPU", region)
    yield from w.until_drawn()


def choose(backend, region):
    """As in the sidebar, where Blender redraws what is changed."""
    bpy.context.scene.peel4d.viewport_backend = backend
    region.tag_redraw()


def missing(viewport, space):
    """A file that is gone is a text in the viewport, and comes back."""
    clip = next(one for one in bpy.data.objects if one.peel4d.is_clip)
    path = clip.peel4d.filepath
    clip.peel4d.filepath = str(w.OUT / "gone.p4d")
    clip.update_tag()
    space.overlay.show_overlays = True
    yield from w.until(lambda: viewport.finished is None, "the missing file is noticed")
    yield 0.3
    w.save("missing")
    space.overlay.show_overlays = False
    clip.peel4d.filepath = path
    clip.update_tag()
    yield 0.3
    yield from w.until_drawn()


def compare(name, region, viewport):
    """The screen shows the finished picture."""
    color = w.package("addon.render.color")
    linear = color.over_background(
        color.scene_linear_from_clip(viewport.finished.picture.rgba.copy()),
        np.array(bpy.context.scene.world.color),
    )[..., :3]
    wanted = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    judge(name, w.shown(region, w.save(name)) / 255.0, wanted)


def judge(name, shown, wanted, quantile=0.9999):
    # Blender draws its own things at the corners.
    shown, wanted = shown[40:-40, 80:-80], wanted[40:-40, 80:-80]
    assert wanted.shape == shown.shape, (name, wanted.shape, shown.shape)
    assert wanted.std() > 0.05, "this would compare nothing"
    difference = np.abs(shown - wanted).max(axis=-1)
    found = [float(np.quantile(difference, quantile)), float(difference.max())]
    FOUND["differences"][name] = found
    assert found[0] <= 2 * w.LEVEL, f"{name}: {found}"


w.run(orbiting())
