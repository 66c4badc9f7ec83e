"""The room's rig: 16 training cameras in three rows of an arc before it, 4 test cameras between.

Pure numpy, world axes of `demo_scene`. As on a set, no two cameras are quite alike: focal lengths
differ by up to 6 %, principal points by up to 2.5 % of the width, aims by a few centimetres.
"""

from __future__ import annotations

import numpy as np
from demo_rig import RigView, look_at

from peel4d.engine.render.camera import Camera

TARGET = np.array([0.0, 0.45, 0.85])
DISTANCE = 3.75
FOCAL = 0.92  # of the image's width: 57 degrees
FACING = -90.0  # azimuth of a camera that looks straight at the back wall
# (elevation, azimuths from the middle), degrees
TRAIN_ROWS = (
    (3.0, (-32.5, -19.5, -6.5, 6.5, 19.5, 32.5)),
    (12.5, (-26.0, -13.0, 0.0, 13.0, 26.0)),
    (22.0, (-30.0, -15.0, 0.0, 15.0, 30.0)),
)
TEST_DIRECTIONS = ((-13.0, 5.8), (19.5, 9.6), (-20.0, 15.6), (7.0, 18.0))


def room_rig() -> list[RigView]:
    """Training views 00..15, then test views 16..19."""
    places = [(azimuth, row, True) for row, azimuths in TRAIN_ROWS for azimuth in azimuths]
    places += [(azimuth, elevation, False) for azimuth, elevation in TEST_DIRECTIONS]
    return _views(places)


def quick_room_rig() -> list[RigView]:
    """Five training views and one test view, for tests."""
    places = [(-26.0 + 13 * k, 6.0 + 8 * (k % 2), True) for k in range(5)]
    return _views([*places, (0.0, 15.0, False)])


def _views(places: list[tuple[float, float, bool]]) -> list[RigView]:
    return [
        RigView(f"{index:02d}", FACING + azimuth, elevation, train)
        for index, (azimuth, elevation, train) in enumerate(places)
    ]


def room_camera(view: RigView, points: np.ndarray, width: int, height: int) -> Camera:
    """The camera at a place of the arc; the points of the subject do not move it."""
    # Multiples of irrational numbers: as scattered as chance, but the same for ever.
    focal, x, y, *aim = 2 * ((int(view.name) + 1) * np.sqrt([2, 3, 5, 7, 11, 13]) % 1) - 1
    R, t = look_at(view, TARGET + 0.06 * np.array(aim), DISTANCE)
    f = FOCAL * width * (1 + 0.06 * focal)
    K = np.array([[f, 0, width * (0.5 + 0.025 * x)], [0, f, height / 2 + width * 0.025 * y]])
    return Camera(np.vstack([K, [0, 0, 1]]), R, t, width, height)
