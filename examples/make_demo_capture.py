"""Render Peel4D's demo capture: a music-box bird filmed by 24 synchronized cameras.

    python examples/make_demo_capture.py OUT [--quick] [--frames N] [--size PX] [--views NAME ...]

Needs bpy (pip install bpy==4.5.*) and OpenCV. OUT becomes an EasyVolcap folder: intri.yml,
extri.yml, images/, masks/ and depth/<view>/<frame>.png, peel4d.json (held-out views, frame rate)
and demo.json (how it was made; coverage, camera spacing, noise floor).

    images  8-bit sRGB, Blender's Standard view transform, over black
    masks   255 where the subject covers more than half of the pixel
    depth   16 bit, camera-space z at the pixel's centre in millimetres, 0 = nothing or unknown

The folder appears under its name when it is complete. Run again, the script finds it and stops; a
run that was interrupted goes on with the first unfinished frame.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read once, when cv2 is imported

import bpy
import cv2
import numpy as np
from bpy_extras.object_utils import world_to_camera_view
from demo_rig import RigView, fitted_camera, quick_rig, rig, spacing
from demo_scene import COLLECTION, MusicBird, build_scene, pose
from mathutils import Matrix, Vector

from peel4d.engine.atomic import write_text
from peel4d.engine.errors import OutputError, PeelError
from peel4d.engine.render.camera import Camera

FPS = 24
DEPTH_STEP = 1e-3
MINIMUM_COVERAGE = 0.15
MINIMUM_TEST_FLOOR_DB = 40.0
SENSOR_MM = 36.0
NO_HIT = 1e9  # Cycles writes 1e10 where a ray hits nothing


@dataclass(frozen=True)
class Settings:
    """What the pixels depend on. samples: Cycles samples per pixel; a test image is the mean of
    two renders of `test_samples` each with different seeds, which also measures its noise."""

    size: int = 384
    frames: int = 12
    quick: bool = False
    views: tuple[str, ...] = ()
    train_samples: int = 10
    test_samples: int = 36

    def rig(self) -> list[RigView]:
        everything = quick_rig() if self.quick else rig()
        unknown = set(self.views) - {view.name for view in everything}
        if unknown:
            raise PeelError(
                f"no view called '{min(unknown)}'",
                hint=f"The views are 00 to {everything[-1].name}",
            )
        return [view for view in everything if not self.views or view.name in self.views]

    def key(self) -> str:
        """Changes whenever the capture would: parameters, these scripts, the version of bpy."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update(bpy.app.version_string.encode())
        for script in sorted(Path(__file__).parent.glob("*demo_*.py")):
            digest.update(script.read_bytes())
        return digest.hexdigest()[:16]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Blender's own lines, which bypass Python, off the standard output."""
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
    """The Blender camera that takes exactly the picture of a square `Camera`.

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


class Studio:
    """Three Blender scenes that share the subject: Cycles keeps the geometry of each while the
    cameras take turns, but fixes the number of samples when it first sees a scene."""

    def __init__(self, settings: Settings, scratch: Path):
        self.scratch = scratch / "render.exr"
        self.train = self._scene("train", settings.size, settings.train_samples)
        self.test = self._scene("test", settings.size, settings.test_samples)
        self.depth = self._scene("depth", settings.size, 1)
        # One sample through the centre of the pixel: depth is a point sample, never an average.
        self.depth.cycles.filter_width = 0.01
        self.depth.view_layers[0].use_pass_z = True
        self.depth.use_nodes = True
        tree = self.depth.node_tree
        tree.nodes.clear()
        layers = tree.nodes.new("CompositorNodeRLayers")
        layers.scene = self.depth
        tree.links.new(layers.outputs["Depth"], tree.nodes.new("CompositorNodeComposite").inputs[0])

    def _scene(self, name: str, size: int, samples: int) -> bpy.types.Scene:
        source = bpy.data.scenes[0]
        scene = bpy.data.scenes.new(name)
        scene.collection.children.link(bpy.data.collections[COLLECTION])
        scene.world = source.world
        scene.render.engine = "CYCLES"
        scene.cycles.samples = samples
        scene.cycles.use_adaptive_sampling = False
        # The pixel integrates over its own square, as a sensor does: 2 dB less noise than
        # Blender's default filter, which reaches into the neighbours.
        scene.cycles.pixel_filter_type = "BOX"
        scene.cycles.filter_width = 1.0
        scene.cycles.use_denoising = False
        scene.cycles.max_bounces = 1
        scene.cycles.diffuse_bounces = 0
        scene.cycles.glossy_bounces = 1
        scene.cycles.caustics_reflective = False
        scene.cycles.sample_clamp_direct = 3.0
        scene.render.use_persistent_data = True
        scene.render.film_transparent = True
        scene.render.resolution_x = scene.render.resolution_y = size
        scene.render.image_settings.file_format = "OPEN_EXR"
        scene.render.image_settings.color_mode = "RGBA"
        scene.render.image_settings.color_depth = "32"
        scene.render.image_settings.exr_codec = "NONE"
        scene.render.filepath = str(self.scratch)
        return scene

    def shoot(self, scene: bpy.types.Scene, camera: bpy.types.Object, seed: int = 0) -> np.ndarray:
        """(H, W, 4) float32, scene-linear premultiplied RGBA, row 0 = top."""
        scene.camera = camera
        scene.cycles.seed = seed
        with quiet():
            bpy.ops.render.render(scene=scene.name, write_still=True)
        pixels = cv2.imread(str(self.scratch), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise OutputError("Blender's render cannot be read back", where=self.scratch)
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)


def over_black(rgba: np.ndarray) -> np.ndarray:
    """Linear premultiplied (H, W, 4) -> display-referred sRGB over black (H, W, 3), floats.

    The straight colour is encoded, then weighted with alpha: an edge pixel is a mixture of what a
    screen shows, which is the space that Peel4D composites points in.
    """
    alpha = rgba[..., 3:].clip(0, 1)
    straight = (rgba[..., :3] / np.maximum(alpha, 1e-6)).clip(0, 1)
    low, high = 12.92 * straight, 1.055 * np.power(straight, 1 / 2.4) - 0.055
    return np.where(straight <= 0.0031308, low, high) * alpha


def mean_squared(difference: np.ndarray, mask: np.ndarray) -> float:
    """Mean square inside the mask dilated by 3 px, the region of all of Peel4D's scores."""
    region = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return float(np.square(difference[region]).mean())


