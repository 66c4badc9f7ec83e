# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene's own geometry among the points: evaluated, triangulated, simply shaded."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np

from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh

#: What an object without a material looks like in Blender, linear.
DEFAULT_COLOR = (0.8, 0.8, 0.8)
#: Share of the light that comes from everywhere; the rest comes from the camera.
AMBIENT = 0.25
#: Exponent of the displays that the shading thinks of: light -> display-referred value.
DISPLAY_GAMMA = 2.2
#: Geometry of so many bytes is kept for the next picture.
CACHE_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class Geometry:
    """A mesh as it is before it is placed.

    vertices (V, 3), normals (V, 3) unit, float32, object space; triangles (F, 3) int32; slots (V,)
    int32, material slot of every vertex, or None where all are of the first. Vertices are split
    where their triangles disagree about normal or material.
    """

    vertices: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    slots: np.ndarray | None

    @property
    def nbytes(self) -> int:
        arrays = (self.vertices, self.normals, self.triangles, self.slots)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, eq=False)
class Surfaces:
    """All geometry of a scene at one time, in the world; it is shaded for a camera by `shade`.

    vertices (V, 3), normals (V, 3) unit or zero, colors (V, 3) display-referred, float32;
    triangles (F, 3) int32. holdout_vertices, holdout_triangles: of what only hides.
    """

    vertices: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    triangles: np.ndarray
    holdout_vertices: np.ndarray
    holdout_triangles: np.ndarray

    def __len__(self) -> int:
        """Number of triangles."""
        return len(self.triangles) + len(self.holdout_triangles)


@dataclass(frozen=True, eq=False)
class _Placed:
    """One appearance of a geometry. colors (slots, 3) display-referred, None: a holdout."""

    geometry: Geometry
    matrix: np.ndarray
    colors: np.ndarray | None

    def key(self) -> tuple[object, ...]:
        colors = None if self.colors is None else self.colors.tobytes()
        return id(self.geometry), self.matrix.tobytes(), colors


def _empty() -> Surfaces:
    floats, indices = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    return Surfaces(floats, floats, floats, indices, floats, indices)


NOTHING = _empty()


class GeometryCache:
    """Geometry by what it was made from, so that what stands still is read and split once.

    Blender's evaluated meshes have no version, so their arrays are fingerprinted: 1 ms for 100,000
    vertices. Use it from the main thread only.
    """

    def __init__(self) -> None:
        self._geometry: OrderedDict[tuple[object, ...], Geometry] = OrderedDict()
        self._nbytes = 0
        self._last: tuple[tuple[_Placed, ...], Surfaces] = ((), NOTHING)

    def read(self, mesh: bpy.types.Mesh) -> Geometry:
        key = _fingerprint(mesh)
        geometry = self._geometry.get(key)
        if geometry is None:
            geometry = self._geometry[key] = _read(mesh)
            self._nbytes += geometry.nbytes
            while self._nbytes > CACHE_BYTES and len(self._geometry) > 1:
                self._nbytes -= self._geometry.popitem(last=False)[1].nbytes
        self._geometry.move_to_end(key)
        return geometry

    def join(self, placed: list[_Placed]) -> Surfaces:
        """All of them in the world; the very object of the last call when nothing has changed."""
        last, surfaces = self._last
        if [one.key() for one in last] != [one.key() for one in placed]:
            surfaces = _join(placed)
            self._last = (tuple(placed), surfaces)
        return surfaces

    def release(self) -> None:
        self._geometry.clear()
        self._nbytes = 0
        self._last = ((), NOTHING)


