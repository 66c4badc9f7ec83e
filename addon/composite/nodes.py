# SPDX-License-Identifier: GPL-3.0-or-later
"""The compositor nodes that lay one scene's picture over another's, in every version of Blender."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import bpy
from mathutils import Vector

from ..render.cg_edges import EDGE, OUTSIDE, REACH
from ..render.meshes import rendered_layer

#: Marks our nodes; the Alpha Over node keeps there what `remove_nodes` gives back.
MARK = "peel4d"
#: What the Alpha Over node keeps: the engine before, the one that was chosen for the composite, and
#: whether compositing and its nodes were switched on before.
_BEFORE = ("engine", "chosen", "compositing", "nodes")
#: Distance of our nodes, and how far the output makes room for them.
_STEP, _MOVED = 200.0, 1000.0
#: Blender 5 keeps the compositor in a node group like any other; before, the scene owned a tree.
_IS_GROUP = bpy.app.version >= (5, 0, 0)
_MATH = "ShaderNodeMath" if _IS_GROUP else "CompositorNodeMath"


def insert_nodes(
    scene: bpy.types.Scene, clips: bpy.types.Scene, before: Mapping[str, object]
) -> None:
    """Lay the picture of `clips` over what the compositor of `scene` gives out.

    before: what "Remove" restores, with "nodes", whether the compositor was on.
    """
    tree = _made_tree(scene)
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
        place = (output.location.x - 300, output.location.y + 380)  # above the artist's own
        background = _layers_node(tree, scene, "CG", place)
        background = background.outputs["Image"]
    foreground = _layers_node(
        tree, clips, "Peel4D Clips", (output.location.x - 300, output.location.y - 420)
    )
    clips.view_layers[0].update_render_passes()  # or the node has no sockets for them yet
    place = output.location.copy()
    output.location.x += _MOVED
    over = _marked(
        tree, "CompositorNodeAlphaOver", "Peel4D Over CG", (place.x + 4 * _STEP, place.y), state
    )
    below, above = _alpha_over_inputs(over)
    tree.links.new(_mended(tree, background, foreground, place), below)
    tree.links.new(foreground.outputs["Image"], above)
    tree.links.new(over.outputs["Image"], target)


def _mended(
    tree: bpy.types.NodeTree,
    picture: bpy.types.NodeSocket,
    clips: bpy.types.Node,
    place: Vector,
) -> bpy.types.NodeSocket:
    """The picture of the CG with the edges that the pass EDGE of the clips names mended."""
    row = place.y - 180
    # Inpaint takes colours from where alpha is exactly 1, and Workbench's own is a little less.
    opaque = _marked(tree, "CompositorNodeSetAlpha", "Peel4D CG Opaque", (place.x, row))
    if "Type" in opaque.inputs:  # since 5.0
        opaque.inputs["Type"].default_value = "Replace Alpha"
    else:
        opaque.mode = "REPLACE_ALPHA"
    tree.links.new(picture, opaque.inputs["Image"])
    alone = _marked(tree, _MATH, "Peel4D CG Alone", (place.x, row - 180))
    alone.operation = "SUBTRACT"
    alone.inputs[0].default_value = 1.0
    tree.links.new(clips.outputs[OUTSIDE], alone.inputs[1])
    inside = _marked(tree, "CompositorNodeSetAlpha", "Peel4D CG Inside", (place.x + _STEP, row))
    tree.links.new(opaque.outputs["Image"], inside.inputs["Image"])
    tree.links.new(alone.outputs[0], inside.inputs["Alpha"])
    grown = _marked(tree, "CompositorNodeInpaint", "Peel4D CG Grown", (place.x + 2 * _STEP, row))
    tree.links.new(inside.outputs["Image"], grown.inputs["Image"])
    if "Size" in grown.inputs:  # since 4.5
        grown.inputs["Size"].default_value = REACH
    else:
        grown.distance = REACH
    mended = _marked(
        tree, "CompositorNodeAlphaOver", "Peel4D Mended Edges", (place.x + 3 * _STEP, place.y)
    )
    below, above = _alpha_over_inputs(mended)
    tree.links.new(picture, below)
    tree.links.new(grown.outputs["Image"], above)
    factor = next(s for s in mended.inputs if s.type == "VALUE")  # its name changed in 5.0
    tree.links.new(clips.outputs[EDGE], factor)
    return mended.outputs["Image"]


def remove_nodes(scene: bpy.types.Scene) -> dict[str, object] | None:
    """Take our nodes out and join what they parted; what `insert_nodes` was given, None without."""
    tree = existing_tree(scene)
    ours = _our_nodes(scene)
    before = None
    for over in [node for node in ours if "nodes" in node[MARK]]:
        state = dict(over[MARK])
        if state.get("node", "") in tree.nodes:
            outputs = tree.nodes[state["node"]].outputs
            source = next((s for s in outputs if s.identifier == state["socket"]), None)
        else:
            source = _background(over)
        for target in [link.to_socket for link in over.outputs["Image"].links]:
            if source is not None:
                tree.links.new(source, target)
            target.node.location.x -= _MOVED
        before = {name: state.get(name) for name in _BEFORE}
    for node in ours:
        tree.nodes.remove(node)
    return before


def has_nodes(scene: bpy.types.Scene) -> bool:
    """Whether our nodes are in the compositor of `scene`."""
    return bool(_our_nodes(scene))


def is_whole(scene: bpy.types.Scene, clips: bpy.types.Scene | None) -> bool:
    """Whether our nodes are there and take the picture of `clips`: a copied scene shows another's.

    Nodes may be muted or linked otherwise, which is up to the artist.
    """
    ours = _our_nodes(scene)
    layers = [node for node in ours if node.bl_idname == "CompositorNodeRLayers"]
    return any("nodes" in node[MARK] for node in ours) and any(
        node.scene == clips for node in layers if clips is not None
    )


def compositor_is_on(scene: bpy.types.Scene) -> bool:
    if existing_tree(scene) is None:
        return False
    return _IS_GROUP or scene.use_nodes


def existing_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    return scene.compositing_node_group if _IS_GROUP else scene.node_tree


def switch_compositor_off(scene: bpy.types.Scene) -> None:
    if not _IS_GROUP:
        scene.use_nodes = False
        return
    tree = scene.compositing_node_group
    scene.compositing_node_group = None
    # Whatever else the artist has put into it meanwhile is kept.
    if tree is not None and MARK in tree and len(tree.nodes) <= 1 and tree.users == 0:
        bpy.data.node_groups.remove(tree)


def _our_nodes(scene: bpy.types.Scene) -> list[bpy.types.Node]:
    tree = existing_tree(scene)
    return [] if tree is None else [node for node in tree.nodes if MARK in node]


def _background(over: bpy.types.Node) -> bpy.types.NodeSocket | None:
    """What lies below our nodes, None where that is one of them, too."""
    while True:
        link = next(iter(_alpha_over_inputs(over)[0].links), None)
        if link is None or MARK not in link.from_node:
            return None if link is None else link.from_socket
        over = link.from_node
        if over.bl_idname != "CompositorNodeAlphaOver":
            return None


def _marked(
    tree: bpy.types.NodeTree,
    kind: str,
    name: str,
    location: tuple[float, float],
    state: Mapping[str, object] = MappingProxyType({"part": True}),
) -> bpy.types.Node:
    node = tree.nodes.new(kind)
    node.name = node.label = name
    node.location = location
    node[MARK] = dict(state)
    return node


def _layers_node(
    tree: bpy.types.NodeTree, scene: bpy.types.Scene, name: str, location: tuple[float, float]
) -> bpy.types.Node:
    node = _marked(tree, "CompositorNodeRLayers", name, location)
    node.scene = scene
    node.layer = rendered_layer(scene).name
    return node


def _alpha_over_inputs(
    over: bpy.types.Node,
) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Background and foreground; their names and the order of the others changed in 5.0."""
    background, foreground = [socket for socket in over.inputs if socket.type == "RGBA"]
    return background, foreground


def _made_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    if not _IS_GROUP:
        scene.use_nodes = True  # which makes the tree with its two nodes
        return scene.node_tree
    if scene.compositing_node_group is None:
        tree = bpy.data.node_groups.new(f"{scene.name} Compositing", "CompositorNodeTree")
        tree[MARK] = True
        scene.compositing_node_group = tree
    return scene.compositing_node_group


def _output(tree: bpy.types.NodeTree) -> bpy.types.Node:
    """The node whose image the compositor gives out, with an input "Image"."""
    if not _IS_GROUP:
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
