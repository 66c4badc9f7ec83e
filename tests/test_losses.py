"""Losses against their formulas."""

import pytest
import torch

from peel4d.engine.train.losses import (
    color_loss,
    depth_loss,
    mask_loss,
    structural_dissimilarity,
)


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


def test_dissimilarity_is_its_formula_and_so_is_the_gradient():
    torch.manual_seed(0)
    truth, noise = torch.rand(2, 17, 23, 3, dtype=torch.float64).unbind()
    picture = (0.7 * truth + 0.3 * noise).requires_grad_()
    region = (torch.rand(17, 23, 1) > 0.3).double()
    total, window = 0.0, 7
    for row in range(17):
        for column in range(23):
            rows = slice(max(0, row - window // 2), row + window // 2 + 1)
            columns = slice(max(0, column - window // 2), column + window // 2 + 1)
            shown = torch.where(region > 0, picture, truth)
            x, y = (image[rows, columns].reshape(-1, 3) for image in (shown, truth))
            mx, my = x.mean(0), y.mean(0)
            covariance = ((x - mx) * (y - my)).mean(0)
            variance = (x - mx).square().mean(0) + (y - my).square().mean(0)
            ssim = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4)
            ssim = ssim / ((mx.square() + my.square() + 1e-4) * (variance + 9e-4))
            total = total + ((1 - ssim) * region[row, column]).sum()
    expected = total / (6 * region.sum())
    wanted = torch.autograd.grad(expected, picture)[0].float()
    inputs = picture.detach().float().requires_grad_(), truth.float(), region.float()
    loss = structural_dissimilarity(*inputs)
    torch.testing.assert_close(loss, expected.detach().float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs[0])[0], wanted, rtol=1e-3, atol=1e-7
    )


def test_dissimilarity_ignores_what_lies_outside_the_region():
    torch.manual_seed(0)
    truth = torch.rand(30, 30, 3)
    region = torch.zeros(30, 30, 1)
    region[8:16, 8:16] = 1
    far = truth.clone()
    far[25:] = 0
    assert structural_dissimilarity(far, truth, region).item() == pytest.approx(0, abs=1e-5)


def test_depth_loss_is_huber_in_spacings_where_both_depths_are_known():
    alpha = torch.full((6, 6), 0.8)
    measured = torch.full((6, 6), 2.0)
    depth = alpha * 2.15  # one and a half spacings behind
    depth[0], measured[0] = 100, 0  # not measured
    depth[1], measured[1] = 100, torch.nan
    depth[2], alpha[2] = 0.1, 0.5  # hardly covered
    # Beyond the first spacing, in units of 1.4826 times the median of the residuals.
    expected = 0.5 * (0.5 / (1.4826 * 1.5)) ** 2
    assert depth_loss(depth, alpha, measured, 0.1).item() == pytest.approx(expected, rel=1e-4)
    assert depth_loss(alpha * 2.09, alpha, measured, 0.1).item() == 0


def test_depth_loss_counts_noise_in_units_of_itself():
    """Ten times the noise is the same loss, and what is far off pulls like everything else."""
    torch.manual_seed(0)
    alpha, noise = torch.ones(40, 40), torch.randn(40, 40)
    loud, louder = (
        depth_loss(20 + scale * noise, alpha, torch.full((40, 40), 20.0), 0.01).item()
        for scale in (0.1, 1.0)
    )
    # All but the first spacing, a tenth of the lesser noise.
    assert loud == pytest.approx(louder, rel=0.2)
    depth = (20 + 0.1 * noise).requires_grad_()
    measured = torch.full((40, 40), 20.0)
    measured[3, 3] = 9
    depth_loss(depth, alpha, measured, 0.01).backward()
    assert depth.grad[3, 3] <= depth.grad.abs().max() * 1.001


def test_depth_loss_without_any_measurement_is_zero():
    depth = torch.ones(4, 4, requires_grad=True)
    loss = depth_loss(depth, torch.ones(4, 4), torch.zeros(4, 4), 0.1)
    loss.backward()
    assert loss.item() == 0 and not depth.grad.any()
