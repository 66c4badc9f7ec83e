"""What the windowed application holds while it scrubs, loads files and changes add-ons."""

import json

import pytest
from ball import write_ball_capture
from bumpy import write_bumpy_clip
from flatness import growth

#: What a loop may grow by from its first rounds to its last ones.
FLAT = 0.05


@pytest.mark.parametrize("backend", ["CPU", "GL"])
def test_nothing_grows_and_nothing_is_left_behind(window, backend):
    clip = write_bumpy_clip(window.folder / "blob.p4d")
    capture = write_ball_capture(window.folder / "capture")
    out = window.run("leaks", clip, capture, backend, timeout=1100)
    found = json.loads((out / "leaks.json").read_text())
    for loop in ("scrubs", "loads", "cycles"):
        held = found[loop]
        assert len(held) >= 20
        assert abs(growth([one["rss"] for one in held])) < FLAT, loop
        for name in ("threads", "files"):
            counts = [one[name] for one in held]
            assert max(counts[-5:]) <= max(counts[:5]), (loop, name, counts)
    assert found["enabled"]["classes"] > 20 and found["enabled"]["properties"] == 5
    assert found["left"] == [] and found["threads"] == []
