"""Rigs in the window: drops by mouse, movies, masks and undistorted footage behind cameras."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ball import write_ball_capture
from bumpy import write_bumpy_clip

from peel4d.engine.capture.capture import View
from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import ImageReader
from peel4d.engine.capture.rig_file import RigView, write_rig

pytest.importorskip("cv2", reason="undistorting needs OpenCV")
av = pytest.importorskip("av", reason="writing movies needs PyAV")


def grey_movies(folder: Path, ball: Path) -> Path:
    """The ball's rig with movies of 6 frames: frame n is grey of the level 40 + 30 n."""
    (folder / "videos").mkdir(parents=True)
    for name in ("intri.yml", "extri.yml"):
        shutil.copy(ball / name, folder)
    for view in open_capture(ball).views:
        with av.open(str(folder / "videos" / f"{view.name}.mp4"), "w") as container:
            stream = container.add_stream("h264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
            for frame in range(6):
                pixels = np.full((96, 96, 3), 40 + 30 * frame, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return folder


def bent_lens(folder: Path, ball: Path) -> Path:
    """Two views of the ball with a lens that bends."""
    capture = open_capture(ball)
    views = []
    for index in range(2):
        old = capture.views[index]
        view = View(old.name, old.width, old.height, (-0.3, 0.05, 0.0, 0.0))
        files = [[f[n, index].path for n in range(3)] for f in (capture.images, capture.masks)]
        pose = capture.K[index], capture.R[index], capture.t[index]
        views.append(RigView(view, *pose, *files))
    folder.mkdir()
    write_rig(folder / "peel4d_rig.json", views)
    return folder / "peel4d_rig.json"


def inputs(folder: Path) -> list[Path]:
    """What the scenario is given, in a folder that the window sees."""
    capture = write_ball_capture(folder / "capture")
    bent = bent_lens(folder / "bent", capture)
    with ImageReader(open_capture(bent)) as reader:
        np.save(folder / "expected.npy", reader.image(0, 0))
    (folder / "clips").mkdir()
    write_bumpy_clip(folder / "clips" / "blob.p4d")
    movies = grey_movies(folder / "movies", capture)
    return [folder / "clips" / "blob.p4d", capture, movies, bent, folder / "expected.npy"]


def test_a_rig_in_the_window(window):
    window.run("rig", *inputs(window.folder), window.interpreter, timeout=240)
