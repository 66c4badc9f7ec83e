"""peel4d_rig.json, and footage as players of sequences want it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from peel4d.engine.capture import footage
from peel4d.engine.capture.capture import ImageFile, View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.capture.rig_file import RigView, write_rig
from peel4d.engine.errors import CaptureError


def rig_views(capture, names):
    return [
        RigView(capture.views[i], capture.K[i], capture.R[i], capture.t[i])
        for i in map(capture.view_index, names)
    ]


def test_a_rig_keeps_the_footage_of_its_source(ball_capture, tmp_path):
    capture = open_capture(ball_capture)
    path = tmp_path / "peel4d_rig.json"
    views = rig_views(capture, ["07", "02", "04"])
    write_rig(path, views, source=ball_capture, fps=24.0, up=[0, 0, 2])
    for place in (path, tmp_path):
        again = open_capture(place)
        assert [view.name for view in again.views] == ["07", "02", "04"]
        for new, old in enumerate((7, 2, 4)):
            for name in ("K", "R", "t"):
                np.testing.assert_array_equal(
                    getattr(again, name)[new], getattr(capture, name)[old]
                )
            for frame in range(3):
                assert again.images[frame, new] == capture.images[frame, old]
                assert again.masks[frame, new] == capture.masks[frame, old]
        assert again.frames == capture.frames and again.fps == 24.0
        np.testing.assert_allclose(again.up, [0, 0, 1])


def test_a_rig_beside_its_capture_does_not_stand_in_its_way(ball_capture, tmp_path):
    """The folder is still the capture, and the capture's peel4d.json does not judge the rig."""
    root = tmp_path / "capture"
    shutil.copytree(ball_capture, root)
    capture = open_capture(root)
    held_out = capture.views[-1].name
    write_rig(root / "peel4d_rig.json", rig_views(capture, ["00", "01"]), source=root)
    assert json.loads((root / "peel4d_rig.json").read_text())["source"] == "."
    assert len(open_capture(root).views) == 10
    assert held_out not in [v.name for v in open_capture(root / "peel4d_rig.json").views]


def test_a_rig_with_its_own_footage(ball_capture, tmp_path):
    capture = open_capture(ball_capture)
    views = []
    for index in (0, 1):
        own = [
            [files[f, index].path for f in range(3)] for files in (capture.images, capture.masks)
        ]
        R = np.repeat(capture.R[index][None], 3, axis=0)
        t = capture.t[index] + np.arange(3)[:, None] * [0.1, 0, 0]
        views.append(RigView(capture.views[index], capture.K[index], R, t, own[0], own[1]))
    views[1].images[1] = None
    path = tmp_path / "peel4d_rig.json"
    write_rig(path, views)
    again = open_capture(path)
    assert again.moving and again.t.shape == (3, 2, 3) and again.K.shape == (2, 3, 3)
    np.testing.assert_array_equal(again.t[:, 1], views[1].t)
    assert again.presence.tolist() == [[True, True], [True, False], [True, True]]
    with ImageReader(again) as reader, ImageReader(capture) as expected:
        np.testing.assert_array_equal(reader.image(2, 1), expected.image(2, 1))
        np.testing.assert_array_equal(reader.mask(2, 1), expected.mask(2, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "a rig of version 2"),
        ({"views": []}, "lists no cameras"),
        ({"views": [{"width": 3}]}, r"views\[0\]: has no name"),
        ({"views": [{"name": "nobody"}]}, "width is missing"),
        ({"source": 3}, "'source' is not a path"),
        ({"source": "gone"}, "no such file or folder"),
        ({"source": "peel4d_rig.json"}, "takes its footage from another rig"),
        ({"source": "."}, "takes its footage from another rig"),
        ({"fps": 0}, "fps is 0"),
        ({"up": [0, 0, 0]}, "up has no direction"),
    ],
)
def test_bad_rigs(ball_capture, tmp_path, change, message):
    path = tmp_path / "peel4d_rig.json"
    write_rig(path, rig_views(open_capture(ball_capture), ["00"]), source=ball_capture)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CaptureError, match=message):
        open_capture(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": [[1, 2], [3, 4]]}, "K is 2 x 2 instead of 3 x 3"),
        ({"t": [[0, 0, 0]] * 2}, "t has 2 frames instead of 3"),
        ({"R": None}, "R is missing"),
        ({"lens": "toy"}, "the lens 'toy'"),
        ({"name": "../up"}, "no view called"),
    ],
)
def test_bad_views(ball_capture, tmp_path, changes, message):
    path = tmp_path / "peel4d_rig.json"
    write_rig(path, rig_views(open_capture(ball_capture), ["00"]), source=ball_capture)
    document = json.loads(path.read_text())
    document["views"][0] |= changes
    path.write_text(json.dumps(document))
    with pytest.raises(CaptureError, match=message):
        open_capture(path)


