"""Scene frame -> clip frame, by the conventions of Blender's Volume and CacheFile."""

import pytest

pytest.importorskip("bpy", reason="needs bpy (peel4d.addon imports it)")

from peel4d.addon.timing import FrameMapping

pytestmark = pytest.mark.blender


def frames(mapping: FrameMapping, scene_frames, count: int) -> list[int | None]:
    return [mapping.clip_frame(frame, count) for frame in scene_frames]


def blender_volume_frame(frame: int, start: int, duration: int, mode: str) -> int | None:
    """BKE_volume_sequence_frame of Blender's source, restated: 1-based, before its offset."""
    frame = frame - start + 1
    if mode == "CLIP":
        return frame if 1 <= frame <= duration else None
    if mode == "EXTEND":
        return min(max(frame, 1), duration)
    if mode == "REPEAT":
        return (frame - 1) % duration + 1
    period = 2 * duration - 2
    frame = (frame - 1) % period + 1
    return frame if frame <= duration else 2 * duration - frame


@pytest.mark.parametrize("mode", ["CLIP", "EXTEND", "REPEAT", "PING_PONG"])
@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("start", [1, -7, 12])
def test_every_mode_agrees_with_blenders_volumes(mode, offset, start):
    count = 8
    mapping = FrameMapping(frame_start=start, frame_offset=offset, sequence_mode=mode)
    for scene_frame in range(-40, 41):
        expected = blender_volume_frame(scene_frame, start, count - offset, mode)
        if expected is not None:
            expected += offset - 1
        assert mapping.clip_frame(scene_frame, count) == expected, scene_frame


def test_nearest_frame_and_speed():
    mapping = FrameMapping(frame_start=10)
    assert frames(mapping, [9.49, 9.5, 10.4, 10.5, 12.49, 12.5], 3) == [None, 0, 0, 1, 2, None]
    half = FrameMapping(frame_start=1, speed=0.5, sequence_mode="EXTEND")
    assert frames(half, [1, 2, 3, 4, 5, 6], 3) == [0, 1, 1, 2, 2, 2]
    double = FrameMapping(frame_start=1, speed=2.0, sequence_mode="REPEAT")
    assert frames(double, [0, 1, 2, 3, 4], 5) == [3, 0, 2, 4, 1]


def test_override_frame_is_clamped_and_ignores_the_scene():
    for value, expected in [(-3.0, 0), (1.6, 2), (99.0, 4)]:
        mapping = FrameMapping(frame_start=5, frame_offset=2, override_frame=value)
        assert frames(mapping, [-100, 3, 700], 5) == [expected] * 3


def test_short_clips():
    for mode in ("CLIP", "EXTEND", "REPEAT", "PING_PONG"):
        assert FrameMapping(sequence_mode=mode).clip_frame(1, 1) == 0
        assert FrameMapping(sequence_mode=mode).clip_frame(1, 0) is None
        assert FrameMapping(sequence_mode=mode, frame_offset=4).clip_frame(1, 4) is None
    assert FrameMapping(sequence_mode="PING_PONG").clip_frame(5, 1) == 0
    assert FrameMapping(sequence_mode="CLIP").clip_frame(5, 1) is None
