"""Edits, undo, other files, two windows and a disabled add-on while Peel4D draws and renders."""

import pytest
from bumpy import write_bumpy_clip


@pytest.mark.parametrize("backend", ["CPU", "GL"])
def test_nothing_crashes_and_the_end_is_right(window, backend):
    clip = write_bumpy_clip(window.folder / "big.p4d", 30_000)
    other = write_bumpy_clip(window.folder / "other.p4d", 600, frames=1, seed=77)
    window.run("edits", clip, other, backend, timeout=400)
