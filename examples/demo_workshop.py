"""Surfaces become mesh objects of Blender, gathered in a collection."""

from __future__ import annotations

import bpy
import numpy as np
from demo_shapes import Surface, closed_surface


class Workshop:
    """Makes the objects of one collection. parts: its mesh objects, by name."""

    def __init__(self, collection: str) -> None:
        self.collection = bpy.data.collections.new(collection)
        bpy.data.scenes[0].collection.children.link(self.collection)
        self.parts: dict[str, bpy.types.Object] = {}

    def pivot(self, name: str, parent: bpy.types.Object | None, location=(0.0, 0.0, 0.0)):
        """An empty that other objects hang on."""
        pivot = bpy.data.objects.new(name, None)
        pivot.parent = parent
        pivot.location = location
        self.collection.objects.link(pivot)
        return pivot

    def add(self, name, grid, material, parent=None, *, smooth=True) -> bpy.types.Object:
        """A mesh object of a (rows, columns, 3) grid with closed columns."""
        return self.add_surface(name, closed_surface(grid), material, parent, smooth=smooth)

    def add_surface(
        self, name: str, surface: Surface, material, parent=None, *, smooth=True
    ) -> bpy.types.Object:
        mesh = bpy.data.meshes.new(name)
        mesh.from_pydata(surface.vertices.tolist(), [], surface.faces.tolist())
        layer = mesh.uv_layers.new(name="UVMap")
        layer.uv.foreach_set("vector", surface.uv.ravel())
        mesh.polygons.foreach_set("use_smooth", np.full(len(surface.faces), smooth))
        mesh.materials.append(material)
        part = bpy.data.objects.new(name, mesh)
        part.parent = parent
        self.collection.objects.link(part)
        self.parts[name] = part
        return part


def reshape(part: bpy.types.Object, grid: np.ndarray) -> None:
    """Move the vertices of a part to a grid of the same shape."""
    part.data.vertices.foreach_set("co", grid.astype(np.float32).ravel())
    part.data.update()
