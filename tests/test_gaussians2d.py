"""Pictures of two-dimensional Gaussians: the core against the formula, and its derivatives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from peel4d.engine.errors import CoreError
from peel4d.engine.video2d.gaussians import (
    Gaussians2D,
    Window,
    backward,
    draw,
    draw_linear,
    fit,
)


def scene(count: int, width: int, height: int, seed: int = 0, size: float = 2.5) -> Gaussians2D:
    rng = np.random.default_rng(seed)
    position = rng.uniform(-5, 5 + np.array([width, height]), (count, 2))
    cholesky = np.stack(
        [rng.uniform(0.3, 2, count), rng.normal(0, 0.5, count), rng.uniform(0.3, 2, count)], axis=1
    )
    return Gaussians2D(
        position.astype(np.float32),
        (size * cholesky).astype(np.float32),
        rng.normal(0.1, 0.25, (count, 3)).astype(np.float32),
    )


def exponents(gaussians: Gaussians2D, width: int, height: int) -> np.ndarray:
    """(N, H, W) 1/2 d^T Sigma^-1 d in float64."""
    y, x = np.mgrid[:height, :width] + 0.5
    d = np.stack([x, y])[None] - gaussians.position.astype(np.float64)[..., None, None]
    L = np.zeros((len(gaussians), 2, 2))
    L[:, 0, 0], L[:, 1, 0], L[:, 1, 1] = gaussians.cholesky.astype(np.float64).T
    inverse = np.linalg.inv(L @ L.transpose(0, 2, 1))
    return 0.5 * np.einsum("nihw,nij,njhw->nhw", d, inverse, d)


def visible(gaussians: Gaussians2D, width: int, height: int) -> np.ndarray:
    """(N, H, W) bool: not beyond the cut that gaussian2d.h documents."""
    strongest = np.abs(gaussians.color.astype(np.float64)).max(axis=1)
    cut = np.clip(np.log(512 * np.maximum(strongest, 1e-9)), 1.0, np.log(255))
    return exponents(gaussians, width, height) <= cut[:, None, None]


def reference(gaussians: Gaussians2D, width: int, height: int) -> np.ndarray:
    seen = visible(gaussians, width, height)
    weight = np.where(seen, np.exp(-exponents(gaussians, width, height)), 0)
    return np.einsum("nhw,nc->hwc", weight, gaussians.color.astype(np.float64))


@pytest.mark.parametrize(
    ("width", "height"), [(70, 50), (1, 1), (3, 7), (32, 32), (33, 31), (16, 65)]
)
@pytest.mark.parametrize("size", [0.5, 2.5, 30.0])
def test_picture_is_the_formula(width, height, size):
    gaussians = scene(120, width, height, size=size)
    picture = draw_linear(gaussians, Window(0, 0, width, height))
    # exp2 is good to 3e-6 of weights up to 1, of which some hundred are summed.
    truth = reference(gaussians, width, height)
    assert np.abs(picture - truth).max() < 1e-5 * max(1.0, np.abs(truth).max())
    exact = np.clip(picture, 0, 1) * 255
    shown = draw(gaussians, Window(0, 0, width, height))
    assert shown.dtype == np.uint8
    assert np.abs(shown - exact).max() <= 0.501


def test_cut_hides_less_than_a_step_of_eight_bits():
    """What is cut of one Gaussian never reaches 1/255 of its colour or of the display's range."""
    gaussians = scene(40, 64, 64)
    whole = np.exp(-exponents(gaussians, 64, 64)) * ~visible(gaussians, 64, 64)
    strongest = np.abs(gaussians.color).max(axis=1)
    lost = (whole * strongest[:, None, None]).max(axis=(1, 2))
    assert np.all(lost <= np.maximum(strongest / 255, 1 / 512) + 1e-9)


def test_windows_are_parts_of_the_picture():
    gaussians = scene(200, 90, 70)
    whole = draw_linear(gaussians, Window(0, 0, 90, 70))
    part = draw_linear(gaussians, Window(13, 7, 40, 33))
    assert np.abs(part - whole[7:40, 13:53]).max() < 1e-5  # means are rounded to the window
    beyond = draw_linear(gaussians, Window(-20, -20, 10, 10))
    assert beyond.shape == (10, 10, 3)


def test_threads_change_no_bit():
    gaussians = scene(5000, 200, 150)
    target = np.random.default_rng(1).integers(0, 256, (150, 200, 3)).astype(np.uint8)
    window = Window(0, 0, 200, 150)
    one, many = (fit(gaussians, window, target, threads=n) for n in (1, 5))
    assert one[0] == many[0]
    for name in ("position", "cholesky", "color"):
        assert np.array_equal(getattr(one[1], name), getattr(many[1], name))
    assert np.array_equal(draw(gaussians, window, threads=1), draw(gaussians, window, threads=3))


