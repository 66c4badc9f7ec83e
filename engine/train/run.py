"""What every frame of one reconstruction needs: the capture's pictures, plates and shared parts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..errors import CoreError, ReconstructionError
from ..model.camera_color import CameraColor
from ..progress import Progress, ProgressCallback
from ..render import backend
from ..render.splats import Splats
from .checkpoint import load_splats
from .images import TrainingImages
from .masks import untrusted_views, with_masks
from .plan import FRAGMENT_FRAMES, Folder, Plan
from .plates import load_plates
from .watch import Watch

DEVICES = ("auto", "cpu", "cuda")
#: Of the memory limit when none is given: how much images may take, not what stops a run.
DEFAULT_MEMORY = 4 << 30
#: What CUDA itself takes of a GPU for each process (0.4 GB on an H200), and the least that torch
#: and the splat core can do anything with.
_DRIVER_VRAM, _LEAST_VRAM = 450 << 20, 64 << 20
#: Says how far a part of the work is: part in [0, 1], and what is measured on the way.
Report = Callable[[float, dict[str, float]], None]


def training_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means. Raises ReconstructionError for "cuda" where
    there is no GPU that both torch and the splat core can use."""
    if name not in DEVICES:
        raise ReconstructionError(f"no device called '{name}'", hint=f"Use {', '.join(DEVICES)}")
    if name == "cpu":
        return torch.device("cpu")
    problem = hint = None
    if not torch.cuda.is_available():
        problem, hint = "this torch sees no NVIDIA GPU", "Install torch with CUDA, and its driver"
    else:
        try:
            backend.select("cuda")
        except CoreError as error:
            problem, hint = str(error), error.hint
    if problem is None:
        return torch.device("cuda", 0)
    if name == "cuda":
        raise ReconstructionError(f"cannot train on a GPU: {problem}", hint=hint)
    return torch.device("cpu")


def may_use_gpu(name: str) -> bool:
    """Whether `training_device` would look for a GPU and torch sees one; nothing is opened."""
    return name != "cpu" and torch.cuda.is_available()


def usable_vram(most: int | None) -> int | None:
    """Bytes of the GPU that nobody uses, and no more than `most`; None where the GPU does not say
    (and then `training_device` says why)."""
    try:
        free = torch.cuda.mem_get_info(0)[0]
    except RuntimeError:
        return None
    return free if most is None else min(free, most)


def limit_vram(nbytes: int) -> None:
    """Let this process have so many bytes of the GPU: what the driver takes, and of the rest a half
    each for torch's tensors and for what the splat core puts there.

    To be called before `training_device`. Raises ReconstructionError where nothing would be left.
    """
    rest = (nbytes - _DRIVER_VRAM) // 2
    if rest < _LEAST_VRAM:
        raise ReconstructionError(
            f"{nbytes / 1e9:.2g} GB of the GPU for each process is too little to train with",
            hint="Raise --max-vram, use fewer --jobs, or train on the CPU (--device cpu)",
        )
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, rest / total), 0)
    os.environ["PEEL4D_MAX_VRAM"] = str(rest)  # read when the core opens the GPU


@dataclass(eq=False)
class Run:
    """One reconstruction at work. color: on the CPU, as `shared_stage` leaves it. device: where
    points are trained. deadline: when all should be done, by time.monotonic()."""

    plan: Plan
    folder: Folder
    capture: Capture
    reader: ImageReader
    views: list[int]
    tests: list[int]
    plates: dict[int, np.ndarray]
    images: TrainingImages
    watch: Watch
    device: torch.device
    deadline: float = math.inf
    spacing: float | None = None
    color: CameraColor | None = None

    def stand(self, capture: Capture) -> None:
        """Go on with the same footage of cameras that stand elsewhere."""
        self.capture = capture
        self.images.stand(capture)

    def seconds(self, share: float) -> float:
        """A share of the time that is left."""
        return share * (self.deadline - time.monotonic())

    @cached_property
    def background(self) -> Splats | None:
        path = self.folder.background
        return load_splats(path) if path.is_file() else None

    def forget_background(self) -> None:
        """It has been written anew."""
        self.__dict__.pop("background", None)

    def preview(self, label: int, splats: Splats) -> None:
        self.watch.preview(splats, label, fps=self.capture.fps, up=self.capture.up)


def open_run(
    plan: Plan,
    folder: Folder,
    capture: Capture,
    *,
    max_memory: int,
    device: torch.device,
    progress: ProgressCallback,
    watch: Watch,
    deadline: float = math.inf,
) -> Run:
    """Masks and clean plates, made where the folder has none yet, and the images of the capture.

    The spacing and the cameras' colours are for `shared_stage`. Raises PeelError.
    """
    progress = checked(progress, watch)
    torch.manual_seed(plan.settings.seed)
    # The core brings its own threads. torch's would only spin against them: on two cores a step
    # takes ten times as long, and the tensors here are too small to gain anything from two.
    torch.set_num_threads(1)
    image_bytes, crop_bytes = cache_bytes(plan, capture, max_memory)
    capture = with_masks(plan, folder, capture, cache_bytes=image_bytes, progress=progress)
    reader = ImageReader(capture, cache_bytes=image_bytes)
    views = [capture.view_index(name) for name in plan.views]
    tests = [capture.view_index(name) for name in plan.test_views]
    plates = load_plates(capture, reader, folder, [*views, *tests], progress)
    images = TrainingImages(
        capture,
        reader,
        plates,
        max_bytes=crop_bytes,
        untrusted=untrusted_views(plan, folder, capture),
        depth=_learns_depth(plan),
        device=device,
    )
    shared = (plan, folder, capture, reader, views, tests, plates, images, watch, device)
    return Run(*shared, deadline=deadline)


def checked(progress: ProgressCallback, watch: Watch) -> ProgressCallback:
    """Stages without steps of the optimisation can be ended wherever they report."""

    def report(state: Progress) -> None:
        progress(state)
        watch.check()

    return report


def cache_bytes(plan: Plan, capture: Capture, max_memory: int) -> tuple[int, int]:
    """Bytes to keep of decoded images and of training crops.

    What one job works on and no more, so that memory does not grow with the length of the clip; a
    quarter of `max_memory` each at most, and then images are decoded more than once.
    """
    names = set(plan.views)
    pixels = sum(view.width * view.height for view in capture.views if view.name in names)
    frames = FRAGMENT_FRAMES if plan.settings.model == "field" else 1
    # An image has 3 bytes a pixel, its mask 1 and depth 4, for two frames; the maps of a lens 10. A
    # crop has image, background, mask, where that is known, region, vignetting and depth.
    lens = any(view.distortion or view.lens == "fisheye" for view in capture.views)
    image = 2 * (8 if plan.points == "depth" else 4) + (10 if lens else 0)
    crop = 25 if _learns_depth(plan) else 21
    most = max_memory // 4
    return min(most, image * pixels), min(most, (frames + 1) * crop * pixels)


def _learns_depth(plan: Plan) -> bool:
    return plan.points == "depth" and plan.settings.depth_weight > 0
