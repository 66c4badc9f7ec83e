"""Clips whose frames share fields: the container, random access, and what a reader refuses."""

from __future__ import annotations

import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from chunk_header import with_header

from peel4d.engine.clip.clip import fragment_member, frame_member
from peel4d.engine.clip.codecs import FieldPoints, Predictive
from peel4d.engine.clip.fragment import EncodedField, EncodedFragment
from peel4d.engine.clip.fragment_cache import FragmentCache
from peel4d.engine.clip.kplanes import decode_kplanes, encode_kplanes
from peel4d.engine.clip.plane_field import PLANE_PAIRS, PlaneField
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError
from peel4d.engine.render.splats import SH_C0, Splats

SPACING = 0.02


def made_field(seed: int = 0, steps: int = 3, sh_degree: int = 1, channels: int = 8) -> PlaneField:
    random = np.random.default_rng(seed)
    bounds = np.array([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    levels = []
    for size in (6, 11):
        sizes = [size, size, size, max(2, steps)]
        level = []
        for space, moving in PLANE_PAIRS:
            for a, b in (space, moving):
                level.append(random.normal(0.5, 0.3, (sizes[b], sizes[a], channels)))
        levels.append([plane.astype(np.float32) for plane in level])
    outputs = 2 + 3 * (sh_degree + 1) ** 2
    layers = (
        random.normal(0, 0.3, (16, 2 * channels)),
        random.normal(0, 0.1, 16),
        random.normal(0, 0.3, (outputs, 16)),
        np.zeros(outputs),
    )
    return PlaneField(
        bounds, SPACING, levels, (-1.0, 1.0), tuple(layer.astype(np.float32) for layer in layers)
    )


def made_frames(fields: list[PlaneField], steps: int, count: int = 400) -> list[Splats]:
    """Points in the fields' frames with colours of their own."""
    random = np.random.default_rng(7)
    frames = []
    for field in fields:
        for step in range(steps):
            position = random.uniform(-1, 1, (count, 3)).astype(np.float32)
            radius, density, sh = field.evaluate(step, position)
            sh = sh.copy()
            sh[:, 0] += (random.uniform(0, 1, (count, 3)) / SH_C0).astype(np.float32)
            frames.append(Splats(position, radius, density, sh))
    return frames


def encoder_of(fields: list[PlaneField], steps: int) -> FieldPoints:
    members = [EncodedFragment(encode_kplanes(field), steps) for field in fields]
    return FieldPoints(EncodedField("kplanes", members))


@pytest.fixture
def fields() -> list[PlaneField]:
    return [made_field(seed) for seed in range(3)]


@pytest.fixture
def clip(tmp_path, fields):
    path = tmp_path / "clip.p4d"
    static = made_frames(fields[:1], 1, 50)[0]
    write_clip(path, made_frames(fields, 3), fps=10, static=static, encoder=encoder_of(fields, 3))
    return path


def rewritten(path, change: dict[str, object]):
    """The clip with members replaced; a value may be a function of the old bytes, or None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            new = change.get(name, data)
            if new is not None:
                archive.writestr(name, new(data) if callable(new) else new)
    return path


def test_frames_come_back_within_the_steps(clip, fields):
    frames = made_frames(fields, 3)
    with ClipReader(clip) as reader:
        assert [f.first for f in reader.info.fragments] == [0, 3, 6]
        assert reader.info.codec == "kplanes" and reader.info.sh_degree == 1
        assert 0 < reader.shared_nbytes < reader.total_nbytes
        for index, frame in enumerate(frames):
            (own, _) = reader.packed(index)
            decoded = own.unpack()
            # The same points in another order: nearest by position.
            distance = np.abs(decoded.position[:, None] - frame.position[None]).max(axis=2)
            nearest = distance.argmin(axis=1)
            step = float(np.median(frame.radius)) / 14
            assert distance.min(axis=1).max() <= 0.51 * step
            assert sorted(nearest) == list(range(len(frame)))
            color = 0.5 / 64 * 1.01
            assert np.abs(decoded.sh[:, 0] - frame.sh[nearest, 0]).max() * SH_C0 <= color
            # The field at the rounded position, of float16 planes: near to the field itself.
            assert np.abs(decoded.sh[:, 1:] - frame.sh[nearest, 1:]).max() < 0.02
            assert np.abs(np.log(decoded.radius / frame.radius[nearest])).max() < 0.05
            assert np.abs(decoded.density - frame.density[nearest]).max() < 0.02


def test_any_order_gives_the_same_points(clip):
    with ClipReader(clip) as reader:
        in_turn = [reader.packed(index)[0].unpack() for index in range(9)]
    order = [8, 0, 4, 3, 7, 1, 5, 2, 6]
    with ClipReader(clip, cache_frames=1) as reader:
        for index in order:
            again = reader.packed(index)[0].unpack()
            for name in ("position", "radius", "density", "sh"):
                np.testing.assert_array_equal(getattr(again, name), getattr(in_turn[index], name))


def test_threads_and_prefetch_share_a_decoded_fragment(clip, monkeypatch):
    from peel4d.engine.clip import codecs

    decoded = []

    def slowly(data, base, where):
        decoded.append(where)
        time.sleep(0.05)
        return decode_kplanes(data, base, where)

    monkeypatch.setitem(codecs.FIELD_CODECS, "kplanes", codecs.FieldCodec(slowly))
    with ClipReader(clip) as reader:
        reader.prefetch(1)
        threads = [threading.Thread(target=reader.packed, args=(i,)) for i in (0, 1, 2, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(decoded) == 1
        for index in (3, 6, 4, 7):  # two fragments are kept
            reader.packed(index)
        assert len(decoded) == 3


def test_a_fragment_that_fails_fails_for_all_and_is_tried_again():
    calls = []

    def load(index):
        calls.append(index)
        if len(calls) == 1:
            raise ClipError("broken")
        return index

    cache = FragmentCache(load)
    with pytest.raises(ClipError, match="broken"):
        cache.get(4)
    assert cache.get(4) == 4 and calls == [4, 4]


def test_colour_makes_up_for_what_the_field_lost(tmp_path, fields):
    """Frames are coded against the decoded field: coarse planes change no constant colour."""
    frames = made_frames(fields[:1], 3)
    coarse = replace(
        fields[0],
        levels=[[np.round(plane * 2) / 2 for plane in level] for level in fields[0].levels],
    )
    path = tmp_path / "coarse.p4d"
    write_clip(path, frames, fps=10, encoder=encoder_of([coarse], 3))
    with ClipReader(path) as reader:
        decoded = reader.packed(1)[0].unpack()
    nearest = (
        np.abs(decoded.position[:, None] - frames[1].position[None]).max(axis=2).argmin(axis=1)
    )
    assert np.abs(decoded.sh[:, 0] - frames[1].sh[nearest, 0]).max() * SH_C0 <= 0.5 / 64 * 1.01


def test_no_frames_without_a_field(tmp_path, fields):
    path = tmp_path / "long.p4d"
    frames = made_frames(fields, 3)
    with pytest.raises(ClipError, match="no field has this frame, only 6 before it"):
        write_clip(path, frames, fps=10, encoder=encoder_of(fields[:2], 3))
    with pytest.raises(ClipError, match="that holds the 5 frames"):
        write_clip(path, frames[:5], fps=10, encoder=encoder_of(fields[:2], 3))
    assert not path.exists()


def test_empty_frames_and_no_points(tmp_path, fields):
    empty = Splats.empty(1)
    path = tmp_path / "empty.p4d"
    write_clip(path, [empty] * 3, fps=10, encoder=encoder_of(fields[:1], 3))
    with ClipReader(path) as reader:
        assert len(reader.frame(2)) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"first": 3', b'"first": 2', "'first' is not 3"),
        (b'"frames": 3', b'"frames": 4', "'first' is not 4"),
        (b'"first": 6, "frames": 3', b'"first": 6, "frames": 2', "that holds the 9 frames"),
        (b'"base": null', b'"base": 1', r"'base' is not an integer in \[0, 0\]"),
        (b'"fragments": [', b'"pieces": [', "'fragments' is missing"),
    ],
)
def test_a_wrong_table_of_fragments_is_refused(clip, old, new, message):
    rewritten(clip, {"clip.json": lambda data: data.replace(old, new, 1)})
    with pytest.raises(ClipError, match=message):
        ClipReader(clip)


def test_a_missing_fragment_is_refused(clip):
    rewritten(clip, {fragment_member(1): None})
    with pytest.raises(ClipError, match=r"fragments/0001\.bin"):
        ClipReader(clip)


def test_damage_of_one_fragment_leaves_the_others(clip):
    rewritten(clip, {fragment_member(1): lambda data: data[:-4]})
    with ClipReader(clip) as reader:
        assert len(reader.frame(0)) and len(reader.frame(8))
        for _ in range(2):
            with pytest.raises(ClipError, match=r"fragments/0001\.bin"):
                reader.frame(4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", 0),
        ("channels", 255),
        ("planes", []),
        ("planes", [[[1 << 14, 1 << 14]] * 6] * 8),
        ("planes", [[[5, 1]] * 6]),
        ("heads", [16, 15]),
        ("spacing", -1.0),
        ("bounds", [[0, 0, 0], [0, 1, 1]]),
        ("first", -1),
        ("start", [0.0]),
        ("bytes", [1, 2]),
        ("compression", "lzma"),
    ],
)
def test_a_wrong_header_of_a_field_is_refused(fields, key, value):
    member = encode_kplanes(fields[0])
    data = with_header(member.data, lambda header: header.update({key: value}))
    with pytest.raises(ClipError):
        decode_kplanes(data, None, "fragment")


def test_a_frame_of_another_codec_is_refused(clip, fields):
    other = Predictive().encode(made_frames(fields, 3)[0], "frame")
    rewritten(clip, {frame_member(0): other.data})
    with ClipReader(clip) as reader, pytest.raises(ClipError, match="not a chunk of a field clip"):
        reader.frame(0)
