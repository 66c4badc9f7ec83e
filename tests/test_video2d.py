"""The `.g2v` format: what goes in comes out, and what is damaged is refused by name."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chunk_header import with_header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peel4d.engine.errors import CaptureError, ClipError, CoreError, OutputError
from peel4d.engine.render.window import Window
from peel4d.engine.video2d.export import export
from peel4d.engine.video2d.gaussians import draw
from peel4d.engine.video2d.gop import Gop, frame_time, legendre
from peel4d.engine.video2d.gop_codec import Steps, decode_gop, encode_gop
from peel4d.engine.video2d.source import open_source
from peel4d.engine.video2d.video import INFO_MEMBER, VideoInfo, VideoReader, gop_member, write_video


def group(count: int = 300, frames: int = 5, orders=(3, 2), size=(64, 48), seed: int = 0) -> Gop:
    rng = np.random.default_rng(seed)
    arrays = (
        rng.uniform(0, size, (count, 2)),
        rng.normal(0.7, 0.4, (count, 2)),
        rng.normal(0, 0.5, count),
        rng.normal(0.1, 0.2, (count, 3)),
        rng.normal(0, 0.5, (orders[0], count, 2)),
        rng.normal(0, 0.02, (orders[1], count, 3)),
    )
    return Gop(frames, *size, *(array.astype(np.float32) for array in arrays))


def pictures(gop: Gop) -> np.ndarray:
    window = Window(0, 0, gop.width, gop.height)
    return np.stack([draw(gop.at(frame), window) for frame in range(gop.frames)]).astype(np.float64)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return -10 * np.log10(max(np.mean((first - second) ** 2) / 255**2, 1e-10))


@pytest.fixture
def video(tmp_path) -> Path:
    gops = [group(seed=0), group(count=200, frames=3, orders=(2, 0), seed=1)]
    chunks = [encode_gop(gop, Steps()) for gop in gops]
    info = VideoInfo(64, 48, 25.0, ((5, 300), (3, 200)), {"source": "test"})
    write_video(tmp_path / "video.g2v", info, chunks)
    return tmp_path / "video.g2v"


# ---- groups --------------------------------------------------------------------------------------


def test_legendre_polynomials_are_numpys():
    for time_ in (-1.0, -0.3, 0.0, 0.9, 1.0):
        expected = [np.polynomial.legendre.legval(time_, np.eye(7)[k]) for k in range(1, 7)]
        assert np.allclose(legendre(6, time_), expected, atol=1e-6)
    assert len(legendre(0, 0.5)) == 0
    assert (frame_time(0, 10), frame_time(9, 10), frame_time(0, 1)) == (-1, 1, 0)


def test_a_group_moves_by_its_polynomials():
    gop = group(count=4, frames=3)
    first, last = gop.at(0), gop.at(2)
    # P1, P2, P3 are -1, 1, -1 at the beginning and 1 at the end.
    assert np.allclose(first.position, gop.position - gop.motion[0] + gop.motion[1] - gop.motion[2])
    assert np.allclose(last.color, gop.color + gop.shade.sum(axis=0), atol=1e-6)
    assert np.allclose(first.cholesky[:, 1] / first.cholesky[:, 2], gop.shear, atol=1e-5)


@pytest.mark.parametrize("orders", [(3, 2), (0, 0), (1, 0), (0, 1), (6, 6)])
@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_coding_is_as_exact_as_its_steps(orders, count):
    gop, steps = group(count=count, orders=orders), Steps()
    decoded = decode_gop(encode_gop(gop, steps), "test")
    assert (decoded.frames, decoded.width, decoded.height) == (5, 64, 48)
    assert decoded.motion.shape == gop.motion.shape and decoded.shade.shape == gop.shade.shape
    if not count:
        return
    # The order is the codec's: pair the Gaussians by position.
    distance = np.abs(decoded.position[:, None] - gop.position[None]).max(axis=2)
    distance += np.abs(decoded.log_scale[:, None] - gop.log_scale[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    assert len(set(nearest)) == count
    half = 0.5001
    assert np.abs(decoded.position - gop.position[nearest]).max() <= half * steps.position
    assert np.abs(decoded.log_scale - gop.log_scale[nearest]).max() <= half * steps.scale
    assert np.abs(decoded.shear - gop.shear[nearest]).max() <= half * steps.shear
    # Weights of colours are at least sqrt(0.2), of motion sqrt(0.3).
    most = half * steps.color / np.sqrt(0.2)
    assert np.abs(decoded.color - gop.color[nearest]).max() <= most
    if orders[0]:
        most = half * steps.motion / np.sqrt(0.3)
        assert np.abs(decoded.motion - gop.motion[:, nearest]).max() <= most


def test_finer_steps_are_better_and_larger():
    gop = group(count=800)
    truth = pictures(gop)
    rows = []
    for factor in (0.25, 1.0, 4.0):
        data = encode_gop(gop, Steps().scaled(factor))
        rows.append((len(data), psnr(pictures(decode_gop(data, "test")), truth)))
    sizes, scores = zip(*rows, strict=True)
    assert sizes[0] > 1.2 * sizes[1] > 1.44 * sizes[2]
    assert scores[0] > scores[1] + 6 > scores[2] + 12
    assert scores[0] > 45


def test_coding_twice_changes_nothing():
    once = decode_gop(encode_gop(group(), Steps()), "test")
    twice = decode_gop(encode_gop(once, Steps()), "test")
    assert psnr(pictures(once), pictures(twice)) > 60


def test_outliers_make_the_grid_coarser_before_they_break_it():
    gop = group()
    gop.position[0] = (9e4, -9e4)
    decoded = decode_gop(encode_gop(gop, Steps()), "test")
    assert np.isfinite(decoded.position).all()
    assert np.abs(decoded.position).max() == pytest.approx(9e4, rel=1e-4)


# ---- files ---------------------------------------------------------------------------------------


def test_reader_shows_what_was_written(video):
    with VideoReader(video) as reader:
        assert reader.info.frame_count == 8
        assert reader.info.provenance == {"source": "test"}
        expected = [*pictures(group(seed=0)), *pictures(group(200, 3, (2, 0), seed=1))]
        for index in (7, 0, 5, 4):  # any order
            picture = reader.frame(index)
            assert picture.shape == (48, 64, 3)
            assert psnr(picture.astype(float), expected[index]) > 30
        assert reader.frame(3, size=(160, 90)).shape == (90, 160, 3)
        assert reader.frame(3, size=(1, 1)).shape == (1, 1, 3)
        for index in (-1, 8):
            with pytest.raises(IndexError):
                reader.frame(index)


def test_pictures_are_the_frames_in_any_order(video, tmp_path):
    with VideoReader(video) as reader:
        for frames in (range(8), range(8)[::3], [7, 0, 0, 6, 1, 7], []):
            drawn = list(reader.pictures(frames, size=(32, 24)))
            assert len(drawn) == len(frames)
            for picture, index in zip(drawn, frames, strict=True):
                assert np.array_equal(picture, reader.frame(index, size=(32, 24)))
        left = reader.pictures(range(8))
        next(left)
        left.close()
        with pytest.raises(IndexError):
            next(reader.pictures([8]))
        with pytest.raises(CoreError, match="no back end is called 'tpu'"):
            reader.frame(0, backend="tpu")
    damaged = bytearray(video.read_bytes())
    damaged[damaged.index(b"gops/000001.bin") + 500] ^= 1
    (tmp_path / "damaged.g2v").write_bytes(damaged)
    with VideoReader(tmp_path / "damaged.g2v") as reader:
        pictures = reader.pictures(range(8))
        assert len([next(pictures) for _ in range(5)]) == 5
        with pytest.raises(ClipError, match="000001"):
            next(pictures)


def test_the_same_groups_give_the_same_file(video, tmp_path):
    with VideoReader(video) as reader:
        info = reader.info
        chunks = [
            encode_gop(group(seed=0), Steps()),
            encode_gop(group(200, 3, (2, 0), seed=1), Steps()),
        ]
    write_video(tmp_path / "again.g2v", info, chunks)
    assert (tmp_path / "again.g2v").read_bytes() == video.read_bytes()


def rewrite(source: Path, target: Path, change) -> Path:
    """A copy with changed members: change(name, data) -> data or None to leave the member out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "peel4d-clip"),
        ("version", 2),
        ("version", "1"),
        ("width", 0),
        ("width", 1 << 20),
        ("height", 2.5),
        ("fps", 0),
        ("fps", None),
        ("frame_count", 9),
        ("color", "linear"),
        ("gops", []),
        ("gops", [{"frames": 5}]),
        ("gops", [{"frames": 8, "gaussians": 1 << 40}]),
        ("gops", [{"frames": 1 << 40, "gaussians": 1}]),
        ("gops", "many"),
        ("provenance", 3),
    ],
)
def test_absurd_heads(video, tmp_path, key, value):
    def change(name, data):
        if name != INFO_MEMBER:
            return data
        return json.dumps(json.loads(data) | {key: value}).encode()

    with pytest.raises(ClipError, match=r"video\.json") as error:
        VideoReader(rewrite(video, tmp_path / "bad.g2v", change))
    assert error.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames", 0),
        ("frames", 1 << 30),
        ("gaussians", 301),
        ("gaussians", 1 << 20),
        ("gaussians", 1 << 40),
        ("gaussians", -1),
        ("bits", 40),
        ("bits", 0),
        ("orders", [99, 99]),
        ("orders", [0, 0]),
        ("position", [0.1, 1e30, 0]),
        ("position", [0, 0, 0]),
        ("across", [0.1, 0.5, 3]),
        ("across", [1e9, 0, 3]),
        ("lattices", []),
        ("lattices", [[1e300, 0, 1]] * 8),
    ],
)
def test_absurd_groups(video, tmp_path, key, value):
    def change(name, data):
        if name != gop_member(0):
            return data
        return with_header(data, lambda header: header.update({key: value}))

    clock = time.perf_counter()
    with (
        VideoReader(rewrite(video, tmp_path / "bad.g2v", change)) as reader,
        pytest.raises(ClipError, match=r"gops/000000\.bin"),
    ):
        reader.frame(0)
    assert time.perf_counter() - clock < 5


