# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Captures as rigs of Blender cameras, and back."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from bpy_extras.object_utils import world_to_camera_view
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mathutils import Matrix, Vector

from peel4d.addon import cameras, rig
from peel4d.addon.rig import build, export, poses, preparation
from peel4d.engine.capture.capture import View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.capture.rig_file import RigView, write_rig
from peel4d.engine.errors import CaptureError, PeelError

pytestmark = pytest.mark.blender

SHARED = Path(__file__).resolve().parents[3] / "shared"
#: What the engine reads of other people's rigs. The sizes are not in the files.
FORMATS = [
    ("blender/blender_transforms_train.json", (800, 800)),
    ("dnerf/dnerf_transforms_train_time.json", (800, 800)),
    ("dynamic3dgs/dynamic3dgs_test_meta.json", None),
    ("instant_ngp/instantngp_transforms.json", None),
    ("instant_ngp/instantngp_transforms_backslash.json", None),
    ("easymocap/easymocap_intri_32cam.yml", (1920, 1080)),
]


def import_capture(path, **options):
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(path), **options) == {"FINISHED"}
    return bpy.context.scene.peel4d_rig


def projection_error(scene, capture, frame=0) -> float:
    """Largest distance in pixels between Blender's projection of points and the calibration's."""
    own = scene.peel4d_rig
    rng = np.random.default_rng(frame)
    worst = 0.0
    for index, item in enumerate(own.views):
        camera = capture.camera(frame, index)
        # Where the calibration itself is a rotation only nearly, Blender's is the nearest one.
        R = build.nearest_rotation(camera.R)
        pixels = rng.uniform(0, 1, (12, 2)) * [camera.width, camera.height]
        z = rng.uniform(0.5, 2.0, 12) * max(np.linalg.norm(camera.t), 0.1)
        rays = np.linalg.solve(camera.K, np.column_stack([pixels, np.ones(12)]).T).T
        points = (rays * z[:, None] - camera.t) @ R
        world = np.array(own.root.matrix_world)
        cameras.use_captured_format(scene, item.camera.data)
        for point, pixel in zip(points, pixels, strict=True):
            placed = Vector((world @ [*point, 1.0])[:3])
            x, y, _ = world_to_camera_view(scene, item.camera, placed)
            found = np.array([x * camera.width, (1.0 - y) * camera.height])
            worst = max(worst, float(np.linalg.norm(found - pixel)))
    return worst


@pytest.mark.shared
@pytest.mark.parametrize(("name", "size"), FORMATS)
def test_other_peoples_rigs(scene, name, size):
    path = SHARED / "formats" / name
    if not path.is_file():
        pytest.skip("the shared calibration files are not beside the project")
    try:
        capture = open_capture(path, size=size)
    except CaptureError as error:
        with pytest.raises(RuntimeError, match=str(error)[:30].replace("(", r"\(")):
            bpy.ops.import_scene.peel4d_capture(filepath=str(path), size=size or (0, 0))
        assert not bpy.data.objects
        pytest.skip(f"the file alone is no capture: {error.what}")
    own = import_capture(path, size=size or (0, 0))
    assert [item.name for item in own.views] == [view.name for view in capture.views]
    assert own.frame_count == len(capture.frames) == scene.frame_end
    for frame in {0, len(capture.frames) // 2, len(capture.frames) - 1}:
        scene.frame_set(1 + frame)
        assert projection_error(scene, capture, frame) < 0.25
    assert any(f.severity == "note" and "no images" in f.text for f in own.findings)


@pytest.mark.shared
def test_basketball(scene, basketball):
    own = import_capture(basketball)
    capture = open_capture(basketball)
    assert projection_error(scene, capture) < 0.25
    assert sum(item.test for item in own.views) == 4
    up = np.array(own.root.matrix_world)[:3, :3] @ [0, -1, 0]
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-6)  # estimated, and on an axis
    for item in own.views:
        background = item.camera.data.background_images[0]
        assert Path(background.image.filepath).parent.name == item.name
        assert background.image.source == "SEQUENCE" and background.show_background_image
        assert (item.camera.data.background_images[1].image is None) == (item.masks == 0)
        assert not item.note
    assert bpy.ops.scene.peel4d_rig_check() == {"FINISHED"}
    assert not own.findings


