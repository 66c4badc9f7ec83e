"""Masks made from images alone, measured against drawn subjects whose masks are known."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from ball import ball_picture, ring_camera, write_ball_capture

from peel4d.engine.capture.capture import Capture, ImageFile, View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.errors import OutputError, ReconstructionError
from peel4d.engine.segment import masks as masks_module
from peel4d.engine.segment.appearance import claim_unknown
from peel4d.engine.segment.background import light_change, model_background, read_samples
from peel4d.engine.segment.chroma import even_backdrop, find_key
from peel4d.engine.segment.cleanup import (
    BACKGROUND,
    PERHAPS_BACKGROUND,
    SUBJECT,
    UNKNOWN,
    fill_holes,
    guided_filter,
)
from peel4d.engine.segment.consistency import agree
from peel4d.engine.segment.difference import foreground_likelihood
from peel4d.engine.segment.masks import estimate_masks
from peel4d.engine.segment.report import mask_reports

WIDTH, HEIGHT, NOISE = 160, 120, 3.0


def room(seed: int = 1) -> np.ndarray:
    """A wall with soft patches of colour and some grain, (H, W, 3) float."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, 3)
    patches = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 12)
    grain = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 1.5)
    wall = 140 + 25 * patches / patches.std() + 6 * grain / grain.std()
    return wall.clip(60, 220)


def walker(position: float) -> tuple[np.ndarray, np.ndarray]:
    """A figure with a head, a striped body and two legs at 0..1 across the image: its colour and
    how much of each pixel it covers."""
    scale = 4
    canvas = np.zeros((HEIGHT * scale, WIDTH * scale, 4), np.float32)
    x, s = round((20 + position * (WIDTH - 40)) * scale), scale
    cv2.circle(canvas, (x, 30 * s), 9 * s, (225, 180, 150, 1), -1)
    cv2.rectangle(canvas, (x - 11 * s, 39 * s), (x + 11 * s, 75 * s), (40, 60, 170, 1), -1)
    for row in range(43, 75, 8):
        cv2.rectangle(
            canvas, (x - 11 * s, row * s), (x + 11 * s, (row + 3) * s), (220, 60, 40, 1), -1
        )
    for side in (-7, 7):
        cv2.line(canvas, (x + side * s, 75 * s), (x + side * s, 105 * s), (60, 45, 30, 1), 6 * s)
    canvas[..., :3] *= canvas[..., 3:]
    small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return small[..., :3], small[..., 3]


