"""The float64 definition of a scene's picture against cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from peel4d.engine.errors import CoreError
from peel4d.engine.render.backend import Instance
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import (
    ambiguous_pixels,
    peel_reference,
    reference_scene,
    render_reference,
)
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_C0, PackedSplats, Quantized, Splats

HERE = np.eye(4)
RED, GREEN, BLUE = np.eye(3)


def straight(width=33, height=33, focal=32.0, **others) -> Camera:
    """At the origin, looking along z; the middle of an odd image is the centre of a pixel."""
    K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return Camera(K, np.eye(3), np.zeros(3), width, height, **others)


def turned(width=24, height=20, **others) -> Camera:
    """A camera 3 units from the origin, fx != fy, skewed, off centre, turned about y."""
    c, s = np.cos(0.3), np.sin(0.3)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    K = [[1.2 * width, 1.5, 0.42 * width], [0, 0.9 * width, 0.55 * height], [0, 0, 1]]
    return Camera(K, R, [0.1, -0.05, 3.0], width, height, **others)


def orthographic(camera: Camera, zoom: float) -> Camera:
    K = camera.K * np.array([[zoom], [zoom], [1]])
    K[:2, 2] = camera.K[:2, 2]
    return replace(camera, K=K, orthographic=True)


def dot(z: float, density: float, rgb=GREEN) -> Splats:
    """One point on the axis of `straight`, as wide as a third of the picture."""
    return Splats.from_colors([[0, 0, z]], [z / 4], [density], [rgb])


def cloud(seed=0, count=60, degree=1) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)) * 0.5,
        rng.uniform(0.02, 0.3, count),
        rng.uniform(0.1, 1, count),
        rng.normal(size=(count, (degree + 1) ** 2, 3)) * 0.3 + 0.4,
    )


def wall(z: float, color, half=10.0, **others) -> Mesh:
    """Two triangles that face the camera and fill its view."""
    corners = half * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) + [0, 0, z]
    return Mesh(corners, [[0, 1, 2], [0, 2, 3]], color, **others)


def pose(angle=0.0, scale=1.0, shift=(0, 0, 0)) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1, 1, 1]) * scale
    matrix[:3, 3] = shift
    return matrix


# Triangles among points


@pytest.mark.parametrize(
    "z, rgba, depth, surface_id",
    [
        (1, [1, 0, 0, 1], 1, 7),  # before both points
        (3, [0.6, 0.4, 0, 1], 0.4 * 2 + 0.6 * 3, 7),  # between them
        (5, [0.3, 0.4, 0.3, 1], 0.4 * 2 + 0.3 * 4 + 0.3 * 5, 1),  # behind
    ],
)
def test_a_wall_among_two_points(z, rgba, depth, surface_id):
    """Green at 2 (alpha 0.4), blue at 4 (0.5): what they let through falls on the red wall."""
    instances = [Instance(dot(2, 0.4), HERE), Instance(dot(4, 0.5, BLUE), HERE)]
    layers = reference_scene(instances, straight(), meshes=[wall(z, RED, id=7)])
    assert layers.rgba[16, 16] == pytest.approx(rgba)
    assert layers.depth[16, 16] == pytest.approx(depth)
    assert layers.surface_id[16, 16] == surface_id
    assert layers.surface[16, 16] == {1: 1, 3: 3, 5: 4}[z]
    assert layers.ids[16, 16, :3].tolist() == {1: [-1] * 3, 3: [0, -1, -1], 5: [0, 1, -1]}[z]
    assert layers.rgba[0, 0] == pytest.approx([1, 0, 0, 1])  # beside the points


def test_a_holdout_hides_and_shows_nothing():
    instances = [Instance(dot(2, 0.4), HERE), Instance(dot(4, 1.0, BLUE), HERE)]
    layers = reference_scene(instances, straight(), meshes=[wall(3, None)])
    assert layers.rgba[16, 16] == pytest.approx([0, 0.4, 0, 0.4])
    assert layers.depth[16, 16] == pytest.approx(0.8)
    assert np.isinf(layers.surface).all() and (layers.surface_id == -1).all()


def test_a_holdout_hides_other_meshes_and_is_hidden_by_them():
    before = reference_scene([], straight(), meshes=[wall(2, RED), wall(3, None)])
    behind = reference_scene([], straight(), meshes=[wall(3, RED), wall(2, None)])
    assert (before.rgba == [1, 0, 0, 1]).all() and not behind.rgba.any()


def test_points_at_the_depth_of_a_triangle_are_hidden():
    layers = reference_scene([Instance(dot(2, 1.0), HERE)], straight(), meshes=[wall(2, RED)])
    assert (layers.rgba == [1, 0, 0, 1]).all() and (layers.ids == -1).all()


def test_hidden_points_take_no_layer():
    """K = 1: the point behind the wall does not use it up, nor does the wall."""
    instances = [Instance(dot(4, 1.0, BLUE), HERE), Instance(dot(2, 0.25), HERE)]
    layers = reference_scene(instances, straight(), PeelSettings(1), meshes=[wall(3, RED)])
    assert layers.rgba[16, 16] == pytest.approx([0.75, 0.25, 0, 1])


def test_a_wall_behind_enough_layers_keeps_the_rest_of_the_light():
    """The peel stops at 1/255, but the light that is left still falls on the wall."""
    instances = [Instance(dot(2, 0.998), HERE), Instance(dot(3, 1.0, BLUE), HERE)]
    layers = reference_scene(instances, straight(), meshes=[wall(5, RED)])
    assert layers.rgba[16, 16] == pytest.approx([0.002, 0.998, 0, 1], abs=1e-6)


def test_the_nearer_triangle_wins_and_the_first_of_equal_ones():
    colors = [RED, GREEN, BLUE]
    for order in ([3, 2, 4], [2, 3, 4], [4, 3, 2]):
        meshes = [wall(z, color) for z, color in zip(order, colors, strict=True)]
        layers = reference_scene([], straight(), meshes=meshes)
        assert (layers.rgba[..., :3] == colors[int(np.argmin(order))]).all()
    same = reference_scene([], straight(), meshes=[wall(3, BLUE, id=5), wall(3, RED, id=4)])
    assert (same.rgba[..., :3] == BLUE).all() and (same.surface_id == 5).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_triangle_covers_the_pixels_whose_centres_it_contains(flip):
    """Corners at (2, 2), (10, 2) and (2, 10): centres with x + y <= 12, the diagonal included."""
    camera = straight(16, 16, focal=16.0)
    corners = np.array([[2, 2], [10, 2], [2, 10]]) / 16 - 0.5
    order = [0, 2, 1] if flip else [0, 1, 2]
    mesh = Mesh(np.c_[corners, np.ones(3)], [order], (1, 1, 1))
    layers = reference_scene([], camera, meshes=[mesh])
    x, y = np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5)
    expected = (x > 2) & (y > 2) & (x + y <= 12)
    assert np.array_equal(layers.rgba[..., 3] == 1, expected)
    assert (layers.surface[expected] == 1).all()


@pytest.mark.parametrize("parallel", [False, True])
def test_no_crack_between_neighbours(parallel):
    """A wavy sheet of 200 triangles with arbitrary corners, tilted: every pixel sees it."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-3, 3, 11), np.linspace(-3, 3, 11))
    inner = (np.abs(x) < 3) & (np.abs(y) < 3)
    jitter = rng.uniform(-0.2, 0.2, (3, *x.shape)) * inner
    vertices = np.stack([x + jitter[0], y + jitter[1], jitter[2] + 0.1 * x], axis=-1)
    corner = np.arange(121).reshape(11, 11)
    a, b, c, d = (corner[i : i + 10, j : j + 10].ravel() for i in (0, 1) for j in (0, 1))
    mesh = Mesh(vertices.reshape(-1, 3), np.r_[np.c_[a, b, c], np.c_[b, d, c]], (1, 1, 1))
    camera = turned(61, 47)
    camera = orthographic(camera, 0.3) if parallel else camera
    assert (reference_scene([], camera, meshes=[mesh]).rgba == 1).all()


