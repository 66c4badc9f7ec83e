# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Clips over the pictures of Cycles and EEVEE: against a composite computed from the engine's own
reference picture and the bare CG picture, and the scenes and nodes that the operators leave."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from mathutils import Euler, Matrix

from peel4d.addon import cameras, compositing
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import reference_scene

pytestmark = pytest.mark.blender

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

    def render(scene, frame=1, animation=None):
        settings = scene.render.image_settings
        if hasattr(settings, "media_type"):
            settings.media_type = "IMAGE"
        settings.file_format, settings.color_mode = "OPEN_EXR", "RGBA"
        settings.color_depth, settings.exr_codec = "32", "NONE"
        scene.render.filepath = str(tmp_path / "picture_")
        if animation is None:
            scene.frame_set(frame)
            scene.render.filepath += f"{frame:04d}.exr"
            bpy.ops.render.render(write_still=True)
        else:
            scene.frame_start, scene.frame_end = animation
            bpy.ops.render.render(animation=True)
        channels = read_exr(tmp_path / f"picture_{frame:04d}.exr")
        return np.stack([channels[name] for name in "RGBA"], axis=-1)

    return render


def reference(scene, clip_path, frame, samples, camera=None):
    """The clip with the ring as a holdout, scene-linear premultiplied, from the engine alone."""
    scene.frame_set(frame)
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
    """Pixels that differ from one of their neighbours, and these neighbours."""
    band = np.zeros_like(mask)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        band |= mask != np.roll(mask, step, axis)
    return band


def assert_composite(result, clip, beauty):
    """<= 2/255 on a display, but for a band of a pixel to both sides of the ring's edge."""
    expected = clip[..., :3] + (1.0 - clip[..., 3:]) * beauty[..., :3]
    ring = np.abs(beauty[..., :3] - beauty[0, 0, :3]).max(axis=-1) > 1e-3
    band = edge_band(ring)
    assert ring.sum() > 100 and band.mean() < 0.3, "the ring is in the picture"
    behind = clip[..., 3] > 0.5
    assert (ring & ~band & behind).sum() < (ring & ~band).sum() * 0.95, "it hides some of the clip"
    difference = np.abs(encoded(result[..., :3]) - encoded(expected)).max(axis=-1)
    assert difference[~band].max() <= 2 * LEVEL
    assert np.abs(encoded(result[..., :3]) - encoded(beauty[..., :3])).max() > 50 * LEVEL
    np.testing.assert_allclose(result[..., 3], 1.0, atol=1e-5)


def nodes_of(scene):
    tree = scene.compositing_node_group if FIVE else scene.node_tree
    if tree is None:
        return [], []
    links = [
        (link.from_node.name, link.from_socket.name, link.to_node.name, link.to_socket.identifier)
        for link in tree.links
    ]
    return sorted((node.name, node.bl_idname) for node in tree.nodes), sorted(links)


@pytest.mark.parametrize("samples", ["1", "2"])
def test_composite_equals_the_reference(shot, clip_path, picture, samples):
    beauty = {frame: picture(shot, frame) for frame in (1, 4)}
    assert bpy.ops.scene.peel4d_composite(samples=samples) == {"FINISHED"}
    for frame, bare in beauty.items():
        clip = reference(shot, clip_path, frame, int(samples))
        assert_composite(picture(shot, frame), clip, bare)
    bpy.ops.scene.peel4d_remove_composite()
    assert np.array_equal(picture(shot, 1), beauty[1])


def test_every_frame_of_an_animation(shot, clip_path, picture, tmp_path, read_exr):
    beauty = {frame: picture(shot, frame) for frame in (2, 3)}
    bpy.ops.scene.peel4d_composite()
    picture(shot, 2, animation=(2, 3))
    for frame, bare in beauty.items():
        channels = read_exr(tmp_path / f"picture_{frame:04d}.exr")
        result = np.stack([channels[name] for name in "RGBA"], axis=-1)
        assert_composite(result, reference(shot, clip_path, frame, 2), bare)


