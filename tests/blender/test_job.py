"""Reconstruct 4D inside Blender: the operators, the job's state, and what may happen to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_steps import QUICK, gone, over, poll_until, session, start

pytest.importorskip("bpy", reason="needs bpy")
__all__ = ["session"]  # a fixture
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def training(job) -> bool:
    return job.stage == "frames" and job.fraction > 0.1


def clips(scene) -> list:
    return [thing for thing in scene.objects if thing.peel4d.is_clip]


def test_the_operator_blocks_without_a_window_and_imports_the_clip(
    session, scene, ball_capture, tmp_path, capfd
):
    import bpy

    output = tmp_path / "r"
    arguments = {"capture": str(ball_capture), "output": str(output)}
    assert bpy.ops.peel4d.reconstruct(**arguments, **QUICK) == {"FINISHED"}
    printed = capfd.readouterr().out
    assert "Peel4D: frames: " in printed and "Done: 2 frames" in printed
    assert session.job.state.value == "done" and session.job.metrics["test_psnr"] > 15
    (clip,) = clips(scene)
    assert Path(clip.peel4d.filepath) == output / "clip.p4d"
    assert (scene.frame_start, scene.frame_end) == (1, 2)
    with pytest.raises(RuntimeError, match="Press Resume"):
        bpy.ops.peel4d.reconstruct(**arguments, **QUICK)
    # Again: the same object shows the clip that was written anew.
    assert bpy.ops.peel4d.reconstruct(output=str(output), resume=True) == {"FINISHED"}
    assert clips(scene) == [clip]


def test_a_finished_one_is_kept_when_it_is_done_again(session, scene, ball_capture, tmp_path):
    import bpy

    from peel4d.addon.job.request import finished_clip, output_folder

    scene.peel4d_job.capture_path = str(ball_capture)
    scene.peel4d_job.output = str(tmp_path / "take")
    assert finished_clip(output_folder(scene)) is None
    with pytest.raises(RuntimeError, match="no finished reconstruction"):
        bpy.ops.peel4d.show_result()
    assert bpy.ops.peel4d.reconstruct(**QUICK) == {"FINISHED"}
    first = finished_clip(output_folder(scene))
    assert first == tmp_path / "take" / "clip.p4d"
    bytes_before = first.read_bytes()

    for name in ("take_2", "take_3"):
        assert bpy.ops.peel4d.reconstruct(again=True, **{**QUICK, "steps": 20}) == {"FINISHED"}
        assert output_folder(scene) == tmp_path / name
        assert finished_clip(output_folder(scene)).is_file()
    assert first.read_bytes() == bytes_before
    assert len(clips(scene)) == 3

    for clip in clips(scene):
        bpy.data.objects.remove(clip)
    for _ in range(2):  # the second time it is there already
        assert bpy.ops.peel4d.show_result() == {"FINISHED"}
        (clip,) = clips(scene)
        assert Path(bpy.path.abspath(clip.peel4d.filepath)) == tmp_path / "take_3" / "clip.p4d"


def test_settings_of_the_scene(session, scene, ball_capture, tmp_path):
    from peel4d.addon.job.request import request_from_scene
    from peel4d.engine.errors import PeelError

    job = scene.peel4d_job
    with pytest.raises(PeelError, match="no capture"):
        request_from_scene(scene)
    job.capture_path = str(ball_capture)
    with pytest.raises(PeelError, match="no output folder"):
        request_from_scene(scene)
    job.output, job.views, job.test_views = str(tmp_path), "00, 01,02", "03"
    job.use_frame_range, job.frame_first, job.frame_last = True, 1, 2
    job.background, job.refine_cameras = "none", False
    arguments = request_from_scene(scene).arguments(memory_limit=3 << 30, previews=True)
    assert arguments == [
        *("reconstruct", str(ball_capture), "--preview", "5", "--max-memory", "3145728K"),
        *(f"--output={tmp_path}", "--preset=standard", "--background=none"),
        "--cameras=given",
        *("--frames=1:3", "--views=00,01,02", "--test-views=03"),
    ]
    job.use_point_pixels, job.point_pixels = True, 3.4
    asked = request_from_scene(scene).arguments(memory_limit=None, previews=False)
    assert "--point-pixels=3.4" in asked
    job.frame_last = 0
    with pytest.raises(PeelError, match="Last"):
        request_from_scene(scene)


def test_previews_are_shown_and_give_way_to_the_clip(session, scene, ball_capture, tmp_path):
    import bpy

    from peel4d.addon.job.result import PREVIEW_NAME, show_clip, show_preview

    done = tmp_path / "r" / "clip.p4d"
    arguments = {"capture": str(ball_capture), "output": str(done.parent)}
    bpy.ops.peel4d.reconstruct(**arguments, **QUICK)
    for clip in clips(scene):
        bpy.data.objects.remove(clip)
    preview = done.with_name("preview.p4d")
    preview.write_bytes((done.with_name("initial.p4d")).read_bytes())
    shown = show_preview(scene, preview)
    assert shown.name == PREVIEW_NAME and show_preview(scene, preview) == shown
    shown.location = (1.0, 2.0, 3.0)  # people place it while it trains
    clip = show_clip(scene, done)
    assert clips(scene) == [clip] and tuple(clip.location) == (1.0, 2.0, 3.0)
    assert not preview.exists()


def test_a_bad_capture_file_fails_with_its_message(session, scene, tmp_path):
    import bpy

    bad = tmp_path / "intri.yml"
    bad.write_text("%YAML:1.0\nnonsense")
    with pytest.raises(RuntimeError, match=r"intri\.yml"):
        bpy.ops.peel4d.reconstruct(capture=str(bad), output=str(tmp_path / "r"), **QUICK)
    assert session.job.state.value == "failed" and session.job.log.is_file()


@posix
def test_killed(session, scene, ball_capture, tmp_path):
    job = start(session, scene, ball_capture, tmp_path / "r")
    poll_until(session, training)
    os.kill(job.process.pid, signal.SIGKILL)
    poll_until(session, over)
    assert job.state.value == "crashed"
    assert "SIGKILL" in job.message and "memory" in job.message and "Resume" in job.message


@posix
def test_hung(session, scene, ball_capture, tmp_path):
    from peel4d.addon.job.job import Limits

    limits = Limits(hang=4.0, start=60.0)
    job = start(session, scene, ball_capture, tmp_path / "r", limits=limits, steps=3000)
    poll_until(session, training)
    os.kill(job.process.pid, signal.SIGSTOP)
    poll_until(session, over, 15)
    assert job.state.value == "hung" and "not answered" in job.message
    assert gone(job.process.pid)


@posix
def test_one_that_does_not_cancel_is_killed(session, scene, ball_capture, tmp_path):
    from peel4d.addon.job.job import Limits

    job = start(session, scene, ball_capture, tmp_path / "r", limits=Limits(cancel=1.0), steps=3000)
    poll_until(session, training)
    os.kill(job.process.pid, signal.SIGSTOP)
    job.cancel()
    assert job.state.value == "cancelling"
    poll_until(session, over, 10)
    assert job.state.value == "cancelled" and gone(job.process.pid)


def test_cancelled_by_the_operator_and_resumed(session, scene, ball_capture, tmp_path):
    import bpy

    job = start(session, scene, ball_capture, tmp_path / "r")
    assert not bpy.ops.peel4d.reconstruct.poll()
    poll_until(session, training)
    assert bpy.ops.peel4d.cancel() == {"FINISHED"}
    assert not bpy.ops.peel4d.cancel.poll()
    poll_until(session, over, 20)
    assert job.state.value == "cancelled" and list((tmp_path / "r").glob("running-*.safetensors"))
    assert bpy.ops.peel4d.reconstruct(output=str(tmp_path / "r"), resume=True) == {"FINISHED"}
    assert session.job.state.value == "done"


def test_loading_another_file_cancels(session, scene, ball_capture, tmp_path):
    import bpy

    job = start(session, scene, ball_capture, tmp_path / "r", steps=3000)
    poll_until(session, training)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    poll_until(session, over, 20)
    assert job.state.value == "cancelled" and gone(job.process.pid)
    assert not clips(bpy.context.scene)


def test_disabling_the_addon_ends_the_worker(session, scene, ball_capture, tmp_path):
    job = start(session, scene, ball_capture, tmp_path / "r", steps=3000)
    poll_until(session, training)
    pid = job.process.pid
    session.end()
    assert gone(pid, 1.0)
    assert list((tmp_path / "r").glob("running-*.safetensors"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "exit", "SIGSTOP and SIGKILL"])
def test_the_worker_never_outlives_blender(ball_capture, tmp_path, end):
    """Blender, with a worker that trains, is killed, or ends by itself."""
    script = f"""
