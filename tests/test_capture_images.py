"""Pixels of a capture: undistortion, conversions, masks, depth, videos, faults."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.capture.capture import Capture, ImageFile, View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.image_header import has_alpha, image_size, is_truncated
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.errors import CaptureError

cv2 = pytest.importorskip("cv2", reason="the worker's part needs OpenCV")


def one_view(view: View, K: np.ndarray, **files: ImageFile) -> Capture:
    """A capture of one view and frame; files by kind: images, masks, depths."""
    return Capture(
        Path("somewhere"),
        "test",
        (view,),
        (0,),
        np.asarray(K, dtype=float)[None],
        np.eye(3)[None],
        np.zeros((1, 3)),
        np.zeros((1, 1)),
        **{kind: {(0, 0): file} for kind, file in files.items()},
    )


def stored(path: Path, pixels: np.ndarray, size: tuple[int, int] | None = None, **kinds) -> Capture:
    """`pixels` written to `path` as the image of an undistorted view."""
    assert cv2.imwrite(str(path), pixels)
    width, height = size or (pixels.shape[1], pixels.shape[0])
    K = np.array([[50, 0, width / 2], [0, 50, height / 2], [0, 0, 1]])
    return one_view(View("a", width, height), K, images=ImageFile(path), **kinds)


# --- Undistortion -----------------------------------------------------------------------------

K = np.array([[210.0, 0, 163.3], [0, 205.0, 118.9], [0, 0, 1]])
SIZE = (320, 240)
POINTS = np.array([[x, y, 1.0] for x in (-0.5, -0.2, 0.13, 0.45) for y in (-0.35, 0.05, 0.3)])


def dots(pixels: np.ndarray) -> np.ndarray:
    """An image with a soft dot of sigma 2 px at each of `pixels` (N, 2), corner convention."""
    u, v = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    distance = (u[..., None] - pixels[:, 0]) ** 2 + (v[..., None] - pixels[:, 1]) ** 2
    return np.round(255 * np.exp(-distance / 8).sum(axis=-1).clip(0, 1)).astype(np.uint8)


def centroids(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centre of brightness within 7 px of each of `near`, corner convention."""
    u, v = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    found = []
    for x, y in near:
        weight = image * (((u - x) ** 2 + (v - y) ** 2) < 49)
        found.append([(u * weight).sum() / weight.sum(), (v * weight).sum() / weight.sum()])
    return np.array(found)


def opencv_pixels(lens: str, coefficients: tuple[float, ...]) -> np.ndarray:
    """Where OpenCV's own model sees POINTS, moved from its pixel centres to the corner."""
    K_centre = K.copy()
    K_centre[:2, 2] -= 0.5
    zero = np.zeros(3)
    if lens == "fisheye":
        D = np.array(coefficients or (0.0,) * 4)
        seen, _ = cv2.fisheye.projectPoints(POINTS[:, None], zero, zero, K_centre, D)
    else:
        seen, _ = cv2.projectPoints(POINTS, zero, zero, K_centre, np.array(coefficients))
    return seen.reshape(-1, 2) + 0.5


@pytest.mark.parametrize(
    "lens, coefficients",
    [
        ("pinhole", (-0.25, 0.08, 0.002, -0.003)),
        ("pinhole", (0.15, -0.05, 0.0, 0.0, 0.02)),
        ("pinhole", (0.3, 0.02, 0.001, 0.0, 0.01, 0.4, 0.05, 0.002)),
        ("fisheye", (0.05, -0.01, 0.003, 0.0)),
        ("fisheye", ()),
    ],
)
def test_undistortion_brings_points_back_to_K(tmp_path, lens, coefficients):
    """Dots drawn where the distorted lens sees points come out where K alone projects them.

    0.1 px: bilinear resampling in OpenCV's steps of 1/32 px and the slight stretch of a dot.
    """
    path = tmp_path / "dots.png"
    cv2.imwrite(str(path), dots(opencv_pixels(lens, coefficients)))
    capture = one_view(View("a", *SIZE, coefficients, lens), K, images=ImageFile(path))
    expected, _ = capture.camera(0, 0).project(POINTS)
    with ImageReader(capture) as reader:
        found = centroids(reader.image(0, 0)[..., 0].astype(float), expected)
    assert np.abs(found - expected).max() < 0.1
    # The lenses of this test do move the points, by pixels.
    assert np.abs(opencv_pixels(lens, coefficients) - expected).max() > 2


