"""Image-based colour: sampling of source views, blending weights, choice of the views kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.model.image_blending import (
    ImageBlending,
    Samples,
    nearest_sources,
    pixel_positions,
    sample_sources,
    source_image,
)
from peel4d.engine.render import core
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.source_views import covering_views, directions_to, nearest_views
from peel4d.engine.render.splats import Splats
from peel4d.engine.render.surface import mean_surface, surface_pixels
from peel4d.engine.train.blending import (
    blend_example,
    blend_rgba,
    blended_picture,
    shown_surface,
    source_surface,
    train_blending,
)
from peel4d.engine.train.peel_autograd import peel

SIZE = 64


@pytest.fixture(autouse=True)
def one_thread():
    """torch's threads would only spin against those of the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def look_at(eye, target=(0.0, 0.0, 0.0), size=SIZE, focal=60.0) -> Camera:
    eye, target = np.asarray(eye, dtype=float), np.asarray(target, dtype=float)
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Camera(K, R, -R @ eye, size, size)


def ring(count: int, distance: float = 3.0) -> list[Camera]:
    angles = np.arange(count) * 2 * np.pi / count
    return [look_at([distance * np.cos(a), distance * np.sin(a), 0.2]) for a in angles]


def smooth_image(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    a, b = random.uniform(1, 2, (2, 3))
    v, u = np.mgrid[:SIZE, :SIZE][..., None] / SIZE
    return np.uint8(127 + 60 * np.sin(a * u * 4) + 60 * np.cos(b * v * 4))


def empty() -> np.ndarray:
    return np.full((SIZE, SIZE), np.inf, dtype=np.float32)


def sources_of(cameras, **options):
    return {
        i: source_image(c, smooth_image(i), None, empty(), **options) for i, c in enumerate(cameras)
    }


def points(count: int = 50, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.uniform(-0.5, 0.5, (count, 3)).astype(np.float32))


def random_blending(seed: int = 0) -> ImageBlending:
    torch.manual_seed(seed)
    blending = ImageBlending(16)
    for head in (blending.source_logit, blending.explicit_logit):
        torch.nn.init.normal_(head[-1].weight)
    return blending


def test_a_sample_is_the_colour_at_the_projection():
    camera = ring(4)[0]
    x = points()
    samples = sample_sources(
        x, [source_image(camera, smooth_image(0), None, empty())], camera, 0.02
    )
    uv, _ = camera.project(x.numpy())
    image = smooth_image(0).astype(np.float64) / 255
    u, v = uv.T - 0.5
    i, j = np.floor(v).astype(int), np.floor(u).astype(int)
    fv, fu = (v - i)[:, None], (u - j)[:, None]
    top = image[i, j] * (1 - fu) + image[i, j + 1] * fu
    bottom = image[i + 1, j] * (1 - fu) + image[i + 1, j + 1] * fu
    wanted = top * (1 - fv) + bottom * fv
    # float32 pixel coordinates of about 60 are good to 4e-6 px, and a pixel's step is below 0.1.
    np.testing.assert_allclose(samples.color[:, 0].numpy(), wanted, atol=1e-4)
    assert samples.visible[:, 0].all() and not samples.visible[:, 1:].any()
    # Seen from where the source stands the angle is nil and the pixels are alike.
    assert samples.measures[:, 0, 3:].abs().max() < 2e-3


def test_camera_colour_is_undone():
    camera = ring(4)[0]
    gain, offset = np.array([1.2, 0.9, 1.0]), np.array([0.02, 0.0, -0.05])
    colour = np.array([0.4, 0.5, 0.6])
    falloff = np.linspace(0.7, 1, SIZE)[:, None, None] * np.ones((1, SIZE, 3))
    seen = np.uint8(np.round((colour * gain + offset) * falloff * 255))
    source = source_image(
        camera, seen, None, empty(), log_gain=np.log(gain), offset=offset, falloff=falloff
    )
    samples = sample_sources(points(), [source], camera, 0.02, count=1)
    # Half a grey level of the image, divided by the gain and by the falloff.
    assert (samples.color - torch.tensor(colour)).abs().max() < 0.6 / 255 / 0.9 / 0.7
    assert samples.detail.abs().max() < 0.6 / 255 / 0.9 / 0.7


def test_weights_sum_to_one_and_the_invisible_get_none():
    cameras = ring(4)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[:, : SIZE // 2] = True
    sources = [source_image(c, smooth_image(i), mask, empty()) for i, c in enumerate(cameras)]
    x = points(200)
    samples = sample_sources(x, sources, cameras[0], 0.02)
    assert 0.2 < samples.visible.float().mean() < 0.8
    weights = random_blending().weights(samples, torch.rand(200, 3), torch.rand(200))
    assert weights.shape == (200, 5) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(200))
    assert (weights[:, 1:][~samples.visible] == 0).all()


def test_a_point_behind_the_surface_is_invisible():
    camera = ring(4)[0]
    surface = np.full((SIZE, SIZE), 3.0, dtype=np.float32)
    source = source_image(camera, smooth_image(0), None, surface)
    depths = torch.tensor([2.9, 3.0, 3.05, 3.07, 4.0])
    x = torch.from_numpy((camera.centre + depths[:, None].numpy() * camera.forward).astype("f4"))
    samples = sample_sources(x, [source], camera, 0.02, count=1)
    # Three spacings of 0.02 behind the surface.
    assert samples.visible[:, 0].tolist() == [True, True, True, False, False]


def test_unseen_points_keep_their_colour():
    cameras = ring(4)
    sources = [source_image(c, smooth_image(0), np.zeros((SIZE, SIZE)), empty()) for c in cameras]
    explicit = torch.rand(50, 3)
    for given in (sources, []):
        samples = sample_sources(points(), given, cameras[0], 0.02)
        assert torch.equal(random_blending()(samples, explicit), explicit)


def test_untrained_it_is_half_explicit_and_the_nearest_source_counts_most():
    cameras = ring(8)
    sources = nearest_sources(sources_of(cameras), cameras[0].centre, np.zeros(3))
    samples = sample_sources(points(), sources, cameras[0], 0.02)
    weights = ImageBlending().weights(samples, torch.rand(50, 3))
    torch.testing.assert_close(weights[:, 0], torch.full((50,), 0.5))
    assert (weights[:, 1] > weights[:, 2:].max(dim=1).values).all()


def test_nothing_is_nan_behind_the_camera_outside_and_at_its_centre():
    cameras = ring(4)
    camera = cameras[0]
    x = torch.from_numpy(
        np.stack(
            [
                camera.centre,
                camera.centre - camera.forward,
                camera.centre + 1e-9 * camera.forward,
                np.full(3, 1e6),
                [0.0, 0.0, 50.0],
                [0.0, 0.0, 0.0],
            ]
        ).astype("f4")
    ).requires_grad_()
    samples = sample_sources(x, list(sources_of(cameras).values()), cameras[1], 0.02)
    assert samples.visible[:, 0].tolist() == [False] * 5 + [True]
    explicit = torch.rand(6, 3, requires_grad=True)
    blending = random_blending()
    rgb = blending(samples, explicit)
    rgb.square().sum().backward()
    gradients = [x.grad, explicit.grad, *(p.grad for p in blending.parameters())]
    assert all(torch.isfinite(t).all() for t in (rgb, samples.color, samples.measures, *gradients))
    assert x.grad[5].abs().sum() > 0 and not x.grad[:5][~samples.visible[:5].any(dim=1)].any()


def test_gradients_are_those_of_finite_differences():
    cameras = ring(4)
    sources = list(sources_of(cameras).values())
    blending = random_blending()
    x = points(20)
    explicit = torch.rand(20, 3)
    with torch.no_grad():
        weights = blending.weights(sample_sources(x, sources, cameras[0], 0.02), explicit)
    x.requires_grad_()

    def colour(position):
        samples = sample_sources(position, sources, cameras[0], 0.02)
        return (weights[:, 1:, None] * samples.color).sum()

    (analytic,) = torch.autograd.grad(
        blending(sample_sources(x, sources, cameras[0], 0.02), explicit).sum(), x
    )
    step = 2e-3
    moved = torch.zeros(3)
    moved[2] = step
    with torch.no_grad():
        numeric = (colour(x + moved) - colour(x - moved)) / (2 * step)
    # Bilinear interpolation has kinks, which a step of 0.04 px crosses for few points.
    assert float(analytic[:, 2].sum()) == pytest.approx(float(numeric), rel=0.05)


@pytest.mark.parametrize("orthographic", [False, True])
def test_pixels_go_back_to_where_they_came_from(orthographic):
    camera = replace(ring(4)[1], orthographic=orthographic)
    row, column = torch.tensor([0, 10, 63]), torch.tensor([5, 32, 60])
    z = torch.tensor([2.0, 3.0, 2.5], requires_grad=True)
    position = pixel_positions(z, row, column, camera)
    uv, depth = camera.project(position.detach().numpy())
    np.testing.assert_allclose(depth, z.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(uv, np.stack([column + 0.5, row + 0.5], axis=1), atol=1e-3)
    position.sum().backward()
    assert torch.isfinite(z.grad).all() and z.grad.abs().min() > 0


def test_it_learns_which_source_to_believe():
    """One of two sources is wrong and says so by its contrast: its weight must go."""
    torch.manual_seed(0)
    n = 2000
    truth = torch.rand(n, 3)
    explicit = truth + 0.2 * torch.randn(n, 3)
    color = torch.stack([truth, truth + 0.3 * torch.randn(n, 3)], dim=1)
    measures = torch.zeros(n, 2, 5)
    measures[:, 1, 0] = 0.2
    measures[..., 1] = 5
    measures[..., 3] = 0.3
    visible = torch.ones(n, 2, dtype=torch.bool)
    samples = Samples(color, torch.zeros(n, 2, 3), measures, visible)
    blending = ImageBlending(32)
    optimizer = torch.optim.Adam(blending.parameters(), lr=1e-2)
    errors = []
    for _ in range(100):
        loss = (blending(samples, explicit) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.1 * errors[0]
    mean = blending.weights(samples, explicit).mean(dim=0)
    assert mean[1] > 0.8 > 0.1 > mean[2]


def test_the_view_itself_is_left_out_of_its_sources():
    cameras = ring(8)
    sources = sources_of(cameras)
    assert nearest_sources(sources, cameras[3].centre, np.zeros(3))[0] is sources[3]
    chosen = nearest_sources(sources, cameras[3].centre, np.zeros(3), own=3)
    assert len(chosen) == 4 and all(source is not sources[3] for source in chosen)
    assert {id(s) for s in chosen[:2]} == {id(sources[2]), id(sources[4])}
    assert nearest_sources({3: sources[3]}, cameras[3].centre, np.zeros(3), own=3) == []


def test_samples_are_selected_and_joined():
    cameras = ring(4)
    samples = sample_sources(points(), list(sources_of(cameras).values()), cameras[0], 0.02)
    parts = [samples.select(torch.arange(20)), samples.select(torch.arange(20, 50))]
    joined = Samples.concatenate(parts)
    assert len(joined) == 50
    torch.testing.assert_close(joined.color, samples.color)
    assert torch.equal(joined.visible, samples.visible)
    none = samples.select(torch.zeros(50, dtype=torch.bool))
    assert ImageBlending()(none, torch.zeros(0, 3)).shape == (0, 3)


def test_images_of_another_size_are_refused():
    with pytest.raises(ReconstructionError, match="mask"):
        source_image(ring(4)[0], smooth_image(0), np.ones((3, 3)), empty())


# --- which views are kept


def test_few_views_cover_a_ring_evenly():
    cameras = ring(24)
    chosen = covering_views(cameras, np.zeros(3), 8)
    assert len(chosen) == 8
    directions = directions_to(cameras, np.zeros(3))
    angle = np.degrees(np.arccos(np.clip(directions @ directions[chosen].T, -1, 1))).min(axis=1)
    # Every third of 24 views, 15 degrees from the others, would be best; exchanging single views
    # may end where two gaps are uneven.
    assert angle.max() < 30.1 and np.median(angle) < 15.1
    assert chosen == covering_views(cameras, np.zeros(3), 8)
    assert covering_views(cameras[:5], np.zeros(3), 8) == [0, 1, 2, 3, 4]


def test_a_view_that_alone_sees_something_is_kept():
    cameras = ring(24)
    seen = np.zeros((24, 100), dtype=bool)
    seen[:, :50] = True
    seen[1, 50:] = True
    for count in (1, 2, 8):
        assert 1 in covering_views(cameras, np.zeros(3), count, seen=seen)


def test_nearest_views_and_errors():
    directions = directions_to(ring(8), np.zeros(3))
    assert nearest_views(directions, directions[5], 3) in ([5, 4, 6], [5, 6, 4])
    for cameras, count in ((ring(4), 0), ([], 3)):
        with pytest.raises(ReconstructionError):
            covering_views(cameras, np.zeros(3), count)


# --- the surface of a picture


@pytest.mark.parametrize("orthographic", [False, True])
def test_the_surface_of_a_wall_is_the_wall(orthographic):
    camera = look_at([2.0, 0.0, 0.0])
    if orthographic:
        K = np.array([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]])
        camera = Camera(K, camera.R, camera.t, SIZE, SIZE, orthographic=True)
    spacing = 0.02
    grid = np.arange(-0.6, 0.6, spacing)
    y, z = (a.ravel() for a in np.meshgrid(grid, grid))
    # Slanted: x grows by 0.3 of y.
    wall = np.stack([0.3 * y, y, z], axis=1).astype(np.float32)
    n = len(wall)
    rgb = np.full((n, 3), 0.5, dtype=np.float32)
    out = core.forward(
        wall,
        np.full(n, 1.2 * spacing, "f4"),
        np.full(n, 0.9, "f4"),
        rgb,
        camera,
        PeelSettings(layers=8),
        want=("depth", "surface"),
    )
    pixels = surface_pixels(out["rgba"], out["depth"], out["surface"], camera, spacing)
    uv, _ = camera.project(pixels.position)
    np.testing.assert_allclose(uv[:, 0], pixels.column + 0.5, atol=1e-3)
    np.testing.assert_allclose(uv[:, 1], pixels.row + 0.5, atol=1e-3)
    off = pixels.position[:, 0] - 0.3 * pixels.position[:, 1]
    inner = pixels.alpha > 0.95
    # A quarter of a spacing before the centres; disks in front of a slanted wall add as much.
    assert abs(np.median(off[inner])) < spacing
    assert off[inner].std() < 0.25 * spacing
    np.testing.assert_allclose(pixels.rgb, 0.5, atol=1e-3)
    surface = mean_surface(out["rgba"], out["depth"])
    assert np.isinf(surface[out["rgba"][..., 3] == 0]).all()
    half = np.zeros((SIZE, SIZE), dtype=bool)
    half[: SIZE // 2] = True
    part = surface_pixels(out["rgba"], out["depth"], out["surface"], camera, spacing, half)
    assert 0 < len(part) < len(pixels) and part.row.max() < SIZE // 2


# --- training


def ball(count: int = 1500, radius: float = 0.5) -> Splats:
    """Points on a sphere, grey: its colours are only in the images."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    position = radius * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)
    return Splats.from_colors(
        position, np.full(count, 0.05), np.full(count, 0.9), np.full((count, 3), 0.5)
    )


SPACING = 0.045
PEEL = PeelSettings(layers=8)


def paint(position: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] of points (N, 3), finer than the points."""
    return (0.5 + 0.4 * np.sin(14 * position + [0, 1, 2])).astype(np.float32)


def film(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """What a camera sees of the painted ball: image (H, W, 3) uint8 on black, and its mask."""
    pixels, rgba = shown_surface(ball(), camera, PEEL, SPACING)
    image = np.zeros((SIZE, SIZE, 3))
    position = 0.5 * pixels.position / np.linalg.norm(pixels.position, axis=1, keepdims=True)
    image[pixels.row, pixels.column] = paint(position) * pixels.alpha[:, None]
    return np.uint8(np.round(image * 255)), rgba[..., 3] > 0.5


def filmed_sources(cameras):
    sources = {}
    for i, camera in enumerate(cameras):
        image, mask = film(camera)
        sources[i] = source_image(camera, image, mask, source_surface(ball(), camera, PEEL))
    return sources


def test_blending_brings_back_what_the_sources_saw():
    cameras = [look_at([2 * np.cos(a), 2 * np.sin(a), 0.3]) for a in np.arange(12) * np.pi / 6]
    sources = filmed_sources(cameras)
    black = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    examples = []
    for view, camera in enumerate(cameras):
        chosen = nearest_sources(sources, camera.centre, np.zeros(3), own=view)
        image, mask = film(camera)
        pixels, _ = shown_surface(ball(), camera, PEEL, SPACING, mask)
        colour = {"log_gain": np.zeros(3), "offset": np.zeros(3)}
        examples.append(blend_example(pixels, camera, image, black, chosen, SPACING, **colour))
    blending = train_blending(examples, steps=100)
    first, again = (train_blending(examples, steps=3) for _ in range(2))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)

    camera = look_at([2 * np.cos(0.3), 2 * np.sin(0.3), 0.4])
    chosen = nearest_sources(sources, camera.centre, np.zeros(3))
    image, mask = film(camera)
    error = {}
    for name, model in (("half", ImageBlending()), ("learned", blending)):
        rgba = blended_picture(ball(), camera, chosen, model, SPACING, PEEL)
        error[name] = np.square(rgba[mask, :3] - image[mask] / 255).mean()
    grey = np.square(0.5 - image[mask] / 255).mean()
    # The explicit colour knows nothing here: half of it leaves a quarter of its error.
    assert error["half"] < 0.35 * grey
    assert error["learned"] < 0.1 * grey


def test_a_training_step_moves_points_and_colours():
    cameras = [look_at([2 * np.cos(a), 2 * np.sin(a), 0.3]) for a in np.arange(12) * np.pi / 6]
    sources = filmed_sources(cameras)
    splats = ball()
    tensors = [
        torch.from_numpy(a.copy()).requires_grad_()
        for a in (splats.position, splats.radius, splats.density, splats.sh)
    ]
    camera = cameras[0]
    rgba, depth = peel(*tensors, camera, PEEL)
    _, mask = film(camera)
    area = torch.from_numpy(mask[..., None])
    chosen = nearest_sources(sources, camera.centre, np.zeros(3), own=0)
    blended = blend_rgba(rgba, depth, area, camera, chosen, random_blending(), SPACING)
    assert torch.equal(blended[..., 3], rgba[..., 3])
    assert torch.equal(blended[~area[..., 0]], rgba[~area[..., 0]])
    assert (blended - rgba).abs().max() > 0.05
    blended[..., :3].square().sum().backward()
    for tensor in tensors:
        assert torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ReconstructionError, match="no view"):
        train_blending([])
