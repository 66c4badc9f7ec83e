"""Encoding a video: training pays, targets are kept, groups resume, sizes may be odd."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.render.window import Window
from peel4d.engine.train import video_encode
from peel4d.engine.train.metrics import psnr
from peel4d.engine.train.run import training_device
from peel4d.engine.train.video_benchmark import measure_video, table
from peel4d.engine.train.video_density import energy, newborn, strongest
from peel4d.engine.train.video_encode import EncodeSettings, encode
from peel4d.engine.train.video_gop import GopSettings, _rate, gop_psnr, train_gop
from peel4d.engine.video2d.gaussians import draw_linear
from peel4d.engine.video2d.gop import Gop
from peel4d.engine.video2d.gop_codec import Steps, decode_gop, encode_gop
from peel4d.engine.video2d.initialize import gaussians_of
from peel4d.engine.video2d.source import open_source
from peel4d.engine.video2d.video import VideoReader


def movie(frames: int, width: int = 72, height: int = 56) -> list[np.ndarray]:
    """A soft background with a disk that moves and brightens."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    result = []
    for i in range(frames):
        base = np.stack([60 + x, 120 + 40 * np.sin(y / 9), 90 + 30 * np.cos((x + y) / 11)], axis=2)
        inside = (x - 20 - 3 * i) ** 2 + (y - 26) ** 2 < 110
        base[inside] = (230 - 6 * i, 60, 40 + 8 * i)
        result.append(np.clip(base, 0, 255).astype(np.uint8))
    return result


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "frames", movie(9))


def write(folder: Path, frames: list[np.ndarray]) -> Path:
    import cv2

    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame[..., ::-1])
    return folder


def quick(**values) -> EncodeSettings:
    training = GopSettings(steps=values.pop("steps", 120))
    return EncodeSettings(
        gop=4, gaussians=values.pop("gaussians", 250), training=training, **values
    )


def test_start_covers_the_picture_and_is_dense_where_detail_is():
    picture = movie(1)[0]
    gop = gaussians_of(picture, 400, seed=0, frames=4)
    assert len(gop) == 400 and gop.frames == 4
    assert (gop.position >= 0).all() and (gop.position <= [72, 56]).all()
    flat = np.hypot(*(gop.position - [60, 26]).T) < 8
    edge = np.abs(np.hypot(*(gop.position - [20, 26]).T) - math.sqrt(110)) < 2
    density = edge.sum() / (2 * math.pi * math.sqrt(110) * 4), flat.sum() / (math.pi * 64)
    assert density[0] > 2 * density[1]
    again = gaussians_of(picture, 400, seed=0, frames=4)
    assert np.array_equal(again.position, gop.position)


def test_training_pays_and_motion_is_found():
    frames = movie(6)
    still, _ = train_gop(frames, GopSettings(gaussians=400, steps=300, motion=0, shade=0), Steps())
    moved, report = train_gop(frames, GopSettings(gaussians=400, steps=300), Steps())
    start = np.mean(gop_psnr(gaussians_of(frames[3], 400, 0, 6), frames))
    scores = [float(np.mean(gop_psnr(gop, frames))) for gop in (still, moved)]
    assert scores[0] > start + 3
    assert scores[1] > scores[0] + 3
    assert report.steps == 300 and report.started_with == 400


def test_training_is_repeatable():
    frames = movie(3)
    recipe = GopSettings(gaussians=150, steps=40, prune=0.2)
    one, two = (train_gop(frames, recipe, Steps(), threads=n)[0] for n in (1, 3))
    assert np.array_equal(one.position, two.position) and np.array_equal(one.color, two.color)


def test_positions_and_shapes_end_on_their_lattices():
    gop, _ = train_gop(movie(3), GopSettings(gaussians=100, steps=40), Steps())
    steps = gop.position / Steps().position
    assert np.abs(steps - np.rint(steps)).max() < 1e-2
    steps = gop.log_scale / Steps().scale
    assert np.abs(steps - np.rint(steps)).max() < 1e-2


def test_coding_costs_little():
    frames = movie(5)
    steps = Steps().scaled(0.7)
    gop, _ = train_gop(frames, GopSettings(gaussians=300, steps=300), steps)
    decoded = decode_gop(encode_gop(gop, steps), "test")
    before, after = (np.mean(gop_psnr(g, frames)) for g in (gop, decoded))
    assert after > before - 0.6  # the steps are made for 34 dB, this is 36


