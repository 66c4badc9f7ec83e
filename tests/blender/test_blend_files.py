# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Clips and rigs in other .blend files: copied and pasted, appended, linked, saved elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")

from peel4d.addon import clip_file, rig

pytestmark = pytest.mark.blender
#: Before 4.3 nothing tells an add-on what was appended.
told = pytest.mark.skipif(
    not hasattr(bpy.app.handlers, "blend_import_post"), reason="Blender 4.3 tells what it appends"
)


@pytest.fixture
def shot(scene, clip_path, ball_capture, tmp_path) -> Path:
    """A saved .blend file with clip and capture beside it, all paths relative; it is open."""
    folder = tmp_path / "shot"
    folder.mkdir()
    shutil.copy(clip_path, folder / "blob.p4d")
    shutil.copytree(ball_capture, folder / "capture")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    bpy.ops.import_scene.peel4d(filepath=str(folder / "blob.p4d"), up="Z", cameras=False)
    clip = bpy.context.object
    bpy.ops.import_scene.peel4d_capture(filepath=str(folder / "capture"))
    assert clip.peel4d.filepath == "//blob.p4d"
    assert bpy.context.scene.peel4d_rig.capture_path == "//capture"
    bpy.context.scene.peel4d_job.output = "//out"
    bpy.ops.object.select_all(action="DESELECT")
    clip.select_set(True)
    bpy.context.view_layer.objects.active = clip
    bpy.ops.wm.save_mainfile()
    return folder / "shot.blend"


def new_file(path: Path | None = None):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return bpy.context.scene


def clips() -> list:
    return [thing for thing in bpy.data.objects if thing.peel4d.is_clip]


@told
def test_pasting_into_the_same_file(shot):
    bpy.ops.view3d.copybuffer()
    bpy.ops.view3d.pastebuffer()
    assert len(clips()) == 2
    assert {clip.peel4d.filepath for clip in clips()} == {"//blob.p4d"}


@told
@pytest.mark.parametrize("saved", [False, True])
def test_pasting_into_another_file(shot, tmp_path, render, saved):
    bpy.data.objects["blob"].peel4d.exposure = 0.5
    bpy.ops.view3d.copybuffer()
    new_file(tmp_path / "other" / "other.blend" if saved else None)
    bpy.ops.view3d.pastebuffer()
    (clip,) = clips()
    assert clip_file.clip_path(clip) == str(shot.with_name("blob.p4d"))
    assert clip.peel4d.filepath.startswith("//") == saved
    assert clip.peel4d.exposure == 0.5 and not clip_file.clip_file(clip).problem


@told
def test_a_file_that_was_moved_with_its_clip_still_copies(shot, tmp_path):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    shot.parent.rename(tmp_path / "moved")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "moved" / "shot.blend"))
    bpy.data.objects["blob"].select_set(True)
    bpy.ops.view3d.copybuffer()
    new_file()
    bpy.ops.view3d.pastebuffer()
    (clip,) = clips()
    assert clip_file.clip_path(clip) == str(tmp_path / "moved" / "blob.p4d")


def test_a_rig_saved_elsewhere_keeps_its_paths(shot, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "copy.blend"), copy=True)
    scene = bpy.context.scene
    assert scene.peel4d_rig.capture_path == "//capture", "this session goes on where it was"
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "new.blend"))
    assert scene.peel4d_rig.capture_path == "//../../shot/capture"
    assert scene.peel4d_job.output == "//../../shot/out"
    for name in ("copy", "new"):
        bpy.ops.wm.open_mainfile(filepath=str(folder / f"{name}.blend"))
        found = rig.path_to_reconstruct(bpy.context.scene)
        assert found == shot.with_name("capture") and found.is_dir()


@pytest.mark.parametrize("link", [pytest.param(False, marks=told), True])
def test_a_scene_with_a_rig_from_another_file(shot, tmp_path, link):
    new_file(tmp_path / "other" / "other.blend")
    with bpy.data.libraries.load(str(shot), link=link) as (there, here):
        here.scenes = there.scenes
    (scene,) = (one for one in bpy.data.scenes if one.peel4d_rig.views)
    assert len(scene.peel4d_rig.views) == 10 and scene.peel4d_rig.views[3].camera.type == "CAMERA"
    assert rig.path_to_reconstruct(scene) == shot.with_name("capture")


@pytest.mark.parametrize("link", [False, True])
def test_a_rigs_collection_from_another_file(shot, tmp_path, link):
    """Cameras, lenses and footage come along; the list of views belongs to the scene."""
    scene = new_file(tmp_path / "other" / "other.blend")
    with bpy.data.libraries.load(str(shot), link=link) as (there, here):
        here.collections = [name for name in there.collections if name.endswith("rig")]
    (group,) = (one for one in bpy.data.collections if (one.library is not None) == link)
    scene.collection.children.link(group)
    cameras = [thing for thing in group.all_objects if thing.type == "CAMERA"]
    assert len(cameras) == 10 and not scene.peel4d_rig.views
    for camera in cameras:
        image = camera.data.background_images[0].image
        assert Path(bpy.path.abspath(image.filepath, library=image.library)).is_file()
        camera.select_set(True)
    assert bpy.ops.scene.peel4d_rig_from_cameras() == {"FINISHED"}
    path = tmp_path / "other" / "rig.json"
    assert bpy.ops.scene.peel4d_rig_use_cameras(filepath=str(path)) == {"FINISHED"}
    from peel4d.engine.capture.detect import open_capture

    before, after = open_capture(shot.with_name("capture")), open_capture(path)
    assert [view.name for view in after.views] == [view.name for view in before.views]
    np.testing.assert_allclose(after.K, before.K, rtol=1e-6)
    np.testing.assert_allclose(after.R, before.R, atol=1e-6)
    assert len(after.images) == len(before.images)


def test_an_overridden_rig_can_be_corrected(shot, tmp_path):
    """A camera of a linked rig is moved in the file that links it, saved, and loaded again."""
    scene = new_file(tmp_path / "other" / "other.blend")
    with bpy.data.libraries.load(str(shot), link=True) as (there, here):
        here.collections = [name for name in there.collections if name.endswith("rig")]
    linked = here.collections[0]
    scene.collection.children.link(linked)
    linked.override_hierarchy_create(scene, bpy.context.view_layer)
    own = [t for t in scene.objects if t.type == "CAMERA" and t.override_library]
    assert len(own) == 10
    next(t for t in own if t.name.startswith("04")).location.x += 0.5
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    own = [t for t in bpy.context.scene.objects if t.type == "CAMERA" and t.override_library]
    moved = next(t for t in own if t.name.startswith("04"))
    reference = moved.override_library.reference
    assert moved.location.x == pytest.approx(reference.location.x + 0.5)
    for camera in own:
        camera.select_set(True)
    assert bpy.ops.scene.peel4d_rig_from_cameras() == {"FINISHED"}
    assert len(bpy.context.scene.peel4d_rig.views) == 10
