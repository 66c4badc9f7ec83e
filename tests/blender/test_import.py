# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Import of a `.p4d`, registration, and the panels."""

import subprocess
import sys

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")

import peel4d
from peel4d.addon import cameras, import_clip
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats

pytestmark = pytest.mark.blender


def small_clip(path, *, up=None, camera_up=None, fps=30.0, skew=0.0):
    """Two points; optionally cameras whose upward direction is `camera_up` or nearly so."""
    points = Splats.from_colors([[0, 0, 0], [1, 2, 3]], [0.1, 0.1], [1, 1], [[1, 0, 0], [0, 1, 0]])
    views = []
    if camera_up is not None:
        for angle in (0.0, 1.0, 2.5):
            down = -np.asarray(camera_up, dtype=float)
            side = np.roll(down, 1)
            forward = np.cos(angle) * side + np.sin(angle) * np.cross(down, side)
            forward = forward + 0.3 * down
            forward /= np.linalg.norm(forward)
            right = np.cross(down, forward)
            right /= np.linalg.norm(right)
            R = np.stack([right, np.cross(forward, right), forward])
            K = np.array([[50.0, skew, 32], [0, 50, 24], [0, 0, 1]])
            views.append(ClipCamera(f"v{angle}", K, R, [0, 0, 5], 64, 48))
    write_clip(path, [points] * 3, fps=fps, cameras=views, settings=PeelSettings(),
               up=up)  # fmt: skip
    return path


def test_the_operator_builds_the_scene(scene, clip_path):
    scene.render.engine = "CYCLES"
    assert bpy.ops.import_scene.peel4d(
        filepath=str(clip_path), frame_start=11.0, set_frame_rate=True
    ) == {"FINISHED"}
    clip = bpy.context.active_object
    assert clip.name == "blob" and clip.select_get()
    assert clip.peel4d.is_clip and clip.peel4d.filepath == str(clip_path)
    assert (scene.frame_start, scene.frame_end) == (11, 15)
    assert scene.render.fps == 25 and scene.render.fps_base == 1.0
    assert scene.render.engine == "PEEL4D"
    assert scene.camera.data.peel4d.view == "cam00"
    children = {child.data.peel4d.view: child for child in clip.children}
    assert sorted(children) == ["cam00", "cam01", "cam02"]
    assert [children[name].data.peel4d.train for name in sorted(children)] == [True, False, True]
    corners = np.array([corner[:] for corner in clip.bound_box])
    with import_clip.ClipReader(clip_path) as reader:
        bounds = reader.info.bounds
    np.testing.assert_allclose([corners.min(0), corners.max(0)], bounds, atol=1e-6)
    assert not clip.data.polygons and len(clip.data.edges) == 12


def test_options_leave_the_scene_alone(scene, clip_path):
    before = (scene.frame_start, scene.frame_end, scene.render.fps, scene.render.engine)
    imported = import_clip.import_clip(
        scene, scene.collection, clip_path, cameras=False, set_frame_range=False
    )
    assert (scene.frame_start, scene.frame_end, scene.render.fps, scene.render.engine) == before
    assert scene.camera is None
    assert not imported.cameras and not imported.clip.children


def test_a_fractional_frame_rate(scene, tmp_path):
    path = small_clip(tmp_path / "ntsc.p4d", fps=30000 / 1001)
    import_clip.import_clip(scene, scene.collection, path, set_frame_rate=True)
    assert scene.render.fps == 30
    assert scene.render.fps / scene.render.fps_base == pytest.approx(30000 / 1001, rel=1e-6)


@pytest.mark.parametrize(
    ("stated", "camera_up", "option", "axis"),
    [
        (None, None, "AUTO", (0, 0, 1)),
        ((0, -1, 0), None, "AUTO", (0, -1, 0)),
        ((0, 3, 4), (0, -1, 0), "AUTO", (0, 0.6, 0.8)),
        (None, (0, -1, 0), "AUTO", (0, -1, 0)),
        (None, (1, 0, 0), "AUTO", (1, 0, 0)),
        ((0, -1, 0), (0, -1, 0), "Y", (0, 1, 0)),
        (None, None, "-Z", (0, 0, -1)),
    ],
)
def test_up_becomes_z(scene, tmp_path, stated, camera_up, option, axis):
    path = small_clip(tmp_path / "up.p4d", up=stated, camera_up=camera_up)
    clip = import_clip.import_clip(scene, scene.collection, path, up=option).clip
    matrix = np.array(clip.matrix_basis)
    np.testing.assert_allclose(matrix[:3, :3] @ axis, (0, 0, 1), atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-6)


