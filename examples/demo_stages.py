"""What can be filmed: the dome, which goes around the bird, and the room, seen from its front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from demo_rig import RigView, fitted_camera, quick_rig, rig
from demo_scene import MusicBird, build_scene
from room_rig import quick_room_rig, room_camera, room_rig
from room_scene import build_room

from peel4d.engine.render.camera import Camera


@dataclass(frozen=True)
class Stage:
    """A scene, its rig and how it is exposed.

    build: fills the current Blender file (true: quickly) and returns who performs. camera: of a
    place of the rig, given all points of the performance (n, 3), width and height. width: of the
    pictures by default. samples: of training and test images (`Film`). minimum_coverage: the share
    of every image that the subject must fill. minimum_test_floor: of the noise of test images, dB.
    """

    build: Callable[[bool], MusicBird]
    rig: Callable[[], list[RigView]]
    quick_rig: Callable[[], list[RigView]]
    camera: Callable[[RigView, np.ndarray, int, int], Camera]
    width: int
    aspect: float
    samples: tuple[int, int]
    backdrop: bool
    denoise: bool
    minimum_coverage: float
    minimum_test_floor: float


STAGES = {
    "dome": Stage(
        build=lambda quick: build_scene(),
        rig=rig,
        quick_rig=quick_rig,
        camera=fitted_camera,
        width=384,
        aspect=1.0,
        samples=(10, 26),
        backdrop=True,
        denoise=False,
        minimum_coverage=0.15,
        minimum_test_floor=40.0,
    ),
    "room": Stage(
        build=build_room,
        rig=room_rig,
        quick_rig=quick_room_rig,
        camera=room_camera,
        width=480,
        aspect=16 / 9,
        samples=(6, 8),
        backdrop=False,
        denoise=True,
        minimum_coverage=0.03,
        minimum_test_floor=36.0,
    ),
}