def test_what_is_changed_afterwards_is_followed(shot, clip_path, picture):
    """Camera, format, border, animation and objects belong to the artist's scene alone."""
    bpy.ops.scene.peel4d_composite(samples="1")
    shot.camera = bpy.data.objects["cam01"]
    cameras.use_captured_format(shot, shot.camera.data)
    shot.render.resolution_percentage = 50
    shot.objects["ring"].animation_data_clear()
    shot.objects["ring"].matrix_world = Matrix.Rotation(0.6, 4, "X")
    extra = shot.objects["ring"].copy()
    extra.scale = (1.4, 1.4, 1.4)
    shot.collection.objects.link(extra)
    result = picture(shot, 2)
    clip_object(shot).hide_render = True
    without = picture(shot, 2)
    assert result.shape == (32, 48, 4)
    assert np.abs(result - without).max() > 0.2
    extra.hide_render = True
    clip_object(shot).hide_render = False
    with ClipReader(clip_path) as reader:
        camera = next(c for c in reader.info.cameras if c.name == "cam01").camera()
    bare = without_composite(shot, picture, 2)
    clip = reference(shot, clip_path, 2, 1, camera.scaled(48, 32))
    assert_composite(picture(shot, 2), clip, bare)


def without_composite(scene, picture, frame):
    scene.render.use_compositing = False
    bare = picture(scene, frame)
    scene.render.use_compositing = True
    return bare


def test_a_border_is_followed(shot, picture):
    bpy.ops.scene.peel4d_composite(samples="1")
    whole = picture(shot, 1)
    render = shot.render
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x = 0.25, 0.75
    render.border_min_y, render.border_max_y = 0.25, 0.625
    part = picture(shot, 1)
    assert part.shape == (24, 48, 4)
    # Cycles draws other random numbers in a part; the clip covers what is compared.
    inside = whole[24:48, 24:72]
    clear = np.abs(part - inside).max(axis=-1) < 2 * LEVEL
    assert clear.mean() > 0.95


def test_cameras_bound_to_markers_switch(shot, clip_path, picture, tmp_path, read_exr):
    for frame, view in ((1, "cam00"), (2, "cam02")):
        shot.timeline_markers.new(view, frame=frame).camera = bpy.data.objects[view]
    shot.render.pixel_aspect_x = shot.render.pixel_aspect_y = 1.0
    bpy.ops.scene.peel4d_composite()
    picture(shot, 2, animation=(1, 2))
    frames = {}
    for frame in (1, 2):
        channels = read_exr(tmp_path / f"picture_{frame:04d}.exr")
        frames[frame] = np.stack([channels[name] for name in "RGBA"], axis=-1)
    shot.timeline_markers.clear()
    for frame, view in ((1, "cam00"), (2, "cam02")):
        shot.camera = bpy.data.objects[view]
        np.testing.assert_allclose(picture(shot, frame), frames[frame], atol=1e-5)


def test_composing_again_changes_nothing(shot):
    bpy.ops.scene.peel4d_composite()
    scenes, nodes = sorted(s.name for s in bpy.data.scenes), nodes_of(shot)
    clips = compositing.clip_scene_of(shot)
    clips.peel4d.samples = "4"
    bpy.ops.scene.peel4d_composite()
    assert sorted(s.name for s in bpy.data.scenes) == scenes == ["Scene", "Scene Peel4D"]
    assert nodes_of(shot) == nodes
    assert compositing.clip_scene_of(shot) == clips and clips.peel4d.samples == "4"


def test_removing_restores_an_untouched_scene(shot):
    shot.render.use_compositing = False
    bpy.ops.scene.peel4d_composite()
    assert shot.render.use_compositing
    bpy.ops.scene.peel4d_remove_composite()
    assert [s.name for s in bpy.data.scenes] == ["Scene"]
    assert not shot.render.use_compositing
    assert not compositing._compositor_is_on(shot)
    assert not any("Peel4D" in name for name, _ in nodes_of(shot)[0])
    assert not bpy.data.node_groups
    assert not bpy.ops.scene.peel4d_remove_composite.poll()


