"""The predictive codec: lossless integers, lattices, damage, and packing clips with it."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
from chunk_header import with_header
from scipy.spatial import cKDTree

from peel4d.engine.clip import morton
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.codecs import Baked, Predictive
from peel4d.engine.clip.pack import PackSettings, pack
from peel4d.engine.clip.point_codec import MAX_CODE, Component, decode_points, encode_points
from peel4d.engine.clip.predictive import Steps, decode_predictive, encode_predictive
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import ClipError, CoreError
from peel4d.engine.render.backend import Instance, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.core import IDENTITY
from peel4d.engine.render.importance import contribution, importance, least_important
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_COUNTS, Splats

GREEN = (Component(True, -1, 0), Component(True, 0, 1), Component(False, -1, 2))


def cells_and_codes(count: int, bits: int, *, seed: int = 0, highest: int = 200):
    """Sorted Morton codes of points on a bumpy sheet, and codes that vary along it."""
    random = np.random.default_rng(seed)
    size = (1 << bits) - 1
    xy = random.integers(0, size + 1, (2, count))
    z = (0.5 + 0.3 * np.sin(xy[0] / size * 5) * np.cos(xy[1] / size * 4)) * size
    cells = np.stack([xy[0], xy[1], np.clip(np.rint(z), 0, size)]).astype(np.uint64).T
    order = np.argsort(morton.interleave(cells), kind="stable")
    cells = cells[order]
    green = 0.5 * highest * (1 + np.sin(cells[:, 0] / size * 9)) + random.normal(0, 2, count)
    red = green + random.normal(0, 1, count)
    codes = np.stack([green, red, random.integers(0, highest + 1, count)])
    return morton.interleave(cells), np.clip(np.rint(codes), 0, highest).astype(np.int32)


@pytest.mark.parametrize("bits", [1, 4, 11, 21])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 500, 5000])
def test_integers_come_back(count, bits):
    cells, codes = cells_and_codes(count, bits)
    data = encode_points(cells, codes, bits, GREEN)
    found = decode_points(data, count, bits, GREEN, "here")
    np.testing.assert_array_equal(found[0], cells)
    np.testing.assert_array_equal(found[1], codes)


def test_extreme_integers_come_back():
    """All points in one cell, the far corners of the largest grid, codes from end to end."""
    cells = np.array([0, 0, 0, (1 << 63) - 1, (1 << 63) - 1], dtype=np.uint64)
    codes = np.array([[0, MAX_CODE, 0, MAX_CODE, 5], [MAX_CODE, 0, MAX_CODE, 0, 7]], dtype=np.int32)
    components = (Component(True, -1, 0), Component(True, 0, 0))
    found = decode_points(encode_points(cells, codes, 21, components), 5, 21, components, "here")
    np.testing.assert_array_equal(found[0], cells)
    np.testing.assert_array_equal(found[1], codes)


def test_the_stream_is_the_same_everywhere():
    """Written down once: another number is another format, which needs another name."""
    random = np.random.default_rng(0)  # integers only: sines differ in the last bit
    cells = np.sort(random.integers(0, 1 << 30, 3000).astype(np.uint64) & np.uint64(0x2DB6DB6D))
    codes = np.stack([cells >> np.uint64(22), cells >> np.uint64(20), cells & np.uint64(63)])
    codes = codes.astype(np.int32) + random.integers(0, 5, (3, 3000), dtype=np.int32)
    source = hashlib.sha256(cells.astype("<u8").tobytes() + codes.astype("<i4").tobytes())
    data = encode_points(cells, codes, 10, GREEN)
    digests = [source.hexdigest()[:16], hashlib.sha256(data).hexdigest()[:16]]
    assert digests == ["2f3d900d4ec375c7", "1dd7833d89f527f9"]


def test_near_points_predict():
    cells, codes = cells_and_codes(20_000, 10)
    alone = encode_points(cells, codes[:1], 10, (Component(False, -1, 0),))
    near = encode_points(cells, codes[:1], 10, (Component(True, -1, 0),))
    places = encode_points(cells, codes[:0], 10, ())
    assert len(near) - len(places) < 0.75 * (len(alone) - len(places))
    both = [Component(True, -1, 0), Component(True, 0, 1)]
    apart = [Component(True, -1, 0), Component(True, -1, 1)]
    assert len(encode_points(cells, codes[:2], 10, both)) < 0.97 * len(
        encode_points(cells, codes[:2], 10, apart)
    )
    # A surface costs much less than cells anywhere in the box.
    anywhere = np.sort(np.random.default_rng(1).integers(0, 1 << 30, 20_000).astype(np.uint64))
    assert len(places) < 0.75 * len(encode_points(anywhere, codes[:0], 10, ()))


@pytest.mark.parametrize(
    ("cells", "codes", "bits", "components"),
    [
        ([2, 1], [[0, 0]], 4, [Component(False, -1, 0)]),
        ([0, 1 << 12], [[0, 0]], 4, [Component(False, -1, 0)]),
        ([0, 1], [[-1, 0]], 4, [Component(False, -1, 0)]),
        ([0, 1], [[0, 0]], 22, [Component(False, -1, 0)]),
        ([0, 1], [[0, 0]], 4, [Component(False, 0, 0)]),
        ([0, 1], [[0, 0]], 4, [Component(False, -1, 64)]),
    ],
)
def test_nonsense_is_not_encoded(cells, codes, bits, components):
    with pytest.raises(CoreError, match="argument"):
        encode_points(np.array(cells, np.uint64), np.array(codes, np.int32), bits, components)


def test_damaged_streams_end():
    """Every truncation and 3,000 flips: an error or other points, never a crash or a hang."""
    cells, codes = cells_and_codes(400, 9)
    data = encode_points(cells, codes, 9, GREEN)
    for length in range(len(data)):
        with pytest.raises(ClipError, match="damaged"):
            decode_points(data[:length], 400, 9, GREEN, "here")
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        broken = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            broken[place] ^= 1 << random.integers(8)
        try:
            found, _ = decode_points(bytes(broken), 400, 9, GREEN, "here")
            assert found.max() < 1 << 27
        except ClipError:
            refused += 1
    assert refused > 1000
    for wrong in (399, 401, 1 << 20):
        with pytest.raises(ClipError, match="damaged"):
            decode_points(data, wrong, 9, GREEN, "here")


def surface(count: int, *, degree: int = 1, seed: int = 0) -> Splats:
    """Points on a sphere with smooth colours and a little of everything else."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    color = 0.5 + 0.4 * np.sin(4 * direction) + random.normal(0, 0.01, (count, 3))
    sh = random.normal(0, 0.03, (count, SH_COUNTS[degree], 3))
    sh[:, 0] = color / 0.2821
    radius = 0.03 * np.exp(random.normal(0, 0.2, count))
    return Splats(direction, radius, random.uniform(0.02, 1, count), sh)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_points_come_back_within_half_a_step(degree):
    splats, steps = surface(3000, degree=degree), Steps()
    chunk = encode_predictive(splats, steps, "here")
    found = decode_predictive(chunk.data, 3000, degree, "here").unpack()
    step = steps.position * float(np.median(splats.radius))
    distance, order = cKDTree(splats.position).query(found.position)
    single = np.bincount(order, minlength=3000)[order] == 1
    assert single.mean() > 0.95 and distance.max() <= 0.5 * np.sqrt(3) * step * 1.001
    original, found = splats.select(order[single]), found.select(single)
    near = distance[single] < 0.2 * step  # no doubt which point it is
    original, found = original.select(near), found.select(near)
    assert len(found) > 50
    assert np.abs(np.log(found.radius / original.radius)).max() <= 0.5 * steps.radius * 1.001
    assert np.abs(found.density - original.density).max() <= 0.5 * steps.density * 1.001
    assert found.density.min() > 0 and found.density.max() <= 1
    color = np.abs(found.sh[:, 0] - original.sh[:, 0]) * 0.2821
    assert color.max() <= 0.5 * steps.color * 1.002
    assert chunk.points == 3000 and sum(chunk.nbytes.values()) < len(chunk.data)


