"""Captures that the tests make themselves, and the shared ones where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ball import write_ball_capture

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
