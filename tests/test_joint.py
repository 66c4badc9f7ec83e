"""The background once more, with the trained frames before it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from traced_room import looking, texture

from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.joint_background import JointBackground
from peel4d.engine.progress import silent
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.splats import Splats
from peel4d.engine.train.checkpoint import load_splats, load_tensors, save_splats
from peel4d.engine.train.joint import _views, joint_stage
from peel4d.engine.train.plan import Folder
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.watch import UNWATCHED

SPACING = 0.1


def wall() -> Splats:
    """A textured wall, z = 3."""
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.arange(-2, 2, SPACING),) * 2))
    position = np.stack([x, y, np.full_like(x, 3.0)], axis=1).astype(np.float32)
    count = len(position)
    return Splats.from_colors(
        position, np.full(count, 0.13), np.full(count, 0.9), texture(position)
    )


def ball(frame: int) -> Splats:
    """A red ball that walks along before it; its colours depend on the direction, a little."""
    i = np.arange(300) + 0.5
    z, angle = 1 - 2 * i / 300, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    position = 0.3 * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)
    position += [0.4 * frame - 0.4, 0.0, 2.0]
    sh = np.zeros((300, 4, 3), np.float32)
    sh[:, 0] = np.array([0.8, 0.1, 0.1]) / 0.2820948
    sh[:, 1:] = 0.02
    return Splats(np.float32(position), np.full(300, 0.06, "f4"), np.full(300, 0.9, "f4"), sh)


def spoilt(splats: Splats) -> Splats:
    """What clean plates would say of a wall of which a part was always hidden."""
    sh = splats.sh.copy()
    hidden = (np.abs(splats.position[:, :2]) < 0.5).all(axis=1)
    sh[hidden] = 0.5 / 0.2820948
    return Splats(splats.position, splats.radius, splats.density, sh)


@pytest.fixture
def run(tmp_path):
    """Two trained frames and a spoilt background, filmed by four cameras."""
    cameras = [looking([x, y, -1.0], [0, 0, 3]) for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    folder = Folder(tmp_path)
    save_splats(folder.background, spoilt(wall()), psnr=20.0)
    images = {}
    for frame in range(2):
        save_splats(folder.frame(frame), ball(frame))
        scene = [Instance(ball(frame), np.eye(4)), Instance(wall(), np.eye(4))]
        for view, camera in enumerate(cameras):
            rgba = render_scene(scene, camera, TrainSettings().for_joint.peel).rgba
            images[frame, view] = np.uint8(np.clip(np.round(rgba[..., :3] * 255), 0, 255))
    settings = TrainSettings(joint_steps=160, background_samples=1)
    footage = SimpleNamespace(
        frames=(0, 1), images=images, camera=lambda frame, view: cameras[view]
    )
    return SimpleNamespace(
        folder=folder,
        capture=footage,
        reader=SimpleNamespace(
            image=lambda frame, view: images[frame, view], valid=lambda frame, view: None
        ),
        plan=SimpleNamespace(frames=(0, 1), settings=settings),
        views=[0, 1, 2, 3],
        plates=dict.fromkeys(range(4)),
        images=SimpleNamespace(usable=lambda frame, views: list(views)),
        background=load_splats(folder.background),
        color=CameraColor(4),
        spacing=SPACING,
        device=torch.device("cpu"),
        watch=UNWATCHED,
        seconds=lambda share: np.inf,
        forget_background=lambda: None,
    )


def test_the_frames_points_come_first_and_harmonics_are_widened():
    model = JointBackground(wall(), [ball(0), ball(1).select(np.arange(300) < 200)], SPACING)
    first, background = model(1), wall()
    assert first.sh.shape == (300 + len(background), 4, 3)
    np.testing.assert_allclose(first.position[:200].numpy(), ball(1).position[:200])
    # All time steps are equally long, by points that nobody can see.
    assert not first.density[200:300].any() and model(0).density[200:300].all()
    np.testing.assert_allclose(first.position[300:].numpy(), background.position)
    np.testing.assert_allclose(first.density[300:].detach().numpy(), background.density, atol=1e-6)
    assert not first.sh[300:, 1:].any()
    same = model.background()
    assert same.sh.shape == background.sh.shape
    np.testing.assert_array_equal(same.sh, background.sh)


def test_colours_are_learned_where_plates_were_wrong(run):
    joint_stage(run, silent)
    learned, metadata = load_splats(run.folder.background), load_tensors(run.folder.background)[1]
    assert metadata["joint"] is True and metadata["psnr"] > 20
    np.testing.assert_array_equal(learned.position, wall().position)
    np.testing.assert_array_equal(learned.radius, wall().radius)
    wrong = (np.abs(wall().position[:, :2]) < 0.5).all(axis=1)
    before, after = (
        np.square(splats.sh[wrong, 0] - wall().sh[wrong, 0]).mean()
        for splats in (spoilt(wall()), learned)
    )
    assert after < 0.7 * before  # the rates are low: what plates say is mostly right
    assert not list(run.folder.root.glob("running-*"))


def test_only_views_that_taught_the_background_teach_it_again(run):
    run.plates = {0: None, 2: None, 3: None}
    run.images.usable = lambda frame, views: [view for view in views if (frame, view) != (1, 2)]
    views = _views(run, (0, 1), 2)
    # In turn, and two for each frame; view 2 abstains in frame 1.
    assert views == ((0, 2), (3, 0))
    assert _views(run, (1, 1, 1), 2) == ((0,), (3, 0), (3,))


def test_it_happens_once_and_only_where_there_is_time(run):
    before = run.folder.background.read_bytes()
    run.seconds = lambda share: 0.0
    joint_stage(run, silent)
    assert run.folder.background.read_bytes() == before
    run.seconds = lambda share: np.inf
    joint_stage(run, silent)
    after = run.folder.background.read_bytes()
    assert after != before
    joint_stage(run, silent)
    assert run.folder.background.read_bytes() == after


def test_without_a_background_nothing_happens(run):
    run.background = None
    run.folder.background.unlink()
    joint_stage(run, silent)
    assert not run.folder.background.exists()
