# SPDX-License-Identifier: GPL-3.0-or-later
"""The scene's own geometry among the points: evaluated, triangulated, simply shaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import bpy
import numpy as np

from ...engine.render.camera import Camera
from ...engine.render.mesh import Mesh
from .geometry import Geometry, fingerprint, read_geometry
from .materials import Appearance, Opacity, appearance_of

#: Share of the light that comes from everywhere; the rest comes from the camera.
AMBIENT = 0.25
#: Exponent of the displays that the shading thinks of: light -> display-referred value.
DISPLAY_GAMMA = 2.2
#: Geometry of so many bytes is kept for the next picture.
CACHE_BYTES = 512 << 20


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
    """One appearance of a geometry.

    colors: (slots, 3) display-referred, None: a holdout. slots: (slots,) bool, whose triangles
    there are; None: all.
    """

    geometry: Geometry
    matrix: np.ndarray
    colors: np.ndarray | None
    slots: np.ndarray | None = None

    def key(self) -> tuple[object, ...]:
        colors, slots = (None if a is None else a.tobytes() for a in (self.colors, self.slots))
        return id(self.geometry), self.matrix.tobytes(), colors, slots

    def triangles(self) -> np.ndarray:
        """(F, 3) int32."""
        triangles = self.geometry.triangles
        if self.slots is None:
            return triangles
        if self.geometry.slots is None:
            return triangles if self.slots[0] else triangles[:0]
        return triangles[_of_slot(self.slots, self.geometry.slots[triangles[:, 0]])]


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
        key = fingerprint(mesh)
        geometry = self._geometry.get(key)
        if geometry is None:
            geometry = self._geometry[key] = read_geometry(mesh)
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
    surfaces and metaballs as meshes here. Holdout objects, collections and materials are holdouts
    in any mode. Left out are volumes, what is in collections for indirect light only, and in
    holdout mode glass and its like: nobody expects a window to hide what is behind it.
    """
    if mode == "IGNORED":
        return NOTHING
    layers = _view_layers(depsgraph)
    crops = _crop_boxes(depsgraph)
    known: dict[int, Appearance] = {}
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
            or any(owner.original.indirect_only_get(view_layer=layer) for layer in layers)
        ):
            continue
        mesh = instance_object.data
        place = mesh.as_pointer()
        geometry = read.get(place)
        if geometry is None:
            geometry = read[place] = _geometry_of(instance_object, cache)
        if not len(geometry.triangles):
            continue
        hides = mode == "HOLDOUT" or _is_holdout(instance_object, owner, layers)
        matrix = np.array(item.matrix_world, dtype=np.float64)
        placed += _place(geometry, matrix, _slots(instance_object, known), hides, mode)
    return cache.join(placed)


def _place(
    geometry: Geometry, matrix: np.ndarray, slots: list[Appearance], hides: bool, mode: str
) -> list[_Placed]:
    """What is shown of a geometry, and what only hides. hides: nothing is shown."""
    gone = {Opacity.NONE, Opacity.CLEAR} if mode == "HOLDOUT" else {Opacity.NONE}
    there = np.array([slot.opacity not in gone for slot in slots])
    held = there & np.array([hides or slot.opacity is Opacity.HOLDOUT for slot in slots])
    colors = np.array([slot.color for slot in slots])
    return [
        _Placed(geometry, matrix, colors, None if of_slot.all() else of_slot)
        for of_slot, colors in ((there & ~held, colors), (held, None))
        if of_slot.any()
    ]


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


def rendered_layer(scene: bpy.types.Scene) -> bpy.types.ViewLayer:
    """The view layer that a background set shows, and that a scene without compositor gives out."""
    return next((layer for layer in scene.view_layers if layer.use), scene.view_layers[0])


def _view_layers(depsgraph: bpy.types.Depsgraph) -> list[bpy.types.ViewLayer]:
    """The one that is shown and those of the background sets."""
    layers = [depsgraph.view_layer]
    below = depsgraph.scene.background_set
    while below is not None:
        layers.append(rendered_layer(below))
        below = below.background_set
    return layers


def _is_holdout(
    instance_object: bpy.types.Object, owner: bpy.types.Object, layers: list[bpy.types.ViewLayer]
) -> bool:
    if instance_object.is_holdout or owner.is_holdout:
        return True
    return any(owner.original.holdout_get(view_layer=layer) for layer in layers)


def _geometry_of(instance_object: bpy.types.Object, cache: GeometryCache) -> Geometry:
    if not instance_object.data.is_editmode:
        return cache.read(instance_object.data)
    # While it is edited the mesh lives in another structure, which has to be converted.
    mesh = instance_object.to_mesh()
    try:
        return cache.read(mesh)
    finally:
        instance_object.to_mesh_clear()


def _slots(instance_object: bpy.types.Object, known: dict[int, Appearance]) -> list[Appearance]:
    """Of every material slot; at least one."""
    materials = [slot.material for slot in instance_object.material_slots]
    if len(materials) < len(instance_object.data.materials):
        materials = list(instance_object.data.materials)  # geometry that nodes have made
    slots = []
    for material in materials or [None]:
        place = 0 if material is None else material.as_pointer()
        appearance = known.get(place)
        if appearance is None:
            appearance = known[place] = appearance_of(material)
        slots.append(appearance)
    return slots


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
        triangles.append(one.triangles() + np.int32(start))
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
    return _of_slot(one.colors, one.geometry.slots)


def _of_slot(rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Faces that name a slot which is not there show the last one, as in Blender."""
    return np.take(rows, slots, axis=0, mode="clip")
