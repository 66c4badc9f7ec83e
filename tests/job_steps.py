"""Reconstructions inside Blender's module, step by step, for the tests of the job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

QUICK = {"preset": "draft", "steps": 300, "frames": "0:2"}


@pytest.fixture
def session(scene):
    """The session of the jobs, idle before and after."""
    from peel4d.addon.job.session import SESSION

    SESSION.end()
    yield SESSION
    SESSION.end()


def start(session, scene, capture: Path, output: Path, *, limits=None, steps: int = 300, **more):
    from peel4d.addon.job.request import Request

    request = Request(capture, output, "draft", "0:2", steps=steps, **more)
    session.start(request, scene, limits=limits)
    return session.job


def poll_until(session, wanted, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not wanted(session.job):
        assert time.monotonic() < deadline, (session.job.state, session.job.message)
        before, queued = time.monotonic(), queued_seconds()
        session.poll()
        took = time.monotonic() - before - (queued_seconds() - queued)
        assert took < 0.5, "polling blocked Blender"
        time.sleep(0.02)


def queued_seconds() -> float:
    """How long this thread could have run while others had the processors, since it began."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def over(job) -> bool:
    return not job.state.is_active


def gone(pid: int, seconds: float = 5.0) -> bool:
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
