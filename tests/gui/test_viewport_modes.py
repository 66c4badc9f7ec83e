"""Where points appear on the screen, in every kind of viewport."""

import json

#: Views that one run measures: 3 kinds of devices x 9, and modes, local, quad and split views.
MEASURED = 40


def test_points_are_where_blender_projects_them(window):
    out = window.run("viewport_modes", timeout=420)
    found = json.loads((out / "modes.json").read_text())
    assert len(found) >= MEASURED
    assert max(found.values()) <= 0.25