def test_it_is_much_smaller_than_baked_and_looks_the_same():
    splats = surface(8000)
    small, large = Predictive().encode(splats, "here"), Baked().encode(splats, "here")
    assert len(small.data) < 0.5 * len(large.data)
    found = decode_predictive(small.data, 8000, 1, "here")
    camera = Camera(
        np.array([[160.0, 0, 80], [0, 160, 80], [0, 0, 1]]), np.eye(3), [0, 0, 3], 160, 160
    )
    settings = PeelSettings(layers=12)
    pictures = [
        render_scene([Instance(part, IDENTITY)], camera, settings).rgba for part in (splats, found)
    ]
    covered = pictures[0][..., 3] > 0.5
    error = ((pictures[0] - pictures[1])[covered][:, :3] ** 2).mean()
    assert -10 * np.log10(error) > 38


def test_frames_without_points_and_with_one():
    empty = encode_predictive(Splats.empty(), Steps(), "here")
    assert empty.points == 0
    assert len(decode_predictive(empty.data, 0, 2, "here").unpack()) == 0
    one = surface(1)
    found = decode_predictive(encode_predictive(one, Steps(), "here").data, 1, 1, "here").unpack()
    assert np.abs(found.position - one.position).max() < 0.01


def test_an_outlier_makes_the_grid_coarser_not_the_file_wrong():
    splats = surface(500)
    position = splats.position.copy()
    position[0] = (3e6, 0, 0)
    splats = Splats(position, splats.radius, splats.density, splats.sh)
    found = decode_predictive(
        encode_predictive(splats, Steps(), "here").data, 500, 1, "here"
    ).unpack()
    assert np.abs(found.position.max(axis=0)[0] - 3e6) < 3


