# SPDX-License-Identifier: GPL-3.0-or-later
"""Which frame of a clip a scene frame shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Blender's sequence modes (Volume.sequence_mode).
SEQUENCE_MODES = ("CLIP", "EXTEND", "REPEAT", "PING_PONG")


@dataclass(frozen=True)
class FrameMapping:
    """Playback of a clip in the terms of Blender's own caches (CacheFile, Volume).

    frame_start: scene frame that shows clip frame `frame_offset`.
    frame_offset: first clip frame that is played, >= 0; the played range ends with the clip. As in
        Volume the offset counts after looping, so a loop stays inside the played range.
    speed: clip frames per scene frame, > 0.
    sequence_mode: what is shown outside the played range: nothing (CLIP), the nearest end
        (EXTEND), the range again (REPEAT), the range to and fro (PING_PONG).
    override_frame: this clip frame instead of all the above, clamped to the clip; None = not used.
    """

    frame_start: float = 1.0
    frame_offset: int = 0
    speed: float = 1.0
    sequence_mode: str = "CLIP"
    override_frame: float | None = None

    def clip_frame(self, scene_frame: float, frame_count: int) -> int | None:
        """The clip frame (0-based) at `scene_frame`, which may have a fraction: the nearest frame.

        None where nothing is shown.
        """
        if frame_count < 1:
            return None
        if self.override_frame is not None:
            return min(max(_nearest(self.override_frame), 0), frame_count - 1)
        duration = frame_count - self.frame_offset
        if duration < 1:
            return None
        step = _nearest((scene_frame - self.frame_start) * self.speed)
        if self.sequence_mode == "CLIP":
            if not 0 <= step < duration:
                return None
        elif self.sequence_mode == "EXTEND":
            step = min(max(step, 0), duration - 1)
        elif self.sequence_mode == "REPEAT":
            step %= duration
        elif self.sequence_mode == "PING_PONG":
            # The two ends are shown once per turn, not twice.
            period = max(2 * duration - 2, 1)
            step %= period
            step = min(step, period - step)
        else:
            raise ValueError(f"unknown sequence mode {self.sequence_mode!r}")
        return step + self.frame_offset


def frame_mapping(clip) -> FrameMapping:
    """The playback settings of a clip object's properties, without Blender."""
    return FrameMapping(
        frame_start=clip.frame_start,
        frame_offset=clip.frame_offset,
        speed=clip.speed,
        sequence_mode=clip.sequence_mode,
        override_frame=clip.frame if clip.override_frame else None,
    )


def _nearest(frame: float) -> int:
    """The nearest whole frame; halves go up, so that 0.5, 1.5, ... all round the same way."""
    return math.floor(frame + 0.5)
