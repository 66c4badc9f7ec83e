"""Image-based colour in training: pictures blended from the sources, and learning the weights.

The weights must be learned on views that took no part in training the points. The points fit the
views that they learned from several dB better than any other, so weights learned there trust the
explicit colour too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ReconstructionError
from ..model.image_blending import (
    ImageBlending,
    Samples,
    SourceImage,
    pixel_positions,
    sample_sources,
)
from ..render import core
from ..render.camera import Camera
from ..render.settings import PeelSettings
from ..render.splats import Splats
from ..render.surface import SurfacePixels, mean_surface, surface_pixels

#: Pixels of one example; more of the same picture say little new.
EXAMPLE_PIXELS = 8000
#: Pixels of one step.
_BATCH = 2048
_RATE = 3e-3
_DECAY = 0.05
#: Mean squared errors below this weigh no more in the mean of the decibels (35 dB).
_LEAST_ERROR = 3e-4
#: Pixels with less coverage are left as they are in training: their depth means nothing yet.
_MIN_COVERAGE = 0.3


@dataclass(frozen=True, eq=False)
class BlendExample:
    """M pixels of one view that the points did not learn from.

    explicit: (M, 3) the points' colours. coverage: (M,). background, truth: (M, 3) in [0, 1].
    gain, offset: (M, 3) of the view at these pixels, so that truth = coverage (gain colour +
    offset) + (1 - coverage) background. weight: of this view in the loss.
    """

    samples: Samples
    explicit: torch.Tensor
    coverage: torch.Tensor
    background: torch.Tensor
    truth: torch.Tensor
    gain: torch.Tensor
    offset: torch.Tensor
    weight: float


def source_surface(splats: Splats, camera: Camera, settings: PeelSettings) -> np.ndarray:
    """(H, W) camera-space z of the points' surface in a source view, for its occlusion test."""
    out = _peel(splats, camera, settings)
    return mean_surface(out["rgba"], out["depth"])


def shown_surface(
    splats: Splats,
    camera: Camera,
    settings: PeelSettings,
    spacing: float,
    area: np.ndarray | None = None,
) -> tuple[SurfacePixels, np.ndarray]:
    """The surface pixels of a picture of the points, and the picture (H, W, 4), premultiplied."""
    out = _peel(splats, camera, settings)
    pixels = surface_pixels(out["rgba"], out["depth"], out["surface"], camera, spacing, area)
    return pixels, out["rgba"]


@torch.no_grad()
def blended_picture(
    splats: Splats,
    camera: Camera,
    sources: Sequence[SourceImage],
    blending: ImageBlending,
    spacing: float,
    settings: PeelSettings,
) -> np.ndarray:
    """The points' picture with image-based colours, (H, W, 4) float32, premultiplied.

    sources: the nearest ones first, at most as many as the blending takes. spacing: world units.
    """
    pixels, picture = shown_surface(splats, camera, settings, spacing)
    samples = sample_sources(torch.from_numpy(pixels.position), sources, camera, spacing)
    rgb = blending(samples, torch.from_numpy(pixels.rgb), torch.from_numpy(pixels.alpha)).numpy()
    picture = picture.copy()
    picture[pixels.row, pixels.column, :3] = rgb * pixels.alpha[:, None]
    return picture


def blend_rgba(
    rgba: torch.Tensor,
    depth: torch.Tensor,
    area: torch.Tensor,
    camera: Camera,
    sources: Sequence[SourceImage],
    blending: ImageBlending,
    spacing: float,
) -> torch.Tensor:
    """A peeled picture with image-based colours inside `area`, for a training step.

    rgba (H, W, 4) premultiplied and depth (H, W) as `peel` returns them; area: (H, W, 1) bool.
    Returns (H, W, 4), alpha unchanged. Gradients reach the points' colours through rgba, and their
    positions through depth, where the sources' colours say which way the views would agree.
    """
    alpha = rgba[..., 3]
    row, column = torch.nonzero(area[..., 0] & (alpha.detach() > _MIN_COVERAGE), as_tuple=True)
    coverage = alpha[row, column]
    position = pixel_positions(depth[row, column] / coverage, row, column, camera)
    samples = sample_sources(position, sources, camera, spacing)
    explicit = rgba[row, column, :3] / coverage[:, None]
    rgb = blending(samples, explicit, coverage.detach())
    blended = torch.cat([rgb * coverage[:, None], coverage[:, None]], dim=1)
    return rgba.index_put((row, column), blended)


