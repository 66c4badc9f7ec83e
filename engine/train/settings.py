"""What a training run can be told. Lengths are in point spacings or pixels, so no setting knows
metres."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ReconstructionError
from ..render.settings import PeelSettings

#: Layers that a clip is displayed with (4K4D: 12), and one with a background behind its subject.
DISPLAY_LAYERS = 12
BACKGROUND_DISPLAY_LAYERS = 20
MODELS = ("explicit", "field")


@dataclass(frozen=True)
class TrainSettings:
    """One training recipe.

    model: "explicit" (attributes per point) or "field" (K-Planes, heads and a colour per point).
    steps: optimisation steps per frame, one crop of one image each.
    sh_degree: of the view-dependent colour. layers: K of the peel in training. samples: along each
        axis of a pixel. Points that are not much larger than a pixel alias with one sample, and
        what is fitted to their aliasing looks wrong elsewhere: 0.6 dB with points from depth maps,
        which have two therefore, and so has the last level of a hull's; nothing with larger ones.
    levels: of a hull's explicit points, coarse to fine (see `levels`); `steps` are those of all.
        fine_...: what the last of several levels has instead.
    hull_pixels: spacing of the points of a visual hull, in pixels of the median camera, on the last
        level. field_pixels: of those of a field, which has no levels.
    depth_pixels: of points from depth maps, in pixels of the median measurement.
    radius, density: start values, in spacings and in [0, 1]. hull_inset, depth_inset: how far the
        start positions move into the subject. A hull is too fat by some pixels of the median
        camera; what was measured by depth is not, but a disk centred there sticks out of the
        silhouette by its radius, so that is in spacings.
    rates: Adam's learning rates; position in spacings, decayed by `decay` over the run. rotation:
        of the cameras while the background is trained, in pixels of an image that is 640 long; 0
        leaves the cameras as they are given.
    mask_weight, dssim_weight, lpips_weight, depth_weight: of the losses beside the colour's mean
        squared error; depth counts where the points come from depth maps, which already say most
        of what it could teach: 3e-3 gained less than 0.1 dB, 1e-2 lost 0.2 to 0.3.
    position_roughness, offset_roughness, color_roughness, shimmer: weights of the `Roughness` of
        explicit points. The first rounds the edges that silhouettes leave where no camera has seen
        the outline: a hull is never smaller than its subject, and bodies have no such edges. That
        is for coarse points to find; fine ones keep it, and would lose detail to more. Points from
        depth maps are where they belong, so a plan with these has none of it.
    background_steps, background_radius, background_layers, background_samples: steps (whole
        images), start radius in spacings, K and samples for the static background.
        background_pixels: spacing of its points, in pixels of the median camera; where there is
        texture they are twice as dense. background_maps: longer side of the depth maps that they
        are found with, pixels.
    joint_steps: whole images of the trained frames that the background learns from after them.
    """

    model: str = "explicit"
    steps: int = 650
    sh_degree: int = 1
    layers: int = 12
    samples: int = 1
    fine_samples: int = 2
    levels: int = 3
    hull_pixels: float = 2.4
    field_pixels: float = 3.4
    depth_pixels: float = 1.8
    radius: float = 0.85
    density: float = 0.8
    hull_inset: float = 2.7
    depth_inset: float = 0.8
    position_rate: float = 0.15
    fine_position_rate: float = 0.08
    radius_rate: float = 0.06
    density_rate: float = 0.1
    color_rate: float = 5e-3
    field_rate: float = 1e-2
    head_rate: float = 2e-3
    rotation_rate: float = 0.03
    decay: float = 0.1
    mask_weight: float = 1e-2
    dssim_weight: float = 0.02
    lpips_weight: float = 1e-3
    depth_weight: float = 0.0
    position_roughness: float = 1e-2
    fine_position_roughness: float = 1e-3
    offset_roughness: float = 6e-3
    color_roughness: float = 8e-3
    fine_color_roughness: float = 1.6e-2
    shimmer: float = 0.1
    background_steps: int = 1000
    background_radius: float = 1.4
    background_layers: int = 16
    background_samples: int = 2
    background_pixels: float = 3.0
    background_maps: int = 160
    joint_steps: int = 200
    seed: int = 0

    def pixels_of(self, points: str) -> float:
        """Spacing of points that come from a "hull" or from "depth", in pixels."""
        if points == "depth":
            return self.depth_pixels
        return self.field_pixels if self.model == "field" else self.hull_pixels

    def inset_of(self, points: str) -> float:
        """How far points that come from a "hull" or from "depth" start inside, in spacings."""
        return self.depth_inset if points == "depth" else self.hull_inset / self.pixels_of(points)

    @property
    def peel(self) -> PeelSettings:
        # Training wants the tail of the gradient that a display may cut off.
        return PeelSettings(layers=self.layers, min_transmittance=1e-3)

    @property
    def for_background(self) -> TrainSettings:
        """The recipe of the static background: explicit points, matte, without an outline."""
        return replace(
            self,
            model="explicit",
            steps=self.background_steps,
            radius=self.background_radius,
            layers=self.background_layers,
            samples=self.background_samples,
            sh_degree=0,
            mask_weight=0.0,
            # More of it, and more steps, fit the seams of walls to the views that were trained.
            dssim_weight=min(self.dssim_weight, 0.02),
            position_rate=0.1,
            # Disks that grow fast close the gaps between sparse ones, and blur what they cover.
            radius_rate=0.02,
            position_roughness=0.0,
            offset_roughness=2e-3,
            color_roughness=2e-3,
            shimmer=0.0,
        )

    @property
    def for_measured_background(self) -> TrainSettings:
        """The recipe of a background whose depth was measured: its points are where they belong,
        and where few cameras look they would go to where only these see no difference."""
        return replace(self.for_background, position_rate=0.05, offset_roughness=5e-2)

    @property
    def for_joint(self) -> TrainSettings:
        """The recipe of the background behind trained frames: slow, `steps` in all."""
        return replace(
            self.for_background,
            steps=self.joint_steps,
            layers=BACKGROUND_DISPLAY_LAYERS,
            density_rate=0.3 * self.density_rate,
            color_rate=0.3 * self.color_rate,
        )


PRESETS = {
    "draft": TrainSettings(
        steps=120,
        levels=1,
        hull_pixels=3.4,
        background_steps=250,
        background_samples=1,
        background_pixels=4.0,
        background_maps=112,
        joint_steps=60,
    ),
    "standard": TrainSettings(),
    "high": TrainSettings(
        steps=1600,
        samples=2,
        levels=4,
        hull_pixels=1.4,
        field_pixels=2.9,
        depth_pixels=1.3,
        # Outlines are half of the detail that is lost; standard has 0.1 dB more without.
        mask_weight=0.028,
        dssim_weight=0.03,
        background_steps=1200,
        joint_steps=400,
    ),
}


def preset(name: str, **changes: object) -> TrainSettings:
    """A named recipe with single settings replaced. Raises ReconstructionError for a bad name."""
    if name not in PRESETS:
        raise ReconstructionError(
            f"no preset called '{name}'", hint=f"The presets are: {', '.join(PRESETS)}"
        )
    settings = replace(PRESETS[name], **changes)
    if settings.model not in MODELS:
        raise ReconstructionError(
            f"no model called '{settings.model}'", hint=f"The models are: {', '.join(MODELS)}"
        )
    return settings


def display_settings(has_background: bool) -> PeelSettings:
    """How a clip is drawn."""
    return PeelSettings(layers=BACKGROUND_DISPLAY_LAYERS if has_background else DISPLAY_LAYERS)
