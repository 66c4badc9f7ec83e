# SPDX-License-Identifier: GPL-3.0-or-later
"""From clips and meshes to pixels, the same way for final renders and viewports. No bpy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...engine.render.backend import Instance, render_scene
from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh
from ...engine.render.settings import PeelSettings, Rendered

#: A band of a large picture takes about so long, because the core cannot be interrupted.
BAND_SECONDS = 0.15
#: Pictures of at most so many samples are peeled at once, others begin with a band of this size.
BAND_SAMPLES = 1 << 22
#: The points are projected anew for every band, so there are never many more than these.
_MOST_BANDS = 16


@dataclass(frozen=True)
class Quality:
    """samples: along each axis of a pixel. backend, threads: as for `render_scene`."""

    samples: int = 1
    backend: str = "auto"
    threads: int = 0


class Canvas:
    """The arrays of the last picture, to be drawn on again: new memory costs more than drawing."""

    def __init__(self) -> None:
        self._arrays: Rendered | None = None

    def of_size(self, width: int, height: int) -> Rendered:
        arrays = self._arrays
        if arrays is None or arrays.depth.shape != (height, width):
            arrays = self._arrays = Rendered(
                np.empty((height, width, 4), np.float32), np.empty((height, width), np.float32)
            )
        return arrays


def peel(
    instances: Sequence[Instance],
    meshes: Sequence[Mesh],
    camera: Camera,
    settings: PeelSettings,
    quality: Quality,
    *,
    canvas: Canvas,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float], None] = lambda _done: None,
) -> Rendered | None:
    """Draw a picture on `canvas`, in horizontal bands where it is large.

    stop is asked before every band: where it says so, None is returned. progress: the share that is
    done, after every band. Raises CoreError.
    """
    picture = canvas.of_size(camera.width, camera.height)
    height = camera.height
    smallest = max(height // _MOST_BANDS, 1)
    rows = max(BAND_SAMPLES // (camera.width * quality.samples**2), smallest)
    top, backend = 0, ""
    while top < height:
        if stop():
            return None
        rows = min(rows, height - top)
        if height - top - rows < smallest:
            rows = height - top
        begin = time.perf_counter()
        band = render_scene(
            instances,
            camera.crop(0, top, camera.width, rows),
            settings,
            meshes=meshes,
            samples=quality.samples,
            backend=quality.backend,
            threads=quality.threads,
            out=Rendered(picture.rgba[top : top + rows], picture.depth[top : top + rows]),
        )
        backend = band.backend
        top += rows
        progress(top / height)
        factor = BAND_SECONDS / max(time.perf_counter() - begin, 1e-4)
        rows = max(int(rows * min(factor, 4.0)), smallest)
    return Rendered(picture.rgba, picture.depth, None, backend)
