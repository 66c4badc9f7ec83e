"""Whole scenes that hurt a back end: absurd numbers, nothing at all, and much of something.

Every back end passes every test that takes `draw`.
"""

from __future__ import annotations

from dataclasses import replace

import drawn_scenes
import numpy as np
import pytest
from drawn_scenes import (
    ATTRIBUTES,
    HERE,
    assert_parity,
    assert_same,
    cloud,
    look,
    packed,
    pose,
    straight,
    triangles,
)

from peel4d.engine.errors import CoreError
from peel4d.engine.render.backend import Instance
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import PackedSplats, Quantized, Splats

#: Their fixtures.
draw, tally = drawn_scenes.draw, drawn_scenes.tally

# Numbers that hurt


def spoiled(splats: Splats, attribute: str, rows, value) -> Splats:
    arrays = {name: getattr(splats, name).copy() for name in ATTRIBUTES}
    arrays[attribute][rows] = value
    return Splats(**arrays)


def without(splats: Splats, rows) -> Splats:
    return Splats(*(np.delete(getattr(splats, name), rows, axis=0) for name in ATTRIBUTES))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_points_that_are_not_finite_vanish(draw, attribute, bad):
    """The picture is that without them, bit for bit, whatever the form of the input."""
    splats, rows = cloud(21, 120, 2, (0.05, 0.5)), [0, 30, 31, 119]
    for camera in (look(), look(orthographic=True)):
        kept = draw([Instance(without(splats, rows), pose(21, "stretched"))], camera)
        broken = spoiled(splats, attribute, rows, bad)
        assert_same(kept, draw([Instance(broken, pose(21, "stretched"))], camera))
    kept = draw([Instance(PackedSplats.pack_half(without(splats, rows)), HERE)], look())
    assert_same(kept, draw([Instance(PackedSplats.pack_half(broken), HERE)], look()))


def test_one_coordinate_or_coefficient_is_enough(draw):
    splats = cloud(22, 60, 3, (0.1, 0.5))
    expected = draw([Instance(without(splats, [20, 40]), HERE)], look())
    for attribute, at in (("position", (0,)), ("position", (2,)), ("sh", (15, 2)), ("sh", (0, 0))):
        broken = spoiled(splats, attribute, (20, *at), np.nan)
        broken = spoiled(broken, attribute, (40, *at), np.inf)
        assert_same(expected, draw([Instance(broken, HERE)], look()))


def test_tables_that_are_not_finite(draw):
    splats = cloud(23, 90, 1, (0.05, 0.5))
    codes = np.arange(90, dtype=np.uint8)[:, None]
    table = splats.radius.copy()
    table[[10, 50, 89]] = [np.nan, np.inf, -np.inf]
    broken = PackedSplats(splats.position, Quantized(codes, table=table), splats.density, splats.sh)
    kept = without(splats, [10, 50, 89])
    assert_same(draw([Instance(kept, HERE)], look()), draw([Instance(broken, HERE)], look()))


@pytest.mark.parametrize("value", [1e-45, -1e-45, 1e-39, 1e-30, -0.0, 0.0, 1e30, 3.4e38, -3.4e38])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_denormals_and_huge_numbers(draw, tally, attribute, value):
    """As the reference draws them: they are numbers like others."""
    splats = cloud(24, 60, 0, (0.1, 0.5))
    rows = np.arange(0, 60, 7)
    splats = spoiled(splats, attribute, rows, np.float32(value))
    for camera in (look(), look(orthographic=True)):
        picture = assert_parity(draw, tally, [Instance(splats, HERE)], camera)
        assert np.isfinite(picture.rgba).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_clips_of_absurd_size(draw, scale):
    matrix = np.diag([scale, scale, scale, 1.0])
    for camera in (look(), look(orthographic=True)):
        picture = draw([Instance(cloud(25, 90, 3), matrix)], camera, samples=2)
        assert np.isfinite(picture.rgba).all() and not np.isnan(picture.depth).any()


def test_densities_and_radii_out_of_range(draw, tally):
    splats = cloud(26, 90, 1, (0.1, 0.5))
    splats = spoiled(splats, "radius", slice(0, 10), -0.3)
    splats = spoiled(splats, "radius", slice(10, 15), 0)
    splats = spoiled(splats, "density", slice(15, 20), 0)
    splats = spoiled(splats, "density", slice(20, 25), -1)
    splats = spoiled(splats, "density", slice(25, 40), 9)
    picture = assert_parity(draw, tally, [Instance(splats, HERE, 0.5)], look())
    assert_same(picture, draw([Instance(without(splats, slice(0, 25)), HERE, 0.5)], look()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45])
def test_vertices_that_hurt(draw, bad):
    """A triangle with a corner that is not finite is not there; others leave finite pictures."""
    mesh = triangles(27, 12, "vertex", 1.0)
    scene = [Instance(cloud(27), HERE)]
    kept = replace(mesh, triangles=np.delete(mesh.triangles, [2, 7], axis=0))
    for camera in (look(), look(orthographic=True)):
        for axis in range(3):
            vertices = mesh.vertices.copy()
            vertices[mesh.triangles[2, 1], axis] = vertices[mesh.triangles[7, 0], axis] = bad
            picture = draw(scene, camera, meshes=[replace(mesh, vertices=vertices)])
            assert np.isfinite(picture.rgba).all() and not np.isnan(picture.depth).any()
            if not np.isfinite(bad):
                assert_same(picture, draw(scene, camera, meshes=[kept]))


