"""Clips keep what they are given, within their stated precision, and give it back in any order."""

from __future__ import annotations

import json
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from peel4d.engine.clip import compression
from peel4d.engine.clip.chunk import encode_chunk
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.decode import decode_chunk
from peel4d.engine.clip.describe import describe
from peel4d.engine.clip.quantize import MIN_POSITION_LEVELS, Precision
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.backend import render
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_C0, SH_COUNTS, Splats


def surface(count: int, seed: int = 0, degree: int = 1) -> Splats:
    """A noisy, coloured ellipsoid of two metres, as training leaves a person."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    position = normal * [0.4, 0.3, 1.0] + rng.normal(scale=0.003, size=(count, 3)) + [1, -2, 1]
    radius = 2.2 / np.sqrt(count) * np.exp(rng.normal(scale=0.25, size=count))
    density = 1 / (1 + np.exp(-rng.normal(2, 1.5, count)))
    sh = rng.normal(scale=0.05, size=(count, SH_COUNTS[degree], 3))
    sh[:, 0] = (0.5 + 0.3 * np.sin(5 * position) + rng.normal(scale=0.03, size=(count, 1))) / SH_C0
    return Splats(position, radius, density, sh)


def matched(original: Splats, decoded: Splats) -> Splats:
    """The original in the order of the decoded points (each is the nearest of the other)."""
    difference = decoded.position[:, None] - original.position[None]
    order = np.abs(difference).sum(axis=-1).argmin(axis=1)
    assert len(np.unique(order)) == len(original) == len(decoded)
    return Splats(*(a[order] for a in arrays(original)))


def arrays(splats: Splats) -> tuple[np.ndarray, ...]:
    return splats.position, splats.radius, splats.density, splats.sh


def assert_same(a: Splats, b: Splats) -> None:
    for first, second in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(first, second)


def round_trip(splats: Splats, precision: Precision | None = None) -> Splats:
    chunk = encode_chunk(splats, precision or Precision(), "test")
    return decode_chunk(chunk.data, chunk.points, splats.sh_degree, "test")


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_decoded_values_are_within_half_a_step(degree):
    original = surface(1500, degree=degree)
    decoded = round_trip(original)
    original = matched(original, decoded)
    precision = Precision()
    ulp = np.spacing(np.float32(4))  # positions, colours are below 4; both sides are rounded

    extent = np.ptp(original.position, axis=0).max()
    step = extent / MIN_POSITION_LEVELS
    assert np.abs(decoded.position - original.position).max() <= step / 2 + ulp
    ratio = np.abs(np.log(decoded.radius / original.radius))
    assert ratio.max() <= np.log1p(precision.radius) / 2 + 1e-6
    assert np.abs(decoded.density - original.density).max() <= precision.density / 2 + ulp
    for band in range(degree + 1):
        rows = slice(band * band, (band + 1) ** 2)
        error = np.abs(decoded.sh[:, rows] - original.sh[:, rows]).max()
        assert error <= precision.sh_step(band, degree) / 2 + 2 * ulp


def test_an_outlier_costs_the_others_no_precision():
    """True bounds with one point 100 m away: the grid becomes finer, nothing is clipped."""
    original = surface(800)
    position = original.position.copy()
    position[17] = [100, -50, 3]
    decoded = round_trip(Splats(position, *arrays(original)[1:]))
    error = np.abs(
        decoded.position - matched(Splats(position, *arrays(original)[1:]), decoded).position
    )
    assert decoded.position.max() == 100 and decoded.position.min() == -50
    assert error.max() <= np.median(original.radius) / 64 + np.spacing(np.float32(100))


def test_extreme_values_survive():
    """The range of float32 in one frame, constants, and coincident points keep their order."""
    count = 6
    position = np.zeros((count, 3), np.float32)
    position[5] = 1e-20
    radius = np.float32([1e-38, 1e-6, 1, 1, 1, 1e29])
    density = np.float32([1, 1, 1, 1, 1, 1e-7])
    sh = np.zeros((count, 1, 3), np.float32)
    sh[:, 0, 0] = np.arange(count) * 100
    decoded = round_trip(Splats(position, radius, density, sh))
    np.testing.assert_allclose(decoded.radius, radius, rtol=0.0026)
    assert decoded.density[5] == np.float32(1e-7) and (decoded.density[:5] == 1).all()
    np.testing.assert_allclose(decoded.sh[:, 0, 0], np.arange(count) * 100, atol=0.0035)
    assert (decoded.sh[:, 0, 1:] == 0).all()


def test_points_that_nobody_sees_are_left_out():
    s = surface(50)
    radius, density = s.radius.copy(), s.density.copy()
    radius[3], radius[4], density[5] = 0, -1, 0
    assert len(round_trip(Splats(s.position, radius, density, s.sh))) == 47


def test_the_picture_loses_less_than_a_twentieth_of_a_decibel():
    """The clip's picture against the unquantised one, whose own error is as of a model of 35 dB."""
    splats = surface(12000)
    decoded = round_trip(splats)
    forward = np.array([0, 1.0, 0])
    R = np.stack([[1, 0, 0], [0, 0, -1], forward])
    K = np.array([[500, 0, 160], [0, 500, 240], [0, 0, 1.0]])
    camera = Camera(K, R, -R @ np.array([1, -4.5, 1]), 320, 480)
    before, after = (render(s, camera, PeelSettings()).rgba for s in (splats, decoded))
    covered = before[..., 3] > 0
    assert covered.mean() > 0.2
    difference = (after - before)[covered].astype(np.float64)
    truth = before[covered] + np.random.default_rng(0).normal(
        scale=10 ** (-35 / 20), size=difference.shape
    )

    def psnr(error):
        return -10 * np.log10(np.mean(error**2))

    loss = psnr(before[covered] - truth) - psnr(after[covered] - truth)
    assert abs(loss) <= 0.05
    assert psnr(difference) >= 57  # measured 60; where depth order changes, a pixel may jump
    assert (np.abs(difference) > 1 / 255).mean() < 0.01