def rig_json(path, K, R, t, size, *, source=None, **changes):
    view = View("view", *size, **changes)
    other = RigView(View("other", *size), np.array(K), np.eye(3), np.array([0.0, 0.0, 4.0]))
    write_rig(path, [RigView(view, np.array(K), R, t), other], source=source)
    return path


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.sampled_from([(1920, 1080), (1080, 1920), (640, 480), (333, 333), (17, 1000)]),
    focal=st.floats(0.25, 30.0),
    aspect=st.floats(0.3, 3.0),
    cx=st.floats(-0.2, 1.2),
    cy=st.floats(-0.2, 1.2),
    scale=st.sampled_from([1.0, 0.001, 37.5]),
    up=st.sampled_from(["AUTO", "X", "-Y", "-Z"]),
    seed=st.integers(0, 1000),
)
def test_intrinsics_and_poses(scene, tmp_path, size, focal, aspect, cx, cy, scale, up, seed):
    """Blender projects where the calibration does, and the cameras read back are the same."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    own_scene = bpy.context.scene
    rng = np.random.default_rng(seed)
    R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    R *= np.sign(np.linalg.det(R))
    width, height = size
    fx = focal * max(size)
    K = [[fx, 0, cx * width], [0, fx / aspect, cy * height], [0, 0, 1]]
    path = rig_json(tmp_path / "peel4d_rig.json", K, R, rng.normal(size=3), size)
    own = import_capture(path, scale=scale, up=up)
    capture = open_capture(path)
    bpy.context.view_layer.update()
    assert projection_error(own_scene, capture) < 0.25
    # Not the shortcut for untouched cameras, Blender's own numbers:
    stands = poses.poses(own_scene, list(own.views), capture, 1)
    for index, (found_K, found_R, found_t) in enumerate(stands):
        np.testing.assert_allclose(found_K[0], capture.K[index], rtol=1e-6, atol=1e-6 * max(size))
        np.testing.assert_allclose(found_R[0], capture.R[index], atol=1e-6)
        length = np.linalg.norm(capture.t[index])
        np.testing.assert_allclose(found_t[0], capture.t[index], atol=1e-6 * length)
    assert not export.edited_views(own_scene)


def test_the_operator_builds_the_rig(scene, ball_capture):
    own = import_capture(ball_capture, frame_start=11, scale=2.0)
    name = f"{ball_capture.name} rig"
    assert name in bpy.data.collections and own.root.name == name
    assert bpy.context.active_object == own.root
    assert len(own.views) == 10 == len(own.root.children)
    assert [item.test for item in own.views] == [False] * 9 + [True]
    assert own.views[9].camera.data.peel4d.train is False
    assert (scene.frame_start, scene.frame_end, scene.frame_current) == (11, 13, 11)
    assert scene.render.fps / scene.render.fps_base == 24
    assert own.root.matrix_world.to_scale()[0] == pytest.approx(2.0)
    assert own.format == "easyvolcap" and own.frame_count == 3
    item = own.views[0]
    assert (item.frames, item.masks, item.is_distorted, item.note) == (3, 3, False, "")
    own.views[2].test = True
    assert own.views[2].camera.data.peel4d.train is False
    own.views[3].enabled = False
    train, test = rig.views_to_reconstruct(scene)
    assert train == ["00", "01", "04", "05", "06", "07", "08"] and test == ["02", "09"]
    assert rig.path_to_reconstruct(scene) == ball_capture


def frame_file(background, scene_frame: int) -> int:
    """The number of the file that Blender shows, by BKE_image_user_frame_get."""
    user = background.image_user
    step = min(max(scene_frame - user.frame_start + 1, 0), user.frame_duration)
    return step + user.frame_offset


def shown_pixels(background, scene_frame: int) -> np.ndarray:
    """What Blender itself loads at a scene frame: (H, W, 3) 0..255, row 0 = top."""
    image = background.image.copy()
    path = Path(bpy.path.abspath(image.filepath))
    digits = len(path.stem)
    image.source = "FILE"
    image.filepath = str(path.with_stem(str(frame_file(background, scene_frame)).zfill(digits)))
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], -1)[::-1, :, :3]
    bpy.data.images.remove(image)
    return pixels * 255


def test_backgrounds_show_the_right_frame(scene, ball_capture):
    own = import_capture(ball_capture, frame_start=5)
    capture = open_capture(ball_capture)
    with ImageReader(capture) as reader:
        for frame in range(3):
            footage, masks = own.views[4].camera.data.background_images
            np.testing.assert_allclose(
                shown_pixels(footage, 5 + frame), reader.image(frame, 4), atol=1.0
            )
            mask = shown_pixels(masks, 5 + frame)[..., 0] > 127
            np.testing.assert_array_equal(mask, reader.mask(frame, 4))
    data = own.views[4].camera.data
    assert data.show_background_images and footage.frame_method == "STRETCH"
    assert (footage.show_background_image, masks.show_background_image) == (True, False)
    own.show = "MASKS"
    assert (footage.show_background_image, masks.show_background_image) == (False, True)
    own.opacity, own.depth = 0.25, "FRONT"
    assert footage.alpha == pytest.approx(0.25) and masks.display_depth == "FRONT"
    own.show = "NONE"
    assert not footage.show_background_image and not masks.show_background_image


def test_footage_with_an_offset_in_its_numbers(scene, ball_capture, tmp_path):
    """Frames 98, 99, 100 of which 99 is missing in one view."""
    root = tmp_path / "late"
    shutil.copytree(ball_capture, root)
    for kind in ("images", "masks"):
        for file in sorted((root / kind).rglob("*.png"), reverse=True):
            file.rename(file.with_stem(f"{int(file.stem) + 98:06d}"))
    (root / "images" / "03" / "000099.png").unlink()
    own = import_capture(root)
    capture = open_capture(root)
    assert capture.frames == (98, 99, 100) and own.first_label == 98
    background = own.views[3].camera.data.background_images[0]
    assert background.image.source == "SEQUENCE"
    assert [frame_file(background, f) for f in (1, 2, 3)] == [98, 99, 100]
    with ImageReader(capture) as reader:
        np.testing.assert_allclose(shown_pixels(background, 3), reader.image(2, 3), atol=1.0)
    assert any("missing" in f.text for f in own.findings)


def bent_capture(ball_capture, folder) -> Path:
    """A rig with the ball's files and a lens that bends, footage of its own."""
    capture = open_capture(ball_capture)
    views = []
    for index in range(2):
        old = capture.views[index]
        view = View(old.name, old.width, old.height, (-0.3, 0.05, 0.0, 0.0))
        own = [[f[n, index].path for n in range(3)] for f in (capture.images, capture.masks)]
        views.append(RigView(view, capture.K[index], capture.R[index], capture.t[index], *own))
    folder.mkdir()
    write_rig(folder / "peel4d_rig.json", views)
    return folder / "peel4d_rig.json"


