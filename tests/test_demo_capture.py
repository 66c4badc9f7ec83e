"""The demo capture, rendered by Cycles at its smallest, is what its calibration says it is."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bpy", reason="the demo capture is rendered with bpy")
pytest.importorskip("cv2", reason="reading images needs OpenCV")
pytestmark = pytest.mark.blender

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPT = EXAMPLES / "make_demo_capture.py"
# The flat plate of the music box, in demo_scene.py: height and radii between which it is plain.
PLATE_Z, PLATE_INNER, PLATE_OUTER = 0.276, 0.16, 0.34


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "capture"
    done = run(out, "--quick")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def reader(folder):
    return opened(folder)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "room"
    done = run(out, "--scene", "room", "--quick")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 10, "Blender's own lines are printed"
    return opened(out)


def opened(folder: Path) -> tuple:
    from peel4d.engine.capture.detect import open_capture
    from peel4d.engine.capture.images import ImageReader

    capture = open_capture(folder)
    return capture, ImageReader(capture)


def world_points(camera, depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) -> world points (H, W, 3), through the centres of the pixels."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    x = (u - camera.K[0, 2]) / camera.K[0, 0] * depth
    y = (v - camera.K[1, 2]) / camera.K[1, 1] * depth
    return (np.stack([x, y, depth], axis=-1) - camera.t) @ camera.R


def test_opens_as_a_capture_with_held_out_views(reader):
    capture, _ = reader
    assert capture.format == "easyvolcap"
    assert len(capture.frames) == 2 and capture.presence.all()
    assert [view.name for view in capture.views if not view.train] == ["05"]
    assert {(view.width, view.height) for view in capture.views} == {(96, 96)}
    assert capture.fps == 24
    assert np.allclose(capture.up, [0, 0, 1])
    assert len(capture.masks) == len(capture.depths) == 12


def test_subject_fills_the_image_without_touching_its_border(reader):
    capture, images = reader
    for frame, view in np.ndindex(2, len(capture.views)):
        mask, depth = images.mask(frame, view), images.depth(frame, view)
        assert mask.mean() >= 0.15
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
        # Depth is a sample at the pixel's centre: on thin parts it may miss what the mask has.
        assert not (depth[~mask] > 0).any()
        assert (depth[mask] > 0).mean() > 0.9
        assert images.image(frame, view)[mask].mean() > 40
    assert np.abs(images.image(0, 0).astype(int) - images.image(1, 0)).max() > 50, "nothing moves"


def test_depth_is_the_planar_z_of_known_geometry(reader):
    """The plate is the plane z = 0.276 m and never moves out of it: exact to the millimetre steps
    of the file. Distances along the ray would be wrong by up to 2 %, 70 mm."""
    capture, images = reader
    checked = 0
    for view in range(len(capture.views)):
        camera, depth = capture.camera(0, view), images.depth(0, view)
        slope = (world_points(camera, np.ones_like(depth)) - camera.centre)[..., 2]
        with np.errstate(divide="ignore"):
            z = (PLATE_Z - camera.centre[2]) / slope
        radius = np.linalg.norm(world_points(camera, z)[..., :2], axis=-1)
        plate = (z > 0) & (radius > PLATE_INNER) & (radius < PLATE_OUTER) & (depth > 0)
        assert (depth[plate] <= z[plate] + 0.6e-3).all(), "something lies below the plate"
        visible = plate & (np.abs(depth - z) < 0.6e-3)
        checked += visible.sum()
        if capture.camera(0, view).centre[2] > 2:
            assert visible.sum() > 0.4 * plate.sum()
    assert checked > 500


def interpolate(depth: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Bilinear depth at pixels (n, 2); NaN beside holes and across steps of more than 3 cm."""
    x, y = (pixels - 0.5).T
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    corners = np.stack([depth[row + i, column + j] for i in (0, 1) for j in (0, 1)])
    smooth = (corners > 0).all(axis=0) & (np.ptp(corners, axis=0) < 0.03)
    fx, fy = x - column, y - row
    weights = np.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])
    return np.where(smooth, (weights * corners).sum(axis=0), np.nan)


