# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""The scene's geometry among the points: what is read, how it is shaded, and the depth order.

Expectations are the float64 reference's pictures of triangles that the test makes by itself.
"""

from types import SimpleNamespace

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from mathutils import Euler, Matrix

from peel4d.addon import cameras
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render import meshes, picture
from peel4d.addon.render.meshes import NOTHING, GeometryCache, collect_surfaces, shade
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import reference_scene

pytestmark = pytest.mark.blender

LEVEL = 1 / 255
CAMERA = Camera(
    [[100, 0, 48], [0, 100, 32], [0, 0, 1]], np.diag([1.0, -1.0, -1.0]), [0, 0, 4], 96, 64
)


def surfaces(mode="SHADED", cache=None):
    depsgraph = bpy.context.evaluated_depsgraph_get()
    depsgraph.update()
    return collect_surfaces(depsgraph, mode, cache or GeometryCache())


def add(mesh, name="thing"):
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def mesh_of(vertices, faces, name="mesh"):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    mesh.update()
    return mesh


def torus(scene, location=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0)):
    bpy.ops.mesh.primitive_torus_add(
        major_radius=0.62, minor_radius=0.06, major_segments=32, minor_segments=8
    )
    thing = bpy.context.object
    thing.matrix_basis = Matrix.LocRotScale(location, Euler(rotation).to_quaternion(), None)
    material = bpy.data.materials.new("paint")
    paint(material, (0.7, 0.2, 0.05, 1.0))
    thing.data.materials.append(material)
    return thing


def paint(material, color):
    """Since Blender 5 a new material has nodes, and they decide."""
    material.diffuse_color = color
    for node in material.node_tree.nodes if material.node_tree is not None else ():
        if node.type == "BSDF_PRINCIPLED":
            node.inputs["Base Color"].default_value = color


def shaded_by_hand(thing, camera):
    """Triangles of a flat-shaded object as the module's text says, one by one in float64."""
    thing.data.calc_loop_triangles()
    world = np.array(thing.matrix_world, dtype=np.float64)
    corners, colors = [], []
    linear = np.array(thing.data.materials[0].diffuse_color[:3])
    base = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    for triangle in thing.data.loop_triangles:
        points = np.array([thing.data.vertices[i].co for i in triangle.vertices])
        points = points @ world[:3, :3].T + world[:3, 3]
        polygon = thing.data.polygons[triangle.polygon_index]
        normal = world[:3, :3] @ np.array(polygon.normal)
        normal /= np.linalg.norm(normal)
        for point in points:
            to_camera = camera.centre - point
            facing = abs(normal @ to_camera) / np.linalg.norm(to_camera)
            corners.append(point)
            colors.append(base * (0.25 + 0.75 * facing) ** (1 / 2.2))
    order = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    return Mesh(np.array(corners), order, np.array(colors), per="vertex")


def decoded(rgba):
    alpha = rgba[..., 3:]
    srgb = np.divide(rgba[..., :3], alpha, out=np.zeros_like(rgba[..., :3]), where=alpha > 0)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.concatenate([linear * alpha, alpha], axis=-1)


def inside(mesh, camera):
    """(H, W) bool: not within a pixel of where the mesh's visibility or facet changes."""
    ids = [
        Mesh(mesh.vertices[3 * i : 3 * i + 3], [[0, 1, 2]], np.ones(3), id=i + 10)
        for i in range(len(mesh.triangles))
    ]
    alone = render_scene([], camera, meshes=ids, ids=True).ids
    band = np.zeros(alone.shape, bool)
    outline = alone >= 0
    for axis in (0, 1):
        change = np.diff(outline, axis=axis)
        grown = np.zeros_like(band)
        index = [slice(None), slice(None)]
        for start, end in ((0, -1), (1, None)):
            index[axis] = slice(start, end)
            grown[tuple(index)] |= change
        band |= grown
    return ~band


class Shot:
    def __init__(self, scene, path):
        self.scene = scene
        self.clip = import_clip(scene, scene.collection, path, up="Z")
        scene.camera = self.clip.cameras["cam00"]
        cameras.use_captured_format(scene, scene.camera.data)
        with ClipReader(path) as reader:
            self.info = reader.info
            self.points = Instance(reader.frame(0), np.eye(4))
        self.camera = self.info.cameras[0].camera()

    def reference(self, *parts):
        return reference_scene([self.points], self.camera, self.info.settings, meshes=parts)


@pytest.fixture
def shot(scene, clip_path):
    return Shot(scene, clip_path)