def collect_surfaces(
    depsgraph: bpy.types.Depsgraph,
    mode: str,
    cache: GeometryCache,
    visible: Callable[[bpy.types.Object], bool] = lambda _object: True,
) -> Surfaces:
    """The geometry of everything that a depsgraph shows, clips and their crop boxes left out.

    mode: "SHADED", "HOLDOUT" (all of it only hides) or "IGNORED". visible: an additional condition
    on the object, or on the instancer where it is an instance. Blender hands out curves, texts,
    surfaces and metaballs as meshes here. Holdout objects and collections are holdouts in any mode.
    """
    if mode == "IGNORED":
        return NOTHING
    layer = depsgraph.view_layer
    crops = _crop_boxes(depsgraph)
    colors: dict[int, np.ndarray] = {}
    read: dict[int, Geometry] = {}
    placed = []
    for item in depsgraph.object_instances:
        instance_object = item.object
        if instance_object.type != "MESH" or not item.show_self:
            continue
        owner = item.parent if item.is_instance and item.parent else instance_object
        if (
            instance_object.peel4d.is_clip
            or not instance_object.visible_camera
            or instance_object.original.as_pointer() in crops
            or not visible(owner)
        ):
            continue
        mesh = instance_object.data
        place = mesh.as_pointer()
        geometry = read.get(place)
        if geometry is None:
            geometry = read[place] = _geometry_of(instance_object, cache)
        if not len(geometry.triangles):
            continue
        shown = None
        if mode == "SHADED" and not _is_holdout(instance_object, owner, layer):
            shown = _slot_colors(instance_object, colors)
        matrix = np.array(item.matrix_world, dtype=np.float64)
        placed.append(_Placed(geometry, matrix, shown))
    return cache.join(placed)


def shade(surfaces: Surfaces, camera: Camera) -> list[Mesh]:
    """The surfaces as a camera with a lamp on it sees them, shaded by Lambert's law."""
    meshes = []
    if len(surfaces.triangles):
        to_camera = -camera.forward.astype(np.float32)
        if camera.orthographic:
            facing = np.abs(surfaces.normals @ to_camera)
        else:
            to_camera = camera.centre.astype(np.float32) - surfaces.vertices
            length = np.sqrt(np.einsum("ij,ij->i", to_camera, to_camera))
            facing = np.abs(np.einsum("ij,ij->i", surfaces.normals, to_camera))
            facing /= np.maximum(length, np.float32(1e-20))
        light = AMBIENT + (1.0 - AMBIENT) * np.minimum(facing, 1.0)
        shaded = surfaces.colors * np.power(light, 1.0 / DISPLAY_GAMMA, dtype=np.float32)[:, None]
        meshes.append(
            Mesh(surfaces.vertices, surfaces.triangles, np.nan_to_num(shaded), per="vertex")
        )
    if len(surfaces.holdout_triangles):
        meshes.append(Mesh(surfaces.holdout_vertices, surfaces.holdout_triangles, None))
    return meshes


def collect_meshes(
    depsgraph: bpy.types.Depsgraph,
    mode: str,
    camera: Camera,
    cache: GeometryCache,
    visible: Callable[[bpy.types.Object], bool] = lambda _object: True,
) -> list[Mesh]:
    """`collect_surfaces`, shaded for a camera."""
    return shade(collect_surfaces(depsgraph, mode, cache, visible), camera)


def _crop_boxes(depsgraph: bpy.types.Depsgraph) -> set[int]:
    """Pointers of the original objects that crop a clip: they are tools, not things."""
    boxes = set()
    for clip_object in depsgraph.objects:
        clip = clip_object.peel4d
        if clip.is_clip and clip.crop_object is not None:
            boxes.add(clip.crop_object.original.as_pointer())
    return boxes


def _is_holdout(
    instance_object: bpy.types.Object, owner: bpy.types.Object, layer: bpy.types.ViewLayer
) -> bool:
    if instance_object.is_holdout or owner.is_holdout:
        return True
    return owner.original.holdout_get(view_layer=layer)


def _geometry_of(instance_object: bpy.types.Object, cache: GeometryCache) -> Geometry:
    if not instance_object.data.is_editmode:
        return cache.read(instance_object.data)
    # While it is edited the mesh lives in another structure, which has to be converted.
    mesh = instance_object.to_mesh()
    try:
        return cache.read(mesh)
    finally:
        instance_object.to_mesh_clear()


