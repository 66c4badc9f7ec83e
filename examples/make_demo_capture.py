"""Render a demo capture: a music-box bird on a dome of 24 cameras, or in a room before 20 of them.

    python examples/make_demo_capture.py OUT [--scene dome|room] [--quick] [--frames N] [--size PX]
                                             [--views NAME ...]

Needs bpy (pip install bpy==4.5.*) and OpenCV. OUT becomes an EasyVolcap folder: intri.yml,
extri.yml, images/, masks/ and depth/<view>/<frame>.png, peel4d.json (held-out views, frame rate)
and demo.json (how it was made; coverage, camera spacing, noise floor).

    images  8-bit sRGB, Blender's Standard view transform; dome: over a grey backdrop
    masks   255 where the bird covers more than half of the pixel; room: where the centre shows it
    depth   16 bit, camera-space z at the pixel's centre in millimetres, 0 = nothing or unknown;
            dome: of the bird alone

The folder appears under its name when it is complete. Run again, the script finds it and stops; a
run that was interrupted goes on with the first unfinished frame.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from peel4d.engine.atomic import write_text
from peel4d.engine.errors import OutputError, PeelError
from peel4d.engine.render.camera import Camera

try:
    import bpy
    import cv2
    from demo_stages import STAGES, Stage
    from demo_studio import (
        NO_HIT,
        Film,
        Studio,
        blender_camera,
        over_backdrop,
        projection_error,
        subject_points,
    )
except ModuleNotFoundError as missing:
    sys.exit(f"make_demo_capture: {missing}. pip install 'bpy==4.5.*' opencv-python-headless")

from demo_rig import RigView, spacing
from demo_scene import pose

FPS = 24
DEPTH_STEP = 1e-3


@dataclass(frozen=True)
class Settings:
    """What the pixels depend on. size: width of a picture. samples: Cycles samples per pixel; a
    test image is the mean of two renders of `test_samples` each with different seeds, which also
    measures its noise."""

    scene: str
    size: int
    frames: int
    quick: bool
    views: tuple[str, ...]
    train_samples: int
    test_samples: int

    @property
    def stage(self) -> Stage:
        return STAGES[self.scene]

    def film(self) -> Film:
        stage = self.stage
        height = round(self.size / stage.aspect)
        samples = self.train_samples, self.test_samples
        return Film(self.size, height, *samples, stage.backdrop, stage.denoise)

    def rig(self) -> list[RigView]:
        everything = self.stage.quick_rig() if self.quick else self.stage.rig()
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
        for pattern in ("*demo_*.py", "room_*.py"):
            for script in sorted(Path(__file__).parent.glob(pattern)):
                digest.update(script.read_bytes())
        return digest.hexdigest()[:16]


def scored_region(subject: np.ndarray, whole: bool) -> np.ndarray:
    """The mask dilated by 3 px, the region of Peel4D's scores in masks; or the whole picture."""
    if whole:
        return np.ones_like(subject)
    return cv2.dilate(subject.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0


def decibel(mean_square: float) -> float:
    return float(-10 * np.log10(mean_square))


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OutputError("cannot write", where=path, hint="Is the disk full?")


def write_shot(folder: Path, file: Path, rgb: np.ndarray, mask: np.ndarray, z: np.ndarray) -> None:
    """Write image, mask and depth of one exposure. z: 0 where it is unknown."""
    millimetres = np.rint(z / DEPTH_STEP).clip(0, 65535)
    picture = np.rint(rgb * 255).astype(np.uint8)
    write_png(folder / "images" / file, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_png(folder / "masks" / file, mask.astype(np.uint8) * 255)
    write_png(folder / "depth" / file, millimetres.astype(np.uint16))


def border(picture: np.ndarray) -> np.ndarray:
    """The outermost pixels of (H, W, ...)."""
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def take(
    studio: Studio, view: RigView, camera: bpy.types.Object, seed: int, measured: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float | None]:
    """One exposure: (rgb, mask, z, mean square of the noise in rgb, if it is measured)."""
    scene = studio.train if view.train else studio.test
    rgba = studio.shoot(scene, camera, seed)
    z, index = studio.measure(camera)
    noise = None
    if measured:
        second = studio.shoot(scene, camera, seed + 1)
        region = scored_region(studio.subject(rgba, index), not studio.film.backdrop)
        difference = over_backdrop(rgba) - over_backdrop(second)
        noise = float(np.square(difference[region]).mean()) / 2
        if not view.train:
            rgba, noise = (rgba + second) / 2, noise / 2
    mask = studio.subject(rgba, index)
    if studio.film.backdrop and border(rgba[..., 3]).any():
        raise PeelError("the subject is cut by the image border", where=view.name)
    known = (z < NO_HIT) & (mask | (not studio.film.backdrop))
    return over_backdrop(rgba), mask, np.where(known, z, 0), noise


def film_frame(
    studio: Studio,
    views: list[RigView],
    placed: dict[str, bpy.types.Object],
    frame: int,
    folder: Path,
    progress: Callable[[int, str], None],
) -> list[dict]:
    """Take one moment with every camera, and say what demo.json is to say of each picture.

    The subject is posed already.
    """
    records = []
    for index, view in sorted(enumerate(views), key=lambda item: not item[1].train):
        progress(frame, view.name)
        # Two renders of a test image; of training images a few suffice to know their noise.
        measured = not view.train or (frame == 0 and index % 5 == 0)
        seed = (frame * len(views) + index) * 2
        rgb, mask, z, noise = take(studio, view, placed[view.name], seed, measured)
        write_shot(folder, Path(view.name) / f"{frame:06d}.png", rgb, mask, z)
        record = {"view": view.name, "frame": frame, "train": view.train, "noise": noise}
        records.append(record | {"coverage": float(mask.mean())})
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
    stage = settings.stage
    region = "in the mask dilated by 3 px" if stage.backdrop else "in the whole picture"
    document = {
        "coverage": {"min": round(coverage.min(), 4), "mean": round(coverage.mean(), 4)},
        "noise_floor_db": floor,
        "noise_floor_is": "PSNR of an image against its own noiseless version, estimated from two "
        f"renders A, B with different seeds {region}, 8-bit sRGB scale: "
        "-10 log10(mean((A - B)^2) / 2) for a training image (A alone), / 4 for a test image "
        "(the mean of A and B); mean over images of the dB",
    }
    if sum(view.train for view in views) > 1:
        angles = spacing(views)
        document["camera_spacing_degrees"] = {
            "nearest_train_to_train": [round(angles.train.min(), 2), round(angles.train.max(), 2)],
            "nearest_train_to_test": [round(a, 2) for a in angles.test],
        }
    if coverage.min() < stage.minimum_coverage:
        raise PeelError(f"the subject covers {coverage.min():.1%} of an image only")
    lowest = floor.get("test", {}).get("min", np.inf)
    if not settings.quick and lowest < stage.minimum_test_floor:
        raise PeelError(f"test images are too noisy: floor {lowest} dB")
    return document


def film(settings: Settings, folder: Path) -> dict:
    """Fill a folder with the capture; frames that a former run finished are kept."""
    views = settings.rig()
    if not settings.views and not spacing(views).held_out_far_enough:
        raise PeelError("a test camera stands too near to a training camera")
    bird = settings.stage.build(settings.quick)
    seconds = np.arange(settings.frames) / FPS
    points = subject_points(bird, seconds)
    exposed = settings.film()
    cameras = {
        view.name: settings.stage.camera(view, points, exposed.width, exposed.height)
        for view in views
    }
    scratch = folder / "render.exr"
    studio = Studio(exposed, scratch)
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

    records, cpu = [], 0.0
    for frame, moment in enumerate(seconds):
        done = folder / f"frame{frame:06d}.json"
        if not done.is_file():
            before = time.process_time()
            pose(bird, float(moment))
            shots = film_frame(studio, views, placed, frame, folder, progress)
            took = time.process_time() - before
            write_text(done, json.dumps({"shots": shots, "cpu_seconds": took}))
        finished = json.loads(done.read_text())
        records += finished["shots"]
        cpu += finished["cpu_seconds"]
    if bar:
        print(file=sys.stderr)

    sidecar = {
        "test_views": [view.name for view in views if not view.train],
        "fps": FPS,
        "up": [0, 0, 1],
        "bounds": [points.min(axis=0).round(3).tolist(), points.max(axis=0).round(3).tolist()],
        "depth_scale": DEPTH_STEP,
    }
    document = summary(settings, views, records) | {"cpu_seconds": round(cpu, 1)}
    write_text(folder / "peel4d.json", json.dumps(sidecar, indent=2) + "\n")
    for leftover in (scratch, *folder.glob("frame*.json")):
        leftover.unlink(missing_ok=True)
    return document


def card_of(folder: Path) -> dict | None:
    """demo.json of a folder, or None where there is none that can be read."""
    try:
        return json.loads((folder / "demo.json").read_text())
    except (OSError, ValueError):
        return None


def make(out: Path, settings: Settings) -> bool:
    """Make the capture unless it is there. Returns whether anything was rendered."""
    settings.rig()  # refuses unknown views before anything is touched
    key, card = settings.key(), card_of(out)
    if card is not None and card.get("key") == key:
        return False
    if out.exists() and card is None and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "exists and is not a demo capture", where=out, hint="Name another folder or remove it"
        )
    part = out.with_name(f".{out.name}.{key}.part")
    for stale in out.parent.glob(f".{out.name}.*.part"):
        if stale != part:
            shutil.rmtree(stale)
    part.mkdir(parents=True, exist_ok=True)
    document = film(settings, part) | {"bpy": bpy.app.version_string}
    document |= {"settings": asdict(settings), "key": key}
    write_text(part / "demo.json", json.dumps(document, indent=2) + "\n")
    if out.exists():
        old = out.with_name(f".{out.name}.old.part")
        out.rename(old)
        part.rename(out)
        shutil.rmtree(old)
    else:
        part.rename(out)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the capture")
    parser.add_argument("--scene", choices=STAGES, default="dome", help="(default: dome)")
    parser.add_argument("--quick", action="store_true", help="6 views, 2 frames, 96 px, noisy")
    parser.add_argument("--frames", type=int, help="number of frames (default 12)")
    parser.add_argument("--size", type=int, help="width in pixels (default: dome 384, room 480)")
    parser.add_argument("--views", nargs="+", default=[], help="only these views, such as 00 07 20")
    options = parser.parse_args()
    stage = STAGES[options.scene]
    values = {"size": 96, "frames": 2} if options.quick else {"size": stage.width, "frames": 12}
    samples = (4, 4) if options.quick else stage.samples
    values |= {k: v for k in values if (v := getattr(options, k)) is not None}
    try:
        if values["frames"] < 1 or values["size"] < 32:
            raise PeelError("--frames must be at least 1 and --size at least 32")
        settings = Settings(
            options.scene,
            **values,
            quick=options.quick,
            views=tuple(options.views),
            train_samples=samples[0],
            test_samples=samples[1],
        )
        rendered = make(options.out, settings)
    except PeelError as error:
        print(f"make_demo_capture: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nmake_demo_capture: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"make_demo_capture: {error.filename}: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code
    document = card_of(options.out)
    print(f"{options.out}: {'rendered' if rendered else 'is up to date'}")
    for name in ("coverage", "camera_spacing_degrees", "noise_floor_db", "cpu_seconds"):
        if name in document:
            print(f"  {name.replace('_', ' ')}: {json.dumps(document[name])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
