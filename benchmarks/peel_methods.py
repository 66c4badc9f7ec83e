# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways to draw one picture of points that benchmarks/peel.py compares."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import gl_passes
import numpy as np
import scenes

from peel4d.engine.errors import PeelError
from peel4d.engine.machine import cores
from peel4d.engine.render import backend
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.core import PlacedClip
from peel4d.engine.render.settings import PeelSettings, Rendered
from peel4d.engine.render.splats import SH_C0, PackedSplats, Splats

SETTINGS = PeelSettings(layers=12)
#: What a row is like that does not say otherwise.
MAIN = {"input": "float32", "sh_degree": 0, "order": "random"}
#: The torch reference compares every point with every pixel of a crop so many pixels wide.
CROP = 24
#: Clearing this much this often takes a data-centre GPU about 5 ms, and others longer.
_BUSY_BYTES, _BUSY_TIMES = 256 << 20, 64


@dataclass(frozen=True, eq=False)
class Case:
    """One way to draw a picture.

    keys: of its row. draw: returns when the picture is finished. picture: the last one drawn,
    (H, W, 4) like the core's, or its window (x, y, width, height); None: not compared. measures:
    more keys of the row, found with so many runs.
    """

    keys: dict[str, object]
    draw: Callable[[], object]
    picture: Callable[[], np.ndarray] | None = None
    measures: Callable[[int], dict[str, object]] | None = None
    window: tuple[int, int, int, int] | None = None


@dataclass(eq=False)
class Stage:
    """One scene at one resolution. out: where the core draws. kept: closes what the cases hold."""

    scene: scenes.Scene
    resolution: str
    camera: Camera
    out: Rendered = field(init=False)
    kept: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        self.out = Rendered(np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32))


def cpu_cases(stage: Stage) -> Iterator[Case]:
    """The core on this processor: all its cores first, then what is different in one respect."""
    splats, every = stage.scene.splats, cores()
    yield cpu_case(stage, splats, every)
    for threads in sorted({1, 2} - {every}):
        if threads < every:
            yield cpu_case(stage, splats, threads)
    yield cpu_case(stage, PackedSplats.pack_half(splats), every, input="half")
    yield cpu_case(stage, scenes.quantised(splats), every, input="quantised")
    yield cpu_case(stage, scenes.with_harmonics(splats, 3), every, sh_degree=3)
    yield cpu_case(stage, scenes.in_morton_order(splats), every, order="morton")


def cpu_case(
    stage: Stage, splats: Splats | PackedSplats, threads: int, **different: object
) -> Case:
    def draw() -> None:
        backend.render(
            splats, stage.camera, SETTINGS, backend="cpu", threads=threads, out=stage.out
        )

    return Case({"method": "cpu", **MAIN, **different, "threads": threads}, draw)


def cuda_cases(stage: Stage) -> Iterator[Case]:
    """The core on a GPU; wall-clock times include the way of the picture to the host."""
    name = backend.select("cuda")
    from peel4d.engine.render.cuda import renderer

    gpu, camera = renderer(), stage.camera
    for splats, different in (
        (stage.scene.splats, {}),
        (PackedSplats.pack_half(stage.scene.splats), {"input": "half"}),
        (scenes.with_harmonics(stage.scene.splats, 3), {"sh_degree": 3}),
        (scenes.in_morton_order(stage.scene.splats), {"order": "morton"}),
    ):
        out = gpu.picture(camera.width, camera.height)
        clip = PlacedClip(splats, np.eye(4), 1.0, 1.0, camera.centre, 0)

        def draw(splats=splats, out=out) -> None:
            backend.render(splats, camera, SETTINGS, backend=name, out=out)

        def device_time(runs: int, clip=clip, draw=draw) -> dict[str, object]:
            draw()
            return device_ms(gpu, lambda: gpu.draw([clip], camera, SETTINGS), runs)

        compared = (lambda out=out: out.rgba) if not different else None
        draw()
        yield Case({"method": "cuda", **MAIN, **different}, draw, compared, device_time)