def test_bytes_per_point():
    """Measured 15.4 at this density (docs/clip-format.md has more); float32 takes 68."""
    chunk = encode_chunk(surface(9000), Precision(), "test")
    assert len(chunk.data) / 9000 < 16.5
    assert sum(chunk.nbytes.values()) <= len(chunk.data)


def clip_cameras() -> list[ClipCamera]:
    K = np.array([[900.5, 0.25, 320], [0, 901, 180], [0, 0, 1]])
    return [
        ClipCamera("07", K, np.eye(3), [0.1, 0.2, 1 / 3], 640, 360),
        ClipCamera("ünder", K, np.eye(3), [0, 0, 2], 640, 360, train=False),
    ]


def test_the_head_comes_back(tmp_path):
    path = tmp_path / "clip.p4d"
    frames = [surface(40, seed) for seed in range(3)]
    settings = PeelSettings(15, 0.5, 0.01)
    written = write_clip(
        path,
        frames,
        fps=29.97,
        cameras=clip_cameras(),
        settings=settings,
        provenance={"capture": "x", "seed": 3},
        first_frame=120,
        up=[0, 0, 2.0],
    )
    with ClipReader(path) as reader:
        info = reader.info
        sizes = [reader.frame_nbytes(i) for i in range(3)]
        assert sum(sizes) < reader.total_nbytes == path.stat().st_size
        description = json.loads(json.dumps(describe(reader), allow_nan=False))
    for head in (written, info):
        assert (head.frame_count, head.first_frame, head.fps) == (3, 120, 29.97)
        assert head.settings == settings and head.provenance == {"capture": "x", "seed": 3}
        assert head.points == (40, 40, 40) and head.sh_degree == 1
        np.testing.assert_array_equal(head.up, [0, 0, 1])
        positions = np.concatenate([f.position for f in frames])
        np.testing.assert_array_equal(head.bounds, [positions.min(0), positions.max(0)])
        assert [(c.name, c.train, c.width) for c in head.cameras] == [
            ("07", True, 640),
            ("ünder", False, 640),
        ]
        np.testing.assert_array_equal(head.cameras[0].K, clip_cameras()[0].K)
        np.testing.assert_array_equal(head.cameras[0].t, clip_cameras()[0].t)
        assert head.cameras[0].camera().height == 360
    assert description["points"] == {"min": 40, "mean": 40, "max": 40, "static": 0}
    assert sum(description["bytes_per_frame"].values()) < description["bytes"]["frame_mean"]
    assert [c["name"] for c in description["cameras"]] == ["07", "ünder"]
    # ASCII on disk, so that no tool stumbles over the encoding of names.
    assert zipfile.ZipFile(path).read("clip.json").isascii()


def test_random_access_equals_sequential(tmp_path):
    path = tmp_path / "clip.p4d"
    frames = [surface(100 + 10 * seed, seed) for seed in range(7)]
    write_clip(path, iter(frames), fps=25)
    with ClipReader(path, cache_frames=0) as reader:
        sequential = [reader.frame(i) for i in range(7)]
        for index in (6, 0, 3, 3, 5):
            assert_same(reader.frame(index), sequential[index])
        for splats, frame in zip(sequential, frames, strict=True):
            assert_same(splats, round_trip(frame))
    write_clip(tmp_path / "again.p4d", frames, fps=25)
    assert (tmp_path / "again.p4d").read_bytes() == path.read_bytes()


