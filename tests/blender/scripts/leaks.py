"""Runs in a Blender without a window that has Peel4D as an add-on: scrubs, loads, cycles.

usage: python leaks.py FOLDER MODULE CLIP CAPTURE

Writes FOLDER/leaks.json: what the process held after each step of each loop, and what was left
behind when the add-on was disabled.
"""

import importlib
import json
import random
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "gui" / "scripts"))
from resources import Held, files_of_ours, registered, residue, threads_of_ours

FOLDER, MODULE, CLIP, CAPTURE = Path(sys.argv[1]), *sys.argv[2:5]
SCRUBS, LOADS, CYCLES = 200, 50, 20
#: Rounds before the measurement: caches fill, libraries are loaded.
WARM = 10


def session():
    return importlib.import_module(f"{MODULE}.addon.render.session").SESSION


def make_scene() -> None:
    bpy.ops.wm.read_homefile(use_empty=True)
    scene = bpy.context.scene
    bpy.ops.wm.save_as_mainfile(filepath=str(FOLDER / "scene.blend"))
    assert bpy.ops.import_scene.peel4d_capture(filepath=CAPTURE) == {"FINISHED"}
    assert bpy.ops.import_scene.peel4d(filepath=CLIP, up="Z") == {"FINISHED"}
    scene.frame_start, scene.frame_end = 1, 5
    scene.render.resolution_x, scene.render.resolution_y = 192, 128
    scene.render.filepath = str(FOLDER / "picture.png")
    bpy.ops.wm.save_mainfile()


def picture() -> None:
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(FOLDER / "picture.png"))
    covered = sum(1 for alpha in list(image.pixels)[3::4] if alpha > 0.1)
    bpy.data.images.remove(image)
    assert covered > 100, "the picture shows no clip"


def scrub(rng: random.Random) -> None:
    bpy.context.scene.frame_set(rng.randint(1, 5), subframe=rng.random() * 0.4)
    bpy.ops.render.render()


def load() -> None:
    bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "scene.blend"))
    assert session().clip_count == 0, "the clips of the file before are still open"
    bpy.ops.render.render()


def main() -> None:
    rng = random.Random(4)
    before = registered()
    files = files_of_ours()
    assert bpy.ops.preferences.addon_enable(module=MODULE) == {"FINISHED"}
    enabled = residue(before)
    make_scene()
    bpy.context.scene.render.image_settings.color_mode = "RGBA"
    bpy.context.scene.render.film_transparent = True
    bpy.ops.wm.save_mainfile()
    picture()
    found: dict = {"enabled": enabled}

    for _ in range(WARM):
        scrub(rng)
    held = []
    for _ in range(SCRUBS):
        scrub(rng)
        held.append(Held.now().as_dict())
    found["scrubs"] = held

    for _ in range(WARM):
        load()
    held = []
    for _ in range(LOADS):
        load()
        held.append(Held.now().as_dict())
    found["loads"] = held

    held, left = [], []
    for cycle in range(WARM + CYCLES):
        assert bpy.ops.preferences.addon_disable(module=MODULE) == {"FINISHED"}
        left.append(residue(before))
        assert not threads_of_ours(), threads_of_ours()
        if cycle % 2:  # as an update of the extension does
            for name in [n for n in sys.modules if n == MODULE or n.startswith(f"{MODULE}.")]:
                del sys.modules[name]
        assert bpy.ops.preferences.addon_enable(module=MODULE) == {"FINISHED"}
        bpy.ops.wm.open_mainfile(filepath=str(FOLDER / "scene.blend"))
        bpy.ops.render.render()
        if cycle >= WARM:
            held.append(Held.now().as_dict())
    found["cycles"] = held
    picture()
    bpy.ops.preferences.addon_disable(module=MODULE)
    found["left"] = [one for one in [*left, residue(before)] if one]
    found["files"] = sorted(files_of_ours() - files)
    (FOLDER / "leaks.json").write_text(json.dumps(found))


main()