def device_ms(gpu, draw: Callable[[], None], runs: int) -> dict[str, object]:
    """Median time between the GPU's own marks around a picture.

    The kernels of a picture are shorter than the time that it takes to queue them. So the stream
    is first kept busy with clearing memory: the pictures then wait in the queue and run one after
    the other without gaps.
    """
    device, stream = gpu.device, gpu.stream
    burst = 8  # well below the number of launches that a stream can hold
    taken: list[float] = []
    with device.active():
        busy = device.allocate(_BUSY_BYTES)
        marks = [device.event(timing=True) for _ in range(burst + 1)]
        try:
            while len(taken) < max(runs, burst):
                for _ in range(_BUSY_TIMES):
                    device.clear(busy, _BUSY_BYTES, stream)
                marks[0].record(stream)
                for mark in marks[1:]:
                    draw()
                    mark.record(stream)
                marks[-1].synchronize()
                taken += [b.time_since(a) for a, b in itertools.pairwise(marks)]
        finally:
            device.synchronize()
            device.free(busy)
    return {"device_ms": round(float(np.median(taken)), 4)}


def gl_cases(stage: Stage) -> Iterator[Case]:
    context = gl_passes.create_context()
    stage.kept.callback(context.release)
    for splats, order in (
        (stage.scene.splats, "random"),
        (scenes.in_morton_order(stage.scene.splats), "morton"),
    ):
        passes = gl_passes.GLPasses(context, splats, stage.camera, SETTINGS)
        stage.kept.callback(passes.release)
        keys = {"method": "gl-passes", **MAIN, "order": order}
        keys["renderer"] = context.info["GL_RENDERER"]
        yield Case(keys, passes.draw, passes.picture)


def torch_cases(stage: Stage) -> Iterator[Case]:
    """The dense reference on the middle of the picture, with the points that can reach it."""
    import torch

    from peel4d.engine.train.peel_torch import peel

    torch.set_num_threads(1)  # its workers would go on spinning while the others are measured
    camera, splats = stage.camera, stage.scene.splats
    x, y = (camera.width - CROP) // 2, (camera.height - CROP) // 2
    crop = camera.crop(x, y, CROP, CROP)
    pixels, z = crop.project(splats.position)
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = np.maximum(crop.K[0, 0] * splats.radius / z, SETTINGS.min_radius_px)[:, None] + 1
        near = ((pixels > -reach) & (pixels < CROP + reach)).all(axis=1)
    arrays = [
        torch.from_numpy(array[near])
        for array in (splats.position, splats.radius, splats.density, splats.sh)
    ]
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        with torch.no_grad():
            drawn[:] = peel(*arrays, crop, SETTINGS)

    keys = {
        "method": "torch-reference",
        **MAIN,
        "threads": 1,
        "points": int(near.sum()),
        "pixels": CROP * CROP,
        "crop": [x, y, CROP, CROP],
    }
    window = (x, y, CROP, CROP)
    yield Case(keys, draw, lambda: drawn[0].numpy(), window=window)


def gsplat_cases(stage: Stage) -> Iterator[Case]:
    """Isotropic Gaussians on the same centres, which gsplat cuts off at the points' radius."""
    import torch

    if not torch.cuda.is_available():
        raise PeelError("gsplat needs an NVIDIA GPU, and torch sees none")
    from gsplat import rasterization
    from torch.profiler import ProfilerActivity, profile

    splats, camera = stage.scene.splats, stage.camera
    count = len(splats)

    def on_gpu(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).cuda()

    # gsplat leaves out what is fainter than 1/255, i.e. beyond sqrt(2 ln(255 density)) sigma.
    sigma = splats.radius / np.sqrt(2 * np.log(255 * splats.density))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera.R, camera.t
    arguments = {
        "means": on_gpu(splats.position),
        "quats": on_gpu(np.tile([1.0, 0, 0, 0], (count, 1))),
        "scales": on_gpu(np.repeat(sigma[:, None], 3, axis=1)),
        "opacities": on_gpu(splats.density),
        "colors": on_gpu(np.clip(splats.sh[:, 0] * SH_C0, 0, 1)),
        "viewmats": on_gpu(pose)[None],
        "Ks": on_gpu(camera.K)[None],
        "width": camera.width,
        "height": camera.height,
        "eps2d": 0.0,
    }

    def draw() -> None:
        with torch.no_grad():
            rasterization(**arguments)
        torch.cuda.synchronize()

    def device_time(runs: int) -> dict[str, object]:
        # The sum of all kernels and copies: the host's part, which gsplat waits for, is left out.
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(runs):
                draw()
        total = sum(event.self_device_time_total for event in found.key_averages())
        return {"device_ms": round(total / 1e3 / runs, 4)}

    draw()
    yield Case({"method": "gsplat", **MAIN}, draw, measures=device_time)


METHODS = {
    "cuda": cuda_cases,
    "gl-passes": gl_cases,
    "torch-reference": torch_cases,
    "gsplat": gsplat_cases,
}
