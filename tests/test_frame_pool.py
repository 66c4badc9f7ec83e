"""Frames trained in several processes: the same clip, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from worker_process import Worker, in_frame

from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.worker import frame_pool
from peel4d.engine.worker.frame_pool import jobs_for

FRAMES = ("--preset=draft", "--steps=250", "--frames=0:3")
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def children(pid: int) -> list[int]:
    """Process ids of what a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def alone(ball_capture, tmp_path_factory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("pool") / "alone"
    with Worker("reconstruct", ball_capture, "-o", folder, *FRAMES, "--jobs=1") as worker:
        last = worker.finish()
        assert last["event"] == "done" and last["jobs"] == 1, worker.errors
    return folder


def test_two_processes_make_the_same_clip(alone, ball_capture, tmp_path):
    with Worker(
        "reconstruct", ball_capture, "-o", tmp_path / "r", *FRAMES, "--jobs=2", "--preview=0.2"
    ) as worker:
        last = worker.finish()
        assert last["event"] == "done" and last["jobs"] == 2, worker.errors
        assert not children(worker.process.pid)
    assert (tmp_path / "r" / "clip.p4d").read_bytes() == (alone / "clip.p4d").read_bytes()
    progress = [e for e in worker.events if e.get("stage") == "frames"]
    steps = [event["step"] for event in progress]
    assert steps == sorted(steps) and steps[-1] == progress[-1]["total"] == 3000
    assert all(event["eta"] >= 0 for event in progress)
    assert any("test_psnr" in event["metrics"] for event in progress)
    # Each holds at least torch.
    assert last["peak_memory_bytes"] > 300 << 20
    previews = [e for e in worker.events if e["event"] == "preview"]
    assert previews and {e["frame"] for e in previews} <= {0, 1, 2}
    with ClipReader(previews[-1]["path"]) as clip:
        assert clip.info.frame_count == 1 and len(clip.frame(0)) > 100
    assert not list((tmp_path / "r").glob("*running*")) + list((tmp_path / "r").glob("preview-*"))


def test_cancelled_they_leave_checkpoints_and_go_on(alone, ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *FRAMES, "--jobs=2") as worker:
        at = worker.until(in_frame(0, 0.9))["step"]
        worker.cancel()
        asked = time.monotonic()
        assert worker.finish()["event"] == "cancelled", worker.errors
        assert time.monotonic() - asked < 20 and worker.process.returncode == 130
    assert list((tmp_path / "r").glob("running-*.safetensors"))
    with Worker("resume", tmp_path / "r", "--jobs=2") as worker:
        last = worker.finish()
        assert last["event"] == "done", worker.errors
        reached = [e["step"] for e in worker.events if e.get("stage") == "frames"]
        assert max(reached[:2]) >= at // 4
    assert (tmp_path / "r" / "clip.p4d").read_bytes() == (alone / "clip.p4d").read_bytes()


@posix
def test_one_that_is_killed_ends_the_run_with_a_reason(ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *FRAMES, "--jobs=2") as worker:
        worker.until(in_frame(0, 0.5))
        members = children(worker.process.pid)
        assert len(members) == 2
        os.kill(members[0], signal.SIGKILL)
        last = worker.finish(60)
        assert last["event"] == "error" and last["code"] == "reconstruction"
        assert "signal 9" in last["what"] and "--jobs 1" in last["hint"]
    with Worker("resume", tmp_path / "r", "--jobs=1") as worker:
        assert worker.finish()["event"] == "done", worker.errors


@posix
def test_they_end_with_who_has_started_them(ball_capture, tmp_path):
    with Worker("reconstruct", ball_capture, "-o", tmp_path / "r", *FRAMES, "--jobs=2") as worker:
        worker.until(in_frame(0, 0.2))
        members = children(worker.process.pid)
        worker.process.kill()
        worker.finish()
        deadline = time.monotonic() + 15
        while any(Path(f"/proc/{pid}").exists() for pid in members):
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.1)


def test_an_error_of_one_is_the_error_of_all(ball_capture, tmp_path):
    output = tmp_path / "r"
    with Worker("reconstruct", ball_capture, "-o", output, *FRAMES, "--jobs=2") as worker:
        worker.until(lambda e: e.get("stage") == "frames")
        (output / "frames").mkdir(exist_ok=True)
        # Nothing can be written where a folder has the file's name.
        (output / "frames" / "000002.safetensors").mkdir()
        last = worker.finish(90)
    assert last["event"] == "error" and last["code"] == "output", last
    assert "000002" in (last["where"] or "")


def test_how_many(monkeypatch):
    def asked(jobs, units, *, memory=None, **gpu):
        return jobs_for(jobs, units, memory=memory, **gpu)

    monkeypatch.setattr(frame_pool, "cores", lambda: 2)
    assert [asked(None, units) for units in (1, 2, 4, 30)] == [1, 1, 2, 2]
    assert asked(5, 3) == 3 and asked(1, 30) == 1
    monkeypatch.setattr(frame_pool, "cores", lambda: 64)
    assert asked(None, 30, gpu=True) == 8 and asked(None, 6, gpu=True) == 3
    assert [asked(None, 30, memory=n << 30) for n in (1, 3, 4, 100)] == [1, 1, 2, 8]
    assert [asked(None, 30, gpu=True, vram=n << 30) for n in (1, 3, 8, 80)] == [1, 2, 7, 8]
    assert asked(None, 30, vram=1 << 30) == 8  # of a GPU that is not used
