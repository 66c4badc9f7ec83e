"""Times of an orbiting viewport, in turns with one that a do-nothing engine draws.

usage: blender -P orbit_times.py -- OUT POINTS ROUNDS SECONDS DEVICE...

A device is one of the scene's viewport devices, such as CPU, or SOLID for Blender's own mode.
Writes OUT/times.json: of every device the gaps between redraws, the callbacks' times, and how many
pictures were shown.
"""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import orbit_scene
import window as w

POINTS, ROUNDS, SECONDS = int(w.ARGUMENTS[1]), int(w.ARGUMENTS[2]), float(w.ARGUMENTS[3])
DEVICES = w.ARGUMENTS[4:]


class DoesNothing(bpy.types.RenderEngine):
    """What is left of a redraw is Blender's own."""

    bl_idname = "PEEL4D_BENCHMARK_NOTHING"
    bl_label = "Nothing"

    def view_update(self, context, depsgraph):
        pass

    def view_draw(self, context, depsgraph):
        pass


class Counter:
    """Times of the redraws, and of what a method is called for the first time."""

    def __init__(self):
        self.redraws, self.pictures = [], 0
        self._last = None
        texture = w.package("addon.render.viewport_draw").PictureTexture
        upload = texture.upload

        def counted(this, rgba, source, fine):
            self.pictures += source is not self._last
            self._last = source
            return upload(this, rgba, source, fine)

        texture.upload = counted
        peeler = w.package("addon.render.gl_peel").Peeler
        begin = peeler.begin

        def begun(this, *arguments, **options):
            self.pictures += 1
            return begin(this, *arguments, **options)

        peeler.begin = begun
        bpy.types.SpaceView3D.draw_handler_add(
            lambda: self.redraws.append(time.perf_counter()), (), "WINDOW", "POST_PIXEL"
        )

    def begin(self):
        self.redraws.clear()
        self.pictures = 0


def times():
    import gpu

    w.OUT.mkdir(parents=True, exist_ok=True)
    clip = w.OUT / "orbit.p4d"
    orbit_scene.write_clip(clip, POINTS)
    orbit_scene.make_scene(clip)
    yield 0.5
    _, region, space = yield from orbit_scene.one_viewport()
    bpy.utils.register_class(DoesNothing)
    counter = Counter()
    rows = {name: new_row() for name in ("nothing", *DEVICES)}
    for _ in range(ROUNDS):
        for name, row in rows.items():
            choose(name, space)
            yield 1.5
            viewports = list(w.package("addon.render.session").SESSION.viewports)
            for viewport in viewports:
                viewport.ui_seconds.clear()
            counter.begin()
            cpu, begin = time.process_time(), time.perf_counter()
            yield from orbit_scene.orbit(space, SECONDS)
            seconds = time.perf_counter() - begin
            row["cpu_ms"].append(1000 * (time.process_time() - cpu) / max(len(counter.redraws), 1))
            row["gaps_ms"].append([1000 * (b - a) for a, b in pairwise(counter.redraws)])
            row["pictures_per_second"].append(counter.pictures / seconds)
            row["callbacks_ms"] += [1000 * one for v in viewports for one in v.ui_seconds]
            report = next((v.report() for v in viewports if v.report() is not None), None)
            if name not in ("nothing", "SOLID") and report is not None:
                row["sizes"].append([report.width, report.height])
                row["points"].append(report.points)
    found = {
        "blender": bpy.app.version_string,
        "graphics": gpu.platform.renderer_get(),
        "region": [region.width, region.height],
        "points": POINTS,
        "rows": rows,
    }
    (w.OUT / "times.json").write_text(json.dumps(found))
    choose("nothing", space)
    yield 0.3
    bpy.context.scene.render.engine = "PEEL4D"
    space.shading.type = "SOLID"
    yield 0.3
    bpy.utils.unregister_class(DoesNothing)


def new_row():
    names = ("gaps_ms", "callbacks_ms", "pictures_per_second", "cpu_ms", "sizes", "points")
    return {name: [] for name in names}


def choose(name, space):
    scene = bpy.context.scene
    scene.render.engine = DoesNothing.bl_idname if name == "nothing" else "PEEL4D"
    space.shading.type = "SOLID" if name == "SOLID" else "RENDERED"
    if name not in ("nothing", "SOLID"):
        scene.peel4d.viewport_backend = name


w.run(times())