def test_distorted_footage_is_undistorted(scene, ball_capture, tmp_path):
    pytest.importorskip("cv2", reason="undistorting needs OpenCV")
    path = bent_capture(ball_capture, tmp_path / "bent")
    own = import_capture(path)
    background = own.views[1].camera.data.background_images[0]
    raw = background.image.filepath
    assert str(ball_capture) in raw and own.views[1].is_distorted
    assert own.views[1].note == "Footage: the lens is distorted"
    assert bpy.ops.scene.peel4d_rig_undistort() == {"FINISHED"}
    assert preparation.current() is None and not preparation.last_message()
    assert not own.views[1].note
    assert str(tmp_path / "bent" / preparation.FOLDER_NAME) in background.image.filepath
    with ImageReader(open_capture(path)) as reader:
        difference = shown_pixels(background, 3) - reader.image(2, 1)
        assert np.abs(difference).mean() < 1.0  # JPEG of quality 95
    # The second time, and in another scene, it is there already.
    assert bpy.ops.scene.peel4d_rig_undistort() == {"FINISHED"}
    bpy.ops.wm.read_factory_settings(use_empty=True)
    assert not import_capture(path).views[0].note


def test_undistorting_without_a_python_is_reported(scene, ball_capture, tmp_path, monkeypatch):
    def nothing():
        raise PeelError("no Python with OpenCV was found to undistort the footage with")

    path = bent_capture(ball_capture, tmp_path / "bent")
    own = import_capture(path)
    monkeypatch.setattr(preparation, "_interpreter", nothing)
    bpy.ops.scene.peel4d_rig_undistort()
    assert own.views[0].note and preparation.current() is None