def decibel(mean_square: float) -> float:
    return float(-10 * np.log10(mean_square))


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OutputError("cannot write", where=path, hint="Is the disk full?")


def write_image(folder: Path, view: str, frame: int, rgba: np.ndarray, z: np.ndarray) -> dict:
    """Write image, mask and depth of one exposure; return what demo.json says about it."""
    file = Path(view) / f"{frame:06d}.png"
    mask = rgba[..., 3] > 0.5
    border = np.concatenate([rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]])[:, 3]
    if border.any():
        raise PeelError("the subject is cut by the image border", where=file)
    millimetres = np.where(mask & (z < NO_HIT), np.rint(z / DEPTH_STEP), 0).clip(0, 65535)
    rgb = np.rint(over_black(rgba) * 255).astype(np.uint8)
    write_png(folder / "images" / file, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    write_png(folder / "masks" / file, mask.astype(np.uint8) * 255)
    write_png(folder / "depth" / file, millimetres.astype(np.uint16))
    return {"view": view, "frame": frame, "coverage": float(mask.mean())}


def film_frame(
    studio: Studio, views: list[RigView], placed: dict, frame: int, folder: Path, progress
) -> list[dict]:
    """Take one moment with every camera. The subject is posed already."""
    records = []
    for scene, train in ((studio.train, True), (studio.test, False)):
        for index, view in enumerate(views):
            if view.train is not train:
                continue
            progress(frame, view.name)
            seed = (frame * len(views) + index) * 2
            rgba = studio.shoot(scene, placed[view.name], seed)
            # Two renders of a test image; of training images a few suffice to know their noise.
            noise = None
            if not train or (frame == 0 and index % 5 == 0):
                second = studio.shoot(scene, placed[view.name], seed + 1)
                difference = over_black(rgba) - over_black(second)
                noise = mean_squared(difference, rgba[..., 3] > 0.5) / 2
                if not train:
                    rgba, noise = (rgba + second) / 2, noise / 2
            z = studio.shoot(studio.depth, placed[view.name])[..., 0]
            record = write_image(folder, view.name, frame, rgba, z)
            records.append(record | {"train": train, "noise": noise})
    return records


def opencv_matrix(name: str, matrix: np.ndarray) -> str:
    rows = matrix.reshape(matrix.shape[0], -1)
    data = ", ".join(f"{value:.12g}" for value in rows.ravel())
    return (
        f"{name}: !!opencv-matrix\n   rows: {rows.shape[0]}\n   cols: {rows.shape[1]}\n"
        f"   dt: d\n   data: [ {data} ]\n"
    )


def write_calibration(folder: Path, cameras: dict[str, Camera]) -> None:
    """intri.yml and extri.yml as OpenCV's FileStorage writes them."""
    names = "names:\n" + "".join(f'   - "{name}"\n' for name in cameras)
    intri = extri = "%YAML:1.0\n---\n" + names
    for name, camera in cameras.items():
        intri += opencv_matrix(f"K_{name}", camera.K) + opencv_matrix(f"dist_{name}", np.zeros(5))
        intri += f"H_{name}: {camera.height}\nW_{name}: {camera.width}\n"
        extri += opencv_matrix(f"R_{name}", cv2.Rodrigues(camera.R)[0])
        extri += opencv_matrix(f"Rot_{name}", camera.R) + opencv_matrix(f"T_{name}", camera.t)
    write_text(folder / "intri.yml", intri)
    write_text(folder / "extri.yml", extri)


def summary(settings: Settings, views: list[RigView], records: list[dict]) -> dict:
    """The numbers of demo.json. Raises PeelError where the capture is not what it must be."""
    coverage = np.array([record["coverage"] for record in records])
    floor = {}
    for kind, train in (("train", True), ("test", False)):
        noise = [r["noise"] for r in records if r["train"] is train and r["noise"] is not None]
        if noise:
            floor[kind] = {
                "images": len(noise),
                "min": round(min(map(decibel, noise)), 2),
                "mean": round(float(np.mean([decibel(n) for n in noise])), 2),
            }
    document = {
        "coverage": {"min": round(coverage.min(), 4), "mean": round(coverage.mean(), 4)},
        "noise_floor_db": floor,
        "noise_floor_is": "PSNR of an image against its own noiseless version, estimated from two "
        "renders A, B with different seeds in the mask dilated by 3 px, 8-bit sRGB scale: "
        "-10 log10(mean((A - B)^2) / 2) for a training image (A alone), / 4 for a test image "
        "(the mean of A and B); mean over images of the dB",
    }
    if sum(view.train for view in views) > 1:
        angles = spacing(views)
        document["camera_spacing_degrees"] = {
            "nearest_train_to_train": [round(angles.train.min(), 2), round(angles.train.max(), 2)],
            "nearest_train_to_test": [round(a, 2) for a in angles.test],
        }
    if coverage.min() < MINIMUM_COVERAGE:
        raise PeelError(f"the subject covers {coverage.min():.1%} of an image only")
    if not settings.quick and "test" in floor and floor["test"]["min"] < MINIMUM_TEST_FLOOR_DB:
        raise PeelError(f"test images are too noisy: floor {floor['test']['min']} dB")
    return document


def film(settings: Settings, folder: Path) -> dict:
    """Fill a folder with the capture; frames that a former run finished are kept."""
    views = settings.rig()
    if not settings.views and not spacing(views).held_out_far_enough:
        raise PeelError("a test camera stands too near to a training camera")
    bird = build_scene()
    seconds = np.arange(settings.frames) / FPS
    points = subject_points(bird, seconds)
    cameras = {view.name: fitted_camera(view, points, settings.size) for view in views}
    studio = Studio(settings, folder)
    placed = {name: blender_camera(name, camera) for name, camera in cameras.items()}
    bpy.context.view_layer.update()
    for name, camera in cameras.items():
        error = projection_error(studio.train, placed[name], camera, points[:: len(points) // 50])
        if error > 0.01:
            raise PeelError(f"Blender's camera differs from K by {error:.3f} px", where=name)
    write_calibration(folder, cameras)

    bar = sys.stderr.isatty()
    started = time.monotonic()

    def progress(frame: int, view: str) -> None:
        if bar:
            text = f"frame {frame + 1}/{settings.frames}  view {view}"
            print(f"\r{text}  {time.monotonic() - started:.0f} s", end="", file=sys.stderr)

    records = []
    for frame, moment in enumerate(seconds):
        done = folder / f"frame{frame:06d}.json"
        if not done.is_file():
            pose(bird, float(moment))
            write_text(done, json.dumps(film_frame(studio, views, placed, frame, folder, progress)))
        records += json.loads(done.read_text())
    if bar:
        print(file=sys.stderr)

    sidecar = {
        "test_views": [view.name for view in views if not view.train],
        "fps": FPS,
        "up": [0, 0, 1],
        "bounds": [points.min(axis=0).round(3).tolist(), points.max(axis=0).round(3).tolist()],
        "depth_scale": DEPTH_STEP,
    }
    document = summary(settings, views, records)
    write_text(folder / "peel4d.json", json.dumps(sidecar, indent=2) + "\n")
    for leftover in (studio.scratch, *folder.glob("frame*.json")):
        leftover.unlink(missing_ok=True)
    return document


def make(out: Path, settings: Settings) -> bool:
    """Make the capture unless it is there. Returns whether anything was rendered."""
    card, key = out / "demo.json", settings.key()
    if card.is_file() and json.loads(card.read_text()).get("key") == key:
        return False
    if out.exists() and not card.is_file() and any(out.iterdir()):
        raise OutputError(
            "exists and is not a demo capture", where=out, hint="Name another folder or remove it"
        )
    part = out.with_name(f".{out.name}.{key}.part")
    part.mkdir(parents=True, exist_ok=True)
    document = film(settings, part)
    cpu = os.times()
    document |= {"cpu_seconds": round(cpu.user + cpu.system, 1), "bpy": bpy.app.version_string}
    document |= {"settings": asdict(settings), "key": key}
    write_text(part / "demo.json", json.dumps(document, indent=2) + "\n")
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the capture")
    parser.add_argument("--quick", action="store_true", help="6 views, 2 frames, 96 px, noisy")
    parser.add_argument("--frames", type=int, help="number of frames (default 12)")
    parser.add_argument("--size", type=int, help="width and height in pixels (default 384)")
    parser.add_argument("--views", nargs="+", default=[], help="only these views, such as 00 07 20")
    options = parser.parse_args()
    quick = dict(size=96, frames=2, quick=True, train_samples=4, test_samples=4)
    chosen = {"size": options.size, "frames": options.frames}
    values = (quick if options.quick else {}) | {k: v for k, v in chosen.items() if v is not None}
    try:
        if values.get("frames", 1) < 1 or values.get("size", 32) < 32:
            raise PeelError("--frames must be at least 1 and --size at least 32")
        settings = Settings(views=tuple(options.views), **values)
        rendered = make(options.out, settings)
    except PeelError as error:
        print(f"make_demo_capture: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"make_demo_capture: {error.filename}: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code
    document = json.loads((options.out / "demo.json").read_text())
    print(f"{options.out}: {'rendered' if rendered else 'is up to date'}")
    for name in ("coverage", "camera_spacing_degrees", "noise_floor_db", "cpu_seconds"):
        if name in document:
            print(f"  {name.replace('_', ' ')}: {json.dumps(document[name])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