def test_a_ring_passes_in_front_and_behind(shot, render):
    ring = torus(shot.scene, (-0.2, 0.0, 0.0), (0.3, 0.1, 0.0))
    bpy.context.view_layer.update()
    mesh = shaded_by_hand(ring, shot.camera)
    expected = shot.reference(mesh)
    rgba, depth = render()
    compare = inside(mesh, shot.camera)
    assert compare.mean() > 0.7
    difference = np.abs(rgba - decoded(expected.rgba)).max(axis=-1)
    assert (difference[compare] <= 2 * LEVEL).all(), difference[compare].max()
    hit = np.isfinite(expected.surface) & (depth < 1e9) & compare
    assert np.quantile(np.abs(depth[hit] - expected.surface[hit]), 0.99) <= 1e-3
    # It is in front of some points and behind others: both would be missed by pasting.
    alone = render_scene([], shot.camera, meshes=[mesh])
    points = render_scene([shot.points], shot.camera, shot.info.settings)
    covered = (alone.rgba[..., 3] == 1) & (points.rgba[..., 3] > 0.9) & compare
    front = covered & (alone.depth < points.depth - 0.05)
    behind = covered & (alone.depth > points.depth + 0.05)
    assert front.sum() > 20 and behind.sum() > 20
    paint = decoded(alone.rgba.astype(np.float64))
    assert np.abs(rgba - paint).max(axis=-1)[front].max() <= 2 * LEVEL
    assert np.abs(rgba - paint).max(axis=-1)[behind].min() > 10 * LEVEL


@pytest.mark.parametrize("how", ["setting", "object", "collection"])
def test_holdouts_hide_and_are_transparent(shot, render, how):
    ring = torus(shot.scene, (-0.2, 0.0, 0.0), (0.3, 0.1, 0.0))
    if how == "setting":
        shot.scene.peel4d.meshes = "HOLDOUT"
    elif how == "object":
        ring.is_holdout = True
    else:
        group = bpy.data.collections.new("holdouts")
        shot.scene.collection.children.link(group)
        for collection in ring.users_collection:
            collection.objects.unlink(ring)
        group.objects.link(ring)
        bpy.context.view_layer.layer_collection.children["holdouts"].holdout = True
    bpy.context.view_layer.update()
    shaded = shaded_by_hand(ring, shot.camera)
    expected = shot.reference(Mesh(shaded.vertices, shaded.triangles, None))
    rgba, _ = render()
    compare = inside(shaded, shot.camera)
    assert np.abs(rgba - decoded(expected.rgba)).max(axis=-1)[compare].max() <= 2 * LEVEL
    without = render_scene([shot.points], shot.camera, shot.info.settings)
    assert (without.rgba[..., 3] - rgba[..., 3]).max() > 0.9


def test_ignored_meshes_change_nothing(shot, render):
    plain = render()[0]
    torus(shot.scene)
    shot.scene.peel4d.meshes = "IGNORED"
    assert np.array_equal(render()[0], plain)
    shot.scene.peel4d.meshes = "SHADED"
    assert not np.array_equal(render()[0], plain)


def test_hidden_objects_and_the_clips_own_box_stay_out(shot):
    assert len(surfaces()) == 0
    ring = torus(shot.scene)
    assert len(surfaces()) == len(ring.data.polygons) * 2
    ring.hide_viewport = True
    assert len(surfaces()) == 0
    ring.hide_viewport = False
    ring.visible_camera = False
    assert len(surfaces()) == 0


def test_a_crop_box_is_no_thing(shot, render):
    plain = render()[0]
    bpy.ops.mesh.primitive_cube_add(size=2.0, location=(0.0, 0.0, 1.05))
    box = bpy.context.object
    assert not np.array_equal(render()[0], plain)
    shot.clip.clip.peel4d.crop_object = box
    bpy.context.view_layer.update()
    cropped = shot.points.splats
    keep = (np.abs(cropped.position - [0.0, 0.0, 1.05]) <= 1.0).all(axis=1)
    assert 0 < keep.sum() < len(keep)
    kept = type(cropped)(
        cropped.position[keep], cropped.radius[keep], cropped.density[keep], cropped.sh[keep]
    )
    expected = render_scene([Instance(kept, np.eye(4))], shot.camera, shot.info.settings)
    assert np.abs(render()[0] - decoded(expected.rgba)).max() <= LEVEL


def test_an_empty_crops_to_its_drawn_size(shot, render):
    box = bpy.data.objects.new("box", None)
    box.empty_display_size = 0.25
    box.scale = (1.0, 2.0, 1.0)
    box.location = (-0.2, 0.1, 0.2)
    shot.scene.collection.objects.link(box)
    shot.clip.clip.peel4d.crop_object = box
    splats = shot.points.splats
    keep = (np.abs(splats.position - [-0.2, 0.1, 0.2]) <= [0.25, 0.5, 0.25]).all(axis=1)
    kept = type(splats)(
        splats.position[keep], splats.radius[keep], splats.density[keep], splats.sh[keep]
    )
    expected = render_scene([Instance(kept, np.eye(4))], shot.camera, shot.info.settings)
    assert np.abs(render()[0] - decoded(expected.rgba)).max() <= LEVEL


