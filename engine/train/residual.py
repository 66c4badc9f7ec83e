"""Training of a fragment for the codec "residual": frame after frame, rate and distortion at once.

The first frame learns C_0, B_0 and the network; frame t learns C_t and R_t on top of what a decoder
has of the frame before (B_t = decoded(B_{t-1}) + R_t). The points' own colours are learned with
them, as differences from the field's. Source: arXiv 2402.01380, section 3; that colours and field
share one rate is ours, because points carry most of the bytes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..clip.dictionary import FieldLayout, FieldState, evaluate, make_layout
from ..errors import ReconstructionError
from ..model.camera_color import CameraColor
from ..model.dictionary_field import DictionaryField, FieldSample
from ..model.points import PointTensors, bounded_radius, raw_radius
from ..render.splats import SH_C0, Splats
from .descent import Descent
from .images import ImageSource
from .own_values import OwnValues
from .picture_loss import picture_loss
from .residual_settings import ResidualSettings
from .settings import TrainSettings
from .trainer import Job, alternating, schedule

#: How much a unit of the field's outputs shows: raw radius, raw density, harmonics.
_OUTPUT_WEIGHTS = (0.5, 0.2, SH_C0)
#: What the rates of the fit to the source's attributes fall to.
_FIT_DECAY = 0.3
#: How much a unit of a radius' logarithm counts where one of colour counts 1.
_ANCHOR_RADIUS = 0.25


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A frame of explicit points, on the grid of its positions, in the order of its stream.

    splats: positions are decoded ones. cells: (N, 3) of the grid, grid_step: their edge, world
    units. importance: (N,) pixels that a point fills, mean 1. frame: index in the capture. views:
    that teach it.
    """

    splats: Splats
    cells: np.ndarray
    grid_step: float
    importance: np.ndarray
    frame: int
    views: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TrainedFrame:
    """The integers of a frame: what is coded. differences: of C and B from the frame before.
    colors: (N, 3) codes of red, green, blue. field_bits, own_bits: as the rate model has them."""

    source: SourceFrame
    differences: list[np.ndarray]
    state: FieldState
    colors: np.ndarray
    radii: np.ndarray
    color_step: float
    radius_step: float
    field_bits: float
    own_bits: float


@dataclass(frozen=True, eq=False)
class TrainedFragment:
    layout: FieldLayout
    network: list[np.ndarray]
    frames: list[TrainedFrame]

    def splats(self, step: int) -> Splats:
        """What a player shows of a frame."""
        frame = self.frames[step]
        position = frame.source.splats.position
        radius, density, sh = evaluate(self.layout, frame.state, self.network, position)
        sh[:, 0] += (frame.colors * frame.color_step).astype(np.float32)
        radius = (radius * np.exp(frame.radii * frame.radius_step)).astype(np.float32)
        return Splats(position, radius, density, sh)


def train_fragment(
    sources: Sequence[SourceFrame],
    spacing: float,
    color: CameraColor,
    images: ImageSource,
    train_settings: TrainSettings,
    settings: ResidualSettings,
) -> TrainedFragment:
    """Train the frames of one fragment, one after the other.

    spacing: of the points, world units. Raises ReconstructionError for a fragment without points.
    """
    if not sources or any(len(source.splats) == 0 for source in sources):
        raise ReconstructionError(
            "a frame without points cannot be packed", hint="Pack it with --codec predictive"
        )
    torch.manual_seed(train_settings.seed)
    everything = np.concatenate([source.splats.position for source in sources])
    first = sources[0].splats
    layout = make_layout(
        np.stack([everything.min(axis=0), everything.max(axis=0)]),
        spacing,
        first.sh_degree,
        (
            float(np.median(_raw_radius(first, spacing)).round(3)),
            float(np.median(_raw_density(first)).round(3)),
        ),
        size=settings.field_size,
        coarseness=settings.coarseness,
    )
    color.requires_grad_(False)
    frames: list[TrainedFrame] = []
    state, network = None, None
    for number, source in enumerate(sources):
        field = DictionaryField(layout, state, network)
        field.quantised = settings.joint
        learned = learn_frame(field, source, color, images, train_settings, settings, number)
        frames.append(_decided(field, source, *learned, settings))
        state = frames[-1].state
        if network is None:
            network = field.network_integers()
    return TrainedFragment(layout, network, frames)


@torch.no_grad()
def _decided(
    field: DictionaryField,
    source: SourceFrame,
    sample: FieldSample,
    own: OwnValues,
    settings: ResidualSettings,
) -> TrainedFrame:
    """The integers of a trained frame, which are all that anybody sees of it from here on."""
    known = settings.joint  # else nobody has looked at densities
    colors, radii = own.integers()
    return TrainedFrame(
        source,
        field.integers(),
        field.state(),
        colors,
        radii,
        own.color_step,
        own.radius_step,
        float(field.bits(sample, noise=False)) if known else math.nan,
        float(own.bits()) if known else math.nan,
    )


