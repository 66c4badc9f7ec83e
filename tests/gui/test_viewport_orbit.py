"""The Rendered mode on the screen: while it moves, when it stands still, on every device."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "viewport.py"
LEVEL = 1 / 255


def test_an_orbiting_viewport(window):
    out = window.run("viewport_orbit", timeout=300)
    found = json.loads((out / "orbit.json").read_text())
    differences = found["differences"]
    assert {"perspective", "turned", "frame", "final", "graphics"} <= set(differences)
    assert max(most for most, _ in differences.values()) <= 2 * LEVEL


def test_the_benchmark_of_an_orbit(bare_window, tmp_path):
    """It runs and writes what it promises; the numbers are not judged."""
    path = tmp_path / "viewport.json"
    options = ["--points", "5000", "--rounds", "1", "--seconds", "3", "--json", path]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(path.read_text())
    assert {"processor", "cores", "system"} <= result["machine"].keys()
    assert result["blender"] and result["graphics"] and result["points"] == 5000
    rows = {row["device"]: row for row in result["rows"]}
    assert set(rows) == {"nothing", "CPU", "GL"}
    for name in ("CPU", "GL"):
        assert rows[name]["pictures_per_second"]["median"] > 0
        assert rows[name]["redraws"]["p50_ms"] > 0 and rows[name]["callbacks"]["p50_ms"] > 0
