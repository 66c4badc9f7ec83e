# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""The clip object: its look, its file, its copies, and what Blender does to objects."""

import shutil

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from mathutils import Euler, Matrix

from peel4d.addon import cameras, clip_file, clip_object, panels
from peel4d.addon.import_clip import import_clip
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.addon.render.session import SESSION
from peel4d.engine.clip.codecs import DECODERS
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.look import Look, apply_look

pytestmark = pytest.mark.blender

LEVEL = 1 / 255
IDENTITY = np.eye(4)


@pytest.fixture
def clip(scene, clip_path):
    imported = import_clip(scene, scene.collection, clip_path, up="Z")
    scene.camera = imported.cameras["cam00"]
    cameras.use_captured_format(scene, scene.camera.data)
    # The camera stays where it is when the clip moves.
    scene.camera.parent = None
    bpy.context.view_layer.objects.active = imported.clip
    imported.clip.select_set(True)
    return imported.clip


def expected(clip_path, look=Look(), frame=0, matrices=(IDENTITY,), opacity=1.0):  # noqa: B008
    with ClipReader(clip_path) as reader:
        points = apply_look(reader.frame(frame), look)
        camera, settings = reader.info.cameras[0].camera(), reader.info.settings
    instances = [Instance(points, np.array(matrix), opacity) for matrix in matrices]
    return scene_linear_from_clip(render_scene(instances, camera, settings).rgba)


def assert_shows(picture, wanted):
    assert wanted[..., 3].max() > 0.3, "the test would compare nothing"
    assert np.abs(picture[0] - wanted).max() <= LEVEL


# The look


@pytest.mark.parametrize(
    "look", [Look(0.8), Look(-1.0, 0.3), Look(saturation=1.6), Look(point_density=0.4)]
)
def test_looks_are_rendered(clip, clip_path, render, look):
    clip.peel4d.exposure = look.exposure
    clip.peel4d.saturation = look.saturation
    clip.peel4d.point_density = look.point_density
    wanted = expected(clip_path, look)
    assert np.abs(wanted - expected(clip_path)).max() > 10 * LEVEL
    assert_shows(render(), wanted)


def test_the_look_can_be_animated(scene, clip, clip_path, render):
    for frame, exposure, saturation, opacity, shown in ((1, -1, 1, 0.4, 2), (3, 1, 0.2, 0.9, 4)):
        clip.peel4d.exposure, clip.peel4d.saturation = exposure, saturation
        clip.peel4d.opacity, clip.peel4d.frame = opacity, shown
        for name in ("exposure", "saturation", "opacity", "frame"):
            clip.peel4d.keyframe_insert(name, frame=frame)
    clip.peel4d.override_frame = True
    for frame, look, opacity, shown in (
        (1, Look(-1.0), 0.4, 2),
        (2, Look(0.0, 0.6), 0.65, 3),
        (3, Look(1.0, 0.2), 0.9, 4),
    ):
        scene.frame_set(frame)
        assert_shows(render(), expected(clip_path, look, shown, opacity=opacity))


def test_a_driver_moves_the_look(scene, clip, clip_path, render):
    clip.peel4d.driver_add("exposure").driver.expression = "frame / 2"
    scene.frame_set(2)
    assert_shows(render(), expected(clip_path, Look(1.0), 1))


def crop_matrix(box_to_world, clip_to_world=IDENTITY):
    return np.linalg.inv(np.array(box_to_world)) @ np.array(clip_to_world)


BOX = Matrix.LocRotScale((0.1, -0.1, 0.1), Euler((0.3, 0.2, 0.5)).to_quaternion(), (0.3, 0.4, 0.35))


def add_crop(scene, clip, kind="EMPTY", linked=True):
    if kind == "EMPTY":
        box = bpy.data.objects.new("crop", None)
        box.empty_display_size = 1.0
    else:
        mesh = bpy.data.meshes.new("crop")
        mesh.from_pydata([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], [], [])
        box = bpy.data.objects.new("crop", mesh)
    box.matrix_world = BOX
    if linked:
        scene.collection.objects.link(box)
    clip.peel4d.crop_object = box
    return box


