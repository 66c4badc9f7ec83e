"""Masks against clean plates: what looks like background at the rim is none of the subject."""

from __future__ import annotations

import numpy as np
import pytest

from peel4d.engine.train.plates import PLATE_RIM, surely_subject

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
