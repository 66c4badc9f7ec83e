# SPDX-License-Identifier: GPL-3.0-or-later
"""Decoding the frames that will be wanted next."""

from __future__ import annotations

from .scene import ClipScene
from .session import frames_in_budget

#: Frames ahead of the shown one.
AHEAD = 6
#: A jump of more scene frames is no playback that leaves frames out.
_LONGEST_STEP = 8.0


def step_between(last: float | None, now: float) -> float:
    """The scene frames to go from one picture to the next, as the last two times suggest."""
    if last is None or now == last:
        return 1.0
    step = now - last
    if abs(step) > _LONGEST_STEP:
        return 1.0 if step > 0 else -1.0
    return step


def wanted_frames(clips: ClipScene, step: float) -> list[tuple[int, int]]:
    """(index of the instance, clip frame) of what the next pictures show, soonest first.

    step: scene frames between two pictures, negative where time runs backwards. No more than half
    of what each reader may keep, so that the shown frames stay.
    """
    wanted: dict[tuple[int, int], tuple[int, int]] = {}
    for ahead in range(1, AHEAD + 1):
        for index, item in enumerate(clips.instances):
            if ahead > max(frames_in_budget(item.reader.info) // 2, 1):
                continue
            frame = item.mapping.clip_frame(clips.time + ahead * step, item.reader.info.frame_count)
            if frame is not None and frame != item.frame:
                wanted.setdefault((id(item.reader), frame), (index, frame))
    return list(wanted.values())


def prefetch(clips: ClipScene, step: float) -> None:
    """Start decoding them in the background. Errors appear when a frame is asked for."""
    for index, frame in wanted_frames(clips, step):
        item = clips.instances[index]
        item.reader.prefetch(frame, static=item.background)
