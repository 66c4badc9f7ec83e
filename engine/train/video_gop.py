"""Training one group of pictures of two-dimensional Gaussians.

Source: D2GV (arXiv 2503.05600): still warm-up, deformed training, pruning, training that knows of
the quantiser. What differs, and the measurements: docs/video-format.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from ..errors import ReconstructionError
from ..render.window import Window
from ..video2d.cuda_gaussians import CudaGaussians, rasterizer
from ..video2d.gaussians import Gaussians2D, draw, draw_linear, fit
from ..video2d.gop import MAX_ORDER, Gop, frame_time, legendre
from ..video2d.gop_codec import Steps
from ..video2d.initialize import gaussians_of
from . import gaussians_cuda, video_density

#: ln of the smallest side of a Gaussian: 0.2 pixels.
_SMALLEST = math.log(0.2)
#: Adam's decay rates: over ten frames or so, because every step sees one.
_BETAS = 0.95, 0.99
#: Rates fall linearly to this share; below it nothing moves any more.
_LAST_RATE = 0.01
#: Rates of a schedule of more steps than this fall with this power of their number: the noise of
#: one frame a step bounds what long schedules reach, and their steps need not be as wide.
_SHORT, _LENGTH_POWER = 3000, 0.25
#: Shares of the steps between which Gaussians that show next to nothing move to where the error is,
#: how often, and how many of all at once.
_MOVING, _MOVES, _MOVED = (0.1, 0.5), 20, 0.05
#: Shares of the steps between which pruning happens, and in how many rounds: what stays takes over.
_PRUNING, _PRUNE_ROUNDS = (0.4, 0.6), 5
#: Share of the steps at the end during which positions and shapes stand on their lattices and the
#: rest makes up for it, and how many of a short schedule that takes; not before pruning ends.
_FROZEN, _FROZEN_STEPS = 0.1, 60
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
    prune: share of the Gaussians to leave out, those that show least. rates: Adam's at the start of
    a short schedule; of position and motion in distances between Gaussians.
    """

    gaussians: int = 20_000
    steps: int = 1500
    seconds: float = math.inf
    motion: int = 3
    shade: int = 2
    still: float = 0.06
    prune: float = 0.0
    rates: dict[str, float] = field(
        default_factory=lambda: {
            "position": 0.06,
            "log_scale": 0.06,
            "shear": 0.06,
            "color": 0.01,
            "motion": 0.1,
            "shade": 0.006,
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
            groups, betas=_BETAS, eps=_CALM / max(1, len(self.gop)), fused=True
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

    def keep(self, kept: np.ndarray) -> None:
        """Leave out all but these Gaussians; what stays keeps the optimiser's moments."""
        rows = torch.from_numpy(kept).to(self.arrays["shear"].device)
        before, old = self.arrays, self.optimizer
        self._start(
            {name: array.detach().index_select(_axis(name), rows) for name, array in before.items()}
        )
        for name, array in self.arrays.items():
            if before[name] in old.state:
                state = dict(old.state[before[name]])
                for moment in _MOMENTS:
                    state[moment] = state[moment].index_select(_axis(name), rows)
                self.optimizer.state[array] = state

    def replace(self, replaced: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Put new Gaussians in the place of these; the optimiser knows nothing of them yet."""
        rows = torch.from_numpy(replaced).to(self.arrays["shear"].device)
        for name, array in self.arrays.items():
            new = torch.from_numpy(arrays[name]).to(array.device)
            array.detach().index_copy_(_axis(name), rows, new)
            state = self.optimizer.state.get(array, {})
            for moment in _MOMENTS if state else ():
                state[moment].index_fill_(_axis(name), rows, 0.0)

    def result(self) -> Gop:
        arrays = {name: array.detach().cpu().numpy().copy() for name, array in self.arrays.items()}
        return Gop(self.gop.frames, self.gop.width, self.gop.height, **arrays)


#: What Adam knows of every number.
_MOMENTS = "exp_avg", "exp_avg_sq"


def _axis(name: str) -> int:
    """Of an array of a `Gop`: the one that counts the Gaussians."""
    return 1 if name in ("motion", "shade") else 0


class _Population:
    """Which Gaussians a group has: when those that show little move, and when they go."""

    def __init__(
        self,
        model: _Model,
        frames: list[np.ndarray],
        settings: GopSettings,
        seed: int,
        threads: int,
    ) -> None:
        self.model, self.frames = model, frames
        self.random = np.random.default_rng([seed, 1])
        # Of what was asked for: a group that starts from a pruned one is not pruned twice.
        self.left = [
            max(1, round(settings.gaussians * (1 - settings.prune) ** (number / _PRUNE_ROUNDS)))
            for number in range(1, _PRUNE_ROUNDS + 1)
        ]
        self.prunings = np.linspace(*_PRUNING, _PRUNE_ROUNDS).tolist() if settings.prune > 0 else []
        self.moves = np.linspace(*_MOVING, _MOVES).tolist()
        on = model.on
        self.draw = partial(draw_linear, threads=threads) if on is None else on.draw_linear

    def update(self, share: float) -> None:
        """What is due at this share of the steps."""
        if _passed(self.moves, share):
            self._move()
        passed = _passed(self.prunings, share)
        if passed:
            left = self.left[passed - 1]
            del self.left[:passed]
            energy = video_density.energy(self.model.result())
            self.model.keep(video_density.strongest(energy, left))

    def _move(self) -> None:
        gop = self.model.result()
        count = round(_MOVED * len(gop))
        if count:
            frame = int(self.random.integers(len(self.frames)))
            new = video_density.newborn(
                gop, frame, self.frames[frame], count, self.random, self.draw
            )
            weakest = video_density.weakest(video_density.energy(gop), len(new["shear"]))
            self.model.replace(weakest, new)


def _passed(moments: list[float], share: float) -> int:
    """How many of the moments have passed at this share of the steps; they are taken out."""
    passed = sum(moment <= share for moment in moments)
    del moments[:passed]
    return passed


def _rate(share: float, steps: float) -> float:
    """Factor of the rates at a share of a schedule of so many steps."""
    return max(1 - share, _LAST_RATE) * min(1.0, (_SHORT / max(steps, 1.0)) ** _LENGTH_POWER)


def _frozen_from(steps: float) -> float:
    """Share of a schedule of so many steps from which on positions and shapes stand still."""
    return max(1 - max(_FROZEN, _FROZEN_STEPS / max(steps, 1.0)), _PRUNING[1])


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
    population = _Population(model, frames, settings, seed, threads)
    while share < 1 and len(model.arrays["shear"]):
        population.update(share)
        if not order:
            order = list(random.permutation(len(frames)))
        index = middle if share < still else int(order.pop())
        # How many steps there will be, by whichever of the schedule's two ends is nearer.
        planned = step / share if share else settings.steps
        if share >= _frozen_from(planned) and not model.frozen:
            model.freeze(steps)
        seen = model.frame(None if share < still else index)
        error = error_of(*seen, index)
        model.step(error, _rate(share, planned))
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
