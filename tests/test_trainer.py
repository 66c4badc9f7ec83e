"""Training: it learns, it is repeatable, and it can be interrupted anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.errors import ReconstructionError
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render.camera import Camera
from peel4d.engine.train import trainer
from peel4d.engine.train.images import TrainingImages
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.trainer import Job, schedule, train

SETTINGS = TrainSettings(steps=60)


def sphere_points(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Points spread over the ball of frame 0, all of one wrong colour."""
    index = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * index / count), np.pi * (1 + 5**0.5) * index
    unit = np.stack(
        [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1
    )
    return (0.6 * unit).astype(np.float32), np.full((count, 3), 0.5, np.float32)


@pytest.fixture
def setup(ball_capture):
    capture = open_capture(ball_capture)
    images = TrainingImages(capture, ImageReader(capture), {}, max_bytes=64 << 20)
    views = tuple(i for i, view in enumerate(capture.views) if view.train)

    def fresh():
        position, rgb = sphere_points()
        model = ExplicitPoints(position, rgb, 0.106, sh_degree=1, radius=1.2, density=0.7)
        return model, CameraColor(len(capture.views))

    return images, Job("0", (0,), (views,)), fresh


def test_training_learns_the_stripes(setup):
    images, job, fresh = setup
    model, color = fresh()
    history = []
    settings = TrainSettings(steps=300)
    psnr = train(model, color, job, images, settings, on_step=lambda s, t, p: history.append(p))
    assert psnr > 22 and history[-1] > history[0] + 5
    with torch.no_grad():
        assert model().sh[:, 0].std() > 0.3  # the one wrong colour has become many


def test_the_same_seed_gives_the_same_points(setup):
    images, job, fresh = setup
    results = []
    for _ in range(2):
        model, color = fresh()
        train(model, color, job, images, SETTINGS)
        results.append(model().to_splats())
    np.testing.assert_allclose(results[0].position, results[1].position, atol=1e-5)


def test_an_interrupted_job_ends_where_an_uninterrupted_one_does(setup, tmp_path, monkeypatch):
    images, job, fresh = setup
    whole, color = fresh()
    train(whole, color, job, images, SETTINGS)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "running.safetensors"
    broken, color = fresh()

    class PowerCut(Exception):
        pass

    original = trainer.picture_loss
    calls = []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 25:
            raise PowerCut
        return original(*arguments)

    monkeypatch.setattr(trainer, "picture_loss", cut)
    with pytest.raises(PowerCut):
        train(broken, color, job, images, SETTINGS, checkpoint=checkpoint)

    resumed, color = fresh()
    steps = []
    monkeypatch.setattr(trainer, "picture_loss", lambda *a: steps.append(1) or original(*a))
    train(resumed, color, job, images, SETTINGS, checkpoint=checkpoint)
    assert len(steps) == 60 - 24  # it went on, it did not start again
    expected, actual = whole().to_splats(), resumed().to_splats()
    np.testing.assert_allclose(actual.position, expected.position, atol=1e-4)
    np.testing.assert_allclose(actual.sh, expected.sh, atol=1e-3)


def test_a_checkpoint_of_another_job_is_not_used(setup, tmp_path, monkeypatch):
    images, job, fresh = setup
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "running.safetensors"
    model, color = fresh()
    train(model, color, job, images, TrainSettings(steps=3), checkpoint=checkpoint)
    assert checkpoint.is_file()
    steps = []
    original = trainer.picture_loss
    monkeypatch.setattr(trainer, "picture_loss", lambda *a: steps.append(1) or original(*a))
    model, color = fresh()
    train(model, color, job, images, TrainSettings(steps=4), checkpoint=checkpoint)
    assert len(steps) == 4


def test_a_damaged_checkpoint_is_an_error_that_names_it(setup, tmp_path):
    images, job, fresh = setup
    checkpoint = tmp_path / "running.safetensors"
    checkpoint.write_bytes(b"\x10\0\0\0\0\0\0\0 not a header")
    model, color = fresh()
    with pytest.raises(ReconstructionError, match=r"running\.safetensors"):
        train(model, color, job, images, SETTINGS, checkpoint=checkpoint)


def test_nothing_to_learn_from_is_an_error(setup):
    images, _, fresh = setup
    model, color = fresh()
    with pytest.raises(ReconstructionError, match="no usable image"):
        train(model, color, Job("7", (0,), ((),)), images, SETTINGS)


def test_schedule_shows_every_image_equally_often():
    job = Job("x", (0, 1), ((3, 4, 5), (3, 5)))
    order = schedule(job, TrainSettings(steps=25))
    assert len(order) == 50
    counts = {pair: order.count(pair) for pair in set(order)}
    assert set(counts) == {(0, 3), (0, 4), (0, 5), (1, 3), (1, 5)}
    assert set(counts.values()) == {10}
    assert schedule(job, TrainSettings(steps=25)) == order
    assert schedule(job, TrainSettings(steps=25, seed=1)) != order


def test_camera_color_of_an_unseen_view_is_the_identity():
    color = CameraColor(4)
    with torch.no_grad():
        color.log_gain += torch.randn(4, 3)
        color.offset += torch.randn(4, 3)
        color.log_gain[3] = color.offset[3] = 0
    color.center([0, 1, 2])
    rgb, alpha = torch.rand(5, 6, 3), torch.rand(5, 6, 1)
    camera = Camera(np.diag([6.0, 6.0, 1.0]), np.eye(3), np.zeros(3), 6, 5)
    torch.testing.assert_close(color(3, rgb, alpha, camera), rgb)
    torch.testing.assert_close(color.log_gain[:3].mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
