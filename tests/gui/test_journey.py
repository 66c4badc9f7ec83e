"""From the zip to the rendered clip and back, by mouse and keys, in the windowed application."""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker needs torch")


def test_an_artists_journey(bare_window, ball_capture):
    capture = bare_window.folder / "capture"
    shutil.copytree(ball_capture, capture)
    out = bare_window.run(
        *("journey", bare_window.folder / "peel4d.zip", capture, bare_window.interpreter),
        timeout=420,
    )
    rendered = np.load(out / "f12.npy")
    assert rendered.shape[2] == 4
    assert (out / "reconstruction" / "clip.p4d").is_file()
    assert not list((bare_window.folder / "user").rglob("__peel4d__*"))