def test_degenerate_triangles_are_not_there(draw):
    corners = [[-1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    flat = Mesh(corners, [[0, 1, 2], [0, 0, 3], [1, 1, 1]], (1, 1, 1))
    for camera in (straight(), replace(straight(), orthographic=True, near=-1.0)):
        assert not draw([], camera, meshes=[flat]).rgba.any()


def test_triangles_larger_than_the_world(draw, tally):
    """Corners 10^6 units away, through the camera's plane and around it."""
    vertices = np.array([[-1e6, 1, -1e6], [1e6, 1, -1e6], [0, 1, 2e6]])
    floor = Mesh(vertices, [[0, 1, 2]], np.eye(3))
    for camera in (look(), look(near=2.0, far=40.0), straight(48, 36)):
        picture = assert_parity(draw, tally, [Instance(cloud(28), HERE)], camera, meshes=[floor])
        assert picture.rgba[-1, :, 3].min() > 0.99


def test_cameras_and_matrices_that_are_refused(draw):
    scene = [Instance(cloud(29, 5), HERE)]
    for bad in (
        replace(look(), t=[np.nan, 0, 0]),
        replace(look(), K=np.full((3, 3), np.inf)),
        replace(look(), near=2, far=1),
        replace(look(), width=0),
    ):
        with pytest.raises(CoreError):
            draw(scene, bad)
    for camera, samples in ((look(), 0), (look(), 3), (look(), 8), (look(8192, 1), 4)):
        with pytest.raises(CoreError):
            draw(scene, camera, samples=samples)
    for matrix in (np.full((4, 4), np.nan), np.diag([1, 1, 1, 2.0]), np.eye(3)):
        with pytest.raises(CoreError):
            draw([Instance(cloud(29, 5), matrix)], look())
    with pytest.raises(CoreError):
        draw([Instance(cloud(29, 5), HERE, np.nan)], look())


def test_nothing_at_all(draw):
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), int), None)
    unused = Mesh(np.zeros((5, 3)), np.zeros((0, 3), int), (1, 1, 1))
    empty = Instance(Splats.empty(3), HERE)
    no_codes = Instance(packed(Splats.empty(1), "codes"), HERE)
    behind = Instance(Splats.from_colors([[0, 0, -9]], [1], [1], [[1, 1, 1]]), HERE)
    for scene in ([], [empty], [no_codes, empty], [behind]):
        for meshes in ([], [nothing], [unused, nothing]):
            for size, samples in (((1, 1), 1), ((1, 1), 4), ((70, 3), 2), ((3, 70), 1)):
                picture = draw(scene, straight(*size), meshes=meshes, samples=samples)
                assert picture.rgba.shape == (size[1], size[0], 4) and not picture.rgba.any()
                assert np.isinf(picture.depth).all() and (picture.ids == -1).all()


def test_clips_without_points_change_no_ids(draw):
    """Wherever they stand, and whatever was drawn before."""
    first, second = cloud(37, 60, radii=(0.1, 0.5)), cloud(38, 60, radii=(0.1, 0.5))
    both = [Instance(first, HERE, id=7), Instance(second, HERE, id=8)]
    expected = draw(both, look())
    assert {7, 8} <= set(expected.ids.ravel().tolist())
    nobody = [Instance(Splats.empty(1), HERE, id=9 + i) for i in range(3)]
    others = [Instance(first, HERE, id=20 + i) for i in range(5)]
    for scene in ([*both, *nobody], [*nobody, *both], [both[0], *nobody, both[1]]):
        draw(others, look())
        assert_same(expected, draw(scene, look()))


# Much of something


@pytest.mark.parametrize("samples", [1, 2])
def test_one_point_over_a_whole_4k_picture(draw, samples):
    """alpha = density (1 - q) at each of 8.3 million pixels."""
    if draw.emulated:
        pytest.skip("takes minutes under the emulator")
    width, height = (3840, 2160) if samples == 1 else (1920, 1080)
    camera = straight(width, height, focal=float(width))
    point = Splats.from_colors([[0.1, -0.05, 2]], [1.6], [0.7], [[1, 0.5, 0.25]])
    picture = draw([Instance(point, HERE, id=3)], camera, samples=samples)
    fine = np.arange(width * samples), np.arange(height * samples)
    semi_axis = width * samples * 1.6 / 2
    centre = (
        width * samples * np.array([0.05, -0.025]) + np.array(fine[0].shape + fine[1].shape) / 2
    )
    x, y = (((axis + 0.5 - c) / semi_axis) ** 2 for axis, c in zip(fine, centre, strict=True))
    for row in range(0, height, 97):
        alpha = 0.7 * (1 - y[row * samples : (row + 1) * samples, None] - x[None, :])
        alpha = np.maximum(alpha, 0)
        alpha_of_pixel = alpha.reshape(samples, width, samples).mean(axis=(0, 2))
        assert np.abs(picture.rgba[row, :, 3] - alpha_of_pixel).max() < 1e-5
        assert np.abs(picture.rgba[row, :, 1] - 0.5 * alpha_of_pixel).max() < 1e-5
        surface = (alpha > 0.5 + 1e-5).reshape(samples, width, samples).sum(axis=(0, 2))
        maybe = (alpha > 0.5 - 1e-5).reshape(samples, width, samples).sum(axis=(0, 2))
        least = samples**2 / 2
        assert (picture.ids[row][surface >= least] == 3).all()
        assert (picture.ids[row][maybe < least] == -1).all()
        assert (picture.depth[row][surface >= least] == 2).all()
    assert picture.rgba[..., 3].min() >= 0 and (picture.ids == 3).any() and (picture.ids < 0).any()


