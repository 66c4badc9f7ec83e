# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""Materials that one can see through: which of them hide clips, and what the artist is told."""

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy")
from composite_shot import (
    assert_composite,
    picture,
    reference,
    shot,
)

from peel4d.addon.composite.operators import warnings
from peel4d.addon.composite.soft_edges import softness_of
from peel4d.addon.render.materials import Opacity, opacity_of
from peel4d.addon.render.meshes import GeometryCache, collect_surfaces

pytestmark = pytest.mark.blender
__all__ = ["picture", "shot"]  # fixtures


def material(*shaders, surface=True, **values):
    """Shaders, mixed where there are several, at the output's Surface or its Volume."""
    made = bpy.data.materials.new("made")
    made.use_nodes = True
    tree = made.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    nodes = [tree.nodes.new(f"ShaderNode{shader}") for shader in shaders]
    for name, value in values.items():
        nodes[0].inputs[name.replace("_", " ")].default_value = value
    last = nodes[0]
    for node in nodes[1:]:
        mix = tree.nodes.new("ShaderNodeMixShader")
        tree.links.new(last.outputs[0], mix.inputs[1])
        tree.links.new(node.outputs[0], mix.inputs[2])
        last = mix
    tree.links.new(last.outputs[0], output.inputs["Surface" if surface else "Volume"])
    return made


def with_texture_of_alpha():
    made = material("BsdfPrincipled")
    tree = made.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    shader = next(n for n in tree.nodes if n.type == "BSDF_PRINCIPLED")
    tree.links.new(texture.outputs["Alpha"], shader.inputs["Alpha"])
    return made


def in_a_group():
    group = bpy.data.node_groups.new("glass", "ShaderNodeTree")
    group.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    glass, inner = group.nodes.new("ShaderNodeBsdfGlass"), group.nodes.new("NodeGroupOutput")
    group.links.new(glass.outputs[0], inner.inputs[0])
    made = material("Emission")
    tree = made.node_tree
    node = tree.nodes.new("ShaderNodeGroup")
    node.node_tree = group
    through = tree.nodes.new("NodeReroute")
    tree.links.new(node.outputs[0], through.inputs[0])
    output = next(n for n in tree.nodes if n.type == "OUTPUT_MATERIAL")
    tree.links.new(through.outputs[0], output.inputs["Surface"])
    return made


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, Opacity.SOLID),
        (lambda: material("BsdfPrincipled"), Opacity.SOLID),
        (lambda: material("BsdfDiffuse", "Emission"), Opacity.SOLID),
        (lambda: material("BsdfGlass"), Opacity.CLEAR),
        (lambda: material("BsdfPrincipled", Transmission_Weight=1.0), Opacity.CLEAR),
        (lambda: material("BsdfPrincipled", Alpha=0.1), Opacity.CLEAR),
        (lambda: material("BsdfPrincipled", Alpha=0.8), Opacity.PARTLY),
        (lambda: material("BsdfTransparent", "BsdfDiffuse"), Opacity.PARTLY),
        (lambda: material("BsdfTransparent", "BsdfGlass"), Opacity.CLEAR),
        (with_texture_of_alpha, Opacity.PARTLY),
        (in_a_group, Opacity.CLEAR),
        (lambda: material("Holdout"), Opacity.HOLDOUT),
        (lambda: material("VolumePrincipled", surface=False), Opacity.NONE),
    ],
)
def test_what_can_be_seen_through(scene, make, expected):
    assert opacity_of(make()) is expected


def test_a_material_without_nodes_is_solid(scene):
    plain = bpy.data.materials.new("plain")
    plain.use_nodes = False
    assert opacity_of(plain) is Opacity.SOLID


def surfaces(mode):
    depsgraph = bpy.context.evaluated_depsgraph_get()
    depsgraph.update()
    return collect_surfaces(depsgraph, mode, GeometryCache())


def cube_of(*materials):
    """A cube whose faces have these materials by turns."""
    bpy.ops.mesh.primitive_cube_add(size=3.0)
    cube = bpy.context.object
    for one in materials:
        cube.data.materials.append(one)
    for polygon in cube.data.polygons:
        polygon.material_index = polygon.index % max(len(materials), 1)
    return cube


def test_volumes_are_no_things_and_glass_hides_no_clip(scene):
    cube_of(
        material("BsdfDiffuse"), material("BsdfGlass"), material("VolumeScatter", surface=False)
    )
    shaded, held = surfaces("SHADED"), surfaces("HOLDOUT")
    assert (len(shaded.triangles), len(shaded.holdout_triangles)) == (8, 0)
    assert (len(held.triangles), len(held.holdout_triangles)) == (0, 4)


def test_a_holdout_shader_hides_in_any_mode(scene):
    cube_of(material("BsdfDiffuse"), material("Holdout"))
    shaded = surfaces("SHADED")
    assert (len(shaded.triangles), len(shaded.holdout_triangles)) == (6, 6)


def test_what_only_reflects_hides_nothing(scene):
    cube = cube_of()
    group = bpy.data.collections.new("reflected")
    scene.collection.children.link(group)
    for collection in cube.users_collection:
        collection.objects.unlink(cube)
    group.objects.link(cube)
    assert len(surfaces("SHADED")) == 12
    bpy.context.view_layer.layer_collection.children["reflected"].indirect_only = True
    assert len(surfaces("SHADED")) == 0


def test_fog_around_the_clip_does_not_take_it_away(shot, clip_path, picture):
    bare = picture(shot, 1)
    cube = cube_of(material("VolumeScatter", surface=False))
    cube.data.materials[0].node_tree.nodes[1].inputs["Density"].default_value = 0.0
    assert bpy.ops.scene.peel4d_composite() == {"FINISHED"}
    assert_composite(picture(shot, 1), reference(shot, clip_path, 1, 2), bare)


def test_cg_for_indirect_light_cuts_no_hole(shot, clip_path, picture):
    """The collection's setting is that of the artist's view layer, not of the clips' own."""
    shot.objects["ring"].hide_render = True
    ring = shot.objects["ring"].copy()
    ring.hide_render = False
    group = bpy.data.collections.new("reflected")
    shot.collection.children.link(group)
    group.objects.link(ring)
    shot.view_layers[0].layer_collection.children["reflected"].indirect_only = True
    assert bpy.ops.scene.peel4d_composite() == {"FINISHED"}
    result = picture(shot, 1)
    ring.hide_render = True
    assert np.array_equal(result, picture(shot, 1))
    ring.hide_render = False
    shot.view_layers[0].layer_collection.children["reflected"].indirect_only = False
    assert not np.array_equal(result, picture(shot, 1))


def test_what_the_artist_is_told(shot, capfd):
    assert warnings(softness_of(shot)) == []
    for name, made in (("leaf", with_texture_of_alpha()), ("pane", material("BsdfGlass"))):
        cube_of(made).name = name
    hair = bpy.data.hair_curves.new("hair")
    shot.collection.objects.link(bpy.data.objects.new("hair", hair))
    shot.render.use_motion_blur = True
    shot.camera.data.dof.use_dof = True
    bpy.ops.scene.peel4d_composite()
    told = capfd.readouterr().out
    for line in (
        "Hide clips as if opaque: leaf",
        "Never hide clips, being clear: pane",
        "Hair and points never hide clips: hair",
        "Clips and the holes in them stay sharp: motion blur, depth of field",
    ):
        assert line in told
    for name in ("leaf", "pane", "hair"):
        shot.objects[name].hide_render = True
    shot.render.use_motion_blur = shot.camera.data.dof.use_dof = False
    assert warnings(softness_of(shot)) == []
