"""The demo's rig: 20 training cameras on three rings of a dome and 4 test cameras between them.

Pure numpy, world axes of `demo_scene` (z up, metres). Cameras all look at one point; each zooms and
shifts its lens (as a view camera does) so that the subject fills its image at every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peel4d.engine.render.camera import Camera

TARGET = np.array([0.0, 0.08, 0.56])
DISTANCE = 3.6
FILL = 0.94  # of the image's width or height, whichever the subject reaches first
# (elevation, number of cameras, azimuth of the first), degrees; azimuth -90 looks into its face.
TRAIN_RINGS = ((8.0, 8, -90.0), (35.0, 8, -67.5), (62.0, 4, -90.0))
TEST_DIRECTIONS = ((-67.5, 12.0), (0.0, 40.0), (112.5, 13.0), (-135.0, 42.0))


@dataclass(frozen=True)
class RigView:
    """One place on the dome. azimuth from +x towards +y, elevation above the horizon, degrees."""

    name: str
    azimuth: float
    elevation: float
    train: bool

    @property
    def direction(self) -> np.ndarray:
        """Unit vector from the target to the camera, (3,)."""
        a, e = np.radians([self.azimuth, self.elevation])
        return np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])


def rig() -> list[RigView]:
    """Training views 00..19, then test views 20..23."""
    places = [
        (first + 360.0 * k / count, elevation, True)
        for elevation, count, first in TRAIN_RINGS
        for k in range(count)
    ]
    places += [(azimuth, elevation, False) for azimuth, elevation in TEST_DIRECTIONS]
    return [RigView(f"{index:02d}", *place) for index, place in enumerate(places)]


def quick_rig() -> list[RigView]:
    """Five training views and one test view, for tests."""
    places = [(-90.0 + 72 * k, 12.0 + 30 * (k % 2), True) for k in range(5)]
    places.append((-54.0, 20.0, False))
    return [RigView(f"{index:02d}", *place) for index, place in enumerate(places)]


@dataclass(frozen=True)
class Spacing:
    """Angles in degrees, seen from the target.

    train: distance of each training camera to its nearest training camera. test: distance of each
    test camera to the nearest training camera.
    """

    train: np.ndarray
    test: np.ndarray

    @property
    def held_out_far_enough(self) -> bool:
        """Test cameras keep half the camera spacing even where the rig is sparsest."""
        return len(self.test) == 0 or bool(self.test.min() >= 0.5 * self.train.max())


def spacing(views: list[RigView]) -> Spacing:
    """Angular distances between the cameras of a rig with at least two training views."""
    train = np.array([view.direction for view in views if view.train])
    test = np.array([view.direction for view in views if not view.train]).reshape(-1, 3)

    def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.degrees(np.arccos((a @ b.T).clip(-1, 1)))

    between = angles(train, train)
    np.fill_diagonal(between, np.inf)
    return Spacing(between.min(axis=1), angles(test, train).min(axis=1))


def look_at(view: RigView, target: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """(R, t), world to camera, of an upright camera in a view's direction from the target."""
    forward = -view.direction
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -R @ (target + distance * view.direction)


def fitted_camera(view: RigView, points: np.ndarray, width: int, height: int) -> Camera:
    """The camera at a place of the dome whose image the points (n, 3) just fill."""
    R, t = look_at(view, TARGET, DISTANCE)
    x_camera = points @ R.T + t
    image = x_camera[:, :2] / x_camera[:, 2:]
    low, high = image.min(axis=0), image.max(axis=0)
    focal = FILL * (np.array([width, height]) / (high - low)).min()
    cx, cy = np.array([width, height]) / 2 - focal * (low + high) / 2
    K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    return Camera(K, R, t, width, height)
