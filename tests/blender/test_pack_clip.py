# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Pack Clip: the operator, what it does to the object, and the picture afterwards."""

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")

from peel4d.addon.clip_file import clip_path as shown
from peel4d.addon.import_clip import import_clip
from peel4d.engine.clip.reader import ClipReader

pytestmark = pytest.mark.blender


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
