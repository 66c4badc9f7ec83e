"""Scrubbing, loading files, enabling and disabling: nothing grows and nothing is left behind.

In a process of its own, which nothing else has warmed or registered anything in. The same with a
window, viewports and their graphics device: tests/gui/test_leaks.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flatness import growth

pytest.importorskip("bpy", reason="needs bpy")
pytestmark = [
    pytest.mark.blender,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SCRIPTS = Path(__file__).parent / "scripts"
#: What a loop may grow by from its first rounds to its last ones.
FLAT = 0.05


@pytest.fixture(scope="module")
def found(tmp_path_factory, clip_path, ball_capture) -> dict:
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "tmp").mkdir()
    ended = subprocess.run(
        [sys.executable, SCRIPTS / "leaks.py", folder, "peel4d", clip_path, ball_capture],
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "Traceback" not in ended.stdout, ended.stdout[-4000:]
    return json.loads((folder / "leaks.json").read_text())


@pytest.mark.parametrize(("loop", "rounds"), [("scrubs", 200), ("loads", 50), ("cycles", 20)])
def test_memory_threads_and_files_stay_flat(found, loop, rounds):
    held = found[loop]
    assert len(held) == rounds
    assert abs(growth([one["rss"] for one in held])) < FLAT
    assert abs(growth([one["private"] for one in held])) < FLAT
    for name in ("threads", "files"):
        # The frame that is fetched ahead has a thread that comes and goes.
        assert max(one[name] for one in held[-5:]) <= max(one[name] for one in held[:5]), name


def test_disabling_leaves_nothing_behind(found):
    enabled = found["enabled"]
    assert len(enabled["classes"]) > 20 and len(enabled["properties"]) == 5
    assert enabled["handlers"] and enabled["menus"] and enabled["engines"]
    assert found["left"] == []
    assert found["files"] == []