def test_pruning_leaves_out_what_shows_least():
    frames = movie(4)
    recipe = GopSettings(gaussians=600, steps=150)
    whole, _ = train_gop(frames, recipe, Steps())
    pruned, report = train_gop(frames, replace(recipe, prune=0.3), Steps())
    assert len(whole) == 600 and report.started_with == 600 and len(pruned) == 420
    # Far more than leaving the same number out at the end, with nothing to make up for it.
    kept = strongest(energy(whole), 420)
    cut = Gop(
        whole.frames, whole.width, whole.height,
        *(getattr(whole, name)[kept] for name in ("position", "log_scale", "shear", "color")),
        whole.motion[:, kept], whole.shade[:, kept],
    )  # fmt: skip
    scores = [np.mean(gop_psnr(gop, frames)) for gop in (whole, pruned, cut)]
    assert scores[1] > scores[0] - 4 and scores[1] > scores[2] + 1
    # Of a group that starts from a pruned one nothing more goes.
    recipe = replace(recipe, prune=0.3, steps=20)
    after, report = train_gop(frames[::-1], recipe, Steps(), before=pruned)
    assert report.started_with == len(after) == 420


def test_energy_is_what_the_error_grows_by():
    truth = gaussians_of(movie(1)[0], 200, seed=0)
    truth = replace(truth, shear=np.full(200, 0.4, np.float32))
    window, found = Window(0, 0, 72, 56), energy(truth)
    picture = draw_linear(truth.at(0), window)
    margin = 4 * np.exp(truth.log_scale)
    inside = (truth.position > margin) & (truth.position < [72, 56] - margin)
    some = np.flatnonzero(inside.all(axis=1) & (truth.log_scale > 0).all(axis=1))[:10]
    assert len(some) == 10
    for index in some:
        color = truth.color.copy()
        color[index] = 0
        without = draw_linear(replace(truth, color=color).at(0), window)
        assert np.square(picture - without).sum() == pytest.approx(found[index], rel=0.05)
    away = replace(truth, position=truth.position + [500, 0])
    assert (energy(away) == 0).all()


def test_new_gaussians_are_born_where_the_error_is_and_move_with_their_neighbours():
    frames = movie(5)
    gop, _ = train_gop(frames, GopSettings(gaussians=300, steps=150), Steps())
    moving = replace(gop, motion=np.ones_like(gop.motion) * np.float32([[[3, -2]]]))
    target = np.clip(draw_linear(moving.at(4), Window(0, 0, 72, 56)) * 255, 0, 255)
    target = target.round().astype(np.uint8)
    target[10:20, 50:60] = 255 - target[10:20, 50:60]
    random = np.random.default_rng(0)
    new = newborn(moving, 4, target, 40, random, draw_linear)
    born = replace(moving, **new)
    assert len(born) == 40 and all(array.dtype == np.float32 for array in new.values())
    assert np.allclose(born.motion, [3, -2], atol=0.3)
    x, y = born.at(4).position.T
    inside = (x > 48) & (x < 62) & (y > 8) & (y < 22)
    assert inside.mean() > 0.9


def test_nothing_is_born_where_nothing_is_wrong():
    black = np.zeros((8, 8, 3), np.uint8)
    gop = train_gop([black] * 2, GopSettings(gaussians=16, steps=5), Steps())[0]
    still = replace(gop, color=0 * gop.color, shade=0 * gop.shade)
    new = newborn(still, 0, black, 4, np.random.default_rng(0), draw_linear)
    assert {len(new[name]) for name in ("position", "log_scale", "shear", "color")} == {0}


def test_pruning_leaves_one():
    frames = movie(2)
    gop, _ = train_gop(frames, GopSettings(gaussians=20, steps=40, prune=0.99), Steps())
    assert len(gop) == 1


def test_rates_fall_with_the_length_of_the_schedule():
    assert _rate(0.0, 600) == _rate(0.0, 3000) == 1
    assert _rate(0.0, 48_000) == pytest.approx(0.5) and _rate(0.5, 48_000) == pytest.approx(0.25)
    assert _rate(1.0, 600) == pytest.approx(0.01)


