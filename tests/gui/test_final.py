"""Final renders of the real application, in batch and in the window: whole, failed, cancelled."""

import json
from itertools import pairwise

import numpy as np
import pytest
from exr import parse_exr
from flatness import growth

#: Frames of make_shot.py's animation.
FRAMES = 24
LEVEL = 1 / 255


def frames(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.exr")}


def pixels(path) -> np.ndarray:
    channels = parse_exr(path)
    return np.stack([channels[name] for name in "RGBA"], axis=-1)


@pytest.mark.parametrize("engine", ["PEEL4D", "COMPOSITE"])
def test_batch_and_window_render_the_same_frames(window, shot, engine):
    blend = shot(engine)
    rendered = window.background(blend, "-a", timeout=300)
    assert rendered.returncode == 0, rendered.stdout[-3000:]
    out = window.run("final", blend, timeout=300)
    batch, shown = (
        [pixels(path) for path in sorted(folder.glob("*.exr"))]
        for folder in (blend.parent / "batch", out / "window")
    )
    assert len(batch) == len(shown) == FRAMES
    for one, other in zip(batch, shown, strict=True):
        assert np.array_equal(one, other)
    # Every frame shows something, and something else than the one before.
    assert min(np.ptp(one[..., :3]) for one in batch) > 0.5
    steps = [np.abs(b - a).max() for a, b in pairwise(batch)]
    assert min(steps) > 0.05

    found = json.loads((out / "final.json").read_text())
    assert found["all"] == list(range(1, FRAMES + 1))
    assert len(found["before"]) == len(frames(out / "cancelled")) < FRAMES // 2
    assert frames(out / "again").keys() == {"0003.exr"}
    if engine == "PEEL4D":
        assert found["seconds"] < 4.0
        viewport_equals_the_final_render(out)
    else:
        assert (pixels(out / "missing" / "0003.exr")[..., :3] == (1.0, 0.0, 1.0)).all()


def viewport_equals_the_final_render(out):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV to read a screenshot")
    seen = cv2.imread(str(out / "viewport.png"))[..., ::-1] / 255.0
    linear = np.clip(pixels(out / "still" / "0020.exr")[..., :3], 0.0, 1.0)
    final = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert seen.shape == final.shape and final.std() > 0.1
    assert np.abs(seen - final).max() <= 2 * LEVEL


@pytest.mark.parametrize("engine", ["PEEL4D", "COMPOSITE"])
def test_a_clip_that_vanishes_ends_the_animation(window, shot, engine):
    """Blender would go on with the frames of a composite."""
    blend = shot(engine)
    script = window.folder / "scripts" / "lose_clip.py"
    rendered = window.background(blend, "-P", script, "-a")
    assert rendered.returncode not in (0, 124), rendered.stdout[-3000:]
    assert "shot.p4d: cannot open the clip" in rendered.stdout
    assert "Traceback" not in rendered.stdout
    assert frames(blend.parent / "batch").keys() == {f"{i:04d}.exr" for i in range(1, 13)}


def test_frame_steps(window, shot):
    blend = shot()
    all_of_it = window.background(blend, "-a")
    whole = frames(blend.parent / "batch")
    some = window.background(
        *(blend, "-o", "//some/", "-s", "3", "-e", "20", "-j", "5", "-a"), timeout=120
    )
    assert all_of_it.returncode == some.returncode == 0, some.stdout[-3000:]
    parts = frames(blend.parent / "some")
    assert parts.keys() == {"0003.exr", "0008.exr", "0013.exr", "0018.exr"}
    for name in parts:
        one, other = (pixels(blend.parent / folder / name) for folder in ("some", "batch"))
        assert np.array_equal(one, other), name
    assert len(whole) == FRAMES


@pytest.mark.parametrize("engine", ["PEEL4D", "COMPOSITE"])
def test_memory_stays_flat_with_persistent_data(window, shot, engine):
    blend = shot(engine)
    out = window.folder / "soak.json"
    script = window.folder / "scripts" / "soak.py"
    rendered = window.background(blend, "-P", script, "--", out, timeout=400)
    assert rendered.returncode == 0, rendered.stdout[-3000:]
    held = json.loads(out.read_text())
    assert len(held) >= 5 * FRAMES
    # The first round fills the caches.
    steady = held[len(held) // 5 :]
    assert growth([one["private"] for one in steady]) < 0.05
    assert steady[-1]["threads"] <= max(one["threads"] for one in steady[:20])
    assert steady[-1]["files"] <= max(one["files"] for one in steady[:20])
    for frame in (1, 7, 24):
        first = pixels(window.folder / "soak" / f"{frame:04d}.exr")
        assert first.std() > 0.1
