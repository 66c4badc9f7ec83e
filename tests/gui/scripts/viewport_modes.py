"""Where points appear in every kind of viewport: Rendered mode and the overlay of the others.

usage: blender -P viewport_modes.py -- OUT

The clip is a few single points. Where Blender projects a point its disk must have its centre, on
the screen; a board that stands among them hides those behind it. Writes OUT/modes.json: the
largest distance for each mode, and a screenshot of each.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import numpy as np
import window as w
from bpy_extras.object_utils import world_to_camera_view
from bpy_extras.view3d_utils import location_3d_to_region_2d
from mathutils import Euler, Quaternion, Vector

#: Position and colour of the points, which differ from every background.
MARKS = [
    ((0.0, 0.0, 0.0), (1.0, 0.1, 0.1)),
    ((0.6, 0.2, 0.3), (0.1, 1.0, 0.1)),
    ((-0.5, 0.4, 0.5), (0.2, 0.3, 1.0)),
    ((0.3, -0.6, -0.4), (1.0, 1.0, 0.1)),
    ((-0.7, -0.3, -0.2), (1.0, 0.1, 1.0)),
]
RADIUS = 0.045
#: Centres are the means of pixels, so half a pixel of the disk's rim does not move them.
FAR = 0.25
FOUND = {}


def modes():
    w.OUT.mkdir(parents=True, exist_ok=True)
    make_scene(write_marks())
    yield 0.5
    _, area, region = w.area_of()
    space = area.spaces.active
    plain(space)
    yield 0.3
    space.region_3d.view_perspective = "PERSP"
    space.region_3d.view_rotation = Quaternion((0.8, 0.5, 0.15, 0.25)).normalized()
    space.region_3d.view_location = (0.0, 0.0, 0.0)
    space.region_3d.view_distance = 4.0
    for shading in ("RENDERED", "SOLID", "WIREFRAME", "MATERIAL"):
        yield from measure(shading.lower(), space, region, shading)
    bpy.context.scene.render.engine = "BLENDER_WORKBENCH"
    yield from measure("workbench", space, region, "RENDERED")
    bpy.context.scene.render.engine = "PEEL4D"
    for backend in ("CPU", "GL"):
        bpy.context.scene.peel4d.viewport_backend = backend
        yield from kinds_of_view(space, region, backend.lower())
    yield from kinds_of_view(space, region, "overlay")
    yield from depth(space, region)
    yield from local_view(space, region)
    yield from quad_view(area, space)
    yield from two_viewports(area)
    (w.OUT / "modes.json").write_text(json.dumps(FOUND, indent=1))


def kinds_of_view(space, region, how):
    """Orthographic, and through a camera with lens shift, zoom, offset and passepartout."""
    shading = "SOLID" if how == "overlay" else "RENDERED"
    view = space.region_3d
    view.view_perspective = "PERSP"
    yield from measure(f"perspective_{how}", space, region, shading)
    view.view_perspective = "ORTHO"
    yield from measure(f"orthographic_{how}", space, region, shading)
    view.view_perspective = "CAMERA"
    for camera in ("camera", "flat camera"):
        bpy.context.scene.camera = bpy.data.objects[camera]
        for zoom, offset in ((0.0, (0.0, 0.0)), (18.0, (0.06, -0.04)), (-12.0, (-0.2, 0.1))):
            view.view_camera_zoom, view.view_camera_offset = zoom, offset
            name = f"{camera.replace(' ', '_')}_{zoom:+.0f}_{how}"
            yield from measure(name, space, region, shading)
    bpy.context.scene.camera = bpy.data.objects["camera"]
    view.view_camera_zoom, view.view_camera_offset = 0.0, (0.0, 0.0)
    space.overlay.show_overlays = True
    yield from measure(f"with_overlays_{how}", space, region, shading)
    space.overlay.show_overlays = False
    view.view_perspective = "PERSP"


def depth(space, region):
    """A board through the middle: points before it show, those behind it do not."""
    board = bpy.data.objects["board"]
    board.hide_set(False)
    view = space.region_3d
    for shading in ("RENDERED", "SOLID", "MATERIAL"):
        for perspective in ("PERSP", "ORTHO"):
            view.view_perspective = perspective
            yield from settle(space, shading)
            name = f"board_{shading}_{perspective}".lower()
            pixels = w.shown(region, w.save(name)) / 255.0
            normal = board.matrix_world.to_3x3() @ Vector((0, 0, 1))
            eye = view.view_matrix.inverted().translation
            forward = view.view_rotation @ Vector((0, 0, -1))
            for position, color in MARKS:
                towards = eye - Vector(position) if perspective == "PERSP" else -forward
                front = normal.dot(Vector(position)) * normal.dot(towards) > 0
                at = location_3d_to_region_2d(region, view, Vector(position))
                row, column = round(region.height - at.y - 0.5), round(at.x - 0.5)
                seen = np.abs(pixels[row, column] - color).max() < 0.12
                if position != (0.0, 0.0, 0.0):  # that one lies in the board
                    assert seen == front, f"{name}: {position} {'shows' if seen else 'hides'}"
    board.hide_set(True)
    view.view_perspective = "PERSP"


def local_view(space, region):
    """Only what was chosen shows; the clip goes with the others."""
    clip = next(one for one in bpy.data.objects if one.peel4d.is_clip)
    for shading in ("RENDERED", "SOLID"):
        for chosen, shows in ((clip, True), (bpy.data.objects["camera"], False)):
            for one in bpy.context.view_layer.objects:
                one.select_set(one == chosen)
            window, area, _ = w.area_of()
            with bpy.context.temp_override(window=window, area=area, region=region):
                bpy.ops.view3d.localview(frame_selected=False)
            name = f"local_{'clip' if shows else 'other'}_{shading.lower()}"
            yield from settle(space, shading)
            if shows:
                check(name, region, space.region_3d)
            else:
                pixels = w.shown(region, w.save(name)).reshape(-1, 3)
                for _, color in MARKS:
                    near = np.abs(pixels / 255.0 - color).max(axis=1) < 0.12
                    assert not near.any(), f"{name}: a point of {color} shows"
            with bpy.context.temp_override(window=window, area=area, region=region):
                bpy.ops.view3d.localview(frame_selected=False)
            yield 0.3


def quad_view(area, space):
    for shading in ("RENDERED", "SOLID"):
        with bpy.context.temp_override(area=area, region=w.region_of(area)):
            bpy.ops.screen.region_quadview()
        yield 0.3
        regions = [one for one in area.regions if one.type == "WINDOW"]
        views = [one.data for one in regions]
        assert len(regions) == 4 and all(views), "no four views"
        space.region_3d.view_perspective = "PERSP"
        for view in views:
            view.view_distance = 2.4
        yield from settle(space, shading)
        name = f"quad_{shading.lower()}"
        w.save(name)
        for index, (region, view) in enumerate(zip(regions, views, strict=True)):
            check(f"{name}_{index}", region, view, save=False, fewest=2)
        with bpy.context.temp_override(area=area, region=w.region_of(area)):
            bpy.ops.screen.region_quadview()
        yield 0.5


def two_viewports(area):
    """Side by side, one in Rendered mode, one in Solid, and the other way round."""
    with bpy.context.temp_override(area=area, region=w.region_of(area)):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.5)
    yield 0.6
    areas = [one for one in bpy.context.screen.areas if one.type == "VIEW_3D"]
    assert len(areas) == 2
    for number, shadings in enumerate((("RENDERED", "SOLID"), ("SOLID", "RENDERED"))):
        for one, shading in zip(areas, shadings, strict=True):
            plain(one.spaces.active)
            one.spaces.active.shading.type = shading
            one.spaces.active.region_3d.view_perspective = "PERSP"
        areas[1].spaces.active.region_3d.view_rotation = Quaternion(
            (0.7, 0.6, 0.3, 0.1)
        ).normalized()
        yield from settle(areas[0].spaces.active, shadings[0])
        w.save(f"two_{number}")
        for index, one in enumerate(areas):
            name = f"two_{number}_{shadings[index].lower()}"
            check(name, w.region_of(one), one.spaces.active.region_3d, save=False, fewest=3)


# Steps of the above.


def plain(space):
    """Nothing but the scene, on one colour."""
    overlay = space.overlay
    overlay.show_overlays = overlay.show_floor = overlay.show_cursor = False
    overlay.show_axis_x = overlay.show_axis_y = overlay.show_ortho_grid = False
    overlay.show_outline_selected = overlay.show_object_origins = overlay.show_extras = False
    space.show_gizmo = False
    space.show_region_ui = space.show_region_toolbar = space.show_region_header = False
    space.shading.background_type = "VIEWPORT"
    space.shading.background_color = (0.08, 0.08, 0.08)


def measure(name, space, region, shading):
    yield from settle(space, shading)
    check(name, region, space.region_3d)


def settle(space, shading):
    """Choose the mode and wait until the picture is as fine as it gets."""
    space.shading.type = shading
    yield 0.4
    engine = w.package("addon.render.session").SESSION
    overlay = w.package("addon.render.overlay").OVERLAY

    def still():
        rendered = [one for one in engine.viewports if one.pictures.wanted is not None]
        loading = any(view.loading.busy or view.waits for view in overlay.views.values())
        return not loading and all(one.is_complete for one in rendered)

    yield from w.until(still, f"a complete picture in {shading}", 60.0)
    yield 0.6
    yield from w.until(still, f"a complete picture in {shading}", 60.0)
    assert overlay.problem is None, overlay.problem


def check(name, region, view, *, save=True, fewest=4):
    """Every mark lies where Blender projects it."""
    pixels = w.shown(region, w.save(name) if save else w.screen()) / 255.0
    worst, seen = 0.0, 0
    places = [location_3d_to_region_2d(region, view, Vector(one)) for one, _ in MARKS]
    reach = 22
    for number, ((_, color), place) in enumerate(zip(MARKS, places, strict=True)):
        x, y = place.x, region.height - place.y
        if not (reach < x < region.width - reach and reach < y < region.height - reach):
            continue
        others = [p for other, p in enumerate(places) if other != number]
        if any((p - place).length < 2 * reach for p in others):
            continue
        if view.view_perspective == "CAMERA" and not in_frame(MARKS[number][0]):
            continue
        left, top = int(x) - reach, int(y) - reach
        part = pixels[top : top + 2 * reach, left : left + 2 * reach]
        # How much of the mark's colour is in a pixel, from the background to the fullest one.
        behind = np.median(part.reshape(-1, 3), axis=0)
        direction = np.array(color) - behind
        weight = np.clip(((part - behind) @ direction) / (direction @ direction), 0, None)
        weight[weight < 0.02] = 0
        assert weight.max() > 0.4, f"{name}: nothing at {x:.1f}, {y:.1f}"
        rows, columns = np.indices(weight.shape) + 0.5
        centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        distance = float(np.hypot(*(centre + (left, top) - (x, y))))
        assert distance <= FAR, f"{name}: a point is {distance:.2f} px off"
        worst, seen = max(worst, distance), seen + 1
    assert seen >= fewest, f"{name}: only {seen} points could be measured"
    FOUND[name] = worst


def in_frame(position):
    """Not where Blender darkens the view, and not on the border of that."""
    scene = bpy.context.scene
    at = world_to_camera_view(scene, scene.camera, Vector(position))
    return 0.06 < at.x < 0.94 and 0.06 < at.y < 0.94


def write_marks():
    splats = w.package("engine.render.splats").Splats
    count = len(MARKS)
    points = splats.from_colors(
        np.array([position for position, _ in MARKS]),
        np.full(count, RADIUS),
        np.ones(count),
        np.array([color for _, color in MARKS]),
    )
    path = w.OUT / "marks.p4d"
    w.package("engine.clip.writer").write_clip(
        path, [points], fps=25.0, provenance={"made_by": "viewport_modes.py"}
    )
    return path


def make_scene(path):
    for one in list(bpy.data.objects):
        bpy.data.objects.remove(one)
    scene = bpy.context.scene
    bpy.ops.import_scene.peel4d(filepath=str(path), up="Z")
    clip = next(one for one in bpy.data.objects if one.peel4d.is_clip)
    clip.rotation_euler = (0.0, 0.0, 0.0)
    scene.render.engine = "PEEL4D"
    scene.view_settings.view_transform = "Standard"
    scene.world.color = (0.02, 0.02, 0.02)
    scene.peel4d.viewport_backend = "CPU"
    scene.render.resolution_x, scene.render.resolution_y = 900, 700
    for name, kind in (("camera", "PERSP"), ("flat camera", "ORTHO")):
        camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
        scene.collection.objects.link(camera)
        camera.location = (2.6, -2.3, 1.4)
        camera.rotation_euler = (-camera.location).to_track_quat("-Z", "Y").to_euler()
        camera.data.type, camera.data.ortho_scale = kind, 2.6
        camera.data.shift_x, camera.data.shift_y = 0.07, -0.05
        camera.data.passepartout_alpha = 0.8
        scene.camera = scene.camera or camera
    bpy.ops.mesh.primitive_plane_add(size=6.0)
    board = bpy.context.object
    board.name = "board"
    board.rotation_euler = Euler((1.1, 0.2, 0.4))
    material = bpy.data.materials.new("board")
    material.diffuse_color = (0.03, 0.03, 0.03, 1.0)
    board.data.materials.append(material)
    board.select_set(False)
    board.hide_set(True)


w.run(modes())