def test_a_process_that_dies_is_reported(scene, ball_capture, tmp_path):
    pytest.importorskip("cv2", reason="undistorting needs OpenCV")
    path = bent_capture(ball_capture, tmp_path / "bent")
    import_capture(path)
    running = preparation.start(scene, open_capture(path), ["00", "01"], None)
    running.process.kill()
    preparation.wait()
    assert "ended" in preparation.last_message() or preparation.last_message()
    running = preparation.start(scene, open_capture(path), ["00"], None)
    preparation.stop()
    assert preparation.current() is None and running.process.wait(5.0)
    assert not bpy.app.timers.is_registered(preparation._poll)


def test_look_through(scene, ball_capture):
    own = import_capture(ball_capture)
    assert bpy.ops.scene.peel4d_rig_look(view="06") == {"FINISHED"}
    assert scene.camera == own.views[6].camera and own.active_view == 6
    assert (scene.render.resolution_x, scene.render.resolution_y) == (96, 96)
    bpy.data.objects.remove(own.views[5].camera)
    with pytest.raises(RuntimeError, match="view '05': has no camera"):
        bpy.ops.scene.peel4d_rig_look(view="05")
    with pytest.raises(RuntimeError, match="view 'x': has no camera"):
        bpy.ops.scene.peel4d_rig_look(view="x")


def test_marks(scene, ball_capture):
    own = import_capture(ball_capture)
    own.views[1].enabled = False
    bpy.ops.scene.peel4d_rig_mark(action="INVERT")
    assert [item.enabled for item in own.views] == [False, True] + [False] * 8
    bpy.ops.scene.peel4d_rig_mark(action="ENABLE")
    bpy.ops.scene.peel4d_rig_mark(action="TRAIN")
    assert all(item.enabled and not item.test for item in own.views)


def test_place(scene, ball_capture):
    own = import_capture(ball_capture)
    far = own.views[0].camera.data.clip_end
    assert bpy.ops.scene.peel4d_rig_place(up="-Y", scale=10.0) == {"FINISHED"}
    matrix = np.array(own.root.matrix_basis)[:3, :3]
    np.testing.assert_allclose(matrix @ [0, -1, 0], [0, 0, 10], atol=1e-5)
    assert own.views[0].camera.data.clip_end == pytest.approx(10 * far)
    bpy.context.view_layer.update()
    assert projection_error(scene, open_capture(ball_capture)) < 0.25
    assert not export.edited_views(scene)  # the rig moved, not its cameras


@pytest.mark.parametrize(("distance", "scale"), [(3000.0, 0.001), (4.0, 1.0), (0.004, 1000.0)])
def test_automatic_scale(scene, tmp_path, distance, scale):
    views = []
    for index, angle in enumerate((0.0, 1.5, 3.0)):
        R = np.array(
            [
                [np.cos(angle), 0, -np.sin(angle)],
                [0, 1, 0],
                [np.sin(angle), 0, np.cos(angle)],
            ]
        )
        K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        views.append(RigView(View(str(index), 100, 80), K, R, np.array([0.0, 0, distance])))
    write_rig(tmp_path / "peel4d_rig.json", views)
    own = import_capture(tmp_path)
    assert own.root.matrix_world.to_scale()[0] == pytest.approx(scale, rel=1e-5)