@pytest.mark.parametrize("kind", ["EMPTY", "MESH"])
def test_the_crop_box_cuts(scene, clip, clip_path, render, kind):
    add_crop(scene, clip, kind)
    wanted = expected(clip_path, Look(crop=crop_matrix(BOX)))
    assert 0.05 < wanted[..., 3].sum() / expected(clip_path)[..., 3].sum() < 0.9
    assert_shows(render(), wanted)


def test_the_crop_box_may_be_hidden_animated_or_in_no_scene(scene, clip, clip_path, render):
    box = add_crop(scene, clip)
    box.hide_render = box.hide_viewport = True
    wanted = expected(clip_path, Look(crop=crop_matrix(BOX)))
    assert_shows(render(), wanted)
    scene.collection.objects.unlink(box)
    assert_shows(render(), wanted)
    scene.collection.objects.link(box)
    for frame, x in ((1, 0.1), (3, 0.5)):
        box.location.x = x
        box.keyframe_insert("location", frame=frame)
    scene.frame_set(2)
    moved = BOX.copy()
    moved.translation.x = 0.3
    assert_shows(render(), expected(clip_path, Look(crop=crop_matrix(moved)), 1))


def test_a_flat_crop_box_leaves_nothing(scene, clip, render):
    add_crop(scene, clip).scale = (1.0, 1.0, 0.0)
    assert not render()[0].any()


def test_the_crop_follows_the_worlds_of_box_and_clip(scene, clip, clip_path, render):
    add_crop(scene, clip)
    clip.matrix_world = Matrix.Translation((0.15, 0.0, 0.05)) @ Matrix.Rotation(0.5, 4, "Z")
    placed = np.array(clip.matrix_world)
    wanted = expected(clip_path, Look(crop=crop_matrix(BOX, placed)), matrices=[placed])
    assert_shows(render(), wanted)