def test_frames_without_points_and_of_other_degrees(tmp_path):
    path = tmp_path / "clip.p4d"
    frames = [Splats.empty(), surface(30, 1, degree=0), surface(30, 2, degree=2)]
    write_clip(path, frames, fps=25)
    with ClipReader(path) as reader:
        assert reader.info.points == (0, 30, 30)
        assert [len(reader.frame(i)) for i in range(3)] == [0, 30, 30]
        assert [reader.frame(i).sh_degree for i in range(3)] == [2, 2, 2]
        assert (reader.frame(1).sh[:, 1:] == 0).all() and reader.frame(1).sh[:, 0].all()
    write_clip(path, [Splats.empty(3)] * 2, fps=25)
    with ClipReader(path) as reader:
        np.testing.assert_array_equal(reader.info.bounds, np.zeros((2, 3)))
        assert len(reader.frame(1)) == 0 and describe(reader)["bytes"]["per_point"] is None


def test_static_points_are_stored_once_and_belong_to_every_frame(tmp_path):
    room = surface(4000, 9, degree=0)
    frames = [surface(200, seed) for seed in range(4)]
    plain, shared = tmp_path / "plain.p4d", tmp_path / "shared.p4d"
    write_clip(plain, [Splats.empty()] * 4, fps=25, static=room)
    write_clip(shared, frames, fps=25, static=room)
    assert shared.stat().st_size < plain.stat().st_size + 4 * 200 * 30
    with ClipReader(shared) as reader, ClipReader(plain) as background:
        for index, frame in enumerate(frames):
            splats = reader.frame(index)
            assert splats.sh_degree == 1
            assert_same(Splats(*(a[:200] for a in arrays(splats))), round_trip(frame))
            np.testing.assert_array_equal(splats.position[200:], background.frame(0).position)
            np.testing.assert_array_equal(splats.sh[200:, :1], background.frame(0).sh)
        assert describe(reader)["points"]["static"] == 4000
        assert reader.info.bounds[1, 2] >= room.position[:, 2].max()
        positions = np.concatenate([frame.position for frame in frames])
        own = [positions.min(axis=0), positions.max(axis=0)]
        np.testing.assert_allclose(reader.info.frame_bounds, own, atol=1e-6)
        np.testing.assert_array_equal(background.info.frame_bounds, background.info.bounds)


def test_many_threads_read_one_clip(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, [surface(300, seed) for seed in range(6)], fps=25)
    with ClipReader(path, cache_frames=0) as reader:
        expected = [reader.frame(i) for i in range(6)]
    with ClipReader(path, cache_frames=2) as reader, ThreadPoolExecutor(8) as pool:
        indices = np.random.default_rng(0).integers(0, 6, 200).tolist()
        for index in indices[:50]:
            reader.prefetch(index)
        for index, splats in zip(indices, pool.map(reader.frame, indices), strict=True):
            assert_same(splats, expected[index])


def test_prefetch_fills_the_cache_and_ends_with_close(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, [surface(300, seed) for seed in range(8)], fps=25)
    before = threading.active_count()
    reader = ClipReader(path, cache_frames=2)
    for index in range(8):
        reader.prefetch(index)
    (first,) = reader.packed(7)
    assert reader.packed(7)[0] is first  # decoded once
    with pytest.raises(ValueError):
        first.position.codes[0] = 0  # shared, hence read-only
    reader.prefetch(0)
    reader.close()
    reader.close()
    assert threading.active_count() == before


def test_writing_takes_the_memory_of_one_frame(tmp_path):
    def peak(count: int) -> int:
        tracemalloc.start()
        write_clip(tmp_path / "clip.p4d", (surface(3000, seed) for seed in range(count)), fps=25)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    # 3,000 points of degree 1 are 204 KB; 26 more frames may cost a few hundred bytes of directory.
    assert peak(30) < peak(4) + 30_000


def test_reading_keeps_as_many_frames_as_asked(tmp_path):
    path = tmp_path / "clip.p4d"
    write_clip(path, (surface(3000, seed) for seed in range(12)), fps=25)
    with ClipReader(path, cache_frames=2) as reader:
        tracemalloc.start()
        for index in range(12):
            reader.frame(index)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        kept = sum(reader.packed(i)[0].nbytes for i in (10, 11))
    assert kept <= 2 * 3000 * 34 and held == pytest.approx(kept, rel=0.1)


def test_zlib_stands_in_where_zstandard_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "clip.p4d"
    frame = surface(200)
    with monkeypatch.context() as patch:
        patch.setattr(compression, "zstandard", None)
        write_clip(path, [frame], fps=25)
        with ClipReader(path) as reader:
            without = reader.frame(0)
    assert b'"zlib"' in path.read_bytes()
    with ClipReader(path) as reader:
        assert_same(reader.frame(0), without)
    assert_same(without, round_trip(frame))
