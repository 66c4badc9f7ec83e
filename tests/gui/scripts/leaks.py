"""Scrubs, file loads, and disabling and enabling while viewports show a clip.

usage: blender -P leaks.py -- OUT CLIP CAPTURE {CPU|GL}

One viewport is in Rendered mode, one in Solid with the overlay. Writes OUT/leaks.json: what the
process held after each round of each loop, and what was left behind when the add-on was disabled.
"""

import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import window as w
from resources import Held, registered, residue, threads_of_ours

CLIP, CAPTURE, BACKEND = w.ARGUMENTS[1:4]
SCRUBS, LOADS, CYCLES = 200, 50, 20
#: Rounds before the measurement, and between two measurements (which take a while themselves).
WARM, PAUSE = 6, {"scrubs": 5, "loads": 2, "cycles": 1}


def leaks():
    found = {}
    w.OUT.mkdir(parents=True, exist_ok=True)
    yield from disable()
    before = registered()
    yield from enable()
    found["enabled"] = {kind: len(names) for kind, names in residue(before).items()}
    yield from make_scene()
    rng = random.Random(4)
    left = []
    for name, rounds, action in (
        ("scrubs", SCRUBS, lambda: scrub(rng)),
        ("loads", LOADS, load),
        ("cycles", CYCLES, lambda: cycle(before, left)),
    ):
        found[name] = yield from repeated(name, rounds, action)
    yield from load()
    w.save("cycled")
    yield from disable()
    left.append(residue(before))
    found["left"] = [one for one in left if one]
    found["threads"] = sorted(threads_of_ours())
    (w.OUT / "leaks.json").write_text(json.dumps(found))


def repeated(name, rounds, action):
    """Do it again and again; what was held now and then, after the first few."""
    held = []
    begin = time.monotonic()
    for index in range(WARM + rounds):
        yield from action()
        if index >= WARM and index % PAUSE[name] == 0:
            held.append(Held.now().as_dict())
    seconds = time.monotonic() - begin
    print(f"{rounds} {name}: {seconds:.0f} s, {held[0]} -> {held[-1]}", flush=True)
    return held


def make_scene():
    bpy.ops.wm.read_homefile(use_empty=False)
    yield 0.5
    scene = bpy.context.scene
    for name in ("Light", "Camera"):
        bpy.data.objects.remove(bpy.data.objects[name])
    cube = bpy.data.objects["Cube"]
    cube.scale, cube.location = (0.1, 0.1, 0.5), (0.35, 0.0, 0.0)
    window, area, region = w.area_of()
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.5)
    yield 0.3
    bpy.ops.wm.save_as_mainfile(filepath=str(w.OUT / "scene.blend"))
    assert bpy.ops.import_scene.peel4d_capture(filepath=CAPTURE) == {"FINISHED"}
    assert bpy.ops.import_scene.peel4d(filepath=CLIP, up="Z") == {"FINISHED"}
    scene.frame_start, scene.frame_end = 1, 5
    scene.render.engine = "PEEL4D"
    scene.peel4d.viewport_backend = BACKEND
    for one in areas():
        view = one.spaces.active.region_3d
        view.view_location, view.view_distance = (0, 0, 0), 3.0
    yield from look()
    bpy.ops.wm.save_mainfile()
    w.save("scene")


def areas():
    return [area for area in bpy.context.screen.areas if area.type == "VIEW_3D"]


def look():
    """Rendered beside Solid; Blender opens no file in Rendered mode."""
    for mode, area in zip(("RENDERED", "SOLID"), areas(), strict=True):
        area.spaces.active.shading.type = mode
    yield 0.05
    yield from drawn()


def drawn():
    """Until both viewports show the clip: the picture has settled and is not empty."""
    session = w.package("addon.render.session").SESSION
    yield from w.until(
        lambda: bool(session.viewports) and all(v.is_complete for v in session.viewports),
        "the rendered viewport is complete",
    )
    yield 0.06
    problem = w.package("addon.render.overlay").OVERLAY.problem
    assert problem is None, problem


def scrub(rng):
    bpy.context.scene.frame_set(rng.randint(1, 5), subframe=0.4 * rng.random())
    yield from drawn()


def load():
    bpy.ops.wm.open_mainfile(filepath=str(w.OUT / "scene.blend"))
    yield 0.1
    yield from look()


def cycle(before, left):
    yield from disable()
    left.append(residue(before))
    assert not threads_of_ours(), threads_of_ours()
    if len(left) % 2:  # as an update does
        for name in [n for n in sys.modules if n == w.MODULE or n.startswith(f"{w.MODULE}.")]:
            del sys.modules[name]
    yield from enable()
    yield from load()


def disable():
    assert bpy.ops.preferences.addon_disable(module=w.MODULE) == {"FINISHED"}
    yield 0.1


def enable():
    assert bpy.ops.preferences.addon_enable(module=w.MODULE) == {"FINISHED"}
    yield 0.1


w.run(leaks())
