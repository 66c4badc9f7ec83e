"""The static background: depth by plane sweep, completed, closed by a shell, seen by every camera.

Scenes are ray-traced (traced_room.py): planes and boxes with a solid texture of random waves.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from traced_room import ROOM, looking, picture, rays, room_cameras, slanted, texture, walls

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.geometry.background import BackgroundSettings, static_background
from peel4d.engine.geometry.depth_completion import complete
from peel4d.engine.geometry.plane_sweep import (
    InverseDepth,
    SweepSettings,
    _better_half,
    believed,
    choose_neighbours,
    scene_centre,
    semi_global,
    sweep,
)
from peel4d.engine.geometry.shell import directions, fit_shell, gaps
from peel4d.engine.geometry.surface_fusion import FusionSettings, fused
from peel4d.engine.geometry.view_surfaces import ConsensusSettings, _nearest_surface
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.core import IDENTITY
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats
from peel4d.engine.train import background
from peel4d.engine.train.background import seen_by_mean_camera
from peel4d.engine.train.settings import TrainSettings


def test_semi_global_is_the_recursion():
    random = np.random.default_rng(0)
    cost = random.uniform(0, 1, (4, 3, 5))
    planes, height, width = cost.shape
    small, large = 0.1, 0.4
    expected = np.zeros_like(cost)
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        path = np.zeros_like(cost)
        rows = range(height)[:: -1 if down < 0 else 1]
        columns = range(width)[:: -1 if right < 0 else 1]
        for i, j, d in itertools.product(rows, columns, range(planes)):
            a, b = i - down, j - right
            path[d, i, j] = cost[d, i, j]
            if 0 <= a < height and 0 <= b < width:
                before = path[:, a, b]
                near = [before[e] + small for e in (d - 1, d + 1) if 0 <= e < planes]
                least = before.min()
                path[d, i, j] += min(before[d], least + large, *near) - least
        expected += path
    np.testing.assert_allclose(semi_global(cost, small, large), expected, atol=1e-12)


def test_completion_continues_a_plane_over_a_hole():
    rows, columns = np.indices((60, 80))
    plane = 0.5 + 0.01 * columns - 0.004 * rows
    known = np.ones(plane.shape)
    known[15:45, 20:60] = 0
    whole = complete(np.where(known > 0, plane, 0), known)
    # The plane spans 1.0; what is left is the small pull towards flatness.
    assert np.abs(whole - plane).max() < 2e-3
    assert np.abs(whole - plane)[known > 0].max() < 1e-4


def test_completion_keeps_a_fold():
    rows, columns = np.indices((60, 80))
    roof = 0.01 * np.minimum(columns, 79 - columns) + 0.002 * rows
    known = np.ones(roof.shape)
    known[20:40, 25:55] = 0
    data = np.where(known > 0, roof, 0)
    sharp, soft = complete(data, known), complete(data, known, folds=0)
    # The price of bending is robust, so what is known stays sharp (0.005 is half a pixel of the
    # slope), and the hole, 30 columns wide, is nearer to the ridge than a smooth surface is.
    known = known > 0
    errors = [np.abs(surface - roof) for surface in (sharp, soft)]
    assert errors[0][known].max() < 5e-4 and errors[1][known].max() > 5e-3
    assert errors[0][~known].max() < 0.85 * errors[1][~known].max()
    assert errors[0][~known].max() < 0.3 * 0.15  # of what the ridge rises above its sides


def test_completion_of_nothing_is_zero():
    assert not complete(np.ones((30, 40)), np.zeros((30, 40))).any()


def test_sweep_finds_a_slanted_plane():
    places = [(0, 0), (0.6, 0), (-0.6, 0), (0, 0.5), (0, -0.5)]
    cameras = [looking([x, y, 0], [0, 0, 4]) for x, y in places]
    images = [picture(camera, slanted) for camera in cameras]
    # Gains and offsets of the cameras must not matter.
    images[1] = np.round(images[1] * 0.8 + 10).astype(np.uint8)
    centre = np.array([0.0, 0.0, 4.0])
    surfaces = sweep(cameras, images, centre, SweepSettings(longer_side=96))
    for surface in surfaces:
        truth = 1 / slanted(surface.camera, rays(surface.camera))
        certain = surface.confidence > 0.5
        assert certain.mean() > 0.7
        error = np.abs(surface.inverse - truth)[certain] / surface.step
        # The rest is at the borders, where one neighbour alone can be wrong.
        assert np.median(error) < 0.15 and np.quantile(error, 0.95) < 1.0


def test_cameras_side_by_side_have_some_depth():
    """Half a degree apart as seen from the scene, as eyes are."""
    cameras = [looking([x, 0, 0], [x, 0, 4], width=480, height=360) for x in (0.0, 0.035)]
    centre = np.array([0.0, 0.0, 4.0])
    assert choose_neighbours(cameras, 0, centre, 8) == [1]
    settings = SweepSettings(longer_side=480)
    surfaces = sweep(cameras, [picture(camera, slanted) for camera in cameras], centre, settings)
    truth = 1 / slanted(surfaces[0].camera, rays(surfaces[0].camera))
    moved = 480 * 0.035 * np.abs(surfaces[0].inverse - truth)
    assert np.median(moved) < 1.0  # pixels in the other view, of four


def test_a_view_without_neighbours_has_no_surface():
    cameras = [looking([0, 0, 0], [0, 0, 4]), looking([0, 0, -1], [0, 0, -5])]
    images = [np.zeros((72, 96, 3), np.uint8)] * 2
    assert sweep(cameras, images, np.array([0.0, 0, 4])) == [None, None]


def test_neighbours_overlap():
    def at(degrees):
        a = np.radians(degrees)
        return looking([4 * np.sin(a), 0, -4 * np.cos(a)], [0, 0, 0])

    away = looking([0.8, 0, -4], [0.8, 0, -8])
    cameras = [at(0), away, at(60), at(16), at(1), at(-40)]
    chosen = choose_neighbours(cameras, 0, np.zeros(3), 8)
    # Best is the one beside it; one in the same place and one far around say less.
    assert chosen[:2] == [3, 5] and 1 not in chosen and 0 not in chosen
    assert choose_neighbours(cameras, 0, np.zeros(3), 2) == [3, 5]


def test_the_centre_is_where_cameras_look():
    cameras = [looking(p, [0, 0, 4]) for p in ([0, 0, 0], [1, 0, 0], [0, 1, 0])]
    np.testing.assert_allclose(scene_centre(cameras), [0, 0, 4], atol=1e-9)
    bounds = np.array([[-1.0, 0, 1], [1, 2, 3]])
    np.testing.assert_allclose(scene_centre(cameras, bounds), [0, 1, 2])
    # Parallel ones: ten times as far away as they are from their middle.
    parallel = [looking([x, 0, 0], [x, 0, 1]) for x in (-1.0, 1.0)]
    np.testing.assert_allclose(scene_centre(parallel), [0, 0, 10], atol=1e-9)


def sphere_points(count: int, seed: int = 0):
    random = np.random.default_rng(seed)
    direction = random.normal(size=(count, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True), random


def test_shell_through_a_sphere_with_outliers():
    direction, random = sphere_points(20_000)
    middle, radius = np.array([1.0, -2.0, 0.5]), 3.0
    distance = np.full(len(direction), radius)
    wrong = random.uniform(size=len(direction)) < 0.1
    distance[wrong] = radius * random.uniform(0.2, 2.0, wrong.sum())
    shell = fit_shell(middle + direction * distance[:, None], np.ones(len(direction)), middle)
    error = shell.distance(direction) / radius - 1
    assert np.abs(error).max() < 0.1 and np.sqrt(np.mean(error**2)) < 0.02
    # From a camera beside the middle: |c + z ray| = radius.
    camera = looking(middle + [0.8, 0.3, -0.5], middle + [0, 0.5, 3])
    ray, start = rays(camera), camera.centre - middle
    a, b = (ray * ray).sum(axis=-1), ray @ start
    depth = (-b + np.sqrt(b * b - a * (start @ start - radius**2))) / a
    found = shell.inverse_depth(camera) * depth
    assert np.abs(found - 1).max() < 0.1 and np.abs(np.median(found) - 1) < 0.02


def test_gaps_only_where_cameras_look():
    direction, _ = sphere_points(20_000)
    middle = np.zeros(3)
    shell = fit_shell(2 * direction, np.ones(len(direction)), middle)
    left = 2 * direction[direction[:, 0] < 0]
    camera = looking([0, 0, 0], [0, 0, 1], focal=1.0)  # 53 x 41 degrees about +z
    closing, where = gaps(shell, left, [camera], 0.1, 5.0)
    np.testing.assert_allclose(closing, where * shell.distance(where)[:, None])
    x, y, z = closing.T
    half = np.radians(5)
    assert len(closing) > 40 and (z > 0).all()
    assert (np.abs(x / z) < 0.5 + np.tan(half) + 1e-9).all()
    assert (np.abs(y / z) < 0.375 + np.tan(half) + 1e-9).all()
    assert x.min() > -0.2  # a cell or two over the edge of what is there
    # As dense as asked for: every direction of the gap is near a point.
    gap = direction[(np.abs(direction[:, :2] / direction[:, 2:]) < 0.3).all(axis=1)]
    gap = 2 * gap[(gap[:, 2] > 0) & (gap[:, 0] > 0.15)]
    nearest = np.linalg.norm(gap[:, None] - closing[None], axis=2).min(axis=1)
    assert nearest.max() < 0.2
    assert len(gaps(shell, 2 * direction, [camera], 0.1, 5.0)[0]) == 0


def test_cells_of_directions():
    unit = np.array([[0.0, 1, 0], [0, -1, 0], [1, 0, 0], [-1, 0, 1e-9]])
    cells = directions(unit, 8)
    assert cells[0] // 16 == 7 and cells[1] // 16 == 0
    assert cells[2] == 4 * 16 + 8 and cells[3] == 4 * 16 + 15


@pytest.fixture(scope="module")
def room():
    cameras = room_cameras()
    plates = [picture(camera, walls) for camera in cameras]
    known = [np.ones(plate.shape[:2], bool) for plate in plates]
    known[2][20:40, 30:50] = False  # was always hidden; what was filled in there is wrong
    plates[2] = np.where(known[2][..., None], plates[2], np.uint8(90))
    quick = SweepSettings(longer_side=64, neighbours=4)
    found = static_background(cameras, plates, known, settings=BackgroundSettings(sweep=quick))
    return cameras, plates, found


def to_walls(position: np.ndarray) -> np.ndarray:
    """Distance of places from the room's nearest wall, negative outside."""
    return (ROOM - np.abs(position)).min(axis=1)


