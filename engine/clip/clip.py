"""What a clip (`.p4d`) says about itself: the small dataclasses behind `clip.json`.

The format is specified in docs/clip-format.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..render.camera import Camera
from ..render.settings import PeelSettings

SCHEMA = "peel4d-clip"
SCHEMA_VERSION = 1
#: Version of the rules in engine/render (footprint, falloff, depth key) the clip was made for.
FOOTPRINT_VERSION = 1
#: Display-referred 8-bit style sRGB; points are composited in it, then decoded once per pixel.
COLOR_SPACE = "srgb-display"
#: The members of the archive.
INFO_MEMBER = "clip.json"
STATIC_MEMBER = "static.bin"
#: Sizes beyond these are refused before anything is allocated, by the reader and by the writer.
MAX_FRAMES = 1_000_000
MAX_BASES = 1_000_000
MAX_POINTS = 1 << 24
MAX_DECODED_BYTES = 1 << 31
MAX_INFO_BYTES = 1 << 26
MAX_IMAGE_SIZE = 1 << 20
#: Coordinates, radii and coefficients beyond this are garbage, and float32 arithmetic overflows.
MAX_MAGNITUDE = 1e30
#: What is said about a file that no writer of ours leaves behind.
DAMAGED_HINT = "The file is damaged or not complete; copy it again or export the clip again"


def frame_member(index: int) -> str:
    """Name of the archive member that holds frame `index` (counted from 0)."""
    return f"frames/{index:06d}.bin"


def fragment_member(index: int) -> str:
    """Name of the archive member that holds fragment `index` (counted from 0)."""
    return f"fragments/{index:04d}.bin"


def base_member(index: int) -> str:
    """Name of the archive member that holds base `index` (counted from 0)."""
    return f"bases/{index:04d}.bin"


@dataclass(frozen=True)
class ClipFragment:
    """Consecutive frames that share a field. first: of them. base: of the field, or None."""

    first: int
    frames: int
    base: int | None = None


def fragment_of(fragments: Sequence[ClipFragment], frame: int) -> tuple[int, int]:
    """The fragment that a frame belongs to, and its number in there; fragments hold every frame."""
    index = bisect_right(fragments, frame, key=lambda fragment: fragment.first) - 1
    return index, frame - fragments[index].first


@dataclass(frozen=True, eq=False)
class ClipCamera:
    """A camera of the capture, so that a scene can place it.

    K: (3, 3) pixels, R: (3, 3), t: (3,), as in `Camera`. width, height: pixels.
    train: False for a view that was held out of training.
    """

    name: str
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    width: int
    height: int
    train: bool = True

    def __post_init__(self) -> None:
        for name, shape in (("K", (3, 3)), ("R", (3, 3)), ("t", (3,))):
            array = np.array(getattr(self, name), dtype=np.float64).reshape(shape)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def camera(self) -> Camera:
        """The renderer's camera of this view."""
        return Camera(self.K, self.R, self.t, self.width, self.height)


@dataclass(frozen=True)
class ClipAttribute:
    """One row of the typed attribute table.

    type: of the decoded values. components: per point. scope: "frame", "fragment" or "static".
    low, high: range of the values over the whole clip, all components together.
    nbytes: what the attribute costs in the file, all frames together.
    Names reserved for later profiles: velocity, track_id, source_view_ids, blend_weights.
    """

    name: str
    type: str
    components: int
    scope: str
    low: float
    high: float
    nbytes: int


@dataclass(frozen=True, eq=False)
class ClipInfo:
    """The head of a clip.

    version: of the schema. codec: how the chunks are stored, a name in codecs.py.
    frame_count: F. first_frame: label of frame 0 in the capture's own numbering. fps: frames/s.
    points: (F,) points of every frame, without the static ones. static_points: points that belong
        to every frame and are stored once.
    sh_degree: 0..3, the same for all frames.
    bounds: (2, 3) float64, lowest and highest position of any point centre; zeros without points.
    frame_bounds: (2, 3) float64, the same of the frames' own points, which are the subject where
        the static ones are its background; `bounds` where there are none.
    up: (3,) float64, the world's upward direction, unit length, None where it is not known.
    color: colour space of the appearance. footprint: version of the rendering rules.
    settings: how the clip wants to be peeled. cameras: of the capture, may be empty.
    provenance: free JSON of the program that made the clip.
    fragments: which frames share a field, in order, every frame in one; empty for a codec whose
        frames share nothing.
    """

    version: int
    codec: str
    frame_count: int
    first_frame: int
    fps: float
    points: tuple[int, ...]
    static_points: int
    sh_degree: int
    bounds: np.ndarray
    frame_bounds: np.ndarray
    up: np.ndarray | None
    color: str
    footprint: int
    settings: PeelSettings
    cameras: tuple[ClipCamera, ...]
    attributes: tuple[ClipAttribute, ...]
    provenance: Mapping[str, object] = field(default_factory=dict)
    fragments: tuple[ClipFragment, ...] = ()

    @property
    def bases(self) -> int:
        """How many bases there are."""
        return 1 + max((f.base for f in self.fragments if f.base is not None), default=-1)