def test_relative_path_of_a_saved_scene(scene, clip_path, tmp_path):
    blend = clip_path.parent / "beside.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    bpy.ops.import_scene.peel4d(filepath=str(clip_path))
    assert bpy.context.active_object.peel4d.filepath == "//blob.p4d"
    bpy.ops.import_scene.peel4d(filepath=str(clip_path), relative_path=False)
    assert bpy.context.active_object.peel4d.filepath == str(clip_path)


def test_bad_files_are_refused_and_leave_nothing(scene, tmp_path):
    foreign = tmp_path / "foreign.p4d"
    foreign.write_text("this is no clip")
    for path in (foreign, tmp_path / "missing.p4d"):
        with pytest.raises(RuntimeError, match=path.name):
            bpy.ops.import_scene.peel4d(filepath=str(path))
        with pytest.raises(ClipError):
            import_clip.import_clip(scene, scene.collection, path)
    assert not bpy.data.objects and not bpy.data.collections


def test_skew_is_a_warning(scene, tmp_path):
    path = small_clip(tmp_path / "skew.p4d", camera_up=(0, 0, 1), skew=1.0)
    warnings = import_clip.import_clip(scene, scene.collection, path).warnings
    assert len(warnings) == 1 and "v0.0" in warnings[0]


def test_the_clip_survives_saving(scene, clip_path, tmp_path):
    imported = import_clip.import_clip(scene, scene.collection, clip_path, frame_start=4)
    imported.clip.peel4d.sequence_mode = "PING_PONG"
    scene.peel4d.layers = 7
    cameras.use_captured_format(scene, imported.cameras["cam01"].data)
    blend = tmp_path / "saved.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    clip = bpy.data.objects["blob"].peel4d
    assert (clip.is_clip, clip.frame_start, clip.sequence_mode) == (True, 4.0, "PING_PONG")
    assert bpy.context.scene.peel4d.layers == 7
    assert bpy.data.cameras["cam01"].peel4d.height == 64
    assert bpy.context.scene.render.engine == "PEEL4D"


def test_unregistering_leaves_nothing_behind(scene):
    """Panels of Blender's own, handlers, menu and properties are as before."""

    def marked():
        return {
            panel.__name__
            for panel in bpy.types.Panel.__subclasses__()
            if "PEEL4D" in getattr(panel, "COMPAT_ENGINES", ())
        }

    with_peel4d = marked()
    assert {"RENDER_PT_format", "RENDER_PT_frame_range", "DATA_PT_lens"} <= with_peel4d
    assert "RENDER_PT_freestyle" not in with_peel4d
    peel4d.unregister()
    peel4d.unregister()  # Blender may ask again at its end
    try:
        assert not {name for name in marked() if not name.startswith("PEEL4D")}
        assert not hasattr(bpy.types.Object, "peel4d")
        assert not hasattr(bpy.types, "import_scene_OT_peel4d")
        scene.render.engine = "CYCLES"
        with pytest.raises(TypeError, match="PEEL4D"):
            scene.render.engine = "PEEL4D"
    finally:
        peel4d.register()
    assert marked() == with_peel4d
    scene.render.engine = "PEEL4D"


def test_a_script_that_registers_ends(clip_path):
    """bpy 4.5 hangs at exit, 4.2 crashes, while a Python render engine is still registered."""
    script = (
        "import sys, bpy, peel4d; peel4d.register();"
        "bpy.ops.import_scene.peel4d(filepath=sys.argv[1]);"
        "bpy.context.scene.render.resolution_percentage = 10;"
        "bpy.ops.render.render()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(clip_path)], timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
