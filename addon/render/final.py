# SPDX-License-Identifier: GPL-3.0-or-later
"""A final render: one picture of one view layer."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from mathutils import Color

from ...engine.errors import PeelError
from ...engine.render.backend import Instance
from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh
from . import color, view
from .cg_edges import edges_of_cg
from .meshes import Surfaces, collect_surfaces, shade
from .picture import Quality, peel
from .prefetch import prefetch, step_between
from .scene import ClipScene, collect
from .session import SESSION

#: Depth of a pixel that shows nothing, as Blender's own engines write it.
NO_DEPTH = 1e10
#: Shares of the progress bar: reading and drawing.
_READ, _DRAWN = 0.2, 0.9


@dataclass(frozen=True, eq=False)
class FinalPicture:
    """Everything that a picture depends on, copied out of Blender's data.

    camera: of the window that is rendered. full_width, full_height: of the full frame.
    background: scene-linear colour (3,) behind the clips; None = transparent film.
    rec709_to_scene_linear: (3, 3), None where the working space is linear Rec. 709.
    step: scene frames to the next picture of the animation, None where none is expected.
    edges: whether the passes of `cg_edges` are wanted.
    """

    clips: ClipScene
    surfaces: Surfaces
    camera: Camera
    quality: Quality
    full_width: int
    full_height: int
    view_layer: str
    background: np.ndarray | None
    rec709_to_scene_linear: np.ndarray | None
    step: float | None
    edges: bool


def read(engine: bpy.types.RenderEngine, depsgraph: bpy.types.Depsgraph) -> FinalPicture:
    """Copy what the picture needs while Blender keeps its data still. Raises PeelError."""
    scene = depsgraph.scene_eval
    render = scene.render
    if render.use_multiview:
        raise PeelError("stereoscopy is not supported", hint="Switch it off in Output Properties")
    camera_object = engine.camera_override or scene.camera
    if camera_object is None:
        raise PeelError("the scene has no camera", where=f"scene '{scene.name}'")
    full = view.full_camera(camera_object.evaluated_get(depsgraph), depsgraph, render)
    window = view.render_window(render)
    clips = collect(depsgraph, SESSION)
    last, SESSION.last_final_time = SESSION.last_final_time, clips.time
    return FinalPicture(
        clips=clips,
        surfaces=collect_surfaces(depsgraph, scene.peel4d.meshes, SESSION.geometry),
        camera=full.crop(window.x, window.y, window.width, window.height),
        quality=Quality(int(scene.peel4d.samples), scene.peel4d.backend.lower(), threads(render)),
        full_width=full.width,
        full_height=full.height,
        view_layer=depsgraph.view_layer_eval.name,
        background=None if render.film_transparent else world_color(scene.world),
        rec709_to_scene_linear=rec709_to_scene_linear(),
        step=None if last in (None, clips.time) else step_between(last, clips.time),
        edges=scene.peel4d.is_composite,
    )


def draw(engine: bpy.types.RenderEngine, picture: FinalPicture) -> None:
    """Decode, peel and hand the passes to Blender. Raises PeelError."""
    clips = picture.clips
    if not clips.clip_count:
        engine.report({"WARNING"}, "Peel4D: no clip is visible; the picture shows none")
    instances = []
    for index, item in enumerate(clips.instances):
        if engine.test_break():
            return
        engine.update_stats("Peel4D", f"Reading clip {index + 1}/{len(clips.instances)}")
        for part in SESSION.points(item):
            instances.append(Instance(part, item.matrix, item.opacity, index))
        engine.update_progress(_READ * (index + 1) / len(clips.instances))
    if picture.step is not None:
        prefetch(clips, picture.step)  # while this one is being drawn
    text = _contents(instances, picture.surfaces)
    engine.update_stats("Peel4D", text)

    meshes = shade(picture.surfaces, picture.camera)
    # What the picture needs comes last: all of them are drawn on the same canvas.
    steps = [(instances, meshes)]
    if picture.edges and meshes:
        # A holdout has no depth.
        solid = [Mesh(mesh.vertices, mesh.triangles, np.zeros(3)) for mesh in meshes]
        steps = [([], solid), (instances, []), *steps]
    drawn = []
    for number, (points, triangles) in enumerate(steps):

        def progress(done: float, number: int = number) -> None:
            done = (number + done) / len(steps)
            engine.update_progress(_READ + (_DRAWN - _READ) * done)
            engine.update_stats("Peel4D", f"{text} | {done:.0%}")

        rendered = peel(
            points,
            triangles,
            picture.camera,
            clips.settings,
            picture.quality,
            canvas=SESSION.canvas,
            stop=engine.test_break,
            progress=progress,
        )
        if rendered is None:
            return
        drawn.append((rendered.rgba[..., 3].copy(), rendered.depth.copy()))
    rgba = color.scene_linear_from_clip(rendered.rgba, picture.rec709_to_scene_linear)
    if picture.background is not None:
        rgba = color.over_background(rgba, picture.background)
    depth = np.where(np.isfinite(rendered.depth), rendered.depth, np.float32(NO_DEPTH))
    passes = {"Combined": rgba, "Depth": depth}
    if len(drawn) > 1:
        (_, cg_depth), (free, _), (held, _) = drawn
        passes |= edges_of_cg(held, free, cg_depth)
    _write(engine, picture, passes)
    SESSION.told_failure = ""
    engine.update_stats("Peel4D", f"{text} | {rendered.backend.upper()}")
    engine.update_progress(1.0)


def _contents(instances: list[Instance], surfaces: Surfaces) -> str:
    clips = len({instance.id for instance in instances})
    text = f"{clips} clip(s), {sum(len(one.splats) for one in instances):,} points"
    return f"{text}, {len(surfaces):,} triangles" if len(surfaces) else text


def _write(
    engine: bpy.types.RenderEngine, picture: FinalPicture, passes: dict[str, np.ndarray]
) -> None:
    """passes: by Blender's name, (H, W[, channels]) float32 of the render window, row 0 = top."""
    # Blender cuts the rectangle to the border by itself.
    result = engine.begin_result(
        0, 0, picture.full_width, picture.full_height, layer=picture.view_layer
    )
    expected = (picture.camera.width, picture.camera.height)
    if (result.resolution_x, result.resolution_y) != expected:
        engine.end_result(result, cancel=True)
        raise PeelError(
            f"Blender wants {result.resolution_x}x{result.resolution_y} pixels, "
            f"{expected[0]}x{expected[1]} were rendered",
            hint="Please report this with the render border and the resolution",
        )
    for render_pass in result.layers[0].passes:
        pixels = passes.get(render_pass.name)
        if pixels is not None:
            render_pass.rect.foreach_set(np.ascontiguousarray(pixels[::-1], np.float32).ravel())
    engine.end_result(result)


def threads(render: bpy.types.RenderSettings) -> int:
    """For the CPU, 0 = one per core."""
    return render.threads if render.threads_mode == "FIXED" else 0


def world_color(world: bpy.types.World | None) -> np.ndarray:
    """The world's plain colour, scene-linear (3,); its nodes belong to other engines."""
    return np.zeros(3) if world is None else np.array(world.color, dtype=np.float64)


def rec709_to_scene_linear() -> np.ndarray | None:
    """(3, 3) from OpenColorIO's configuration, None for the identity (Blender's default)."""
    columns = [
        Color(unit).from_rec709_linear_to_scene_linear()
        for unit in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    ]
    matrix = np.array(columns, dtype=np.float64).T
    return None if np.allclose(matrix, np.eye(3), atol=1e-5) else matrix