def test_exposure_reaches_the_picture(shot, render):
    plain = render()[0]
    shot.clip.clip.peel4d.exposure = -1.0
    darker = render()[0]
    np.testing.assert_allclose(darker[..., 3], plain[..., 3], atol=1e-6)
    assert darker[..., :3].sum() < 0.7 * plain[..., :3].sum()


def test_supersampling(shot, render):
    torus(shot.scene)
    shot.scene.peel4d.samples = "2"
    meshes_of_view = shade(surfaces(), shot.camera)
    expected = render_scene(
        [shot.points], shot.camera, shot.info.settings, meshes=meshes_of_view, samples=2
    )
    assert np.abs(render()[0] - decoded(expected.rgba)).max() <= LEVEL


def test_large_pictures_are_peeled_in_bands(shot, render, monkeypatch):
    torus(shot.scene)
    whole, depth = render()
    drawn = []
    peel_band = picture.render_scene

    def counted(instances, camera, *arguments, **options):
        drawn.append(camera.height)
        return peel_band(instances, camera, *arguments, **options)

    monkeypatch.setattr(picture, "BAND_SAMPLES", 96 * 10)
    monkeypatch.setattr(picture, "BAND_SECONDS", 1e-9)
    monkeypatch.setattr(picture, "render_scene", counted)
    banded, banded_depth = render()
    assert sum(drawn) == 64 and len(drawn) > 8
    # The principal point moves by whole pixels, in single precision.
    assert np.abs(banded - whole).max() <= LEVEL
    assert (np.abs(banded_depth - depth) > 1e-3).sum() <= 2


def test_cancelling_between_bands():
    points = [Instance(_cloud(), np.eye(4))]
    quality = picture.Quality(backend="cpu")
    settings = SimpleNamespace(calls=0)

    def stop():
        settings.calls += 1
        return settings.calls > 1

    canvas = picture.Canvas()
    done = []
    camera = CAMERA.scaled(4096, 2048)
    from peel4d.engine.render.settings import PeelSettings

    result = picture.peel(
        points, [], camera, PeelSettings(), quality, canvas=canvas, stop=stop, progress=done.append
    )
    assert result is None
    assert len(done) == 1 and 0 < done[0] < 1


def _cloud():
    from peel4d.engine.render.splats import Splats

    rng = np.random.default_rng(0)
    return Splats.from_colors(
        rng.uniform(-1, 1, (50, 3)), np.full(50, 0.1), np.full(50, 0.9), rng.uniform(0, 1, (50, 3))
    )


def triangle_set(vertices, triangles):
    """Triangles by their corners, in no order."""
    corners = np.round(np.asarray(vertices, np.float64)[triangles], 4)
    return sorted(tuple(sorted(map(tuple, triangle))) for triangle in corners.tolist())


def test_triangles_are_blenders(scene):
    """Also of concave quadrilaterals and polygons with many corners."""
    rng = np.random.default_rng(4)
    for with_polygon in (False, True):
        vertices, faces = [], []
        for _ in range(60):
            start = len(vertices)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 4))
            reach = rng.uniform(0.1, 1.0, 4)  # often concave
            square = np.stack(
                [reach * np.cos(angles), reach * np.sin(angles), rng.uniform(0, 0.05, 4)], axis=1
            )
            vertices += (square + rng.uniform(-5, 5, 3)).tolist()
            count = int(rng.choice([3, 4]))
            faces.append(list(range(start, start + count)))
        if with_polygon:
            start = len(vertices)
            turn = np.linspace(0, 2 * np.pi, 7, endpoint=False)
            vertices += np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1).tolist()
            faces.append(list(range(start, start + 7)))
        mesh = mesh_of(vertices, faces)
        thing = add(mesh)
        found = surfaces()
        mesh.calc_loop_triangles()
        expected = [tuple(t.vertices) for t in mesh.loop_triangles]
        vertices = [tuple(vertex.co) for vertex in mesh.vertices]  # in single precision
        assert triangle_set(found.vertices, found.triangles) == triangle_set(vertices, expected)
        bpy.data.objects.remove(thing)


def test_smooth_and_flat_normals(scene):
    bpy.ops.mesh.primitive_uv_sphere_add(segments=16, ring_count=8, radius=2.0)
    ball = bpy.context.object
    flat = surfaces()
    for index in flat.triangles[::7]:
        corner = flat.vertices[index]
        normal = np.cross(corner[1] - corner[0], corner[2] - corner[0])
        normal /= np.linalg.norm(normal)
        np.testing.assert_allclose(flat.normals[index] @ normal, 1.0, atol=2e-3)
    ball.data.shade_smooth()
    smooth = surfaces()
    assert len(smooth.vertices) == len(ball.data.vertices)
    np.testing.assert_allclose(smooth.normals, smooth.vertices / 2.0, atol=3e-2)


