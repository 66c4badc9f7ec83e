"""The worker and the window: cancelled by mouse, left by another file, by quitting, by a kill.

usage: blender -P job.py -- OUT CAPTURE INTERPRETER {cancel|load|quit|kill}

Writes OUT/worker.pid. "kill" waits to be killed, "quit" leaves with the worker at work.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import window as w

CAPTURE, INTERPRETER, END = Path(w.ARGUMENTS[1]), Path(w.ARGUMENTS[2]), w.ARGUMENTS[3]


def job():
    w.OUT.mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.addons[w.MODULE].preferences.interpreter = str(INTERPRETER)
    # Software OpenGL and training share the processors: leave the mouse something of them.
    bpy.context.scene.peel4d.overlay = False
    session = w.package("addon.job.session").SESSION
    output = w.OUT / END
    yield from w.open_sidebar()
    assert bpy.ops.peel4d.reconstruct(
        capture=str(CAPTURE), output=str(output), preset="draft", steps=20000
    ) == {"FINISHED"}
    job = session.job
    (w.OUT / "worker.pid").write_text(str(job.process.pid))
    yield from w.until(lambda: job.stage == "frames" and job.fraction > 0.01, "training", 120)
    yield 1.0
    w.save(f"training_{END}")
    if END == "quit":
        return
    if END == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if END == "cancel":
        yield from w.press("bpy.ops.peel4d.cancel", at=0.25)
    else:
        bpy.ops.wm.read_homefile(use_empty=True)
    yield from w.until(lambda: not job.state.is_active, "the job ends", 30)
    assert job.state.value == "cancelled", job.message
    assert list(output.glob("running-*.safetensors"))
    yield from w.until(lambda: job.process.poll() is not None, "the worker ends", 15)
    yield 1.0
    if END == "load":
        assert not [thing for thing in bpy.data.objects if thing.peel4d.is_clip]
    w.save(f"ended_{END}")


w.run(job())