def grade(scene):
    """An artist's compositor: the picture through a blur to the output."""
    if FIVE:
        tree = bpy.data.node_groups.new("Mine", "CompositorNodeTree")
        scene.compositing_node_group = tree
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        output = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        output = tree.nodes.new("CompositorNodeComposite")
    layers, invert = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("CompositorNodeInvert")
    tree.links.new(layers.outputs["Image"], invert.inputs["Color"])
    tree.links.new(invert.outputs["Color"], output.inputs["Image"])
    return tree


def test_the_artists_nodes_stay(shot, clip_path, picture):
    tree = grade(shot)
    places = {node.name: tuple(node.location) for node in tree.nodes}
    nodes = nodes_of(shot)
    graded = picture(shot, 1)
    bpy.ops.scene.peel4d_composite()
    clip = reference(shot, clip_path, 1, 2)
    expected = clip[..., :3] + (1.0 - clip[..., 3:]) * graded[..., :3]
    composed = picture(shot, 1)
    assert np.abs(composed[..., :3] - expected).max(axis=-1)[clip[..., 3] > 0.99].max() < 0.02
    assert np.array_equal(composed[clip[..., 3] == 0], graded[clip[..., 3] == 0])
    bpy.ops.scene.peel4d_remove_composite()
    assert nodes_of(shot) == nodes
    assert {node.name: tuple(node.location) for node in tree.nodes} == places


@pytest.mark.skipif(FIVE, reason="a compositor is never off in Blender 5")
def test_nodes_of_a_compositor_that_was_off_stay_out(shot, picture):
    grade(shot)
    shot.use_nodes = False
    nodes = nodes_of(shot)
    bare = picture(shot, 1)
    bpy.ops.scene.peel4d_composite()
    clip_object(shot).hide_render = True
    np.testing.assert_allclose(picture(shot, 1), bare, atol=1e-6)
    bpy.ops.scene.peel4d_composite()
    bpy.ops.scene.peel4d_remove_composite()
    assert not shot.use_nodes
    assert nodes_of(shot) == nodes


def test_undo_takes_everything_back(shot):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.scene.peel4d_composite()
    bpy.ops.ed.undo_push(message="composite")
    bpy.ops.ed.undo()
    scene = bpy.data.scenes["Scene"]
    assert [s.name for s in bpy.data.scenes] == ["Scene"]
    assert not any("Peel4D" in name for name, _ in nodes_of(scene)[0])
    bpy.ops.ed.redo()
    assert compositing.clip_scene_of(bpy.data.scenes["Scene"]) is not None


def test_a_saved_composite_still_works(shot, clip_path, picture, tmp_path):
    bare = picture(shot, 1)
    bpy.ops.scene.peel4d_composite()
    blend = str(tmp_path / "composite.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    bpy.ops.wm.open_mainfile(filepath=blend)
    scene = bpy.context.scene
    assert_composite(picture(scene, 1), reference(scene, clip_path, 1, 2), bare)
    bpy.ops.scene.peel4d_remove_composite()
    assert [s.name for s in bpy.data.scenes] == ["Scene"]


def test_a_scene_that_rendered_with_peel4d_gets_cycles(shot):
    shot.render.engine = "PEEL4D"
    bpy.ops.scene.peel4d_composite()
    assert shot.render.engine == "CYCLES"
    bpy.ops.scene.peel4d_remove_composite()
    assert shot.render.engine == "PEEL4D"
    bpy.ops.scene.peel4d_composite(engine="EEVEE")
    assert "EEVEE" in shot.render.engine


def test_a_missing_clip_cannot_be_overlooked(shot, picture, capfd):
    """Blender renders on whatever an engine says about another scene (see test_real_blender for
    `blender -b`, which ends)."""
    clip_object(shot).peel4d.filepath = "/nowhere/gone.p4d"
    bpy.ops.scene.peel4d_composite()
    assert (picture(shot, 1)[..., :3] == (1.0, 0.0, 1.0)).all()
    assert "gone.p4d" in capfd.readouterr().out


def test_the_scene_of_the_clips_is_no_place_for_it(shot):
    bpy.ops.scene.peel4d_composite()
    clips = compositing.clip_scene_of(shot)
    with bpy.context.temp_override(scene=clips):
        assert not bpy.ops.scene.peel4d_composite.poll()
    with pytest.raises(compositing.PeelError, match="itself"):
        compositing.composite(clips)