def test_points_of_a_room_lie_on_its_walls(room):
    cameras, _, found = room
    position, spacing = found.points.position[~found.guessed], found.points.spacing
    assert len(position) > 500 and found.color.shape == (len(found.points.position), 3)
    distance = np.abs(to_walls(position)) / spacing
    # Some of the walls have much texture, where a spacing is two pixels, and the maps are coarse.
    assert np.median(distance) < 0.5 and np.quantile(distance, 0.9) < 3.0
    assert found.scale.shape == (len(found.points.position),)
    assert len(found.surfaces) == len(cameras) and None not in found.surfaces

    # Their colours are the mean over the part of the wall that they stand for.
    wall = (ROOM - np.abs(position)).argmin(axis=1)
    each = np.arange(len(position))
    position[each, wall] = np.sign(position[each, wall]) * ROOM[wall]
    across = np.arange(3) != wall[:, None]
    offsets = [np.array(o) * 0.3 * spacing for o in itertools.product((-1, 0, 1), repeat=3)]
    mean = np.mean([texture(position + np.where(across, o, 0)) for o in offsets], axis=0)
    assert np.median(np.abs(found.color[~found.guessed] - mean)) < 0.03


def test_surfaces_of_a_room_are_its_walls(room):
    for surface in room[2].surfaces:
        truth = 1 / walls(surface.camera, rays(surface.camera))
        error = np.abs(surface.inverse / truth - 1)
        assert np.median(error) < 0.02 and np.quantile(error, 0.9) < 0.1


