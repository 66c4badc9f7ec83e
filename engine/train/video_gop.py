"""Training one group of pictures of two-dimensional Gaussians.

Source: D2GV (arXiv 2503.05600): still warm-up, deformed training, learnable pruning, training that
knows of the quantiser. What differs, and the measurements: docs/video-format.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import ReconstructionError
from ..render.window import Window
from ..video2d.cuda_gaussians import CudaGaussians, rasterizer
from ..video2d.gaussians import Gaussians2D, draw, fit
from ..video2d.gop import MAX_ORDER, Gop, frame_time, legendre
from ..video2d.gop_codec import Steps
from ..video2d.initialize import gaussians_of
from . import gaussians_cuda

#: ln of the smallest side of a Gaussian: 0.2 pixels.
_SMALLEST = math.log(0.2)
#: Pruning: a Gaussian stays while sigmoid(mask) is above this; where its mask starts; how far it
#: can go, about, until pruning ends (it has 1.9 to go to fall).
_KEEP, _MASK_START, _MASK_REACH = 0.2, 0.5, 8.0
#: Adam's epsilon times the number of Gaussians (their gradients are as small as their share of the
#: picture): without it, Gaussians that change next to nothing wander about at full speed, and long
#: trainings end worse than short ones.
_CALM = 5e-4
#: A group that starts from the one before it starts from pictures at least so good (dB).
_WORTH_KEEPING = 20.0
#: Seconds between looks at the error of a GPU, which has to be waited for.
_LOOK = 0.1
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class GopSettings:
    """One recipe.

    gaussians: how many to begin with. steps: one frame each. seconds: an end to them by the clock.
    motion, shade: orders of the polynomials. still: share of the steps on the middle frame alone.
    prune: weight of the mean mask; pruning lasts from `prune_from` to `prune_to`. freeze_from: from
    here on positions and shapes stand on their lattices, and the rest makes up for it. rates:
    Adam's, decayed by a cosine to 3 %; of position and motion in distances between Gaussians.
    """

    gaussians: int = 20_000
    steps: int = 1500
    seconds: float = math.inf
    motion: int = 3
    shade: int = 2
    still: float = 0.06
    prune: float = 0.0
    prune_from: float = 0.3
    prune_to: float = 0.6
    freeze_from: float = 0.75
    rates: dict[str, float] = field(
        default_factory=lambda: {
            "position": 0.06,
            "log_scale": 0.06,
            "shear": 0.06,
            "color": 0.03,
            "motion": 0.06,
            "shade": 0.03,
        }
    )


@dataclass(frozen=True)
class GopReport:
    """What training a group took: steps, seconds of the clock and of processors, and how many
    Gaussians it began with."""

    steps: int
    seconds: float
    cpu_seconds: float
    started_with: int


class _Fit(torch.autograd.Function):
    """Mean squared error of a window of a picture, with the core's own derivative."""

    @staticmethod
    def forward(context, position, cholesky, color, window, target, threads):
        arrays = [tensor.detach().numpy() for tensor in (position, cholesky, color)]
        error, gradients = fit(Gaussians2D(*arrays), window, target, threads=threads)
        context.gradients = gradients
        return torch.tensor(error)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, d_error):
        g = context.gradients
        parts = (torch.from_numpy(part) * d_error for part in (g.position, g.cholesky, g.color))
        return (*parts, None, None, None)