def test_an_edge_through_pixel_centres_belongs_to_both_neighbours():
    """A square whose diagonal meets 33 centres exactly, its halves of one colour and of two."""
    corners = [[-1, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]]
    square = [[0, 1, 2], [0, 2, 3]]
    camera = straight(33, 33, focal=33.0)
    layers = reference_scene([], camera, meshes=[Mesh(corners, square, (1, 1, 1))])
    assert (layers.rgba == 1).all()
    for order in (square, square[::-1]):
        two = Mesh(corners, order, [RED, BLUE], per="triangle")
        layers = reference_scene([], camera, meshes=[two])
        assert (layers.rgba[np.arange(33), np.arange(33), :3] == RED).all()  # the first one
        excused = ambiguous_pixels([], camera, meshes=[two])
        assert np.array_equal(excused, np.eye(33, dtype=bool))


# Triangles in perspective


def test_a_floor_through_the_near_plane_and_behind_the_camera():
    """The plane y = 1 from z = -50 to 50: below the horizon it is seen at z = fy / (v - cy)."""
    camera = straight(32, 32, near=3.0, far=20.0)
    corners = [[-900, 1, -50], [900, 1, -50], [900, 1, 50], [-900, 1, 50]]
    floor = Mesh(corners, [[0, 1, 2], [0, 2, 3]], (1, 1, 1))
    layers = reference_scene([], camera, meshes=[floor])
    below = np.arange(32) + 0.5 - 16
    z = np.divide(32, below, where=below > 0, out=np.full(32, np.inf))
    z[(z <= 3) | (z >= 20)] = np.inf
    assert layers.surface == pytest.approx(np.tile(z[:, None], 32), rel=1e-12)
    assert np.isfinite(z).sum() == 9  # 12.8, 9.1, ... 3.05