def files(tmp_path, *names):
    return {
        frame: ImageFile(tmp_path / name) for frame, name in enumerate(names) if name is not None
    }


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["0000.png", "0001.png", "0002.png"], 0),
        (["cam3_098.png", "cam3_099.png", "cam3_100.png"], 98),
        (["8.png", "9.png", "10.png"], 8),
        ([None, "a12b.png", "a13b.png"], 11),
        (["a1.png", "a3.png", "a5.png"], None),
        (["a1.png", "b2.png", "c3.png"], None),
        (["a.png", "b.png", "c.png"], None),
        (["1.png", "2.jpg", "3.png"], None),
        (["08.png", "9.png", "10.png"], None),
    ],
)
def test_numbered_files_are_playable(tmp_path, names, first):
    found = footage.playable(files(tmp_path, *names), 3)
    assert (found.first if found else None) == first


def test_movies_are_playable(tmp_path):
    movie = {frame: ImageFile(tmp_path / "a.mp4", index=frame + 4) for frame in range(5)}
    assert footage.playable(movie, 5) == footage.Footage(tmp_path / "a.mp4", 4, "movie")
    movie[2] = ImageFile(tmp_path / "a.mp4", index=0)
    assert footage.playable(movie, 5) is None


def distorted_capture(ball_capture, folder):
    """The ball's files with a lens that bends."""
    capture = open_capture(ball_capture)
    views = []
    for index in range(3):
        old = capture.views[index]
        view = View(old.name, old.width, old.height, (-0.3, 0.05, 0.0, 0.0))
        own = [[f[n, index].path for n in range(3)] for f in (capture.images, capture.masks)]
        views.append(
            RigView(view, capture.K[index], capture.R[index], capture.t[index], own[0], own[1])
        )
    folder.mkdir()
    path = folder / "peel4d_rig.json"
    write_rig(path, views)
    return path


def test_the_program_writes_undistorted_footage(ball_capture, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="undistorting needs OpenCV")
    path = distorted_capture(ball_capture, tmp_path / "bent")
    cache = tmp_path / "cache"
    capture = open_capture(path)
    assert footage.why_prepared(capture, 1, "images") == "the lens is distorted"
    command = [sys.executable, "-m", "peel4d.engine.capture.footage", str(path), str(cache)]
    done = subprocess.run(
        [*command, "--views", "00", "01"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {"event": "done"}
    assert [e["step"] for e in events if e["event"] == "progress"] == list(range(1, 13))
    finished = [(e["view"], e["kind"]) for e in events if e["event"] == "finished"]
    assert finished == [("00", "images"), ("01", "images"), ("00", "masks"), ("01", "masks")]
    assert footage.prepared_footage(capture, 2, "images", cache) is None
    with ImageReader(capture) as reader:
        for kind, read, tolerance in (("images", reader.image, 4), ("masks", reader.mask, 0)):
            found = footage.prepared_footage(capture, 1, kind, cache)
            assert (found.first, found.kind) == (0, "sequence")
            written = cv2.imread(str(found.path.with_stem("000002")))[..., ::-1]
            expected = read(2, 1)
            if kind == "masks":
                written, expected = written[..., 0], expected * np.uint8(255)
            # JPEG of quality 95 against the exact pixels.
            assert np.abs(written.astype(int) - expected).mean() <= tolerance
    again = subprocess.run(
        [*command, "--views", "00"], capture_output=True, text=True, timeout=60, check=False
    )
    assert [json.loads(line)["event"] for line in again.stdout.splitlines()] == ["done"]


def test_the_program_reports_what_it_cannot_read(ball_capture, tmp_path):
    pytest.importorskip("cv2", reason="undistorting needs OpenCV")
    path = distorted_capture(ball_capture, tmp_path / "bent")
    broken = tmp_path / "bent" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    document = json.loads(path.read_text())
    document["views"][0]["images"][1] = "broken.png"
    path.write_text(json.dumps(document))

    def events(*arguments):
        command = [sys.executable, "-m", "peel4d.engine.capture.footage", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    code, said = events(path, tmp_path / "cache")
    warnings = [e["message"] for e in said if e["event"] == "warning"]
    assert code == 0 and len(warnings) == 1 and "broken.png" in warnings[0]
    code, said = events(tmp_path / "nowhere", tmp_path / "cache")
    assert code == 2 and said[0]["event"] == "error" and "no such file" in said[0]["message"]