def test_a_schedule_by_the_clock_ends_in_time():
    frames = movie(4)
    train_gop(frames, GopSettings(gaussians=200, steps=1), Steps())  # libraries load
    recipe = GopSettings(gaussians=200, steps=1 << 30, seconds=1.5)
    gop, report = train_gop(frames, recipe, Steps())
    assert 1.5 <= report.seconds < 10 and report.steps > 20
    start = np.mean(gop_psnr(gaussians_of(frames[2], 200, 0, 4), frames))
    assert np.mean(gop_psnr(gop, frames)) > start + 3


def test_a_group_begins_where_the_last_one_ended():
    frames = movie(8)
    recipe = GopSettings(gaussians=300, steps=150)
    first, _ = train_gop(frames[:4], recipe, Steps())
    short = replace(recipe, steps=25)
    alone, _ = train_gop(frames[4:], short, Steps())
    after, _ = train_gop(frames[4:], short, Steps(), before=first)
    scores = [np.mean(gop_psnr(gop, frames[4:])) for gop in (alone, after)]
    assert scores[1] > scores[0] + 0.5
    # After a cut it begins anew.
    dark = [255 - frame for frame in frames[4:]]
    cut, _ = train_gop(dark, short, Steps(), before=first)
    fresh, _ = train_gop(dark, short, Steps())
    assert np.array_equal(cut.position, fresh.position)


def test_a_file_holds_what_encode_reports(folder, tmp_path):
    source = open_source(folder)
    result = encode(source, tmp_path / "out.g2v", quick(), jobs=1)
    assert [frames for frames, _ in result.info.gops] == [4, 4, 1]
    assert result.nbytes == (tmp_path / "out.g2v").stat().st_size
    with VideoReader(tmp_path / "out.g2v") as reader:
        for index, truth in enumerate(movie(9)):
            score = psnr(reader.frame(index) / 255, truth / 255)
            assert score == pytest.approx(result.psnr[index], abs=1e-3)
            assert score > 24
        assert reader.info.provenance["gaussians"] == 250
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "out.g2v"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 7), (33, 2)])
def test_odd_sizes_and_one_frame(tmp_path, width, height):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    source = open_source(write(tmp_path / "frames", [truth]))
    encode(source, tmp_path / "out.g2v", EncodeSettings(training=GopSettings(steps=150)))
    with VideoReader(tmp_path / "out.g2v") as reader:
        assert reader.info.frame_count == 1
        picture = reader.frame(0)
        assert picture.shape == truth.shape
        mean = np.full(truth.shape, truth.mean(axis=(0, 1)))
        assert np.mean((picture - truth.astype(float)) ** 2) <= np.mean((mean - truth) ** 2) + 9


def test_a_size_is_a_promise(folder, tmp_path):
    source = open_source(folder)
    sizes = []
    for target in (7000, 16_000):
        result = encode(source, tmp_path / "out.g2v", quick(target_bytes=target), jobs=1)
        assert result.nbytes <= target
        sizes.append(result.nbytes)
    assert sizes[1] > 12_000  # what may be taken is taken
    with pytest.raises(ReconstructionError, match="no room"):
        encode(source, tmp_path / "none.g2v", quick(target_bytes=1200), jobs=1)
    assert not (tmp_path / "none.g2v").exists()


def test_a_target_psnr_is_just_met(folder, tmp_path):
    source = open_source(folder)
    free = encode(source, tmp_path / "free.g2v", quick(), jobs=1)
    target = min(gop["psnr_before_coding"] for gop in free.gops) - 1.5
    result = encode(source, tmp_path / "out.g2v", quick(target_psnr=target), jobs=1)
    for gop in result.gops:
        assert np.mean(gop["psnr"]) >= target
    assert result.nbytes < free.nbytes
    with pytest.raises(ReconstructionError, match="was trained to"):
        encode(source, tmp_path / "none.g2v", quick(target_psnr=90), jobs=1)
    assert not (tmp_path / "none.g2v").exists()


