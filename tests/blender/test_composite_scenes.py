# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Composites in scenes with view layers, copies, time stretching, simplification and what else
changes the CG that has to cut its hole into the clips."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from composite_shot import (
    LEVEL,
    assert_composite,
    clip_object,
    edge_band,
    picture,
    reference,
    shot,
    without_composite,
)

from peel4d.addon.composite.nodes import compositor_is_on, existing_tree, has_nodes, is_whole
from peel4d.addon.composite.scene import clip_scene_of

pytestmark = pytest.mark.blender
__all__ = ["picture", "shot"]  # fixtures


def compose(scene, **options):
    with bpy.context.temp_override(scene=scene):
        assert bpy.ops.scene.peel4d_composite(**options) == {"FINISHED"}
    return clip_scene_of(scene)


def composited(scene, picture, frame=1, **options):
    """The composite and the CG alone."""
    compose(scene, **options)
    return picture(scene, frame), without_composite(scene, picture, frame)


def test_a_view_layer_that_is_not_rendered_is_not_composited(shot, clip_path, picture):
    """Blender shows the first view layer that is rendered, as the background set does."""
    second = shot.view_layers.new("Second")
    shot.view_layers[0].use = False
    empty = bpy.data.collections.new("empty")
    shot.collection.children.link(empty)
    result, bare = composited(shot, picture)
    assert_composite(result, reference(shot, clip_path, 1, 2), bare)
    assert second.use


def test_a_clip_in_another_view_layer_is_noticed(shot, capfd):
    hidden = bpy.data.collections.new("hidden")
    shot.collection.children.link(hidden)
    clip = clip_object(shot)
    for collection in clip.users_collection:
        collection.objects.unlink(clip)
    hidden.objects.link(clip)
    shot.view_layers.new("Second")
    shot.view_layers[0].layer_collection.children["hidden"].exclude = True
    compose(shot)
    assert "No clip is in the view layer 'ViewLayer'" in capfd.readouterr().out


def test_simplified_geometry_cuts_the_same_hole(shot, clip_path, picture):
    ring = shot.objects["ring"]
    modifier = ring.modifiers.new("grow", "SUBSURF")
    modifier.render_levels = modifier.levels = 2
    shot.render.use_simplify = True
    shot.render.simplify_subdivision = shot.render.simplify_subdivision_render = 0
    result, bare = composited(shot, picture)
    assert_composite(result, reference(shot, clip_path, 1, 2), bare)


def test_time_stretching_moves_both_alike(shot, picture):
    """Frame 4 of a stretched scene shows the time 2.5."""
    shot.render.frame_map_old, shot.render.frame_map_new = 100, 160
    compose(shot)
    stretched = picture(shot, 4, animation=(4, 4))
    shot.render.frame_map_new = 100
    half = picture(shot, 2, subframe=0.5)
    assert (np.abs(stretched - half).max(axis=-1) < 2 * LEVEL).all()


def test_fractions_of_frames(shot, clip_path, picture):
    """Nearest frame of the clip, CG in between: the ring's hole is where the ring is."""
    compose(shot)
    clip_object(shot).peel4d.override_frame = True
    clip_object(shot).peel4d.frame = 2.0
    shot.frame_set(3)
    rest = reference(shot, clip_path, 3, 2)
    half = reference(shot, clip_path, 3, 2, subframe=0.5)
    assert np.abs(half - rest).max() > 0.5
    result = picture(shot, 3, subframe=0.5)
    bare = without_composite(shot, picture, 3, subframe=0.5)
    assert_composite(result, half, bare)


def test_a_falling_rigid_body_is_followed(shot, picture):
    """Without its hole the clip would cover the cube that has fallen before it."""
    bpy.ops.mesh.primitive_cube_add(size=0.4, location=(0.9, 0.3, 0.9))
    cube = bpy.context.object
    bpy.ops.rigidbody.object_add()
    for frame in range(1, 9):
        shot.frame_set(frame)
    depsgraph = bpy.context.evaluated_depsgraph_get()
    assert cube.evaluated_get(depsgraph).matrix_world[2][3] < 0.7
    clip_object(shot).peel4d.sequence_mode = "EXTEND"
    compose(shot)
    result = picture(shot, 8)
    bare = without_composite(shot, picture, 8)
    cube.hide_render = True
    cleared = without_composite(shot, picture, 8)
    in_front = interior(np.abs(bare - cleared).max(axis=-1) > 0.01)
    covers = np.abs(picture(shot, 8) - cleared).max(axis=-1) > 0.05
    assert (in_front & covers).sum() > 20, "the clip is behind the cube"
    # Cycles' filter reaches further than a pixel at some edges of the cube.
    assert np.quantile(np.abs(result - bare).max(axis=-1)[in_front], 0.99) < LEVEL


def interior(mask):
    """Not at the mask's edge."""
    grown = edge_band(mask)
    return mask & ~grown