def _fingerprint(mesh: bpy.types.Mesh) -> tuple[object, ...]:
    domain = mesh.normals_domain
    corners = _ints(mesh, ".corner_vert", len(mesh.loops))
    parts = [
        zlib.crc32(_vectors(mesh.attributes["position"].data, len(mesh.vertices)))
        if len(mesh.vertices)
        else 0,
        zlib.crc32(corners) if corners is not None else 0,
    ]
    if domain == "CORNER":
        parts.append(zlib.crc32(_vectors(mesh.corner_normals, len(mesh.loops))))
    slots = _ints(mesh, "material_index", len(mesh.polygons))
    if slots is not None:
        parts.append(zlib.crc32(slots))
    return (len(mesh.vertices), len(mesh.loops), len(mesh.polygons), domain, *parts)


def _read(mesh: bpy.types.Mesh) -> Geometry:
    """Triangulate and split. Whole arrays at a time: Blender's rows would be slow."""
    if not len(mesh.polygons):
        return Geometry(
            np.zeros((0, 3), np.float32),
            np.zeros((0, 3), np.float32),
            np.zeros((0, 3), np.int32),
            None,
        )
    position = _vectors(mesh.attributes["position"].data, len(mesh.vertices))
    corner = _ints(mesh, ".corner_vert", len(mesh.loops))
    triangles, polygon = _triangulate(mesh, position, corner)
    slots = _ints(mesh, "material_index", len(mesh.polygons))
    if slots is not None and not slots.any():
        slots = None
    domain = mesh.normals_domain
    if domain == "POINT" and slots is None:
        normals = _vectors(mesh.vertex_normals, len(mesh.vertices))
        return Geometry(position, normals, corner[triangles], None)
    split = triangles.ravel()
    if domain == "POINT":
        normals = _vectors(mesh.vertex_normals, len(mesh.vertices))[corner[split]]
    elif domain == "FACE":
        normals = np.repeat(_vectors(mesh.polygon_normals, len(mesh.polygons))[polygon], 3, axis=0)
    else:
        normals = _vectors(mesh.corner_normals, len(mesh.loops))[split]
    return Geometry(
        position[corner[split]],
        normals,
        np.arange(len(split), dtype=np.int32).reshape(-1, 3),
        None if slots is None else np.repeat(slots[polygon], 3),
    )


