"""The core's pictures against the literal float64 peel, its gradients against the torch twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peel4d.engine.render import core
from peel4d.engine.render.backend import render
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.reference import (
    ambiguous_pixels,
    peel_reference,
    render_reference,
    spherical_harmonics,
)
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_C0, Splats

torch = pytest.importorskip("torch", reason="the gradient reference is written in torch")

from peel4d.engine.train import peel_autograd, peel_torch  # noqa: E402

NAMES = ("position", "radius", "density", "color")


def look(width=64, height=48, *, orthographic=False, skew=0.0, near=1e-3, far=1e6) -> Camera:
    """A camera 3 units from the origin, fx != fy, principal point off the centre, turned a bit."""
    angle = 0.3
    R = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    zoom = (0.4 if orthographic else 1.2) * width
    K = [[zoom, skew, 0.42 * width], [0, 0.8 * zoom, 0.55 * height], [0, 0, 1]]
    return Camera(K, R, [0.1, -0.05, 3.0], width, height, near, far, orthographic)


def straight(width=32, height=32, focal=32.0) -> Camera:
    """At the origin, looking along z, so that depth keys are the z coordinates themselves."""
    K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return Camera(K, np.eye(3), np.zeros(3), width, height)


def cloud(seed=0, count=200, basis=1, spread=1.0, radii=(0.005, 0.3)) -> tuple[np.ndarray, ...]:
    """position, radius, density, color of a random ball of points; basis 0 gives rgb."""
    rng = np.random.default_rng(seed)
    position = rng.normal(size=(count, 3)) * spread * 0.6
    radius = np.exp(rng.uniform(*np.log(radii), count))
    density = rng.uniform(0.05, 1.0, count)
    shape = (count, basis, 3) if basis else (count, 3)
    color = rng.normal(size=shape) * 0.5 + 0.4
    return tuple(array.astype(np.float32) for array in (position, radius, density, color))


def assert_same_picture(points, camera, peel=None, **want) -> np.ndarray:
    """The parity rule of the project: at most 1/255 apart but for at most 0.01 % of the pixels, and
    those only where float32 cannot know better. Returns the core's layer ids."""
    peel = peel or PeelSettings()
    fast = core.forward(*points, camera, peel, want=("depth", "surface", "layer_ids"), **want)
    slow = peel_reference(*points, camera, peel)
    excused = ambiguous_pixels(*points, camera, peel)
    difference = np.abs(fast["rgba"] - slow.rgba).max(axis=2)
    wrong = ~(difference <= 1 / 255)
    assert not (wrong & ~excused).any()
    assert wrong.sum() <= 1e-4 * wrong.size
    # Much tighter where the same layers were found: float32 sums of at most 64 terms.
    same = (fast["layer_ids"] == slow.ids).all(axis=2)
    assert (same | excused).all()
    assert difference[same].max(initial=0) < 1e-5
    scale = max(1.0, np.abs(slow.depth).max())
    assert np.abs(fast["depth"] - slow.depth)[same].max(initial=0) < 1e-5 * scale
    with np.errstate(over="ignore"):
        assert (fast["surface"] == slow.surface.astype(np.float32))[same].all()
    return fast["layer_ids"]


def test_one_point_by_hand():
    """A point of radius 1 at z = 4 seen with f = 32 is a disk of 8 px; alpha falls off with q."""
    camera = straight()
    splats = Splats.from_colors([[0, 0, 4]], [1], [0.5], [[1.0, 0.5, 0.25]])
    for picture in (render(splats, camera), render_reference(splats, camera)):
        q = (0.5**2 + 2.5**2) / 8**2  # pixel (18, 16): centre (18.5, 16.5), 2.5 and 0.5 px off
        alpha = 0.5 * (1 - q)
        assert picture.rgba[16, 18] == pytest.approx([alpha, alpha / 2, alpha / 4, alpha], rel=1e-6)
        assert picture.rgba[16, 24, 3] == 0  # 8.5 px off
        assert picture.rgba[16, 23, 3] > 0  # 7.5 px off
        assert np.isinf(picture.depth).all()  # alpha stays below 0.5


