"""What the training of the codec "residual" can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..clip.lattice import rounded_step
from ..render.splats import SH_C0


@dataclass(frozen=True)
class ResidualSettings:
    """One rate point, and how long it is trained.

    rate_weight: lambda, loss per bit and point. position: cells of the positions, in median radii.
    color, radius: steps of the points' own colours, absolute, and of their radii, relative. prune:
    see `clip.pack.PackSettings`. coarseness: of the field's steps. residual_weight: lambda_1 of
    |R|_1, relative to lambda. gop: frames of a fragment. first_steps, steps: pictures that teach
    the first frame and each later one. fit_steps: steps towards the source's attributes before
    pictures are looked at, twice as many for the first frame. grid_rate, picture_rate: learning
    rates of the field's integers in these and with pictures. network_rate, color_rate, radius_rate:
    of the rest. anchor: weight of what points differ from the source's by. joint: quantisation and
    rate are simulated in training; else they come after it. field_size: of its cells, relative.
    """

    rate_weight: float = 3e-4
    position: float = 1 / 2.5
    color: float = 1 / 20
    radius: float = 0.25
    prune: float = 0.003
    coarseness: float = 1.0
    residual_weight: float = 0.1
    gop: int = 10
    first_steps: int = 120
    steps: int = 90
    fit_steps: int = 150
    grid_rate: float = 0.12
    network_rate: float = 3e-3
    picture_rate: float = 0.03
    color_rate: float = 2.5e-3
    radius_rate: float = 0.01
    anchor: float = 0.2
    joint: bool = True
    field_size: float = 1.0

    def scaled(self, factor: float) -> ResidualSettings:
        """All steps of the points longer by a factor, and lambda by its square."""
        return replace(
            self,
            rate_weight=self.rate_weight * factor**2,
            position=self.position * factor,
            color=self.color * factor,
            radius=self.radius * factor,
        )

    @property
    def color_step(self) -> float:
        """Of the constant SH coefficient."""
        return rounded_step(self.color / SH_C0)


#: Rate points, from the best pictures to the fewest bytes. lambda grows with the square of the
#: steps: at high rate a bit less of a number of step q costs 2 ln 2 q^2 / 12 of squared error. At
#: the coarse end that is too much ("basketball", smallest: half of it gave 0.075 dB for 5 % more
#: bytes, where presets were 0.3 dB and 38 % apart; small: 0.02 dB for 4 %, which is not worth it).
PRESETS = {
    "high": ResidualSettings(rate_weight=1.5e-4, position=1 / 4, color=1 / 28, radius=0.2),
    "standard": ResidualSettings(rate_weight=3e-4, position=1 / 2.5, color=1 / 20, radius=0.25),
    "small": ResidualSettings(
        rate_weight=6e-4, position=1 / 2, color=1 / 14, radius=0.35, prune=0.008
    ),
    "smallest": ResidualSettings(
        rate_weight=6e-4, position=1 / 1.5, color=1 / 10, radius=0.5, prune=0.012
    ),
}