def blend_example(
    pixels: SurfacePixels,
    camera: Camera,
    truth: np.ndarray,
    background: np.ndarray,
    sources: Sequence[SourceImage],
    spacing: float,
    *,
    log_gain: np.ndarray,
    offset: np.ndarray,
    falloff: np.ndarray | None = None,
    seed: int = 0,
) -> BlendExample:
    """One view as an example; at most `EXAMPLE_PIXELS` of its pixels, drawn at random.

    pixels: of `shown_surface`, for this view. truth, background: (H, W, 3) uint8. sources: the
    nearest ones without this view itself. log_gain, offset: (3,), falloff: (H, W, 3): the view's
    colour, as in `source_image`.
    """
    chosen = np.arange(len(pixels))
    if len(chosen) > EXAMPLE_PIXELS:
        chosen = np.random.default_rng(seed).choice(chosen, EXAMPLE_PIXELS, replace=False)
    row, column = pixels.row[chosen], pixels.column[chosen]
    position = torch.from_numpy(pixels.position[chosen])
    with torch.no_grad():
        samples = sample_sources(position, sources, camera, spacing)
    explicit, coverage = pixels.rgb[chosen], pixels.alpha[chosen]
    seen, behind = (image[row, column].astype(np.float32) / 255 for image in (truth, background))
    light = np.float32(1) if falloff is None else np.float32(falloff[row, column])
    gain = np.broadcast_to(np.exp(np.float32(log_gain)) * light, explicit.shape).copy()
    offset = np.broadcast_to(np.float32(offset) * light, explicit.shape).copy()
    alpha = coverage[:, None]
    error = alpha * (explicit * gain + offset) + (1 - alpha) * behind - seen
    # The score is a mean of decibels: what counts of a view's error is its share.
    weight = 1 / max(float(np.square(error).mean()) if error.size else 1.0, _LEAST_ERROR)
    tensors = (explicit, coverage, behind, seen, gain, offset)
    return BlendExample(samples, *(torch.from_numpy(array) for array in tensors), weight)


def train_blending(
    examples: Sequence[BlendExample], *, steps: int = 1000, seed: int = 0
) -> ImageBlending:
    """Learn the blending weights from pixels of views that the points did not learn from.

    Every step takes pixels of all examples alike. The same seed gives the same weights. Raises
    ReconstructionError when there is not one pixel.
    """
    examples = [example for example in examples if len(example.explicit)]
    if not examples:
        raise ReconstructionError("no view shows a point to learn blending weights from")
    samples = Samples.concatenate(example.samples for example in examples)
    explicit, coverage, background, truth, gain, offset = (
        torch.cat([getattr(example, name) for example in examples])
        for name in ("explicit", "coverage", "background", "truth", "gain", "offset")
    )
    weight = torch.cat([torch.full((len(e.explicit), 1), e.weight) for e in examples])
    weight = weight / weight.mean()

    generator = torch.Generator().manual_seed(seed)
    blending = ImageBlending(generator=generator)
    optimizer = torch.optim.Adam(blending.parameters(), lr=_RATE, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * _DECAY ** (step / steps)
        some = torch.randint(len(explicit), (_BATCH,), generator=generator)
        rgb = blending(samples.select(some), explicit[some], coverage[some])
        alpha = coverage[some, None]
        picture = alpha * (rgb * gain[some] + offset[some]) + (1 - alpha) * background[some]
        loss = ((picture - truth[some]).square() * weight[some]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return blending


def _peel(splats: Splats, camera: Camera, settings: PeelSettings) -> dict[str, np.ndarray]:
    return core.forward(
        splats.position,
        splats.radius,
        splats.density,
        splats.sh,
        camera,
        settings,
        want=("depth", "surface"),
    )