def _triangulate(
    mesh: bpy.types.Mesh, position: np.ndarray, corner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(F, 3) corners and (F,) polygons of the triangles, as Blender's own loop_triangles.

    Those are read one by one; for triangles and quadrilaterals its rule is followed here, which
    takes a tenth of the time.
    """
    count = len(mesh.polygons)
    start = np.empty(count, np.int32)
    mesh.polygons.foreach_get("loop_start", start)
    size = np.diff(start, append=np.int32(len(corner)))
    if size.min() < 3 or size.max() > 4:
        mesh.calc_loop_triangles()
        triangles = np.empty(3 * len(mesh.loop_triangles), np.int32)
        polygon = np.empty(len(mesh.loop_triangles), np.int32)
        mesh.loop_triangles.foreach_get("loops", triangles)
        mesh.loop_triangles.foreach_get("polygon_index", polygon)
        return triangles.reshape(-1, 3), polygon
    is_quad = size == 4
    first = start[:, None] + np.array([0, 1, 2], np.int32)
    quads = start[is_quad]
    if not len(quads):
        return first, np.arange(count, dtype=np.int32)
    a, b, c, d = (position[corner[quads + k]] for k in range(4))
    # Cut from the first to the third corner, or the other way where that leaves the quadrilateral.
    cross = np.cross(b - a, c - a)
    flip = np.einsum("ij,ij->i", cross, np.cross(d - a, c - a)) > 0.0
    one = np.where(flip[:, None], [0, 1, 3], [0, 1, 2]).astype(np.int32)
    two = np.where(flip[:, None], [1, 2, 3], [0, 2, 3]).astype(np.int32)
    first[is_quad] = quads[:, None] + one
    triangles = np.concatenate([first, quads[:, None] + two])
    polygon = np.concatenate([np.arange(count), np.flatnonzero(is_quad)]).astype(np.int32)
    return triangles, polygon


def _vectors(rows: bpy.types.bpy_prop_collection, count: int) -> np.ndarray:
    vectors = np.empty((count, 3), np.float32)
    if count:
        rows.foreach_get("vector", vectors.ravel())
    return vectors


def _ints(mesh: bpy.types.Mesh, name: str, count: int) -> np.ndarray | None:
    attribute = mesh.attributes.get(name)
    if attribute is None or not count:
        return None
    values = np.empty(count, np.int32)
    attribute.data.foreach_get("value", values)
    return values


def _slot_colors(instance_object: bpy.types.Object, known: dict[int, np.ndarray]) -> np.ndarray:
    """(slots, 3) float32, display-referred; at least one row."""
    materials = [slot.material for slot in instance_object.material_slots]
    if len(materials) < len(instance_object.data.materials):
        materials = list(instance_object.data.materials)  # geometry that nodes have made
    rows = []
    for material in materials or [None]:
        place = 0 if material is None else material.as_pointer()
        color = known.get(place)
        if color is None:
            color = known[place] = _display_color(material)
        rows.append(color)
    return np.array(rows, np.float32)


def _display_color(material: bpy.types.Material | None) -> np.ndarray:
    """(3,) display-referred sRGB of what a material mainly looks like."""
    linear = np.clip(_linear_color(material), 0.0, 1.0)
    low, high = linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high).astype(np.float32)


def _linear_color(material: bpy.types.Material | None) -> np.ndarray:
    if material is None:
        return np.array(DEFAULT_COLOR)
    tree = material.node_tree if material.use_nodes else None
    for node in tree.nodes if tree is not None else ():
        if node.type == "OUTPUT_MATERIAL" and node.is_active_output:
            surface = node.inputs["Surface"]
            shader = surface.links[0].from_node if surface.is_linked else None
            name = "Base Color" if shader is not None and "Base Color" in shader.inputs else "Color"
            base = shader.inputs.get(name) if shader is not None else None
            if base is not None and not base.is_linked:
                return np.array(base.default_value[:3])
    return np.array(material.diffuse_color[:3])


def _join(placed: list[_Placed]) -> Surfaces:
    shaded = [one for one in placed if one.colors is not None]
    holdouts = [one for one in placed if one.colors is None]
    vertices, triangles = _in_world(shaded)
    holdout_vertices, holdout_triangles = _in_world(holdouts)
    normals = [_normals_in_world(one) for one in shaded]
    colors = [_vertex_colors(one) for one in shaded]
    return Surfaces(
        vertices,
        np.concatenate(normals) if normals else vertices,
        np.concatenate(colors) if colors else vertices,
        triangles,
        holdout_vertices,
        holdout_triangles,
    )


def _in_world(placed: list[_Placed]) -> tuple[np.ndarray, np.ndarray]:
    if not placed:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    vertices, triangles, start = [], [], 0
    for one in placed:
        # In double precision: an object far from the origin keeps its shape up to the last step.
        position = one.geometry.vertices @ one.matrix[:3, :3].T + one.matrix[:3, 3]
        vertices.append(position.astype(np.float32))
        triangles.append(one.geometry.triangles + np.int32(start))
        start += len(position)
    return np.concatenate(vertices), np.concatenate(triangles)


def _normals_in_world(one: _Placed) -> np.ndarray:
    """(V, 3) unit; zero where a flattened object leaves none."""
    try:
        turn = np.linalg.inv(one.matrix[:3, :3]).T
    except np.linalg.LinAlgError:
        turn = one.matrix[:3, :3]
    normals = one.geometry.normals @ turn.astype(np.float32).T
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    return normals / np.maximum(length, np.float32(1e-20))[:, None]


def _vertex_colors(one: _Placed) -> np.ndarray:
    count = len(one.geometry.vertices)
    if one.geometry.slots is None:
        return np.broadcast_to(one.colors[0], (count, 3))
    # Faces that name a slot which is not there show the last one, as in Blender.
    return np.take(one.colors, one.geometry.slots, axis=0, mode="clip")
