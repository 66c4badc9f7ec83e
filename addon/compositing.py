# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips over the pictures of Cycles and EEVEE.

A scene of its own renders the clips with Peel4D. It holds no objects: it takes the artist's scene
as its background set, so that whatever is added there later is there, too, and its meshes are a
holdout. In the artist's compositor one Alpha Over node lays this picture over what went to the
output before, in scene-linear light. Where CG stands before a clip the clip has a hole, which is
exact at soft edges, unlike a comparison of depths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import bpy
from bpy.app.handlers import persistent
from bpy.props import EnumProperty

from ..engine.errors import PeelError
from .render.engine import ENGINE_ID

#: Marks our nodes; the Alpha Over node keeps there what "Remove" restores.
MARK = "peel4d"
#: Settings of the artist's scene that the scene of the clips has to share.
_SCENE_SETTINGS = ("frame_start", "frame_end", "frame_step", "camera")
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
)
_EEVEE = "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"
_ENGINES = {"CYCLES": "CYCLES", "EEVEE": _EEVEE}


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
        "nodes": _compositor_is_on(scene),
    }
    if engine == "KEEP" and scene.render.engine == ENGINE_ID:
        engine = "CYCLES"
    if engine != "KEEP":
        try:
            scene.render.engine = _ENGINES[engine]
        except TypeError as error:
            raise PeelError(
                f"the render engine {engine} is not there", hint="Enable it in the preferences"
            ) from error

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

    before = _remove_nodes(scene) or before
    scene.render.use_compositing = True
    _insert_nodes(scene, clips, before)
    return clips


def remove_composite(scene: bpy.types.Scene) -> None:
    """Undo `composite`: its nodes, its scene, and what it had switched on."""
    before = _remove_nodes(scene)
    clips = clip_scene_of(scene)
    if clips is not None:
        bpy.data.scenes.remove(clips)
    if before is None:
        return
    scene.render.use_compositing = bool(before["compositing"])
    with contextlib.suppress(TypeError):  # that engine is no longer there
        scene.render.engine = before["engine"]
    if not before["nodes"]:
        _switch_compositor_off(scene)


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


def _insert_nodes(
    scene: bpy.types.Scene, clips: bpy.types.Scene, before: Mapping[str, object]
) -> None:
    """before: what `_remove_nodes` gives back."""
    tree = _compositor(scene)
    output = _output(tree)
    target = output.inputs["Image"]
    link = next(iter(target.links), None)
    state = dict(before)
    if link is not None and before["nodes"]:
        background = link.from_socket
    else:
        # A compositor that was off would now change the picture: it stays out of it.
        if link is not None:
            state |= {"node": link.from_node.name, "socket": link.from_socket.identifier}
        background = _layers_node(tree, scene, "CG", (output.location.x - 300, output.location.y))
        background = background.outputs["Image"]
    foreground = _layers_node(
        tree, clips, "Peel4D Clips", (output.location.x - 300, output.location.y - 420)
    )
    over = tree.nodes.new("CompositorNodeAlphaOver")
    over.name = over.label = "Peel4D Over CG"
    over.location = output.location
    output.location.x += 240
    over[MARK] = state
    below, above = _alpha_over_inputs(over)
    tree.links.new(background, below)
    tree.links.new(foreground.outputs["Image"], above)
    tree.links.new(over.outputs["Image"], target)


def _remove_nodes(scene: bpy.types.Scene) -> dict[str, object] | None:
    """Take our nodes out and join what they parted; what `composite` found, None without them."""
    tree = _existing_compositor(scene)
    ours = [] if tree is None else [node for node in tree.nodes if MARK in node]
    before = None
    for over in [node for node in ours if node.bl_idname == "CompositorNodeAlphaOver"]:
        state = dict(over[MARK])
        source = None
        if state.get("node", "") in tree.nodes:
            outputs = tree.nodes[state["node"]].outputs
            source = next((s for s in outputs if s.identifier == state["socket"]), None)
        elif _alpha_over_inputs(over)[0].links:
            link = _alpha_over_inputs(over)[0].links[0]
            source = None if MARK in link.from_node else link.from_socket
        for target in [link.to_socket for link in over.outputs["Image"].links]:
            if source is not None:
                tree.links.new(source, target)
            target.node.location.x -= 240
        before = {name: state[name] for name in ("engine", "compositing", "nodes")}
    for node in ours:
        tree.nodes.remove(node)
    return before


def _layers_node(
    tree: bpy.types.NodeTree, scene: bpy.types.Scene, name: str, location: tuple[float, float]
) -> bpy.types.Node:
    node = tree.nodes.new("CompositorNodeRLayers")
    node.scene = scene
    node.name = node.label = name
    node.location = location
    node[MARK] = {"scene": scene.name}
    return node