def test_bad_input_adds_nothing(scene, tmp_path):
    broken = tmp_path / "transforms.json"
    broken.write_text(
        json.dumps(
            {"fl_x": -4, "w": 32, "h": 24,
             "frames": [{"file_path": "a", "transform_matrix": np.eye(4).tolist()}]}
        )
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    before = scene.frame_end
    for path, message in (
        (tmp_path / "nowhere", "no such file"),
        (tmp_path / "empty", "the folder is empty"),
        (broken, "focal length is not a positive number"),
        ("", "no capture was chosen"),
    ):
        with pytest.raises(RuntimeError, match=message):
            bpy.ops.import_scene.peel4d_capture(filepath=str(path))
    assert not bpy.data.objects and not bpy.data.collections and not bpy.data.cameras
    assert not scene.peel4d_rig.views and scene.frame_end == before


def test_import_twice(scene, ball_capture):
    first = import_capture(ball_capture).root
    images = len(bpy.data.images)
    second = import_capture(ball_capture).root
    own = scene.peel4d_rig
    assert own.root == second != first and len(own.views) == 10
    assert all(item.camera.parent == second for item in own.views)
    assert len(first.children) == 10 and len(bpy.data.images) == images


def test_undo(scene, ball_capture):
    bpy.ops.ed.undo_push(message="before")
    import_capture(ball_capture)
    bpy.ops.ed.undo_push(message="imported")
    bpy.context.scene.peel4d_rig.views[0].enabled = False
    bpy.ops.ed.undo_push(message="disabled")
    bpy.ops.ed.undo()
    assert bpy.context.scene.peel4d_rig.views[0].enabled
    assert bpy.context.scene.peel4d_rig.views[0].camera.name in bpy.context.scene.objects
    bpy.ops.ed.undo()
    assert not bpy.context.scene.peel4d_rig.views and not bpy.context.scene.objects
    bpy.ops.ed.redo()
    assert len(bpy.context.scene.peel4d_rig.views) == 10


def test_saving_and_relocating(scene, ball_capture, tmp_path):
    root = tmp_path / "capture"
    shutil.copytree(ball_capture, root)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "rig.blend"))
    import_capture(root)
    assert bpy.context.scene.peel4d_rig.capture_path == "//capture"
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "rig.blend"))
    own = bpy.context.scene.peel4d_rig
    assert len(own.views) == 10 and own.views[3].camera.data.peel4d.view == "03"
    root.rename(tmp_path / "moved")
    with pytest.raises(CaptureError, match="the capture is missing"):
        rig.path_to_reconstruct(bpy.context.scene)
    with pytest.raises(RuntimeError, match="no such file"):
        bpy.ops.scene.peel4d_rig_check()
    assert bpy.ops.scene.peel4d_rig_relocate(filepath=str(tmp_path / "moved")) == {"FINISHED"}
    background = own.views[3].camera.data.background_images[0]
    assert "moved" in background.image.filepath
    assert rig.path_to_reconstruct(bpy.context.scene) == tmp_path / "moved"
    with pytest.raises(RuntimeError, match="no view called"):
        other = rig_json(tmp_path / "o.json", np.diag([9, 9, 1.0]), np.eye(3), [0, 0, 1], (8, 8))
        bpy.ops.scene.peel4d_rig_relocate(filepath=str(other))


def moving_rig(path, frames=5):
    """Two cameras: one travels, turns and zooms, the other one stands."""
    turns = np.linspace(0.2, 3.4, frames)
    R = np.stack([np.array(Matrix.Rotation(a, 3, (0.1, 1.0, 0.3))) for a in turns])
    R = np.stack([build.nearest_rotation(r) for r in R])
    t = np.stack([[0.3 * f, -0.1, 4.0 + f] for f in range(frames)])
    K = np.stack(
        [[[80.0 + 7 * f, 0, 50 + f], [0, 80.0 + 7 * f, 31], [0, 0, 1]] for f in range(frames)]
    )
    views = [
        RigView(View("moving", 100, 60), K, R, t),
        RigView(View("standing", 100, 60), K[0], R[0], t[0]),
    ]
    write_rig(path, views)
    return path


def test_moving_cameras_are_keyframes(scene, tmp_path):
    path = moving_rig(tmp_path / "peel4d_rig.json")
    own = import_capture(path, frame_start=3)
    capture = open_capture(path)
    assert own.frame_count == 5 and scene.frame_end == 7
    for frame in range(5):
        scene.frame_set(3 + frame)
        assert projection_error(scene, capture, frame) < 0.25
    written = export.use_cameras(scene, tmp_path / "again.json")
    again = open_capture(written)
    for name in ("K", "R", "t"):
        expected = getattr(capture, name)
        np.testing.assert_allclose(
            getattr(again, name), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
        )
    assert own.views[1].camera.animation_data is None


