"""A textured room and its cameras, ray-traced: the truth is known at every pixel."""

from __future__ import annotations

import numpy as np

from peel4d.engine.render.camera import Camera

#: The room: x and z from -3 to 3, y (down) from -2 to 2.
ROOM = np.array([3.0, 2.0, 3.0])


def looking(position, target, *, width=96, height=72, focal=1.0) -> Camera:
    """A camera at a place that looks at another; y is down, focal in image widths."""
    position = np.asarray(position, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    forward /= np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    f = focal * width
    K = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
    return Camera(K, R, -R @ position, width, height)


def rays(camera: Camera, samples: int = 1) -> np.ndarray:
    """Directions (H S, W S, 3) of depth 1, world axes."""
    fine = camera.scaled(camera.width * samples, camera.height * samples)
    rows, columns = np.indices((fine.height, fine.width)) + 0.5
    x = (columns - fine.K[0, 2]) / fine.K[0, 0]
    y = (rows - fine.K[1, 2]) / fine.K[1, 1]
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.R


def texture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Colours (..., 3) in [0, 1] of places (..., 3): random waves of 0.25 to 2 units."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(40, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    waves = direction * (2 * np.pi / np.exp(random.uniform(np.log(0.25), np.log(2.0), (40, 1))))
    phase = points @ waves.T + random.uniform(0, 2 * np.pi, 40)
    return np.clip(0.5 + np.sin(phase) @ random.normal(0, 0.045, (40, 3)), 0, 1)


def picture(camera: Camera, depth) -> np.ndarray:
    """What a camera sees, (H, W, 3) uint8, of the textured surface that depth(camera, rays) is."""
    samples = 2
    ray = rays(camera, samples)
    color = texture(camera.centre + ray * depth(camera, ray)[..., None])
    shape = (camera.height, samples, camera.width, samples, 3)
    return np.round(255 * color.reshape(shape).mean(axis=(1, 3))).astype(np.uint8)


def slanted(camera, ray):
    """Depth of the plane z + 0.5 x - 0.3 y = 4."""
    normal = np.array([0.5, -0.3, 1.0])
    return (4 - camera.centre @ normal) / (ray @ normal)


def walls(camera, ray):
    """Depth of the room's walls, seen from inside."""
    with np.errstate(divide="ignore"):
        return ((np.sign(ray) * ROOM - camera.centre) / ray).min(axis=-1)


def room_cameras(count: int = 8) -> list[Camera]:
    """An outward arc in the room's middle: cameras that look at one half of it, overlapping."""
    angles = np.radians(np.linspace(-70, 70, count))
    return [
        looking(
            [1.2 * np.sin(a), 0.5 if i % 2 else -0.5, -1.5 + 0.5 * np.cos(a)],
            [0.6 * np.sin(a), 0.0, 1.5],
            focal=0.7,
        )
        for i, a in enumerate(angles)
    ]