def test_instances_are_cut_like_the_clip_itself(scene, clip, clip_path, render):
    box = add_crop(scene, clip)
    group = bpy.data.collections.new("group")
    for item in (clip, box):
        scene.collection.objects.unlink(item)
        group.objects.link(item)
    empty = bpy.data.objects.new("instance", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    empty.location, empty.rotation_euler = (0.2, 0.1, -0.1), (0.0, 0.0, 0.7)
    scene.collection.objects.link(empty)
    bpy.context.view_layer.update()
    wanted = expected(clip_path, Look(crop=crop_matrix(BOX)), matrices=[empty.matrix_world])
    assert_shows(render(), wanted)


def test_add_crop_box_changes_nothing_until_it_is_moved(scene, clip, clip_path, render):
    clip.matrix_world = Matrix.Translation((0.1, 0.0, 0.0)) @ Matrix.Rotation(0.4, 4, "Z")
    placed = np.array(clip.matrix_world)
    assert bpy.ops.object.peel4d_add_crop_box() == {"FINISHED"}
    box = clip.peel4d.crop_object
    assert box.parent == clip and bpy.context.object == box
    assert_shows(render(), expected(clip_path, matrices=[placed]))
    box.scale.z /= 2
    bpy.context.view_layer.update()
    look = Look(crop=crop_matrix(box.matrix_world, placed))
    assert_shows(render(), expected(clip_path, look, matrices=[placed]))


# Copies


@pytest.fixture
def decoded(monkeypatch):
    """Names of the chunks that were decoded."""
    names = []
    decode = DECODERS["baked"]

    def counted(data, points, sh_degree, where):
        names.append(where)
        return decode(data, points, sh_degree, where)

    monkeypatch.setitem(DECODERS, "baked", counted)
    return names


def test_copies_and_instances_share_what_is_decoded(scene, clip, clip_path, render, decoded):
    bpy.ops.object.duplicate(linked=False)
    copy = bpy.context.object
    copy.location.x += 0.3
    bpy.ops.object.duplicate(linked=True)
    linked = bpy.context.object
    linked.location.y += 0.2
    group = bpy.data.collections.new("group")
    scene.collection.objects.unlink(linked)
    group.objects.link(linked)
    placed = [clip, copy]
    for index in range(2):
        empty = bpy.data.objects.new(f"instance{index}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        empty.location.z = 0.2 * index
        scene.collection.objects.link(empty)
    bpy.context.view_layer.update()
    matrices = [np.array(item.matrix_world) for item in placed]
    for index in range(2):
        matrices.append(np.array(Matrix.Translation((0.0, 0.0, 0.2 * index)) @ linked.matrix_world))
    wanted = expected(clip_path, matrices=matrices)
    decoded.clear()
    SESSION.release()
    assert_shows(render(), wanted)
    assert SESSION.clip_count == 1
    assert len(decoded) == 1, decoded
    render()
    assert len(decoded) == 1, "kept for the next picture"
    scene.frame_set(2)
    render()
    assert len(set(decoded)) == len(decoded), "no frame twice"


def test_copies_have_settings_of_their_own(scene, clip, clip_path, render):
    bpy.ops.object.duplicate()
    copy = bpy.context.object
    assert copy.peel4d.is_clip and copy.peel4d.filepath == clip.peel4d.filepath
    copy.peel4d.exposure = 1.0
    assert clip.peel4d.exposure == 0.0
    clip.hide_render = True
    assert_shows(render(), expected(clip_path, Look(1.0)))


def test_undo_and_redo(scene, clip, clip_path, render):
    bpy.ops.ed.undo_push(message="start")
    bpy.data.objects["blob"].peel4d.exposure = 1.0
    bpy.data.objects["blob"].peel4d.sequence_mode = "REPEAT"
    bpy.ops.ed.undo_push(message="change")
    bpy.ops.ed.undo()
    assert bpy.data.objects["blob"].peel4d.exposure == 0.0
    assert_shows(render(), expected(clip_path))
    bpy.ops.ed.redo()
    restored = bpy.data.objects["blob"].peel4d
    assert (restored.exposure, restored.sequence_mode) == (1.0, "REPEAT")
    assert_shows(render(), expected(clip_path, Look(1.0)))


def test_undo_of_an_import(scene, clip_path):
    bpy.ops.ed.undo_push(message="start")
    bpy.ops.import_scene.peel4d(filepath=str(clip_path))
    bpy.ops.ed.undo_push(message="import")
    bpy.ops.ed.undo()
    assert not [item for item in bpy.data.objects if item.peel4d.is_clip]
    bpy.ops.ed.redo()
    assert bpy.data.objects["blob"].peel4d.is_clip


def test_saving_and_loading_keep_everything(scene, clip, clip_path, tmp_path, render):
    add_crop(scene, clip)
    clip.peel4d.exposure, clip.peel4d.saturation, clip.peel4d.point_density = 0.5, 0.4, 0.6
    blend = str(tmp_path / "scene.blend")
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    bpy.ops.wm.open_mainfile(filepath=blend)
    clip = bpy.data.objects["blob"]
    assert clip.peel4d.crop_object == bpy.data.objects["crop"]
    look = Look(clip.peel4d.exposure, clip.peel4d.saturation, clip.peel4d.point_density)
    look = Look(*look._values()[:3], crop_matrix(BOX))
    assert_shows(render(), expected(clip_path, look))


# Other .blend files


@pytest.fixture
def library(scene, clip, clip_path, tmp_path):
    """A saved .blend file, in a folder of its own, with a clip beside it."""
    folder = tmp_path / "library"
    folder.mkdir()
    shutil.copy(clip_path, folder / "blob.p4d")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "library.blend"))
    clip.peel4d.filepath = "//blob.p4d"
    clip.peel4d.exposure = 0.5
    bpy.ops.wm.save_mainfile()
    return folder / "library.blend"


def into_new_file(library, folder, link):
    """A new .blend file elsewhere with the library's scene camera and clip in it."""
    folder.mkdir()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    for name in ("blob", "cam00"):
        bpy.ops.wm.append(
            filepath=str(library / "Object" / name),
            directory=str(library / "Object") + "/",
            filename=name,
            link=link and name == "blob",
            instance_collections=False,
        )
    scene.camera = bpy.data.objects["cam00"]
    scene.render.engine = "PEEL4D"
    scene.peel4d.samples = "1"
    scene.render.film_transparent = True
    cameras.use_captured_format(scene, scene.camera.data)
    scene.view_layers[0].use_pass_z = True
    return scene, bpy.data.objects["blob"]


