"""Image-based colour: blend what the nearest source views saw, with learned weights.

The colour of a point x in frame t is a softmax mixture of the samples c_i of a few source views at
the projections of x and of the point's own (explicit) colour c_0:

    c(x, t, d) = sum_i w_i c_i,  w = softmax(l_0, l_1, ..., l_S)

Source: 4K4D (Xu et al. 2024), the image-based part of its appearance model, from which this differs
on purpose: samples pass an occlusion test, the explicit colour is one of the candidates instead of
an addend, so that nothing is lost where no source sees the point, and the inputs of the logits are
measured (agreement, angle, visibility, contrast) instead of features of a convolutional network.

`position` may be points, or the surface points of a picture's pixels (`render.surface`), which
keeps the detail of the sources that is finer than the points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from ..errors import ReconstructionError
from ..render.camera import Camera
from ..render.source_views import directions_to, nearest_views

#: Source views that a point is blended from (4K4D: N' = 4).
SOURCE_COUNT = 4
#: How often the view that is being supervised is left out of its own sources (4K4D).
LEAVE_OUT = 0.9
#: A point is visible down to this depth behind the source's surface, in point spacings; it covers
#: the unevenness of the points on slanted surfaces.
VISIBLE_MARGIN = 3.0
#: Lengths in source images are in units of a pixel of an image that is 640 pixels long.
_REFERENCE_LONGER = 640.0
#: Samples nearer than this to the outside of a source's mask are not used (reference pixels).
_MASK_MARGIN = 1.0
#: Window of the local mean and contrast, standard deviation in reference pixels.
_WINDOW = 2.0
#: Added to angles (radians) before they are compared, so that the nearest source cannot outweigh
#: all others by a hair.
_ANGLE_FLOOR = 0.05
#: Inputs of the logit of a source and of the explicit colour.
_SOURCE_INPUTS = 29
_EXPLICIT_INPUTS = 11
_MASKED = -1e9


@dataclass(frozen=True, eq=False)
class SourceImage:
    """What one view saw in one frame, ready to be sampled.

    maps: (8, H, W) float32: rgb in the colours of the mean camera, their local mean (3), the local
        contrast, and the distance to the mask's outline, reference pixels, positive inside.
    surface: (H, W) float32, camera-space z of the points' surface, +inf where there is none.
    """

    camera: Camera
    maps: torch.Tensor
    surface: torch.Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """What S source views say about N points. Where `visible` is False the rest has no meaning,
    but is finite.

    color, detail: (N, S, 3), the sample, and its difference from the local mean around it.
    measures: (N, S, 5): contrast, distance to the mask's outline (reference pixels), depth behind
        the source's surface (spacings), angle between the two viewing directions (radians), log of
        the ratio of the pixel sizes at the point. visible: (N, S) bool.
    """

    color: torch.Tensor
    detail: torch.Tensor
    measures: torch.Tensor
    visible: torch.Tensor

    def __len__(self) -> int:
        return len(self.color)

    def select(self, which: torch.Tensor) -> Samples:
        """The points that an index tensor or a mask picks."""
        return Samples(*(getattr(self, field.name)[which] for field in fields(self)))

    @staticmethod
    def concatenate(parts: Iterable[Samples]) -> Samples:
        """The points of all parts, which must have the same number of sources."""
        parts = list(parts)
        names = [field.name for field in fields(Samples)]
        return Samples(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def source_image(
    camera: Camera,
    image: np.ndarray,
    mask: np.ndarray | None,
    surface: np.ndarray,
    *,
    log_gain: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    falloff: np.ndarray | None = None,
) -> SourceImage:
    """Prepare one view's image for sampling.

    image: (H, W, 3) uint8 RGB. mask: (H, W), true on the subject; None: everywhere. surface: (H, W)
    z of the points' surface in this camera, +inf where there is none; it decides what is hidden.
    log_gain, offset: (3,), falloff: (H, W, 3): the camera's colour (`CameraColor`), undone as
    (seen / falloff - offset) / exp(log_gain). Raises ReconstructionError for shapes that do not
    belong together.
    """
    import cv2

    shape = (camera.height, camera.width)
    given = {"image": image, "mask": mask, "surface": surface, "falloff": falloff}
    for name, array in given.items():
        if array is not None and array.shape[:2] != shape:
            raise ReconstructionError(
                f"the {name} is {array.shape[1::-1]} pixels, the camera {shape[::-1]}"
            )
    rgb = image.astype(np.float32) / 255
    if falloff is not None:
        rgb = rgb / np.maximum(np.asarray(falloff, dtype=np.float32), 0.1)
    if offset is not None:
        rgb = rgb - np.asarray(offset, dtype=np.float32)
    if log_gain is not None:
        rgb = rgb / np.exp(np.asarray(log_gain, dtype=np.float32))
    unit = max(shape) / _REFERENCE_LONGER
    mean = cv2.GaussianBlur(rgb, (0, 0), max(0.5, _WINDOW * unit))
    square = cv2.GaussianBlur(rgb * rgb, (0, 0), max(0.5, _WINDOW * unit))
    contrast = np.sqrt(np.maximum(square - mean * mean, 0)).mean(axis=2, keepdims=True)
    if mask is None or np.all(mask):
        inside = np.full((*shape, 1), max(shape) / unit, dtype=np.float32)
    else:
        on = (np.asarray(mask) != 0).astype(np.uint8)
        inside = cv2.distanceTransform(on, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inside -= cv2.distanceTransform(1 - on, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        inside = inside[..., None] / unit
    maps = np.concatenate([rgb, mean, contrast, inside], axis=2).astype(np.float32)
    return SourceImage(
        camera,
        torch.from_numpy(np.ascontiguousarray(maps.transpose(2, 0, 1))),
        torch.from_numpy(np.array(surface, dtype=np.float32)),
    )


def nearest_sources(
    sources: Mapping[int, SourceImage],
    eye: np.ndarray,
    centre: np.ndarray,
    *,
    count: int = SOURCE_COUNT,
    own: int | None = None,
) -> list[SourceImage]:
    """The `count` sources seen from `centre` (3,) in the direction nearest to that of `eye` (3,).

    own: the view that is being supervised, which is left out. Nearest first.
    """
    views = [view for view in sources if view != own]
    if not views:
        return []
    directions = directions_to([sources[view].camera for view in views], centre)
    towards = np.asarray(eye, dtype=np.float64) - centre
    return [sources[views[i]] for i in nearest_views(directions, towards, count)]


def sample_sources(
    position: torch.Tensor,
    sources: Sequence[SourceImage],
    camera: Camera,
    spacing: float,
    *,
    count: int = SOURCE_COUNT,
) -> Samples:
    """Project points (N, 3), world units, into the sources and sample what they saw there.

    camera: of the picture to be made. spacing: of the points, world units. count: S; where there
    are fewer sources the rest is invisible. Colours and details carry gradients to `position`
    through the bilinear interpolation; the measures carry none. Points behind a source or outside
    its image are invisible, never NaN.
    """
    n = len(position)
    towards, pixel = _viewing(position.detach(), camera)
    colors, details, measures, visible = [], [], [], []
    for source in sources[:count]:
        uv, z, valid = _project(position, source.camera)
        maps = _bilinear(source.maps, uv)
        colors.append(maps[:, :3])
        details.append(maps[:, :3] - maps[:, 3:6])
        with torch.no_grad():
            surface = source.surface[uv[:, 1].long(), uv[:, 0].long()]
            behind = ((z - surface) / spacing).nan_to_num(0.0).clamp(-1e3, 1e3)
            source_towards, source_pixel = _viewing(position, source.camera)
            cosine = (towards * source_towards).sum(dim=1).clamp(-1, 1)
            scale = torch.log(source_pixel / pixel)
            contrast, inside = maps[:, 6], maps[:, 7]
            measures.append(
                torch.stack([contrast, inside, behind, torch.arccos(cosine), scale], dim=1)
            )
            visible.append(valid & (behind < VISIBLE_MARGIN) & (inside > _MASK_MARGIN))
    for _ in range(count - len(colors)):
        colors.append(position.new_zeros(n, 3))
        details.append(position.new_zeros(n, 3))
        measures.append(position.new_zeros(n, 5))
        visible.append(torch.zeros(n, dtype=torch.bool, device=position.device))
    return Samples(*(torch.stack(parts, dim=1) for parts in (colors, details, measures, visible)))


def pixel_positions(
    z: torch.Tensor, row: torch.Tensor, column: torch.Tensor, camera: Camera
) -> torch.Tensor:
    """World points (M, 3) at camera-space depth z (M,) behind the centres of pixels (M,), (M,).

    Differentiable in z: with the depth of the peel in training, the sources' colours move the
    points to where the views agree.
    """
    K = camera.K
    y = (row + 0.5 - float(K[1, 2])) / float(K[1, 1])
    x = (column + 0.5 - float(K[0, 2]) - float(K[0, 1]) * y) / float(K[0, 0])
    seen = torch.stack([x, y, z] if camera.orthographic else [x * z, y * z, z], dim=1)
    return (seen - _tensor(camera.t, z)) @ _tensor(camera.R, z)


class ImageBlending(torch.nn.Module):
    """The blending weights: one small network for the sources, one for the explicit colour.

    hidden: width of the one hidden layer (4K4D: 64). Untrained, half of the weight is the explicit
    colour's and the visible sources share the other half by the inverse of their angle to the
    wanted view; the networks learn what to change about that. It knows no lengths but the point
    spacing, so one network serves all frames of a clip. generator: of the start values.
    """

    def __init__(self, hidden: int = 64, *, generator: torch.Generator | None = None):
        super().__init__()
        self.source_logit = _mlp(_SOURCE_INPUTS, hidden, generator)
        self.explicit_logit = _mlp(_EXPLICIT_INPUTS, hidden, generator)

    def weights(
        self, samples: Samples, explicit: torch.Tensor, coverage: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Blending weights (N, 1 + S), the explicit colour's first; they sum to 1.

        explicit: (N, 3) the points' own colour. coverage: (N,) alpha of the pixel where the points
        are a picture's pixels, else 1. An invisible source has exactly 0.
        """
        if not len(explicit):
            return explicit.new_zeros(0, 1 + samples.color.shape[1])
        sources, own, prior = _inputs(samples, explicit, coverage)
        logits = self.source_logit(sources)[..., 0] + prior
        logits = logits.masked_fill(~samples.visible, _MASKED)
        # As much as all visible sources together, or anything where there are none.
        share = torch.logsumexp(prior.masked_fill(~samples.visible, _MASKED), dim=1, keepdim=True)
        share = share.masked_fill(~samples.visible.any(dim=1, keepdim=True), 0.0)
        weights = torch.softmax(torch.cat([self.explicit_logit(own) + share, logits], dim=1), dim=1)
        hidden = torch.cat([torch.zeros_like(samples.visible[:, :1]), ~samples.visible], dim=1)
        return weights.masked_fill(hidden, 0.0)

    def forward(
        self, samples: Samples, explicit: torch.Tensor, coverage: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Colours (N, 3) of the mean camera. Arguments as in `weights`."""
        weights = self.weights(samples, explicit, coverage)
        return weights[:, :1] * explicit + (weights[:, 1:, None] * samples.color).sum(dim=1)


def _mlp(inputs: int, hidden: int, generator: torch.Generator | None) -> torch.nn.Sequential:
    first, last = torch.nn.Linear(inputs, hidden), torch.nn.Linear(hidden, 1)
    torch.nn.init.kaiming_uniform_(first.weight, nonlinearity="relu", generator=generator)
    for start in (first.bias, last.weight, last.bias):
        torch.nn.init.zeros_(start)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last)


@torch.no_grad()
def _inputs(samples, explicit, coverage):
    """Inputs of the two networks, (N, S, 29) and (N, 11), and the sources' prior logits (N, S).

    They carry no gradient: weights that points could change by moving would only add noise to
    what moves them already, the samples' colours.
    """
    color, visible = samples.color, samples.visible
    n, s = visible.shape
    coverage = explicit.new_ones(n) if coverage is None else coverage
    contrast, inside, behind, angle, scale = samples.measures.unbind(dim=2)
    seen = visible.float()
    count = seen.sum(dim=1, keepdim=True)
    share = seen / count.clamp_min(1)
    mean = torch.where(count > 0, (color * share[..., None]).sum(dim=1), explicit)
    apart = color - mean[:, None]
    spread = (apart.square().sum(dim=2) * share).sum(dim=1, keepdim=True).sqrt()
    nearest = angle.masked_fill(~visible, torch.pi).min(dim=1, keepdim=True).values
    change = color - explicit[:, None]
    common = torch.cat(
        [coverage[:, None], mean - explicit, 3 * spread, count / s, explicit - 0.5], dim=1
    )
    measured = torch.stack(
        [
            inside.clamp(-4, 10) / 5,
            5 * contrast,
            behind.clamp(-4, 8) / 4,
            angle,
            angle - nearest,
            scale.clamp(-3, 3),
        ],
        dim=2,
    )
    sources = torch.cat(
        [
            change,
            change.abs().sum(dim=2, keepdim=True),
            color - 0.5,
            samples.detail,
            apart,
            apart.abs().sum(dim=2, keepdim=True),
            measured,
            common[:, None].expand(-1, s, -1),
        ],
        dim=2,
    )
    difference = (mean - explicit).abs().sum(dim=1, keepdim=True)
    own = torch.cat([common, difference, nearest], dim=1)
    return sources, own, -torch.log(angle + _ANGLE_FLOOR)


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(like.device)


def _project(position: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, ...]:
    """Pixels (N, 2) inside the image, camera-space z (N,), and which of the points are there."""
    K = camera.K
    x, y, z = (position @ _tensor(camera.R.T, position) + _tensor(camera.t, position)).unbind(1)
    valid = (z > camera.near) & (z < camera.far)
    # Divide by 1 where z is not positive: a division that is thrown away would still make the
    # gradient NaN.
    divisor = torch.ones_like(z) if camera.orthographic else torch.where(valid, z, 1.0)
    u = (float(K[0, 0]) * x + float(K[0, 1]) * y) / divisor + float(K[0, 2])
    v = float(K[1, 1]) * y / divisor + float(K[1, 2])
    valid = valid & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    uv = torch.where(valid[:, None], torch.stack([u, v], dim=1), 0.5)
    return uv, z, valid


def _bilinear(maps: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Values (N, C) of maps (C, H, W) at pixels (N, 2), the border repeated."""
    size = uv.new_tensor([maps.shape[2], maps.shape[1]])
    return torch.nn.functional.grid_sample(
        maps[None],
        (uv * 2 / size - 1)[None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, :, 0].T


def _viewing(position: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (N, 3) from points to the camera, and a pixel's size there (N,), world units."""
    focal = float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))
    if camera.orthographic:
        towards = -_tensor(camera.forward, position).expand(len(position), 3)
        return towards, position.new_full((len(position),), 1 / focal)
    away = _tensor(camera.centre, position) - position
    distance = away.norm(dim=1).clamp_min(1e-9)
    return away / distance[:, None], distance / focal