def test_two_points_by_hand():
    """Nearest first whatever the order of the arrays; the far one shines through."""
    camera = straight(33, 33)
    splats = Splats.from_colors([[0, 0, 5], [0, 0, 4]], [1, 1], [1.0, 0.4], [[0, 1, 0], [1, 0, 0]])
    for picture in (render(splats, camera), render_reference(splats, camera)):
        assert picture.rgba[16, 16] == pytest.approx([0.4, 0.6, 0, 1.0], abs=1e-6)
        assert picture.depth[16, 16] == 5  # where the sum passes one half


def test_smaller_points_are_fainter_not_smaller():
    """A point of 0.15 px is drawn with 0.75 px and 1/25 of its density."""
    camera = straight(33, 33)
    splats = Splats.from_colors([[0, 0, 32]], [0.15], [0.8], [[1, 1, 1]])
    for picture in (render(splats, camera), render_reference(splats, camera)):
        assert picture.rgba[16, 16, 3] == pytest.approx(0.8 / 25, rel=1e-5)
        assert picture.rgba[16, 17, 3] == 0  # 1 px off


def test_harmonics_are_orthonormal_and_have_the_usual_signs():
    """The integral of Y_i Y_j over the sphere (by an exact quadrature) is the identity."""
    z, weight = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * (2 * np.pi / 16)
    s = np.sqrt(1 - z**2)[:, None]
    x, y = s * np.cos(phi), s * np.sin(phi)
    basis = np.stack(spherical_harmonics(x, y, z[:, None] + 0 * phi, 16))
    gram = np.einsum("izp,jzp,z->ij", basis, basis, weight) * (2 * np.pi / 16)
    assert np.abs(gram - np.eye(16)).max() < 1e-12
    first = np.stack(spherical_harmonics(0.6, 0.0, 0.8, 4))
    assert first == pytest.approx([SH_C0, 0, 0.4886025 * 0.8, -0.4886025 * 0.6], abs=1e-7)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    basis=st.sampled_from([0, 1, 4, 9, 16]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    layers=st.integers(1, 64),
    orthographic=st.booleans(),
    skew=st.floats(-20, 20),
    largest=st.sampled_from([0.002, 0.05, 0.5, 5.0]),
    min_radius=st.sampled_from([0.3, 0.75, 2.0]),
    threads=st.integers(1, 5),
)
def test_random_scenes(
    seed, count, basis, width, height, layers, orthographic, skew, largest, min_radius, threads
):
    camera = look(width, height, orthographic=orthographic, skew=skew)
    points = cloud(seed, count, basis, spread=2, radii=(largest / 50, largest))
    assert_same_picture(points, camera, PeelSettings(layers, min_radius), threads=threads)


def test_a_larger_scene():
    """2,000 points at 320x240: the share of excused pixels means something here."""
    assert_same_picture(cloud(3, 2000, 4, radii=(0.005, 0.08)), look(320, 240))


def test_equal_depths_are_ordered_by_index():
    """40 points on one plane facing the camera, two layers: the two lowest indices win."""
    position, radius, density, color = cloud(4, 40, 1)
    position[:, 2] = 3
    radius[:] = 2
    ids = assert_same_picture((position, radius, density, color), straight(), PeelSettings(2))
    centre = ids[16, 16]
    assert centre.tolist() == [0, 1]
    assert (np.diff(ids, axis=2)[ids[..., 1] >= 0] > 0).all()


def test_equal_depths_among_others():
    """Whole sheets of equal depth, in an order that has nothing to do with the indices."""
    rng = np.random.default_rng(5)
    position, radius, density, color = cloud(5, 3000, 1, radii=(0.1, 0.3))
    position[:, 2] = rng.choice([2.0, 2.5, 3.0, np.nextafter(np.float32(3.0), np.float32(4))], 3000)
    assert_same_picture((position, radius, density, color), straight(40, 40), PeelSettings(6))


def test_minus_zero_is_no_nearer_than_zero():
    """An orthographic camera may see depth 0 of both signs; the index decides."""
    K = [[8, 0, 8], [0, 8, 8], [0, 0, 1]]
    camera = Camera(K, np.eye(3), [0, 0, -0.0], 16, 16, near=-1, far=1, orthographic=True)
    position = np.zeros((2, 3), np.float32)
    position[1, 2] = -0.0
    points = (position, np.ones(2), np.full(2, 0.5), np.ones((2, 3)))
    assert assert_same_picture(points, camera)[8, 8, :2].tolist() == [0, 1]


