"""Captures that the tests make themselves, and the shared ones where they are installed."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

import pytest
from ball import write_ball_capture

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_sessionstart(session) -> None:
    """End without Blender's own end where bpy was imported.

    As a module, Blender frees what a whole session of tests left in it from static destructors:
    4.2 crashes there and 4.5 sometimes waits for itself forever, long after the last result was
    printed. Tests of the end start processes of their own.
    """
    # Registered before anything of bpy's, so it runs after all that Python has to do at its end.
    atexit.register(_end_without_blender, session)


def _end_without_blender(session) -> None:
    if "bpy" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(session.exitstatus))


@pytest.fixture(scope="session")
def basketball() -> Path:
    path = SHARED / "captures" / "panoptic_basketball"
    if not path.is_dir():
        pytest.skip("the shared basketball capture is not beside the project")
    return path


@pytest.fixture(scope="session")
def ball_capture(tmp_path_factory) -> Path:
    """A small, exact capture: 10 views x 3 frames of 96 px. Do not write into it."""
    return write_ball_capture(tmp_path_factory.mktemp("ball") / "capture")
