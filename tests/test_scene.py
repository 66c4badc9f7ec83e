"""Whole scenes: what a back end draws against the float64 reference.

Every back end passes every test that takes `draw`.
"""

from __future__ import annotations

from dataclasses import replace

import drawn_scenes
import numpy as np
import pytest
from drawn_scenes import (
    FORMS,
    HERE,
    POSES,
    assert_parity,
    assert_same,
    cloud,
    look,
    packed,
    pose,
    straight,
    triangles,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peel4d.engine.render import core
from peel4d.engine.render.backend import Instance, render, render_scene
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import ambiguous_pixels, reference_scene
from peel4d.engine.render.settings import PeelSettings, Rendered
from peel4d.engine.render.splats import PackedSplats, Quantized, Splats
from peel4d.engine.render.triangles import join_meshes

#: Their fixtures.
draw, tally = drawn_scenes.draw, drawn_scenes.tally


@st.composite
def instances(draw, most=3):
    result = []
    for _ in range(draw(st.integers(0, most))):
        radius = draw(st.sampled_from([0.01, 0.1, 0.6, 2.0]))
        splats = cloud(
            draw(st.integers(0, 2**31)),
            draw(st.sampled_from([0, 1, 17, 60, 100])),
            draw(st.integers(0, 3)),
            (radius / 10, radius),
        )
        result.append(
            Instance(
                packed(splats, draw(st.sampled_from(FORMS))),
                pose(draw(st.integers(0, 2**31)), draw(st.sampled_from(POSES))),
                draw(st.sampled_from([1.0, 1.0, 0.6, 0.0])),
                draw(st.sampled_from([None, None, 7, 100])),
            )
        )
    return result


@st.composite
def meshes(draw, most=3):
    return [
        triangles(
            draw(st.integers(0, 2**31)),
            draw(st.integers(0, 5)),
            draw(st.sampled_from(["vertex", "triangle", "mesh", "holdout"])),
            draw(st.sampled_from([0.5, 3.0])),
        )
        for _ in range(draw(st.integers(0, most)))
    ]


@st.composite
def cameras(draw):
    camera = look(
        draw(st.integers(1, 41)),
        draw(st.integers(1, 41)),
        orthographic=draw(st.booleans()),
        skew=draw(st.sampled_from([0.0, 7.0, -15.0])),
        near=draw(st.sampled_from([1e-3, 2.7])),
        far=draw(st.sampled_from([1e6, 3.3])),
    )
    mirror = draw(st.sampled_from([1.0, 1.0, -1.0]))
    return replace(camera, K=camera.K * [[mirror, 1, 1], [1, 1, 1], [1, 1, 1]])


# Parity


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    instances=instances(),
    meshes=meshes(),
    camera=cameras(),
    samples=st.sampled_from([1, 1, 2, 4]),
    layers=st.sampled_from([1, 2, 5, 12, 64]),
    min_radius=st.sampled_from([0.3, 0.75, 2.0]),
    min_transmittance=st.sampled_from([0.0, 1 / 255]),
    threads=st.integers(1, 3),
)
def test_random_scenes(
    draw, tally, instances, meshes, camera, samples, layers, min_radius, min_transmittance, threads
):
    peel = PeelSettings(layers, min_radius, min_transmittance)
    assert_parity(
        draw, tally, instances, camera, peel, meshes=meshes, samples=samples, threads=threads
    )


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("orthographic", [False, True])
def test_larger_scenes(draw, tally, samples, orthographic):
    """Several tiles in each direction, with everything at once."""
    scene = [
        Instance(packed(cloud(1, 600, 3, (0.005, 0.15)), "codes"), pose(1, "stretched")),
        Instance(packed(cloud(2, 500, 1, (0.005, 0.15)), "half"), pose(2, "mirrored"), 0.7, 50),
        Instance(cloud(3, 400, 0, (0.005, 0.3)), HERE),
    ]
    meshes = [triangles(4, 12, "vertex", 1.0), triangles(5, 3, "holdout", 1.0)]
    picture = assert_parity(
        draw,
        tally,
        scene,
        look(150, 110, orthographic=orthographic, skew=5.0),
        meshes=meshes,
        samples=samples,
    )
    assert {0, 2, 50, meshes[0].id, -1} <= set(picture.ids.ravel().tolist())


