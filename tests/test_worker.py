"""The worker as Blender runs it: real processes, and everything that can happen to them."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from worker_process import LAUNCH, QUICK, ROOT, Worker, in_frame, psnr

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.errors import OutputError, ReconstructionError
from peel4d.engine.render.splats import Splats
from peel4d.engine.train import plan
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.worker import faults
from peel4d.engine.worker.supervision import Supervision, thinned

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


@pytest.fixture(scope="module")
def uninterrupted(ball_capture, tmp_path_factory) -> dict:
    """The events of a run that nothing happened to, by kind; and its last."""
    folder = tmp_path_factory.mktemp("worker") / "whole"
    with Worker("reconstruct", ball_capture, "-o", folder, *QUICK, "--preview", 0.2) as worker:
        last = worker.finish()
        assert last["event"] == "done", (last, worker.errors)
        assert worker.process.returncode == 0
        return {"last": last, "events": worker.events, "folder": folder}


def test_it_says_what_it_does(uninterrupted):
    kinds = [event["event"] for event in uninterrupted["events"]]
    assert kinds[0] == "heartbeat"  # before torch is imported
    assert kinds.count("started") == 1 and kinds.count("done") == 1
    stages = {e["stage"] for e in uninterrupted["events"] if e["event"] == "progress"}
    assert stages == {"clean plates", "camera colour", "frames", "clip"}
    beats = [e for e in uninterrupted["events"] if e["event"] == "heartbeat"]
    assert all(event["memory_bytes"] > 10 << 20 for event in beats)


def test_previews_are_clips_of_the_running_frame(uninterrupted):
    previews = [e for e in uninterrupted["events"] if e["event"] == "preview"]
    # Of the earliest frame in training: where two train at once, the second has its turn only if
    # the first is done before it.
    shown = [e["frame"] for e in previews]
    assert len(previews) >= 3 and shown[0] == 0 and shown == sorted(shown) and shown[-1] <= 1
    with ClipReader(previews[-1]["path"]) as clip, ClipReader(uninterrupted["last"]["clip"]) as all:
        frame = previews[-1]["frame"]
        assert clip.info.frame_count == 1 and clip.info.first_frame == frame
        points, final = clip.frame(0), all.frame(frame)
        assert len(points) == previews[-1]["points"]
        middle = np.median(points.position, axis=0)
        np.testing.assert_allclose(middle, np.median(final.position, axis=0), atol=0.05)


def test_cancelled_and_resumed_is_the_same_clip(uninterrupted, ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK) as worker:
        at = worker.until(in_frame(1))["step"]
        worker.cancel()
        asked = time.monotonic()
        assert worker.finish()["event"] == "cancelled"
        assert time.monotonic() - asked < 20 and worker.process.returncode == 130
    assert list((tmp_path / "r").glob("running-*.safetensors"))
    with Worker("resume", tmp_path / "r") as worker:
        # Nothing that was trained is trained again.
        first = worker.until(lambda e: e.get("stage") == "frames")
        assert first["step"] >= at
        last = worker.finish()
    assert last["event"] == "done"
    assert abs(psnr(last) - psnr(uninterrupted["last"])) <= 0.05
    assert (tmp_path / "r" / "clip.p4d").read_bytes() == Path(
        uninterrupted["last"]["clip"]
    ).read_bytes()


def test_cancelled_while_the_colours_are_learned(uninterrupted, ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK) as worker:
        worker.until(lambda e: e.get("stage") == "camera colour" and e["step"] > 1200)
        worker.cancel()
        assert worker.finish()["event"] == "cancelled"
    with Worker("resume", tmp_path / "r") as worker:
        first = worker.until(lambda e: e.get("stage") == "camera colour")
        assert first["step"] > 1200
        assert abs(psnr(worker.finish()) - psnr(uninterrupted["last"])) <= 0.05
    assert not list((tmp_path / "r").glob("color-*"))


@posix
def test_killed_loses_only_what_came_after_the_checkpoint(uninterrupted, ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK) as worker:
        worker.until(in_frame(1))
        worker.cancel()
        worker.finish()
    frame = tmp_path / "r" / "frames" / "000000.safetensors"
    before = frame.stat().st_mtime_ns
    with Worker("resume", tmp_path / "r") as worker:
        saved = worker.until(lambda e: e.get("stage") == "frames")["step"]
        worker.until(in_frame(1, 0.8))
        worker.process.send_signal(signal.SIGKILL)
        worker.finish()
        assert worker.process.returncode == -signal.SIGKILL
    assert not (tmp_path / "r" / "clip.p4d").exists()
    with Worker("resume", tmp_path / "r") as worker:
        assert worker.until(lambda e: e.get("stage") == "frames")["step"] <= saved + 100
        assert abs(psnr(worker.finish()) - psnr(uninterrupted["last"])) <= 0.05
    assert frame.stat().st_mtime_ns == before


def test_the_end_of_stdin_is_a_cancel(ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK) as worker:
        worker.until(in_frame(0))
        worker.process.stdin.close()
        assert worker.finish(15)["event"] == "cancelled"
    assert list((tmp_path / "r").glob("running-*.safetensors"))


@posix
def test_terminated_by_the_system_is_a_cancel(ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK) as worker:
        worker.until(in_frame(0))
        worker.process.terminate()
        assert worker.finish(15)["event"] == "cancelled"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's promise of Linux")
@pytest.mark.parametrize("stopped", [False, True])
def test_it_ends_with_its_parent(ball_capture, tmp_path, stopped):
    """The parent is killed, and cannot say goodbye; even a worker that is stopped ends."""
    script = (
        "import os, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, *sys.argv[1:], '--parent', str(os.getpid())],"
        " stdin=subprocess.PIPE)\n"
        "time.sleep(600)\n"
    )
    arguments = [str(LAUNCH), "reconstruct", str(ball_capture), "-o", str(tmp_path / "r")]
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, "--steps=5000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in parent.stdout:
            if json.loads(line)["event"] == "started":
                break
        (worker,) = children(parent.pid)
        if stopped:
            os.kill(worker, signal.SIGSTOP)
    finally:
        parent.kill()
        parent.wait(10)
    assert gone(worker, 5.0)


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int, seconds: float) -> bool:
    """Whether a process, which is not our child, has ended within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_a_bad_capture_is_an_error_event(ball_capture, tmp_path):
    shutil.copytree(ball_capture, tmp_path / "c")
    (tmp_path / "c" / "intri.yml").write_bytes(b"%YAML:1.0\n---\nnames: [\x00\xff")
    with Worker("reconstruct", tmp_path / "c", "-o", tmp_path / "r", *QUICK) as worker:
        last = worker.finish()
        assert last["event"] == "error" and last["code"] == "capture"
        assert "intri.yml" in last["message"] and worker.process.returncode == 2


