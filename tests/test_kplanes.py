"""The K-Planes field: values by hand, and what the model promises at its start."""

import numpy as np
import pytest
import torch

from peel4d.engine.model.kplanes import FieldPoints, KPlanes
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render.splats import SH_C0

BOUNDS = np.array([[-1.0, -2.0, 0.0], [1.0, 2.0, 4.0]])


def test_feature_is_the_sum_of_three_products():
    field = KPlanes(BOUNDS, time_steps=3, resolutions=(8,), channels=2)
    xy, zt, xz, yt, yz, xt = field.levels[0]
    for index, plane in enumerate((xy, zt, xz, yt, yz, xt)):
        torch.nn.init.constant_(plane, index + 1)
    feature = field(torch.tensor([[0.3, 0.1, 1.0]]), 0.4)
    assert feature.shape == (1, 2)
    assert feature[0, 0].item() == pytest.approx(1 * 2 + 3 * 4 + 5 * 6)


def test_planes_are_bilinear_in_their_own_axes():
    field = KPlanes(BOUNDS, time_steps=2, resolutions=(5,), channels=1)
    with torch.no_grad():
        for plane in field.levels[0]:
            plane.zero_()
        xy, zt = field.levels[0][0], field.levels[0][1]
        # xy holds x in [0, 1] along its width, zt holds t along its height.
        xy += torch.linspace(0, 1, xy.shape[3])[None, None, None]
        zt += torch.linspace(0, 1, zt.shape[2])[None, None, :, None]
    points = torch.tensor([[-1.0, 1.3, 2.0], [0.0, -1.0, 0.1], [1.0, 0.0, 3.9]])
    for time in (0.0, 0.25, 1.0):
        expected = torch.tensor([0.0, 0.5, 1.0]) * time
        torch.testing.assert_close(field(points, time)[:, 0], expected)


def test_longest_side_has_the_resolution():
    field = KPlanes(BOUNDS, time_steps=7, resolutions=(64,), channels=1)
    xy, zt = field.levels[0][0], field.levels[0][1]
    assert tuple(xy.shape[2:]) == (64, 32)
    assert tuple(zt.shape[2:]) == (7, 64)


def test_points_outside_the_bounds_are_finite():
    field = KPlanes(BOUNDS, time_steps=2, resolutions=(8,), channels=4)
    assert torch.isfinite(field(torch.tensor([[50.0, -50.0, 1e6]]), 2.0)).all()


def test_field_and_explicit_models_start_alike():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    position = random.uniform(-1, 1, (40, 3)).astype(np.float32)
    rgb = random.uniform(0.2, 0.8, (40, 3)).astype(np.float32)
    start = {"sh_degree": 1, "radius": 1.2, "density": 0.7}
    explicit = ExplicitPoints(position, rgb, 0.02, **start)()
    field = FieldPoints([position, position], [rgb, rgb], 0.02, BOUNDS, **start)(1)
    torch.testing.assert_close(explicit.radius, torch.full((40,), 0.024))
    torch.testing.assert_close(explicit.density, torch.full((40,), 0.7))
    np.testing.assert_allclose(explicit.sh[:, 0].detach() * SH_C0, rgb, atol=1e-6)
    # The heads start small but not at zero, or their first layer would have no gradient.
    assert (field.radius / explicit.radius - 1).abs().max() < 0.1
    assert (field.density - explicit.density).abs().max() < 0.05
    assert (field.sh - explicit.sh).abs().max() < 0.1


def test_every_parameter_of_the_field_gets_a_gradient():
    random = np.random.default_rng(1)
    position = random.uniform(-0.5, 0.5, (30, 3)).astype(np.float32)
    rgb = np.full((30, 3), 0.5, np.float32)
    model = FieldPoints([position], [rgb], 0.02, BOUNDS, sh_degree=1, radius=1.0, density=0.5)
    points = model(0)
    sum(tensor.square().sum() for tensor in points).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
