"""The worker of a windowed Blender: cancelled by mouse, left by a file, by a quit or by a kill."""

import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker needs torch")


def workers(folder: Path) -> list[str]:
    """Command lines of the processes that reconstruct into a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word == f"--output={folder}" for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("end", ["cancel", "load", "quit", "kill"])
def test_no_worker_is_left_and_its_steps_are_kept(window, ball_capture, end):
    capture = window.folder / "capture"
    shutil.copytree(ball_capture, capture)
    output = window.folder / "job" / end
    if end == "kill":
        with pytest.raises(AssertionError, match="exit code"):
            window.run("job", capture, window.interpreter, end, timeout=180)
    else:
        window.run("job", capture, window.interpreter, end, timeout=180)
    assert (output / "reconstruction.json").is_file(), "it never began"
    # The application's processes end with it, so also look at what it was asked to write.
    deadline = time.monotonic() + 15.0
    while workers(output):
        assert time.monotonic() < deadline, workers(output)
        time.sleep(0.2)
    if end != "kill":
        assert list(output.glob("running-*.safetensors"))