def test_a_corrected_camera_is_reconstructed_as_it_stands(scene, ball_capture, tmp_path):
    root = tmp_path / "capture"
    shutil.copytree(ball_capture, root)
    own = import_capture(root, scale=3.0, up="-Y")
    capture = open_capture(root)
    assert rig.path_to_reconstruct(scene) == root
    moved = own.views[2].camera
    moved.location.x += 0.125
    moved.data.lens *= 1.1
    bpy.data.objects.remove(own.views[7].camera)
    own.views[1].test = True
    bpy.context.view_layer.update()
    assert export.edited_views(scene) == ["02", "07"]
    path = rig.path_to_reconstruct(scene)
    assert path == root / "peel4d_rig.json" and Path(own.capture_path) == path
    assert not export.edited_views(scene) and rig.path_to_reconstruct(scene) == path
    again = open_capture(path)
    names = [view.name for view in again.views]
    assert names == ["00", "01", "02", "03", "04", "05", "06", "08", "09"]
    assert [item.name for item in own.views] == names
    assert not again.views[1].train and not again.views[8].train
    for new, name in enumerate(names):
        old = capture.view_index(name)
        assert again.images[1, new] == capture.images[1, old]
        if name == "02":
            centre = again.camera(0, new).centre - capture.camera(0, old).centre
            np.testing.assert_allclose(centre, [0.125, 0, 0], atol=1e-6)
            np.testing.assert_allclose(again.K[new, 0, 0], 1.1 * capture.K[old, 0, 0], rtol=1e-6)
        else:  # untouched ones keep the capture's own digits
            for part in ("K", "R", "t"):
                np.testing.assert_array_equal(
                    getattr(again, part)[new], getattr(capture, part)[old]
                )
    # Corrected once more, it still takes its footage from the capture itself.
    moved.location.y -= 0.25
    bpy.context.view_layer.update()
    rig.path_to_reconstruct(scene)
    third = open_capture(path)
    assert json.loads(path.read_text())["source"] == "."
    difference = third.camera(0, 2).centre - again.camera(0, 2).centre
    np.testing.assert_allclose(difference, [0, -0.25, 0], atol=1e-6)


def test_a_rig_built_in_blender(scene, ball_capture, tmp_path):
    """Cameras of the user's own, with every sensor fit, and footage as their backgrounds."""
    capture = open_capture(ball_capture)
    scene.render.resolution_x = scene.render.resolution_y = 96
    built = []
    for index, fit in enumerate(("AUTO", "HORIZONTAL", "VERTICAL")):
        camera = bpy.data.objects.new(f"mine {index}", bpy.data.cameras.new("mine"))
        scene.collection.objects.link(camera)
        R, t = capture.R[index], capture.t[index]
        camera.matrix_world = Matrix(cameras.camera_to_world(R, t).tolist())
        camera.data.sensor_fit = fit
        camera.data.sensor_width, camera.data.sensor_height = 36.0, 24.0
        camera.data.lens = 1.4 * (24.0 if fit == "VERTICAL" else 36.0)
        for files in (capture.images, capture.masks):
            background = camera.data.background_images.new()
            background.image = bpy.data.images.load(str(files[0, index].path))
            background.image.source = "SEQUENCE"
            background.image_user.frame_start = 1
            background.image_user.frame_duration = 3
            background.image_user.frame_offset = -1
        built.append(camera)
    with pytest.raises(RuntimeError, match="at least two"):
        bpy.ops.scene.peel4d_rig_from_cameras()
    for camera in built:
        camera.select_set(True)
    assert bpy.ops.scene.peel4d_rig_from_cameras() == {"FINISHED"}
    own = scene.peel4d_rig
    assert own.frame_count == 3 and not own.capture_path
    path = tmp_path / "peel4d_rig.json"
    assert bpy.ops.scene.peel4d_rig_use_cameras(filepath=str(path)) == {"FINISHED"}
    assert own.capture_path == str(path)
    again = open_capture(path)
    assert [view.name for view in again.views] == ["mine 0", "mine 1", "mine 2"]
    np.testing.assert_allclose(again.up, [0, 0, 1])
    for index in range(3):
        np.testing.assert_allclose(again.K[index], capture.K[index], rtol=1e-6)
        np.testing.assert_allclose(again.R[index], capture.R[index], atol=1e-6)
        np.testing.assert_allclose(again.t[index], capture.t[index], atol=1e-5)
    assert {key: file.path for key, file in again.images.items()} == {
        (f, v): file.path for (f, v), file in capture.images.items() if v < 3
    }
    assert len(again.masks) == 9