@pytest.mark.parametrize("coarseness", [1 / 32, 0.2, 0.5, 0.7, 1.0, 1.1, 16.0])
def test_faint_points_move_no_others(coarseness):
    splats = surface(400)
    density = np.full(400, 0.3, np.float32)
    steps = Steps().scaled(coarseness)
    for faint in (0.3, 1e-5):
        density[7] = faint
        chunk = encode_predictive(
            Splats(splats.position, splats.radius, density, splats.sh), steps, "here"
        )
        found = decode_predictive(chunk.data, 400, 1, "here").unpack().density
        assert found.min() > 0
        assert np.median(np.abs(found - 0.3)) <= 0.5 * steps.density * 1.001


def test_radii_beyond_sense_do_not_spoil_the_others():
    splats = surface(300)
    radius = splats.radius.copy()
    radius[3] = 1e-44
    splats = Splats(splats.position, radius, splats.density, splats.sh)
    chunk = encode_predictive(splats, Steps(), "here")
    found = np.sort(decode_predictive(chunk.data, 300, 1, "here").unpack().radius)
    np.testing.assert_allclose(found[1:], np.sort(radius)[1:], rtol=0.04)


@pytest.mark.parametrize("name", ["position", "sh"])
def test_what_no_reader_takes_is_not_written(name):
    splats = surface(10)
    parts = {key: getattr(splats, key).copy() for key in ("position", "radius", "density", "sh")}
    parts[name].ravel()[:2] = 9e29, -9e29
    with pytest.raises(ClipError, match="here"):
        encode_predictive(Splats(**parts), Steps(), "here")


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(points=51),
        lambda h: h.update(bits=0),
        lambda h: h.update(bits=22),
        lambda h: h.update(bits=h["bits"] - 1),
        lambda h: h.update(position=[0, 0, 0, 0]),
        lambda h: h.update(position=[1e30, 1e30, 0, 0]),
        lambda h: h.pop("radius"),
        lambda h: h.update(radius=[0.1, 0, 1 << 17]),
        lambda h: h.update(radius=[-0.1, 0, 10]),
        lambda h: h.update(radius=[0.1, 0, 0]),
        lambda h: h.update(radius=[10.0, -100, 10]),
        lambda h: h.update(density=[0.1, 0.5, 10]),
        lambda h: h.update(density=[0.1, -3, 10]),
        lambda h: h.update(sh=[]),
        lambda h: h.update(sh=h["sh"] * 3),
        lambda h: h.update(sh=[[1e30, 1, 10]] * 2),
        lambda h: h.update(sh="x"),
    ],
)
def test_wrong_headers_are_refused(change):
    data = encode_predictive(surface(50), Steps(), "here").data
    with pytest.raises(ClipError) as caught:
        decode_predictive(with_header(data, change), 50, 1, "a.p4d, frame 3")
    assert "a.p4d, frame 3" in str(caught.value)