def surfaces_agree(reader, frame: int, *, all_in_sight: bool, thin: float) -> int:
    """Carry the depth of every view into its neighbours, where it must be theirs to a millimetre.

    Returns how many pixels agreed. all_in_sight: the other image shows everything. thin: the share
    of pixels on parts so thin that the other image misses them.
    """
    capture, images = reader
    agreeing = 0
    for a, b in np.ndindex(len(capture.views), len(capture.views)):
        first, second = capture.camera(frame, a), capture.camera(frame, b)
        # Cameras further apart than this hardly share a surface.
        if a == b or first.forward @ second.forward < np.cos(np.radians(60)):
            continue
        depth = images.depth(frame, a)
        pixels, z = second.project(world_points(first, depth)[depth > 0])
        last = np.array([second.width, second.height]) - 1
        inside = ((pixels > 1) & (pixels < last)).all(axis=1)
        assert inside.all() or not all_in_sight, "the subject leaves the other image"
        difference = z[inside] - interpolate(images.depth(frame, b), pixels[inside])
        same = np.abs(difference) < 0.015
        agreeing += same.sum()
        assert np.median(np.abs(difference[same])) < 1e-3
        assert np.nanmean(difference < -0.015) < thin
    return agreeing


def test_views_agree_on_where_the_surface_is(reader):
    """The depth of a view, carried into a neighbour, is the neighbour's depth to a millimetre,
    a tenth of the quick capture's pixel; nothing floats in front of what the neighbour sees."""
    assert surfaces_agree(reader, 1, all_in_sight=True, thin=0.005) > 3000


def test_the_room_opens_without_warnings(room):
    from peel4d.engine.capture.health import examine

    capture, _ = room
    assert len(capture.views) == 6 and [v.name for v in capture.views if not v.train] == ["05"]
    assert {(view.width, view.height) for view in capture.views} == {(96, 54)}
    assert [f for f in examine(capture) if f.severity != "note"] == []


def test_the_room_is_seen_everywhere_and_the_bird_in_its_mask(room):
    capture, images = room
    for frame, view in np.ndindex(2, len(capture.views)):
        mask, depth = images.mask(frame, view), images.depth(frame, view)
        assert 0.03 < mask.mean() < 0.3
        assert (depth > 0).mean() > 0.9, "more than the window has no depth"
        # The bird stands before the room.
        assert np.median(depth[mask]) < np.median(depth[~mask & (depth > 0)]) - 0.3
        picture = images.image(frame, view)
        assert 60 < picture.mean() < 180 and (picture == 255).all(axis=-1).mean() < 0.1


def test_the_back_wall_is_where_it_was_built(room):
    """Most of what is farthest away lies on the plane y = 1.9 m (or on a picture 2 cm before)."""
    capture, images = room
    for view in range(len(capture.views)):
        depth = images.depth(0, view)
        y = world_points(capture.camera(0, view), depth)[..., 1][depth > 0]
        assert y.max() < 1.9 + 1.5e-3
        assert (y > 1.9 - 1.5e-3).mean() > 0.1


def test_only_the_bird_and_its_shadow_move(room):
    """Light is baked: what does not move keeps its brightness, to what is left of the noise of 4
    samples in the mean of 7 x 7 pixels."""
    import cv2

    _, images = room
    first, second = (cv2.blur(images.image(frame, 1), (7, 7)).astype(float) for frame in (0, 1))
    moving = images.mask(0, 1) | images.mask(1, 1)
    difference = np.abs(first - second).max(axis=-1)
    assert np.median(difference[~moving]) < 5 < 8 < np.percentile(difference[moving], 90)


def test_views_of_the_room_agree_on_where_its_surfaces_are(room):
    assert surfaces_agree(room, 1, all_in_sight=False, thin=0.01) > 3000


def test_projection_matches_blender(folder, reader):
    """K, R, t against Blender's own projection, in a process that has the scene."""
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, bpy\n"
        "from demo_rig import rig, fitted_camera\n"
        "from demo_scene import build_scene\n"
        "from demo_studio import blender_camera, projection_error, subject_points\n"
        "points = subject_points(build_scene(), np.array([0.0, 0.25]))\n"
        "scene = bpy.context.scene\n"
        "scene.render.resolution_x = scene.render.resolution_y = 384\n"
        "worst, off = 0.0, 0.0\n"
        "for view in rig():\n"
        "    camera = fitted_camera(view, points, 384, 384)\n"
        "    placed = blender_camera(view.name, camera)\n"
        "    bpy.context.view_layer.update()\n"
        "    worst = max(worst, projection_error(scene, placed, camera, points[::1500]))\n"
        "    off = max(off, abs(camera.K[0, 2] - 192), abs(camera.K[1, 2] - 192))\n"
        "print('RESULT', json.dumps([worst, off]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLES)], capture_output=True, text=True, check=True
    )
    worst, off = json.loads(done.stdout.split("RESULT")[1])
    assert worst < 0.01
    assert off > 1, "all principal points are centred: their sign is not tested"