def test_appending_keeps_the_file(library, clip_path, tmp_path, render):
    _, clip = into_new_file(library, tmp_path / "shot", link=False)
    assert clip.library is None
    if hasattr(bpy.app.handlers, "blend_import_post"):
        assert clip.peel4d.filepath == "//../library/blob.p4d"
        assert_shows(render(), expected(clip_path, Look(0.5)))
    else:
        assert clip_file.clip_file(clip).missing


def test_linking_finds_the_file_beside_its_library(library, clip_path, tmp_path, render):
    _, clip = into_new_file(library, tmp_path / "shot", link=True)
    assert clip.library is not None
    assert clip_file.clip_path(clip) == str(library.parent / "blob.p4d")
    assert_shows(render(), expected(clip_path, Look(0.5)))
    bpy.context.view_layer.objects.active = clip
    assert not bpy.ops.object.peel4d_relocate_clip.poll()


def test_library_overrides(library, clip_path, other_clip_path, tmp_path, render):
    scene, linked = into_new_file(library, tmp_path / "shot", link=True)
    clip = linked.override_create(remap_local_usages=True)
    if linked.name in scene.collection.objects and scene.collection.objects[0].library:
        scene.collection.objects.unlink(linked)
    assert clip.library is None
    assert_shows(render(), expected(clip_path, Look(0.5)))
    clip.peel4d.exposure = -1.0
    clip.location.z = 0.1
    blend = str(tmp_path / "shot" / "shot.blend")
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=blend)
    clip = next(item for item in bpy.data.objects if item.override_library)
    assert clip.peel4d.exposure == -1.0
    placed = Matrix.Translation((0.0, 0.0, 0.1))
    assert_shows(render(), expected(clip_path, Look(-1.0), matrices=[placed]))
    # A path of its own is beside this file.
    shutil.copy(clip_path, tmp_path / "shot" / "mine.p4d")
    clip.peel4d.filepath = "//mine.p4d"
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=blend)
    clip = next(item for item in bpy.data.objects if item.override_library)
    assert clip_file.clip_path(clip) == str(tmp_path / "shot" / "mine.p4d")


def test_saving_elsewhere_keeps_relative_paths_right(library, tmp_path):
    clip = bpy.data.objects["blob"]
    folder = tmp_path / "elsewhere" / "deep"
    folder.mkdir(parents=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "copy.blend"), copy=True)
    assert clip.peel4d.filepath == "//blob.p4d", "this session goes on where it was"
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "moved.blend"))
    assert clip.peel4d.filepath == "//../../library/blob.p4d"
    for name in ("copy", "moved"):
        bpy.ops.wm.open_mainfile(filepath=str(folder / f"{name}.blend"))
        state = clip_file.clip_file(bpy.data.objects["blob"])
        assert state.path == str(library.parent / "blob.p4d") and not state.problem


# The file


def test_what_the_file_says(clip, clip_path):
    state = clip_file.clip_file(clip)
    assert (state.path, state.problem, state.missing) == (str(clip_path), "", False)
    lines = panels.facts(state.info, state.nbytes)
    assert lines[0] == "5 frames at 25 fps (0.20 s)"
    assert lines[1].startswith("600 points, ") and lines[1].endswith("MB")
    assert state.nbytes == clip_path.stat().st_size
    assert panels.megabytes(49_999) == "50.0 kB" and panels.megabytes(12_345_678) == "12.3 MB"


def test_missing_foreign_and_replaced_files(clip, clip_path, tmp_path):
    path = tmp_path / "own.p4d"
    clip.peel4d.filepath = str(path)
    state = clip_file.clip_file(clip)
    assert state.missing and "missing" in state.problem and state.info is None
    path.write_text("no clip")
    state = clip_file.clip_file(clip)
    assert not state.missing and "own.p4d" in state.problem
    path.unlink()
    shutil.copy(clip_path, path)
    assert not clip_file.clip_file(clip).problem
    clip.peel4d.filepath = ""
    assert clip_file.clip_file(clip).problem == "No file is chosen"