def test_normals_of_a_stretched_and_turned_object(scene):
    mesh = mesh_of([(0, 0, 0), (1, 0, 0), (0, 1, 1)], [(0, 1, 2)])
    thing = add(mesh)
    thing.matrix_basis = Matrix.LocRotScale((1, 2, 3), Euler((0.4, 1.0, -2)), (1.0, 3.0, 0.2))
    found = surfaces()
    a, b, c = found.vertices[found.triangles[0]]
    normal = np.cross(b - a, c - a)
    np.testing.assert_allclose(
        np.abs(found.normals @ (normal / np.linalg.norm(normal))), 1.0, atol=1e-5
    )
    thing.scale = (1.0, 1.0, 0.0)
    assert np.isfinite(shade(surfaces(), CAMERA)[0].color).all()


def test_colours_of_materials(scene):
    mesh = mesh_of(
        [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0)], [(0, 1, 2), (1, 3, 2), (1, 4, 3)]
    )
    plain, nodes = bpy.data.materials.new("plain"), bpy.data.materials.new("nodes")
    if plain.node_tree is not None:  # since Blender 5
        plain.node_tree.nodes.clear()
    plain.diffuse_color = (1.0, 0.0, 0.0, 1.0)
    nodes.use_nodes = True
    nodes.diffuse_color = (0.0, 1.0, 0.0, 1.0)
    principled = next(n for n in nodes.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
    principled.inputs["Base Color"].default_value = (0.0, 0.0, 1.0, 1.0)
    mesh.materials.append(plain)
    mesh.materials.append(nodes)
    for polygon, slot in zip(mesh.polygons, (0, 1, 7), strict=True):
        polygon.material_index = slot
    add(mesh)
    found = surfaces()
    colors = found.colors[found.triangles[:, 0]]
    np.testing.assert_allclose(colors, [[1, 0, 0], [0, 0, 1], [0, 0, 1]], atol=1e-6)


def test_an_object_without_material_is_grey(scene):
    add(mesh_of([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [(0, 1, 2)]))
    np.testing.assert_allclose(surfaces().colors, 0.906, atol=1e-3)  # sRGB of 0.8


def test_modifiers_instances_curves_and_texts(scene):
    mesh = mesh_of([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], [(0, 1, 2, 3)])
    thing = add(mesh)
    modifier = thing.modifiers.new("copies", "ARRAY")
    modifier.count = 5
    assert len(surfaces()) == 10
    group = bpy.data.collections.new("group")
    group.objects.link(thing)
    for location in ((0, 0, 2), (0, 0, 4)):
        empty = bpy.data.objects.new("instance", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        empty.location = location
        scene.collection.objects.link(empty)
    found = surfaces()
    assert len(found) == 30
    assert sorted({float(z) for z in found.vertices[:, 2]}) == [0.0, 2.0, 4.0]
    before = len(found)
    bpy.ops.object.text_add()
    with_text = len(surfaces())
    assert with_text > before
    bpy.ops.curve.primitive_bezier_circle_add()
    bpy.context.object.data.bevel_depth = 0.1
    with_curve = len(surfaces())
    assert with_curve > with_text
    bpy.ops.object.metaball_add()
    assert len(surfaces()) > with_curve


def test_what_stands_still_is_not_read_again(scene, monkeypatch):
    reads = []
    read = meshes.read_geometry
    monkeypatch.setattr(meshes, "read_geometry", lambda mesh: reads.append(mesh.name) or read(mesh))
    still = torus(scene)
    moving = add(mesh_of([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [(0, 1, 2)]), "moving")
    cache = GeometryCache()
    first = surfaces(cache=cache)
    assert len(reads) == 2
    assert surfaces(cache=cache) is first
    moving.location.z = 1.0
    second = surfaces(cache=cache)
    assert len(reads) == 2 and second is not first
    moving.data.vertices[0].co.z = 0.5
    moving.data.update()
    third = surfaces(cache=cache)
    assert len(reads) == 3
    assert not np.array_equal(third.vertices, second.vertices)
    still.data.shade_smooth()
    surfaces(cache=cache)
    assert len(reads) == 4
    cache.release()
    surfaces(cache=cache)
    assert len(reads) == 6


def test_a_mesh_in_edit_mode_is_shown(scene):
    ring = torus(scene)
    count = len(surfaces())
    bpy.context.view_layer.objects.active = ring
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        assert len(surfaces()) == count
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def test_nothing_is_nothing(scene):
    assert len(surfaces()) == 0 == len(NOTHING)
    assert shade(NOTHING, CAMERA) == []
    add(mesh_of([(0, 0, 0), (1, 0, 0)], []))
    add(mesh_of([], []))
    assert len(surfaces()) == 0