def test_no_point_of_a_room_covers_a_lens(room):
    cameras, _, found = room
    centre = scene_centre(cameras)
    for camera in cameras:
        uv, z = camera.project(found.points.position.astype(np.float64))
        reach = BackgroundSettings().lens_space * np.linalg.norm(camera.centre - centre)
        with np.errstate(invalid="ignore"):
            inside = (uv >= 0).all(axis=1) & (uv < [camera.width, camera.height]).all(axis=1)
        assert not (inside & (z < reach)).any()


def test_unseen_directions_of_a_room_are_closed(room):
    cameras, _, found = room
    assert found.guessed.any() and not found.guessed.all()
    # Every pixel of every camera has a point before it, those seen and a little beyond.
    position = found.points.position.astype(np.float64)
    for camera in cameras:
        wide = 8
        large = camera.crop(-wide, -wide, camera.width + 2 * wide, camera.height + 2 * wide)
        uv, z = large.project(position)
        reach = 1.5 * found.points.spacing * large.K[0, 0] / z
        covered = np.zeros((large.height, large.width), bool)
        rows, columns = np.indices(covered.shape) + 0.5
        for (u, v), size in zip(uv[z > 0.1], reach[z > 0.1], strict=True):
            if -20 < u < large.width + 20 and -20 < v < large.height + 20:
                r0, r1 = (int(np.clip(e, 0, large.height)) for e in (v - size, v + size + 1))
                c0, c1 = (int(np.clip(e, 0, large.width)) for e in (u - size, u + size + 1))
                window = np.s_[r0:r1, c0:c1]
                covered[window] |= np.hypot(columns[window] - u, rows[window] - v) < size
        assert covered.mean() > 0.98