def test_relocating_one_or_all(scene, clip, clip_path, other_clip_path, tmp_path):
    bpy.ops.object.duplicate()
    copy = bpy.context.object
    bpy.ops.object.duplicate()
    third = bpy.context.object
    third.peel4d.filepath = "/elsewhere/other.p4d"
    bpy.context.view_layer.objects.active = clip
    with pytest.raises(RuntimeError, match=r"gone\.p4d"):
        bpy.ops.object.peel4d_relocate_clip(filepath=str(tmp_path / "gone.p4d"))
    assert clip.peel4d.filepath == str(clip_path)
    bpy.ops.object.peel4d_relocate_clip(filepath=str(other_clip_path))
    paths = [item.peel4d.filepath for item in (clip, copy, third)]
    assert paths == [str(other_clip_path)] * 2 + ["/elsewhere/other.p4d"]
    with ClipReader(other_clip_path) as reader:
        bounds = reader.info.bounds
    corners = np.array([vertex.co for vertex in clip.data.vertices])
    np.testing.assert_allclose([corners.min(0), corners.max(0)], bounds, atol=1e-6)
    bpy.ops.object.peel4d_relocate_clip(filepath=str(clip_path), all_objects=False)
    assert [item.peel4d.filepath for item in (clip, copy)] == [str(clip_path), str(other_clip_path)]


def test_relocating_stores_a_relative_path(scene, clip, clip_path, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(clip_path.parent / "beside.blend"))
    bpy.ops.object.peel4d_relocate_clip(filepath=str(clip_path))
    assert clip.peel4d.filepath == "//blob.p4d"


def test_finding_missing_clips(scene, clip, clip_path, tmp_path):
    assert bpy.ops.file.peel4d_find_missing_clips(directory=str(tmp_path)) == {"CANCELLED"}
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for folder in (deep, tmp_path / "z"):
        folder.mkdir(exist_ok=True)
        shutil.copy(clip_path, folder / "take 1.p4d")
    bpy.ops.object.duplicate()
    copy, windows = bpy.context.object, "C:\\shots\\take 1.p4d"
    clip.peel4d.filepath, copy.peel4d.filepath = windows, "/old/place/other.p4d"
    assert bpy.ops.file.peel4d_find_missing_clips(directory=str(tmp_path)) == {"FINISHED"}
    assert clip.peel4d.filepath == str(tmp_path / "z" / "take 1.p4d"), "the nearest"
    assert copy.peel4d.filepath == "/old/place/other.p4d"
    with pytest.raises(RuntimeError, match="no such folder"):
        bpy.ops.file.peel4d_find_missing_clips(directory=str(tmp_path / "none"))


def test_unreadable_folders_are_passed_over(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path)
    (tmp_path / "x.p4d").write_text("")
    found = clip_object.find_files(str(tmp_path), {"x.p4d", "y.p4d"})
    assert found == {"x.p4d": str(tmp_path / "x.p4d")}


# Import of several files, dropped ones included


def test_several_files_at_once(scene, clip_path, other_clip_path, tmp_path):
    for source in (clip_path, other_clip_path):
        shutil.copy(source, tmp_path / source.name)
    names = [{"name": "blob.p4d"}, {"name": "other.p4d"}]
    # What a drop does: it invokes the operator with these.
    done = bpy.ops.import_scene.peel4d("INVOKE_DEFAULT", directory=str(tmp_path), files=names)
    assert done == {"FINISHED"}
    clips = [item for item in bpy.context.selected_objects if item.peel4d.is_clip]
    assert sorted(item.name for item in clips) == ["blob", "other"]
    assert all(item.peel4d.filepath.startswith(str(tmp_path)) for item in clips)


def test_one_bad_file_of_several_leaves_nothing(scene, clip_path, tmp_path):
    shutil.copy(clip_path, tmp_path / "good.p4d")
    (tmp_path / "bad.p4d").write_text("no clip")
    names = [{"name": "good.p4d"}, {"name": "bad.p4d"}]
    with pytest.raises(RuntimeError, match=r"bad\.p4d"):
        bpy.ops.import_scene.peel4d(directory=str(tmp_path), files=names)
    assert not bpy.data.objects


def test_a_file_handler_takes_drops(registered):
    handler = bpy.types.PEEL4D_FH_clip
    assert handler.bl_file_extensions == ".p4d"
    assert handler.bl_import_operator == "import_scene.peel4d"
