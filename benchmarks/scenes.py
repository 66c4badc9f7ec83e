# SPDX-License-Identifier: GPL-3.0-or-later
"""The two scenes that every benchmark of the splat core draws, and the cameras that look at them.

World axes: x right, y away from the camera, z up, metres. Seeds are fixed: every machine measures
the same points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peel4d.engine.clip.morton import interleave
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.splats import SH_COUNTS, PackedSplats, Quantized, Splats

RESOLUTIONS = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
BODY_POINTS = 262_144
ROOM_POINTS = 1_000_000

#: The room's free space: width, depth, height.
_ROOM = np.array([6.0, 6.0, 3.0])
#: Lowest and highest corner of the boxes that stand in it, the room's corner at the origin.
_FURNITURE = np.array(
    [
        [[0.3, 3.2, 0.0], [1.2, 5.4, 0.45]],  # sofa
        [[0.0, 3.2, 0.45], [0.3, 5.4, 0.95]],  # its back
        [[2.3, 3.6, 0.0], [3.7, 4.5, 0.42]],  # table
        [[2.8, 3.9, 0.42], [3.1, 4.2, 0.80]],  # a box on it
        [[4.1, 5.4, 0.0], [5.9, 6.0, 2.10]],  # cupboard
        [[4.9, 2.9, 0.0], [5.4, 3.4, 0.55]],  # stool
    ]
)


@dataclass(frozen=True, eq=False)
class Scene:
    """Points and the camera that looks at them, for an image height of 1080.

    focal: pixels at that height. R, t: as in `Camera`.
    """

    name: str
    splats: Splats
    focal: float
    R: np.ndarray
    t: np.ndarray

    def camera(self, width: int, height: int) -> Camera:
        """The scene's camera; the vertical angle of view is the same at every resolution."""
        focal = self.focal * height / 1080
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return Camera(K, self.R, self.t, width, height)


def scene(name: str, points: int | None = None, sh_degree: int = 0) -> Scene:
    """The scene `name`, "body" or "room"; points: another number of them (the radii follow)."""
    make = {"body": body, "room": room}[name]
    made = make() if points is None else make(points)
    if sh_degree == 0:
        return made
    return Scene(made.name, with_harmonics(made.splats, sh_degree), made.focal, made.R, made.t)


def body(points: int = BODY_POINTS) -> Scene:
    """An ellipsoid shell 1.7 m tall at 3 m, about 11 % of a 1080p picture.

    radius: 4 mm with 262,144 points, and with other numbers such that as many layers lie over
    every pixel. density 0.95.
    """
    random = np.random.default_rng(4)
    axes = np.array([0.30, 0.30, 0.85])
    # A sphere that is stretched has too many points at the poles: keep each in proportion to the
    # area that the stretching gave its surroundings.
    normal = random.normal(size=(2 * points, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    area = np.linalg.norm(normal / axes, axis=1)
    normal = normal[random.random(2 * points) < area / area.max()][:points]
    assert len(normal) == points
    position = normal * axes + [0, 0, 0.85]
    radius = 0.004 * np.sqrt(BODY_POINTS / points)
    splats = _splats(position, normal, radius, random)
    return Scene("body", splats, 1600.0, *_pose([0, -3.0, 0.85], [0, 1.0, 0]))


def room(points: int = ROOM_POINTS) -> Scene:
    """A box room of 6 x 6 x 3 m with furniture, seen from inside: every pixel is covered."""
    random = np.random.default_rng(5)
    boxes = np.concatenate([[[np.zeros(3), _ROOM]], _FURNITURE])
    faces = [(box, axis, side) for box in boxes for axis in range(3) for side in range(2)]
    areas = np.array([np.prod(np.delete(box[1] - box[0], axis)) for box, axis, _ in faces])
    ends = np.round(np.cumsum(areas) / areas.sum() * points).astype(int)
    counts = np.diff(ends, prepend=0)
    position, normal = np.empty((points, 3)), np.zeros((points, 3))
    for (box, axis, side), end, count in zip(faces, ends, counts, strict=True):
        part = slice(end - count, end)
        # An evenly spread sequence (Roberts' R2), so that moderate radii leave no gap.
        spread = (0.5 + np.arange(1, count + 1)[:, None] * [0.7548776662, 0.5698402910]) % 1
        position[part] = box[side]
        others = [i for i in range(3) if i != axis]
        position[part, others] = (box[0] + np.insert(spread, axis, 0, axis=1) * (box[1] - box[0]))[
            :, others
        ]
        normal[part, axis] = 2 * side - 1
    spacing = np.sqrt(areas.sum() / points)
    order = random.permutation(points)  # no order that a renderer could live on
    splats = _splats(position[order], normal[order], 1.4 * spacing, random)
    return Scene("room", splats, 1000.0, *_pose([2.6, 0.35, 1.6], [0.1, 1.0, -0.12]))


def with_harmonics(splats: Splats, degree: int) -> Splats:
    """The same points with a view-dependent colour of `degree` (sigma 0.05 per coefficient)."""
    random = np.random.default_rng(6)
    sh = random.normal(0, 0.05, (len(splats), SH_COUNTS[degree], 3)).astype(np.float32)
    sh[:, 0] = splats.sh[:, 0]
    return Splats(splats.position, splats.radius, splats.density, sh)


def in_morton_order(splats: Splats) -> Splats:
    """The same points as a clip stores them: neighbours in space are neighbours in memory."""
    low = splats.position.min(axis=0)
    order = np.argsort(interleave(((splats.position - low) / 0.004).astype(np.uint64)))
    return Splats(*(a[order] for a in (splats.position, splats.radius, splats.density, splats.sh)))


def quantised(splats: Splats) -> PackedSplats:
    """Positions in 16 bits, everything else in 8."""
    count = len(splats)
    return PackedSplats(
        _quantised(splats.position, np.uint16),
        _quantised(splats.radius[:, None], np.uint8),
        _quantised(splats.density[:, None], np.uint8),
        _quantised(splats.sh.reshape(count, -1), np.uint8),
    )


def _quantised(values: np.ndarray, dtype: type) -> Quantized:
    """Equal steps between the least and the greatest value of every component."""
    values = values.astype(np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    step = (high - low) / np.iinfo(dtype).max
    codes = np.rint((values - low) / np.where(step > 0, step, 1)).astype(dtype)
    return Quantized(codes, low=low, high=high, step=step)


def _splats(
    position: np.ndarray, normal: np.ndarray, radius: float, random: np.random.Generator
) -> Splats:
    """Smooth colours, a checked texture, light from above and a little noise."""
    smooth = 0.5 + 0.3 * np.sin(position @ [[2.0, 1.1, 0.3], [0.7, 1.9, 1.3], [2.4, 0.2, 1.7]])
    checks = np.where(np.floor(position / 0.1 + 1e-3).sum(axis=1) % 2 == 0, 1.0, 0.72)
    light = 0.75 + 0.25 * normal @ [0.3, -0.5, 0.81]
    rgb = smooth * (checks * light)[:, None] + random.normal(0, 0.02, position.shape)
    count = len(position)
    return Splats.from_colors(
        position, np.full(count, radius), np.full(count, 0.95), np.clip(rgb, 0, 1)
    )


def _pose(eye: list[float], forward: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """R, t of a camera at `eye` that looks along `forward`, upright."""
    axis = np.array(forward) / np.linalg.norm(forward)
    right = np.cross(axis, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(axis, right), axis])
    return R, -R @ np.array(eye)
