"""From `Camera` to pixels: Blender cameras that match exactly, and Cycles renders as arrays."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read at the first EXR

import bpy
import cv2
import numpy as np
from bpy_extras.object_utils import world_to_camera_view
from demo_scene import COLLECTION, MusicBird, pose
from mathutils import Matrix, Vector

from peel4d.engine.errors import OutputError
from peel4d.engine.render.camera import Camera

SENSOR_MM = 36.0
NO_HIT = 1e9  # Cycles writes 1e10 where a ray hits nothing


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Blender render: its own lines, which bypass Python, stay off the standard output, and
    Ctrl-C waits for the end, because an exception inside Cycles' callbacks crashes the process."""
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    sys.stdout.flush()
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


def subject_points(bird: MusicBird, seconds: np.ndarray) -> np.ndarray:
    """Every vertex at every time, world space, (n, 3)."""
    clouds = []
    for moment in seconds:
        pose(bird, float(moment))
        for part in bird.parts.values():
            points = np.empty(len(part.data.vertices) * 3, np.float32)
            part.data.vertices.foreach_get("co", points)
            matrix = np.array(part.matrix_world)
            clouds.append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    return np.concatenate(clouds)


def blender_camera(name: str, camera: Camera) -> bpy.types.Object:
    """The Blender camera that takes exactly the picture of a `Camera`.

    Blender looks along -z with y up, so two axes change sign; its shift is the distance of the
    principal point from the image's centre in units of the width, and its sensor spans the image.
    """
    data = bpy.data.cameras.new(name)
    data.sensor_fit = "HORIZONTAL"
    data.sensor_width = SENSOR_MM
    data.lens = camera.K[0, 0] / camera.width * SENSOR_MM
    data.shift_x = (camera.width / 2 - camera.K[0, 2]) / camera.width
    data.shift_y = (camera.K[1, 2] - camera.height / 2) / camera.width
    data.clip_start, data.clip_end = 0.1, 100.0
    placed = bpy.data.objects.new(name, data)
    rotation = camera.R.T @ np.diag([1.0, -1.0, -1.0])
    placed.matrix_world = Matrix.Translation(camera.centre) @ Matrix(rotation).to_4x4()
    bpy.data.collections[COLLECTION].objects.link(placed)
    return placed


def projection_error(scene: bpy.types.Scene, placed, camera: Camera, points: np.ndarray) -> float:
    """Largest distance in pixels between Blender's projection of points and the camera's own."""
    pixels, _ = camera.project(points)
    seen = np.array([world_to_camera_view(scene, placed, Vector(p)) for p in points])
    blender = np.stack([seen[:, 0] * camera.width, (1 - seen[:, 1]) * camera.height], axis=1)
    return float(np.abs(blender - pixels).max())


@dataclass(frozen=True)
class Film:
    """What kind of pictures a studio takes.

    train_samples, test_samples: of Cycles, per pixel. backdrop: the subject stands alone and the
    film behind it is transparent; else everything is seen, and the subject is what has pass index
    1. denoise: by Open Image Denoise, guided by albedo and normals.
    """

    width: int
    height: int
    train_samples: int
    test_samples: int
    backdrop: bool = True
    denoise: bool = False


