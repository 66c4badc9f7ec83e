"""The masks of a reconstruction: the capture's own, or estimated ones in its folder."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace

import numpy as np

from .. import __name__ as engine_name
from ..capture.capture import Capture
from ..capture.detect import open_capture
from ..capture.images import ImageReader
from ..progress import ProgressCallback, silent
from ..segment.masks import estimate_masks, stored_masks
from ..segment.report import MaskReport, mask_reports
from .plan import Folder, Plan
from .plates import PLATE_SAMPLES

log = logging.getLogger(engine_name)


def open_planned(plan: Plan, folder: Folder) -> Capture:
    """The capture of a reconstruction that was begun, with the masks that it uses.

    Raises CaptureError, and ReconstructionError where masks were to be estimated and are not there.
    """
    capture = open_capture(plan.capture, size=plan.size)
    if plan.masks == "capture":
        return capture
    return stored_masks(replace(capture, masks={}), folder.masks)


def with_masks(
    plan: Plan,
    folder: Folder,
    capture: Capture,
    *,
    cache_bytes: int,
    progress: ProgressCallback = silent,
) -> Capture:
    """The capture with the masks of the plan; those that are still missing are estimated now.

    Estimated masks belong to the views of the plan, in its frames and in those from all over the
    clip that clean plates are made of. The log says which of them are not to be trusted, and why.
    Raises ReconstructionError where no view can be told from its background.
    """
    if plan.masks == "capture":
        return capture
    capture = replace(capture, masks={})
    views = [capture.view_index(name) for name in (*plan.views, *plan.test_views)]
    spread = np.linspace(0, len(capture.frames) - 1, PLATE_SAMPLES).round().astype(int).tolist()
    frames = sorted({*spread, *(capture.frames.index(label) for label in plan.frames)})
    with ImageReader(capture, cache_bytes=cache_bytes) as reader:
        masked = estimate_masks(
            capture, reader, folder.masks, views, frames, method=plan.masks, progress=progress
        )
    doubtful = defaultdict(list)
    for name, report in mask_reports(folder.masks).items():
        if not report.trustworthy:
            doubtful[_doubt(report)].append(name)
    for reason, names in doubtful.items():
        log.warning("the masks of view %s are not trusted: %s", ", ".join(names), reason)
    return masked


def _doubt(report: MaskReport) -> str:
    """Why a report is not trustworthy, without the numbers in which views differ."""
    reason, contradicted, _ = report.reason.partition(" (agreement")
    if contradicted or report.method == "none":
        return reason
    return f"{reason}; but too much stays unknown or is unlike the other views' masks"


def untrusted_views(plan: Plan, folder: Folder, capture: Capture) -> frozenset[int]:
    """The views, by index, whose estimated masks are too doubtful to teach an outline."""
    if plan.masks == "capture":
        return frozenset()
    reports = mask_reports(folder.masks)
    return frozenset(
        index
        for index, view in enumerate(capture.views)
        if view.name in reports and not reports[view.name].trustworthy
    )
