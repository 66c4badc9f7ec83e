"""The command line as a person uses it: whole runs, and every kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ball import write_ball_capture

from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.splats import Splats

QUICK = ("--preset", "draft", "--steps", "25")


def peel4d(*arguments: object, environment: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "peel4d.engine.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(environment or {})},
    )


def fails(result: subprocess.CompletedProcess, *words: str) -> None:
    """The command failed with a message that holds these words, on one line, no traceback."""
    assert result.returncode not in (0, 1), result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("peel4d: ")]
    assert lines, result.stderr
    for word in words:
        assert word in lines[-1], lines[-1]


@pytest.fixture(scope="module")
def reconstruction(ball_capture, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "ball"
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--json")
    assert result.returncode == 0, result.stderr
    (folder / "log.jsonl").write_text(result.stdout)
    return folder


def test_reconstruct_reports_json_lines(reconstruction):
    events = [json.loads(line) for line in (reconstruction / "log.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "started" and events[-1]["event"] == "done"
    progress = [event for event in events if event["event"] == "progress"]
    assert {"camera colour", "frames"} <= {event["stage"] for event in progress}
    assert all(0 <= event["step"] <= event["total"] for event in progress)
    assert sum("test_psnr" in event["metrics"] for event in progress) == 3  # once a frame
    done = events[-1]
    assert done["frames"] == 3 and done["points_per_frame"] > 100
    assert done["peak_memory_bytes"] > 10 << 20
    assert done["scores"]["final_mask"]["psnr"] > done["scores"]["initial_mask"]["psnr"]


def test_evaluate_json_has_the_documented_form(reconstruction):
    result = peel4d("evaluate", reconstruction, "--region", "mask", "--json")
    value = json.loads(result.stdout)
    assert value["region"] == "mask" and value["camera_color"] == "mean"
    measures = {"psnr", "ssim", "lpips", "flip", "gradient_energy", "gradient_correlation"}
    assert {"view", "frame"} | measures == set(value["views"][0])
    assert measures == set(value["mean"])
    assert 0.5 < value["mean"]["gradient_energy"] < 1.2
    assert 0.5 < value["mean"]["gradient_correlation"] < 1
    assert len(value["views"]) == 3 and {row["view"] for row in value["views"]} == {"09"}
    mean = np.mean([row["psnr"] for row in value["views"]])
    assert value["mean"]["psnr"] == pytest.approx(mean)
    assert value["mean"]["psnr"] > 20


def test_evaluate_writes_pictures(reconstruction, tmp_path):
    result = peel4d("evaluate", reconstruction, "--views", "09", "--pictures", tmp_path / "p")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "p").glob("09_*.png"))) == 3
    assert "SSIM" in result.stdout and "gradient energy" in result.stdout


def test_a_curve_shows_what_time_buys(ball_capture, tmp_path):
    steps = ("--preset", "draft", "--steps", "120", "--frames", "0:1")
    assert peel4d("reconstruct", ball_capture, "-o", tmp_path / "r", *steps).returncode == 0
    result = peel4d("evaluate", tmp_path / "r", "--curve", "--region", "mask", "--json")
    assert result.returncode == 0, result.stderr
    curve = json.loads(result.stdout)
    assert curve["frame"] == 0 and curve["region"] == "mask"
    assert [row["steps"] for row in curve["rows"]] == [0, 25, 50, 100, 120]
    assert curve["rows"][-1]["psnr"] > curve["rows"][0]["psnr"] + 1
    assert all(row["seconds"] > 0 for row in curve["rows"])
    text = peel4d("evaluate", tmp_path / "r", "--curve", "--region", "mask").stdout
    assert len(text.splitlines()) == 7 and "seconds" in text


def test_a_time_budget_is_kept(ball_capture, tmp_path):
    output = tmp_path / "r"
    budget = ("--steps", "200000", "--time-budget", "12s", "--jobs", "2", "--json")
    result = peel4d("reconstruct", ball_capture, "-o", output, *budget)
    assert result.returncode == 0, result.stderr
    done = json.loads(result.stdout.splitlines()[-1])
    # Without the budget it would be hours.
    assert done["seconds"] < 60 and done["jobs"] == 2
    assert done["scores"]["final_mask"]["psnr"] > done["scores"]["initial_mask"]["psnr"]
    result = peel4d("reconstruct", ball_capture, "-o", output, "--time-budget", "soon")
    assert result.returncode == 2 and "'soon' is no time; write 90, 5m or 1h" in result.stderr


def test_evaluate_unknown_view(reconstruction):
    fails(peel4d("evaluate", reconstruction, "--views", "nobody"), "nobody", "09")


def test_a_finished_reconstruction_is_not_overwritten(reconstruction, ball_capture):
    before = (reconstruction / "clip.p4d").read_bytes()
    fails(peel4d("reconstruct", ball_capture, "-o", reconstruction, *QUICK), "--resume")
    fails(
        peel4d("reconstruct", ball_capture, "-o", reconstruction, "--resume", "--steps", "9"),
        "other",
        "settings",
    )
    assert (reconstruction / "clip.p4d").read_bytes() == before


def test_resume_trains_what_is_missing_and_nothing_else(reconstruction, ball_capture, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(reconstruction, folder)
    frames = sorted((folder / "frames").iterdir())
    untouched = frames[0].stat().st_mtime_ns
    frames[1].unlink()
    (folder / "clip.p4d").unlink()
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--resume", "--json")
    assert result.returncode == 0, result.stderr
    assert frames[1].is_file() and frames[0].stat().st_mtime_ns == untouched
    scores = [
        json.loads(peel4d("evaluate", path, "--region", "mask", "--json").stdout)["mean"]["psnr"]
        for path in (reconstruction, folder)
    ]
    assert abs(scores[0] - scores[1]) <= 0.05


def test_a_killed_run_resumes(reconstruction, ball_capture, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "peel4d.engine.cli.main", "reconstruct", str(ball_capture)]
        + ["-o", str(folder), *QUICK, "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        event = json.loads(line)
        if event.get("stage") == "frames" and event["step"] > 1200:
            process.kill()
            break
    process.wait()
    assert not (folder / "clip.p4d").exists()
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--resume")
    assert result.returncode == 0, result.stderr
    scores = [
        json.loads(peel4d("evaluate", path, "--region", "mask", "--json").stdout)["mean"]["psnr"]
        for path in (reconstruction, folder)
    ]
    assert abs(scores[0] - scores[1]) <= 0.05


def test_a_changed_capture_is_not_mixed_into_what_was_made_before(ball_capture, tmp_path):
    folder, out = spoiled(ball_capture, tmp_path / "c"), tmp_path / "out"
    assert peel4d("reconstruct", folder, "-o", out, *QUICK).returncode == 0
    shutil.copy(folder / "masks/03/000000.png", folder / "masks/03/000001.png")
    fails(peel4d("reconstruct", folder, "-o", out, *QUICK, "--resume"), "capture has changed")
    for kind in ("images", "masks"):
        for file in (folder / kind).glob("*/000002.png"):
            file.unlink()
    fails(peel4d("evaluate", out), "frame 2")


def test_field_model_trains(ball_capture, tmp_path):
    folder = tmp_path / "field"
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--model", "field", "--json")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout.splitlines()[-1])["scores"]
    assert scores["final_mask"]["psnr"] > scores["initial_mask"]["psnr"]


def test_render_png_and_movie(reconstruction, tmp_path):
    import av
    import cv2

    clip = reconstruction / "clip.p4d"
    result = peel4d("render", clip, "--view", "09", "--frame", "1", "-o", tmp_path / "a.png")
    assert result.returncode == 0, result.stderr
    picture = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (96, 96, 4)
    assert picture[48, 48, 3] > 200 and picture[0, 0, 3] == 0
    window = ("--crop", "30", "40", "50", "20")
    frame = ("--view", "09", "--frame", "1", "--backend", "cpu")
    result = peel4d("render", clip, *frame, *window, "-o", tmp_path / "b.png")
    assert result.returncode == 0, result.stderr
    cropped = cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(cropped.astype(int) - picture[40:60, 30:80]).max() <= 1
    result = peel4d("render", clip, *frame, "--samples", "4", "-o", tmp_path / "c.png")
    smooth = cv2.imread(str(tmp_path / "c.png"), cv2.IMREAD_UNCHANGED)
    assert smooth.shape == picture.shape
    assert 0 < np.abs(smooth.astype(int) - picture).mean() < 6
    result = peel4d(
        "render", clip, clip, "-o", tmp_path / "a.mp4", "--count", "5", "--size", "64x48", "--json"
    )
    assert json.loads(result.stdout)["pictures"] == 5
    with av.open(str(tmp_path / "a.mp4")) as movie:
        frames = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (48, 64, 3)
    assert frames[0].max() > 60


def test_render_leaves_the_background_out(reconstruction, tmp_path):
    import cv2

    clip = tmp_path / "room.p4d"
    with ClipReader(reconstruction / "clip.p4d") as reader:
        ball, cameras = reader.frame(0), reader.info.cameras
    around = ball.position / np.linalg.norm(ball.position, axis=1, keepdims=True)
    room = Splats(9 * around, np.full(len(ball), 2.0), np.ones(len(ball)), ball.sh)
    write_clip(clip, [ball], fps=24, cameras=cameras, static=room)
    for options, corner in (((), 255), (("--no-background",), 0)):
        result = peel4d("render", clip, "--view", "09", *options, "-o", tmp_path / "a.png")
        assert result.returncode == 0, result.stderr
        alpha = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[..., 3]
        assert abs(int(alpha[0, 0]) - corner) <= 2 and alpha[48, 48] > 200


def test_render_refuses_what_it_cannot_do(reconstruction, tmp_path):
    clip = reconstruction / "clip.p4d"
    fails(peel4d("render", clip, "-o", tmp_path / "a.gif"), ".png or .mp4")
    fails(peel4d("render", clip, "--frame", "99", "-o", tmp_path / "a.png"), "no frame 99")
    fails(peel4d("render", clip, "--view", "x", "-o", tmp_path / "a.png"), "09")
    window = ("--crop", "90", "0", "10", "10")
    fails(peel4d("render", clip, *window, "-o", tmp_path / "a.png"), "not inside the picture")
    fails(peel4d("render", tmp_path / "none.p4d", "-o", tmp_path / "a.png"), "none.p4d")
    for flag, value in (("--count", "-1"), ("--count", "0"), ("--fps", "nan"), ("--size", "0x4")):
        result = peel4d("render", clip, flag, value, "-o", tmp_path / "a.mp4")
        assert result.returncode == 2 and value in result.stderr and "Trace" not in result.stderr
    fails(peel4d("render", clip, "--size", "1x1", "-o", tmp_path / "a.mp4"), "2x2")
    fails(peel4d("info", "x" * 300), "File name too long")
    assert list(tmp_path.iterdir()) == []


def test_info_of_everything(reconstruction, ball_capture):
    capture = peel4d("info", ball_capture)
    assert capture.returncode == 0 and "09" in capture.stdout, capture.stderr
    assert json.loads(peel4d("info", ball_capture, "--json").stdout)["views"]
    clip = peel4d("info", reconstruction / "clip.p4d")
    assert clip.returncode == 0 and "frames" in clip.stdout, clip.stderr
    assert json.loads(peel4d("info", reconstruction / "clip.p4d", "--json").stdout)
    folder = json.loads(peel4d("info", reconstruction, "--json").stdout)
    assert folder["frames_done"] == 3 and folder["test_views"] == ["09"]


def spoiled(ball_capture: Path, folder: Path) -> Path:
    shutil.copytree(ball_capture, folder)
    return folder


def reconstruct_fails(folder: Path, out: Path, *words: str, extra: tuple = ()) -> None:
    fails(peel4d("reconstruct", folder, "-o", out, *QUICK, *extra), *words)
    assert not (out / "clip.p4d").exists()


def test_missing_folder(tmp_path):
    reconstruct_fails(tmp_path / "nothing", tmp_path / "out", "nothing")
    fails(peel4d("info", tmp_path / "nothing"), "nothing")


def test_missing_frame_is_left_out_with_a_warning(ball_capture, tmp_path):
    folder = spoiled(ball_capture, tmp_path / "c")
    (folder / "images" / "03" / "000001.png").unlink()
    result = peel4d("reconstruct", folder, "-o", tmp_path / "out", *QUICK)
    assert result.returncode == 0, result.stderr
    assert "03" in peel4d("info", folder).stdout


def test_unreadable_image(ball_capture, tmp_path):
    folder = spoiled(ball_capture, tmp_path / "c")
    file = folder / "images" / "03" / "000001.png"
    file.write_bytes(file.read_bytes()[:200])
    reconstruct_fails(folder, tmp_path / "out", "03", "000001.png")


def test_mask_of_another_size(ball_capture, tmp_path):
    import cv2

    folder = spoiled(ball_capture, tmp_path / "c")
    cv2.imwrite(str(folder / "masks" / "03" / "000001.png"), np.full((50, 96), 255, np.uint8))
    reconstruct_fails(folder, tmp_path / "out", "000001.png", "50")


def test_all_masks_empty(ball_capture, tmp_path):
    import cv2

    folder = spoiled(ball_capture, tmp_path / "c")
    for file in (folder / "masks").rglob("*.png"):
        cv2.imwrite(str(file), np.zeros((96, 96), np.uint8))
    reconstruct_fails(folder, tmp_path / "out", "mask")


def test_one_empty_mask_makes_its_camera_abstain(ball_capture, tmp_path):
    import cv2

    folder = spoiled(ball_capture, tmp_path / "c")
    cv2.imwrite(str(folder / "masks" / "03" / "000001.png"), np.zeros((96, 96), np.uint8))
    result = peel4d("reconstruct", folder, "-o", tmp_path / "out", *QUICK, "--json")
    assert result.returncode == 0, result.stderr
    scores = json.loads(result.stdout.splitlines()[-1])["scores"]
    assert np.isfinite(scores["final_mask"]["psnr"]) and scores["final_mask"]["psnr"] > 20


def test_nan_in_calibration(ball_capture, tmp_path):
    folder = spoiled(ball_capture, tmp_path / "c")
    text = (folder / "extri.yml").read_text()
    head, _, tail = text.partition("T_04: ")
    first, _, rest = tail.partition("data: [")
    rest = rest[rest.index(",") :]
    (folder / "extri.yml").write_text(f"{head}T_04: {first}data: [.Nan{rest}")
    reconstruct_fails(folder, tmp_path / "out", "04")


def test_one_camera(tmp_path):
    folder = write_ball_capture(tmp_path / "c", cameras=1, frames=1)
    reconstruct_fails(folder, tmp_path / "out", "at least 2 are needed")


def test_zero_cameras(ball_capture, tmp_path):
    folder = spoiled(ball_capture, tmp_path / "c")
    for name in ("intri.yml", "extri.yml"):
        (folder / name).write_text("%YAML:1.0\n---\nnames:\n")
    reconstruct_fails(folder, tmp_path / "out", "camera")


def test_unknown_view_preset_and_frames(ball_capture, tmp_path):
    out = tmp_path / "out"
    fails(peel4d("reconstruct", ball_capture, "-o", out, "--views", "00,zz"), "zz", "00")
    fails(peel4d("reconstruct", ball_capture, "-o", out, "--preset", "fast"), "fast", "draft")
    fails(peel4d("reconstruct", ball_capture, "-o", out, "--frames", "50:60"), "50:60", "0 to 2")
    fails(peel4d("reconstruct", ball_capture, "-o", out, "--frames", "a"), "frame range")
    assert not out.exists()


def test_errors_are_events_too(tmp_path):
    result = peel4d("reconstruct", tmp_path / "none", "-o", tmp_path / "out", "--json")
    event = json.loads(result.stdout.splitlines()[-1])
    assert event["event"] == "error" and event["code"] == "capture" and event["hint"]


def test_output_that_is_a_file(ball_capture, tmp_path):
    (tmp_path / "out").write_text("precious")
    fails(peel4d("reconstruct", ball_capture, "-o", tmp_path / "out", *QUICK), "out")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits file size with ulimit")
def test_disk_full_while_writing(ball_capture, tmp_path):
    out = tmp_path / "out"
    command = f"ulimit -f 20; exec {sys.executable} -m peel4d.engine.cli.main reconstruct " + (
        f"{ball_capture} -o {out} --preset draft --steps 5"
    )
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    fails(result, "cannot write")
    assert not [path for path in out.rglob("*.part")]