@pytest.mark.parametrize("behind", [[0], [0, 1], [0, 1, 2]])
def test_a_triangle_with_corners_behind_the_camera(behind):
    """Each pixel's ray is intersected with the triangle as in a ray tracer."""
    camera = turned(25, 21, near=0.2)
    world = np.array([[0.1, 0.8, 0.5], [-1.5, -1.4, 1.0], [1.6, -0.9, 2.0]])
    world[behind, 2] -= 7
    mesh = Mesh(world, [[0, 1, 2]], (1, 1, 1))
    layers = reference_scene([], camera, meshes=[mesh])
    x, y = np.meshgrid(np.arange(25) + 0.5, np.arange(21) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(camera.K).T
    corners = camera.to_camera(mesh.vertices)
    solution = np.linalg.solve(np.broadcast_to(corners.T, (21, 25, 3, 3)), rays[..., None])[..., 0]
    z = 1 / solution.sum(axis=-1)
    hit = (solution >= 0).all(axis=-1) & (z > camera.near)
    assert np.array_equal(np.isfinite(layers.surface), hit)
    assert layers.surface[hit] == pytest.approx(z[hit], rel=1e-12)
    assert hit.any() == (len(behind) < 3)


def test_colours_of_vertices_are_interpolated_in_perspective():
    """A sheet from z = 1 at the left rim to z = 3 at the right one, red to blue.

    Its point at the share s of the way is seen at u = 1.5 + 1.5 (4 s - 1) / (2 s + 1).
    """
    corners = [[-1, -9, 1], [3, -9, 3], [3, 9, 3], [-1, 9, 1]]
    sheet = Mesh(corners, [[0, 1, 2], [0, 2, 3]], [RED, BLUE, BLUE, RED])
    layers = reference_scene([], straight(3, 3, focal=1.5), meshes=[sheet])
    share = np.array([1 / 16, 1 / 4, 5 / 8])
    assert layers.surface == pytest.approx(np.tile(1 + 2 * share, (3, 1)))
    assert layers.rgba[..., 0] == pytest.approx(np.tile(1 - share, (3, 1)))
    assert layers.rgba[..., 2] == pytest.approx(np.tile(share, (3, 1)))


def test_orthographic_colours_and_depth_are_linear():
    camera = replace(straight(4, 4, focal=1.0), orthographic=True)
    corners = [[-2, -2, 1], [2, -2, 3], [2, 2, 3], [-2, 2, 1]]
    mesh = Mesh(corners, [[0, 1, 2], [0, 2, 3]], [[0, 0, 0], RED, RED, [0, 0, 0]])
    layers = reference_scene([], camera, meshes=[mesh])
    along = np.array([1, 3, 5, 7]) / 8
    assert layers.surface == pytest.approx(np.tile(1 + 2 * along, (4, 1)))
    assert layers.rgba[..., 0] == pytest.approx(np.tile(along, (4, 1)))


def test_an_orthographic_camera_sees_behind_itself():
    """near < 0: triangles and points at negative depth are in front of those at positive depth."""
    camera = replace(straight(5, 5, focal=1.0), orthographic=True, near=-10)
    point = Splats.from_colors([[0, 0, -3]], [1], [0.5], [GREEN])
    layers = reference_scene([Instance(point, HERE)], camera, meshes=[wall(-2, RED), wall(2, BLUE)])
    assert layers.rgba[2, 2] == pytest.approx([0.5, 0.5, 0, 1])
    assert layers.rgba[0, 0] == pytest.approx([1, 0, 0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_triangles_that_are_degenerate_or_not_finite_are_ignored(bad):
    corners = np.array([[-9, -9, 3], [9, -9, 3], [0, 9, 3], [0, 0, 2], [1, 1, 2], [2, 2, 2]])
    corners = np.r_[corners, [[bad, 0, 1]]]
    faces = [[0, 1, 6], [3, 4, 5], [3, 3, 4], [0, 1, 2]]
    for camera in (straight(), orthographic(straight(), 0.3)):
        layers = reference_scene([], camera, meshes=[Mesh(corners, faces, (1, 1, 1))])
        expected = reference_scene([], camera, meshes=[Mesh(corners, faces[3:], (1, 1, 1))])
        assert np.array_equal(layers.rgba, expected.rgba)
        assert layers.rgba[16, 16, 3] == 1


# Instances


@pytest.mark.parametrize("parallel", [False, True])
def test_an_instance_is_its_points_moved_by_hand(parallel):
    """Rotation, uniform scale and shift; the numbers are float32, so they are compared as such."""
    camera = orthographic(turned(), 0.3) if parallel else turned()
    splats, matrix = cloud(1, degree=0), pose(0.7, 1.5, (0.2, -0.1, 0.4))
    moved = Splats(
        splats.position @ matrix[:3, :3].T + matrix[:3, 3],
        splats.radius * 1.5,
        splats.density,
        splats.sh,
    )
    scene = reference_scene([Instance(splats, matrix)], camera)
    plain = reference_scene([Instance(moved, HERE)], camera)
    excused = ambiguous_pixels([Instance(splats, matrix)], camera)
    assert np.abs(scene.rgba - plain.rgba)[~excused].max() < 1e-5
    assert scene.rgba[..., 3].max() > 0.5


@pytest.mark.parametrize("parallel", [False, True])
def test_colours_turn_with_the_clip(parallel):
    """Moving the clip is moving the camera the other way, up to degree 3."""
    camera = orthographic(turned(), 0.3) if parallel else turned()
    splats, matrix = cloud(2, degree=3), pose(-0.9, 1.0, (0.2, 0.3, 0.1))
    seen = replace(camera, R=camera.R @ matrix[:3, :3], t=camera.R @ matrix[:3, 3] + camera.t)
    scene = reference_scene([Instance(splats, matrix)], camera)
    plain = render_reference(splats, seen)
    assert scene.rgba == pytest.approx(plain.rgba, abs=1e-12)
    other = reference_scene([Instance(splats, pose(0.0, 1.0, (0.2, 0.3, 0.1)))], camera)
    assert np.abs(scene.rgba - other.rgba).max() > 0.01


def test_one_instance_in_place_is_the_cloud():
    splats = cloud(3, degree=2)
    layers = reference_scene([Instance(splats, HERE)], turned())
    plain = peel_reference(
        splats.position, splats.radius, splats.density, splats.sh, turned(), PeelSettings()
    )
    for name in vars(layers):
        assert np.array_equal(getattr(layers, name), getattr(plain, name)), name


def test_a_stretched_clip_takes_its_largest_stretch():
    """A disk of radius 1 at z = 4, stretched by 2 along one oblique axis and squashed on others."""
    turn = pose(0.5)[:3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([0.5, 2.0, 0.25]) @ turn.T
    matrix[2, 3] = 4
    splats = Splats.from_colors([[0, 0, 0]], [0.5], [0.8], [RED])
    stretched = reference_scene([Instance(splats, matrix)], straight())
    plain = render_reference(Splats.from_colors([[0, 0, 4]], [1], [0.8], [RED]), straight())
    assert stretched.rgba == pytest.approx(plain.rgba, abs=1e-12)


@pytest.mark.parametrize("linear", [np.zeros((3, 3)), np.diag([1, 0, 1.0]), np.diag([-1, 1, 1.0])])
def test_flat_and_mirrored_clips(linear):
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    for camera in (turned(), orthographic(turned(), 0.3)):
        layers = reference_scene([Instance(cloud(4, degree=3), matrix)], camera)
        assert np.isfinite(layers.rgba).all() and layers.rgba.any() == linear.any()


def test_opacity_multiplies_the_clipped_density():
    """min(density, 1) first: density 5 at opacity 0.5 is 0.5."""
    for density, alpha in ((5, 0.5), (0.6, 0.3)):
        layers = reference_scene([Instance(dot(4, density), HERE, 0.5)], straight())
        assert layers.rgba[16, 16, 3] == pytest.approx(alpha)


def test_a_clip_of_no_opacity_takes_no_layers():
    instances = [Instance(dot(2, 1.0), HERE, 0.0), Instance(dot(4, 1.0, BLUE), HERE)]
    layers = reference_scene(instances, straight(), PeelSettings(1))
    assert layers.rgba[16, 16] == pytest.approx([0, 0, 1, 1])


def test_clips_share_one_order_and_ties_go_by_clip_then_point():
    near, far = dot(2, 0.5), dot(4, 0.5, BLUE)
    for instances, order in (
        ([Instance(near, HERE), Instance(far, HERE)], [0, 1]),
        ([Instance(far, HERE), Instance(near, HERE)], [1, 0]),
    ):
        layers = reference_scene(instances, straight())
        assert layers.ids[16, 16, :2].tolist() == order
        assert layers.rgba[16, 16] == pytest.approx([0, 0.5, 0.25, 0.75])
    pair = Splats.from_colors([[0, 0, 3]] * 2, [1, 1], [0.5, 0.5], [RED, GREEN])
    tie = reference_scene([Instance(dot(3, 0.5, BLUE), HERE), Instance(pair, HERE)], straight())
    assert tie.ids[16, 16, :4].tolist() == [0, 1, 2, -1]
    assert tie.rgba[16, 16] == pytest.approx([0.25, 0.125, 0.5, 0.875])


def test_nothing_at_all():
    for instances in ([], [Instance(Splats.empty(2), HERE)]):
        empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3), int), None)
        layers = reference_scene(instances, straight(5, 4), meshes=[empty], samples=2)
        assert layers.rgba.shape == (4, 5, 4) and not layers.rgba.any() and not layers.depth.any()
        assert np.isinf(layers.surface).all() and (layers.surface_id == -1).all()
        assert layers.ids.shape == (8, 10, 12) and (layers.ids == -1).all()


# Surface and ids


def test_ids_are_places_unless_given():
    """Front to back: 0.3, then 0.3 (0.51 in all): the second clip is the surface."""
    first, second = Instance(dot(2, 0.3), HERE), Instance(dot(3, 0.3), HERE)
    layers = reference_scene([first, second], straight())
    assert layers.surface_id[16, 16] == 1 and layers.surface[16, 16] == 3
    named = reference_scene([first, replace(second, id=40)], straight())
    assert named.surface_id[16, 16] == 40
    assert layers.surface_id[0, 0] == -1 and np.isinf(layers.surface[0, 0])
    with_wall = reference_scene([first], straight(), meshes=[wall(3, RED)])
    assert (with_wall.surface_id == -2).all()  # the mesh's default


def test_alpha_of_exactly_one_half_is_a_surface():
    layers = reference_scene([Instance(dot(2, 0.5), HERE)], straight(), meshes=[wall(3, RED)])
    assert layers.surface_id[16, 16] == 0 and layers.surface_id[16, 17] == -2


# Supersampling


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("parallel", [False, True])
def test_supersampling_averages_a_larger_picture(samples, parallel):
    camera = orthographic(turned(), 0.3) if parallel else turned()
    instances = [Instance(cloud(5), pose(0.4)), Instance(cloud(6), pose(shift=(0.3, 0, 0)), id=9)]
    meshes = [wall(0.5, BLUE, half=0.4), wall(0.1, None, half=0.3)]
    fine = reference_scene(instances, camera.scaled(24 * samples, 20 * samples), meshes=meshes)
    mean = reference_scene(instances, camera, meshes=meshes, samples=samples)
    for y, x in np.ndindex(20, 24):
        block = (slice(y * samples, (y + 1) * samples), slice(x * samples, (x + 1) * samples))
        assert mean.rgba[y, x] == pytest.approx(fine.rgba[block].mean(axis=(0, 1)), abs=1e-12)
        assert mean.depth[y, x] == pytest.approx(fine.depth[block].mean(), abs=1e-12)
        surface, identity = fine.surface[block].ravel(), fine.surface_id[block].ravel()
        if 2 * np.isfinite(surface).sum() >= samples**2:
            nearest = surface.argmin()
            assert mean.surface[y, x] == surface[nearest]
            assert mean.surface_id[y, x] == identity[nearest]
        else:
            assert np.isinf(mean.surface[y, x]) and mean.surface_id[y, x] == -1
    assert np.array_equal(mean.ids, fine.ids)
    assert {-2, -1, 0, 9} <= set(mean.surface_id.ravel())


def test_the_smallest_radius_counts_in_samples():
    """A point of 0.25 px is 0.5 samples: drawn with 0.75 of them and (2 / 3)^2 of its density."""
    camera = straight(3, 3, focal=1.0)
    point = Splats.from_colors([[0.25, 0.25, 1]], [0.25], [0.9], [RED])  # at a sample's centre
    layers = reference_scene([Instance(point, HERE)], camera, samples=2)
    assert layers.rgba[1, 1, 3] == pytest.approx(0.9 * (2 / 3) ** 2 / 4)


def test_half_of_the_samples_make_a_surface():
    """A wall that ends in the middle of a pixel, to the right and below: 2 of 4 samples, 1 of 4."""
    corners = [[-9, -9, 4], [0.5, -9, 4], [0.5, 0.5, 4], [-9, 0.5, 4]]
    mesh = Mesh(corners, [[0, 1, 2], [0, 2, 3]], RED)
    layers = reference_scene([], straight(4, 4, focal=4.0), meshes=[mesh], samples=2)
    assert layers.rgba[0, :, 3].tolist() == [1, 1, 0.5, 0]
    assert layers.rgba[2, :, 3].tolist() == [0.5, 0.5, 0.25, 0]
    assert layers.surface_id[0].tolist() == [-2, -2, -2, -1]
    assert layers.surface_id[2].tolist() == [-2, -2, -1, -1]
    assert layers.surface[2].tolist() == [4, 4, np.inf, np.inf]


# What is excused


def test_a_rim_at_a_pixel_centre_is_ambiguous():
    """A disk of exactly 3 px: its rim meets the four centres 3 px from the middle."""
    splats = Splats.from_colors([[0, 0, 32]], [3], [0.5], [RED])
    excused = ambiguous_pixels([Instance(splats, HERE)], straight())
    assert np.argwhere(excused).tolist() == [[13, 16], [16, 13], [16, 19], [19, 16]]
    arrays = (splats.position, splats.radius, splats.density, splats.sh)
    assert np.array_equal(ambiguous_pixels(*arrays, straight()), excused)
    assert np.array_equal(ambiguous_pixels(*arrays, straight(), PeelSettings()), excused)
    quarter = ambiguous_pixels([Instance(splats, HERE)], straight(11, 11), samples=3)
    assert quarter.shape == (11, 11)


@pytest.mark.parametrize("steps, doubtful", [(0, False), (1, True), (4, True), (6, False)])
def test_points_at_nearly_the_same_depth_are_ambiguous(steps, doubtful):
    """Equal keys are ordered by index everywhere, so they are not."""
    z = np.float32(3) + steps * np.spacing(np.float32(3))
    instances = [Instance(dot(3, 0.5), HERE), Instance(dot(z, 0.5, BLUE), HERE)]
    assert ambiguous_pixels(instances, straight())[16, 16] == doubtful


@pytest.mark.parametrize("steps, doubtful", [(-6, False), (-3, True), (3, True), (6, False)])
def test_a_point_near_the_mesh_is_ambiguous(steps, doubtful):
    z = np.float32(3) + steps * np.spacing(np.float32(3))
    excused = ambiguous_pixels([Instance(dot(z, 0.5), HERE)], straight(), meshes=[wall(3, RED)])
    assert excused[16, 15] == doubtful and not excused[0, 1]


@pytest.mark.parametrize("steps, doubtful", [(0, False), (-3, True), (3, True), (6, False)])
def test_triangles_at_nearly_the_same_depth_are_ambiguous(steps, doubtful):
    z = np.float32(3) + steps * np.spacing(np.float32(3))
    excused = ambiguous_pixels([], straight(), meshes=[wall(3, RED), wall(z, BLUE)])
    assert excused[16, 15] == doubtful


def test_a_triangle_at_the_far_plane_is_ambiguous():
    assert ambiguous_pixels([], straight(far=3.0), meshes=[wall(3, RED)])[16, 15]
    assert not ambiguous_pixels([], straight(far=3.1), meshes=[wall(3, RED)])[16, 15]


def test_one_half_of_the_light_is_ambiguous_for_the_surface_only():
    scene = [Instance(dot(3, 0.5), HERE)]
    assert not ambiguous_pixels(scene, straight())[16, 16]
    assert ambiguous_pixels(scene, straight(), surface=True)[16, 16]
    assert not ambiguous_pixels(scene, straight(), surface=True)[16, 15]


# The inputs


def test_packed_points_are_drawn_as_they_unpack():
    splats = cloud(7, degree=1)
    packed = PackedSplats.pack_half(splats)
    assert packed.sh_degree == 1 and len(packed) == 60
    assert packed.nbytes == 60 * (12 + 2 + 2 + 24) < splats.nbytes
    assert packed.unpack().sh == pytest.approx(splats.sh, rel=1e-3)
    first = reference_scene([Instance(packed, HERE)], turned())
    second = reference_scene([Instance(packed.unpack(), HERE)], turned())
    assert np.array_equal(first.rgba, second.rgba)


def test_codes_decode_with_the_stated_rounding():
    """Ramps: each float32 operation rounds once. Positions: float64, rounded at the end."""
    codes = np.array([[0, 1], [65535, 255], [7, 300]], np.uint16)
    low, high, step = [-1.0, 0.1], [2.0, 0.35], [1e-4, 1e-3]
    ramp = Quantized(codes, low=low, high=high, step=step)
    f = np.float32
    for row, column in np.ndindex(3, 2):
        value = f(f(codes[row, column]) * f(step[column])) + f(low[column])
        assert ramp.values()[row, column] == min(f(value), f(high[column]))
        exact = min(low[column] + float(codes[row, column]) * step[column], high[column])
        assert ramp.positions()[row, column] == f(exact)
    table = Quantized(codes[:, :1], table=[0.5, 0.25, 0.125])
    assert table.values().tolist() == [[0.5], [0.125], [0.125]]
    assert table.nbytes == 6 + 12 and len(ramp) == 3


def test_codes_of_any_strides():
    """Planes as a clip stores them, component by component, and every other one of them."""
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (12, 50), np.uint8)
    kept = Quantized(planes.T[::2], low=np.zeros(12), high=np.ones(12), step=np.full(12, 1 / 255))
    assert np.shares_memory(kept.codes, planes)
    sh = PackedSplats(np.zeros((25, 3)), np.ones(25), np.ones(25), kept).unpack().sh
    assert sh.shape == (25, 4, 3)
    assert sh[3, 2, 1] == np.minimum(np.float32(planes[7, 6]) * np.float32(1 / 255), np.float32(1))
    odd = np.zeros(10, np.dtype([("a", "u1"), ("b", "<u2")]))["b"][:, None]  # 3 bytes apart
    odd[:] = np.arange(10)[:, None]
    assert Quantized(odd, table=np.arange(10)).values()[:, 0].tolist() == list(range(10))