class _Model:
    """The trainable arrays of a `Gop`, and what a frame sees of them."""

    def __init__(
        self,
        gop: Gop,
        settings: GopSettings,
        device: torch.device,
        on: CudaGaussians | None,
    ) -> None:
        self.gop, self.on, count = gop, on, len(gop)
        spacing = math.sqrt(gop.width * gop.height / max(count, 1))
        self.rates = {
            name: rate * (spacing if name in ("position", "motion") else 1.0)
            for name, rate in settings.rates.items()
        }
        orders = min(settings.motion, gop.frames - 1), min(settings.shade, gop.frames - 1)
        arrays = {
            "position": gop.position,
            "log_scale": gop.log_scale,
            "shear": gop.shear,
            "color": gop.color,
            "motion": np.zeros((orders[0], count, 2), np.float32),
            "shade": np.zeros((orders[1], count, 3), np.float32),
        }
        self.basis = [
            torch.from_numpy(legendre(MAX_ORDER, frame_time(frame, gop.frames)))
            for frame in range(gop.frames)
        ]
        self.mask: torch.Tensor | None = None
        self.frozen = False
        self._start({name: torch.tensor(array, device=device) for name, array in arrays.items()})

    def _start(self, arrays: dict[str, torch.Tensor]) -> None:
        """Train these arrays; the optimiser forgets what it knew."""
        self.arrays = {name: array.requires_grad_() for name, array in arrays.items()}
        groups = [
            {"params": [array], "lr": self.rates[name], "rate": self.rates[name]}
            for name, array in self.arrays.items()
            if array.numel()
        ]
        self.optimizer = torch.optim.Adam(
            groups, betas=(0.9, 0.99), eps=_CALM / max(1, len(self.gop)), fused=True
        )

    def freeze(self, steps: Steps) -> None:
        """Put positions and shapes on their lattices, for good."""
        lattices = {"position": steps.position, "log_scale": steps.scale, "shear": steps.shear}
        with torch.no_grad():
            for name, step in lattices.items():
                array = self.arrays[name]
                array.copy_(torch.round(array / step) * step)
                array.requires_grad_(False)
        self.frozen = True

    def frame(self, index: int | None):
        """position, cholesky, color of a frame, None for the middle of time without any motion."""
        position, cholesky, color = self._at(index)
        if self.mask is not None:
            soft = torch.sigmoid(self.mask)
            hard = (soft > _KEEP).float()
            color = color * (hard + soft - soft.detach())[:, None]
        return position, cholesky, color

    def _at(self, index: int | None):
        a = self.arrays
        if self.on is not None:
            basis = None if index is None else self.basis[index].tolist()
            return gaussians_cuda.at(a, basis, on=self.on)
        position, color = a["position"], a["color"]
        if index is not None:
            basis = self.basis[index]
            for order, moved in enumerate(a["motion"]):
                position = position + basis[order] * moved
            for order, shaded in enumerate(a["shade"]):
                color = color + basis[order] * shaded
        scale = a["log_scale"].exp()
        cholesky = torch.stack([scale[:, 0], a["shear"] * scale[:, 1], scale[:, 1]], dim=1)
        return position, cholesky, color

    def step(self, loss: torch.Tensor, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.frozen:
            return
        with torch.no_grad():
            self.arrays["log_scale"].clamp_(_SMALLEST, 9.0)

    def add_mask(self, steps: float) -> None:
        """A mask to be learned within so many steps."""
        rate = min(max(_MASK_REACH / max(steps, 1.0), 0.003), 0.3)
        self.mask = torch.full_like(self.arrays["shear"], _MASK_START, requires_grad=True)
        self.optimizer.add_param_group({"params": [self.mask], "lr": 0.0, "rate": rate})

    def prune(self) -> None:
        """Leave out what the mask hides; what stays keeps the optimiser's moments."""
        keep = torch.sigmoid(self.mask.detach()) > _KEEP
        self.mask = None
        old = self.optimizer
        arrays = {}
        for name, array in self.arrays.items():
            axis = 1 if name in ("motion", "shade") else 0
            arrays[name] = array.detach().index_select(axis, keep.nonzero()[:, 0]).clone()
        before = self.arrays
        self._start(arrays)
        for name, array in self.arrays.items():
            if array.numel() and before[name] in old.state:
                axis = 1 if name in ("motion", "shade") else 0
                state = dict(old.state[before[name]])
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = state[key].index_select(axis, keep.nonzero()[:, 0]).clone()
                self.optimizer.state[array] = state

    def result(self) -> Gop:
        arrays = {name: array.detach().cpu().numpy().copy() for name, array in self.arrays.items()}
        return Gop(self.gop.frames, self.gop.width, self.gop.height, **arrays)


def train_gop(
    frames: list[np.ndarray],
    settings: GopSettings,
    steps: Steps,
    *,
    before: Gop | None = None,
    seed: int = 0,
    threads: int = 1,
    device: torch.device = _CPU,
    on: CudaGaussians | None = None,
    watch: Callable[[float, float], None] = lambda share, psnr: None,
) -> tuple[Gop, GopReport]:
    """Fit Gaussians to the frames (H, W, 3) uint8 of one group.

    steps: of the lattices that the group will be stored with. before: the trained group before this
    one, whose last frame is where this one starts if it looks like it. device: where parameters,
    frames and the optimiser live; on: the rasterizer there, None for the GPU's own or the core on
    the CPU. watch is told how far it is and the training PSNR, and may raise to end it; on a GPU
    ten times a second, after the first step, and at the end. Raises CoreError.
    """
    height, width = frames[0].shape[:2]
    if any(frame.shape != (height, width, 3) or frame.dtype != np.uint8 for frame in frames):
        raise ReconstructionError("the frames of a group are not of one size and 8 bits")
    frames = [np.ascontiguousarray(frame) for frame in frames]
    clock, processor = time.perf_counter(), time.process_time()
    middle = len(frames) // 2
    start = _continued(before, frames[0], len(frames), settings.gaussians, threads)
    still = settings.still if start is None else 0.0
    if start is None:
        start = gaussians_of(frames[middle], settings.gaussians, seed, len(frames))
    if device.type == "cuda" and on is None:
        on = rasterizer(device.index or 0)
    model = _Model(start, settings, device, on)
    error_of = _errors(frames, threads, device, on)
    random = np.random.default_rng(seed)
    order: list[int] = []
    step, share, mean, told = 0, 0.0, None, -math.inf
    pruned = settings.prune <= 0
    while share < 1 and len(model.arrays["shear"]):
        if not pruned and model.mask is None and share >= settings.prune_from:
            # What is left of the schedule, by whichever of its two ends is nearer.
            model.add_mask(step / max(share, 1e-9) * (settings.prune_to - settings.prune_from))
        if not pruned and share >= settings.prune_to and model.mask is not None:
            model.prune()
            pruned = True
            continue
        if not order:
            order = list(random.permutation(len(frames)))
        index = middle if share < still else int(order.pop())
        if share >= settings.freeze_from and not model.frozen:
            model.freeze(steps)
        seen = model.frame(None if share < still else index)
        error = error_of(*seen, index)
        loss = error
        if model.mask is not None:
            loss = loss + settings.prune * torch.sigmoid(model.mask).mean()
        model.step(loss, 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        step += 1
        elapsed = time.perf_counter() - clock
        share = max(step / settings.steps, elapsed / settings.seconds)
        error = error.detach()
        mean = error if mean is None else torch.lerp(error, mean, 0.9)
        if device.type == "cpu" or elapsed >= told + _LOOK or share >= 1:
            told = elapsed
            watch(min(share, 1.0), -10 * math.log10(max(mean.item(), 1e-10)))
    report = GopReport(
        step, time.perf_counter() - clock, time.process_time() - processor, len(start)
    )
    return model.result(), report


def _errors(
    frames: list[np.ndarray], threads: int, device: torch.device, on: CudaGaussians | None
) -> Callable[..., torch.Tensor]:
    """(position, cholesky, color, index of a frame) -> mean squared error, differentiable."""
    window = Window(0, 0, frames[0].shape[1], frames[0].shape[0])
    if on is None:
        return lambda *seen: _Fit.apply(*seen[:3], window, frames[seen[3]], threads)
    targets = [torch.from_numpy(frame).to(device) for frame in frames]
    return lambda *seen: gaussians_cuda.fit(*seen[:3], window, targets[seen[3]], on=on)


def gop_psnr(gop: Gop, frames: list[np.ndarray], threads: int = 1) -> list[float]:
    """PSNR in dB of every frame, from the 8-bit pictures that a reader shows."""
    window = Window(0, 0, gop.width, gop.height)
    scores = []
    for index, frame in enumerate(frames):
        picture = draw(gop.at(index), window, threads=threads)
        error = np.mean((picture.astype(np.float32) - frame) ** 2, dtype=np.float64) / 255**2
        scores.append(-10 * math.log10(max(error, 1e-10)))
    return scores


def _continued(
    before: Gop | None, first: np.ndarray, frames: int, count: int, threads: int
) -> Gop | None:
    """The last frame of the group before as a still group; None where it shows something else or
    has lost most of its Gaussians."""
    if before is None or first.shape != (before.height, before.width, 3) or len(before) < count / 2:
        return None
    last = before.at(before.frames - 1)
    still = Gop(
        frames,
        before.width,
        before.height,
        last.position,
        before.log_scale,
        before.shear,
        last.color,
        before.motion[:0],
        before.shade[:0],
    )
    return still if gop_psnr(still, [first], threads)[0] >= _WORTH_KEEPING else None
