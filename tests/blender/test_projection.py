# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Where points are seen: timing, transforms, instancing and cameras against Blender's projection.

Every frame of the clip is one bright point in another place. It is rendered by the engine, and the
centroid of what it covers is compared with `world_to_camera_view`.
"""

import math

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from bpy_extras.object_utils import world_to_camera_view
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from mathutils import Euler, Matrix, Vector

from peel4d.addon.import_clip import import_clip
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats

pytestmark = pytest.mark.blender

#: Pixels that a point may be away from where Blender projects it.
TOLERANCE = 0.25
FRAMES = 7
RADIUS = 0.02

real = lambda low, high: st.floats(low, high)  # noqa: E731
vectors = lambda low, high: st.tuples(*[real(low, high)] * 3)  # noqa: E731
scales = st.tuples(*[st.one_of(real(0.4, 2.0), real(-2.0, -0.4))] * 3)
searched = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def points_clip(tmp_path_factory):
    """(path, points (FRAMES, 3) as they are decoded)."""
    path = tmp_path_factory.mktemp("points") / "points.p4d"
    rng = np.random.default_rng(11)
    frames = [
        Splats(rng.uniform(-0.4, 0.4, (1, 3)), [RADIUS], [1.0], np.full((1, 1, 3), 3.5))
        for _ in range(FRAMES)
    ]
    write_clip(path, frames, fps=25.0, settings=PeelSettings(layers=8), provenance={})
    with ClipReader(path) as reader:
        points = np.array([reader.frame(index).position[0] for index in range(FRAMES)])
    assert np.abs(points - [frame.position[0] for frame in frames]).max() < 1e-3
    return path, points


def fresh(points_clip):
    """An empty scene with the clip and a camera, small and transparent."""
    for collection in (bpy.data.objects, bpy.data.meshes, bpy.data.cameras, bpy.data.node_groups):
        for item in list(collection):
            collection.remove(item)
    for group in list(bpy.data.collections):
        bpy.data.collections.remove(group)
    scene = bpy.context.scene
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 160, 120, 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
    render.use_border = False
    scene.frame_set(1)
    clip = import_clip(scene, scene.collection, points_clip[0], up="Z").clip
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    return scene, clip, camera


def aim(camera, target: Vector, direction, distance: float, roll: float = 0.0) -> None:
    """Stand in a direction of the target, some way off, and look at it."""
    away = Vector(direction)
    assume(away.length > 0.2)
    away.normalize()
    turned = away.to_track_quat("Z", "Y") @ Matrix.Rotation(roll, 4, "Z").to_quaternion()
    camera.matrix_world = Matrix.Translation(target + distance * away) @ turned.to_matrix().to_4x4()
    bpy.context.view_layer.update()


def seen_at(scene, camera, world: Vector) -> np.ndarray:
    """(2,) pixels of the full frame, y down, where Blender projects a position."""
    percentage = scene.render.resolution_percentage
    width = scene.render.resolution_x * percentage // 100
    height = scene.render.resolution_y * percentage // 100
    x, y, depth = world_to_camera_view(scene, camera, world)
    assume(depth > 0.2)
    return np.array([x * width, (1.0 - y) * height])


def matrices_of(clip, *, itself: bool) -> list[Matrix]:
    """Where Blender's depsgraph has instances of the clip; itself: and the clip."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    depsgraph.update()
    return [
        item.matrix_world.copy()
        for item in depsgraph.object_instances
        if item.object.original == clip and (item.is_instance or itself)
    ]