def test_members_that_are_missing_or_swapped(video, tmp_path):
    for name in (gop_member(1), INFO_MEMBER):
        path = rewrite(
            video, tmp_path / "bad.g2v", lambda n, d, name=name: None if n == name else d
        )
        with pytest.raises(ClipError, match="missing"):
            VideoReader(path)
    chunk = zipfile.ZipFile(video).read(gop_member(1))
    path = rewrite(video, tmp_path / "bad.g2v", lambda n, d: chunk if n == gop_member(0) else d)
    with VideoReader(path) as reader, pytest.raises(ClipError, match="not what the head says"):
        reader.frame(0)


def test_files_that_are_no_videos(tmp_path):
    with pytest.raises(ClipError, match="cannot open the video"):
        VideoReader(tmp_path / "absent.g2v")
    (tmp_path / "text.g2v").write_text("hello")
    with pytest.raises(ClipError, match=r"not a Peel4D video.*\.g2v"):
        VideoReader(tmp_path / "text.g2v")


def show_all(path: Path) -> int:
    """Frames that can be shown; a fault must be a ClipError (or CoreError, for pictures that are
    more than the core takes) that names the file."""
    shown = 0
    try:
        with VideoReader(path) as reader:
            for index in range(reader.info.frame_count):
                picture = reader.frame(index)
                assert picture.shape == (reader.info.height, reader.info.width, 3)
                shown += 1
    except ClipError as error:
        assert path.name in str(error)
    except CoreError as error:
        assert "overlaps" in str(error)
    return shown


