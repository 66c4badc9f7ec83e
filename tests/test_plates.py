"""Masks against clean plates: what looks like background at the rim is none of the subject."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.splats import SH_C0, Splats
from peel4d.engine.train.plates import PLATE_RIM, plate_depth, surely_subject
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.shared import complete_plates

SIZE = 320
RIM = round(PLATE_RIM * SIZE)


@pytest.fixture
def scene():
    """A plate with texture, and a subject of 80 x 100 pixels before it: image, plate, subject."""
    random = np.random.default_rng(0)
    plate = np.full((240, SIZE, 4), 255, np.uint8)
    plate[..., :3] = random.integers(60, 180, (240, SIZE, 1))
    image = plate[..., :3].copy()
    subject = np.zeros((240, SIZE), bool)
    subject[60:160, 100:180] = True
    image[subject] = (220, 30, 30)
    noise = random.normal(0, 2, image.shape)
    return np.uint8(np.clip(image + noise, 0, 255)), plate, subject


def widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    wide = mask.copy()
    wide[60 - pixels : 160 + pixels, 100 - pixels : 180 + pixels] = True
    return wide


def test_a_rim_of_background_goes(scene):
    image, plate, subject = scene
    found = surely_subject(widened(subject, 4), image, plate)
    assert found[subject].all()
    # The blur of the comparison leaves a pixel around the subject.
    assert not found[~widened(subject, 1)].any()


def test_no_deeper_than_a_rim(scene):
    image, plate, subject = scene
    found = surely_subject(widened(subject, 30), image, plate)
    assert found[60, 100 - 30 + RIM + 1] and not found[60, 100 - 30 + RIM - 1]


def test_what_does_not_reach_the_outside_stays(scene):
    image, plate, subject = scene
    image[100:120, 130:150] = plate[100:120, 130:150, :3]  # a grey patch on its chest
    assert np.array_equal(surely_subject(subject, image, plate), subject)


def test_an_unknown_background_takes_nothing_away(scene):
    image, plate, subject = scene
    wide = widened(subject, 4)
    plate[..., 3] = 0
    assert np.array_equal(surely_subject(wide, image, plate), wide)
    assert np.array_equal(surely_subject(wide, image, None), wide)
    assert not surely_subject(np.zeros_like(wide), image, plate).any()


def test_the_background_fills_the_holes_of_a_plate_as_the_camera_sees_it():
    side = np.arange(-2, 0.05, 0.05)  # a wall that covers the left half of the picture
    x, y = np.meshgrid(side, np.arange(-2, 2.05, 0.05))
    count = x.size
    position = np.stack([x.ravel(), y.ravel(), np.full(count, 4.0)], axis=1).astype(np.float32)
    sh = np.full((count, 1, 3), 0.4 / SH_C0, np.float32)
    wall = Splats(position, np.full(count, 0.1, np.float32), np.full(count, 0.99, np.float32), sh)
    camera = Camera(
        np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]), np.eye(3), np.zeros(3), 64, 48
    )
    color = CameraColor(1)
    with torch.no_grad():
        color.log_gain[0] = np.log(1.5)  # this camera is brighter than the mean one
    plate = np.full((48, 64, 4), 200, np.uint8)
    plate[20:30, :, 3] = 0
    run = SimpleNamespace(
        plan=SimpleNamespace(settings=TrainSettings()),
        background=wall,
        views=[0, 1],
        plates={0: plate},
        capture=SimpleNamespace(camera=lambda frame, view: camera),
        color=color,
    )
    complete_plates(run)
    filled = run.plates[0]
    assert (filled[20:30, 14:28, 3] == 255).all()
    np.testing.assert_allclose(filled[20:30, 14:28, :3], 0.6 * 255, atol=3)
    # Nothing is made up where there is no wall, and what was seen stays.
    assert (filled[20:30, 40:, 3] == 0).all() and (filled[:20] == plate[:20]).all()
    assert (plate[20:30, :, 3] == 0).all() and set(run.plates) == {0}


class DepthReader:
    """Six frames of a slanted wall seen through noise, with a subject that walks before it."""

    frames, views = range(6), 1

    def __init__(self, everywhere: bool = True):
        self.wall = np.float32(np.linspace(3, 5, SIZE)) * np.ones((240, 1), np.float32)
        self.everywhere = everywhere

    def mask(self, frame: int, view: int) -> np.ndarray:
        mask = np.zeros((240, SIZE), bool)
        mask[:, 40 * frame : 40 * frame + 60] = True
        return mask

    def depth(self, frame: int, view: int) -> np.ndarray:
        random = np.random.default_rng(frame)
        depth = self.wall + random.normal(0, 0.02, self.wall.shape).astype(np.float32)
        mask = self.mask(frame, view)
        depth[mask] = 2
        depth[random.random(depth.shape) < 0.1] = 0  # holes
        depth[:20] = 0  # never measured
        return depth if self.everywhere else np.where(mask, depth, 0)


def depth_of_plate(reader: DepthReader, *, frames: range = range(6)) -> np.ndarray | None:
    files = {(frame, 0): None for frame in frames}
    capture = SimpleNamespace(
        moving=False,
        frames=range(6),
        depths=files,
        masks={(frame, 0): None for frame in range(6)},
        views=[SimpleNamespace(width=SIZE, height=240)],
    )
    return plate_depth(capture, reader, 0)


def test_the_depth_of_a_plate_is_that_behind_the_subject():
    reader = DepthReader()
    found = depth_of_plate(reader)
    assert found.dtype == np.float32 and not found[:20].any()
    known = found[20:] > 0
    assert known.mean() > 0.99
    error = np.abs(found - reader.wall)[20:][known]
    assert error.max() < 0.1 and np.median(error) < 0.01  # of noise 0.02, averaged


def test_a_capture_that_measures_its_subject_only_has_no_depth_of_plates():
    assert depth_of_plate(DepthReader(everywhere=False)) is None
    assert depth_of_plate(DepthReader(), frames=range(0)) is None
