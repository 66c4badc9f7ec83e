"""What `peel4d info` finds wrong with a capture, and that it keeps quiet where nothing is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.capture.capture import Capture, View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.easyvolcap import rodrigues
from peel4d.engine.capture.health import describe, examine, rig_table
from peel4d.engine.capture.orientation import estimate_up, focus_point

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "formats"
OPENGL = np.diag([1.0, -1.0, -1.0])


def rig(positions: np.ndarray, targets: np.ndarray, roll: np.ndarray | None = None) -> Capture:
    """Cameras at `positions` (V, 3) that look at `targets` (V, 3); z is up."""
    rotations = []
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        forward = target - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.01, 0.003, 1])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        rotations.append(rodrigues(np.array([0, 0, 0.0 if roll is None else roll[i]])) @ R)
    R = np.array(rotations)
    count = len(R)
    K = np.tile(np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]]), (count, 1, 1))
    views = tuple(View(f"{i:02d}", 640, 480) for i in range(count))
    t = -np.einsum("vij,vj->vi", R, positions)
    return Capture(Path("rig"), "test", views, (0,), K, R, t, np.zeros((1, count)))


def on_a_dome(count: int = 20, radius: float = 3.0, noise: float = 0.3) -> Capture:
    random = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    height = random.uniform(0.1, 0.8, count) * radius
    positions = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return rig(positions + [5, -2, 0], random.normal(0, noise, (count, 3)) + [5, -2, 1])


def on_a_wall(count: int = 20, jitter: float = 0.05) -> Capture:
    """A forward-facing rig: a plane of nearly parallel cameras (light-field captures)."""
    random = np.random.default_rng(4)
    positions = np.stack(
        [np.arange(count) % 5 * 0.2, random.normal(0, 0.01, count), np.arange(count) // 5 * 0.2],
        axis=1,
    )
    return rig(positions, positions + [0, 4, 0] + random.normal(0, jitter, (count, 3)) * 4)


def inverted(capture: Capture) -> Capture:
    R = np.swapaxes(capture.R, -1, -2)
    return replace(capture, R=R, t=-np.einsum("...ij,...j->...i", R, capture.t))


def alarms(capture: Capture, word: str = "face away") -> list[str]:
    return [f.text for f in examine(capture, check_images=False) if word in f.text]


# --- Arrangement ------------------------------------------------------------------------------


def test_swapped_poses_are_noticed():
    assert not alarms(on_a_dome())
    assert "swapped: invert" in alarms(inverted(on_a_dome()))[0]


def test_poses_read_as_opengl_camera_to_world():
    dome = on_a_dome()
    centre = -np.einsum("vji,vj->vi", dome.R, dome.t)
    read_wrongly = replace(dome, R=np.swapaxes(dome.R, -1, -2) @ OPENGL, t=centre)
    assert "swapped, and the camera axes are OpenGL's" in alarms(read_wrongly)[0]


def test_opengl_axes_are_noticed():
    dome = on_a_dome()
    flipped = replace(dome, R=OPENGL @ dome.R, t=dome.t @ OPENGL)
    assert "OpenGL's (y up, z backwards)" in alarms(flipped)[0]


def test_a_translation_that_is_the_position():
    dome = on_a_dome()
    centre = -np.einsum("vji,vj->vi", dome.R, dome.t)
    assert "camera's position" in alarms(replace(dome, t=centre))[0]


@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm_for_rigs_that_surround_nothing(seed):
    random = np.random.default_rng(seed)
    assert not alarms(on_a_wall(jitter=0.02 + 0.05 * seed))
    walk = np.cumsum(random.normal(0, 0.3, (40, 3)), axis=0)  # a hand-held camera on its way
    looks = walk + random.normal(0, 0.4, (40, 3)) + [0, 3, 0]
    assert not alarms(rig(walk, looks))
    assert not alarms(rig(walk, walk + random.normal(0, 1, (40, 3))))  # looking everywhere
    ceiling = np.column_stack([random.uniform(-3, 3, (16, 2)), np.full(16, 3.0)])
    down = ceiling * [0.9, 0.9, 0]
    assert not alarms(rig(ceiling, down, roll=random.uniform(0, 6, 16)))
    arc = np.linspace(-0.5, 0.5, 8)
    front = np.stack([4 * np.sin(arc), -4 * np.cos(arc), np.ones(8)], axis=1)
    assert not alarms(rig(front, np.zeros((8, 3))))


def test_an_arc_in_front_is_noticed_when_swapped():
    arc = np.linspace(-1.0, 1.0, 9)
    front = np.stack([4 * np.sin(arc), -4 * np.cos(arc), np.ones(9)], axis=1)
    assert alarms(inverted(rig(front, np.zeros((9, 3)))))


SHARED_RIGS = [
    ("captures/panoptic_basketball", None),
    ("formats/dynamic3dgs", None),
    ("formats/easymocap", (1920, 1080)),
    ("formats/instant_ngp/instantngp_transforms.json", None),
    ("formats/blender", (800, 800)),
    ("formats/dnerf", (800, 800)),
]


@pytest.mark.shared
@pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared captures are not there")
@pytest.mark.parametrize("place, size", SHARED_RIGS)
def test_shared_rigs_pass_and_their_inverse_does_not(place, size):
    capture = open_capture(FORMATS.parent / place, size=size)
    findings = examine(capture, check_images=False)
    assert [f for f in findings if f.severity != "note"] == []
    assert "swapped" in alarms(inverted(capture))[0]


@pytest.mark.shared
def test_basketball_is_healthy_and_its_up_is_estimated(basketball):
    capture = open_capture(basketball)
    assert examine(capture) == []
    assert estimate_up(capture) @ [0, -1, 0] > 0.999  # README: up is -y
    assert np.linalg.norm(focus_point(capture)[[0, 2]]) < 0.5


def test_up_of_a_dome_and_of_a_wall():
    assert estimate_up(on_a_dome()) @ [0, 0, 1] > 0.999
    assert estimate_up(on_a_wall()) @ [0, 0, 1] > 0.99


def test_focus():
    assert np.linalg.norm(focus_point(on_a_dome(noise=0.0)) - [5, -2, 1]) < 1e-9
    assert focus_point(on_a_wall(jitter=0.0)) is None


# --- Single cameras ---------------------------------------------------------------------------


def finding(capture: Capture, text: str, check_images: bool = False):
    found = [f for f in examine(capture, check_images=check_images) if text in f.text]
    assert len(found) == 1, examine(capture, check_images=check_images)
    return found[0]


def test_rotations_that_are_none():
    dome = on_a_dome()
    R = dome.R.copy()
    R[4] *= 1.1
    R[7] *= 1.002
    R[9, 0] *= -1
    capture = replace(dome, R=R)
    found = [f for f in examine(capture) if "not a rotation" in f.text]
    assert [(f.severity, f.where) for f in found] == [("error", "view 04"), ("warning", "view 07")]
    mirrored = finding(capture, "mirrors")
    assert mirrored.severity == "error" and mirrored.where == "view 09"


@pytest.mark.parametrize(
    "entry, value, text",
    [
        ((0, 0), -500, "not positive"),
        ((0, 0), 50_000, "field of view"),
        ((0, 0), 30, "field of view"),
        ((1, 1), 900, "fx and fy differ"),
        ((0, 2), 900, "principal point lies outside"),
    ],
)
def test_absurd_intrinsics(entry, value, text):
    dome = on_a_dome()
    K = dome.K.copy()
    K[3][entry] = value
    assert finding(replace(dome, K=K), text).where == "view 03"


def test_equal_poses():
    dome = on_a_dome()
    R, t = dome.R.copy(), dome.t.copy()
    R[5], t[5] = R[2], t[2]
    assert finding(replace(dome, R=R, t=t), "same pose").where == "view 02, 05"


def test_one_camera():
    one = rig(np.array([[3.0, 0, 0]]), np.zeros((1, 3)))
    assert finding(one, "only one camera").severity == "error"
    moving = replace(on_a_dome(), views=one.views, frames=tuple(range(20)))
    moving = replace(
        moving, K=one.K, R=moving.R[:, None], t=moving.t[:, None], time=np.zeros((20, 1))
    )
    assert finding(moving, "one moving camera").severity == "note"
    assert not alarms(moving) and alarms(inverted(moving))


# --- Footage ----------------------------------------------------------------------------------


@pytest.fixture
def capture_folder(tmp_path, ball_capture) -> Path:
    return Path(shutil.copytree(ball_capture, tmp_path / "capture"))


def test_a_good_capture_raises_nothing(ball_capture):
    assert examine(open_capture(ball_capture)) == []


def test_missing_images_and_frame_counts(capture_folder):
    (capture_folder / "images/03/000001.png").unlink()
    shutil.rmtree(capture_folder / "images/05")
    capture = open_capture(capture_folder)
    assert "03 (2)" in finding(capture, "different frame counts").text
    assert finding(capture, "images are missing").where == "view 03 frame 1"
    assert finding(capture, "no images").where == "view 05"


def test_partial_masks(capture_folder):
    (capture_folder / "masks/02/000002.png").unlink()
    assert "02 (2 of 3)" in finding(open_capture(capture_folder), "masks are missing").where


def test_sizes_and_damaged_files(capture_folder):
    import cv2

    small = np.zeros((48, 48, 3), np.uint8)
    cv2.imwrite(str(capture_folder / "images/01/000000.png"), small)
    cv2.imwrite(str(capture_folder / "masks/06/000002.png"), small)
    (capture_folder / "images/04/000000.png").write_text("no image")
    path = capture_folder / "images/07/000001.png"
    path.write_bytes(path.read_bytes()[:-40])
    capture = open_capture(capture_folder)
    wrong = finding(capture, "size of 1 images is 48x48, the calibration says 96x96", True)
    assert wrong.severity == "error" and wrong.where == "view 01 frame 0"
    assert finding(capture, "size of 1 masks", True).where == "view 06 frame 2"
    assert "04" in finding(capture, "is not a readable image", True).where
    assert "07" in finding(capture, "is cut off", True).where


def test_empty_and_full_masks(capture_folder):
    import cv2

    cv2.imwrite(str(capture_folder / "masks/01/000000.png"), np.zeros((96, 96), np.uint8))
    cv2.imwrite(str(capture_folder / "masks/02/000001.png"), np.full((96, 96), 255, np.uint8))
    capture = open_capture(capture_folder)
    empty = finding(capture, "1 of 30 masks are empty", True)
    assert empty.severity == "warning" and empty.where == "view 01 frame 0"
    assert finding(capture, "cover the whole image", True).where == "view 02 frame 1"
    for path in (capture_folder / "masks").rglob("*.png"):
        cv2.imwrite(str(path), np.zeros((96, 96), np.uint8))
    assert finding(open_capture(capture_folder), "all masks are empty", True).severity == "error"


# --- Output -----------------------------------------------------------------------------------


def test_table_and_description(ball_capture):
    capture = open_capture(ball_capture)
    table = rig_table(capture)
    lines = table.splitlines()
    assert "easyvolcap; 10 views, 1 held out; 3 frames (0 to 2) at 24 fps" in lines[1]
    assert "30 images, 30 masks" in lines[1] and "up 0.00 0.00 1.00 (estimated)" in lines[1]
    assert lines[3].split()[:4] == ["view", "size", "fx", "fy"]
    assert len(lines) == 4 + 10 and lines[4].startswith("00") and lines[-1].endswith("test")
    assert "96x96" in lines[4] and "134.4" in lines[4]

    description = json.loads(json.dumps(describe(capture, examine(capture)), allow_nan=False))
    assert description["frames"] == {"count": 3, "first": 0, "last": 2}
    view = description["views"][0]
    assert view["name"] == "00" and view["masks"] == 3 and view["train"]
    assert np.allclose(view["position"], capture.camera(0, 0).centre)


def test_description_of_a_sick_rig_is_still_json():
    dome = on_a_dome()
    R = dome.R.copy()
    R[4] *= 0
    sick = replace(dome, R=R)
    text = json.dumps(describe(sick, examine(sick)), allow_nan=False)
    assert "not a rotation" in text
    assert len(rig_table(sick).splitlines()) == 4 + 20
