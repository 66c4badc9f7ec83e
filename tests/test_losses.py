"""Losses against their formulas."""

import pytest
import torch

from peel4d.engine.train.losses import color_loss, mask_loss, structural_dissimilarity


def test_color_loss_is_the_mean_square_in_the_region():
    truth = torch.zeros(8, 8, 3)
    picture = torch.full((8, 8, 3), 0.2)
    region = torch.zeros(8, 8, 1)
    region[2:4] = 1
    picture[0] = 100  # outside the region
    assert color_loss(picture, truth, region, 16.0).item() == pytest.approx(0.04)


def test_mask_loss_is_one_minus_soft_iou():
    mask = torch.zeros(4, 4, 1)
    mask[:2] = 1
    assert mask_loss(mask, mask).item() == pytest.approx(0, abs=1e-6)
    assert mask_loss(1 - mask, mask).item() == pytest.approx(1)
    # intersection 8 * 0.5, union 16 * 0.5 + 8 - 4
    assert mask_loss(torch.full((4, 4, 1), 0.5), mask).item() == pytest.approx(1 - 4 / 12)


def test_dissimilarity_is_zero_for_equals_and_has_a_gradient():
    torch.manual_seed(0)
    truth = torch.rand(20, 24, 3)
    region = torch.ones(20, 24, 1)
    assert structural_dissimilarity(truth, truth, region).item() == pytest.approx(0, abs=1e-5)
    picture = (truth + 0.2 * torch.rand(20, 24, 3)).requires_grad_()
    loss = structural_dissimilarity(picture, truth, region)
    loss.backward()
    assert 0.01 < loss.item() < 1
    with torch.no_grad():
        better = picture - 1e-2 * picture.grad / picture.grad.abs().max()
    assert structural_dissimilarity(better, truth, region) < loss


def test_dissimilarity_ignores_what_lies_outside_the_region():
    torch.manual_seed(0)
    truth = torch.rand(30, 30, 3)
    region = torch.zeros(30, 30, 1)
    region[8:16, 8:16] = 1
    far = truth.clone()
    far[25:] = 0
    assert structural_dissimilarity(far, truth, region).item() == pytest.approx(0, abs=1e-5)
