# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""A clip with static points: its subject with and without the background, everywhere."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from composite_shot import assert_composite, picture, prepare, reference

from peel4d.addon import cameras, clip_file, panels
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.addon.render.loading import Loading, load
from peel4d.addon.render.scene import collect
from peel4d.addon.render.session import SESSION
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.mesh import Mesh

pytestmark = pytest.mark.blender
__all__ = ["picture"]  # a fixture

LEVEL = 1 / 255
#: Points of the room.
ROOM = 1500


@pytest.fixture
def clip(scene, room_path):
    imported = import_clip(scene, scene.collection, room_path, up="Z")
    scene.camera = imported.cameras["cam00"]
    cameras.use_captured_format(scene, scene.camera.data)
    scene.camera.parent = None
    bpy.context.view_layer.objects.active = imported.clip
    return imported.clip


def expected(room_path, background, *, frame=0, meshes=()):
    with ClipReader(room_path) as reader:
        parts = reader.packed(frame, static=background)
        camera, settings = reader.info.cameras[0].camera(), reader.info.settings
    instances = [Instance(part, np.eye(4)) for part in parts]
    return render_scene(instances, camera, settings, meshes=meshes)


def assert_shows(picture, wanted):
    assert np.abs(picture[0] - scene_linear_from_clip(wanted.rgba)).max() <= LEVEL


def wall(scene, distance: float) -> Mesh:
    """A holdout across the view, so far behind the blob."""
    bpy.context.view_layer.update()
    camera = np.array(scene.camera.matrix_world)
    corners = [(x, y, -2.2 - distance, 1.0) for x, y in ((-9, -9), (9, -9), (9, 9), (-9, 9))]
    corners = (camera @ np.array(corners).T).T[:, :3]
    mesh = bpy.data.meshes.new("wall")
    mesh.from_pydata(corners.tolist(), [], [(0, 1, 2, 3)])
    scene.collection.objects.link(bpy.data.objects.new("wall", mesh))
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), None)


def test_final_renders(scene, clip, room_path, render):
    for shown in (True, False, True):
        clip.peel4d.show_background = shown
        wanted = expected(room_path, shown)
        assert (wanted.rgba[..., 3] > 0.9).mean() > (0.95 if shown else 0.05)
        assert (wanted.rgba[0, 0, 3] > 0.5) == shown
        assert_shows(render(), wanted)


def test_it_can_be_animated(scene, clip, room_path, render):
    for frame, shown in ((1, True), (2, False)):
        clip.peel4d.show_background = shown
        clip.keyframe_insert("peel4d.show_background", frame=frame)
    for frame, shown in ((2, False), (1, True)):
        scene.frame_set(frame)
        assert_shows(render(), expected(room_path, shown, frame=frame - 1))


def test_copies_choose_for_themselves(scene, clip, room_path, render):
    other = clip.copy()
    scene.collection.objects.link(other)
    other.peel4d.show_background = False
    clip.hide_render = True
    assert_shows(render(), expected(room_path, False))
    clip.hide_render, other.hide_render = False, True
    assert_shows(render(), expected(room_path, True))


def test_cg_behind_the_subject(scene, clip, room_path, render):
    """The background hides what is behind it, and is hidden by what is before it; a holdout there
    leaves the subject alone."""
    scene.peel4d.meshes = "HOLDOUT"
    mesh = wall(scene, 1.0)
    for shown in (True, False):
        clip.peel4d.show_background = shown
        wanted = expected(room_path, shown, meshes=[mesh])
        assert wanted.rgba[0, 0, 3] == 0 and wanted.rgba[..., 3].max() > 0.9
        assert_shows(render(), wanted)
    # Nothing of the subject is behind the wall.
    assert np.array_equal(wanted.rgba, expected(room_path, False).rgba)


def test_composites(scene, room_path, clip_path, picture):
    shot = prepare(scene, room_path)
    clip = next(item for item in shot.objects if item.peel4d.is_clip)
    bare = picture(shot, 1)
    bpy.ops.scene.peel4d_composite(samples="1")
    covered = picture(shot, 1)
    assert np.abs(covered[0, 0] - bare[0, 0]).max() > 0.02  # the room hides the world
    clip.peel4d.show_background = False
    result = picture(shot, 1)
    assert np.abs(result[0, 0] - bare[0, 0]).max() <= LEVEL
    assert_composite(result, reference(shot, clip_path, 1, 1), bare)


def test_viewports_load_what_is_shown(scene, clip, room_path):
    """Both the CPU's and the graphics device's pictures are drawn from these instances."""

    def clips():
        return collect(bpy.context.evaluated_depsgraph_get(), SESSION)

    assert [len(one.splats) for one in load(SESSION, clips(), None)] == [600, ROOM]
    loading = Loading(SESSION)
    try:
        assert len(loading.instances(clips())) == 2
        clip.peel4d.show_background = False
        assert [len(one.splats) for one in loading.instances(clips())] == [600]
        clip.peel4d.exposure = 1.0
        assert [len(one.splats) for one in loading.instances(clips())] == [600]
        clip.peel4d.show_background = True
        assert [len(one.splats) for one in loading.instances(clips())] == [600, ROOM]
    finally:
        loading.close()


def test_a_hidden_background_is_not_even_read(scene, clip, room_path, monkeypatch):
    SESSION.release()
    clip.peel4d.show_background = False
    monkeypatch.setattr(ClipReader, "_static_points", lambda self: pytest.fail("it was read"))
    clips = collect(bpy.context.evaluated_depsgraph_get(), SESSION)
    assert len(load(SESSION, clips, None)) == 1
    SESSION.release()


def test_the_box_fits_the_subject_and_the_cameras_see_the_room(scene, clip, room_path):
    bpy.context.view_layer.update()
    assert all(0.8 < side < 1.5 for side in clip.dimensions)
    assert scene.camera.data.clip_end > 6.2  # the far wall
    assert scene.camera.data.clip_start < 0.01
    for shown, reach in ((True, 3.9), (False, 0.4)):
        clip.peel4d.show_background = shown
        bpy.context.view_layer.objects.active = clip
        bpy.ops.object.peel4d_add_crop_box()
        box = clip.peel4d.crop_object
        assert reach < min(box.scale) and max(box.scale) < reach * 2.2
        clips = collect(bpy.context.evaluated_depsgraph_get(), SESSION)
        counts = [len(one.splats) for one in load(SESSION, clips, None)]
        assert counts == ([600, ROOM] if shown else [600])  # the box cuts nothing off


def test_what_the_panel_says(clip, room_path):
    state = clip_file.clip_file(clip)
    lines = panels.facts(state.info, state.nbytes)
    assert lines[1].startswith("600 points, ")
    assert lines[3].startswith("Background: 1,500 points, 8.0")
