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


def test_numpy_evaluates_the_field_as_torch_does():
    from peel4d.engine.train.plane_field import plane_field

    random = np.random.default_rng(1)
    steps = 4
    positions = [random.uniform(-1, 1, (300, 3)) * (1, 0.3, 2) for _ in range(steps)]
    torch.manual_seed(0)
    model = FieldPoints(
        positions,
        [np.zeros((300, 3))] * steps,
        0.05,
        np.array([[-0.8, -0.3, -2.0], [1.0, 0.3, 2.0]]),  # some points lie outside
        sh_degree=1,
        radius=0.85,
        density=0.8,
        resolutions=(8, 16),
        channels=4,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
        for offset in model.colors:
            offset.zero_()
    field = plane_field(model)
    for step in range(steps):
        wanted = model(step).to_splats()
        radius, density, sh = field.evaluate(step, wanted.position)
        np.testing.assert_allclose(radius, wanted.radius, rtol=2e-5)
        np.testing.assert_allclose(density, wanted.density, atol=2e-5)
        np.testing.assert_allclose(sh, wanted.sh, atol=2e-5)


def test_a_field_comes_back_from_its_checkpoint(tmp_path):
    from peel4d.engine.errors import ReconstructionError
    from peel4d.engine.train.checkpoint import load_field, save_field, save_tensors

    random = np.random.default_rng(2)
    positions = [random.uniform(-1, 1, (count, 3)) for count in (20, 30)]
    model = FieldPoints(
        positions,
        positions,
        0.1,
        np.array([[-1.0] * 3, [1.0] * 3]),
        sh_degree=1,
        radius=0.85,
        density=0.8,
        resolutions=(4,),
        channels=3,
        hidden=5,
    )
    path = tmp_path / "field.safetensors"
    save_field(path, model, (7, 8))
    again, labels = load_field(path)
    assert labels == (7, 8)
    for step in (0, 1):
        for one, other in zip(model(step), again(step), strict=True):
            assert torch.equal(one, other)
    save_tensors(path, {}, frames=[1])
    with pytest.raises(ReconstructionError, match="not the field"):
        load_field(path)
