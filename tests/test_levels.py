"""Coarse to fine: what the levels of a frame are, and what they hand down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from power_cut import PowerCut, cut_power

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.cli.main import build_parser
from peel4d.engine.cli.reconstruct import plan_of
from peel4d.engine.geometry.filters import thinned
from peel4d.engine.geometry.points import Points
from peel4d.engine.geometry.visual_hull import HullSettings, visual_hull
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.progress import silent
from peel4d.engine.train import trainer
from peel4d.engine.train.levels import (
    explicit_points,
    forget_levels,
    hand_down,
    levels_of,
    points_now,
    starting_points,
    train_levels,
)
from peel4d.engine.train.plan import Folder, make_plan
from peel4d.engine.train.run import open_run
from peel4d.engine.train.settings import PRESETS, TrainSettings
from peel4d.engine.train.watch import UNWATCHED


def plane(spacing: float, *, side: float = 1.0) -> Points:
    """A square of points, z = 0, that looks up."""
    line = np.arange(spacing / 2, side, spacing)
    x, y = (axis.ravel() for axis in np.meshgrid(line, line))
    position = np.stack([x, y, np.zeros_like(x)], axis=1)
    return Points(position, spacing, np.tile([0.0, 0.0, 1.0], (len(x), 1)))


def model_of(points: Points, gray: float, *, inset: float = 0.0):
    rgb = np.full((len(points), 3), gray, np.float32)
    return explicit_points(points, rgb, TrainSettings(), inset=inset)


def test_levels_go_from_large_points_to_those_of_the_plan():
    settings = TrainSettings(steps=100, levels=3)
    first, second, last = levels_of(settings, "hull")
    assert first.spacing > second.spacing > last.spacing == 1
    assert first.settings.steps + second.settings.steps + last.settings.steps == 100
    samples = (first.settings.samples, second.settings.samples, last.settings.samples)
    assert samples == (1, 1, settings.fine_samples)
    assert first.settings.position_rate == settings.position_rate
    assert last.settings.position_rate == settings.fine_position_rate
    assert last.settings.position_roughness < first.settings.position_roughness
    assert len({level.name for level in (first, second, last)}) == 3 and last.name == ""


@pytest.mark.parametrize(
    ("changes", "points"), [({"levels": 1}, "hull"), ({"model": "field"}, "hull"), ({}, "depth")]
)
def test_one_level_is_the_plan_itself(changes, points):
    settings = TrainSettings(**changes)
    (level,) = levels_of(settings, points)
    assert level.settings == settings and level.spacing == 1 and level.name == ""


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_few_steps_are_still_divided(steps):
    levels = levels_of(TrainSettings(steps=steps), "hull")
    assert all(level.settings.steps >= 1 for level in levels)
    assert sum(level.settings.steps for level in levels) <= max(steps, len(levels))


@pytest.mark.parametrize("name", PRESETS)
def test_a_hull_starts_as_deep_inside_however_fine_its_points(name):
    settings = PRESETS[name]
    assert settings.inset_of("hull") * settings.pixels_of("hull") == pytest.approx(2.7)
    assert settings.inset_of("depth") == settings.depth_inset


def test_thinned_points_lie_among_those_that_they_stand_for():
    points = plane(0.1)
    rgb = np.float32(points.position * [1, 0, 0])
    coarse, colors = thinned(points, rgb, 0.2)
    assert 25 <= len(coarse) <= 36 and coarse.spacing == 0.2
    np.testing.assert_allclose(colors[:, 0], coarse.position[:, 0], atol=1e-6)
    np.testing.assert_allclose(coarse.normal, np.tile([0, 0, 1], (len(coarse), 1)), atol=1e-6)
    assert (coarse.position[:, 2] == 0).all()


def test_two_sides_that_meet_in_a_cell_have_none():
    position = np.float32([[0, 0, 0], [0, 0, 0.01]])
    sheet = Points(position, 0.1, np.float32([[0, 0, -1], [0, 0, 1]]))
    coarse, _ = thinned(sheet, np.zeros((2, 3), np.float32), 0.2)
    assert len(coarse) == 1 and not coarse.normal.any()


def test_fine_points_go_where_the_coarse_ones_went():
    points, large = plane(0.05), plane(0.1)
    fine, coarse = model_of(points, 0.2), model_of(large, 0.7)
    with torch.no_grad():
        coarse.offset[:, 2] = torch.from_numpy(2 * large.position[:, 0])  # it turns about y
        coarse.density_raw.fill_(3.0)
        coarse.directional.fill_(0.1)
    hand_down(coarse, large.position, fine, points.position)
    now = points_now(fine, 0)
    expected = 0.1 * 2 * points.position[:, 0]
    np.testing.assert_allclose(now.position[:, 2], expected, atol=0.02)
    np.testing.assert_allclose(now.sh[:, 0] * 0.2820948, 0.7, atol=1e-5)
    np.testing.assert_allclose(now.sh[:, 1:], 0.1, atol=1e-6)
    np.testing.assert_allclose(now.density, 1 / (1 + np.exp(-3.0)), atol=1e-5)
    start = model_of(points, 0.2)
    np.testing.assert_array_equal(now.radius, points_now(start, 0).radius)


def test_points_that_no_coarse_one_stands_for_start_by_themselves():
    points, large = plane(0.05, side=2.0), plane(0.1)
    fine, coarse = model_of(points, 0.2), model_of(large, 0.7)
    with torch.no_grad():
        coarse.offset.fill_(1.0)
    hand_down(coarse, large.position, fine, points.position)
    beyond = (points.position[:, :2] > 1.25).any(axis=1)
    now = points_now(fine, 0)
    np.testing.assert_array_equal(now.position[beyond], points.position[beyond])
    np.testing.assert_allclose(now.sh[beyond, 0] * 0.2820948, 0.2, atol=1e-6)
    within = (points.position[:, :2] < 1).all(axis=1)
    assert (np.abs(now.position - points.position)[within] > 0.09).all()


@pytest.fixture
def opened(ball_capture, tmp_path):
    capture = open_capture(ball_capture)
    settings = TrainSettings(steps=60, levels=2, hull_pixels=3.0)
    options = {"size": None, "frames": None, "views": None, "test_views": None}
    plan = make_plan(capture, **options, points="auto", preset="", settings=settings)
    run = open_run(
        plan,
        Folder(tmp_path),
        capture,
        max_memory=256 << 20,
        device=torch.device("cpu"),
        progress=silent,
        watch=UNWATCHED,
    )
    run.color = CameraColor(len(capture.views))
    return run, *starting_points(run, 0)


@pytest.mark.parametrize("level", [0, 1])
def test_an_interrupted_frame_ends_where_an_uninterrupted_one_does(opened, monkeypatch, level):
    run, points, rgb = opened
    settings = run.plan.settings
    parts = []
    whole, psnr = train_levels(
        run,
        0,
        points,
        rgb,
        settings=settings,
        resumable=False,
        on_part=lambda part, _: parts.append(part),
    )
    assert parts == sorted(parts) and parts[-1] == pytest.approx(1.0)
    assert psnr > 20

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    original = trainer.picture_loss
    coarse_steps = levels_of(settings, "hull")[0].settings.steps
    cut_at = 10 if level == 0 else coarse_steps + 10

    with monkeypatch.context() as patch:
        cut_power(patch, cut_at)
        with pytest.raises(PowerCut):
            train_levels(run, 0, points, rgb, settings=settings)
    assert len(run.folder.all_running()) == 1 + level
    steps = []
    monkeypatch.setattr(trainer, "picture_loss", lambda *a: steps.append(1) or original(*a))
    resumed, _ = train_levels(run, 0, points, rgb, settings=settings)
    assert len(steps) == 60 - (cut_at - 1)  # what was trained is not trained again
    expected, actual = points_now(whole, 0), points_now(resumed, 0)
    np.testing.assert_allclose(actual.position, expected.position, atol=1e-4)
    np.testing.assert_allclose(actual.sh, expected.sh, atol=1e-3)
    forget_levels(run, 0)
    assert not run.folder.all_running()


@pytest.mark.parametrize("model", ["explicit", "field"])
def test_the_distance_of_points_can_be_chosen(ball_capture, tmp_path, model):
    """Points twice as far apart are a quarter as many."""
    capture = open_capture(ball_capture)

    def points_at(*arguments: str) -> int:
        given = ["reconstruct", str(ball_capture), "-o", str(tmp_path / "r"), "--model", model]
        plan = plan_of(build_parser().parse_args([*given, *arguments]))
        pixels = plan.settings.pixels_of("hull")
        cameras = [capture.camera(0, view) for view in range(len(capture.views))]
        masks = [ImageReader(capture).mask(0, view) for view in range(len(capture.views))]
        return len(visual_hull(cameras, masks, HullSettings(pixels_per_point=pixels)))

    fine, coarse = points_at("--point-pixels", "2"), points_at("--point-pixels", "4")
    assert 3 < fine / coarse < 5.5
    usual = replace(PRESETS["standard"], model=model).pixels_of("hull")
    assert points_at() == points_at("--point-pixels", str(usual))


@pytest.mark.parametrize("text", ["0", "0.1", "51", "many", "nan"])
def test_impossible_distances_are_refused(ball_capture, tmp_path, capsys, text):
    given = ["reconstruct", str(ball_capture), "-o", str(tmp_path), "--point-pixels", text]
    with pytest.raises(SystemExit):
        build_parser().parse_args(given)
    assert text in capsys.readouterr().err