def test_undistortion_uses_the_corner_convention():
    """The centre of distortion must stay where it is: at cx, cy counted from the image's corner.

    Which pixels find a source inside the image is symmetric about that point, here the middle,
    only if the half pixel between the conventions is taken into account.
    """
    size, c = 81, 40.5
    K_ = np.array([[60.0, 0, c], [0, 60.0, c], [0, 0, 1]])
    capture = one_view(View("a", size, size, (-0.4, 0.0, 0.0, 0.0)), K_)
    valid = ImageReader(capture).valid(0, 0)
    capture = replace(capture, views=(View("a", size, size, (0.4, 0.0, 0.0, 0.0)),))
    outside = ImageReader(capture).valid(0, 0)
    for inside in (valid, outside):
        np.testing.assert_array_equal(inside, inside[::-1])
        np.testing.assert_array_equal(inside, inside[:, ::-1])
    assert valid.all() and not outside.all()


def test_masks_and_depth_are_not_interpolated(tmp_path):
    view = View("a", *SIZE, (0.25, 0.08, 0.002, -0.003))
    depth = np.where(np.arange(SIZE[0]) < 160, 1000, 3000).astype(np.uint16)
    depth = np.tile(depth, (SIZE[1], 1))
    cv2.imwrite(str(tmp_path / "depth.png"), depth)
    cv2.imwrite(str(tmp_path / "mask.png"), np.where(depth > 2000, 255, 0).astype(np.uint8))
    capture = one_view(
        view,
        K,
        masks=ImageFile(tmp_path / "mask.png"),
        depths=ImageFile(tmp_path / "depth.png", scale=1e-3),
    )
    reader = ImageReader(capture)
    mask, z, valid = reader.mask(0, 0), reader.depth(0, 0), reader.valid(0, 0)
    assert z.dtype == np.float32 and mask.dtype == bool
    assert set(np.unique(np.rint(1000 * z))) == {0, 1000, 3000}
    np.testing.assert_allclose(1000 * z, np.rint(1000 * z), rtol=1e-6)
    np.testing.assert_array_equal(mask[valid], z[valid] > 2)
    assert not mask[~valid].any() and not z[~valid].any()
    # Nearest, not the pixel to the upper left: a point on the edge lies within half a pixel.
    columns = np.argmax(mask[SIZE[1] // 2] > 0)
    ray = np.array([(columns - K[0, 2]) / K[0, 0], (120 - K[1, 2]) / K[1, 1], 1.0])
    K_centre = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    edge, _ = cv2.projectPoints(
        ray[None], np.zeros(3), np.zeros(3), K_centre, np.array(view.distortion)
    )
    assert abs(edge.ravel()[0] + 0.5 - 160) < 0.6


# --- Conversions ------------------------------------------------------------------------------


def test_rgba_is_composited_over_black_and_alpha_is_the_mask(tmp_path):
    bgra = np.zeros((4, 6, 4), np.uint8)
    bgra[..., :3] = (10, 100, 200)
    bgra[:, 1:, 3] = 128
    bgra[:, 3:, 3] = 255
    path = tmp_path / "a.png"
    capture = stored(path, bgra, masks=ImageFile(path, layer="alpha"))
    reader = ImageReader(capture)
    assert reader.image(0, 0)[0, [0, 1, 5]].tolist() == [[0] * 3, [100, 50, 5], [200, 100, 10]]
    assert reader.mask(0, 0)[0].tolist() == [False, True, True, True, True, True]
    assert has_alpha(path)


def test_grey_and_16_bit_become_rgb_8_bit(tmp_path):
    grey = np.array([[0, 77], [128, 255]], np.uint8)
    image = ImageReader(stored(tmp_path / "a.png", grey)).image(0, 0)
    assert image.dtype == np.uint8 and image.shape == (2, 2, 3)
    assert (image == grey[..., None]).all()
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(ImageReader(stored(tmp_path / "b.png", deep)).image(0, 0), image)
    assert not image.flags.writeable


def test_jpeg_is_rgb_and_exif_rotation_is_ignored(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = (0, 0, 255)  # red, in OpenCV's order
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), pixels)
    data = path.read_bytes()
    # An EXIF block that asks for a rotation by 90 degrees (orientation 6).
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    path.write_bytes(data[:2] + exif + data[2:])
    K_ = np.array([[30, 0, 16], [0, 30, 8], [0, 0, 1]])
    image = ImageReader(one_view(View("a", 32, 16), K_, images=ImageFile(path))).image(0, 0)
    assert image.shape == (16, 32, 3) and image_size(path) == (32, 16)
    assert image[8, 4, 0] > 240 and image[8, 4, 2] < 20 and image[8, 28].max() < 20


@pytest.mark.parametrize(
    "pixels, expected",
    [
        (np.array([[0, 127, 128, 255]], np.uint8), [0, 0, 1, 1]),
        (np.array([[0, 1, 1, 0]], np.uint8), [0, 1, 1, 0]),
        (np.array([[[0, 0, 0], [0, 0, 200], [255, 255, 255]]], np.uint8), [0, 1, 1]),
        (np.array([[0, 65535, 20000]], np.uint16), [0, 1, 0]),
        (np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8), [0, 1]),
    ],
)
def test_mask_conventions(tmp_path, pixels, expected):
    path = tmp_path / "m.png"
    capture = stored(path, pixels, masks=ImageFile(path))
    assert ImageReader(capture).mask(0, 0)[0].tolist() == [bool(x) for x in expected]


