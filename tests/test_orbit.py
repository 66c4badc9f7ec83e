"""The camera path around a clip."""

import numpy as np
import pytest
from ball import ring_camera

from peel4d.engine.render.orbit import mean_up, orbit

BOUNDS = np.array([[-0.5, -0.5, -1.0], [0.5, 0.5, 1.0]])


def rig():
    return [ring_camera(angle, 0.4, 200) for angle in np.linspace(0, 5, 6)]


def test_up_of_a_ring_is_its_axis():
    np.testing.assert_allclose(mean_up(rig())[2], 1, atol=0.02)


@pytest.mark.parametrize("size", [None, (320, 100), (64, 300)])
def test_the_box_fits_and_the_circle_closes(size):
    path = orbit(rig(), BOUNDS, np.array([0.0, 0.0, 1.0]), 8, size=size)
    corners = np.array(np.meshgrid(*BOUNDS.T)).reshape(3, -1).T
    for camera in path:
        pixels, z = camera.project(corners)
        assert (z > 0).all() and (pixels > 0).all()
        assert (pixels < [camera.width, camera.height]).all()
        np.testing.assert_allclose(camera.R @ camera.R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.R) > 0
    angles = np.unwrap([np.arctan2(c.centre[1], c.centre[0]) for c in path])
    np.testing.assert_allclose(np.diff(angles), 2 * np.pi / 8, atol=1e-9)
    np.testing.assert_allclose([np.linalg.norm(c.centre[:2]) for c in path], 3, atol=1e-6)
