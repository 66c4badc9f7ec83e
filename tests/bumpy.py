"""A bumpy, colourful ball that moves: a clip for tests in the window, of any number of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ball import ring_camera

from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats


def write_bumpy_clip(path: Path, points: int = 20_000, *, frames: int = 5, seed: int = 1) -> Path:
    """Frames of a half-transparent ball of radius 0.5 that drifts along x, with three cameras."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(points, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    surface = direction * rng.uniform(0.4, 0.5, (points, 1))
    rgb = 0.5 + 0.45 * np.sin(7 * direction + rng.uniform(0, 6, 3))
    size = rng.uniform(0.01, 0.03, points)
    density = rng.uniform(0.3, 1.0, points)
    clouds = [
        Splats.from_colors(surface + [0.1 * frame - 0.2, 0, 0], size, density, rgb)
        for frame in range(frames)
    ]
    cameras = []
    for index in range(3):
        camera = ring_camera(2.1 * index, 0.5, 256)
        cameras.append(
            ClipCamera(f"cam{index:02d}", camera.K, camera.R, camera.t, 256, 256, index != 1)
        )
    write_clip(
        path,
        clouds,
        fps=25.0,
        cameras=tuple(cameras),
        settings=PeelSettings(layers=9),
        provenance={"made_by": "test"},
    )
    return path