def test_points_behind_beside_and_beyond():
    """Behind the camera, in its plane, in front of near, behind far: as if they were not there."""
    camera = replace(straight(), near=0.5, far=10.0)
    points = cloud(6, 120, 4)
    points[0][:, 2] = np.linspace(-12, 12, 120)
    points[0][60, 2] = 0
    ids = assert_same_picture(points, camera)
    z = points[0][ids[ids >= 0], 2]
    assert len(z) > 0
    assert 0.5 < z.min() <= z.max() < 10


def test_points_that_cover_the_whole_picture():
    """Two thousand pixels wide, and one whose centre lies far outside."""
    position, radius, density, color = cloud(7, 50, 1)
    radius[:] = 40
    density *= 0.2
    position[0] = [500, 0, 3]
    radius[0] = 520
    ids = assert_same_picture((position, radius, density, color), look(), PeelSettings(64))
    assert (ids >= 0).all(axis=(0, 1)).sum() >= 48


def test_more_layers_than_are_kept():
    """100 faint sheets, K = 5: the rest is neither seen nor counted."""
    position, radius, density, color = cloud(8, 100, 1)
    position[:] = 0
    position[:, 2] = np.random.default_rng(8).permutation(100) * 0.01
    radius[:] = 50
    density[:] = 0.01
    points = (position, radius, density, color)
    ids = assert_same_picture(points, look(), PeelSettings(5))
    nearest = np.argsort(position[:, 2])[:5]
    assert (ids == nearest).all()


def test_opaque_points_end_the_walk():
    """Behind a layer that lets less than 1/255 through nothing is taken."""
    points = (
        np.array([[0, 0, 3], [0, 0, 2]], np.float32),
        np.full(2, 50, np.float32),
        np.ones(2, np.float32),
        np.ones((2, 3), np.float32),
    )
    ids = assert_same_picture(points, straight(33, 33))
    assert ids[16, 16].tolist()[:2] == [1, -1]


def test_no_points_and_no_visible_points():
    assert not core.forward(*cloud(0, 0, 4), look(), PeelSettings())["rgba"].any()
    points = cloud(0, 50, 1)
    points[0][:, 2] -= 100
    out = core.forward(*points, look(), PeelSettings(), want=("depth", "surface", "layer_ids"))
    assert not out["rgba"].any() and not out["depth"].any()
    assert np.isinf(out["surface"]).all() and (out["layer_ids"] == -1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_points_that_are_not_finite_vanish(name, bad):
    """The picture, and the gradients of the others, are those without the point."""
    camera, peel = look(), PeelSettings()
    points = cloud(9, 60, 4, radii=(0.1, 0.5))
    kept = [np.delete(array, 30, axis=0) for array in points]
    points[NAMES.index(name)][30] = bad
    assert_same_picture(points, camera)
    expected = core.forward(*kept, camera, peel)["rgba"]
    assert np.array_equal(core.forward(*points, camera, peel)["rgba"], expected)
    upstream = np.ones((camera.height, camera.width, 4), np.float32)
    gradients = core.backward(*points, camera, peel, upstream)
    for gradient, other in zip(
        gradients, core.backward(*kept, camera, peel, upstream), strict=True
    ):
        assert not gradient[30].any()
        assert np.array_equal(np.delete(gradient, 30, axis=0), other)


def test_values_out_of_range():
    """Radius or density <= 0: not drawn. Density above 1 counts as 1, colours are clipped."""
    points = cloud(10, 60, 0, radii=(0.2, 0.5))
    points[1][:10] = -points[1][:10]
    points[1][10:15] = 0
    points[2][15:20] = 0
    points[2][20:25] = -0.5
    points[2][25:30] = 7
    points[3][:] *= 4
    ids = assert_same_picture(points, look())
    assert ids[ids >= 0].min() >= 25
    assert core.forward(*points, look(), PeelSettings())["rgba"].max() <= 1 + 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e12, 1e30])
def test_extreme_numbers_do_not_crash(scale):
    """Positions and radii of absurd size: something finite comes out."""
    position, radius, density, color = cloud(11, 300, 16)
    for points in (
        (position * np.float32(scale), radius, density, color),
        (position, radius * np.float32(scale), density, color),
        (position, radius, density, color * np.float32(scale)),
    ):
        for camera in (look(), look(orthographic=True)):
            out = core.forward(*points, camera, PeelSettings(), want=("depth",))
            assert np.isfinite(out["rgba"]).all() and np.isfinite(out["depth"]).all()
            core.backward(*points, camera, PeelSettings(), np.ones_like(out["rgba"]))


