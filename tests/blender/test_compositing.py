# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Clips over the pictures of Cycles and EEVEE: against a composite computed from the engine's own
reference picture and the bare CG picture, and the scenes and nodes that the operators leave."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from composite_shot import (
    FIVE,
    LEVEL,
    assert_composite,
    clip_object,
    edge_band,
    picture,
    reference,
    shot,
    without_composite,
)
from mathutils import Matrix

from peel4d.addon import cameras
from peel4d.addon.composite.nodes import compositor_is_on, existing_tree
from peel4d.addon.composite.scene import ENGINES, clip_scene_of, composite
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.errors import PeelError

pytestmark = pytest.mark.blender
__all__ = ["picture", "shot"]  # fixtures


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


def test_workbench_and_eevee(shot, clip_path, picture, graphics):
    """EEVEE takes half a minute for its first picture where OpenGL is software."""
    shot.display.shading.light = "FLAT"  # so that the ring tells its edges by one colour
    for name in ("BLENDER_WORKBENCH", ENGINES["EEVEE"]):
        shot.render.engine = name
        shot.eevee.taa_render_samples = 4
        bare = picture(shot, 2)
        bpy.ops.scene.peel4d_composite()
        assert shot.render.engine == name
        assert_composite(picture(shot, 2), reference(shot, clip_path, 2, 2), bare)
        bpy.ops.scene.peel4d_remove_composite()


@pytest.mark.parametrize("case", ["Workbench", "no clip", "nothing before it", "clip not found"])
def test_edges_are_mended_with_colours_of_the_cg_alone(shot, picture, graphics, case):
    """An Inpaint node that finds no opaque pixel fills the picture with whatever lies in memory."""
    if case == "Workbench":  # whose own alpha is a little less than 1
        shot.render.engine = "BLENDER_WORKBENCH"
        shot.display.shading.light = "FLAT"
    elif case == "nothing before it":
        shot.objects["ring"].scale = (3, 3, 3)
    bare = picture(shot, 2)
    bpy.ops.scene.peel4d_composite()
    if case == "no clip":
        clip_object(shot).hide_render = True
    elif case == "clip not found":
        clip_object(shot).peel4d.filepath = "/nowhere/gone.p4d"
    tree = existing_tree(shot)
    target = tree.nodes["Peel4D Over CG"].outputs["Image"].links[0].to_socket
    tree.links.new(tree.nodes["Peel4D CG Grown"].outputs["Image"], target)
    grown = picture(shot, 2)
    assert (grown[..., 3] == 1).any()
    if case == "Workbench":
        ring = bare[..., :3].reshape(-1, 3).max(axis=0)
        filled = grown[..., 3] > 0
        np.testing.assert_allclose(grown[filled, :3], np.tile(ring, (filled.sum(), 1)), atol=1e-5)
    else:
        np.testing.assert_allclose(grown[..., :3], bare[..., :3], atol=1e-6)


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
    clips = clip_scene_of(shot)
    clips.peel4d.samples = "4"
    bpy.ops.scene.peel4d_composite()
    assert sorted(s.name for s in bpy.data.scenes) == scenes == ["Scene", "Scene Peel4D"]
    assert nodes_of(shot) == nodes
    assert clip_scene_of(shot) == clips and clips.peel4d.samples == "4"


def test_removing_restores_an_untouched_scene(shot):
    shot.render.use_compositing = False
    bpy.ops.scene.peel4d_composite()
    assert shot.render.use_compositing
    bpy.ops.scene.peel4d_remove_composite()
    assert [s.name for s in bpy.data.scenes] == ["Scene"]
    assert not shot.render.use_compositing
    assert not compositor_is_on(shot)
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
    empty = (clip[..., 3] == 0) & ~edge_band(clip[..., 3] > 0)
    assert np.array_equal(composed[empty], graded[empty])
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
    assert clip_scene_of(bpy.data.scenes["Scene"]) is not None


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
    clips = clip_scene_of(shot)
    with bpy.context.temp_override(scene=clips):
        assert not bpy.ops.scene.peel4d_composite.poll()
    with pytest.raises(PeelError, match="itself"):
        composite(clips)