def assert_seen(scene, camera, render, places: list[Vector], lengths: list[float]) -> None:
    """Each world position is the centre of a spot of the rendered picture, and nothing else is.

    lengths: the largest stretch of each place.
    """
    centres = [seen_at(scene, camera, place) for place in places]
    right = camera.matrix_world.to_3x3().normalized().col[0]
    radii = [
        float(np.abs(seen_at(scene, camera, place + RADIUS * length * right) - centre).max())
        for place, length, centre in zip(places, lengths, centres, strict=True)
    ]
    aspect = max(
        scene.render.pixel_aspect_x / scene.render.pixel_aspect_y,
        scene.render.pixel_aspect_y / scene.render.pixel_aspect_x,
    )
    reach = [radius * aspect + 2.0 for radius in radii]
    assume(all(1.2 <= radius <= 14.0 for radius in radii))
    for first in range(len(centres)):
        for second in range(first):
            away = np.abs(centres[first] - centres[second]).max()
            assume(away > reach[first] + reach[second])
    rgba, _ = render()
    height, width = rgba.shape[:2]
    border = scene.render.use_border
    low = np.array([scene.render.border_min_x * width, (1 - scene.render.border_max_y) * height])
    high = np.array([scene.render.border_max_x * width, (1 - scene.render.border_min_y) * height])
    if not border:
        low, high = np.zeros(2), np.array([width, height])
    for centre, far in zip(centres, reach, strict=True):
        assume(bool(((centre - far > low) & (centre + far < high)).all()))
    left = rgba[..., 3].copy()
    for centre, far in zip(centres, reach, strict=True):
        x0, y0 = np.floor(centre - far).astype(int)
        x1, y1 = np.ceil(centre + far).astype(int)
        alpha = left[y0:y1, x0:x1]
        assert alpha.sum() > 0.5, f"nothing at {centre}"
        rows, columns = np.mgrid[y0:y1, x0:x1] + 0.5
        found = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
        assert np.abs(found - centre).max() <= TOLERANCE, (found, centre)
        left[y0:y1, x0:x1] = 0.0
    assert left.max() == 0.0, "there are points where none should be"


def stretch(matrix: Matrix) -> float:
    return float(np.linalg.norm(np.array(matrix.to_3x3()), ord=2))


# Timing


def expected_frame(
    time: float, start: float, offset: int, speed: float, mode: str, override: float | None
) -> int | None:
    """The conventions in words: halves go up; the offset cuts frames off the beginning."""
    if override is not None:
        return max(0, min(math.floor(override + 0.5), FRAMES - 1))
    played = list(range(offset, FRAMES))
    if not played:
        return None
    step = math.floor((time - start) * speed + 0.5)
    if mode == "PING_PONG":
        played = played + played[-2:0:-1]
    if mode == "CLIP":
        return played[step] if 0 <= step < len(played) else None
    if mode == "EXTEND":
        return played[max(0, min(step, len(played) - 1))]
    return played[step % len(played)]


@searched
@given(
    frame=st.integers(-30, 30),
    subframe=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    start=st.sampled_from([-12.0, -1.5, 0.0, 1.0, 4.25]),
    offset=st.integers(0, FRAMES),
    speed=st.sampled_from([0.125, 0.5, 1.0, 1.75, 3.0]),
    mode=st.sampled_from(["CLIP", "EXTEND", "REPEAT", "PING_PONG"]),
    override=st.one_of(st.none(), st.none(), real(0.0, 9.0)),
    fps=st.sampled_from([(24, 1.0), (30, 1.001), (60, 0.5)]),
    old_new=st.sampled_from([(100, 100), (100, 50)]),
)
def test_timing(
    scene, points_clip, render, frame, subframe, start, offset, speed, mode, override, fps, old_new
):
    """What the scene's frame shows; its rate, its base and its time remapping change nothing."""
    scene, clip, camera = fresh(points_clip)
    scene.render.fps, scene.render.fps_base = fps
    scene.render.frame_map_old, scene.render.frame_map_new = old_new
    properties = clip.peel4d
    properties.frame_start, properties.frame_offset, properties.speed = start, offset, speed
    properties.sequence_mode = mode
    properties.override_frame = override is not None
    properties.frame = override or 0.0
    scene.frame_set(frame, subframe=subframe)
    time = scene.frame_current_final
    shown = expected_frame(time, start, offset, speed, mode, override)
    aim(camera, Vector((0, 0, 0)), (0.3, -1.0, 0.4), 2.5)
    places = [] if shown is None else [Vector(points_clip[1][shown])]
    assert_seen(scene, camera, render, places, [1.0] * len(places))