def _alpha_over_inputs(
    over: bpy.types.Node,
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Background and foreground; their names and the order of the others changed in 5.0."""
    background, foreground = [socket for socket in over.inputs if socket.type == "RGBA"]
    return background, foreground


# Blender 5 keeps the compositor in a node group like any other; before, the scene owned a tree.


def _compositor_is_on(scene: bpy.types.Scene) -> bool:
    tree = _existing_compositor(scene)
    if bpy.app.version >= (5, 0, 0):
        return tree is not None
    return tree is not None and scene.use_nodes


def _existing_compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    if bpy.app.version >= (5, 0, 0):
        return scene.compositing_node_group
    return scene.node_tree


def _compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    if bpy.app.version >= (5, 0, 0):
        if scene.compositing_node_group is None:
            tree = bpy.data.node_groups.new(f"{scene.name} Compositing", "CompositorNodeTree")
            tree[MARK] = True
            scene.compositing_node_group = tree
        return scene.compositing_node_group
    scene.use_nodes = True  # which makes the tree with its two nodes
    return scene.node_tree


def _switch_compositor_off(scene: bpy.types.Scene) -> None:
    if bpy.app.version < (5, 0, 0):
        scene.use_nodes = False
        return
    tree = scene.compositing_node_group
    scene.compositing_node_group = None
    # Whatever else the artist has put into it meanwhile is kept.
    if tree is not None and MARK in tree and len(tree.nodes) <= 1 and tree.users == 0:
        bpy.data.node_groups.remove(tree)


def _output(tree: bpy.types.NodeTree) -> bpy.types.Node:
    """The node whose image the compositor gives out, with an input "Image"."""
    if bpy.app.version < (5, 0, 0):
        outputs = [node for node in tree.nodes if node.bl_idname == "CompositorNodeComposite"]
        if tree.nodes.active in outputs:
            return tree.nodes.active
        return outputs[0] if outputs else tree.nodes.new("CompositorNodeComposite")
    if not any(
        item.in_out == "OUTPUT" and item.name == "Image"
        for item in tree.interface.items_tree
        if item.item_type == "SOCKET"
    ):
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    outputs = [node for node in tree.nodes if node.bl_idname == "NodeGroupOutput"]
    for node in outputs:
        if node.is_active_output:
            return node
    return tree.nodes.new("NodeGroupOutput")


class Peel4DComposite(bpy.types.Operator):
    """Render the clips with Peel4D and lay them over this scene's picture from Cycles or EEVEE.
    Objects in front of a clip hide it"""

    bl_idname = "scene.peel4d_composite"
    bl_label = "Composite With Cycles/EEVEE"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    engine: EnumProperty(
        name="Engine",
        description="What renders everything but the clips",
        items=(
            ("KEEP", "As It Is", "The scene's engine; Cycles where that is Peel4D"),
            ("CYCLES", "Cycles", ""),
            ("EEVEE", "EEVEE", ""),
        ),
        default="KEEP",
    )
    samples: EnumProperty(
        name="Samples",
        description="Samples of the clips' picture per pixel along each axis; more than one "
        "smooths the edges of objects in front",
        items=(("1", "1", ""), ("2", "2", ""), ("4", "4", "")),
        default="2",
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.scene.peel4d.is_composite:
            cls.poll_message_set("This scene renders the clips of a composite itself")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            clips = composite(context.scene, engine=self.engine, samples=self.samples)
        except PeelError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if not any(item.peel4d.is_clip for item in context.scene.objects):
            self.report({"WARNING"}, "There is no clip in this scene yet")
        self.report({"INFO"}, f"The scene '{clips.name}' renders the clips")
        return {"FINISHED"}


class Peel4DRemoveComposite(bpy.types.Operator):
    """Remove the compositor nodes and the scene that Composite With Cycles/EEVEE has made"""

    bl_idname = "scene.peel4d_remove_composite"
    bl_label = "Remove Composite"
    bl_options = {"REGISTER", "UNDO"}  # noqa: RUF012 (Blender's own attribute)

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return clip_scene_of(context.scene) is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        remove_composite(context.scene)
        return {"FINISHED"}


class PEEL4D_VIEW3D_PT_composite(bpy.types.Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Peel4D"
    bl_label = "Composite"
    bl_order = 50
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012 (Blender's own attribute)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        clips = clip_scene_of(context.scene)
        if clips is None:
            layout.operator(Peel4DComposite.bl_idname, icon="NODE_COMPOSITING")
            return
        layout.label(text=f"Clips: scene '{clips.name}'", icon="SCENE_DATA")
        layout.prop(clips.peel4d, "samples")
        layout.prop(clips.peel4d, "layers")
        layout.prop(clips.peel4d, "backend")
        layout.operator(Peel4DRemoveComposite.bl_idname, icon="X")


@persistent
def _synchronise(scene: bpy.types.Scene, *_args: object) -> None:
    """Before a picture is rendered, and whenever something changes."""
    clips = scene if scene.peel4d.is_composite else clip_scene_of(scene)
    if clips is not None:
        synchronise(clips)


CLASSES = (Peel4DComposite, Peel4DRemoveComposite, PEEL4D_VIEW3D_PT_composite)


def _handlers() -> tuple[list, ...]:
    handlers = bpy.app.handlers
    return handlers.render_pre, handlers.depsgraph_update_post


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for handlers in _handlers():
        handlers.append(_synchronise)


def unregister() -> None:
    for handlers in _handlers():
        if _synchronise in handlers:
            handlers.remove(_synchronise)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