@pytest.mark.parametrize("threads", [2, 3, 4, 7, 16])
def test_bit_identical_whatever_the_threads(threads):
    points, camera, peel = cloud(12, 9000, 4, radii=(0.01, 0.1)), look(300, 200), PeelSettings()
    everything = ("depth", "surface", "layer_ids")
    one = core.forward(*points, camera, peel, threads=1, want=everything)
    many = core.forward(*points, camera, peel, threads=threads, want=everything)
    for name in one:
        assert np.array_equal(one[name], many[name])
    upstream = np.random.default_rng(0).normal(size=one["rgba"].shape)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            core.backward(*points, camera, peel, upstream, threads=1),
            core.backward(*points, camera, peel, upstream, threads=threads),
            strict=True,
        )
    )


def test_a_frame_with_many_overlaps_is_cut_into_bands():
    """9.2 million (point, tile) overlaps: equals the picture and gradient of its two halves."""
    position, radius, density, color = cloud(13, 9000, 0)
    radius[:] = 30
    density[:] *= 0.5
    points = (position, radius, density, color)
    camera, peel = look(512, 512), PeelSettings(4)
    halves = [camera.crop(0, 0, 512, 208), camera.crop(0, 208, 512, 304)]
    whole = core.forward(*points, camera, peel)["rgba"]
    parts = np.concatenate([core.forward(*points, half, peel)["rgba"] for half in halves])
    assert np.abs(whole - parts).max() < 1e-5
    upstream = np.random.default_rng(1).normal(size=whole.shape)
    gradients = core.backward(*points, camera, peel, upstream)
    upper = core.backward(*points, halves[0], peel, upstream[:208])
    lower = core.backward(*points, halves[1], peel, upstream[208:])
    for total, a, b in zip(gradients, upper, lower, strict=True):
        assert np.linalg.norm(total - (a + b)) < 1e-4 * np.linalg.norm(total)


# Gradients


def tensors(points, dtype=torch.float64):
    return [torch.tensor(array, dtype=dtype, requires_grad=True) for array in points]


@pytest.mark.parametrize("orthographic", [False, True])
@pytest.mark.parametrize("basis", [0, 1, 4, 9, 16])
def test_gradcheck_of_the_torch_twin(basis, orthographic):
    """Autograd of the twin equals finite differences in float64, sub-pixel points included."""
    camera = look(7, 6, orthographic=orthographic, skew=1.0)
    points = cloud(14, 7, basis, spread=0.5, radii=(0.05, 0.6))
    points[3][:] = points[3] * 0.2 + (0.5 if basis == 0 else 0.3)  # away from the clip's corners
    peel = PeelSettings(layers=4, min_radius_px=0.75)
    assert torch.autograd.gradcheck(
        lambda *a: peel_torch.peel(*a, camera, peel),
        tensors(points),
        eps=1e-7,
        atol=1e-5,
        fast_mode=True,
    )


def test_the_twin_draws_the_reference_picture():
    for orthographic in (False, True):
        camera = look(40, 30, orthographic=orthographic, skew=3.0)
        points, peel = cloud(15, 150, 9), PeelSettings(layers=6)
        rgba, depth = peel_torch.peel(*tensors(points), camera, peel)
        layers = peel_reference(*points, camera, peel)
        assert np.abs(rgba.detach().numpy() - layers.rgba).max() < 1e-12
        assert np.abs(depth.detach().numpy() - layers.depth).max() < 1e-12


