# SPDX-License-Identifier: GPL-3.0-or-later
"""What one training step costs: the peel forward, backward, and the whole step, by size.

    python benchmarks/train_step.py [--json FILE]

A bumpy sphere of N points fills most of a square crop. Medians of several runs, milliseconds; on a
shared machine compare rows of one run with each other, not with another run's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from peel4d.engine.atomic import write_text
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render import core
from peel4d.engine.render.camera import Camera
from peel4d.engine.train.images import TrainingImage
from peel4d.engine.train.peel_autograd import peel
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.trainer import optimizer_for, picture_loss

SIZES = [(5_000, 256), (20_000, 256), (80_000, 256), (20_000, 128), (20_000, 512)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as training does
    rows = []
    print(f"{'points':>8} {'pixels':>8} {'forward':>9} {'backward':>9} {'step':>9}   ms")
    for points, side in SIZES:
        row = {"points": points, "pixels": side * side, **measure(points, side, options.repeats)}
        rows.append(row)
        print(
            f"{points:8} {side * side:8} {row['forward_ms']:9.2f} {row['backward_ms']:9.2f} "
            f"{row['step_ms']:9.2f}"
        )
    result = {"machine": machine(), "versions": versions(), "rows": rows}
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    return 0


def measure(count: int, side: int, repeats: int) -> dict[str, float]:
    """Medians in milliseconds for `count` points in a crop of `side` x `side` pixels."""
    random = np.random.default_rng(0)
    direction = random.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position = (direction * (1 + 0.02 * random.normal(size=(count, 1)))).astype(np.float32)
    spacing = float(np.sqrt(4 * np.pi / count))
    settings = TrainSettings()
    model = ExplicitPoints(
        position,
        random.uniform(0, 1, (count, 3)).astype(np.float32),
        spacing,
        sh_degree=1,
        radius=settings.radius,
        density=settings.density,
    )
    K = np.array([[1.4 * side, 0, side / 2], [0, 1.4 * side, side / 2], [0, 0, 1]])
    camera = Camera(K, np.eye(3), np.array([0, 0, 3.0]), side, side)
    image = TrainingImage(
        camera,
        torch.randint(0, 255, (side, side, 3), dtype=torch.uint8),
        torch.zeros(side, side, 3, dtype=torch.uint8),
        torch.ones(side, side, 1, dtype=torch.bool),
        torch.ones(side, side, 1, dtype=torch.bool),
        float(side * side),
    )
    color = CameraColor(1)
    optimizer = optimizer_for(model, None, settings)
    arrays = [tensor.detach().numpy() for tensor in model()]
    d_rgba = random.normal(size=(side, side, 4)).astype(np.float32)

    def step() -> None:
        rgba, _ = peel(*model(), camera, settings.peel)
        loss, _ = picture_loss(rgba, image, 0, color, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return {
        "forward_ms": median_ms(lambda: core.forward(*arrays, camera, settings.peel), repeats),
        "backward_ms": median_ms(
            lambda: core.backward(*arrays, camera, settings.peel, d_rgba), repeats
        ),
        "step_ms": median_ms(step, repeats),
    }


def median_ms(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "core": core.build_info(),
    }


if __name__ == "__main__":
    sys.exit(main())
