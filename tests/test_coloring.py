"""Colours by projection: who is visible, whose sample counts, and who is never asked."""

from dataclasses import replace

import numpy as np
import pytest

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.geometry.coloring import ColorSettings, geometric_median, project_colors
from peel4d.engine.geometry.points import Points
from peel4d.engine.geometry.zbuffer import depth_buffer, project_finite, silhouette_iou
from peel4d.engine.render.camera import Camera

RED, GREEN, BLUE = np.array([[200, 30, 20], [20, 180, 40], [30, 50, 220]], dtype=np.uint8)


def looking_at(centre, target=(0, 0, 0), focal=120.0, size=96, **options) -> Camera:
    centre, target = np.asarray(centre, float), np.asarray(target, float)
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross([0, 1, 0] if abs(forward[1]) < 0.9 else [1, 0, 0], forward)
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Camera(K, R, -R @ centre, size, size, **options)


def wall(z: float, half: float = 0.5, spacing: float = 0.05) -> np.ndarray:
    x, y = np.meshgrid(*(np.arange(-half, half + 1e-9, spacing),) * 2)
    return np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3)


def plain(camera: Camera, color) -> np.ndarray:
    return np.broadcast_to(np.uint8(color), (camera.height, camera.width, 3))


FRONT, BACK = looking_at((0, 0, -3)), looking_at((0, 0, 3))


@pytest.mark.parametrize("orthographic", [False, True])
def test_two_sided_object_keeps_its_sides_apart(orthographic):
    """A thick wall, red in front and blue behind: each side is hidden from the other camera."""
    options = {"orthographic": True, "focal": 40.0} if orthographic else {}
    front = [looking_at((x, 0, -3), **options) for x in (-0.5, 0, 0.5)]
    back = [looking_at((x, 0, 3), **options) for x in (-0.5, 0, 0.5)]
    position = np.concatenate([wall(-0.15), wall(0.15)])
    points = Points(position, 0.05)
    images = [plain(c, RED) for c in front] + [plain(c, BLUE) for c in back]
    color = project_colors(points, front + back, images)
    assert color.dtype == np.float32
    expected = np.where(position[:, 2:] < 0, RED / 255, BLUE / 255)
    # At the rim the oblique cameras look past the nearer side.
    inner = (abs(position[:, :2]) < 0.35).all(axis=1)
    np.testing.assert_allclose(color[inner], expected[inner], atol=1e-6)


