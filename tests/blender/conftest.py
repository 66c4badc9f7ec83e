"""A fresh Blender scene per test, synthetic clips, and a reader for the pictures Blender writes.

bpy runs inside the test process: one import for all tests, factory settings before each. It is
imported by the fixtures only, so that without it the test modules are skipped with their reason.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exr import parse_exr

import peel4d
from peel4d.engine.clip.clip import ClipCamera
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_COUNTS, Splats

SETTINGS = PeelSettings(layers=9, min_radius_px=0.6)


@pytest.fixture(scope="session")
def registered():
    """Peel4D registered as from a pip environment."""
    peel4d.register()
    yield
    peel4d.unregister()


@pytest.fixture
def scene(registered):
    """An empty scene that renders with Peel4D, small, transparent, under Standard, undithered, with
    one sample per pixel."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "PEEL4D"
    scene.peel4d.samples = "1"
    scene.render.resolution_x, scene.render.resolution_y = 96, 64
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.dither_intensity = 0.0
    scene.view_settings.view_transform = "Standard"
    bpy.context.view_layer.use_pass_z = True
    return scene


def blob(seed: int, count: int = 600, degree: int = 1, shift=(0.0, 0.0, 0.0)) -> Splats:
    """Points on a bumpy sphere of radius 0.5 around `shift`: overlapping, half-transparent, of a
    colour that depends on the direction."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position = direction * rng.uniform(0.4, 0.5, (count, 1)) + np.asarray(shift)
    sh = rng.normal(scale=0.25, size=(count, SH_COUNTS[degree], 3))
    sh[:, 0] = rng.uniform(0.2, 3.3, (count, 3))  # Y_0 * 3.3 = 0.93
    return Splats(position, rng.uniform(0.01, 0.06, count), rng.uniform(0.3, 1.0, count), sh)


def ring(count: int = 3, width: int = 96, height: int = 64) -> tuple[ClipCamera, ...]:
    """Cameras around the z axis of a clip whose up is +z, each with a lens of its own."""
    cameras = []
    for index in range(count):
        angle = 2.0 * np.pi * index / count + 0.3
        centre = np.array([2.2 * np.cos(angle), 2.2 * np.sin(angle), 0.5])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        fx = 110.0 + 10.0 * index
        fy = fx * (1.0, 1.04, 0.97)[index % 3]
        K = np.array(
            [[fx, 0.0, width / 2 + 3.3 * index], [0.0, fy, height / 2 - 2.1 * index], [0, 0, 1]]
        )
        cameras.append(ClipCamera(f"cam{index:02d}", K, R, -R @ centre, width, height, index != 1))
    return tuple(cameras)


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory) -> Path:
    """Five frames of a moving blob with three cameras."""
    path = tmp_path_factory.mktemp("clips") / "blob.p4d"
    frames = [blob(seed, shift=(0.1 * seed - 0.2, 0.0, 0.05 * seed)) for seed in range(5)]
    write_clip(
        path, frames, fps=25.0, cameras=ring(), settings=SETTINGS, provenance={"made_by": "test"}
    )
    return path


@pytest.fixture(scope="session")
def other_clip_path(tmp_path_factory) -> Path:
    """One frame, other points, no cameras."""
    path = tmp_path_factory.mktemp("clips") / "other.p4d"
    write_clip(path, [blob(77, degree=0)], fps=25.0, settings=SETTINGS, provenance={})
    return path


@pytest.fixture(scope="session")
def room_path(tmp_path_factory, clip_path) -> Path:
    """The frames of `clip_path` inside a static sphere of 1,500 large points and radius 4."""
    path = tmp_path_factory.mktemp("clips") / "room.p4d"
    points = blob(5, 1500, degree=0)
    direction = points.position / np.linalg.norm(points.position, axis=1, keepdims=True)
    room = Splats(4.0 * direction, np.full(1500, 0.7), np.ones(1500), points.sh)
    with ClipReader(clip_path) as reader:
        frames = [reader.frame(index) for index in range(reader.info.frame_count)]
    write_clip(path, frames, fps=25.0, cameras=ring(), settings=SETTINGS, static=room)
    return path


@pytest.fixture
def read_exr() -> Callable[[Path], dict[str, np.ndarray]]:
    return parse_exr


@pytest.fixture
def render(tmp_path) -> Callable:
    """render() -> (rgba (H, W, 4) scene-linear premultiplied, depth (H, W)), row 0 = top."""
    import bpy

    def render_to_exr(layer: str = "ViewLayer"):
        scene = bpy.context.scene
        settings = scene.render.image_settings
        if hasattr(settings, "media_type"):  # Blender 5
            settings.media_type = "MULTI_LAYER_IMAGE"
            # In one part: 5.0.1 cannot write several when pixels are not square.
            settings.use_exr_interleave = True
        settings.file_format = "OPEN_EXR_MULTILAYER"
        settings.color_depth, settings.exr_codec = "32", "NONE"
        path = tmp_path / "picture.exr"
        path.unlink(missing_ok=True)
        scene.render.filepath = str(path)
        bpy.ops.render.render(write_still=True)
        channels = parse_exr(path)
        rgba = np.stack([channels[f"{layer}.Combined.{c}"] for c in "RGBA"], axis=-1)
        return rgba, channels[f"{layer}.Depth.Z"]

    return render_to_exr


@pytest.fixture
def render_png(tmp_path) -> Callable:
    """render_png() -> (H, W, 4) float, the 8-bit values / 255 of an RGBA PNG, straight alpha."""
    import bpy

    def render_to_png():
        scene = bpy.context.scene
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode = "RGBA"
        path = tmp_path / "picture.png"
        scene.render.filepath = str(path)
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(str(path))
        image.colorspace_settings.name = "Non-Color"
        pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
        image.pixels.foreach_get(pixels)
        pixels = pixels.reshape(image.size[1], image.size[0], 4)[::-1]
        bpy.data.images.remove(image)
        return pixels

    return render_to_png


@pytest.fixture(scope="session")
def graphics(registered):
    """The `gpu` module. Before Blender 5.2 it works without a window only after a render."""
    import bpy
    import gpu

    class WithGraphics(bpy.types.RenderEngine):
        bl_idname = "PEEL4D_TEST_GRAPHICS"
        bl_label = "Graphics"
        bl_use_gpu_context = True

        def render(self, depsgraph):
            self.end_result(self.begin_result(0, 0, 4, 4))

    if hasattr(gpu, "init"):
        gpu.init()
    else:
        bpy.utils.register_class(WithGraphics)
        scene = bpy.data.scenes.new("graphics")
        scene.render.engine = WithGraphics.bl_idname
        scene.render.resolution_x = scene.render.resolution_y = 4
        camera = bpy.data.objects.new("graphics", bpy.data.cameras.new("graphics"))
        scene.collection.objects.link(camera)
        scene.camera = camera
        try:
            bpy.ops.render.render(scene=scene.name)
        finally:
            bpy.data.scenes.remove(scene)
            bpy.utils.unregister_class(WithGraphics)
    try:
        gpu.platform.renderer_get()
    except SystemError as error:
        pytest.skip(f"no graphics device: {error}")
    return gpu
