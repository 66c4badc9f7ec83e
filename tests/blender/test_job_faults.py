"""What can happen to a reconstruction, through the operator and the job as Blender holds them.

After each fault: a message that says what to do, no process left, and Resume loses nothing but the
steps since the last checkpoint.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_steps import QUICK, gone, over, poll_until, session, start

pytest.importorskip("bpy", reason="needs bpy")
pytest.importorskip("torch", reason="the worker needs torch")
__all__ = ["session"]  # a fixture
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def in_second_frame(job) -> bool:
    return job.stage == "frames" and job.fraction > 0.6


def resume(session, output: Path) -> list[float]:
    """Resume by the operator and return the shares of the training that were reported."""
    import bpy

    shares: list[float] = []
    poll = session.poll

    def noted() -> bool:
        result = poll()
        if session.job.stage == "frames":
            shares.append(session.job.fraction)
        return result

    session.poll = noted
    try:
        assert bpy.ops.peel4d.reconstruct(output=str(output), resume=True) == {"FINISHED"}
    finally:
        del session.poll
    assert session.job.state.value == "done"
    assert (output / "clip.p4d").is_file()
    return shares


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGBUS"])
def test_a_worker_that_dies_loses_only_what_came_after_its_checkpoint(
    session, scene, ball_capture, tmp_path, name
):
    job = start(session, scene, ball_capture, tmp_path / "r")
    poll_until(session, in_second_frame)
    first = tmp_path / "r" / "frames" / "000000.safetensors"
    before = first.stat().st_mtime_ns
    os.kill(job.process.pid, getattr(signal, name))
    poll_until(session, over)
    assert job.state.value == "crashed" and name in job.message and "Resume" in job.message
    assert not (tmp_path / "r" / "clip.p4d").exists()
    shares = resume(session, tmp_path / "r")
    assert min(shares) >= 0.5, "the first frame was trained again"
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut off", "no image", "missing"])
def test_a_bad_file_in_the_middle_of_the_capture(session, scene, ball_capture, tmp_path, damage):
    import bpy

    capture = tmp_path / "capture"
    shutil.copytree(ball_capture, capture)
    bad = capture / "images" / "04" / "000001.png"
    whole = bad.read_bytes()
    bad.write_bytes({"cut off": whole[:-30], "no image": b"?" * 900, "missing": b""}[damage])
    if damage == "missing":
        bad.unlink()
        bad.mkdir()  # listed, but nothing that can be read
    output = tmp_path / "r"
    arguments = {"capture": str(capture), "output": str(output)}
    with pytest.raises(RuntimeError) as caught:
        bpy.ops.peel4d.reconstruct(**arguments, **QUICK)
    text = str(caught.value)
    assert "000001.png" in text and "view '04', frame 1" in text, text
    assert session.job.state.value == "failed" and session.job.error_code == "capture"
    assert gone(session.job.process.pid)
    if bad.is_dir():
        bad.rmdir()
    bad.write_bytes(whole)
    resume(session, output)


def test_a_disk_that_fills_up(session, scene, ball_capture, tmp_path):
    import bpy

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs the rights to")
    try:
        job = start(session, scene, ball_capture, disk / "r")
        poll_until(session, in_second_frame)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        poll_until(session, over)
        assert job.state.value == "failed" and job.error_code == "output"
        assert "No space left" in job.message and "0.0 MB free" in job.message
        assert "resume" in job.message and gone(job.process.pid)
        # The log is on the same disk.
        bpy.ops.peel4d.open_log()
        filler.unlink()
        assert min(resume(session, disk / "r")) >= 0.5
    finally:
        session.end()
        # The worker closes its files a moment after its last word.
        deadline = time.monotonic() + 10.0
        while subprocess.run(["umount", str(disk)], capture_output=True).returncode:
            assert time.monotonic() < deadline, "something of ours is still open on the disk"
            time.sleep(0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS counts on Linux")
def test_a_worker_without_memory(session, scene, ball_capture, tmp_path, monkeypatch):
    """The worker's interpreter may map 600 MB, which is less than torch takes."""
    import bpy

    from peel4d.addon.job import session as module
    from peel4d.addon.job.interpreter import Interpreter

    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -v 600000\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(module, "choose", lambda *_: Interpreter(limited, "preferences"))
        with pytest.raises(RuntimeError, match="memory"):
            bpy.ops.peel4d.reconstruct(
                capture=str(ball_capture), output=str(tmp_path / "r"), **QUICK
            )
    assert session.job.state.value == "failed" and session.job.error_code == "memory"
    assert "Close other programs" in session.job.message
    assert gone(session.job.process.pid)


def test_the_memory_limit_of_the_preferences(session, scene, ball_capture, tmp_path, monkeypatch):
    import bpy

    from peel4d.addon.job import session as module
    from peel4d.addon.preferences import Preferences

    output = tmp_path / "r"
    with monkeypatch.context() as patched:
        patched.setattr(module, "preferences", lambda: Preferences(memory_limit=64 << 20))
        with pytest.raises(RuntimeError, match=r"limit of 0\.06 GB is reached"):
            bpy.ops.peel4d.reconstruct(capture=str(ball_capture), output=str(output), **QUICK)
    assert session.job.error_code == "memory"
    resume(session, output)


BLOCKING = """
import bpy, peel4d, sys
peel4d.register()
print("begin", flush=True)
bpy.ops.peel4d.reconstruct(capture=sys.argv[1], output=sys.argv[2], preset="draft", steps=5000)
print("went on", flush=True)
"""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(c) for task in tasks for c in (task / "children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_without_a_window_saves_and_stops(ball_capture, tmp_path):
    """The operator blocks and prints; Ctrl-C in its terminal is its cancel button."""
    output = tmp_path / "r"
    blender = subprocess.Popen(
        [sys.executable, "-c", BLOCKING, str(ball_capture), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in blender.stdout:
            lines.append(line)
            if line.startswith("Peel4D: frames:"):
                break
        (worker,) = children(blender.pid)
        blender.send_signal(signal.SIGINT)
        said = blender.stdout.read()
        assert blender.wait(30) != 0, "a cancelled reconstruction is no success"
    finally:
        blender.kill()
    assert gone(worker), (lines, said)
    assert "Cancelled" in said and "went on" not in said, said
    assert list(output.glob("running-*.safetensors"))


def test_a_corrected_rig_is_what_the_worker_gets(session, scene, ball_capture, tmp_path):
    """Moved and removed cameras go to the worker as they stand, with its log in the output."""
    import bpy

    from peel4d.engine.train.plan import Folder, load_plan

    capture = tmp_path / "capture"
    shutil.copytree(ball_capture, capture)
    assert bpy.ops.import_scene.peel4d_capture(filepath=str(capture)) == {"FINISHED"}
    own = scene.peel4d_rig
    own.views[2].camera.location.x += 0.01
    own.views[5].enabled = False
    bpy.data.objects.remove(own.views[7].camera)
    bpy.context.view_layer.update()
    scene.peel4d_job.output = str(tmp_path / "r")
    scene.peel4d_job.preset = "draft"
    assert bpy.ops.peel4d.reconstruct(steps=30, frames="0:1") == {"FINISHED"}
    plan = load_plan(Folder(tmp_path / "r"))
    assert Path(plan.capture) == capture / "peel4d_rig.json"
    assert set(plan.views) == {"00", "01", "02", "03", "04", "06", "08"}
    assert list(plan.test_views) == ["09"]
    (clip,) = [thing for thing in scene.objects if thing.peel4d.is_clip]
    assert clip.parent == own.root