def ramp(codes, count) -> dict:
    return {"codes": codes, "low": np.zeros(count), "high": np.ones(count), "step": np.ones(count)}


@pytest.mark.parametrize(
    "arguments, text",
    [
        (dict(codes=np.zeros((5, 1), np.int16), table=[1]), "codes of type"),
        (dict(codes=np.zeros(5, np.uint8), table=[1]), "codes of type"),
        (dict(codes=np.zeros((5, 1), np.uint8)), "either a table"),
        (dict(codes=np.zeros((5, 1), np.uint8), low=[0], high=[1]), "either a table"),
        (ramp(np.zeros((5, 1), np.uint8), 1) | {"table": [1]}, "either a table"),
        (dict(codes=np.zeros((5, 1), np.uint8), table=[]), "table of shape"),
        (ramp(np.zeros((5, 2), np.uint8), 1), "low has shape"),
        (ramp(np.zeros((5, 1), np.uint8), 1) | {"step": [np.nan]}, "step is not finite"),
        (ramp(np.zeros((5, 1), np.uint8), 1) | {"high": [1e39]}, "high is not finite"),
    ],
)
def test_codes_that_are_none(arguments, text):
    with pytest.raises(CoreError, match=text):
        Quantized(**arguments)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"radius": np.ones(4)}, "radius has shape"),
        ({"density": np.ones((5, 1))}, "density has shape"),
        ({"sh": np.ones((5, 2, 3))}, "sh has shape"),
        ({"sh": Quantized(**ramp(np.zeros((5, 6), np.uint8), 6))}, "sh has shape"),
        ({"radius": Quantized(**ramp(np.zeros((5, 2), np.uint8), 2))}, "radius has shape"),
        ({"sh": Quantized(np.zeros((5, 3), np.uint8), table=[1.0])}, "sh decoded by a table"),
        (
            {"position": Quantized(np.zeros((5, 3), np.uint16), table=[1.0])},
            "position decoded by a table",
        ),
        ({"position": Quantized(**ramp(np.zeros((5, 3), np.uint8), 3))}, "8-bit"),
    ],
)
def test_packed_points_that_disagree(change, text):
    arrays = dict(
        position=np.zeros((5, 3)), radius=np.ones(5), density=np.ones(5), sh=np.ones((5, 1, 3))
    )
    assert len(PackedSplats(**arrays)) == 5
    with pytest.raises(CoreError, match=text):
        PackedSplats(**{**arrays, **change})


