"""Neighbours, outliers and components against brute force and by construction."""

import numpy as np
import pytest

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.geometry.filters import (
    inliers,
    large_components,
    moved_inwards,
    nearest_neighbours,
    remove_outliers,
)
from peel4d.engine.geometry.points import Points
from peel4d.engine.geometry.voxels import ALL_NEIGHBOURS, components, find, key_step, pack


def plane(n: int = 20, spacing: float = 0.1) -> np.ndarray:
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    return np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3) * spacing


def brute_force(points, queries, k):
    distance = np.sqrt(((queries[:, None] - points[None]) ** 2).sum(-1))
    return np.sort(distance, axis=1)[:, :k]


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("kind", ["surface", "clusters", "line", "one place", "few"])
def test_nearest_neighbours_are_exact(kind, k):
    random = np.random.default_rng(1)
    points = random.normal(size=(4000, 3))
    if kind == "surface":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    elif kind == "clusters":  # very uneven: half of the points within a thousandth of the extent
        points[::2] = points[::2] * 1e-3 + 5
    elif kind == "line":
        points *= [1, 0, 0]
    elif kind == "one place":
        points[:] = 3.0
    else:
        points = points[:3]
    queries = np.concatenate([points[:300], random.normal(size=(900, 3)) * 3, [[1e4, -1e4, 0]]])
    distance, index = nearest_neighbours(points, queries, k)
    expected = brute_force(points, queries, k)
    assert distance.shape == index.shape == (len(queries), min(k, len(points)))
    np.testing.assert_allclose(distance, expected, rtol=2e-7, atol=1e-12)  # float32's
    assert (np.diff(distance, axis=1) >= 0).all()
    reached = np.linalg.norm(points[index] - queries[:, None], axis=-1)
    np.testing.assert_allclose(reached, distance, rtol=1e-12, atol=1e-12)
    assert all(len(set(row)) == index.shape[1] for row in index.tolist())


def test_neighbours_far_from_the_origin():
    """A scene in metres of a map's coordinates: what float32 would round to one place."""
    points = np.random.default_rng(2).uniform(size=(500, 3)) + [4e6, 5e5, 100.0]
    distance, _ = nearest_neighbours(points, points[:50], 4)
    np.testing.assert_allclose(distance, brute_force(points, points[:50], 4), atol=1e-6)


def test_no_queries_and_no_points():
    distance, index = nearest_neighbours(plane(), np.zeros((0, 3)), 4)
    assert distance.shape == index.shape == (0, 4)
    distance, index = nearest_neighbours(np.zeros((0, 3)), plane(), 4)
    assert distance.shape == index.shape == (400, 0)


def test_far_point_is_an_outlier_and_a_regular_grid_has_none():
    points = plane()
    assert inliers(points).all()
    lonely = np.concatenate([points, [[1.0, 1.0, 0.9]]])
    assert inliers(lonely).tolist() == [True] * 400 + [False]
    assert inliers(points[:4]).all()  # too few to have five neighbours


def test_small_groups_fall_away_at_every_scale():
    for scale in (1e-3, 1.0, 1e3):
        points = np.concatenate([plane(), plane(2) + [0, 0, 1.0], plane(3) + [5, 0, 0]]) * scale
        kept = large_components(points, 0.101 * scale, 5)
        assert kept.tolist() == [True] * 400 + [False] * 4 + [True] * 9


def test_remove_outliers_keeps_attributes_together_and_never_everything_away():
    position = np.concatenate([plane(), [[1.0, 1.0, 0.9]]])
    points = Points(position, 0.1, np.tile([0, 0, 1.0], (401, 1)), np.arange(401))
    kept = remove_outliers(points, min_component=5)
    assert kept.view_count.tolist() == list(range(400))
    assert kept.normal.shape == (400, 3) and kept.spacing == 0.1
    tiny = Points(plane(2), 0.1)
    assert len(remove_outliers(tiny, min_component=100)) == 4


def test_components_of_a_snake_and_its_neighbours():
    """A winding path is one component whatever its order; the labels are the smallest index."""
    random = np.random.default_rng(0)
    steps = random.integers(-1, 2, size=(3000, 3))
    path = np.cumsum(steps, axis=0)
    path -= path.min(axis=0)
    apart = np.array([[500, 0, 0], [500, 1, 1], [502, 0, 0]])
    cells = np.unique(np.concatenate([path, apart]), axis=0)
    label = components(pack(cells))
    far = cells[:, 0] >= 500
    assert set(label[~far]) == {0}
    first = int(np.flatnonzero(far)[0])
    assert label[far].tolist() == [first, first, first + 2]


def test_keys_step_to_every_neighbour_and_find_what_is_there():
    cells = np.array([[0, 0, 0], [3, 4, 5], [1000, 0, 7]])
    for offset in ALL_NEIGHBOURS:
        np.testing.assert_array_equal(pack(cells) + key_step(offset), pack(cells + offset))
    keys = np.sort(pack(cells))
    assert find(keys, pack(np.array([[3, 4, 5], [3, 4, 6]]))).tolist() == [1, -1]
    assert find(keys[:0], keys).tolist() == [-1, -1, -1]


def test_points_check_their_shapes():
    with pytest.raises(ReconstructionError, match="normal"):
        Points(plane(), 0.1, normal=np.zeros((3, 3)))
    with pytest.raises(ReconstructionError, match="position"):
        Points(np.zeros((4, 2)), 0.1)


def test_moving_inwards_shrinks_a_ball_and_leaves_a_sheet():
    index = np.arange(800) + 0.5
    polar, azimuth = np.arccos(1 - 2 * index / 800), np.pi * (1 + 5**0.5) * index
    unit = np.stack(
        [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1
    ).astype(np.float32)
    ball = Points(unit, 0.1, normal=unit)
    radii = np.linalg.norm(moved_inwards(ball, 0.8), axis=1)
    np.testing.assert_allclose(radii, 1 - 0.08, atol=1e-6)

    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), [0, 0.5]), axis=-1).reshape(-1, 3)
    up = np.where(grid[:, 2:] > 0, 1, -1) * np.array([0, 0, 1])
    sheet = Points(grid.astype(np.float32), 1.0, normal=up.astype(np.float32))
    np.testing.assert_array_equal(moved_inwards(sheet, 0.8), sheet.position)