def test_one_bit_png_mask(tmp_path):
    path = tmp_path / "m.png"
    pixels = np.array([[0, 255, 0, 255, 255]], np.uint8)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert path.read_bytes()[24] == 1  # bits per pixel
    K_ = np.array([[5, 0, 2.5], [0, 5, 0.5], [0, 0, 1]])
    capture = one_view(View("a", 5, 1), K_, masks=ImageFile(path))
    assert ImageReader(capture).mask(0, 0)[0].tolist() == [False, True, False, True, True]


def test_float_depth_and_unknown_values(tmp_path):
    depth = np.array([[1.5, np.nan], [-2.0, np.inf]], np.float32)
    np.save(tmp_path / "d.npy", depth)
    assert cv2.imwrite(str(tmp_path / "d.tiff"), depth)
    K_ = np.array([[5, 0, 1], [0, 5, 1], [0, 0, 1]])
    for name in ("d.npy", "d.tiff"):
        capture = one_view(View("a", 2, 2), K_, depths=ImageFile(tmp_path / name))
        assert ImageReader(capture).depth(0, 0).tolist() == [[1.5, 0], [0, 0]]


def test_absent_masks_and_depth_are_none(tmp_path):
    reader = ImageReader(stored(tmp_path / "a.png", np.zeros((2, 2), np.uint8)))
    assert reader.mask(0, 0) is None and reader.depth(0, 0) is None and reader.valid(0, 0) is None


# --- Faults -----------------------------------------------------------------------------------


def test_missing_frame_names_view_and_frame(ball_capture):
    capture = open_capture(ball_capture)
    images = {key: file for key, file in capture.images.items() if key != (2, 4)}
    with pytest.raises(CaptureError, match=r"view '04', frame 2: the image is missing"):
        ImageReader(replace(capture, images=images)).image(2, 4)
    images[2, 4] = ImageFile(Path("gone.png"))
    with pytest.raises(CaptureError, match=r"gone\.png, view '04', frame 2: the image is missing"):
        ImageReader(replace(capture, images=images)).image(2, 4)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.95])