class Studio:
    """Three Blender scenes that share the subject: Cycles keeps the geometry of each while the
    cameras take turns, but fixes the number of samples when it first sees a scene."""

    def __init__(self, film: Film, scratch: Path):
        self.film = film
        self.scratch = scratch
        self.train = self._scene("train", film.train_samples)
        self.test = self._scene("test", film.test_samples)
        self.geometry = self._scene("geometry", 1)
        # One sample through the centre of the pixel: depth is a point sample, never an average.
        self.geometry.cycles.filter_width = 0.01
        self.geometry.cycles.use_denoising = False
        self.geometry.view_layers[0].material_override = bpy.data.materials.new("geometry")
        self.geometry.view_layers[0].use_pass_z = True
        self.geometry.view_layers[0].use_pass_object_index = True
        self.geometry.use_nodes = True
        tree = self.geometry.node_tree
        tree.nodes.clear()
        layers = tree.nodes.new("CompositorNodeRLayers")
        layers.scene = self.geometry
        both = tree.nodes.new("CompositorNodeCombineColor")
        tree.links.new(layers.outputs["Depth"], both.inputs[0])
        tree.links.new(layers.outputs["IndexOB"], both.inputs[1])
        tree.links.new(both.outputs[0], tree.nodes.new("CompositorNodeComposite").inputs[0])

    def _scene(self, name: str, samples: int) -> bpy.types.Scene:
        source = bpy.data.scenes[0]
        scene = bpy.data.scenes.new(name)
        for collection in source.collection.children:
            scene.collection.children.link(collection)
        scene.world = source.world
        scene.render.engine = "CYCLES"
        scene.cycles.samples = samples
        scene.cycles.use_adaptive_sampling = False
        # The pixel integrates over its own square, as a sensor does: 2 dB less noise than
        # Blender's default filter, which reaches into the neighbours.
        scene.cycles.pixel_filter_type = "BOX"
        scene.cycles.filter_width = 1.0
        scene.cycles.use_denoising = self.film.denoise
        scene.cycles.denoising_prefilter = "NONE"
        scene.cycles.denoising_quality = "FAST"
        scene.cycles.max_bounces = 1
        scene.cycles.diffuse_bounces = 0
        scene.cycles.glossy_bounces = 1
        scene.cycles.caustics_reflective = False
        scene.cycles.sample_clamp_direct = 3.0
        scene.render.use_persistent_data = True
        scene.render.film_transparent = self.film.backdrop
        scene.render.resolution_x = self.film.width
        scene.render.resolution_y = self.film.height
        scene.render.image_settings.file_format = "OPEN_EXR"
        scene.render.image_settings.color_mode = "RGBA"
        scene.render.image_settings.color_depth = "32"
        scene.render.image_settings.exr_codec = "NONE"
        scene.render.filepath = str(self.scratch)
        return scene

    def measure(self, camera: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
        """Camera-space z and pass index (H, W) at the centres of the pixels."""
        pixels = self.shoot(self.geometry, camera)
        return pixels[..., 0], pixels[..., 1]

    def subject(self, rgba: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where a picture shows the subject, (H, W) bool."""
        return rgba[..., 3] > 0.5 if self.film.backdrop else index == 1

    def shoot(self, scene: bpy.types.Scene, camera: bpy.types.Object, seed: int = 0) -> np.ndarray:
        """(H, W, 4) float32, scene-linear premultiplied RGBA, row 0 = top."""
        scene.camera = camera
        scene.cycles.seed = seed
        with undisturbed():
            bpy.ops.render.render(scene=scene.name, write_still=True)
        pixels = cv2.imread(str(self.scratch), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise OutputError("Blender's render cannot be read back", where=self.scratch)
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)


#: The studio's backdrop, display-referred sRGB: a plain grey wall, as in a real capture stage.
BACKDROP = np.array([0.42, 0.44, 0.46])


def over_backdrop(rgba: np.ndarray) -> np.ndarray:
    """Linear premultiplied (H, W, 4) -> display-referred sRGB over BACKDROP (H, W, 3), floats.

    The straight colour is encoded, then weighted with alpha: an edge pixel is a mixture of what a
    screen shows, which is the space that Peel4D composites points in.
    """
    alpha = rgba[..., 3:].clip(0, 1)
    straight = (rgba[..., :3] / np.maximum(alpha, 1e-6)).clip(0, 1)
    low, high = 12.92 * straight, 1.055 * np.power(straight, 1 / 2.4) - 0.055
    return np.where(straight <= 0.0031308, low, high) * alpha + BACKDROP * (1 - alpha)
