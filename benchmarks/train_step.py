# SPDX-License-Identifier: GPL-3.0-or-later
"""What one training step costs: the peel forward, backward, and the whole step, by size.

    python benchmarks/train_step.py [--json FILE]

A bumpy sphere of N points fills most of a square crop; radii follow the spacing, so as many points
lie over a pixel whatever N is. "forward_ms" is the training forward, which keeps what the backward
can use, "backward_ms" that backward, "backward_alone_ms" (CPU) one that finds everything out
again, "loss_ms" the loss of a picture with D-SSIM and its derivative, "loss_in_torch_ms" (CPU) the
same in torch's operations, "step_ms" a step of a training run: model, forward, loss, backward,
Adam. One row for every number of points and of pixels, and on a GPU again; on a shared machine
compare rows of one run with each other, not with another run's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import interleaved_ms, reason, slope, write_result

from peel4d.engine.errors import PeelError
from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render import backend, core
from peel4d.engine.render.camera import Camera
from peel4d.engine.train.images import TrainingImage
from peel4d.engine.train.peel_autograd import peel
from peel4d.engine.train.picture_loss import compared, compared_in_torch, picture_loss
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.trainer import optimizer_for

POINTS = [1 << bits for bits in range(12, 19)]
SIDES = [128, 256, 512]
_TIMES = (
    "forward_ms",
    "backward_ms",
    "backward_alone_ms",
    "loss_ms",
    "loss_in_torch_ms",
    "step_ms",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, nargs="+", default=POINTS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="of the crop, pixels")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as training does
    rows: list[dict] = []
    growth: list[dict] = []
    columns = ("forward", "backward", "(alone)", "loss", "(torch)", "step", "b / f")
    print(f"{'':4} {'points':>8} {'pixels':>8} " + " ".join(f"{it:>9}" for it in columns) + "   ms")
    for method in ("cpu", "cuda"):
        try:
            device = torch_device(method)
            fresh = []
            for side in options.sides:
                for points in options.points:
                    case = {"method": method, "points": points, "pixels": side * side}
                    fresh.append({**case, **measure(points, side, options.runs, device)})
                    print_row(fresh[-1])
        except PeelError as error:
            print(f"{method} skipped: {reason(error)}")
            rows.append({"method": method, "skipped": reason(error)})
            continue
        rows += fresh
        growth += [{"method": method, **it} for it in slopes(fresh)]
    for it in growth:
        print(
            f"{it['method']} {it['time']}: slope over {it['over']} {it['slope']:.2f} at {it['at']}"
        )
    write_result(options.json, rows, slopes=growth)
    return 0


def torch_device(method: str) -> torch.device:
    """Where a method's tensors live. Raises PeelError where there is no such thing."""
    if method == "cuda":
        backend.select("cuda")
        if not torch.cuda.is_available():
            raise PeelError("torch sees no NVIDIA GPU")
    return torch.device(method)


def print_row(row: dict) -> None:
    times = [row.get(name, float("nan")) for name in (*_TIMES, "backward_over_forward")]
    print(
        f"{row['method']:4} {row['points']:8} {row['pixels']:8} "
        + " ".join(f"{it:9.2f}" for it in times),
        flush=True,
    )


def slopes(rows: list[dict]) -> list[dict[str, object]]:
    """How every time grows over points at the largest crop, and over pixels with most points."""
    found = []
    for over, other in (("points", "pixels"), ("pixels", "points")):
        most = max(row[other] for row in rows)
        line = [row for row in rows if row[other] == most]
        if len(line) > 1:
            for name in _TIMES:
                if name not in line[0]:
                    continue
                exponent = slope([row[over] for row in line], [row[name] for row in line])
                found.append(
                    {
                        "time": name,
                        "over": over,
                        "at": f"{most:,} {other}",
                        "slope": round(exponent, 3),
                    }
                )
    return found


def measure(count: int, side: int, runs: int, device: torch.device) -> dict[str, float]:
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
    model.to(device)
    inputs = [tensor.detach().clone().requires_grad_() for tensor in model()]
    d_rgba = torch.randn(side, side, 4, device=device)
    rgba, _ = peel(*inputs, camera, settings.peel)
    if rgba.device.type != device.type:
        raise PeelError(f"the training's peel leaves {device.type} for {rgba.device.type}")

    def finished(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    image, color = noise(camera, device), CameraColor(1).to(device)
    color.requires_grad_(False)

    def loss(of: Callable) -> Callable[[], object]:
        picture = torch.rand(side, side, 4, device=device).requires_grad_()
        return lambda: torch.autograd.grad(of(picture, image, 0, color, settings)[0], picture)

    functions = {
        "forward_ms": lambda: peel(*inputs, camera, settings.peel),
        "backward_ms": lambda: torch.autograd.grad(rgba, inputs, d_rgba, retain_graph=True),
        "loss_ms": loss(compared),
        "step_ms": training_step(model, image, color, settings),
    }
    if device.type == "cpu":
        functions["loss_in_torch_ms"] = loss(compared_in_torch)
        arrays = [tensor.detach().numpy() for tensor in inputs]
        functions["backward_alone_ms"] = lambda: core.backward(
            *arrays, camera, settings.peel, d_rgba.numpy()
        )
    times = interleaved_ms({name: finished(run) for name, run in functions.items()}, runs)
    medians = {name: round(statistics.median(taken), 4) for name, taken in times.items()}
    ratio = medians["backward_ms"] / medians["forward_ms"]
    return {**medians, "backward_over_forward": round(ratio, 3)}


def noise(camera: Camera, device: torch.device) -> TrainingImage:
    """A picture of noise that all counts."""
    side = camera.width
    return TrainingImage(
        camera,
        torch.randint(0, 255, (side, side, 3), dtype=torch.uint8),
        torch.zeros(side, side, 3, dtype=torch.uint8),
        torch.ones(side, side, 1, dtype=torch.bool),
        torch.ones(side, side, 1, dtype=torch.bool),
        float(side * side),
    ).to(device)


def training_step(
    model: ExplicitPoints, image: TrainingImage, color: CameraColor, settings: TrainSettings
) -> Callable[[], None]:
    """One step of a training run."""
    optimizer = optimizer_for(model, None, settings)

    def step() -> None:
        loss, _ = picture_loss(model(), model.spacing, image, 0, color, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