def test_cut_off_image(tmp_path, suffix, keep):
    """A decoder may fill the rest of a cut JPEG with grey and say nothing."""
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    capture = stored(path, noise)
    data = path.read_bytes()
    assert not is_truncated(data)
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CaptureError, match=r"view 'a', frame 0: .*(cut off|not a readable)"):
        ImageReader(capture).image(0, 0)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut(tmp_path):
    path = tmp_path / "a.jpg"
    stored(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    segment = b"Exif\0\0" + b"\xff\xd8 a thumbnail \xff\xd9"
    whole = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert not is_truncated(whole) and not is_truncated(whole + b"trailer")
    assert is_truncated(whole[: len(whole) // 2])


def test_not_an_image(tmp_path):
    capture = stored(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(CaptureError, match="not a readable image"):
        ImageReader(capture).image(0, 0)


def test_sizes_that_disagree(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.full((24, 32), 255, np.uint8)
    capture = stored(path, pixels, (64, 48), masks=ImageFile(path), depths=ImageFile(path))
    reader = ImageReader(capture)
    for read, kind in ((reader.image, "image"), (reader.mask, "mask"), (reader.depth, "depth map")):
        with pytest.raises(CaptureError, match=f"{kind} is 32x24, the calibration says 64x48"):
            read(0, 0)


def test_without_opencv_the_error_says_what_to_install(tmp_path, monkeypatch):
    capture = stored(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(CaptureError, match=r'pip install "peel4d\[train\]"'):
        ImageReader(capture).image(0, 0)


# --- Cache and threads ------------------------------------------------------------------------


def test_cache_is_bounded_and_serves_repetitions(ball_capture, monkeypatch):
    from peel4d.engine.capture import images

    decoded = []
    original = images.decode_image
    monkeypatch.setattr(images, "decode_image", lambda p: decoded.append(p) or original(p))
    capture = open_capture(ball_capture)
    one_image = 96 * 96 * 3
    reader = ImageReader(capture, cache_bytes=2 * one_image)
    first = reader.image(0, 0)
    assert reader.image(0, 0) is first and len(decoded) == 1
    reader.image(0, 1)
    reader.image(0, 0)  # now the younger of the two
    reader.image(0, 2)  # pushes (0, 1) out
    assert len(decoded) == 3
    reader.image(0, 0)
    assert len(decoded) == 3
    reader.image(0, 1)
    assert len(decoded) == 4


def test_threads_read_the_same_as_one(ball_capture):
    capture = open_capture(ball_capture)
    expected = {key: ImageReader(capture).image(*key).copy() for key in capture.images}
    reader = ImageReader(capture, cache_bytes=8 * 96 * 96 * 3)
    wrong = []

    def work(seed: int) -> None:
        keys = sorted(expected)
        for i in np.random.default_rng(seed).integers(0, len(keys), 60):
            if not np.array_equal(reader.image(*keys[i]), expected[keys[i]]):
                wrong.append(keys[i])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- Videos -----------------------------------------------------------------------------------


def write_video(path: Path, frames: int, gop: int = 12, size: tuple[int, int] = (64, 48)) -> None:
    """Frame i is grey of brightness 20 + 4 i: the number can be read back from the picture."""
    av = pytest.importorskip("av", reason="videos need PyAV")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = 2
        stream.bit_rate = 2_000_000
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), 20 + 4 * i, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def frame_shown(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 4)


@pytest.fixture
def video_capture(tmp_path, ball_capture) -> Path:
    """The calibration of the ball capture with videos instead of images, at another size."""
    root = tmp_path / "capture"
    root.mkdir()
    for name in ("intri.yml", "extri.yml"):
        text = (ball_capture / name).read_text()
        lines = [line for line in text.splitlines() if not line.startswith(("H_", "W_"))]
        (root / name).write_text("\n".join(lines))
    for camera in ("00", "01", "02"):
        write_video(root / "videos" / f"{camera}.mp4", 50)
    return root


def test_videos_are_listed_and_read_in_any_order(video_capture):
    capture = open_capture(video_capture, size=(64, 48))
    assert len(capture.frames) == 50 and capture.fps == 25
    assert len(capture.images) == 150 and capture.images[7, 1].index == 7
    reader = ImageReader(capture, cache_bytes=0)
    order = [0, 1, 2, 3, 30, 31, 5, 49, 0, 48, 49, 13, 12, 11, 36, 24]
    assert [frame_shown(reader.image(i, 0)) for i in order] == order


def test_videos_are_read_by_threads(video_capture):
    capture = open_capture(video_capture, size=(64, 48))
    reader = ImageReader(capture, cache_bytes=0)
    reader._videos._limit = 2  # fewer decoders than videos: they must take turns
    wrong = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(12):
            frame, view = int(random.integers(50)), int(random.integers(3))
            if frame_shown(reader.image(frame, view)) != frame:
                wrong.append((frame, view))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_damaged_videos(video_capture):
    capture = open_capture(video_capture, size=(64, 48))
    capture.images[60, 0] = replace(capture.images[0, 0], index=60)
    reader = ImageReader(replace(capture, frames=tuple(range(61))))
    with pytest.raises(CaptureError, match=r"view '00', frame 60: the video has no frame 60"):
        reader.image(60, 0)
    assert frame_shown(reader.image(3, 0)) == 3
    (video_capture / "videos" / "01.mp4").write_bytes(b"not a video at all")
    with pytest.raises(CaptureError, match=r"01\.mp4: cannot be opened as a video"):
        open_capture(video_capture, size=(64, 48))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS counts on Linux")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".mp4"])
def test_a_lack_of_memory_is_not_blamed_on_the_file(tmp_path, suffix):
    """The process has room for the file but not for its pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (1440, 2560, 3), dtype=np.uint8)
    path = tmp_path / f"large{suffix}"
    if suffix == ".mp4":
        write_video(path, 2, size=(2560, 1440))
    else:
        assert cv2.imwrite(str(path), pixels)
    script = """
import resource, sys
from pathlib import Path
from peel4d.engine.capture.decode import decode_image
from peel4d.engine.capture.video import VideoFrames
from peel4d.engine.errors import CaptureError
path, damaged = map(Path, sys.argv[1:])
def decode(path):
    return VideoFrames().frame(path, 0) if path.suffix == ".mp4" else decode_image(path)
decode(path)  # libraries are loaded, and it can be read
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (4 << 20), -1))
try:
    decode(path)
    print("decoded")
except MemoryError as error:
    print("memory", error)
try:
    decode(damaged)
except CaptureError as error:
    print("damaged", error)
"""
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n no picture IEND")
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path), str(damaged)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, second = ended.stdout.splitlines()
    assert first.startswith("memory") and path.name in first
    assert second.startswith("damaged") and damaged.name in second
