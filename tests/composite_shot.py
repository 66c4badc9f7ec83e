# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""A clip with a ring around it before Cycles, and the composite that the engine's own reference
picture and the bare CG picture make. Shared by the tests of composites."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from mathutils import Euler

from peel4d.addon import cameras
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import reference_scene

LEVEL = 1 / 255
FIVE = bpy.app.version >= (5, 0, 0)


def torus() -> bpy.types.Mesh:
    """A ring around the z axis, radius 0.62, thickness 0.16, smooth enough to have no corners."""
    around, across = 48, 16
    u, v = np.meshgrid(
        np.arange(around) * 2 * np.pi / around,
        np.arange(across) * 2 * np.pi / across,
        indexing="ij",
    )
    distance = 0.62 + 0.08 * np.cos(v)
    vertices = np.stack([distance * np.cos(u), distance * np.sin(u), 0.08 * np.sin(v)], axis=-1)
    index = np.arange(around * across).reshape(around, across)
    right, down = np.roll(index, -1, axis=0), np.roll(index, -1, axis=1)
    faces = np.stack([index, right, np.roll(right, -1, axis=1), down], axis=-1).reshape(-1, 4)
    mesh = bpy.data.meshes.new("ring")
    mesh.from_pydata(vertices.reshape(-1, 3).tolist(), [], faces.tolist())
    material = bpy.data.materials.new("ring")
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    emission, output = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeOutputMaterial")
    emission.inputs["Color"].default_value = (0.8, 0.25, 0.05, 1.0)
    material.node_tree.links.new(emission.outputs[0], output.inputs[0])
    mesh.materials.append(material)
    return mesh


@pytest.fixture
def shot(scene, clip_path):
    """What `prepare` makes of a blob."""
    return prepare(scene, clip_path)


def prepare(scene, clip_path):
    """A clip, a tilted ring around it that moves, Cycles, and a world that is not black."""
    imported = import_clip(scene, scene.collection, clip_path, up="Z")
    scene.camera = imported.cameras["cam00"]
    cameras.use_captured_format(scene, scene.camera.data)
    ring = bpy.data.objects.new("ring", torus())
    scene.collection.objects.link(ring)
    for frame, height in ((1, 0.0), (5, 0.2)):
        ring.location = (0.0, 0.0, height)
        ring.rotation_euler = Euler((0.35, 0.1 * frame, 0.0))
        ring.keyframe_insert("location", frame=frame)
        ring.keyframe_insert("rotation_euler", frame=frame)
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.1, 0.2, 0.3, 1)
    scene.render.film_transparent = False
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = 16
    scene.cycles.use_denoising = False
    scene.cycles.max_bounces = 0
    return scene


def clip_object(scene):
    return next(item for item in scene.objects if item.peel4d.is_clip)


@pytest.fixture
def picture(tmp_path, read_exr):
    """picture(scene, frame) -> (H, W, 4) scene-linear premultiplied, as Blender writes it."""

    def render(scene, frame=1, animation=None, subframe=0.0):
        settings = scene.render.image_settings
        if hasattr(settings, "media_type"):
            settings.media_type = "IMAGE"
        settings.file_format, settings.color_mode = "OPEN_EXR", "RGBA"
        settings.color_depth, settings.exr_codec = "32", "NONE"
        scene.render.filepath = str(tmp_path / "picture_")
        if animation is None:
            scene.frame_set(frame, subframe=subframe)
            scene.render.filepath += f"{frame:04d}.exr"
            bpy.ops.render.render(write_still=True, scene=scene.name)
        else:
            scene.frame_start, scene.frame_end = animation
            bpy.ops.render.render(animation=True, scene=scene.name)
        channels = read_exr(tmp_path / f"picture_{frame:04d}.exr")
        return np.stack([channels[name] for name in "RGBA"], axis=-1)

    return render


def reference(scene, clip_path, frame, samples, camera=None, subframe=0.0):
    """The clip with the ring as a holdout, scene-linear premultiplied, from the engine alone."""
    scene.frame_set(frame, subframe=subframe)
    ring = scene.objects["ring"]
    ring.data.calc_loop_triangles()
    matrix = np.array(ring.matrix_world, dtype=np.float64)
    vertices = np.array([v.co for v in ring.data.vertices]) @ matrix[:3, :3].T + matrix[:3, 3]
    triangles = np.array([t.vertices for t in ring.data.loop_triangles])
    with ClipReader(clip_path) as reader:
        info = reader.info
        instance = Instance(reader.frame(frame - 1), np.eye(4))
    rendered = reference_scene(
        [instance],
        camera or info.cameras[0].camera(),
        info.settings,
        meshes=[Mesh(vertices, triangles, None)],
        samples=samples,
    )
    return scene_linear_from_clip(np.asarray(rendered.rgba, dtype=np.float32))


def encoded(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def edge_band(mask):
    """Pixels one of whose eight neighbours differs from them."""
    band = np.zeros_like(mask)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            band |= mask != np.roll(mask, (down, right), (0, 1))
    return band


def assert_composite(result, clip, beauty):
    """<= 2/255 on a display, but for a band of a pixel to both sides of the ring's edge."""
    expected = clip[..., :3] + (1.0 - clip[..., 3:]) * beauty[..., :3]
    share = np.abs(beauty[..., :3] - beauty[0, 0, :3]).max(axis=-1)
    share /= share.max()
    ring, at_edge = share > 0.5, (share > 0.01) & (share < 0.99)
    band = edge_band(at_edge) | at_edge
    assert ring.sum() > 100 and band.mean() < 0.4, "the ring is in the picture"
    behind = clip[..., 3] > 0.5
    assert (ring & ~band & behind).sum() < (ring & ~band).sum() * 0.95, "it hides some of the clip"
    difference = np.abs(encoded(result[..., :3]) - encoded(expected)).max(axis=-1)
    assert difference[~band].max() <= 2 * LEVEL
    assert np.abs(encoded(result[..., :3]) - encoded(beauty[..., :3])).max() > 50 * LEVEL
    alpha = clip[..., 3] + (1.0 - clip[..., 3]) * beauty[..., 3]
    np.testing.assert_allclose(result[..., 3], alpha, atol=LEVEL)  # mended edges are opaque
    np.testing.assert_allclose(result[~band, 3], alpha[~band], atol=1e-5)


def without_composite(scene, picture, frame, **options):
    scene.render.use_compositing = False
    bare = picture(scene, frame, **options)
    scene.render.use_compositing = True
    return bare