def composite(position: float, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The walker before a background: picture (float) and true mask."""
    color, alpha = walker(position)
    return color + (1 - alpha[..., None]) * behind, alpha > 0.5


def noisy(picture: np.ndarray, seed: int, noise: float = NOISE) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, noise, picture.shape)
    return np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8)


def write_capture(folder: Path, views: list[list[np.ndarray]], *, moving: bool = False) -> Capture:
    """A capture of the given images, one list per view, whose cameras stand side by side."""
    images = {}
    for view, pictures in enumerate(views):
        (folder / str(view)).mkdir(parents=True)
        for frame, picture in enumerate(pictures):
            path = folder / str(view) / f"{frame:04d}.png"
            cv2.imwrite(str(path), picture[..., ::-1])
            images[frame, view] = ImageFile(path)
    frames, count = max(map(len, views)), len(views)
    height, width = views[0][0].shape[:2]
    K = np.array([[200.0, 0, width / 2], [0, 200, height / 2], [0, 0, 1]])
    t = np.array([[0.2 * view, 0, 3.0] for view in range(count)])
    R = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
    if moving:
        R = np.broadcast_to(R, (frames, count, 3, 3)).copy()
        t = t + np.linspace(0, 1, frames)[:, None, None]
    return Capture(
        path=folder,
        format="drawn",
        views=tuple(View(str(view), width, height) for view in range(count)),
        frames=tuple(range(10, 10 + frames)),
        K=np.broadcast_to(K, (count, 3, 3)).copy(),
        R=R,
        t=t,
        time=np.zeros((frames, count)),
        images=images,
    )


def walk(count: int = 20) -> np.ndarray:
    return np.linspace(0, 1, count)


def filmed(behind, count: int = 20) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A walk before `behind(frame)`: noisy images and true masks."""
    both = [composite(position, behind(f)) for f, position in enumerate(walk(count))]
    return [noisy(picture, 100 + f) for f, (picture, _) in enumerate(both)], [m for _, m in both]


def estimate(capture: Capture, folder: Path, frames=None, **options) -> Capture:
    with ImageReader(capture, cache_bytes=1 << 20) as reader:
        return estimate_masks(
            capture,
            reader,
            folder,
            list(range(len(capture.views))),
            list(range(len(capture.frames))) if frames is None else frames,
            **options,
        )


def stored(capture: Capture, folder: Path, frame: int, view: int) -> np.ndarray:
    path = folder / capture.views[view].name / f"{capture.frames[frame]:06d}.png"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def scores(found: list[np.ndarray], truth: list[np.ndarray]) -> tuple[float, float, float]:
    """Intersection over union, precision and recall of all images together."""
    a, b = np.stack(found) == SUBJECT, np.stack(truth)
    both = (a & b).sum()
    return both / (a | b).sum(), both / max(a.sum(), 1), both / b.sum()


def test_plate_separates_a_walker_from_a_room(tmp_path):
    wall = room()
    images, truth = filmed(lambda f: wall)
    capture = write_capture(tmp_path / "in", [images])
    result = estimate(capture, tmp_path / "out", method="plate")
    found = [stored(capture, tmp_path / "out", f, 0) for f in range(20)]
    iou, precision, recall = scores(found, truth)
    # The figure is 22 px wide: an error of half a pixel along its rim costs 0.08.
    assert iou > 0.9 and precision > 0.93 and recall > 0.93
    assert set(result.masks) == {(f, 0) for f in range(20)}
    with ImageReader(result) as reader:
        assert (reader.mask(3, 0) == (found[3] > 127)).all()
    report = mask_reports(tmp_path / "out")["0"]
    assert report.method == "plate" and report.trustworthy and report.unknown < 0.02


def test_the_background_is_found_where_the_subject_stays_most_of_the_time():
    # Dark cloth of ever other colours hides every pixel in two of three images.
    wall, rng = room(), np.random.default_rng(5)
    images = np.stack([noisy(wall, f) for f in range(30)])
    blocks = (30, HEIGHT // 8, WIDTH // 8)
    hidden = rng.permuted(np.arange(30)[:, None, None] + np.zeros(blocks[1:]), axis=0) < 20
    hidden = hidden.repeat(8, axis=1).repeat(8, axis=2)
    cloth = rng.integers(0, 100, (*blocks, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images[hidden] = cloth[hidden]
    background = model_background(masks_module.Samples(np.arange(30), images))
    error = np.abs(background.color - wall).max(axis=2)
    median = np.abs(np.median(images, axis=0) - wall).max(axis=2)
    assert (error < 3 * NOISE).mean() > 0.98
    assert (median < 3 * NOISE).mean() < 0.5


def test_shadows_are_not_the_subject(tmp_path):
    wall = room()

    def shadowed(frame: int) -> np.ndarray:
        _, alpha = walker(walk()[frame])
        tilt = np.array([[1, -0.6, 62.0], [0, 0.3, 74.0]])  # the shadow lies to the right, flat
        shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, tilt, (WIDTH, HEIGHT)), (0, 0), 2)
        return wall * (1 - 0.35 * shadow[..., None])

    images, truth = filmed(shadowed)
    capture = write_capture(tmp_path / "in", [images])
    estimate(capture, tmp_path / "out", method="plate")
    found = [stored(capture, tmp_path / "out", f, 0) for f in range(20)]
    iou, precision, recall = scores(found, truth)
    assert iou > 0.85 and precision > 0.9 and recall > 0.9
    # Without the split into brightness and chromaticity the shadow is subject.
    plain = [np.abs(image - wall).max(axis=2) > 6 * NOISE for image in images]
    assert precision > scores([255 * p.astype(np.uint8) for p in plain], truth)[1] + 0.05


def test_drifting_light_is_followed(tmp_path):
    wall = room()
    x = np.linspace(0, 1, WIDTH)[None, :, None]

    def dimming(frame: int) -> np.ndarray:
        return wall * (1 - 0.35 * frame / 19 * (1 - 0.6 * x)) * np.array([1 + 0.004 * frame, 1, 1])

    images, truth = filmed(dimming)
    capture = write_capture(tmp_path / "in", [images])
    estimate(capture, tmp_path / "out", method="plate")
    found = [stored(capture, tmp_path / "out", f, 0) for f in range(20)]
    iou, precision, recall = scores(found, truth)
    assert iou > 0.85 and precision > 0.9 and recall > 0.9


def test_a_light_that_only_some_pixels_see_drifts_too():
    wall = room()
    images = []
    for f in range(30):
        changed = wall.copy()
        changed[:, :100] += 0.7 * f * np.sin(np.arange(100) / 7.0)[None, :, None]  # no gain
        images.append(noisy(changed, f))
    samples = masks_module.Samples(np.arange(30), np.stack(images))
    background = model_background(samples)
    assert background.drifts
    error = [np.abs(image - wall).mean() for image in (background.at(1), background.color)]
    assert error[0] < 0.6 * error[1]


def test_light_change_finds_the_gain_beside_a_large_subject():
    wall = room()
    image = wall * np.linspace(0.7, 0.9, WIDTH)[None, :, None]
    image[30:, 20:80] = (200, 40, 40)  # a third of the image
    gain = light_change(image, wall)
    seen = np.ones((HEIGHT, WIDTH), bool)
    seen[30:, 20:80] = False
    assert np.abs(gain * image / wall - 1)[seen].mean() < 0.02
    assert light_change(wall, wall) is None


@pytest.mark.parametrize("screen", [(50, 170, 60), (40, 70, 190)])
@pytest.mark.parametrize("moving", [False, True])
def test_screen_keys_a_subject_that_stands_still(tmp_path, screen, moving):
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    light = (0.7 + 0.3 * x * (1 - 0.4 * y))[..., None]
    color, alpha = walker(0.5)
    color = color.copy()
    color[39:75] = np.where(alpha[39:75, :, None] > 0, (190, 160, 70), 0) * alpha[39:75, :, None]
    spill = 0.15 * alpha[..., None] * np.array(screen) * light
    picture = color * 0.85 + spill + (1 - alpha[..., None]) * np.array(screen) * light
    images = [noisy(picture, f, 5.0) for f in range(6)]
    capture = write_capture(tmp_path / "in", [images], moving=moving)
    estimate(capture, tmp_path / "out")
    found = [stored(capture, tmp_path / "out", f, 0) for f in range(6)]
    iou, _, _ = scores(found, [alpha > 0.5] * 6)
    assert iou > 0.9  # noise of 5 levels, half a pixel of the rim is 0.08
    report = mask_reports(tmp_path / "out")["0"]
    assert report.method == ("green screen" if screen[1] > screen[2] else "blue screen")
    assert report.trustworthy


def test_what_stands_beside_the_screen_is_unknown(tmp_path):
    behind = np.empty((HEIGHT, WIDTH, 3))
    behind[:] = (50, 170, 60)
    behind[:, 130:] = (120, 110, 100)  # a wall that the screen does not cover
    pictures = [composite(0.6 * p, behind) for p in walk(8)]
    images = [noisy(picture, f) for f, (picture, _) in enumerate(pictures)]
    capture = write_capture(tmp_path / "in", [images])
    estimate(capture, tmp_path / "out")
    mask = stored(capture, tmp_path / "out", 0, 0)
    assert (mask[:, 134:] == UNKNOWN).mean() > 0.95
    assert scores([mask[:, :126]], [pictures[0][1][:, :126]])[0] > 0.9


def test_a_key_is_not_seen_in_a_room_or_a_lawn():
    images = np.stack([noisy(room(seed), seed) for seed in range(3)])
    assert find_key(images) is None
    rng = np.random.default_rng(0)
    lawn = np.stack([rng.uniform(30, 140, (3, 60, 80)), rng.uniform(100, 200, (3, 60, 80)),
                     rng.uniform(0, 110, (3, 60, 80))], axis=-1)  # fmt: skip
    assert find_key(lawn.astype(np.uint8)) is None
    samples = masks_module.Samples(np.arange(3), images)
    assert even_backdrop(samples) is None


def test_the_ball_over_black_is_found_without_motion(tmp_path):
    capture = open_capture(write_ball_capture(tmp_path / "in", cameras=8, frames=2))
    bare = replace(capture, masks={})
    estimated = estimate(bare, tmp_path / "out")
    with ImageReader(capture) as true, ImageReader(estimated) as found:
        pairs = [(found.mask(f, v), true.mask(f, v)) for f in range(2) for v in range(8)]
    iou = [(a & b).sum() / (a | b).sum() for a, b in pairs]
    assert min(iou) > 0.96  # the ball is 54 px wide: 0.04 is half a pixel of its rim
    for report in mask_reports(tmp_path / "out").values():
        assert report.method == "even backdrop" and report.trustworthy
        assert report.agreement > 0.75  # a hull of 8 cameras is more than a ball


def ball_rig(size: int = 96, cameras: int = 10):
    return [
        ring_camera(2 * np.pi * i / cameras, 0.8 if i % 2 else -0.5, size) for i in range(cameras)
    ]


def test_other_views_take_ghosts_away_and_fill_holes():
    cameras = ball_rig()
    truth = [ball_picture(camera, 0)[1] for camera in cameras]
    graded = [np.where(mask, SUBJECT, BACKGROUND).astype(np.uint8) for mask in truth]
    graded[2][4:16, 4:16] = SUBJECT  # a ghost
    graded[5][40:52, 40:52] = PERHAPS_BACKGROUND  # a hole that was in doubt
    result = agree(cameras, graded)
    assert not result.masks[2][4:16, 4:16].any()
    assert (result.masks[5][40:52, 40:52] == SUBJECT).all()
    for mask, true in zip(result.masks, truth, strict=True):
        assert scores([mask], [true])[0] > 0.98
    assert all(value > 0.7 for value in result.agreement)  # voxels of 2.5 px, a ball of 54


def test_a_view_that_contradicts_the_others_is_unknown_not_wrong():
    cameras = ball_rig()
    truth = [ball_picture(camera, 0)[1] for camera in cameras]
    graded = [np.where(mask, SUBJECT, BACKGROUND).astype(np.uint8) for mask in truth]
    graded[4][:, 40:] = BACKGROUND  # half of the ball was taken for background, with certainty
    result = agree(cameras, graded)
    lost = truth[4].copy()
    lost[:, :40] = False
    assert (result.masks[4][lost] == UNKNOWN).mean() > 0.95
    assert result.agreement[4] < min(a for i, a in enumerate(result.agreement) if i != 4)
    nothing = [np.full(mask.shape, UNKNOWN, np.uint8) for mask in graded]
    assert all((mask == UNKNOWN).all() for mask in agree(cameras, nothing).masks)


def test_unknown_parts_that_look_like_the_subject_are_claimed():
    picture, true = composite(0.5, np.full((HEIGHT, WIDTH, 3), 200.0))
    mask = np.where(true, SUBJECT, BACKGROUND).astype(np.uint8)
    mask[41:70, 60:100] = UNKNOWN  # most of the body and some of the wall
    mask[41:70, 68:74][true[41:70, 68:74]] = SUBJECT  # some stripes are certain
    claimed = claim_unknown(mask, noisy(picture, 0))
    assert scores([claimed], [true])[0] > 0.95
    assert (claimed[41:70, 95:100] == UNKNOWN).all()  # the rest stays in doubt
    nothing = np.full_like(mask, UNKNOWN)
    assert (claim_unknown(nothing, noisy(picture, 0)) == UNKNOWN).all()


def test_a_moving_camera_without_a_screen_is_an_error(tmp_path):
    capture = write_capture(tmp_path / "in", [filmed(lambda f: room(f))[0]], moving=True)
    with pytest.raises(ReconstructionError, match="camera moves"):
        estimate(capture, tmp_path / "out")


def test_a_subject_that_never_moves_is_an_error(tmp_path):
    wall = room()
    images = [noisy(composite(0.5, wall)[0], f) for f in range(12)]
    with pytest.raises(ReconstructionError, match="nothing moves"):
        estimate(write_capture(tmp_path / "in", [images]), tmp_path / "out")


@pytest.mark.parametrize("kind", ["shaken", "snow", "short"])
def test_no_garbage_from_images_that_have_no_background(tmp_path, kind):
    rng = np.random.default_rng(3)
    wall = room()
    if kind == "shaken":
        images = [noisy(np.roll(wall, rng.integers(-60, 60, 2), (0, 1)), f) for f in range(12)]
    elif kind == "snow":
        images = [rng.integers(0, 256, wall.shape).astype(np.uint8) for _ in range(12)]
    else:
        images = filmed(lambda f: wall)[0][:3]
    capture = write_capture(tmp_path / "in", [images])
    with pytest.raises(ReconstructionError):
        estimate(capture, tmp_path / "out")
    assert not list((tmp_path / "out").glob("0/*.png"))


def test_bad_arguments_are_errors(tmp_path):
    wall = room()
    capture = write_capture(tmp_path / "in", [filmed(lambda f: wall)[0]])
    with pytest.raises(ReconstructionError, match="no way to make masks"):
        estimate(capture, tmp_path / "out", method="magic")
    with pytest.raises(ReconstructionError, match="neither a green or blue screen"):
        estimate(capture, tmp_path / "chroma", method="chroma")
    estimate(capture, tmp_path / "out", method="plate", frames=[0])
    with pytest.raises(ReconstructionError, match="method 'plate'"):
        estimate(capture, tmp_path / "out", method="auto", frames=[0])
    (tmp_path / "out" / "masks.json").write_text("{")
    with pytest.raises(ReconstructionError, match="cannot be read"):
        estimate(capture, tmp_path / "out", method="plate", frames=[0])


def test_one_blind_view_is_unknown_and_the_others_go_on(tmp_path):
    wall = room()
    blind = [noisy(wall, 500 + f) for f in range(20)]
    images, truth = filmed(lambda f: wall)
    capture = write_capture(tmp_path / "in", [images, blind])
    result = estimate(capture, tmp_path / "out", frames=[0, 10])
    assert set(result.masks) == {(0, 0), (10, 0)}
    assert (stored(capture, tmp_path / "out", 0, 1) == UNKNOWN).all()
    assert scores([stored(capture, tmp_path / "out", 0, 0)], truth[:1])[0] > 0.9
    reports = mask_reports(tmp_path / "out")
    assert not reports["1"].trustworthy and reports["1"].unknown == 1
    assert "nothing moves" in reports["1"].reason and reports["0"].trustworthy


def test_gaps_and_damaged_files_are_left_out(tmp_path):
    wall = room()
    capture = write_capture(tmp_path / "in", [filmed(lambda f: wall)[0]])
    capture.images[7, 0].path.write_bytes(b"no image")
    images = {key: file for key, file in capture.images.items() if key != (3, 0)}
    result = estimate(replace(capture, images=images), tmp_path / "out")
    assert set(result.masks) == {(f, 0) for f in range(20) if f not in (3, 7)}


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_masks(tmp_path):
    wall = room()
    images = filmed(lambda f: wall)[0]
    capture = write_capture(tmp_path / "in", [images, images[::-1]])
    estimate(capture, tmp_path / "whole")

    for limit in (5, 27, 50):  # in the first view, in the second, among the comparisons

        def stop(progress, limit=limit):
            if progress.step >= limit:
                raise Stop

        with pytest.raises(Stop):
            estimate(capture, tmp_path / "parts", progress=stop)
    result = estimate(capture, tmp_path / "parts")
    assert len(result.masks) == 40
    for path in sorted((tmp_path / "whole").rglob("*.png")):
        other = tmp_path / "parts" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes()
    # What is there is not made again, nor anything left behind.
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").rglob("*.png")}
    estimate(capture, tmp_path / "parts")
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").rglob("*.png")}
    assert not list((tmp_path / "parts").glob("**/*.part"))
    assert not (tmp_path / "parts" / ".graded").exists()


def test_a_failed_write_leaves_no_half_mask(tmp_path, monkeypatch):
    wall = room()
    capture = write_capture(tmp_path / "in", [filmed(lambda f: wall)[0]])
    written = []

    def full(path, data):
        if len(written) == 4:
            raise OutputError("cannot write (no space)", where=path)
        written.append(path)
        return real(path, data)

    real = masks_module.write_bytes
    monkeypatch.setattr(masks_module, "write_bytes", full)
    with pytest.raises(OutputError):
        estimate(capture, tmp_path / "out")
    monkeypatch.undo()
    assert len(estimate(capture, tmp_path / "out").masks) == 20


def test_memory_does_not_grow_with_the_length_of_the_clip(tmp_path):
    wall = room()
    images = filmed(lambda f: wall, 120)[0]
    peaks = []
    for count in (40, 120):
        capture = write_capture(tmp_path / f"in{count}", [images[:: 120 // count]] * 2)
        tracemalloc.start()
        estimate(capture, tmp_path / f"out{count}", frames=list(range(0, count, count // 20)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 120 more images would be 7 MB; the samples, at most 24 of one view, are 1.4.
    assert peaks[1] < peaks[0] + (1 << 20)


def test_samples_fit_into_the_memory_they_may_take(tmp_path):
    wall = room()
    capture = write_capture(tmp_path / "in", [filmed(lambda f: wall)[0]])
    with ImageReader(capture) as reader:
        samples = read_samples(capture, reader, 0, max_bytes=7 * WIDTH * HEIGHT * 3)
    assert list(samples.frames) == [0, 3, 6, 10, 13, 16, 19]


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_masks_of_a_bent_view_fit_its_stored_image(tmp_path, lens):
    wall = room()
    images, _ = filmed(lambda f: wall)
    capture = write_capture(tmp_path / "in", [images])
    bent = (-0.2, 0.05, 0.001, 0.0) if lens == "pinhole" else (0.05, 0.01, 0.0, 0.0)
    view = replace(capture.views[0], distortion=bent, lens=lens)
    capture = replace(capture, views=(view,))
    result = estimate(capture, tmp_path / "out", frames=[4, 12])
    with ImageReader(result) as reader:
        for frame in (4, 12):
            # The stored images are what `filmed` drew, so its masks are the stored truth.
            truth = composite(walk()[frame], wall)[1]
            mask = stored(capture, tmp_path / "out", frame, 0)
            seen = mask != UNKNOWN
            both = ((mask == SUBJECT) & truth & seen).sum()
            assert both / (((mask == SUBJECT) | truth) & seen).sum() > 0.85
            assert reader.mask(frame, 0).any()


def test_guided_filter_keeps_a_constant_and_follows_edges():
    guide = np.zeros((40, 40), np.float32)
    guide[:, 20:] = 1
    assert np.allclose(guided_filter(guide, np.full_like(guide, 0.3), 3, 1e-3), 0.3, atol=1e-5)
    rough = guide + np.random.default_rng(0).normal(0, 0.2, guide.shape).astype(np.float32)
    smooth = guided_filter(guide, rough, 3, 1e-3)
    assert np.abs(smooth - guide).max() < 0.25 and np.abs(smooth - guide).mean() < 0.05


def test_the_gap_between_arm_and_body_is_no_hole():
    subject = np.zeros((100, 100), bool)
    subject[20:80, 20:80] = True
    subject[40:60, 40:60] = False
    background = np.where(subject, 1, 0).astype(np.float32)
    assert not fill_holes(subject, background)[50, 50]
    assert fill_holes(subject, np.where(subject, 1, 0.4).astype(np.float32))[50, 50]


def test_likelihood_tells_shadow_dark_cloth_and_noise_apart():
    wall = np.full((60, 60, 3), (150.0, 140.0, 130.0), np.float32)
    noise = np.full((60, 60), 2.0, np.float32)
    image = wall.copy()
    image[:20] *= 0.7  # a shadow
    image[40:] = (60, 40, 30)  # dark cloth
    likelihood = foreground_likelihood(noisy(image, 0, 2.0), wall, noise)
    assert (likelihood[3:17] > 0.5).mean() < 0.01
    assert (likelihood[24:36] > 0.1).mean() < 0.01
    assert (likelihood[43:] > 0.9).mean() > 0.99
