# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Blender's cameras as engine cameras and the other way round."""

import itertools

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Euler, Vector

from peel4d.addon import cameras
from peel4d.addon.render import view
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.errors import PeelError

pytestmark = pytest.mark.blender

#: Blender stores lens, shift and matrices in single precision: 1e-7 relative of some 1e3 pixels,
#: a few operations long.
PIXEL_TOLERANCE = 3e-3


def add_camera(scene, **data):
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    for name, value in data.items():
        setattr(camera.data, name, value)
    camera.location = (1.3, -4.0, 2.2)
    camera.rotation_euler = Euler((1.1, 0.13, 0.35))
    scene.camera = camera
    return camera


def evaluated_camera(scene, camera):
    depsgraph = bpy.context.evaluated_depsgraph_get()
    depsgraph.update()
    return view.full_camera(camera.evaluated_get(depsgraph), depsgraph, scene.render)


@pytest.mark.parametrize("kind", ["PERSP", "ORTHO"])
@pytest.mark.parametrize("fit", ["AUTO", "HORIZONTAL", "VERTICAL"])
def test_projection_is_blenders(scene, kind, fit):
    camera = add_camera(scene, type=kind, lens=40.0, ortho_scale=5.0, sensor_fit=fit)
    camera.data.sensor_width, camera.data.sensor_height = 36.0, 20.0
    camera.scale = (2.0, 0.7, 3.0)  # a camera's scale must not matter
    rng = np.random.default_rng(3)
    points = rng.uniform(-1.5, 1.5, (20, 3))
    sizes = [(640, 360), (360, 640), (400, 400)]
    aspects = [(1.0, 1.0), (1.5, 1.0), (1.0, 1.25)]
    shifts = [(0.0, 0.0), (0.21, -0.13)]
    for (width, height), aspect, shift, percentage in itertools.product(
        sizes, aspects, shifts, [100, 50, 25]
    ):
        render = scene.render
        render.resolution_x, render.resolution_y = width, height
        render.pixel_aspect_x, render.pixel_aspect_y = aspect
        render.resolution_percentage = percentage
        camera.data.shift_x, camera.data.shift_y = shift
        converted = evaluated_camera(scene, camera)
        assert (converted.width, converted.height) == (
            width * percentage // 100,
            height * percentage // 100,
        )
        expected = np.array([world_to_camera_view(scene, camera, Vector(p)) for p in points])
        pixels, depth = converted.project(points)
        case = (width, height, aspect, shift, percentage)
        np.testing.assert_allclose(
            pixels[:, 0], expected[:, 0] * converted.width, atol=PIXEL_TOLERANCE, err_msg=str(case)
        )
        np.testing.assert_allclose(
            pixels[:, 1],
            (1.0 - expected[:, 1]) * converted.height,
            atol=PIXEL_TOLERANCE,
            err_msg=str(case),
        )
        np.testing.assert_allclose(depth, expected[:, 2], atol=1e-5)
        np.testing.assert_allclose(converted.R @ converted.R.T, np.eye(3), atol=1e-12)
    assert converted.orthographic == (kind == "ORTHO")


def test_clipping_distances(scene):
    camera = add_camera(scene, clip_start=0.25, clip_end=17.0)
    converted = evaluated_camera(scene, camera)
    assert (converted.near, converted.far) == (0.25, 17.0)


def test_a_mirrored_camera_stays_mirrored(scene):
    camera = add_camera(scene)
    camera.scale = (-1.0, 1.0, 1.0)
    converted = evaluated_camera(scene, camera)
    point = Vector((0.4, 0.1, -0.3))
    expected = world_to_camera_view(scene, camera, point)
    pixel, _ = converted.project(np.array(point))
    assert pixel[0] == pytest.approx(expected[0] * converted.width, abs=PIXEL_TOLERANCE)
    assert np.linalg.det(converted.R) == pytest.approx(-1.0)


def test_unsupported_cameras_are_refused(scene):
    camera = add_camera(scene, type="PANO")
    with pytest.raises(PeelError, match=r"camera 'camera': pano cameras are not supported.*Persp"):
        evaluated_camera(scene, camera)
    camera.data.type = "PERSP"
    parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(parent)
    camera.parent = parent
    parent.scale = (1.0, 1.0, 1.5)
    with pytest.raises(PeelError, match="sheared"):
        evaluated_camera(scene, camera)
    parent.scale = (1.5, 1.5, 1.5)
    evaluated_camera(scene, camera)


def test_render_window_is_cut_as_blender_cuts_it(scene):
    render = scene.render
    render.resolution_x, render.resolution_y = 201, 101
    render.resolution_percentage = 50
    assert view.full_size(render) == (100, 50)
    assert view.render_window(render) == view.Window(0, 0, 100, 50)
    render.use_border = True
    render.border_min_x, render.border_max_x = 0.33, 0.77
    render.border_min_y, render.border_max_y = 0.1, 0.6
    # Columns 33 up to 77; rows 5 up to 30 from below, which are 20 up to 45 from above.
    assert view.render_window(render) == view.Window(33, 20, 44, 25)


@pytest.mark.parametrize("aspect", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("size", [(640, 360), (360, 640)])
def test_captured_intrinsics_survive_blender(scene, aspect, size):
    width, height = size
    rng = np.random.default_rng(round(aspect * 10))
    captured = []
    for index in range(4):
        R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        R *= np.sign(np.linalg.det(R))
        fx = rng.uniform(0.3, 4.0) * width
        centre = np.array([width, height]) * rng.uniform(0.3, 0.7, 2)
        K = np.array([[fx, 0, centre[0]], [0, fx / aspect, centre[1]], [0, 0, 1]])
        captured.append(ClipCamera(f"view{index}", K, R, rng.normal(size=3), width, height))
    clip = bpy.data.objects.new("clip", None)
    scene.collection.objects.link(clip)
    created = cameras.create_cameras(
        captured, np.array([[-1.0] * 3, [1.0] * 3]), clip, scene.collection
    )
    assert list(created) == ["view0", "view1", "view2", "view3"]
    for original in captured:
        camera_object = created[original.name]
        scene.camera = camera_object
        cameras.use_captured_format(scene, camera_object.data)
        converted = evaluated_camera(scene, camera_object)
        assert (converted.width, converted.height) == size
        np.testing.assert_allclose(converted.K, original.K, atol=PIXEL_TOLERANCE)
        np.testing.assert_allclose(converted.R, original.R, atol=1e-6)
        np.testing.assert_allclose(converted.t, original.t, atol=1e-5)


def test_the_format_of_a_plain_camera_is_unknown(scene):
    camera = add_camera(scene)
    with pytest.raises(PeelError, match="was not captured"):
        cameras.use_captured_format(scene, camera.data)
    bpy.context.view_layer.objects.active = camera
    assert not bpy.ops.camera.peel4d_use_captured_format.poll()
    camera.data.peel4d.width, camera.data.peel4d.height = 320, 200
    camera.data.peel4d.pixel_aspect_y = 1.25
    assert bpy.ops.camera.peel4d_use_captured_format() == {"FINISHED"}
    assert view.full_size(scene.render) == (320, 200)
    assert scene.render.pixel_aspect_y == 1.25