def test_every_truncation(video, tmp_path):
    data = video.read_bytes()
    bad = tmp_path / "cut.g2v"
    for length in range(0, len(data), 61):
        bad.write_bytes(data[:length])
        assert show_all(bad) == 0


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_are_noticed(video, flips):
    data = bytearray(video.read_bytes())
    for place, value in flips:
        data[place % len(data)] ^= value
    bad = video.with_name("flipped.g2v")
    bad.write_bytes(data)
    show_all(bad)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes_behind_the_checksum(video, flips):
    """Whoever fixes the checksum gets an error or some picture, in bounded time and memory."""

    def change(name, data):
        if name != gop_member(0):
            return data
        data = bytearray(data)
        for place, value in flips:
            data[place % len(data)] ^= value
        return bytes(data)

    clock = time.perf_counter()
    show_all(rewrite(video, video.with_name("flipped.g2v"), change))
    assert time.perf_counter() - clock < 30


# ---- frames in and out ---------------------------------------------------------------------------


def write_images(folder: Path, images) -> Path:
    import cv2

    folder.mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index:04d}.png"), image)
    return folder


def write_movie(path: Path, frames: list[np.ndarray], codec: str, pixels: str, times=None) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format=pixels)
            picture.pts = times[number] if times else number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def ramp(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    x = np.linspace(40, 200, width)
    return [
        np.broadcast_to((x + 5 * i)[None, :, None], (height, width, 3)).astype(np.uint8).copy()
        for i in range(count)
    ]


def test_images_come_in_order_and_over_black(tmp_path):
    folder = write_images(tmp_path / "rgba", [np.full((7, 3, 4), 100, np.uint8)] * 2)
    source = open_source(folder, fps=12)
    assert (source.width, source.height, source.frame_count, source.fps) == (3, 7, 2, 12)
    assert any("alpha" in warning for warning in source.warnings)
    assert [int(frame.mean()) for frame in source.frames()] == [39, 39]  # 100 * 100 / 255

    deep = open_source(write_images(tmp_path / "deep", [np.full((4, 4), 30000, np.uint16)]))
    assert any("8 bits" in warning for warning in deep.warnings)
    assert int(next(deep.frames())[0, 0, 0]) == round(30000 / 65535 * 255)


def test_images_of_two_sizes_are_refused(tmp_path):
    folder = write_images(tmp_path / "mixed", [np.zeros((8, 8, 3)), np.zeros((8, 9, 3))])
    with pytest.raises(CaptureError, match=r"frame 1 has 9x8 pixels.*0001\.png|0001\.png.*9x8"):
        list(open_source(folder).frames())


def test_movies_of_8_and_10_bits(tmp_path):
    frames = ramp(6)
    plain = open_source(write_movie(tmp_path / "plain.mkv", frames, "ffv1", "yuv444p"))
    assert (plain.frame_count, plain.width, plain.height, plain.fps) == (6, 48, 32, 25)
    assert plain.warnings == ()
    deep = open_source(write_movie(tmp_path / "deep.mkv", frames, "ffv1", "yuv444p10le"))
    assert any("8 bits" in warning for warning in deep.warnings)
    for source in (plain, deep):
        for got, truth in zip(source.frames(), frames, strict=True):
            assert np.abs(got.astype(int) - truth).max() <= 4  # RGB -> YUV -> RGB
    part = list(plain.frames(2, 3))
    assert len(part) == 3 and abs(int(part[0].mean()) - int(frames[2].mean())) <= 2


def test_alpha_and_variable_rate_are_told(tmp_path):
    alpha = open_source(write_movie(tmp_path / "alpha.mkv", ramp(3), "ffv1", "yuva420p"))
    assert any("alpha" in warning for warning in alpha.warnings)
    times = [0, 1, 2, 10, 11, 30]
    uneven = open_source(write_movie(tmp_path / "vfr.mkv", ramp(6), "ffv1", "yuv444p", times))
    assert any("rate varies" in warning for warning in uneven.warnings)
    assert uneven.frame_count == 6 and len(list(uneven.frames())) == 6
    assert uneven.fps == pytest.approx(25 * 5 / 30, rel=0.02)


def test_what_has_no_frames(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no movie")
    for path, words in (
        (tmp_path / "absent.mp4", "no such file"),
        (tmp_path / "empty", "no images"),
        (tmp_path / "text.mp4", "opened as a video"),
    ):
        with pytest.raises(CaptureError, match=words):
            open_source(path)


def test_export_writes_images_and_movies(video, tmp_path):
    import cv2

    with VideoReader(video) as reader:
        assert export(reader, tmp_path / "out", frames=range(2, 5)) == 3
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["000002.png", "000003.png", "000004.png"]
        image = cv2.imread(str(tmp_path / "out" / "000003.png"))[..., ::-1]
        assert np.array_equal(image, reader.frame(3))
        assert export(reader, tmp_path / "out.mp4", size=(33, 21)) == 8
        movie = open_source(tmp_path / "out.mp4")
        assert (movie.width, movie.height, movie.frame_count) == (32, 20, 8)
        with pytest.raises(OutputError, match="not written"):
            export(reader, tmp_path / "out.gif")
        with pytest.raises(OutputError, match="cannot be encoded"):
            export(reader, tmp_path / "tiny.mp4", size=(1, 1))


def test_a_head_that_no_reader_takes_is_not_written(video, tmp_path):
    with VideoReader(video) as reader:
        info = reader.info
    shutil.copy(video, tmp_path / "old.g2v")
    with pytest.raises(ClipError):
        write_video(tmp_path / "old.g2v", replace(info, fps=0.0), [])
    assert (tmp_path / "old.g2v").read_bytes() == video.read_bytes()