import bpy, peel4d, sys, time
peel4d.register()
from peel4d.addon.job.request import Request
from peel4d.addon.job.session import SESSION
from pathlib import Path
request = Request(Path({str(ball_capture)!r}), Path({str(tmp_path / "r")!r}), steps=5000)
SESSION.start(request, bpy.context.scene)
while SESSION.job.stage != "frames":
    SESSION.poll()
    time.sleep(0.05)
print("pid", SESSION.job.process.pid, flush=True)
if {end == "exit"}:
    sys.exit(0)
time.sleep(600)
"""
    blender = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        worker = next(int(line.split()[1]) for line in blender.stdout if line.startswith("pid "))
        if end.startswith("SIGSTOP"):
            os.kill(worker, signal.SIGSTOP)
        if end != "exit":
            blender.send_signal(getattr(signal, end.split()[-1]))
        blender.wait(30)
    finally:
        blender.kill()
    assert gone(worker, 5.0)


def test_a_folder_that_says_too_much_does_not_fill_the_memory(tmp_path):
    """Blender may be busy for an hour: what nobody fetches is bounded, the newest stays."""
    from peel4d.addon.job.process import MAX_EVENTS, WorkerProcess

    script = (
        "import json\n"
        "for i in range(20000):\n"
        "    print(json.dumps({'event': 'progress', 'step': i}))\n"
        "    print(json.dumps({'event': 'warning', 'message': str(i)}))\n"
        "print('no JSON at all'); print('{\"event\": 3}'); print('[1]')\n"
        "print(json.dumps({'event': 'done'}))\n"
    )
    process = WorkerProcess(
        [sys.executable, "-c", script], log=tmp_path / "log", environment=os.environ
    )
    assert process.wait(60)
    events = process.events()
    assert len(events) <= MAX_EVENTS and events[-1] == {"event": "done"}
    assert [e["step"] for e in events if e["event"] == "progress"] == [19999]
    process.close()


def test_which_python(tmp_path, monkeypatch):
    from peel4d.addon.job import interpreter
    from peel4d.engine.errors import PeelError
    from peel4d.engine.worker.create import MARK, python_of

    environment = tmp_path / "environment"
    assert interpreter.choose(None, environment).source == "Blender"
    monkeypatch.setattr(interpreter, "_spec", lambda name: None)  # Blender's has no torch
    with pytest.raises(PeelError, match="Create Environment"):
        interpreter.choose(None, environment)
    python_of(environment).parent.mkdir(parents=True)
    python_of(environment).touch()
    with pytest.raises(PeelError, match="Create Environment"):  # not finished
        interpreter.choose(None, environment)
    (environment / MARK).write_text("{}")
    assert interpreter.choose(None, environment).source == "environment"
    assert interpreter.choose(Path(sys.executable), environment).source == "preferences"
    with pytest.raises(PeelError, match="no such interpreter"):
        interpreter.choose(tmp_path / "nothing", environment)


def test_blenders_python_stays_blenders(monkeypatch):
    from peel4d.addon.job.interpreter import Interpreter, environment

    monkeypatch.setenv("PYTHONHOME", "/blender/python")
    monkeypatch.setenv("PYTHONPATH", "/blender/modules")
    other = environment(Interpreter(Path("/usr/bin/python3"), "preferences"))
    assert not {"PYTHONHOME", "PYTHONPATH"} & set(other)
    assert Path(other["PEEL4D_CORE"]).is_file() and other["PYTHONDONTWRITEBYTECODE"] == "1"
    own = environment(Interpreter(Path(sys.executable), "Blender"))
    assert "blender" not in own["PYTHONPATH"]


def test_check_reports_the_interpreter(session, scene, capfd):
    import bpy

    assert bpy.ops.peel4d.check_python() == {"FINISHED"}
    printed = capfd.readouterr().out
    assert "torch 2." in printed and "GPU: " in printed and session.task.missing() == []


def test_nothing_is_downloaded_without_permission(session, scene, monkeypatch):
    import bpy

    if bpy.app.online_access:
        pytest.skip("this Blender is allowed to go online")
    assert not bpy.ops.peel4d.create_environment.poll()


def test_an_interpreter_that_is_none_says_so(session, scene, tmp_path):
    from peel4d.addon.job.interpreter import Interpreter

    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'not a python' >&2\nexit 7\n")
    fake.chmod(0o755)
    session.check(Interpreter(fake, "preferences"))
    session.wait_for_task(lambda text: None)
    assert session.task.error == "not a python"


def test_the_lock_file_pins_everything():
    from peel4d.addon.job.interpreter import LOCK

    lines = [line for line in LOCK.read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line.partition(";")[0] for line in lines)
    constraints = (Path(__file__).resolve().parents[2] / "constraints.txt").read_text().split()
    shipped = {line.partition(";")[0].strip() for line in lines}
    assert {c for c in constraints if c.startswith(("torch==", "safetensors=="))} <= shipped
