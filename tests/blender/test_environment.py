"""Create Environment inside Blender: permission to go online, cancel, and what becomes of it."""

from __future__ import annotations

import os
import socket
import time

import pytest

pytest.importorskip("bpy", reason="needs bpy")
pytestmark = pytest.mark.blender


@pytest.fixture
def session(scene):
    """The session of the jobs, idle before and after."""
    from peel4d.addon.job.session import SESSION

    SESSION.end()
    yield SESSION
    SESSION.end()


@pytest.fixture
def index(monkeypatch):
    """pip asks this package index, which takes calls and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        yield


def poll_until(session, wanted, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not wanted(session.task):
        assert time.monotonic() < deadline, (session.task.message, session.task.error)
        session.poll()
        time.sleep(0.02)


def test_without_online_access_it_says_where_to_allow_it(scene):
    import bpy

    system = bpy.context.preferences.system
    before = system.use_online_access
    try:
        system.use_online_access = False
        with pytest.raises(RuntimeError, match="Allow it in Preferences > System > Network"):
            bpy.ops.peel4d.create_environment()
        system.use_online_access = True
        assert bpy.ops.peel4d.create_environment.poll()
    finally:
        system.use_online_access = before


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_cancelled_by_the_operator(session, index, tmp_path):
    import bpy

    folder = tmp_path / "environment"
    session.create(folder)
    poll_until(session, lambda task: (folder / "unpacking").is_dir())
    assert bpy.ops.peel4d.cancel_task() == {"FINISHED"}
    assert session.task.message == "Cancelling"
    poll_until(session, lambda task: not task.is_running, 10)
    assert session.task.error == "cancelled" and not list(folder.iterdir())
    # The way is free for another one.
    session.create(folder)
    poll_until(session, lambda task: (folder / "bin").is_dir())


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_leaving_blender_ends_it_at_once(session, index, tmp_path):
    folder = tmp_path / "environment"
    session.create(folder)
    poll_until(session, lambda task: (folder / "unpacking").is_dir())
    process = session.task.process
    before = time.monotonic()
    session.end()
    assert time.monotonic() - before < 3 and process.poll() is not None


def test_a_reconstruction_is_not_robbed_of_its_environment(session, scene, ball_capture, tmp_path):
    import bpy

    from peel4d.addon.job.request import Request

    bpy.context.preferences.system.use_online_access = True
    session.start(Request(ball_capture, tmp_path / "r", "draft", "0:1", steps=3000), scene)
    with pytest.raises(RuntimeError, match="A reconstruction is running"):
        bpy.ops.peel4d.create_environment()
