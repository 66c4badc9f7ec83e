"""What one image teaches: the core's pass over a picture against torch's operations."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from peel4d.engine.errors import CoreError
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.splats import Splats
from peel4d.engine.train import picture_loss as module
from peel4d.engine.train.images import TrainingImage
from peel4d.engine.train.picture_loss import (
    compared,
    compared_in_torch,
    picture_loss,
)
from peel4d.engine.train.settings import TrainSettings

SETTINGS = TrainSettings(mask_weight=0.3, dssim_weight=0.2, lpips_weight=0.0)


def case(width: int, height: int, *, samples: int = 1, seed: int = 0, known: bool = True):
    """An image, a picture of it and a camera's colour, all at random."""
    torch.manual_seed(seed)
    shape = (height, width)
    K = np.array([[1.3 * width, 0, 0.45 * width], [0, 1.2 * width, 0.55 * height], [0, 0, 1]])
    region = torch.rand(*shape, 1) > 0.3
    region[height // 2, width // 2] = True
    image = TrainingImage(
        camera=Camera(K, np.eye(3), np.zeros(3), width, height),
        truth=torch.randint(0, 256, (*shape, 3), dtype=torch.uint8),
        background=torch.randint(0, 256, (*shape, 3), dtype=torch.uint8),
        mask=torch.rand(*shape, 1) > 0.5,
        region=region,
        region_pixels=float(region.sum()),
        mask_known=torch.rand(*shape, 1) > 0.2 if known else None,
    )
    color = CameraColor(2)
    with torch.no_grad():
        color.log_gain.normal_(0, 0.2)
        color.offset.normal_(0, 0.1)
        color.vignetting.normal_(0, 0.3)
    rgba = torch.rand(samples * height, samples * width, 4)
    return image, rgba, color


def small_scene():
    """An image, points before its camera, and the camera's colour."""
    rng = np.random.default_rng(5)
    image, _, color = case(24, 18)
    points = [
        array.astype(np.float32)
        for array in (
            rng.uniform([-0.4, -0.3, 1], [0.4, 0.3, 2], (60, 3)),
            rng.uniform(0.002, 0.05, 60),
            rng.uniform(0.3, 0.9, 60),
            rng.uniform(0, 1, (60, 1, 3)),
        )
    ]
    return image, points, color


def both(image, rgba, color, settings):
    """Loss, error and gradients, by the core and by torch."""
    results = []
    for function in (compared, compared_in_torch):
        color.zero_grad()
        leaf = rgba.clone().requires_grad_()
        loss, error = function(leaf, image, 1, color, settings)
        loss.backward()
        gradients = [p.grad.clone() for p in (color.log_gain, color.offset, color.vignetting)]
        results.append([loss.detach(), error, leaf.grad, *gradients])
    return results


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (3, 2), (7, 7), (16, 33), (37, 64), (50, 71), (129, 97)]
)
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_core_and_torch_agree(width, height, samples):
    settings = replace(SETTINGS, samples=samples)
    core, reference = both(*case(width, height, samples=samples), settings)
    for ours, theirs in zip(core, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, dssim_weight=0.0),
        replace(SETTINGS, mask_weight=0.0),
        replace(SETTINGS, dssim_weight=0.0, mask_weight=0.0),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_each_part_of_the_loss_can_be_left_out(settings, known):
    core, reference = both(*case(41, 45, known=known), settings)
    for ours, theirs in zip(core, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_gradient_is_the_losses_derivative():
    image, rgba, color = case(24, 40)
    leaf = rgba.clone().requires_grad_()
    loss, _ = compared(leaf, image, 0, color, SETTINGS)
    loss.backward()
    direction = torch.randn_like(rgba)
    lower, upper = (
        compared(rgba + step * direction, image, 0, color, SETTINGS)[0].item()
        for step in (-1e-3, 1e-3)
    )
    assert (upper - lower) / 2e-3 == pytest.approx(float((leaf.grad * direction).sum()), rel=1e-3)


def test_an_image_without_an_outline_has_no_mask_loss():
    image, rgba, color = case(30, 30)
    image = replace(image, mask=None, mask_known=None)
    core, reference = both(image, rgba, color, SETTINGS)
    for ours, theirs in zip(core, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_picture_that_is_right_costs_nothing():
    image, _, _ = case(40, 40)
    exact = torch.cat([image.truth.float() / 255, torch.ones(40, 40, 1)], dim=2)
    settings = replace(SETTINGS, mask_weight=0.0)
    loss, error = compared(exact, image, 0, CameraColor(1), settings)
    assert error.item() < 1e-13 and abs(loss.item()) < 1e-6


def test_colours_that_are_not_learned_get_no_gradient():
    image, rgba, color = case(20, 20)
    color.requires_grad_(False)
    leaf = rgba.clone().requires_grad_()
    compared(leaf, image, 0, color, SETTINGS)[0].backward()
    assert leaf.grad.abs().max() > 0 and color.log_gain.grad is None


def test_what_is_not_finite_is_not_hidden():
    image, rgba, color = case(20, 20)
    row, column = torch.nonzero(image.region[..., 0])[0].tolist()
    rgba[row, column, 0] = torch.nan
    assert not torch.isfinite(compared(rgba, image, 0, color, SETTINGS)[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 9},
        {"samples": 2},  # of a picture with one
        {"rgba": torch.rand(20, 20, 4, dtype=torch.float64)},
        {"rgba": torch.rand(20, 19, 4)},
        {"truth": torch.zeros(20, 20, 3)},
        {"background": torch.zeros(3, 20, 20, dtype=torch.uint8).permute(1, 2, 0)},
        {"region": torch.ones(20, 20, dtype=torch.bool)},
        {"mask": torch.ones(19, 20, 1, dtype=torch.bool)},
        {"mask_known": torch.ones(20, 20, 1)},
    ],
)
def test_what_the_core_would_misread_is_refused(wrong):
    image, rgba, color = case(20, 20)
    settings = replace(SETTINGS, samples=wrong.pop("samples", 1))
    rgba = wrong.pop("rgba", rgba)
    with pytest.raises(CoreError):
        compared(rgba, replace(image, **wrong), 0, color, settings)


def test_a_very_bright_pixel_spoils_only_its_surroundings():
    image, rgba, color = case(40, 90)
    rgba[3, 20, :3] = 300.0
    image.region[3, 20] = True
    settings = replace(SETTINGS, mask_weight=0.0)
    core, reference = both(image, rgba, color, settings)
    torch.testing.assert_close(core[0], reference[0], rtol=1e-3, atol=0)
    below = core[2][40:], reference[2][40:]  # another band
    torch.testing.assert_close(*below, rtol=2e-4, atol=2e-4 * float(below[1].abs().max()))
    assert core[2].isfinite().all()


def test_depth_is_compared_as_the_mean_of_its_samples(monkeypatch):
    """With the core and with torch for all the rest the points are pulled alike."""
    image, points, color = small_scene()
    image = replace(image, depth=torch.full((18, 24), 1.5))
    settings = replace(SETTINGS, samples=2, depth_weight=0.5)
    gradients = []
    for function in (compared, compared_in_torch):
        monkeypatch.setattr(module, "compared", function)
        learned = [torch.from_numpy(p).requires_grad_() for p in points]
        with_depth = picture_loss(learned, 0.1, image, 0, color, settings)[0]
        without = picture_loss(learned, 0.1, image, 0, color, replace(settings, depth_weight=0.0))
        assert with_depth.item() > without[0].item() + 1e-4
        gradients.append(torch.autograd.grad(with_depth, learned[:3]))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


BITS = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from test_picture_loss import SETTINGS, both, case
for samples in (1, 2):
    from dataclasses import replace
    core, _ = both(*case(201, 143, samples=samples), replace(SETTINGS, samples=samples))
    print(*(hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in core))
"""


def test_every_number_of_threads_and_every_processor_gives_the_same_bits():
    script = BITS.format(tests=str(Path(__file__).parent))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PEEL4D_THREADS": threads, "PEEL4D_ISA": isa},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads, isa in (("1", ""), ("2", ""), ("5", ""), ("2", "avx2"), ("2", "baseline"))
    }
    assert len(outputs) == 1 and outputs.pop().count("\n") == 2


@pytest.mark.parametrize("samples", [2, 4])
def test_training_takes_the_samples_that_a_display_takes(samples):
    image, points, color = small_scene()
    settings = replace(SETTINGS, samples=samples)
    learned = [torch.from_numpy(p).requires_grad_() for p in points]
    loss, error = picture_loss(learned, 0.1, image, 0, color, settings)
    shown = render_scene(
        [Instance(Splats(*points), np.eye(4))], image.camera, settings.peel, samples=samples
    )
    expected = compared_in_torch(
        torch.from_numpy(shown.rgba), image, 0, color, replace(settings, samples=1)
    )
    torch.testing.assert_close([loss.detach(), error], [expected[0].detach(), expected[1]])
    loss.backward()
    assert all(float(p.grad.abs().max()) > 0 for p in learned)
    with torch.no_grad():
        better = [p - 1e-3 * p.grad / p.grad.abs().max() for p in learned]
        assert picture_loss(better, 0.1, image, 0, color, settings)[0] < loss