def test_a_plain_room_has_no_background():
    cameras = room_cameras(4)
    random = np.random.default_rng(0)
    plates = [
        np.uint8(np.clip(np.round(128 + random.normal(0, 1.5, (72, 96, 3))), 0, 255))
        for _ in cameras
    ]
    with pytest.raises(ReconstructionError, match="do not agree") as raised:
        static_background(cameras, plates, [np.ones((72, 96), bool)] * 4)
    assert "calibration" in raised.value.hint


def measured_walls(cameras: list[Camera], noise: float) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    exact = [walls(camera, rays(camera)) for camera in cameras]
    return [np.float32(z + random.normal(0, noise, z.shape)) for z in exact]


def test_a_plain_room_is_where_a_sensor_measures_it():
    """The same plain plates, and depth of 1 cm of noise at 2 to 6 units; one view has none."""
    cameras = room_cameras(4)
    plates = [np.full((72, 96, 3), 128, np.uint8)] * 4
    depths = measured_walls(cameras, 0.01)
    depths[1][:, :30] = 0  # out of the sensor's range
    depths[2][...] = 0
    known = [np.ones((72, 96), bool)] * 4
    quick = BackgroundSettings(sweep=SweepSettings(longer_side=48, neighbours=3))
    found = static_background(cameras, plates, known, depths=depths, settings=quick)
    position, spacing = found.points.position[~found.guessed], found.points.spacing
    assert len(position) > 300
    distance = np.abs(to_walls(position)) / spacing
    assert np.median(distance) < 0.1 and np.quantile(distance, 0.9) < 0.5
    for surface in found.surfaces:  # the view without depth has its neighbours'
        error = np.abs(surface.inverse * walls(surface.camera, rays(surface.camera)) - 1)
        assert np.median(error) < 0.01 and np.quantile(error, 0.9) < 0.05


def test_what_is_measured_beats_what_looks_alike():
    """A view with texture that has half of its picture measured: there it is exact."""
    cameras = room_cameras()
    plates = [picture(camera, walls) for camera in cameras]
    depths: list[np.ndarray | None] = [None] * len(cameras)
    depths[3] = measured_walls(cameras, 0.0)[3]
    depths[3][:, :48] = 0
    settings = SweepSettings(longer_side=48, neighbours=4)
    swept, half = (
        sweep(cameras, plates, scene_centre(cameras), settings, measured=given)[3]
        for given in (None, depths)
    )
    assert swept.sensed is None and half.camera.width == 48
    np.testing.assert_array_equal(half.inverse[:, :23], swept.inverse[:, :23])
    assert not half.sensed[:, :23].any() and half.sensed[:, 25:].mean() > 0.8
    truth = 1 / walls(half.camera, rays(half.camera))
    np.testing.assert_allclose(half.inverse[half.sensed], truth[half.sensed], rtol=0.01)
    assert (half.confidence[half.sensed] == 1).all()


def test_a_pixel_between_two_things_is_not_believed():
    camera = looking([0.03, 0, 0], [0.03, 0, 4], width=96, height=72)
    depth = np.float32(post(camera, rays(camera)))
    blank = np.full((24, 32), 0.1, np.float32)
    surface = InverseDepth(camera.scaled(32, 24), blank, np.zeros_like(blank), 0.01)
    found = believed(surface, depth)
    inverse = found.inverse[found.sensed]
    assert np.minimum(np.abs(inverse - 1 / 2.5), np.abs(inverse - 1 / 4)).max() < 1e-3
    assert found.sensed.mean() == 30 / 32  # a column at either edge of the post
    assert (found.inverse[~found.sensed] == 0.1).all()