def test_a_border_that_does_not_crop(shot, picture):
    whole, _ = composited(shot, picture, samples="1")
    render = shot.render
    render.use_border = True
    render.border_min_x, render.border_max_x = 0.25, 0.75
    render.border_min_y, render.border_max_y = 0.25, 0.625
    part = picture(shot, 1)
    assert part.shape == whole.shape
    clear = np.abs(part - whole).max(axis=-1)[24:48, 24:72] < 2 * LEVEL
    assert clear.mean() > 0.95
    part[24:48, 24:72] = 0
    assert not part[..., :3].any()


def test_transparent_film_keeps_its_alpha(shot, clip_path, picture):
    shot.render.film_transparent = True
    result, bare = composited(shot, picture)
    clip = reference(shot, clip_path, 1, 2)
    at_edge = (bare[..., 3] > 0.01) & (bare[..., 3] < 0.99)
    apart = ~(at_edge | edge_band(at_edge))
    union = clip[..., 3] + (1 - clip[..., 3]) * bare[..., 3]
    np.testing.assert_allclose(result[..., 3][apart], union[apart], atol=LEVEL)
    assert (result[..., 3] >= union - LEVEL).all(), "no line of little alpha at the ring's edge"
    assert (bare[..., 3] == 0).sum() > 1000 and (result[..., 3] == 0).any()


def test_a_copied_scene_is_told_and_gets_clips_of_its_own(shot, picture):
    clips = compose(shot)
    before = picture(shot, 1)
    bpy.ops.scene.new(type="FULL_COPY")
    copy = bpy.context.scene
    assert copy != shot and has_nodes(copy)
    own = compose(copy)
    assert own not in (None, clips)
    clip_object(copy).hide_render = True
    assert np.array_equal(picture(shot, 1), before), "the first scene has its own clips"
    assert not np.array_equal(picture(copy, 1), before)
    with bpy.context.temp_override(scene=copy):
        bpy.ops.scene.peel4d_remove_composite()
    assert not has_nodes(copy) and clip_scene_of(copy) is None
    assert has_nodes(shot) and clip_scene_of(shot) == clips


def test_a_scene_of_clips_that_was_deleted_is_made_again(shot, clip_path, picture):
    bare = picture(shot, 1)
    bpy.data.scenes.remove(compose(shot))
    assert bpy.ops.scene.peel4d_remove_composite.poll()
    compose(shot)
    assert_composite(picture(shot, 1), reference(shot, clip_path, 1, 2), bare)
    bpy.data.scenes.remove(clip_scene_of(shot))
    bpy.ops.scene.peel4d_remove_composite()
    assert not has_nodes(shot) and not compositor_is_on(shot)
    assert np.array_equal(picture(shot, 1), bare)


def test_removing_keeps_an_engine_that_was_chosen_meanwhile(shot):
    shot.render.engine = "PEEL4D"
    compose(shot)
    assert shot.render.engine == "CYCLES"
    shot.render.engine = "BLENDER_WORKBENCH"
    bpy.ops.scene.peel4d_remove_composite()
    assert shot.render.engine == "BLENDER_WORKBENCH"


def test_two_scenes_have_composites_of_their_own(shot, picture):
    first = picture(shot, 1)
    clips = compose(shot)
    bpy.ops.scene.new(type="EMPTY")
    other = bpy.context.scene
    other.camera = bpy.data.objects["cam01"]
    other.collection.objects.link(clip_object(shot))
    other.collection.objects.link(other.camera)
    other.render.engine = "CYCLES"
    assert compose(other) != clips
    with bpy.context.temp_override(scene=other):
        bpy.ops.scene.peel4d_remove_composite()
    assert clip_scene_of(shot) == clips
    with bpy.context.temp_override(scene=shot):
        bpy.ops.scene.peel4d_remove_composite()
    assert [s.name for s in bpy.data.scenes] == [shot.name, other.name]
    bpy.context.window.scene = shot
    assert np.array_equal(picture(shot, 1), first)


def test_every_pass_of_a_multilayer_file(shot, picture, tmp_path, read_exr):
    """Blender's own passes stay what they are; the composite lies beside them."""
    settings = shot.render.image_settings
    result, _ = composited(shot, picture)
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
        settings.use_exr_interleave = True
    settings.file_format = "OPEN_EXR_MULTILAYER"
    shot.render.filepath = str(tmp_path / "layers.exr")
    bpy.ops.render.render(write_still=True)
    channels = read_exr(tmp_path / "layers.exr")
    found = np.stack([channels[f"Composite.Combined.{c}"] for c in "RGBA"], axis=-1)
    np.testing.assert_array_equal(found, result)


def test_a_scene_without_a_camera_fails_with_a_message(shot, picture):
    compose(shot)
    bpy.data.objects.remove(shot.camera)
    with pytest.raises(RuntimeError, match=r"(?i)camera"):
        picture(shot, 1)


def test_what_the_panel_takes_for_whole(shot):
    clips = compose(shot)
    assert is_whole(shot, clips)
    bpy.ops.scene.new(type="FULL_COPY")
    assert not is_whole(bpy.context.scene, clip_scene_of(bpy.context.scene))
    bpy.context.window.scene = shot
    tree = existing_tree(shot)
    tree.nodes.remove(tree.nodes["Peel4D Over CG"])
    assert has_nodes(shot) and not is_whole(shot, clips)
    compose(shot)
    assert is_whole(shot, clips)