def learn_frame(
    field: DictionaryField,
    source: SourceFrame,
    color: CameraColor,
    images: ImageSource,
    train_settings: TrainSettings,
    settings: ResidualSettings,
    number: int,
) -> tuple[FieldSample, OwnValues]:
    """Train the field of a frame and what its points have beside it. number: of the frame in its
    fragment. Any field can be trained that has the methods of `DictionaryField`."""
    layout, splats = field.layout, source.splats
    sample = field.sample(splats.position)
    if number == 0:
        field.start(sample)
    start = torch.tensor(layout.start)
    position = torch.from_numpy(splats.position)
    weight = settings.rate_weight / len(splats)

    def rate() -> torch.Tensor | float:
        bits = field.bits(sample) if settings.joint else 0.0
        return bits + (settings.residual_weight * field.residual_size() if number else 0.0)

    target, scale = _target(source, layout)
    importance = torch.from_numpy(source.importance.astype(np.float32))[:, None]

    def off(output: torch.Tensor) -> torch.Tensor:
        return (importance * ((output - target) * scale).square()).mean()

    radius, sh = (torch.from_numpy(a) for a in (splats.radius, splats.sh))

    def anchor(points: PointTensors) -> torch.Tensor:
        """How far points have gone from the source's, which were trained with more care."""
        radii = _ANCHOR_RADIUS * torch.log(points.radius / radius).square()
        colors = SH_C0**2 * (points.sh - sh).square().sum(dim=(1, 2))
        return (importance[:, 0] * (radii + colors)).mean() / target.shape[1]

    _fit(field, sample, off, settings, rate, weight)
    with torch.no_grad():
        output = field(sample)
        known = bounded_radius(output[:, 0] + start[0], layout.spacing)
        own = OwnValues(
            source.cells,
            torch.from_numpy(splats.sh[:, 0]) - output[:, 2:5],
            torch.log(torch.from_numpy(splats.radius) / known),
            settings,
        )

    groups = [
        (list(field.differences), settings.picture_rate),
        ([p for p in field.network if p.requires_grad], settings.network_rate),
        ([*field.log_scales, own.log_scales], 0.05),
        ([own.colors], settings.color_rate / settings.color),
        ([own.radii], settings.radius_rate / settings.radius),
    ]
    optimizer = torch.optim.Adam(
        [{"params": parameters, "lr": lr} for parameters, lr in groups if parameters], eps=1e-15
    )
    descent = Descent(optimizer, train_settings.decay)
    steps = settings.first_steps if number == 0 else settings.steps
    job = Job(f"residual-{source.frame}", (source.frame,), (source.views,))
    order = schedule(job, replace(train_settings, steps=steps))
    recipes = alternating(train_settings)
    for step, (_, view) in enumerate(order):
        image = images.get(source.frame, view)
        output, (dc, factor) = field(sample), own(settings.joint)
        points = _points(output, dc, factor, position, start, layout)
        loss, _ = picture_loss(points, layout.spacing, image, view, color, recipes[step % 2])
        if settings.anchor:
            loss = loss + settings.anchor * anchor(points)
        loss = loss + weight * (rate() + (own.bits() if settings.joint else 0.0))
        descent.step(loss, step / len(order))

    return sample, own


def _target(source: SourceFrame, layout: FieldLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """What the field's outputs would have to be, (N, outputs), and how much each of them shows."""
    splats = source.splats
    target = np.concatenate(
        [
            _raw_radius(splats, layout.spacing)[:, None] - layout.start[0],
            _raw_density(splats)[:, None] - layout.start[1],
            splats.sh.reshape(len(splats), -1),
        ],
        axis=1,
    )
    scale = torch.full((target.shape[1],), _OUTPUT_WEIGHTS[2])
    scale[:2] = torch.tensor(_OUTPUT_WEIGHTS[:2])
    return torch.from_numpy(target.astype(np.float32)), scale


def _fit(
    field: DictionaryField,
    sample: FieldSample,
    off: Callable[[torch.Tensor], torch.Tensor],
    settings: ResidualSettings,
    rate: Callable[[], torch.Tensor | float],
    weight: float,
) -> None:
    """Bring the field near the source's attributes: many cheap steps instead of many pictures."""
    optimizer = torch.optim.Adam(
        [
            {"params": list(field.differences), "lr": settings.grid_rate},
            {"params": [p for p in field.network if p.requires_grad], "lr": 1e-2},
            {"params": list(field.log_scales), "lr": 0.05},
        ],
        eps=1e-15,
    )
    descent = Descent(optimizer, _FIT_DECAY)
    total = settings.fit_steps * (2 if any(p.requires_grad for p in field.network) else 1)
    for step in range(total):
        descent.step(off(field(sample)) + weight * rate(), step / total)


def _points(
    output: torch.Tensor,
    own: torch.Tensor,
    factor: torch.Tensor,
    position: torch.Tensor,
    start: torch.Tensor,
    layout: FieldLayout,
) -> PointTensors:
    sh = output[:, 2:].reshape(len(position), -1, 3)
    sh = torch.cat([sh[:, :1] + own[:, None], sh[:, 1:]], dim=1)
    return PointTensors(
        position,
        bounded_radius(output[:, 0] + start[0], layout.spacing) * factor,
        torch.sigmoid(output[:, 1] + start[1]),
        sh,
    )


def _raw_radius(splats: Splats, spacing: float) -> np.ndarray:
    return raw_radius(splats.radius / spacing)


def _raw_density(splats: Splats) -> np.ndarray:
    density = np.clip(splats.density.astype(np.float64), 0.01, 0.99)
    return np.log(density / (1 - density))