def test_cameras_that_see_nothing_in_common():
    cameras = [looking([0, 0, 0], [0, 0, 4]), looking([0, 0, -1], [0, 0, -5])]
    plates = [picture(camera, walls) for camera in cameras]
    with pytest.raises(ReconstructionError, match="no two views") as raised:
        static_background(cameras, plates, [np.ones((72, 96), bool)] * 2)
    assert "overlapping" in raised.value.hint


def test_the_mean_cameras_colours_move_into_the_points():
    random = np.random.default_rng(3)
    splats = Splats.from_colors(
        np.float32(random.uniform(-1, 1, (300, 3)) + [0, 0, 4]),
        np.full(300, 0.15),
        np.full(300, 0.7),
        random.uniform(0.2, 0.6, (300, 3)),
    )
    camera = looking([0, 0, 0], [0, 0, 4])
    log_gain, offset = torch.tensor([0.2, -0.1, 0.0]), torch.tensor([0.05, 0.0, -0.1])

    def seen(points):
        return render_scene([Instance(points, IDENTITY, id=0)], camera, PeelSettings()).rgba

    rgba = seen(splats)
    color = CameraColor(1).requires_grad_(False)
    color.log_gain[0], color.offset[0] = log_gain, offset
    both = torch.from_numpy(rgba[..., :3]), torch.from_numpy(rgba[..., 3:])
    expected = color(0, *both, camera).numpy()
    moved = seen(seen_by_mean_camera(splats, log_gain, offset))
    np.testing.assert_allclose(moved[..., :3], expected, atol=2e-6)
    np.testing.assert_array_equal(moved[..., 3], rgba[..., 3])


def test_vignetting_does_not_move_with_a_crop():
    camera = looking([0, 0, 0], [0, 0, 1], width=64, height=48)
    color = CameraColor(2).requires_grad_(False)
    color.vignetting[0] = torch.tensor([-0.3, -0.2, -0.1])
    color.vignetting[1] = torch.tensor([0.05, 0.0, -0.05])
    whole = color.falloff(camera)
    part = color.falloff(camera.crop(10, 20, 30, 16))
    np.testing.assert_allclose(part, whole[20:36, 10:40], atol=1e-6)
    corner = (0.5 * 63 / 64) ** 2 + (0.5 * 47 / 64) ** 2
    np.testing.assert_allclose(whole[0, 0, 0], 1 + corner * (-0.3 + corner * 0.05), atol=1e-6)
    # The picture of a crop is the crop of the picture, for a camera and for the mean one.
    random = np.random.default_rng(0)
    rgb = torch.from_numpy(random.uniform(0, 1, (48, 64, 3)).astype(np.float32))
    alpha = torch.ones(48, 64, 1)
    for view in (None, 1):
        large = color(view, rgb, alpha, camera)[20:36, 10:40]
        small = color(view, rgb[20:36, 10:40], alpha[20:36, 10:40], camera.crop(10, 20, 30, 16))
        np.testing.assert_allclose(small, large, atol=1e-6)


def test_points_are_dense_where_there_is_texture():
    """A wall three units away: plain on the left, every second pixel black on the right."""
    camera = looking([0, 0, 0], [0, 0, 3])
    plate = np.full((72, 96, 3), 120, np.uint8)
    plate[::2, 48:] = 0
    small = camera.scaled(48, 36)
    flat = np.full((36, 48), 1 / 3, np.float32)
    surface = InverseDepth(small, flat, np.ones_like(flat), 0.01)
    nowhere = np.zeros((36, 48), bool)
    position, color, scale, spacing = fused([surface], [plate], [nowhere], 0.01, FusionSettings())
    edge = 0.1  # the blur that tells detail reaches over the border
    left, right = (scale[side * position[:, 0] > edge] for side in (-1, 1))
    halving = np.log2(left.mean() / right.mean())
    assert halving == pytest.approx(1, abs=0.1)
    # So many points a spacing's square, on both sides.
    assert len(right) / len(left) == pytest.approx(4, rel=0.25)
    assert spacing * left.max() == pytest.approx(4 * 3 / camera.K[0, 0], rel=0.5)
    np.testing.assert_allclose(position[:, 2], 3, rtol=1e-4)
    assert color.min() >= 0 and color.max() <= 1


def post(camera, ray):
    """Depth of a post, 0.8 wide at z = 2.5, before a wall at z = 4."""
    with np.errstate(divide="ignore"):
        face, wall = ((z - camera.centre[2]) / ray[..., 2] for z in (2.5, 4.0))
    x = camera.centre[0] + face * ray[..., 0]
    return np.where(np.abs(x) < 0.4, face, wall)