def test_instruction_sets_change_no_bit():
    program = (
        "import numpy as np, sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_gaussians2d import scene, fit, draw, Window\n"
        "g = scene(500, 90, 60); t = np.full((60, 90, 3), 77, np.uint8)\n"
        "e, d = fit(g, Window(0, 0, 90, 60), t)\n"
        "h = hashlib.sha256(draw(g, Window(0, 0, 90, 60)).tobytes())\n"
        "[h.update(a.tobytes()) for a in (d.position, d.cholesky, d.color)]\n"
        "print(h.hexdigest(), e)"
    )
    import os

    folder = os.path.dirname(__file__)  # noqa: PTH120
    results = {
        subprocess.run(
            [sys.executable, "-c", program, folder],
            env={**os.environ, "PEEL4D_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in ("baseline", "avx2", "avx512")
    }
    assert len(results) == 1


def test_gradients_are_those_of_autograd():
    torch = pytest.importorskip("torch")
    width, height = 60, 45
    gaussians = scene(80, width, height, seed=3)
    rng = np.random.default_rng(4)
    d_picture = rng.normal(size=(height, width, 3)).astype(np.float32)
    position, cholesky, color = (
        torch.tensor(array.astype(np.float64), requires_grad=True)
        for array in (gaussians.position, gaussians.cholesky, gaussians.color)
    )
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    dx, dy = x - position[:, 0, None, None], y - position[:, 1, None, None]
    # y = L^-1 d, so that 1/2 |y|^2 needs no inverse of Sigma.
    u = dx / cholesky[:, 0, None, None]
    v = (dy - cholesky[:, 1, None, None] * u) / cholesky[:, 2, None, None]
    weight = torch.exp(-0.5 * (u * u + v * v)) * torch.from_numpy(visible(gaussians, width, height))
    picture = torch.einsum("nhw,nc->hwc", weight, color)
    (picture * torch.from_numpy(d_picture.astype(np.float64))).sum().backward()
    ours = backward(gaussians, Window(0, 0, width, height), d_picture)
    for name, truth in (("position", position), ("cholesky", cholesky), ("color", color)):
        expected = truth.grad.numpy()
        error = np.abs(getattr(ours, name) - expected).max()
        assert error < 2e-4 * np.abs(expected).max(), name


def test_fit_is_error_and_gradient_of_the_clamped_picture():
    width, height = 75, 41
    gaussians = scene(150, width, height, seed=5)
    target = np.random.default_rng(6).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    window = Window(10, 12, width, height)
    part = target[12 : 12 + height, 10 : 10 + width].astype(np.float64) / 255
    shown = np.clip(draw_linear(gaussians, window), 0, 1)
    error, gradients = fit(gaussians, window, target)
    assert error == pytest.approx(np.mean((shown - part) ** 2), rel=1e-5)
    expected = backward(gaussians, window, 2 / part.size * (shown - part))
    for name in ("position", "cholesky", "color"):
        ours, truth = getattr(gradients, name), getattr(expected, name)
        assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()


def test_gradients_of_what_is_not_seen_are_zero():
    gaussians = scene(3, 40, 40)
    gaussians.position[0] = (500, 500)
    gaussians.cholesky[1] = (np.nan, 0, 1)
    window = Window(0, 0, 40, 40)
    gradients = backward(gaussians, window, np.ones((40, 40, 3)))
    for name in ("position", "cholesky", "color"):
        assert not getattr(gradients, name)[:2].any()
        assert np.isfinite(getattr(gradients, name)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["position", "cholesky", "color"])
def test_what_is_not_finite_is_not_drawn(name, value):
    gaussians = scene(50, 40, 40)
    keep = np.arange(50) != 7
    alone = Gaussians2D(*(getattr(gaussians, n)[keep] for n in ("position", "cholesky", "color")))
    getattr(gaussians, name)[7, 0] = value
    window = Window(0, 0, 40, 40)
    assert np.array_equal(draw(gaussians, window), draw(alone, window))


def test_empty_scene_is_black():
    nothing = scene(0, 8, 8)
    assert not draw(nothing, Window(0, 0, 9, 4)).any()
    error, gradients = fit(nothing, Window(0, 0, 8, 8), np.full((8, 8, 3), 255, np.uint8))
    assert error == 1 and len(gradients) == 0


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 0, 5), Window(0, 0, 5, -1), Window(0, 0, 40000, 1), Window(1 << 30, 0, 5, 5)],
)
def test_windows_that_cannot_be(window):
    with pytest.raises((CoreError, ValueError)):
        draw(scene(3, 8, 8), window)


def test_arrays_and_targets_of_wrong_shape():
    gaussians = scene(5, 8, 8)
    with pytest.raises(CoreError, match="shape"):
        draw(replace(gaussians, color=gaussians.color[:4]), Window(0, 0, 8, 8))
    with pytest.raises(CoreError, match="target"):
        fit(gaussians, Window(2, 0, 8, 8), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(CoreError, match="target"):
        fit(gaussians, Window(0, 0, 8, 8), np.zeros((8, 8, 3)))
    with pytest.raises(CoreError, match="gradient"):
        backward(gaussians, Window(0, 0, 8, 8), np.zeros((8, 9, 3)))


def test_too_many_overlaps_are_refused_not_allocated():
    count = 60_000
    gaussians = Gaussians2D(
        np.full((count, 2), 2000, np.float32),
        np.tile(np.array([9e5, 0, 9e5], np.float32), (count, 1)),
        np.ones((count, 3), np.float32),
    )
    with pytest.raises(CoreError, match="overlaps"):
        draw(gaussians, Window(0, 0, 4096, 2160))


def test_smaller_pictures_are_averages():
    """Half the size is what averaging 2 x 2 pixels gives, though thin Gaussians would alias."""
    gaussians = scene(300, 128, 96, size=0.6)
    full = draw_linear(gaussians, Window(0, 0, 128, 96))
    averaged = full.reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    resized = draw_linear(gaussians.resized(0.5, 0.5), Window(0, 0, 64, 48))
    skipping = full[::2, ::2]
    ours = np.sqrt(np.mean((resized - averaged) ** 2))
    assert ours < 0.25 * np.sqrt(np.mean((skipping - averaged) ** 2))
    assert ours < 0.03


def test_larger_pictures_show_the_same():
    gaussians = scene(100, 40, 30)
    wide = draw_linear(gaussians.resized(3.0, 3.0), Window(0, 0, 120, 90))
    # The centre of every third pixel is the centre of a pixel of the original.
    assert np.abs(wide[1::3, 1::3] - draw_linear(gaussians, Window(0, 0, 40, 30))).max() < 1e-4