def test_a_million_points_in_one_tile(draw):
    """All within 12 x 12 pixels; the K nearest of some pixels are found by sorting everything."""
    if draw.emulated:
        pytest.skip("takes minutes under the emulator")
    rng = np.random.default_rng(30)
    count, layers = 1_000_000, 12
    camera = straight(32, 32)
    z = rng.uniform(2, 4, count).astype(np.float32)
    z[rng.random(count) < 0.3] = 3.0  # and many of them at one depth
    u, v = rng.uniform(2, 14, (2, count))
    position = np.stack([(u - 16) * z / 32, (v - 16) * z / 32, z], axis=1).astype(np.float32)
    radius = (rng.uniform(0.5, 3, count) * z / 32).astype(np.float32)
    density = rng.uniform(0.01, 0.2, count).astype(np.float32)
    rgb = rng.random((count, 3))
    splats = Splats.from_colors(position, radius, density, rgb)
    picture = draw([Instance(splats, HERE)], camera, PeelSettings(layers))
    position, radius = position.astype(np.float64), radius.astype(np.float64)
    centre = 32 * position[:, :2] / position[:, 2:] + 16
    semi_axis = 32 * radius / position[:, 2]
    drawn = np.maximum(semi_axis, 0.75)
    weight = density * (semi_axis / drawn) ** 2
    for x, y in ((8, 8), (2, 13), (5, 6), (13, 3), (10, 12), (0, 0), (16, 16)):
        q = (((centre - [x + 0.5, y + 0.5]) / drawn[:, None]) ** 2).sum(axis=1)
        covering = np.flatnonzero(q < 1)
        front = covering[np.argsort(z[covering], kind="stable")][:layers]
        expected, transmittance = np.zeros(4), 1.0
        for i in front:
            alpha = weight[i] * (1 - q[i])
            expected += transmittance * alpha * np.r_[rgb[i], 1]
            transmittance *= 1 - alpha
        assert picture.rgba[y, x] == pytest.approx(expected, abs=1e-5)
    assert not picture.rgba[20:, 20:].any()


def test_many_triangles_in_one_pixel(draw):
    """20,000 triangles that all cover the middle: the nearest one, whatever its place."""
    rng = np.random.default_rng(31)
    z = rng.permutation(np.linspace(2, 9, 20_000)).astype(np.float32)
    corners = np.array([[-0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0.3, 0]])
    vertices = (corners * 4)[None] + np.array([0, 0, 1]) * z[:, None, None]
    color = rng.random((20_000, 3))
    mesh = Mesh(vertices.reshape(-1, 3), np.arange(60_000).reshape(-1, 3), color)
    picture = draw([], straight(), meshes=[mesh])
    assert picture.depth[16, 16] == 2
    assert picture.rgba[16, 16, :3] == pytest.approx(color[z.argmin()], abs=1e-6)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_longest_picture(draw, tally, samples):
    """32,767 samples a row, the most there can be; triangles and points along all of it."""
    width = 32767 // samples
    rng = np.random.default_rng(36)
    position = np.c_[rng.uniform(-1, 1, 20), rng.normal(size=20) * 1e-4, rng.uniform(2, 3, 20)]
    points = Splats.from_colors(position, np.full(20, 0.2), np.full(20, 0.6), rng.random((20, 3)))
    bar = Mesh([[-9, 1, 2.4], [9, 1.1, 2.6], [0, -1, 2.5]], [[0, 1, 2]], np.eye(3))
    for camera in (straight(width, 2, width), straight(2, width, width)):
        turn = np.eye(4) if camera.height == 2 else np.eye(4)[[1, 0, 2, 3]]
        scene = [Instance(points, turn)]
        mesh = replace(bar, vertices=bar.vertices @ turn[:3, :3].T)
        assert_parity(draw, tally, scene, camera, meshes=[mesh], samples=samples)


def test_many_instances(draw, tally):
    """40 clips of a few points each in one order."""
    scene = [
        Instance(cloud(seed, 5, seed % 4, (0.1, 0.4)), pose(seed, "stretched"), id=1000 - seed)
        for seed in range(40)
    ]
    picture = assert_parity(draw, tally, scene, look())
    assert len(set(picture.ids.ravel().tolist())) > 10