def test_normals_decide_on_sheets_thinner_than_the_tolerance():
    position = np.concatenate([wall(-0.02), wall(0.02)])
    normal = np.repeat([[0, 0, -1.0], [0, 0, 1.0]], len(position) // 2, axis=0)
    images = [plain(FRONT, RED), plain(BACK, BLUE)]
    color = project_colors(Points(position, 0.05, normal), [FRONT, BACK], images)
    expected = np.where(position[:, 2:] < 0, RED / 255, BLUE / 255)
    np.testing.assert_allclose(color, expected, atol=1e-6)
    # A sheet that is one point thick has no side and takes what both see.
    sheet = project_colors(Points(wall(0), 0.05, 0 * wall(0)), [FRONT, BACK], images)
    np.testing.assert_allclose(
        sheet, np.broadcast_to((RED / 510 + BLUE / 510), sheet.shape), atol=2e-3
    )


def test_color_is_sampled_where_the_point_projects():
    u, v = np.meshgrid(np.arange(96), np.arange(96))
    image = np.stack([2 * u, 2 * v, 100 + 0 * u], axis=-1).astype(np.uint8)
    points = Points(wall(0), 0.05)
    color = project_colors(points, [FRONT], [image])
    pixel, _ = FRONT.project(points.position)
    # Pixel centres are at +0.5, where the ramp has the value 2 * index.
    np.testing.assert_allclose(color[:, :2] * 255, 2 * (pixel - 0.5), atol=1e-3)


def test_unseen_points_take_the_colors_around_them():
    """Behind the wall, outside every image and behind the camera: never black, never NaN."""
    hidden = np.array([[0.4, 0.0, 1.0], [0, 50.0, 0], [0, 0, -9.0], [0, 0, -3.0]])
    image = plain(FRONT, RED).copy()
    image[:, 48:] = GREEN
    position = np.concatenate([wall(0), hidden])
    color = project_colors(Points(position, 0.05), [FRONT], [image])
    assert np.isfinite(color).all()
    assert (color.max(axis=1) > 0.4).all()  # 0.43 halfway between red and green
    right_of_centre = FRONT.project(np.array([0.4, 0, 1.0]))[0][0] > 48
    np.testing.assert_allclose(color[-4], (GREEN if right_of_centre else RED) / 255, atol=1e-6)


def test_samples_outside_the_mask_are_not_used():
    """The points stick out of the subject by some pixels; the background there is green."""
    image, mask = plain(FRONT, GREEN).copy(), np.zeros((96, 96), dtype=bool)
    image[33:63, 33:63] = RED
    mask[33:63, 33:63] = True
    points = Points(wall(0), 0.05)
    leaking = project_colors(points, [FRONT], [image])
    clean = project_colors(points, [FRONT], [image], [mask])
    assert (leaking[:, 1] > 0.5).any()
    np.testing.assert_allclose(clean, np.broadcast_to(RED / 255, clean.shape), atol=1e-6)


def test_subject_at_the_image_border_is_sampled_up_to_it():
    mask = np.zeros((96, 96), dtype=bool)
    mask[:, :40] = True
    image = plain(FRONT, GREEN).copy()
    image[:, 0] = BLUE
    border = np.array([[(0.25 - 48) / 120 * 3, y, 0] for y in np.linspace(-0.5, 0.5, 20)])
    color = project_colors(Points(border, 0.05), [FRONT], [image], [mask])
    np.testing.assert_allclose(color, np.broadcast_to(BLUE / 255, color.shape), atol=1e-6)


def test_a_minority_is_outvoted():
    cameras = [looking_at((x, 0, -3)) for x in np.linspace(-1, 1, 7)]
    images = [plain(c, [250, 250, 250] if i == 2 else [60, 70, 80]) for i, c in enumerate(cameras)]
    color = project_colors(Points(wall(0), 0.05), cameras, images)
    mean = (6 * np.array([60, 70, 80]) + 250) / 7
    assert abs(color * 255 - [60, 70, 80]).max() < 6 < abs(mean - [60, 70, 80]).max() / 4


def test_cameras_without_image_and_empty_masks_are_left_out():
    cameras = [FRONT, BACK, looking_at((3, 0, -0.1))]
    images = [plain(FRONT, RED), None, plain(FRONT, GREEN)]
    masks = [None, None, np.zeros((96, 96), dtype=bool)]
    color = project_colors(Points(wall(0), 0.05), cameras, images, masks)
    np.testing.assert_allclose(color, np.broadcast_to(RED / 255, color.shape), atol=1e-6)


def test_no_points_have_no_colors():
    empty = Points(np.zeros((0, 3)), 0.1)
    assert project_colors(empty, [FRONT], [plain(FRONT, RED)]).shape == (0, 3)


@pytest.mark.parametrize(
    ("cameras", "images", "masks", "message"),
    [
        ([FRONT], [], None, "1 cameras were given with 0 images"),
        ([FRONT], [plain(FRONT, RED)], [], "and 0 masks"),
        ([FRONT], [np.zeros((5, 7, 3), np.uint8)], None, "camera 0: the image is"),
        ([FRONT], [plain(FRONT, RED)], [np.ones((5, 7))], "camera 0: the mask is"),
        ([FRONT], [None], None, "no camera with an image sees any point"),
        ([looking_at((0, 0, -3), (0, 0, -9))], [plain(FRONT, RED)], None, "sees any point"),
    ],
)
def test_bad_input_is_explained(cameras, images, masks, message):
    with pytest.raises(ReconstructionError, match=message):
        project_colors(Points(wall(0), 0.05), cameras, images, masks)


def test_settings_are_checked():
    with pytest.raises(ReconstructionError, match="out of range"):
        ColorSettings(tolerance=0)


def test_geometric_median_of_collinear_samples_is_the_weighted_median():
    samples = np.array([0.1, 0.4, 0.9])[:, None, None] * np.ones((3, 2, 3))
    weights = np.array([[1.0, 0], [1, 0], [1, 0]])
    result = geometric_median(samples, weights)
    np.testing.assert_allclose(result[0], 0.4, atol=0.05)
    np.testing.assert_array_equal(result[1], 0)


def test_depth_buffer_of_single_disks():
    """Position, size, order and clipping of disks, by hand."""
    points = np.array([[0, 0, 1.0], [0, 0, 0], [0, 0, -9.0], [np.nan, 0, 0], [1.19, 0, 0]])
    buffer = depth_buffer(points, 0.1, FRONT)  # radius 0.1 * 120 / 3 = 4 px at the origin
    assert buffer.shape == (96, 96)
    assert buffer[48, 48] == pytest.approx(3)  # the nearer of the two
    drawn = np.isfinite(buffer)
    assert drawn[:, :60].sum() == pytest.approx(np.pi * 16, rel=0.1)
    side = FRONT.project(points[4])[0][0]
    assert drawn[48, int(side)] and drawn[:, 90:].sum() > 20  # cut by the border, not wrapped
    assert not drawn[:, :40].any()
    single = depth_buffer(np.array([[0.105, 0.105, 0]]), 1e-6, FRONT)
    assert np.argwhere(np.isfinite(single)).tolist() == [[52, 52]]  # the centre's pixel, always
    large = np.isfinite(depth_buffer(np.array([[0, 0, -2.9]]), 0.1, FRONT))
    assert large[48, 48] and large[0, 48] and not large[0, 0]  # 64 pixels instead of 120
    far = replace(FRONT, t=FRONT.t - [0, 1e6, 0])  # precise as ever far from the origin
    np.testing.assert_allclose(depth_buffer(points + [0, 1e6, 0], 0.1, far), buffer, rtol=1e-6)


def test_projection_never_yields_a_usable_index_for_what_is_not_seen():
    points = np.array(
        [[0, 0, -3.0], [0, 0, -5], [9, 0, 0], [0, 0, 0], [np.inf, 0, 0], [0, 0, 1e300]]
    )
    u, v, _, valid = project_finite(points, FRONT)
    assert valid.tolist() == [False, False, False, True, False, False]
    assert np.isfinite(u).all() and (u[~valid] == -1).all() and (v[~valid] == -1).all()


def test_silhouette_iou():
    mask = np.isfinite(depth_buffer(wall(0), 0.04, FRONT))
    assert silhouette_iou(wall(0), 0.04, FRONT, mask) == 1
    half = mask & (np.arange(96) < 48)
    assert silhouette_iou(wall(0), 0.04, FRONT, half) == pytest.approx(0.5, abs=0.02)
    assert silhouette_iou(np.zeros((0, 3)), 0.04, FRONT, np.zeros((96, 96))) == 1
