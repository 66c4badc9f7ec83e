# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene that renders the clips of another scene for its compositor.

It holds no objects: it takes the artist's scene as its background set, so that whatever is added
there later is there, too, and its meshes are a holdout. In the artist's compositor an Alpha Over
node lays this picture over what went to the output before, in scene-linear light. Where CG stands
before a clip the clip has a hole with soft edges (see `render.cg_edges`), and CG between the clip's
own layers hides those behind it only, which a comparison of two depths cannot do.
"""

from __future__ import annotations

import contextlib

import bpy

from ...engine.errors import PeelError
from ..render.engine import ENGINE_ID
from .nodes import compositor_is_on, insert_nodes, remove_nodes, switch_compositor_off

#: Settings of the artist's scene that the scene of the clips has to share. Blender itself gives it
#: the frame when it renders for a compositor, but not its fraction.
_SCENE_SETTINGS = ("frame_start", "frame_end", "frame_step", "frame_subframe", "camera")
_RENDER_SETTINGS = (
    "resolution_x",
    "resolution_y",
    "resolution_percentage",
    "pixel_aspect_x",
    "pixel_aspect_y",
    "use_border",
    "use_crop_to_border",
    "border_min_x",
    "border_max_x",
    "border_min_y",
    "border_max_y",
    "fps",
    "fps_base",
    "frame_map_old",
    "frame_map_new",
    "threads_mode",
    "threads",
    "use_multiview",
    # The geometry of a background set is that of the scene which shows it.
    "use_simplify",
    "simplify_subdivision",
    "simplify_subdivision_render",
    "simplify_child_particles",
    "simplify_child_particles_render",
)
_EEVEE = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
#: Blender's names of the engines that render the CG.
ENGINES = {"CYCLES": "CYCLES", "EEVEE": _EEVEE}


def clip_scene_of(scene: bpy.types.Scene) -> bpy.types.Scene | None:
    """The scene that renders the clips of `scene` for its compositor, None without one."""
    for other in bpy.data.scenes:
        if other.peel4d.is_composite and other.background_set == scene:
            return other
    return None


def composite(
    scene: bpy.types.Scene, *, engine: str = "KEEP", samples: str = "2"
) -> bpy.types.Scene:
    """Lay the clips of `scene` over what its compositor gives out. May be called again.

    engine: CYCLES, EEVEE, or KEEP for the scene's own (Cycles if that is Peel4D). samples: of the
    clips' picture, see `Scene.peel4d.samples`; kept when the composite exists already.
    Returns the scene that renders the clips. Raises PeelError; then nothing has changed.
    """
    if scene.peel4d.is_composite:
        raise PeelError(
            "renders the clips of a composite itself",
            where=f"scene '{scene.name}'",
            hint=f"Do this in the scene '{scene.background_set.name}'"
            if scene.background_set
            else "Do this in the scene with the CG",
        )
    if scene.library is not None:
        raise PeelError(
            "belongs to another file", where=f"scene '{scene.name}'", hint="Make it local first"
        )
    before = {
        "engine": scene.render.engine,
        "compositing": scene.render.use_compositing,
        "nodes": compositor_is_on(scene),
    }
    if engine == "KEEP" and scene.render.engine == ENGINE_ID:
        engine = "CYCLES"
    if engine != "KEEP":
        try:
            scene.render.engine = ENGINES[engine]
        except TypeError as error:
            raise PeelError(
                f"the render engine {engine} is not there", hint="Enable it in the preferences"
            ) from error

    before["chosen"] = scene.render.engine

    clips = clip_scene_of(scene)
    if clips is None:
        clips = bpy.data.scenes.new(f"{scene.name} Peel4D")
        clips.peel4d.is_composite = True
        clips.background_set = scene
        clips.peel4d.layers = scene.peel4d.layers
        clips.peel4d.backend = scene.peel4d.backend
        clips.peel4d.samples = samples
    clips.render.engine = ENGINE_ID
    clips.render.film_transparent = True
    clips.render.use_compositing = False
    clips.render.use_sequencer = False
    clips.peel4d.meshes = "HOLDOUT"
    synchronise(clips)

    before = remove_nodes(scene) or before
    scene.render.use_compositing = True
    insert_nodes(scene, clips, before)
    return clips


def remove_composite(scene: bpy.types.Scene) -> None:
    """Undo `composite`: its nodes, its scene, and what it had switched on."""
    before = remove_nodes(scene)
    clips = clip_scene_of(scene)
    if clips is not None:
        bpy.data.scenes.remove(clips)
    if before is None:
        return
    scene.render.use_compositing = bool(before["compositing"])
    if scene.render.engine == before["chosen"]:  # not what the artist has chosen meanwhile
        with contextlib.suppress(TypeError):  # that engine is no longer there
            scene.render.engine = before["engine"]
    if not before["nodes"]:
        switch_compositor_off(scene)


def synchronise(clips: bpy.types.Scene) -> None:
    """Give the scene of the clips the camera, format and frames of the scene that it belongs to."""
    scene = clips.background_set
    if scene is None:
        return
    pairs = ((scene, clips, _SCENE_SETTINGS), (scene.render, clips.render, _RENDER_SETTINGS))
    for source, target, names in pairs:
        for name in names:
            value = getattr(source, name)
            # Writing tags Blender's data for another evaluation even if nothing changes.
            if getattr(target, name) != value:
                setattr(target, name, value)
    # Cameras that are bound to markers switch while an animation renders.
    wanted = [(m.name, m.frame, m.camera) for m in scene.timeline_markers if m.camera]
    if wanted != [(m.name, m.frame, m.camera) for m in clips.timeline_markers]:
        clips.timeline_markers.clear()
        for name, frame, camera in wanted:
            clips.timeline_markers.new(name, frame=frame).camera = camera