def test_noise_and_spacing_are_reported(folder):
    card = json.loads((folder / "demo.json").read_text())
    assert (
        15 < card["noise_floor_db"]["train"]["mean"] < card["noise_floor_db"]["test"]["mean"] < 60
    )
    assert card["coverage"]["min"] >= 0.15


@pytest.mark.parametrize("name", ["demo_rig.rig", "room_rig.room_rig"])
def test_test_cameras_of_the_full_rig_keep_their_distance(name):
    module, function = name.split(".")
    sys.path.insert(0, str(EXAMPLES))
    try:
        from demo_rig import spacing

        views = getattr(importlib.import_module(module), function)()
    finally:
        sys.path.remove(str(EXAMPLES))
    angles = spacing(views)
    assert len(angles.train) >= 16 and len(angles.test) >= 3
    assert angles.test.min() >= 0.5 * angles.train.max()
    assert angles.held_out_far_enough


def test_the_room_is_filmed_from_its_front_and_tested_between():
    """60 to 70 degrees from end to end; every test camera has training cameras on all sides."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from room_rig import room_camera, room_rig
    finally:
        sys.path.remove(str(EXAMPLES))
    views = room_rig()
    azimuth = np.array([view.azimuth for view in views if view.train])
    assert 60 <= np.ptp(azimuth) <= 70 and abs(azimuth.mean() + 90) < 1
    for view in views:
        others = np.array([[v.azimuth, v.elevation] for v in views if v.train])
        offset = others - (view.azimuth, view.elevation)
        if not view.train:
            quadrants = {(a > 0, b > 0) for a, b in offset[np.abs(offset).max(axis=1) < 20]}
            assert len(quadrants) == 4, view.name
    cameras = [room_camera(view, np.empty((0, 3)), 480, 270) for view in views]
    assert len({round(camera.K[0, 0]) for camera in cameras}) > 12
    centre = np.array([camera.K[:2, 2] for camera in cameras]) - (240, 135)
    assert 2 < np.abs(centre).max() <= 12 and np.ptp(centre, axis=0).min() > 5


def test_a_second_run_finds_it_and_changed_parameters_do_not(folder, tmp_path):
    before = (folder / "demo.json").stat().st_mtime_ns
    again = run(folder, "--quick")
    assert again.returncode == 0 and "up to date" in again.stdout
    assert (folder / "demo.json").stat().st_mtime_ns == before
    copy = tmp_path / "capture"
    shutil.copytree(folder, copy)
    fewer = run(copy, "--quick", "--frames", 1, "--views", "00", "05")
    assert fewer.returncode == 0 and "rendered" in fewer.stdout, fewer.stderr
    assert sorted(p.name for p in (copy / "images").iterdir()) == ["00", "05"]
    assert [p.name for p in tmp_path.iterdir()] == ["capture"], "temporary folders are left behind"


def test_an_interrupted_run_goes_on(folder, tmp_path):
    out = tmp_path / "capture"
    card = json.loads((folder / "demo.json").read_text())
    part = tmp_path / f".capture.{card['key']}.part"
    part.mkdir()
    shots = [{"view": "00", "frame": 0, "coverage": 0.2, "train": True, "noise": None}]
    (part / "frame000000.json").write_text(json.dumps({"shots": shots, "cpu_seconds": 1000.0}))
    done = run(out, "--quick")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "demo.json").read_text())["cpu_seconds"] > 1000
    assert not (out / "images" / "00" / "000000.png").exists(), "frame 0 was rendered again"
    assert (out / "images" / "00" / "000001.png").exists()


def test_ctrl_c_ends_cleanly_in_the_middle_of_a_render(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path / "capture"), "--size", "128"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            if next(tmp_path.glob(".capture.*.part/depth/*/*.png"), None):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run it again to go on" in errors and "Traceback" not in errors
    assert not (tmp_path / "capture").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--views", "77"], "no view called '77'"),
        (["--quick", "--frames", "0"], "--frames"),
    ],
)
def test_bad_arguments_are_explained(tmp_path, arguments, message):
    done = run(tmp_path / "capture", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    done = run(tmp_path, "--quick")
    assert done.returncode == 2 and "not a demo capture" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "important"
