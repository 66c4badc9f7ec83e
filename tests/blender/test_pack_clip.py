# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Pack Clip: the operator, what it does to the object, and the picture afterwards."""

from pathlib import Path

import numpy as np
import pytest
from job_steps import QUICK, session

bpy = pytest.importorskip("bpy", reason="needs bpy")

from peel4d.addon.clip_file import clip_path as shown
from peel4d.addon.import_clip import import_clip
from peel4d.engine.clip.reader import ClipReader

pytestmark = pytest.mark.blender
__all__ = ["session"]  # a fixture


@pytest.fixture
def clip(scene, clip_path):
    imported = import_clip(scene, scene.collection, str(clip_path))
    bpy.context.view_layer.objects.active = imported.clip
    scene.camera = next(iter(imported.cameras.values()))
    return imported.clip


def test_a_packed_clip_takes_the_place_of_the_baked_one(clip, render, tmp_path):
    (before, _), path = render(), shown(clip)
    output = tmp_path / "small"  # the ending is added
    assert bpy.ops.object.peel4d_pack_clip(filepath=str(output)) == {"FINISHED"}
    output = output.with_suffix(".p4d")
    assert Path(shown(clip)) == output
    with ClipReader(output) as reader, ClipReader(path) as source:
        assert reader.info.codec == "predictive"
        assert reader.total_nbytes < 0.7 * source.total_nbytes
    after, _ = render()
    covered = before[..., 3] > 0.5
    error = np.abs(before - after)[covered]
    assert 0 < error.mean() < 0.03


def test_the_object_may_keep_its_file(clip, tmp_path):
    path = shown(clip)
    done = bpy.ops.object.peel4d_pack_clip(
        filepath=str(tmp_path / "a.p4d"), use_packed=False, goal="SIZE", megabytes=0.06
    )
    assert done == {"FINISHED"} and shown(clip) == path
    assert 0.04e6 < (tmp_path / "a.p4d").stat().st_size <= 0.06e6


def test_what_cannot_be_done_is_an_error(clip, tmp_path):
    path = shown(clip)
    with pytest.raises(RuntimeError, match="onto itself"):
        bpy.ops.object.peel4d_pack_clip(filepath=path)
    with pytest.raises(RuntimeError, match="cannot be met"):
        bpy.ops.object.peel4d_pack_clip(
            filepath=str(tmp_path / "b.p4d"), goal="SIZE", megabytes=0.01
        )
    assert not (tmp_path / "b.p4d").exists() and shown(clip) == path
    clip.peel4d.filepath = str(tmp_path / "nothing.p4d")
    assert not bpy.ops.object.peel4d_pack_clip.poll()


def test_points_are_fitted_to_the_footage_by_a_worker(session, scene, ball_capture, tmp_path):
    output = tmp_path / "r"
    done = bpy.ops.peel4d.reconstruct(capture=str(ball_capture), output=str(output), **QUICK)
    assert done == {"FINISHED"}
    (clip,) = [thing for thing in scene.objects if thing.peel4d.is_clip]
    bpy.context.view_layer.objects.active = clip
    small, plain = tmp_path / "fitted.p4d", tmp_path / "plain.p4d"
    common = {"use_packed": False, "prune": 0.0}
    assert bpy.ops.object.peel4d_pack_clip(filepath=str(plain), **common) == {"FINISHED"}
    done = bpy.ops.object.peel4d_pack_clip(filepath=str(small), fit=True, **common)
    assert done == {"FINISHED"}
    with ClipReader(small) as fitted, ClipReader(plain) as other:
        assert fitted.info.provenance["packed"]["fitted"] is True
        assert fitted.info.provenance["packed"]["coarseness"] == 2.0
        assert fitted.total_nbytes < 0.9 * other.total_nbytes
        # One that has become transparent is not written.
        assert 0.95 * sum(other.info.points) < sum(fitted.info.points) <= sum(other.info.points)

    # Cancelled at once, and with footage that is gone.
    from peel4d.addon.job.fitting import Fitting
    from peel4d.addon.job.interpreter import choose, launch
    from peel4d.addon.preferences import environment_folder, preferences

    chosen = choose(preferences().interpreter, environment_folder())
    for capture, cancelled in ((ball_capture, True), (tmp_path / "nowhere", False)):
        never = tmp_path / "never.p4d"
        arguments = ["pack", str(output), str(never), "--capture", str(capture)]
        log = tmp_path / "log"
        fitting = Fitting(launch(chosen, arguments, log), log)
        fitting.start()
        if cancelled:
            fitting.cancel()
        fitting.wait()
        assert fitting.packed is None and not never.exists()
        assert fitting.error == "" if cancelled else "nowhere" in fitting.error


def test_only_the_clip_of_a_reconstruction_has_footage(clip, tmp_path):
    with pytest.raises(RuntimeError, match="folder of a reconstruction"):
        bpy.ops.object.peel4d_pack_clip(filepath=str(tmp_path / "a.p4d"), fit=True)
    assert not (tmp_path / "a.p4d").exists()