@pytest.fixture
def clip(tmp_path):
    """Four baked frames with a static floor and four cameras around them."""
    cameras = []
    for angle in np.radians([0, 90, 180, 270]):
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        K = np.array([[120.0, 0, 64], [0, 120, 64], [0, 0, 1]])
        cameras.append(ClipCamera(f"{angle:.1f}", K, R, np.array([0, 0, 4.0]), 128, 128))
    inside = surface(500, seed=9)
    frames = []
    for seed in range(4):
        shell = surface(3000, seed=seed)
        dense = np.ones(3000, np.float32)
        # What is inside a shell that hides it is worth nothing.
        parts = Splats(shell.position, 2 * shell.radius, dense, shell.sh), inside
        frames.append(
            Splats(
                np.concatenate([parts[0].position, 0.3 * parts[1].position]),
                np.concatenate([p.radius for p in parts]),
                np.concatenate([p.density for p in parts]),
                np.concatenate([p.sh for p in parts]),
            )
        )
    floor = surface(2000, degree=0, seed=7)
    floor = Splats(2 * floor.position, floor.radius, floor.density, floor.sh)
    path = tmp_path / "clip.p4d"
    write_clip(
        path, frames, fps=25, cameras=cameras, static=floor, first_frame=7, provenance={"a": 1}
    )
    return path


def test_packing(clip, tmp_path):
    packed = pack(clip, tmp_path / "small.p4d")
    assert packed.nbytes == (tmp_path / "small.p4d").stat().st_size
    assert packed.nbytes < 0.5 * packed.source_nbytes
    assert 0.03 < packed.pruned < 0.14  # of the 2,000 inside, of 16,000
    with ClipReader(clip) as source, ClipReader(tmp_path / "small.p4d") as small:
        assert small.info.codec == "predictive" and small.info.first_frame == 7
        assert small.info.fps == 25 and len(small.info.cameras) == 4
        assert small.info.static_points == 2000
        assert small.info.provenance["a"] == 1
        assert small.info.provenance["packed"]["codec"] == "predictive"
        camera = source.info.cameras[1].camera()
        pictures = [
            render_scene(
                [Instance(part, IDENTITY) for part in reader.packed(2)],
                camera,
                reader.info.settings,
            ).rgba
            for reader in (source, small)
        ]
        error = ((pictures[0] - pictures[1]) ** 2).mean()
        assert -10 * np.log10(error) > 35


def test_packing_back_and_all_points(clip, tmp_path):
    packed = pack(clip, tmp_path / "same.p4d", PackSettings(codec="baked", prune=0))
    assert packed.pruned == 0
    with ClipReader(clip) as source, ClipReader(tmp_path / "same.p4d") as same:
        assert same.info.codec == "baked"
        difference = source.frame(1).radius / same.frame(1).radius
        assert np.abs(difference - 1).max() < 0.01


def test_packing_to_a_size(clip, tmp_path):
    sizes = []
    for target in (60_000, 90_000):
        packed = pack(clip, tmp_path / "a.p4d", PackSettings(target_bytes=target))
        sizes.append(packed.nbytes)
        assert 0.9 * target < packed.nbytes <= target
    assert sizes[0] < sizes[1]
    with pytest.raises(ClipError, match="cannot be met"):
        pack(clip, tmp_path / "b.p4d", PackSettings(target_bytes=5000))
    assert not (tmp_path / "b.p4d").exists()


def test_a_size_holds_where_the_sample_is_not_the_clip(tmp_path):
    """Of eight frames 0, 1, 2, 4, 5 and 7 are looked at; the others are three times as large."""
    frames = [surface(3000 if index in (3, 6) else 1000, seed=index) for index in range(8)]
    source, output = tmp_path / "source.p4d", tmp_path / "packed.p4d"
    write_clip(source, frames, fps=25)
    packed = pack(source, output, PackSettings(target_bytes=60_000))
    assert 0.8 * 60_000 < packed.nbytes <= 60_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.p4d", "source.p4d"]