def test_finished_groups_are_not_trained_again(folder, tmp_path, monkeypatch):
    source = open_source(folder)
    whole = encode(source, tmp_path / "whole.g2v", quick(), jobs=1)
    trained = []
    original = video_encode.train_gop

    def fails_at_second(frames, *arguments, **options):
        if len(trained) == 1:
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(len(frames))
        return original(frames, *arguments, **options)

    monkeypatch.setattr(video_encode, "train_gop", fails_at_second)
    output = tmp_path / "out.g2v"
    with pytest.raises(KeyboardInterrupt):
        encode(source, output, quick(), jobs=1)
    assert not output.exists() and trained == [4, "stopped"]
    encode(source, output, quick(), jobs=1, resume=True)
    assert trained == [4, "stopped", 4, 1]
    with VideoReader(output) as resumed, VideoReader(tmp_path / "whole.g2v") as reader:
        for index in range(whole.info.frame_count):
            assert np.array_equal(resumed.frame(index), reader.frame(index))
    # Other settings are another job: nothing of the old one is taken.
    trained[:] = [0, 0]
    encode(source, output, quick(seed=5), jobs=1, resume=True)
    assert trained == [0, 0, 4, 4, 1]


def test_the_file_is_the_same_with_any_number_of_jobs(folder, tmp_path):
    source = open_source(folder)  # three groups: two one after the other, and one
    for jobs in (1, 3):
        encode(source, tmp_path / f"{jobs}.g2v", quick(), jobs=jobs)
    one, three = ((tmp_path / f"{jobs}.g2v").read_bytes() for jobs in (1, 3))
    assert one == three


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "peel4d.engine.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_command_line(folder, tmp_path):
    output = tmp_path / "out.g2v"
    done = command(
        "video", "encode", folder, "-o", output, "--gop", 5, "--gaussians", 200, "--steps", 60,
        "--jobs", 2, "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout)
    assert words["frames"] == 9 and words["bytes"] == output.stat().st_size
    assert len(words["gops"]) == 2 and words["psnr"] > 20 and words["device"] == "cpu"
    info = json.loads(command("video", "info", output, "--json").stdout)
    assert (info["width"], info["height"], info["frames"]) == (72, 56, 9)
    assert "2 groups" in command("video", "info", output).stdout
    decoded = command(
        "video", "decode", output, "-o", tmp_path / "d", "--frames", "7:", "--size", "36x28"
    )
    assert decoded.returncode == 0, decoded.stderr
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["000007.png", "000008.png"]
    for arguments in (
        ("video", "decode", output, "-o", tmp_path / "d", "--frames", "50:60"),
        ("video", "encode", tmp_path / "absent.mp4", "-o", output),
        ("video", "info", folder / "000.png"),
        ("video", "encode", folder, "-o", output, "--gop", "1000"),
    ):
        failed = command(*arguments)
        assert failed.returncode == 2, arguments
        assert failed.stderr.count("\n") == 1 and failed.stderr.startswith("peel4d: ")


@pytest.mark.skipif(training_device("auto").type != "cpu", reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(folder, tmp_path):
    source = open_source(folder)
    with pytest.raises(ReconstructionError, match="cannot train on a GPU"):
        encode(source, tmp_path / "none.g2v", quick(), device="cuda")
    assert not (tmp_path / "none.g2v").exists()
    failed = command("video", "encode", folder, "-o", tmp_path / "o.g2v", "--device", "cuda")
    assert failed.returncode == 2 and "cannot train on a GPU" in failed.stderr
    encode(source, tmp_path / "out.g2v", quick(steps=5), jobs=1)
    failed = command(
        "video", "decode", tmp_path / "out.g2v", "-o", tmp_path / "d", "--backend", "cuda"
    )
    assert failed.returncode == 2 and "no CUDA here" in failed.stderr


def test_benchmark_scores_all_codecs_on_the_same_frames(tmp_path):
    source = open_source(write(tmp_path / "frames", movie(4)))
    scheduling = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    result = measure_video(source, quick(steps=60), jobs=1)
    if scheduling is not None:  # SVT-AV1 would leave a real-time process behind
        assert os.sched_getscheduler(0) == scheduling
    names = {row["codec"] for row in result["rows"]} | {row["codec"] for row in result["skipped"]}
    assert names == {"gaussian2d", "hevc", "av1"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    ours = [row for row in result["rows"] if row["codec"] == "gaussian2d"]
    assert [row["quality"] for row in ours] == [250, 125, 62]
    assert ours[0]["bytes"] > ours[-1]["bytes"] and ours[0]["psnr"] > ours[-1]["psnr"]
    for row in result["rows"]:
        assert row["psnr"] > 15 and 0 < row["ssim"] <= 1 and row["decode_fps"] > 0
    assert "gaussian2d" in table(result)