# Transforms and instancing


@searched
@given(
    location=vectors(-3, 3),
    rotation=vectors(-3.2, 3.2),
    scale=scales,
    parent_rotation=vectors(-3.2, 3.2),
    parent_scale=scales,
    delta=vectors(-1, 1),
    direction=vectors(-1, 1),
    shown=st.integers(0, FRAMES - 1),
)
def test_transforms_and_parents(
    scene,
    points_clip,
    render,
    location,
    rotation,
    scale,
    parent_rotation,
    parent_scale,
    delta,
    direction,
    shown,
):
    """Mirrored, sheared, stretched, with delta transforms and an inverse of the parent."""
    scene, clip, camera = fresh(points_clip)
    parent = bpy.data.objects.new("parent", None)
    scene.collection.objects.link(parent)
    parent.rotation_euler, parent.scale = parent_rotation, parent_scale
    bpy.context.view_layer.update()
    clip.parent = parent
    clip.matrix_parent_inverse = parent.matrix_world.inverted()
    parent.scale = parent_scale[::-1]
    clip.location, clip.rotation_euler, clip.scale = location, rotation, scale
    clip.delta_location = delta
    scene.frame_set(1 + shown)
    bpy.context.view_layer.update()
    place = clip.matrix_world @ Vector(points_clip[1][shown])
    size = stretch(clip.matrix_world)
    aim(camera, place, direction, 3.0 * size)
    assert_seen(scene, camera, render, [place], [size])


def mesh_object(scene, name: str, vertices, faces=()):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    thing = bpy.data.objects.new(name, mesh)
    scene.collection.objects.link(thing)
    return thing


