"""Simulated depth cameras have the noise, the steps and the holes that their sources state."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="the simulation filters with OpenCV")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
try:
    from depth_sensor import (
        KINECT,
        TIME_OF_FLIGHT,
        axial_sigma,
        degrade,
        discontinuity,
        incidence,
        projector_shadow,
        quantized,
    )
finally:
    sys.path.remove(str(EXAMPLES))

SHAPE = (240, 320)
K = np.array([[580.0, 0, 160], [0, 580, 120], [0, 0, 1]])
GREY = np.full((*SHAPE, 3), 160, np.uint8)


def plane(distance: float, slope: float = 0.0) -> np.ndarray:
    """Depth of the plane z = distance + slope x."""
    u = (np.arange(SHAPE[1]) + 0.5 - K[0, 2]) / K[0, 0]
    return np.broadcast_to(distance / (1 - slope * u), SHAPE).astype(np.float32)


def measure(depth, sensor, image=GREY, seed=0):
    return degrade(depth, image, K, sensor, np.random.default_rng(seed))


@pytest.mark.parametrize("sensor", [KINECT, TIME_OF_FLIGHT])
@pytest.mark.parametrize("distance", [1.0, 2.0, 4.0])
def test_noise_on_a_wall_grows_with_the_square_of_the_distance(sensor, distance):
    """The published curve, and on top the variance of a step, step^2 / 12. 5 % are three standard
    deviations of the estimate from 40,000 sensor pixels, doubled for grains of 1.15 pixels."""
    depth = plane(distance)
    error = measure(depth, sensor) - depth
    constant, quadratic, nearest = sensor.axial
    sigma = constant + quadratic * (distance - nearest) ** 2
    step = distance**2 / (580 * 0.075 * 8) if sensor.steps else 0.0
    assert (error > -depth).all(), "a bright wall has holes"
    assert np.isclose(error.std(), np.sqrt(sigma**2 + step**2 / 12), rtol=0.05)
    assert abs(error.mean()) < 0.1 * sigma + 0.02 * step


def test_kinect_noise_is_the_published_curve():
    """Nguyen et al. 2012: 1.9 mm at 1 m and 14 mm at 3 m for a wall seen head on; more aslant."""

    def at(z: float, degrees: float) -> float:
        return float(axial_sigma(np.array(z), np.radians(degrees), KINECT))

    assert np.isclose(at(1.0, 20), 0.0012 + 0.0019 * 0.36)
    assert np.isclose(at(3.0, 20), 0.0012 + 0.0019 * 6.76)
    assert at(1.0, 80) > at(1.0, 70) > at(1.0, 20)


def test_kinect_depth_comes_in_steps_of_an_eighth_of_a_pixel_of_disparity():
    z = quantized(np.linspace(0.8, 4.0, 20000), KINECT)
    disparity = 580 * 0.075 / z
    assert np.abs(disparity * 8 - np.rint(disparity * 8)).max() < 1e-6
    near, far = np.unique(z)[:2], np.unique(z)[-2:]
    assert 0.001 < np.diff(near)[0] < 0.0025 and 0.04 < np.diff(far)[0] < 0.05
    assert quantized(np.zeros(3), KINECT).max() == 0


@pytest.mark.parametrize("slope", [0.0, 0.5, 2.0])
def test_incidence_is_the_angle_to_the_line_of_sight(slope):
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    ray = np.stack([(u - 160) / 580, (v - 120) / 580, np.ones(SHAPE)], axis=-1)
    normal = np.array([slope, 0, -1]) / np.hypot(slope, 1)
    exact = np.abs(ray @ normal) / np.linalg.norm(ray, axis=-1)
    inner = (slice(2, -2), slice(2, -2))
    assert np.allclose(incidence(plane(2.0, slope), K)[inner], exact[inner], atol=0.01)


def test_what_the_projector_does_not_reach_is_missing():
    """A board 1 m before a wall shadows f b (1/z1 - 1/z2) pixels of it, on the side away from the
    projector, which stands on the right."""
    depth = plane(3.0).copy()
    depth[60:180, 120:200] = 2.0
    shadow = projector_shadow(depth, K, 0.075)
    width = 580 * 0.075 * (1 / 2 - 1 / 3)
    assert not shadow[:60].any() and not shadow[60:180, 120:].any()
    assert np.abs(shadow[60:180].sum(axis=1) - width).max() <= 1.5
    assert shadow[120, 118] and not shadow[120, 110]
    assert not projector_shadow(depth, K, 0.0).any()


def test_dark_and_grazing_surfaces_and_highlights_are_holes_in_patches():
    image = GREY.copy()
    image[:, :80] = 8
    image[:, 240:] = 255
    lost = measure(plane(2.0), KINECT, image) == 0
    assert lost[:, 5:75].mean() > 0.9 and lost[:, 245:].mean() > 0.99
    assert lost[:, 85:235].mean() < 0.01
    image[:, :] = 36  # half of the signal that is always enough
    lost = measure(plane(2.0), KINECT, image) == 0
    assert 0.35 < lost.mean() < 0.65
    neighbours = (lost[:, 1:] == lost[:, :-1]).mean()
    assert neighbours > 0.75, "holes are dust"
    grazing = measure(plane(2.0, 12.0), KINECT) == 0
    assert grazing[:, 200:].mean() > 0.8


def board(sensor, seed=0):
    """A board before a wall, with nothing lost and no noise but that of the edges."""
    depth = plane(3.0).copy()
    depth[60:180, 120:200] = 2.0
    quiet = replace(sensor, axial=(0.0, 0.0, 0.0), baseline=0.0, steps=0.0, lost=0.0)
    return depth, measure(depth, quiet, seed=seed)


def test_kinect_edges_are_ragged_but_stay_where_they_are():
    depth, measured = board(KINECT)
    moved = np.abs(measured - depth) > 0.5
    assert 0.02 < moved[60:180, 110:130].mean() < 0.5
    # 3 px are 3.75 standard deviations of the jitter.
    inner, outer = moved[70:170, 124:196], np.concatenate([moved[:, :116], moved[:, 204:]], axis=1)
    assert not inner.any() and not outer.any()
    near = (measured < 2.5).sum() / (depth < 2.5).sum()
    assert 0.97 < near < 1.03, "the board grows or shrinks"
    assert np.isin(np.round(np.unique(measured), 3), [2.0, 3.0]).all(), "something flies"


def test_time_of_flight_pixels_fly_between_both_surfaces():
    depth, measured = board(TIME_OF_FLIGHT)
    flying = (measured > 2.05) & (measured < 2.95)
    edge = discontinuity(depth)
    assert 0.2 < flying[edge].mean() < TIME_OF_FLIGHT.flying
    assert not flying[~edge].any()


def test_the_same_seed_gives_the_same_noise():
    depth = plane(2.0)
    assert (measure(depth, KINECT, seed=3) == measure(depth, KINECT, seed=3)).all()
    assert (measure(depth, KINECT, seed=3) != measure(depth, KINECT, seed=4)).mean() > 0.5


def write_capture(folder: Path) -> None:
    """Two views of a board before a wall."""
    matrix = "{}: !!opencv-matrix\n   rows: {}\n   cols: {}\n   dt: d\n   data: [ {} ]\n"
    intri = extri = '%YAML:1.0\n---\nnames:\n   - "0"\n   - "1"\n'
    for name in "01":
        intri += matrix.format(f"K_{name}", 3, 3, ", ".join(map(str, K.ravel())))
        extri += matrix.format(f"R_{name}", 3, 1, "0, 0, 0")
        extri += matrix.format(f"T_{name}", 3, 1, f"{0.1 * int(name)}, 0, 0")
    folder.mkdir()
    (folder / "intri.yml").write_text(intri)
    (folder / "extri.yml").write_text(extri)
    depth = plane(3.0).copy()
    depth[60:180, 120:200] = 2.0
    for kind, pixels in (("images", GREY), ("depth", np.rint(depth * 1000).astype(np.uint16))):
        for name in "01":
            (folder / kind / name).mkdir(parents=True)
            cv2.imwrite(str(folder / kind / name / "000000.png"), pixels)


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXAMPLES / "degrade_depth.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_copy_has_other_depth_and_the_same_pictures(tmp_path):
    from peel4d.engine.capture.detect import open_capture
    from peel4d.engine.capture.images import ImageReader

    source, out = tmp_path / "exact", tmp_path / "sensor"
    write_capture(source)
    before = (source / "depth/0/000000.png").read_bytes()
    done = run(source, out)
    assert done.returncode == 0, done.stderr
    assert (source / "depth/0/000000.png").read_bytes() == before
    assert (out / "images/0/000000.png").samefile(source / "images/0/000000.png")
    exact, sensor = (ImageReader(open_capture(folder)) for folder in (source, out))
    first = sensor.depth(0, 0)
    assert 0.0 < (first == 0).mean() < 0.1
    seen = first > 0
    # Steps of 26 mm at 3 m: about half of the pixels keep theirs.
    error = (first - exact.depth(0, 0))[seen & (np.abs(first - exact.depth(0, 0)) < 0.2)]
    assert 0.012 < error.std() < 0.020
    assert (first != sensor.depth(0, 1)).mean() > 0.5, "both views have the same noise"
    again = run(source, out)
    assert again.returncode != 0 and "exists" in again.stderr and "Traceback" not in again.stderr


def test_a_capture_without_depth_is_refused(tmp_path):
    write_capture(tmp_path / "exact")
    shutil.rmtree(tmp_path / "exact" / "depth")
    done = run(tmp_path / "exact", tmp_path / "out")
    assert done.returncode != 0 and "no depth maps" in done.stderr
    assert not (tmp_path / "out").exists()
