# ruff: noqa: E402 (what follows the check for bpy needs bpy)
"""The extension in the real application: installed from its zip, rendering with `blender -b -a`.

tests/real_blender.sh prepares the application and runs this. Paths that begin with /w are those of
the test's folder as the application in its chroot sees it.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy", reason="needs bpy to read back the pictures")
from peel4d.addon.render.color import scene_linear_from_clip
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.render.backend import Instance, render_scene

CHROOT = os.environ.get("PEEL4D_BLENDER_CHROOT")
ZIP = os.environ.get("PEEL4D_EXTENSION")
SHARED = Path(__file__).resolve().parents[3] / "shared"
SCRIPTS = Path(__file__).parent / "scripts"

pytestmark = [
    pytest.mark.blender,
    pytest.mark.shared,
    pytest.mark.skipif(not (CHROOT and ZIP), reason="run by tests/real_blender.sh"),
]

LEVEL = 1 / 255


class Application:
    """The real Blender, seeing `folder` as /w, with user files of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/w/home",
            "LANG": "C.UTF-8",
            "BLENDER_USER_RESOURCES": "/w/user",
        }
        return subprocess.run(
            [
                str(SHARED / "tools" / "blender" / "in_chroot.sh"),
                CHROOT,
                "/usr/bin/env",
                "-i",
                *(f"{name}={value}" for name, value in environment.items()),
                *("timeout", "120", "blender", "--offline-mode", *arguments),
            ],
            env={**os.environ, "BL_BIND": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def scene(self, clip: str, name: str, *options: str) -> str:
        """Save a scene that shows /w/`clip` and return its path."""
        made = self(
            *("-b", "--python-exit-code", "1", "-P", "/w/scripts/make_scene.py", "--"),
            *(f"/w/{clip}", f"/w/{name}.blend", *options),
        )
        assert made.returncode == 0, made.stdout
        return f"/w/{name}.blend"


@pytest.fixture(scope="module")
def blender(tmp_path_factory) -> Application:
    folder = tmp_path_factory.mktemp("real")
    (folder / "home").mkdir()
    shutil.copytree(SCRIPTS, folder / "scripts")
    shutil.copy(ZIP, folder / "peel4d.zip")
    application = Application(folder)
    installed = application(
        *("--command", "extension", "install-file", "-r", "user_default", "-e", "/w/peel4d.zip")
    )
    assert installed.returncode == 0, installed.stdout
    assert "error" not in installed.stdout.lower(), installed.stdout
    return application


@pytest.fixture(scope="module")
def clip(blender, clip_path) -> Path:
    return Path(shutil.copy(clip_path, blender.folder / "good.p4d"))


def engine_pictures(clip: Path, samples: int = 2):
    """Of all frames, with as many samples as final renders have by default."""
    with ClipReader(clip) as reader:
        camera = reader.info.cameras[0].camera()
        for index in range(reader.info.frame_count):
            scene = [Instance(reader.frame(index), np.eye(4))]
            yield render_scene(scene, camera, reader.info.settings, samples=samples)


def test_the_animation_equals_the_engines_pictures(blender, clip, read_exr):
    blend = blender.scene("good.p4d", "linear", "EXR")
    rendered = blender("-b", blend, "-a")
    assert rendered.returncode == 0, rendered.stdout
    for index, expected in enumerate(engine_pictures(clip)):
        channels = read_exr(blender.folder / f"linear_{index + 1:04d}.exr")
        rgba = np.stack([channels[f"ViewLayer.Combined.{c}"] for c in "RGBA"], axis=-1)
        assert np.abs(rgba - scene_linear_from_clip(expected.rgba)).max() <= LEVEL
        depth = channels["ViewLayer.Depth.Z"]
        hit = np.isfinite(expected.depth)
        assert hit.sum() > 500
        assert ((depth < 1e9) != hit).sum() <= 2
        assert np.median(np.abs(depth[hit] - expected.depth[hit])) < 1e-5
    assert not (blender.folder / "linear_0006.exr").exists()


def test_png_under_standard(blender, clip):
    blend = blender.scene("good.p4d", "display", "PNG")
    rendered = blender("-b", blend, "-f", "3")
    assert rendered.returncode == 0, rendered.stdout
    image = bpy.data.images.load(str(blender.folder / "display_0003.png"))
    image.colorspace_settings.name = "Non-Color"
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)[::-1]
    pixels[..., :3] *= pixels[..., 3:]
    expected = list(engine_pictures(clip))[2].rgba
    assert np.abs(pixels - expected).max() <= LEVEL


def test_a_damaged_frame_ends_the_animation_with_an_error(blender, clip):
    data = bytearray(clip.read_bytes())
    at = data.index(b"frames/000002.bin") + len(b"frames/000002.bin") + 400
    data[at : at + 200] = bytes(200)
    (blender.folder / "damaged.p4d").write_bytes(data)
    blend = blender.scene("damaged.p4d", "damaged", "PNG")
    rendered = blender("-b", blend, "-a")
    assert rendered.returncode != 0, rendered.stdout
    assert re.search(r"Peel4D: /w/damaged\.p4d.*frames/000002\.bin", rendered.stdout)
    assert "Traceback" not in rendered.stdout
    names = sorted(path.name for path in blender.folder.glob("damaged_*.png"))
    assert names == ["damaged_0001.png", "damaged_0002.png"]


def test_a_missing_clip_and_a_panoramic_camera_end_with_an_error(blender, clip):
    (blender.folder / "gone.p4d").write_bytes(clip.read_bytes())
    gone = blender.scene("gone.p4d", "gone", "PNG")
    (blender.folder / "gone.p4d").unlink()
    panorama = blender.scene("good.p4d", "panorama", "PNG", "PANO")
    for blend, message in ((gone, "/w/gone.p4d"), (panorama, "pano cameras are not supported")):
        rendered = blender("-b", blend, "-f", "1")
        assert rendered.returncode != 0, rendered.stdout
        assert message in rendered.stdout
        assert "Traceback" not in rendered.stdout


def test_disabling_and_removing_leave_no_trace(blender, clip):
    script = blender.folder / "scripts" / "disable.py"
    script.write_text(
        "import bpy, addon_utils\n"
        "module = 'bl_ext.user_default.peel4d'\n"
        "assert hasattr(bpy.types.Object, 'peel4d')\n"
        "addon_utils.disable(module)\n"
        "assert not hasattr(bpy.types.Object, 'peel4d')\n"
        "addon_utils.enable(module)\n"
        "bpy.context.scene.render.engine = 'PEEL4D'\n"
    )
    switched = blender("-b", "--python-exit-code", "1", "-P", "/w/scripts/disable.py")
    assert switched.returncode == 0, switched.stdout
    assert "Traceback" not in switched.stdout


@pytest.fixture(scope="module")
def composite(blender, clip) -> str:
    """The clip composited over a grey world by Cycles, saved."""
    (blender.folder / "composed.p4d").write_bytes(clip.read_bytes())
    blend = blender.scene("composed.p4d", "composed", "PNG")
    script = blender.folder / "scripts" / "composite.py"
    script.write_text(
        "import bpy\n"
        "scene = bpy.context.scene\n"
        "scene.render.film_transparent = False\n"
        "scene.world = bpy.data.worlds.new('grey')\n"
        "scene.world.use_nodes = True\n"
        "color = scene.world.node_tree.nodes['Background'].inputs['Color']\n"
        "color.default_value = (0.2, 0.2, 0.2, 1.0)\n"
        "bpy.ops.scene.peel4d_composite(samples='1')\n"
        "assert scene.render.engine == 'CYCLES'\n"
        "scene.cycles.samples = 1\n"
        "scene.cycles.use_denoising = False\n"
        "scene.frame_end = 2\n"
        "bpy.ops.wm.save_mainfile()\n"
    )
    made = blender("-b", blend, "--python-exit-code", "1", "-P", "/w/scripts/composite.py")
    assert made.returncode == 0, made.stdout
    return blend


def test_an_animation_composited_with_cycles(blender, clip, composite):
    rendered = blender("-b", composite, "-a")
    assert rendered.returncode == 0, rendered.stdout
    for index, expected in zip(range(2), engine_pictures(clip, samples=1), strict=False):
        image = bpy.data.images.load(str(blender.folder / f"composed_{index + 1:04d}.png"))
        image.colorspace_settings.name = "Non-Color"
        pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)[::-1]
        linear = scene_linear_from_clip(expected.rgba)
        linear = linear[..., :3] + (1.0 - linear[..., 3:]) * 0.2
        encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        assert np.abs(pixels[..., :3] - encoded).max() <= 2 * LEVEL


def test_a_composite_without_its_clip_ends_with_an_error(blender, composite):
    for picture in blender.folder.glob("composed_*.png"):
        picture.unlink()
    (blender.folder / "composed.p4d").unlink()
    rendered = blender("-b", composite, "-a")
    assert rendered.returncode != 0, rendered.stdout
    assert "composed.p4d: cannot open the clip" in rendered.stdout
    assert not list(blender.folder.glob("composed_*.png"))