def test_packing_can_be_stopped(clip, tmp_path):
    """What the callback raises ends the work at once, and no thread is left at a closed file."""

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.step == 2:
            raise Stop

    for settings in (
        PackSettings(),
        PackSettings(target_psnr=35),
        PackSettings(target_bytes=80_000),
    ):
        with pytest.raises(Stop):
            pack(clip, tmp_path / "a.p4d", settings, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.p4d"]
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_packing_to_a_psnr(clip, tmp_path):
    coarse = pack(clip, tmp_path / "a.p4d", PackSettings(target_psnr=32))
    fine = pack(clip, tmp_path / "b.p4d", PackSettings(target_psnr=38))
    assert coarse.coarseness > 1.3 * fine.coarseness and coarse.nbytes < fine.nbytes
    with pytest.raises(ClipError, match="cannot be met"):
        pack(clip, tmp_path / "c.p4d", PackSettings(target_psnr=120))


def test_packing_refuses(clip, tmp_path):
    with pytest.raises(ClipError, match="onto itself"):
        pack(clip, clip)
    with pytest.raises(ClipError, match="no codec"):
        pack(clip, tmp_path / "x.p4d", PackSettings(codec="zip"))
    with pytest.raises(ClipError, match="only one"):
        pack(clip, tmp_path / "x.p4d", PackSettings(target_bytes=9, target_psnr=9))
    with pytest.raises(ClipError):
        pack(tmp_path / "nothing.p4d", tmp_path / "x.p4d")
    assert not (tmp_path / "x.p4d").exists()


def test_flipped_bytes_in_a_clip_are_noticed(clip, tmp_path):
    path = tmp_path / "small.p4d"
    pack(clip, path)
    data, random = path.read_bytes(), np.random.default_rng(0)
    with ClipReader(path) as reader:
        truth = [reader.frame(index) for index in range(4)]
    for _ in range(150):
        broken = bytearray(data)
        broken[random.integers(len(data))] ^= 1 << random.integers(8)
        other = tmp_path / "broken.p4d"
        other.write_bytes(broken)
        try:
            with ClipReader(other) as reader:
                for index in range(4):
                    found = reader.frame(index)
                    np.testing.assert_array_equal(found.position, truth[index].position)
        except ClipError as error:
            assert "broken.p4d" in str(error)


def test_importance_is_the_share_of_the_picture():
    K = np.array([[50.0, 0, 32], [0, 50, 32], [0, 0, 1]])
    camera = Camera(K, np.eye(3), [0, 0, 2], 64, 64)
    sh = np.zeros((3, 1, 3))
    position = [[0, 0, 0], [0, 0, 1], [9, 9, 0]]  # before, behind it, out of sight
    splats = Splats(np.array(position), np.array([0.4, 0.2, 0.4]), np.array([1.0, 1, 1]), sh)
    weight = importance(splats, [camera, camera], PeelSettings(layers=4))
    picture = render_scene([Instance(splats, IDENTITY)], camera, PeelSettings(layers=4)).rgba
    assert weight.sum() == pytest.approx(2 * picture[..., 3].sum(), rel=1e-4)
    assert weight[0] > 50 * weight[1] and weight[2] == 0
    share = contribution(splats, [camera, camera], PeelSettings(layers=4))
    assert share[:2].sum() == pytest.approx(1) and share[1] < 0.03
    assert np.isnan(share[2])  # nobody looks there
    # The size of the pictures plays no part, nor do cameras that see nothing.
    small = camera.scaled(32, 32)
    away = Camera(K, np.diag([1.0, -1, -1]), [0, 0, -2], 64, 64)
    again = contribution(splats, [camera, small, away], PeelSettings(layers=4))
    assert again[0] == pytest.approx(share[0], abs=0.01)
    assert np.isnan(contribution(splats, [away], PeelSettings())).all()
    assert least_important(share, 0.05).tolist() == [False, True, False]
    assert not least_important(share, 0.0).any()