def assert_same_gradients(points, camera, peel=None, seed=0, tolerance=1e-4):
    """Relative L2 distance of each gradient (the project asks for 1e-3, float32 gives 1e-6)."""
    peel = peel or PeelSettings()
    exact = tensors(points)
    rgba, depth = peel_torch.peel(*exact, camera, peel)
    rng = np.random.default_rng(seed)
    d_rgba, d_depth = rng.normal(size=rgba.shape), rng.normal(size=depth.shape)
    ((rgba * torch.tensor(d_rgba)).sum() + (depth * torch.tensor(d_depth)).sum()).backward()
    found = core.backward(*points, camera, peel, d_rgba, d_depth)
    for name, gradient, tensor in zip(NAMES, found, exact, strict=True):
        wanted = np.zeros_like(gradient) if tensor.grad is None else tensor.grad.numpy()
        error = np.linalg.norm(gradient - wanted)
        assert error <= tolerance * np.linalg.norm(wanted), (name, error, np.linalg.norm(wanted))
    return found


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 150),
    basis=st.sampled_from([0, 1, 4, 9, 16]),
    layers=st.integers(1, 20),
    orthographic=st.booleans(),
    skew=st.floats(-20, 20),
    largest=st.sampled_from([0.01, 0.1, 0.5, 5.0]),
)
def test_gradients_of_random_scenes(seed, count, basis, layers, orthographic, skew, largest):
    camera = look(50, 37, orthographic=orthographic, skew=skew)
    points = cloud(seed, count, basis, spread=2, radii=(largest / 20, largest))
    assert_same_gradients(points, camera, PeelSettings(layers), seed)


def test_gradients_where_a_layer_is_opaque():
    """alpha = 1 exactly at a pixel's centre, others in front and behind, light never cut off."""
    position = np.array([[0, 0, 2], [0.01, 0, 3], [0, 0.02, 4]], np.float32)
    points = (position, np.full(3, 0.5), np.array([0.5, 1, 0.7]), np.full((3, 3), 0.5))
    points = tuple(np.asarray(array, np.float32) for array in points)
    points[0][1] = [0, 0, 3]
    peel = PeelSettings(min_transmittance=0.0)
    found = assert_same_gradients(points, straight(33, 33), peel)
    assert all(np.isfinite(gradient).all() for gradient in found)


def test_gradients_of_equal_depths_and_deep_stacks():
    position, radius, density, color = cloud(16, 80, 4, radii=(0.3, 1.0))
    position[:, 2] = np.repeat([2.0, 2.5, 3.0, 4.0], 20)
    assert_same_gradients((position, radius, density, color), straight(), PeelSettings(5))


def test_clipped_colours_have_no_gradient():
    points = cloud(17, 30, 0, radii=(0.3, 0.6))
    points[3][::2] = 1.5
    points[3][1::4] = -0.1
    _, _, _, d_color = assert_same_gradients(points, look())
    assert not d_color[::2].any() and not d_color[1::4].any() and d_color.any()


def test_autograd_wrapper():
    """Float64 leaves get float64 gradients, unneeded inputs none, and either output may be used."""
    camera, peel = look(), PeelSettings()
    points = cloud(18, 100, 4)
    position, radius, density, color = tensors(points)
    radius.requires_grad_(False)
    rgba, depth = peel_autograd.peel(position, radius, density, color, camera, peel)
    assert rgba.shape == (48, 64, 4) and depth.shape == (48, 64)
    assert np.array_equal(rgba.detach().numpy(), core.forward(*points, camera, peel)["rgba"])
    depth.square().sum().backward()
    assert radius.grad is None
    assert position.grad.dtype == torch.float64 and position.grad.abs().sum() > 0
    assert color.grad.abs().sum() == 0  # the depth has no colour
    twin = tensors(points)
    peel_torch.peel(*twin, camera, peel)[1].square().sum().backward()
    distance = torch.linalg.norm(position.grad - twin[0].grad)
    assert distance < 1e-4 * torch.linalg.norm(twin[0].grad)


def test_autograd_of_no_points():
    points = tensors(cloud(0, 0, 4))
    rgba, _ = peel_autograd.peel(*points, look(), PeelSettings())
    rgba.sum().backward()
    assert points[3].grad.shape == (0, 4, 3)


@pytest.mark.parametrize("count", [255, 256, 257, 512, 700])
@pytest.mark.parametrize("size", [1, 4])
def test_as_many_points_in_one_block_as_are_taken_at_once(count, size):
    """Points are listed 256 at a time for blocks of 4 x 4; a full list must lose none of them."""
    rng = np.random.default_rng(count)
    position = np.c_[rng.uniform(-0.02, 0.02, (count, 2)), rng.uniform(1, 2, count)]
    density = rng.uniform(0.001, 0.02, count)  # light gets through all of them
    points = [a.astype(np.float32) for a in (position, np.full(count, 0.5), density)]
    points.append(rng.uniform(0, 1, (count, 3)).astype(np.float32))
    assert_same_picture(points, straight(size, size, focal=8.0), PeelSettings(layers=64))