def test_an_unreadable_image_is_an_error_event(ball_capture, tmp_path):
    shutil.copytree(ball_capture, tmp_path / "c")
    (tmp_path / "c" / "images" / "03" / "000000.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with Worker("reconstruct", tmp_path / "c", "-o", tmp_path / "r", *QUICK) as worker:
        last = worker.finish()
        assert last["event"] == "error" and "000000.png" in last["message"]


@posix
def test_a_full_disk_is_an_error_with_numbers_and_what_was_made_stays(ball_capture, tmp_path):
    """A file may not grow beyond 20 kB: the first frame's points do not fit."""
    with Worker(
        *("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK),
        limits={resource.RLIMIT_FSIZE: 20_000},
    ) as worker:
        last = worker.finish()
    assert last["event"] == "error" and last["code"] == "output"
    assert "cannot write" in last["message"] and "MB free" in last["message"]
    assert "resume" in last["hint"]
    assert not list((tmp_path / "r").rglob("*.part"))
    with Worker("resume", tmp_path / "r") as worker:
        assert worker.finish()["event"] == "done"


def mount(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def test_a_disk_that_fills_up_while_training(uninterrupted, ball_capture, tmp_path):
    if not mount(tmp_path / "disk", "1m"):
        pytest.skip("mounting a small disk needs the rights to")
    try:
        output = tmp_path / "disk" / "r"
        with Worker("reconstruct", ball_capture, "-o", output, *QUICK) as worker:
            worker.until(in_frame(1))
            filler = tmp_path / "disk" / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))
            last = worker.finish()
        assert last["event"] == "error" and last["code"] == "output"
        assert "No space left" in last["message"] and "0.0 MB free" in last["message"]
        filler.unlink()
        with Worker("resume", output) as worker:
            assert worker.until(lambda e: e.get("stage") == "frames")["step"] >= 1000
            last = worker.finish()
        assert last["event"] == "done"
        assert abs(psnr(last) - psnr(uninterrupted["last"])) <= 0.05
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@posix
def test_more_memory_than_the_limit_is_an_error_with_numbers(uninterrupted, ball_capture, tmp_path):
    limit = ("--max-memory", "64M")  # torch alone takes more
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK, *limit) as worker:
        last = worker.finish()
    assert last["event"] == "error" and last["code"] == "memory"
    assert "0.06 GB" in last["message"] and "in use are" in last["message"]
    assert "resume" in last["hint"]
    with Worker("resume", tmp_path / "r") as worker:
        assert abs(psnr(worker.finish()) - psnr(uninterrupted["last"])) <= 0.05


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS counts on Linux")
def test_an_allocation_that_fails_is_an_error_with_numbers(ball_capture, tmp_path):
    """600 MB of address space: torch's libraries do not fit."""
    with Worker(
        *("reconstruct", ball_capture, "-o", tmp_path / "r", *QUICK),
        limits={resource.RLIMIT_AS: 600 << 20},
    ) as worker:
        last = worker.finish()
    assert last["event"] == "error" and last["code"] == "memory", (last, worker.errors)
    message = r"not enough memory .*held up to \d\.\d\d GB of this machine's"
    assert re.search(message, last["message"])