def test_a_sheared_camera_is_refused(scene, ball_capture, tmp_path):
    own = import_capture(ball_capture)
    camera = own.views[0].camera
    camera.scale = (1.0, 2.0, 1.0)  # its own scale means nothing
    bpy.context.view_layer.update()
    export.use_cameras(scene, tmp_path / "fine.json")
    holder = bpy.data.objects.new("holder", None)
    scene.collection.objects.link(holder)
    holder.scale = (1.0, 1.0, 2.0)
    camera.parent = holder
    bpy.context.view_layer.update()
    path = own.capture_path
    with pytest.raises(RuntimeError, match="sheared"):
        bpy.ops.scene.peel4d_rig_use_cameras(filepath=str(tmp_path / "bad.json"))
    assert own.capture_path == path and not (tmp_path / "bad.json").exists()


def test_the_file_handler_takes_calibrations(scene):
    handler = bpy.types.PEEL4D_FH_capture
    assert handler.bl_import_operator == "import_scene.peel4d_capture"
    assert handler.bl_file_extensions == ".json;.yml;.yaml"


def test_a_ball_in_the_scene_covers_the_ball_in_the_footage(scene, ball_capture, render_png):
    """Cameras and footage agree, as a picture: Workbench's silhouette against the masks."""
    own = import_capture(ball_capture, up="-Y", scale=3.0)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=96, ring_count=48, radius=0.6)
    ball = bpy.context.active_object
    ball.parent = own.root
    scene.render.engine = "BLENDER_WORKBENCH"
    with ImageReader(open_capture(ball_capture)) as reader:
        for view in ("00", "03"):
            bpy.ops.scene.peel4d_rig_look(view=view)
            covered = render_png()[..., 3] > 0.5
            mask = reader.mask(0, int(view))
            # Only pixels that the rim passes through may differ.
            assert (covered & mask).sum() > 0.985 * (covered | mask).sum()
            assert mask.sum() > 400


def test_the_panels_name_icons_that_exist():
    """A wrong one shows in a window only, where the panel then ends in the middle."""
    source = Path(build.__file__).with_name("panel.py").read_text()
    known = bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys()
    used = set(re.findall(r'icon="([A-Z_0-9]+)"', source))
    assert len(used) > 5 and used <= set(known)


def write_movie(path: Path, levels, size=(64, 48)) -> None:
    """Grey frames of these levels, H.264."""
    av = pytest.importorskip("av", reason="writing movies needs PyAV")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for level in levels:
            pixels = np.full((size[1], size[0], 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_movies_are_read_without_pyav(scene, ball_capture, tmp_path, monkeypatch):
    """Blender has no PyAV, but a decoder of its own."""
    from peel4d.engine.capture import video

    for name in ("intri.yml", "extri.yml"):
        shutil.copy(ball_capture / name, tmp_path)
    for view in range(10):
        write_movie(tmp_path / "videos" / f"{view:02d}.mp4", range(30, 230, 20), (96, 96))
    expected = video.video_info(tmp_path / "videos" / "04.mp4")
    monkeypatch.setattr(video, "_av", lambda: (_ for _ in ()).throw(CaptureError("no PyAV")))
    assert video.video_info(tmp_path / "videos" / "04.mp4") == expected
    assert expected.frames == 10 and not bpy.data.movieclips
    own = import_capture(tmp_path, frame_start=5)
    assert own.frame_count == 10 and own.fps == 25 and own.views[4].frames == 10
    background = own.views[4].camera.data.background_images[0]
    assert background.image.source == "MOVIE"
    user = background.image_user
    assert (user.frame_start, user.frame_duration, user.frame_offset) == (5, 10, 0)
    assert not own.views[4].note
    (tmp_path / "videos" / "04.mp4").write_bytes(b"no movie")
    with pytest.raises(CaptureError, match=r"04\.mp4: cannot be opened as a video"):
        video.video_info(tmp_path / "videos" / "04.mp4")
    assert not bpy.data.movieclips