def test_a_sheet_without_cracks(draw, tally):
    """A wavy sheet of triangles that covers the picture, points before and behind it."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-4, 4, 21), np.linspace(-4, 4, 21))
    vertices = np.stack([x, y, 0 * x], axis=-1) + rng.uniform(-0.15, 0.15, (21, 21, 3))
    corner = np.arange(441).reshape(21, 21)
    a, b, c, d = (corner[i : i + 20, j : j + 20].ravel() for i in (0, 1) for j in (0, 1))
    sheet = Mesh(
        vertices.reshape(-1, 3),
        np.r_[np.c_[a, b, c], np.c_[b, d, c]],
        rng.random((441, 3)),
    )
    for camera in (look(90, 70), look(90, 70, orthographic=True)):
        picture = assert_parity(draw, tally, [Instance(cloud(6), HERE)], camera, meshes=[sheet])
        assert np.abs(picture.rgba[..., 3] - 1).max() < 1e-5
        assert np.isfinite(picture.depth).all()


def test_an_edge_through_pixel_centres_leaves_no_crack(draw):
    """A square in halves whose diagonal meets 33 pixel centres exactly: the first half has them."""
    corners = [[-1, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]]
    for order in ([[0, 1, 2], [0, 2, 3]], [[0, 2, 3], [0, 1, 2]], [[2, 1, 0], [3, 2, 0]]):
        square = Mesh(corners, order, [[1, 0, 0], [0, 0, 1]])
        picture = draw([], straight(focal=33.0), meshes=[square])
        assert (picture.rgba[..., 3] == 1).all() and (picture.depth == 2).all()
        assert (picture.rgba[np.arange(33), np.arange(33), :3] == [1, 0, 0]).all()


def test_equal_triangles_show_the_first(draw):
    corners = [[-9, -9, 2], [9, -9, 2], [0, 9, 2]]
    meshes = [Mesh(corners, [[0, 1, 2]], color, id=i) for i, color in enumerate(np.eye(3))]
    for order in ([0, 1, 2], [2, 0, 1]):
        picture = draw([], straight(), meshes=[meshes[i] for i in order])
        assert (picture.ids[16] == order[0]).all()


def test_points_at_the_depth_of_a_triangle_are_hidden(draw):
    """z = 2 exactly for both, 2 minus one unit in the last place is before it."""
    wall = Mesh([[-9, -9, 2], [9, -9, 2], [0, 9, 2]], [[0, 1, 2]], (0, 0, 1))
    for z, red in ((2, 0), (np.nextafter(np.float32(2), np.float32(1)), 1), (2.1, 0)):
        point = Splats.from_colors([[0, 0, z]], [1], [1], [[1, 0, 0]])
        picture = draw([Instance(point, HERE)], straight(), meshes=[wall])
        assert picture.rgba[16, 16] == pytest.approx([red, 0, 1 - red, 1])
        assert picture.ids[16, 16] == (0 if red else -2)


def test_what_the_layers_let_through_falls_on_the_mesh(draw):
    """Also where they end before their time: two points of alpha 0.5, the second one not taken."""
    points = Splats.from_colors([[0, 0, 2], [0, 0, 3]], [1, 1], [0.5, 0.5], [[1, 0, 0], [0, 1, 0]])
    wall = Mesh([[-9, -9, 4], [9, -9, 4], [0, 9, 4]], [[0, 1, 2]], (0, 0, 1))
    for peel in (PeelSettings(1), PeelSettings(min_transmittance=0.6)):
        picture = draw([Instance(points, HERE)], straight(), peel, meshes=[wall])
        assert picture.rgba[16, 16] == pytest.approx([0.5, 0, 0.5, 1])
    picture = draw([Instance(points, HERE)], straight(), meshes=[wall])
    assert picture.rgba[16, 16] == pytest.approx([0.5, 0.25, 0.25, 1])


def test_layers_of_several_clips_are_counted_through():
    """The points of every layer, where float32 can know them, with triangles among them."""
    camera, peel = look(60, 50), PeelSettings(8)
    clouds = [cloud(32, 150), cloud(33, 90, 0), cloud(34, 120, 3)]
    meshes = [triangles(35, 5, "mesh", 0.5)]
    out = core.render_clips(
        [core.PlacedClip(splats, HERE, 1.0, 1.0, camera.centre, 0) for splats in clouds],
        camera,
        peel,
        triangles=join_meshes(meshes),
        want=("layer_ids", "depth"),
    )
    scene = [Instance(splats, HERE) for splats in clouds]
    slow = reference_scene(scene, camera, peel, meshes=meshes)
    same = (out["layer_ids"] == slow.ids).all(axis=2)
    assert (same | ambiguous_pixels(scene, camera, peel, meshes=meshes)).all()
    assert np.abs(out["depth"] - slow.depth)[same].max() < 1e-5
    assert slow.ids.max() > 240


def test_all_points_at_equal_depth(draw, tally):
    """Two clips on one plane facing the camera, K = 3: clip, then index, decides."""
    rng = np.random.default_rng(7)
    scene = []
    for seed in (1, 2):
        splats = cloud(seed, 50, 0, (0.3, 2.0))
        position = np.c_[rng.normal(size=(50, 2)), np.full(50, 3.0)]
        scene.append(Instance(replace(splats, position=position), HERE))
    for first, second in (scene, scene[::-1]):
        both = [first, second]
        for samples in (1, 2):
            assert_parity(draw, tally, both, straight(40, 40), PeelSettings(3), samples=samples)
    stacked = [
        Instance(Splats.from_colors(np.tile([0, 0, 3.0], (2, 1)), [1, 1], [0.5, 0.5], rgb), HERE)
        for rgb in ([[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]])
    ]
    picture = draw(stacked, straight(), PeelSettings(3))
    assert picture.rgba[16, 16] == pytest.approx([0.5, 0.25, 0.125, 0.875])


def test_supersampling_averages_a_larger_picture(draw):
    scene = [Instance(cloud(8, 300), pose(8, "stretched")), Instance(cloud(9), HERE)]
    meshes = [triangles(10, 4, "triangle", 1.0)]
    camera = look(51, 37)
    for samples in (2, 4):
        fine = draw(scene, camera.scaled(51 * samples, 37 * samples), meshes=meshes)
        mean = fine.rgba.reshape(37, samples, 51, samples, 4).mean(axis=(1, 3))
        picture = draw(scene, camera, meshes=meshes, samples=samples)
        assert np.abs(picture.rgba - mean).max() < 1e-6


@pytest.mark.parametrize("samples", [1, 2])
def test_a_crop_is_a_slice(draw, samples):
    """Windows that begin and end inside tiles, or reach beyond the picture."""
    scene = [Instance(cloud(11, 400, 2, (0.01, 1.0)), pose(11, "stretched"))]
    others = {"meshes": [triangles(12, 6, "vertex", 1.0)], "samples": samples}
    camera = look(101, 77, skew=3.0)
    whole = draw(scene, camera, **others)
    excused = ambiguous_pixels(scene, camera, surface=True, **others)
    for x, y, width, height in ((0, 0, 40, 30), (13, 5, 61, 49), (99, 70, 2, 7), (-9, -4, 30, 20)):
        part = draw(scene, camera.crop(x, y, width, height), **others)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), x + width, y + height
        window, inner = np.s_[y0:y1, x0:x1], np.s_[y0 - y :, x0 - x :]
        sure = ~excused[window]
        assert np.abs(part.rgba[inner] - whole.rgba[window])[sure].max() < 1e-5
        assert np.array_equal(part.ids[inner][sure], whole.ids[window][sure])
        assert part.depth[inner][sure] == pytest.approx(whole.depth[window][sure], rel=1e-6)


# Input as a clip stores it


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("form", FORMS[1:])
def test_packed_points_are_drawn_as_they_unpack(draw, form, degree):
    """Bit for bit, with a count that fills no whole vectors."""
    small = packed(cloud(13, 1237, degree, (0.01, 0.1)), form)
    others = {"meshes": [triangles(14, 3, "vertex", 0.5)]}
    matrix = pose(13, "stretched")
    picture = draw([Instance(small, matrix)], look(), **others)
    assert_same(picture, draw([Instance(small.unpack(), matrix)], look(), **others))
    assert picture.rgba[..., 3].max() > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_render_draws_one_clip_in_place(form):
    small = packed(cloud(13, 200, 2), form)
    picture = render(small, look(), PeelSettings(5), samples=2, ids=True, backend="cpu")
    scene = [Instance(small, HERE)]
    assert_same(
        picture, render_scene(scene, look(), PeelSettings(5), samples=2, ids=True, backend="cpu")
    )


def test_every_half_and_every_code(draw):
    """All 65,536 halves as radius and harmonics, all codes as positions: what is not finite or not
    positive vanishes, subnormals count."""
    every = np.arange(65536, dtype=np.uint16)
    rng = np.random.default_rng(15)
    low, high = np.array([-1.0, -1, -1]), np.array([1.0, 1, 0.9])
    codes = np.stack([rng.permutation(every) for _ in range(3)], axis=1)
    position = Quantized(codes, low=low, high=high, step=np.full(3, 2 / 65535))
    half = every.view(np.float16)
    bases = np.broadcast_to(half[:, None, None], (65536, 1, 3))
    radius = np.minimum(half, np.float16(0.01))
    for small in (
        PackedSplats(position, radius, np.full(65536, 0.9), np.ones((65536, 1, 3))),
        PackedSplats(position, np.full(65536, 0.01), np.full(65536, 0.9), bases),
        PackedSplats(position, np.full(65536, 0.01), half, np.ones((65536, 1, 3))),
    ):
        picture = draw([Instance(small, HERE)], look())
        assert_same(picture, draw([Instance(small.unpack(), HERE)], look()))
        assert np.isfinite(picture.rgba).all() and picture.rgba[..., 3].max() > 0.4


def test_codes_beyond_the_table_take_its_last_entry(draw):
    codes = np.array([[0], [1], [200], [255]], np.uint8)
    table = np.array([0.2, 0.4], np.float32)
    position = np.c_[np.array([-1.5, -0.5, 0.5, 1.5]), np.zeros(4), np.full(4, 4.0)]
    points = PackedSplats(
        position, Quantized(codes, table=table), np.ones(4), np.full((4, 1, 3), 2.0)
    )
    plain = Splats(position, [0.2, 0.4, 0.4, 0.4], np.ones(4), np.full((4, 1, 3), 2.0))
    assert_same(
        draw([Instance(points, HERE)], straight()), draw([Instance(plain, HERE)], straight())
    )


# Determinism


@pytest.mark.parametrize("samples", [1, 2])
def test_bit_identical_whatever_the_threads(draw, samples):
    scene = [
        Instance(packed(cloud(16, 9000, 3, (0.01, 0.1)), "codes"), pose(16, "stretched")),
        Instance(cloud(17, 5000, 1, (0.005, 0.3)), HERE, 0.8),
    ]
    others = {"meshes": [triangles(18, 20, "vertex", 1.0)], "samples": samples}
    one = draw(scene, look(201, 133), threads=1, **others)
    for threads in (2, 3, 8):
        assert_same(one, draw(scene, look(201, 133), threads=threads, **others))


def test_a_picture_that_is_given_is_written_to(draw):
    """Every element, whatever was in it; the arrays that come back are those that were given."""
    scene, meshes = [Instance(cloud(19), HERE)], [triangles(20, 2, "mesh", 0.5)]
    fresh = draw(scene, look(), meshes=meshes)
    given = Rendered(
        np.full((36, 48, 4), np.nan, np.float32),
        np.full((36, 48), np.nan, np.float32),
        np.full((36, 48), 77, np.int32),
    )
    picture = draw(scene, look(), meshes=meshes, out=given)
    assert picture.rgba is given.rgba and picture.depth is given.depth and picture.ids is given.ids
    assert_same(picture, fresh)
    empty = draw([], look(), out=given)
    assert not empty.rgba.any() and np.isinf(empty.depth).all() and (empty.ids == -1).all()
    assert draw(scene, look(), ids=False).ids is None
    assert fresh.backend == draw.backend