def by_collection(scene, clip, matrix):
    group = bpy.data.collections.new("group")
    scene.collection.objects.unlink(clip)
    group.objects.link(clip)
    group.instance_offset = (0.1, -0.2, 0.05)
    for index in range(2):
        empty = bpy.data.objects.new(f"instance {index}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        empty.matrix_world = Matrix.Translation((1.6 * index, 0.0, 0.0)) @ matrix
        scene.collection.objects.link(empty)
    return 2


def by_vertices(scene, clip, matrix):
    holder = mesh_object(scene, "holder", [(-1.0, 0, 0), (1.0, 0, 0.5), (0, 1.3, 0)])
    holder.matrix_world = matrix
    holder.instance_type = "VERTS"
    clip.parent = holder
    return 3


def by_faces(scene, clip, matrix):
    holder = mesh_object(
        scene,
        "holder",
        [(-1, 0, 0), (0, 0, 0), (0, 0.8, 0.2), (1.5, 0, 0), (2.0, 0, 0.4), (2.0, 0.6, 0)],
        [(0, 1, 2), (3, 4, 5)],
    )
    holder.matrix_world = matrix
    holder.instance_type, holder.use_instance_faces_scale = "FACES", True
    holder.show_instancer_for_render = False  # the faces themselves
    clip.parent = holder
    return 2


def by_geometry_nodes(scene, clip, matrix):
    holder = mesh_object(scene, "holder", [(-1.0, 0, 0), (1.0, 0.2, 0.5)])
    holder.matrix_world = matrix
    tree = bpy.data.node_groups.new("instances", "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    source, output = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    points = tree.nodes.new("GeometryNodeInstanceOnPoints")
    info = tree.nodes.new("GeometryNodeObjectInfo")
    info.inputs["Object"].default_value = clip
    info.inputs["As Instance"].default_value = True
    points.inputs["Rotation"].default_value = (0.3, 0.2, 0.9)
    points.inputs["Scale"].default_value = (0.8, -1.2, 1.0)
    tree.links.new(source.outputs[0], points.inputs["Points"])
    tree.links.new(info.outputs["Geometry"], points.inputs["Instance"])
    tree.links.new(points.outputs[0], output.inputs[0])
    holder.modifiers.new("instances", "NODES").node_group = tree
    return 2


@pytest.mark.parametrize("instancing", [by_collection, by_vertices, by_faces, by_geometry_nodes])
@settings(searched, max_examples=15)
@given(
    location=vectors(-2, 2),
    rotation=vectors(-3.2, 3.2),
    scale=scales,
    own=vectors(-0.5, 0.5),
    shown=st.integers(0, FRAMES - 1),
)
def test_instances(scene, points_clip, render, instancing, location, rotation, scale, own, shown):
    """Collections, vertices, faces and geometry nodes, each mirrored and stretched."""
    scene, clip, camera = fresh(points_clip)
    clip.rotation_euler, clip.scale = own, (0.8, 1.1, 0.9)
    matrix = Matrix.LocRotScale(location, Euler(rotation), scale)
    count = instancing(scene, clip, matrix)
    scene.frame_set(1 + shown)
    # No render shows what is instanced on its parent's vertices or faces in its own place.
    is_shown = instancing is by_geometry_nodes
    matrices = matrices_of(clip, itself=is_shown)
    assert len(matrices) == count + is_shown, matrices
    places = [m @ Vector(points_clip[1][shown]) for m in matrices]
    middle = sum(places, Vector()) / len(places)
    spread = max((place - middle).length for place in places)
    aim(camera, middle, (0.4, -0.8, 0.7), 2.2 * spread + 1.0)
    assert_seen(scene, camera, render, places, [stretch(m) for m in matrices])


# Cameras


@searched
@given(
    kind=st.sampled_from(["PERSP", "ORTHO"]),
    lens=real(20.0, 90.0),
    ortho=real(0.8, 3.0),
    fit=st.sampled_from(["AUTO", "HORIZONTAL", "VERTICAL"]),
    sensor=st.tuples(real(18.0, 45.0), real(12.0, 36.0)),
    shift=st.tuples(real(-0.3, 0.3), real(-0.3, 0.3)),
    size=st.sampled_from([(160, 120), (120, 160), (128, 128), (201, 97)]),
    percentage=st.sampled_from([100, 75, 50]),
    aspect=st.sampled_from([(1.0, 1.0), (1.5, 1.0), (1.0, 1.3)]),
    border=st.one_of(st.none(), st.tuples(real(0, 0.3), real(0, 0.3), real(0.7, 1), real(0.7, 1))),
    direction=vectors(-1, 1),
    roll=real(-3.2, 3.2),
    off=vectors(-0.15, 0.15),
    shown=st.integers(0, FRAMES - 1),
)
def test_cameras(
    scene,
    points_clip,
    render,
    kind,
    lens,
    ortho,
    fit,
    sensor,
    shift,
    size,
    percentage,
    aspect,
    border,
    direction,
    roll,
    off,
    shown,
):
    scene, _clip, camera = fresh(points_clip)
    data, rendering = camera.data, scene.render
    data.type, data.lens, data.ortho_scale, data.sensor_fit = kind, lens, ortho, fit
    data.sensor_width, data.sensor_height = sensor
    data.shift_x, data.shift_y = shift
    rendering.resolution_x, rendering.resolution_y = size
    rendering.resolution_percentage = percentage
    rendering.pixel_aspect_x, rendering.pixel_aspect_y = aspect
    if border is not None:
        rendering.use_border, rendering.use_crop_to_border = True, False
        rendering.border_min_x, rendering.border_min_y = border[:2]
        rendering.border_max_x, rendering.border_max_y = border[2:]
    scene.frame_set(1 + shown)
    place = Vector(points_clip[1][shown])
    aim(camera, place + Vector(off), direction, 1.4, roll)
    assert_seen(scene, camera, render, [place], [1.0])