def test_what_counts_as_a_lack_of_memory(tmp_path):
    for error in (
        MemoryError(),
        np.core._exceptions._ArrayMemoryError((10, 10), np.dtype("f4")),
        OSError(12, "Cannot allocate memory"),
    ):
        assert faults.explain(error, tmp_path).code == "memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    explained = faults.explain(caught.value, tmp_path)
    assert explained.code == "memory" and str(1 << 60) in explained.what
    assert "GB of this machine's" in explained.what
    gpu = faults.explain(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), tmp_path)
    assert "2.00 GiB" in gpu.what and "GPU" in gpu.hint


def test_other_errors_stay_what_they_are(tmp_path):
    known = ReconstructionError("no usable image")
    assert faults.explain(known, tmp_path) is known
    assert faults.explain(ZeroDivisionError("division by zero"), tmp_path) is None
    full = OutputError("cannot write")
    full.__cause__ = OSError(28, "No space left on device")
    assert "MB free" in faults.explain(full, tmp_path / "not" / "there").what


def test_previews_that_cannot_be_written_end_nothing_but_previews(tmp_path):
    (tmp_path / "file").write_text("no folder")
    said: list[tuple[str, dict]] = []
    watch = Supervision(
        lambda event, **values: said.append((event, values)),
        preview_path=tmp_path / "file" / "preview.p4d",
    )
    splats = Splats(np.zeros((3, 3)), np.ones(3), np.ones(3), np.ones((3, 1, 3)))
    assert watch.preview_due()
    watch.preview(splats, 0, fps=24.0, up=None)
    assert [event for event, _ in said] == ["warning"] and not watch.preview_due()


def test_a_preview_of_many_points_covers_the_same_area():
    count = 1000
    splats = Splats(
        np.zeros((count, 3)), np.full(count, 2.0), np.ones(count), np.ones((count, 1, 3))
    )
    few = thinned(splats, 300)
    assert len(few) == 250 and thinned(splats, count) is splats
    assert np.sum(few.radius**2) == pytest.approx(np.sum(splats.radius**2), rel=1e-5)


def test_it_runs_from_an_extensions_folder(ball_capture, tmp_path):
    """A folder with another name, beside folders that must not be found; nothing is written."""
    home = tmp_path / "user_default" / "any_name"
    home.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", home)
    shutil.copytree(ROOT / "engine", home / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    for trap in ("safetensors", "events"):
        (tmp_path / "user_default" / trap).mkdir()
        (tmp_path / "user_default" / trap / "__init__.py").write_text("raise RuntimeError('trap')")
    before = sorted(home.rglob("*"))
    with Worker(
        *("reconstruct", ball_capture, "-o", tmp_path / "r", "--preset=draft", "--steps=5"),
        launch=home / "engine" / "worker" / "launch.py",
    ) as worker:
        last = worker.finish()
        assert last["event"] == "done", (last, worker.errors)
    assert sorted(home.rglob("*")) == before


def test_check_reports_versions():
    with Worker("check") as worker:
        last = worker.finish()
    assert last["event"] == "environment" and last["missing"] == []
    assert last["versions"]["torch"] == torch.__version__
    assert {"python", "executable", "gpu", "core"} <= set(last)


def test_check_names_what_is_missing(tmp_path):
    """An interpreter without anything."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    result = subprocess.run(
        [tmp_path / "v" / "bin" / "python", LAUNCH, "check"], capture_output=True, text=True
    )
    event = json.loads(result.stdout)
    assert {"torch", "numpy", "OpenCV"} <= {entry["name"] for entry in event["missing"]}
    result = subprocess.run(
        [tmp_path / "v" / "bin" / "python", LAUNCH, "reconstruct", "x", "-o", tmp_path / "r"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["event"] == "error" and "needs numpy" in last["message"]


def test_a_repaired_file_is_no_other_capture(ball_capture, tmp_path):
    """What could not be read may change; what was read may not."""
    capture = tmp_path / "capture"
    shutil.copytree(ball_capture, capture)
    bad, other = (capture / "images" / "03" / f"{n:06d}.png" for n in (1, 2))
    whole = bad.read_bytes()
    bad.write_bytes(b"no image")
    options = {"size": None, "frames": None, "views": None, "test_views": None}
    started = plan.make_plan(
        open_capture(capture), **options, points="auto", preset="draft", settings=TrainSettings()
    )
    folder = plan.Folder(tmp_path / "r")
    plan.note_unreadable(folder, bad)
    assert not folder.unreadable.exists(), "nothing has been started there"
    folder.root.mkdir()
    plan.save_plan(folder, started)
    plan.note_unreadable(folder, bad)
    bad.write_bytes(whole)
    now = open_capture(capture)
    assert plan.fingerprint(now) != started.fingerprint
    assert plan.fingerprint(now, plan.unreadable(folder)) == started.fingerprint
    other.write_bytes(whole)
    assert plan.fingerprint(open_capture(capture), plan.unreadable(folder)) != started.fingerprint
