"""One capture's quality as a benchmark: trained, scored, beside what others have published."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..atomic import write_bytes
from ..capture.capture import Capture
from ..capture.detect import open_capture
from ..errors import ReconstructionError
from ..machine import machine, versions
from ..progress import ProgressCallback, silent
from .evaluate import evaluate
from .plan import Plan
from .records import write_json

#: Packages that the numbers may depend on.
_DISTRIBUTIONS = ("numpy", "torch", "opencv-python-headless", "flip-evaluator")
#: How many of the worst test images the contact sheet shows, and how wide it is at most.
_WORST = 3
_SHEET_WIDTH = 1920
_CAPTION_PX = 28


@dataclass(frozen=True)
class Published:
    """What a paper says about a whole sequence: full images, mean over views and frames.

    lpips: with the net that the paper took. hours: of training, on the paper's GPU.
    """

    method: str
    psnr: float
    ssim: float | None = None
    lpips: float | None = None
    hours: float | None = None
    note: str = "published, 150 frames"


#: PanopticSports "basketball": 27 training cameras of 640 x 360, test cameras 0, 10, 15 and 30.
BASKETBALL = (
    Published("Dynamic 3D Gaussians", 28.22, 0.91, 0.18, 2.0),
    Published("HiCoM", 28.60),
    Published("MA-GS", 29.60, 0.918, 0.164),
)
_BASKETBALL_TEST_VIEWS = {"0", "10", "15", "30"}


def published(capture: Capture, test_views: tuple[str, ...], region: str) -> tuple[Published, ...]:
    """What can be compared with the scores of these test views; () for most captures.

    All sequences of PanopticSports have the same cameras, so the folder's name decides which.
    """
    recognised = (
        capture.format == "dynamic3dgs"
        and "basketball" in capture.path.resolve().name.lower()
        and len(capture.views) == 31
        and all((view.width, view.height) == (640, 360) for view in capture.views)
        and set(test_views) == _BASKETBALL_TEST_VIEWS
        and region == "full"
    )
    return BASKETBALL if recognised else ()


def check(plan: Plan, region: str) -> None:
    """Raises ReconstructionError, before any training, where no test view could be scored."""
    if not plan.test_views:
        raise ReconstructionError(
            "no held-out views to score", where=plan.capture, hint="Hold some out with --test-views"
        )
    capture = open_capture(plan.capture, size=plan.size)
    # Masks that are estimated are not there yet.
    by_mask = region == "mask" and plan.masks == "capture"
    needed = capture.masks if by_mask else capture.images
    views = {capture.view_index(name) for name in plan.test_views}
    frames = {capture.frames.index(label) for label in plan.frames}
    if not any(frame in frames and view in views for frame, view in needed):
        kind = "masks" if by_mask else "images"
        raise ReconstructionError(
            f"the held-out views have no {kind} in these frames",
            where=plan.capture,
            hint="Choose others with --test-views, or another --region",
        )


def measure_quality(
    plan: Plan,
    output: Path,
    trained: dict,
    *,
    region: str = "full",
    progress: ProgressCallback = silent,
) -> dict:
    """Score the finished reconstruction of `plan` in the folder `output` on its test views.

    trained: what `run_plan` returned. region: see metrics. Leaves quality.json, which is also
    returned, and quality.png, the contact sheet, in the folder. Raises PeelError.
    """
    scores = evaluate(output, region=region, flip=True, progress=progress)
    write_contact_sheet(output / "quality.png", output, scores)
    capture = open_capture(plan.capture, size=plan.size)
    result = {
        "capture": plan.capture,
        "preset": plan.preset,
        "model": plan.settings.model,
        "steps": plan.settings.steps,
        "frames": list(plan.frames),
        "training_views": list(plan.views),
        "test_views": list(plan.test_views),
        "mean": scores["mean"],
        "initial": trained["scores"].get(f"initial_{region}"),
        "training_seconds": trained["seconds"],
        "peak_memory_bytes": trained["peak_memory_bytes"],
        "bytes_per_frame": trained["bytes_per_frame"],
        "points_per_frame": trained["points_per_frame"],
        "published": [asdict(row) for row in published(capture, plan.test_views, region)],
        "scores": scores,
        "machine": machine(),
        "versions": versions(*_DISTRIBUTIONS),
    }
    write_json(output / "quality.json", result)
    return result


def chosen_images(views: list[dict]) -> list[tuple[str, dict]]:
    """The worst test images by PSNR and the median one, each with what it is."""
    ordered = sorted(views, key=lambda score: score["psnr"])
    chosen = [("worst", score) for score in ordered[:_WORST]]
    median = ordered[len(ordered) // 2]
    return chosen if len(ordered) <= _WORST else [*chosen, ("median", median)]


def write_contact_sheet(path: Path, directory: Path, scores: dict) -> None:
    """One PNG: ground truth, render and four times their error of `chosen_images`, as rows.

    directory: of the reconstruction. scores: of its test images, as `evaluate` returns them.
    """
    import cv2

    chosen = chosen_images(scores["views"])
    images = {(score["view"], score["frame"]) for _, score in chosen}
    names = sorted({view for view, _ in images})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder)
        evaluate(directory, views=names, region=scores["region"], only=images, pictures=pictures)
        for kind, score in chosen:
            file = pictures / f"{score['view']}_{score['frame']:06d}.png"
            row = cv2.imread(str(file))
            height = max(1, round(row.shape[0] * _SHEET_WIDTH / row.shape[1]))
            if row.shape[1] > _SHEET_WIDTH:
                row = cv2.resize(row, (_SHEET_WIDTH, height), interpolation=cv2.INTER_AREA)
            text = f"{kind}: view {score['view']}, frame {score['frame']}, {score['psnr']:.2f} dB"
            rows.append(np.concatenate([_caption([text], row.shape[1]), row]))
    width = max(row.shape[1] for row in rows)
    rows.insert(0, _caption(["ground truth", "render", "4 x error"], width))
    sheet = [
        cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows
    ]
    write_bytes(path, cv2.imencode(".png", np.concatenate(sheet))[1].tobytes())


def _caption(texts: Sequence[str], width: int) -> np.ndarray:
    """A strip with texts in equal columns: (_CAPTION_PX, width, 3) uint8."""
    import cv2

    strip = np.full((_CAPTION_PX, width, 3), 40, dtype=np.uint8)
    for column, text in enumerate(texts):
        place = (8 + column * width // len(texts), _CAPTION_PX - 9)
        cv2.putText(
            strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA
        )
    return strip
