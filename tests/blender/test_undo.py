# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Every operator of ours, undone and redone: nothing of it stays, and all of it comes back."""

import shutil
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")

from peel4d.addon.render.session import SESSION

pytestmark = pytest.mark.blender


def plain(value):
    """A property of Blender's as something that can be compared."""
    if isinstance(value, bpy.types.ID):
        return value.name
    if isinstance(value, bpy.types.PropertyGroup):
        return state_of(value)
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, str | int | bool) or value is None:
        return value
    return [plain(one) for one in value]


def state_of(group) -> dict:
    skipped = ("rna_type", "name") if group.bl_rna.identifier != "Peel4DRigView" else ("rna_type",)
    return {
        name: plain(getattr(group, name))
        for name in group.bl_rna.properties.keys()  # noqa: SIM118 (no dict)
        if name not in skipped
    }


def everything() -> dict:
    """What operators of ours may change, by name."""
    scene = bpy.context.scene
    render = scene.render
    return {
        "objects": {
            thing.name: (
                thing.type,
                np.round(np.array(thing.matrix_basis), 5).tolist(),
                thing.parent.name if thing.parent else None,
                state_of(thing.peel4d),
                [curve.data_path for curve in thing.animation_data.drivers]
                if thing.animation_data
                else [],
            )
            for thing in bpy.data.objects
        },
        "cameras": {
            camera.name: (
                [round(x, 4) for x in (camera.lens, camera.shift_x, camera.clip_end)],
                [
                    shown.image.filepath if shown.image else None
                    for shown in camera.background_images
                ],
                state_of(camera.peel4d),
            )
            for camera in bpy.data.cameras
        },
        "images": sorted(image.filepath for image in bpy.data.images if image.filepath),
        "collections": {c.name: sorted(c.objects.keys()) for c in bpy.data.collections},
        "rig": state_of(scene.peel4d_rig),
        "job": state_of(scene.peel4d_job),
        "scene": (
            scene.camera.name if scene.camera else None,
            scene.frame_start,
            scene.frame_end,
            scene.frame_current,
            (render.fps, round(render.fps_base, 5), render.engine),
            (render.resolution_x, render.resolution_y, round(render.pixel_aspect_y, 5)),
        ),
    }


def activate(name: str) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    bpy.data.objects[name].select_set(True)
    bpy.context.view_layer.objects.active = bpy.data.objects[name]


def lose_clip() -> None:
    bpy.data.objects["blob"].peel4d.filepath = "/nowhere/blob.p4d"


def select_rig() -> None:
    for item in bpy.context.scene.peel4d_rig.views:
        item.camera.select_set(True)


def finish_reconstruction() -> None:
    folder = Path(bpy.app.tempdir) / "finished"
    folder.mkdir(exist_ok=True)
    (folder / "reconstruction.json").write_text("{}")
    shutil.copy(bpy.data.objects["blob"].peel4d.filepath, folder / "clip.p4d")
    bpy.context.scene.peel4d_job.output = str(folder)


#: Operator: what is done before, and its arguments; {folder} is the test's.
CASES = {
    "import_scene.peel4d": (lambda: None, {"filepath": "{folder}/blob.p4d"}),
    "import_scene.peel4d_capture": (lambda: None, {"filepath": "{folder}/capture"}),
    "scene.peel4d_rig_place": (lambda: None, {"up": "X", "scale": 2.5}),
    "scene.peel4d_rig_look": (lambda: None, {"view": "06"}),
    "scene.peel4d_rig_check": (
        lambda: bpy.context.scene.peel4d_rig.findings.add(),
        {},
    ),
    "scene.peel4d_rig_relocate": (lambda: None, {"filepath": "{folder}/moved"}),
    "scene.peel4d_rig_use_cameras": (lambda: None, {"filepath": "{folder}/rig.json"}),
    "scene.peel4d_rig_from_cameras": (select_rig, {}),
    "scene.peel4d_rig_mark": (lambda: None, {"action": "INVERT"}),
    "object.peel4d_relocate_clip": (lambda: activate("blob"), {"filepath": "{folder}/other.p4d"}),
    "object.peel4d_pack_clip": (lambda: activate("blob"), {"filepath": "{folder}/packed.p4d"}),
    "object.peel4d_add_crop_box": (lambda: activate("blob"), {}),
    "file.peel4d_find_missing_clips": (lose_clip, {"directory": "{folder}"}),
    "camera.peel4d_use_captured_format": (lambda: activate("03"), {}),
    "peel4d.show_result": (finish_reconstruction, {}),
    "peel4d.reconstruct": (
        lambda: None,
        {"capture": "{folder}/capture", "output": "{folder}/out", "preset": "draft", "steps": 5},
    ),
}
#: They have tests of their own, beside the composite.
ELSEWHERE = {"scene.peel4d_composite", "scene.peel4d_remove_composite"}


def operators_with_undo() -> set[str]:
    found = set()
    for cls in bpy.types.Operator.__subclasses__():
        if cls.__module__.startswith("peel4d.") and "UNDO" in getattr(cls, "bl_options", ()):
            found.add(cls.bl_idname)
    return found


def test_no_operator_is_forgotten(registered):
    assert operators_with_undo() - ELSEWHERE == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_undo_and_redo(scene, clip_path, other_clip_path, ball_capture, tmp_path, name):
    prepare, arguments = CASES[name]
    if name == "peel4d.reconstruct":
        pytest.importorskip("torch", reason="the worker needs torch")
    shutil.copy(clip_path, tmp_path / "blob.p4d")
    shutil.copy(other_clip_path, tmp_path / "other.p4d")
    for copy in ("capture", "moved"):
        shutil.copytree(ball_capture, tmp_path / copy)
    bpy.ops.import_scene.peel4d(filepath=str(clip_path), up="Z")
    bpy.ops.import_scene.peel4d_capture(filepath=str(ball_capture))
    prepare()
    bpy.ops.ed.undo_push(message="before")
    before = everything()
    group, operator = name.split(".")
    filled = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    assert getattr(getattr(bpy.ops, group), operator)(**filled) == {"FINISHED"}
    bpy.ops.ed.undo_push(message=name)
    after = everything()
    assert after != before, "the operator changed nothing that this test sees"
    for _ in range(2):
        bpy.ops.ed.undo()
        assert everything() == before
        render()
        bpy.ops.ed.redo()
        assert everything() == after
        render()


def render() -> None:
    """Objects that undo has made anew are drawn, and those that it has removed are not kept."""
    render = bpy.context.scene.render
    render.engine, render.resolution_x, render.resolution_y = "PEEL4D", 32, 32
    for clip in (thing for thing in bpy.data.objects if thing.peel4d.is_clip):
        if not Path(clip.peel4d.filepath).is_file():
            return
    bpy.ops.render.render()
    assert SESSION.clip_count >= 1