def test_too_large_for_half():
    with pytest.raises(CoreError, match="radius is too large"):
        PackedSplats.pack_half(Splats(np.zeros((1, 3)), [1e6], [1], np.ones((1, 1, 3))))
    kept = PackedSplats.pack_half(Splats(np.zeros((1, 3)), [np.inf], [1], np.ones((1, 1, 3))))
    assert np.isinf(kept.radius).all()  # it is not drawn, as before


@pytest.mark.parametrize(
    "change, text",
    [
        ({"vertices": np.zeros((4, 2))}, "vertices have shape"),
        ({"vertices": [["a", "b", "c"]]}, "vertices are no array"),
        ({"triangles": [0, 1, 2]}, "triangles have shape"),
        ({"triangles": np.zeros((1, 3))}, "triangles are of type"),
        ({"triangles": [[0, 1, 4]]}, "name vertices 0 to 4"),
        ({"triangles": [[-1, 1, 2]]}, "name vertices -1 to 2"),
        ({"triangles": np.array([[0, 1, 2**40]])}, "name vertices"),
        ({"color": np.zeros((3, 3))}, "colours have shape"),
        ({"color": np.zeros(4)}, "colours have shape"),
        ({"color": (0, np.nan, 0)}, "not finite"),
        ({"color": np.zeros((4, 3)), "per": "triangle"}, "colours have shape"),
        ({"color": np.zeros((4, 3)), "per": "corner"}, "colours per 'corner'"),
        ({"triangles": [[0, 1, 2]] * 4, "color": np.zeros((4, 3))}, "as many vertices"),
        ({"id": 1.5}, "id is 1.5"),
        ({"id": 2**31}, "id is 2147483648"),
    ],
)
def test_meshes_that_are_none(change, text):
    arguments = dict(vertices=np.zeros((4, 3)), triangles=[[0, 1, 2], [0, 2, 3]], color=(1, 1, 1))
    assert len(Mesh(**arguments)) == 2
    with pytest.raises(CoreError, match=text):
        Mesh(**{**arguments, **change})


