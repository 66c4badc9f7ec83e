"""Training: it learns, it is repeatable, and it can be interrupted anywhere."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from power_cut import PowerCut, cut_power

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.errors import ReconstructionError
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.camera_rotation import CameraRotation
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render.camera import Camera
from peel4d.engine.train import shared, trainer
from peel4d.engine.train.cameras import corrected, load_color, load_spacing, save_cameras
from peel4d.engine.train.checkpoint import save_tensors
from peel4d.engine.train.images import TrainingImage, TrainingImages
from peel4d.engine.train.plan import Folder, make_plan
from peel4d.engine.train.run import open_run
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.trainer import Job, schedule, train
from peel4d.engine.train.watch import UNWATCHED

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


def test_measured_depth_moves_points_that_colours_cannot():
    """A grey plane before a grey plane: only the depth loss knows that it is farther away."""
    spacing, size = 0.1, 48
    grid = np.stack(np.meshgrid(*(np.arange(-0.7, 0.71, spacing),) * 2), axis=-1).reshape(-1, 2)
    position = np.concatenate([grid, np.full((len(grid), 1), 2.0)], axis=1)
    K = np.array([[80.0, 0, size / 2], [0, 80.0, size / 2], [0, 0, 1]])
    grey = torch.full((size, size, 3), 128, dtype=torch.uint8)
    everywhere = torch.ones(size, size, 1, dtype=torch.bool)
    image = TrainingImage(
        Camera(K, np.eye(3), np.zeros(3), size, size),
        grey,
        grey,
        everywhere,
        everywhere,
        float(size * size),
        depth=torch.full((size, size), 2.3),
    )

    class OneImage:
        def get(self, frame, view):
            return image

    def mean_depth(weight):
        rgb = np.full((len(position), 3), 128 / 255)
        model = ExplicitPoints(position, rgb, spacing, sh_degree=0, radius=1.2, density=0.8)
        settings = TrainSettings(steps=100, depth_weight=weight)
        train(model, CameraColor(1), Job("0", (0,), ((0,),)), OneImage(), settings)
        return float(model().position[:, 2].detach().mean())

    assert mean_depth(0.0) == pytest.approx(2.0, abs=0.03)
    assert mean_depth(0.03) == pytest.approx(2.2, abs=0.05)  # up to a spacing, as it may


def test_crops_hold_the_depth_of_the_subject_and_count_it(ball_capture, monkeypatch):
    capture = open_capture(ball_capture)
    reader = ImageReader(capture)
    plain = TrainingImages(capture, reader, {}, max_bytes=64 << 20).get(0, 0)
    without = TrainingImages(capture, reader, {}, max_bytes=64 << 20, depth=True).get(0, 0)
    assert plain.depth is None and without.depth is None  # this capture has none
    shape = reader.mask(0, 0).shape
    monkeypatch.setattr(reader, "depth", lambda frame, view: np.full(shape, 3, np.float32))
    image = TrainingImages(capture, reader, {}, max_bytes=64 << 20, depth=True).get(0, 0)
    assert image.depth.dtype == torch.float32
    np.testing.assert_array_equal(image.depth.numpy(), 3 * image.mask[..., 0].numpy())
    assert image.nbytes == plain.nbytes + 4 * image.mask.numel()


def test_stored_camera_colours_need_no_points(ball_capture, tmp_path, monkeypatch):
    """A resume between two frames of the colour stage does not carve the finished one again."""
    capture = open_capture(ball_capture)
    plan = make_plan(
        capture,
        size=None,
        frames=None,
        views=None,
        test_views=None,
        points="auto",
        preset="draft",
        settings=SETTINGS,
    )
    folder = Folder(tmp_path)
    color = CameraColor(len(capture.views))
    save_tensors(folder.color(0), color.state_dict(), spacing=0.125)
    monkeypatch.setattr(shared, "starting_points", lambda *_, **__: pytest.fail("carved"))
    run = open_run(
        plan,
        folder,
        capture,
        max_memory=256 << 20,
        device=torch.device("cpu"),
        progress=lambda _: None,
        watch=UNWATCHED,
    )
    spacing, _ = shared.color_stage(run, [0], lambda _: None)
    assert spacing == 0.125 and folder.shared.is_file()


def test_an_interrupted_job_ends_where_an_uninterrupted_one_does(setup, tmp_path, monkeypatch):
    images, job, fresh = setup
    whole, color = fresh()
    train(whole, color, job, images, SETTINGS)

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "running.safetensors"
    broken, color = fresh()

    original = trainer.picture_loss
    cut_power(monkeypatch, 25)
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


def test_an_interrupted_job_goes_on_with_its_cameras(setup, ball_capture, tmp_path, monkeypatch):
    images, job, fresh = setup
    capture = open_capture(ball_capture)
    cameras = [capture.camera(0, view) for view in range(len(capture.views))]

    def turned(checkpoint=None):
        rotation = CameraRotation(cameras, job.views[0], np.zeros(3))
        model, color = fresh()
        train(model, color, job, images, SETTINGS, rotation=rotation, checkpoint=checkpoint)
        return rotation.angles().detach().numpy()

    whole = turned()
    assert np.abs(whole).max() > 1e-5
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "running.safetensors"
    with monkeypatch.context() as patch:
        cut_power(patch, 25)
        with pytest.raises(PowerCut):
            turned(checkpoint)
    np.testing.assert_allclose(turned(checkpoint), whole, atol=1e-6)


def test_crops_follow_cameras_that_stand_elsewhere(setup, ball_capture):
    images, job, _ = setup
    capture, view = open_capture(ball_capture), job.views[0][0]
    before = images.get(0, view).camera
    images.stand(capture.posed(capture.R, capture.t + 0.25))
    after = images.get(0, view).camera
    np.testing.assert_allclose(after.t, before.t + 0.25)
    np.testing.assert_allclose(after.K, before.K)


def test_corrected_cameras_are_stored_beside_the_colours(ball_capture, tmp_path):
    capture, folder = open_capture(ball_capture), Folder(tmp_path)
    assert corrected(capture, folder) is capture
    cameras = [capture.camera(0, view) for view in range(len(capture.views))]
    rotation = CameraRotation(cameras, range(len(cameras)), np.zeros(3))
    with torch.no_grad():
        rotation.raw += torch.randn(rotation.raw.shape, generator=torch.Generator().manual_seed(0))
    color = CameraColor(len(capture.views))
    with torch.no_grad():
        color.log_gain += 0.1
    save_cameras(folder, color, rotation, spacing=0.05)
    R, t = rotation.extrinsics()
    once = corrected(capture, folder)
    for again in (once, corrected(once, folder)):  # it says where they stand, not how they moved
        np.testing.assert_allclose(again.R, R, atol=1e-12)
        np.testing.assert_allclose(again.t, t, atol=1e-12)
    assert torch.equal(load_color(folder, capture).log_gain, color.log_gain)
    assert load_spacing(folder) == 0.05
    save_cameras(folder, color, None, spacing=0.05)
    assert corrected(capture, folder) is capture


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


def test_a_time_budget_ends_training_with_its_rates_decayed(setup, monkeypatch):
    images, job, fresh = setup
    model, color = fresh()
    rates = []
    original = torch.optim.Adam.step

    def step(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    settings = TrainSettings(steps=20_000)
    steps = []
    begun = time.monotonic()
    psnr = train(
        model, color, job, images, settings, seconds=2.0, on_step=lambda *s: steps.append(s[:2])
    )
    assert 1.9 < time.monotonic() - begun < 10
    assert 20 <= len(rates) < 20_000 and psnr > 12
    assert rates[0] == pytest.approx(settings.position_rate, rel=0.1)
    assert rates[-1] < 1.5 * settings.decay * settings.position_rate
    assert steps[-1] == (20_000, 20_000)
    reached = [step for step, _ in steps]
    assert reached == sorted(reached) and any(6_000 < step < 14_000 for step in reached)


def test_a_falloff_is_kept_until_the_vignetting_changes():
    color = CameraColor(2)
    color.requires_grad_(False)
    camera = Camera(np.diag([20.0, 20, 1]), np.eye(3), np.zeros(3), 16, 12)
    assert color.falloff(camera) is color.falloff(camera)
    color.vignetting += 0.1
    changed = color.falloff(camera)
    color.requires_grad_(True)
    torch.testing.assert_close(color.falloff(camera).detach(), changed)
    assert changed[-1, -1, 0] > 1.1 > changed[0, 0, 0]


def test_roughness_is_the_mean_square_between_neighbours():
    position, rgb = sphere_points(300)
    model = ExplicitPoints(position, rgb, 0.1, sh_degree=1, radius=1.1, density=0.8)
    with torch.no_grad():
        for parameter in (model.offset, model.color, model.directional):
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(torch.from_numpy(position), torch.from_numpy(position))
    neighbours = distance.topk(5, largest=False).indices[:, 1:]
    plain = [
        (values[neighbours] - values[:, None]).square().mean()
        for values in (model().position / 0.1, model.offset, model.color)
    ]
    plain.append(model.directional.square().mean())
    parameters = (model.offset, model.offset, model.color, model.directional)
    for ours, expected, parameter in zip(model.roughness(), plain, parameters, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
        gradient, wanted = (
            torch.autograd.grad(value, parameter, retain_graph=True)[0]
            for value in (ours, expected)
        )
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


def test_roughness_of_one_point_is_nothing():
    model = ExplicitPoints(
        np.zeros((1, 3)), np.ones((1, 3)), 0.1, sh_degree=0, radius=1, density=0.5
    )
    assert [value.item() for value in model.roughness()] == [0, 0, 0, 0]