def test_a_near_thing_stands_free_before_the_wall():
    places = [(x, y) for x in (-1.2, -0.6, 0.0, 0.6, 1.2) for y in (-0.3, 0.3)]
    cameras = [looking([x, y, 0], [0.3 * x, 0, 4], width=128, height=96) for x, y in places]
    plates = [picture(camera, post) for camera in cameras]
    known = [np.ones(plate.shape[:2], bool) for plate in plates]
    quick = SweepSettings(longer_side=128, neighbours=6)
    found = static_background(cameras, plates, known, settings=BackgroundSettings(sweep=quick))
    position = found.points.position[~found.guessed]
    seen = np.abs(position[:, 1]) < 1.0
    x, z = position[seen][:, 0], position[seen][:, 2]
    on_face, on_wall = np.abs(z - 2.5) < 0.15, np.abs(z - 4) < 0.3
    # What is neither is the sheet between them, which hides the wall from the side.
    assert (~on_face & ~on_wall).mean() < 0.25  # a half, before views hid what is behind things
    assert 0.35 < np.quantile(np.abs(x[on_face]), 0.97) < 0.5
    cells = np.floor((x[on_face & (np.abs(x) < 0.4)] + 0.4) / 0.1).astype(int)
    assert np.bincount(cells, minlength=8)[:8].min() >= 5


def test_what_is_in_front_hides_what_more_views_see_behind():
    pixel = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    inverse = np.array([0.5, 0.51, 0.25, 0.25, 0.5, 0.25, 0.26, 0.3])
    weight = np.array([0.6, 0.6, 2.0, 2.0, 0.2, 2.0, 2.0, 0.1])
    mean, total = _nearest_surface(pixel, inverse, weight, 4, 0.01, ConsensusSettings())
    # One weak place in front of many is an error; a pixel that nobody measured has no weight.
    np.testing.assert_allclose(mean[:3], [0.505, 0.255, 0.3], atol=2e-3)
    assert 0.8 < total[0] < 1.2 and total[3] == 0


def test_neighbours_that_see_nothing_do_not_vote():
    likeness = np.full((6, 2, 1, 1), 0.0, np.float32)
    likeness[0, 0] = likeness[1, 0] = 0.9  # two see the first plane
    likeness[:, 1] = 0.5  # all see the second, where things look half alike
    likeness[3, 0] = -0.2  # what hides it in one neighbour is in the worse half
    np.testing.assert_allclose(_better_half(likeness).ravel(), [0.9, 0.5])
    alone = np.array([0.9, 0, 0, 0], np.float32).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(_better_half(alone).ravel(), [0.45])


def test_neighbours_share_out_the_view():
    """Two of three look where the first does; the one that sees its other side comes second."""
    cameras = [
        looking([0, 0, 0], [0, 0, 4], focal=0.5),
        looking([0.6, 0, 0], [1.2, 0, 4]),
        looking([0.6, 0.1, 0], [1.2, 0, 4]),
        looking([-0.3, 0, 0], [-1.8, 0, 4]),
    ]
    chosen = choose_neighbours(cameras, 0, np.array([0.0, 0, 4]), 2)
    assert 3 in chosen and len(chosen) == 2


@pytest.mark.parametrize("points", ["depth", "hull"])
def test_depth_maps_serve_the_background_unless_hulls_are_asked_for(monkeypatch, points):
    plate, depth = np.full((4, 4, 4), 255, np.uint8), np.ones((4, 4), np.float32)
    given = []

    def record(cameras, plates, known, *, depths, **_):
        given.extend(depths)
        raise ReconstructionError("this is far enough")

    monkeypatch.setattr(background, "static_background", record)
    monkeypatch.setattr(background, "plate_depth", lambda capture, reader, view: depth)
    capture = SimpleNamespace(
        moving=False, bounds=None, views=range(4), camera=lambda frame, view: None
    )
    run = SimpleNamespace(
        plan=SimpleNamespace(points=points, background="auto", settings=TrainSettings()),
        folder=None,
        capture=capture,
        reader=None,
        views=[0, 1, 3],
        plates=dict.fromkeys(range(4), plate),
    )
    assert background.reconstruct_background(run, lambda *_: None) is None
    assert given == ([depth] * 3 if points == "depth" else [None] * 3)