def test_colours_per_vertex_and_per_triangle():
    faces = [[0, 1, 2], [0, 2, 3], [0, 1, 3], [1, 2, 3]]
    corners = np.zeros((4, 3))
    assert Mesh(corners, faces, np.ones((4, 3)), per="triangle").per == "triangle"
    assert Mesh(corners, faces, np.ones((4, 3)), per="vertex").per == "vertex"
    assert Mesh(corners, faces[:2], np.ones((2, 3))).per == "triangle"
    assert Mesh(corners, faces[:2], np.ones((4, 3))).per == "vertex"
    assert Mesh(corners, faces, (1, 1, 1), per="vertex").per is None
    assert Mesh(corners, faces, None).holdout and not Mesh(corners, faces, (1, 1, 1)).holdout


def test_colours_are_clipped_where_they_are_drawn():
    layers = reference_scene([], straight(4, 4), meshes=[wall(3, (2, -1, 0.5))])
    assert (layers.rgba == [1, 0, 0.5, 1]).all()


def test_a_flat_colour_per_triangle():
    two = Mesh(wall(3, None).vertices, wall(3, None).triangles, [RED, BLUE])
    layers = reference_scene([], straight(), meshes=[two])
    assert (layers.rgba[1, 31, :3] == RED).all() and (layers.rgba[31, 1, :3] == BLUE).all()


def test_sh_of_one_coefficient_is_the_colour():
    """0.28 times the coefficient, from wherever the clip is seen."""
    splats = Splats([[0, 0, 0]], [1], [1], np.full((1, 1, 3), 0.5 / SH_C0))
    layers = reference_scene([Instance(splats, pose(1.0, 2.0, (0, 0, 4)))], straight())
    assert layers.rgba[16, 16] == pytest.approx([0.5, 0.5, 0.5, 1])
