# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the Blender extension: build/peel4d-<version>.zip, validated by Blender's own tool.

usage: python tools/build_extension.py [--output build] [--cuda]

--cuda makes build/peel4d-<version>-cuda.zip, which also carries the wheels of pycuda that lie in
build/wheels (tools/build_pycuda.py makes one for each Python). Blender refuses a zip that has no
wheel for its own Python, so this one installs in the Blenders of these Pythons only.

Needs a C++ compiler (for the splat core), pip with access to a package index (for the zstandard
wheels that blender_manifest.toml lists) and bpy (for its command-line tool, which runs as plain
Python). What goes into the extension is listed here; everything else stays out.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
#: Blender's process needs addon and engine/{clip,render}; the rest of engine runs in the worker's
#: interpreter, which is started from the installed extension.
CONTENT = ("blender_manifest.toml", "__init__.py", "LICENSE", "addon", "engine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of the zip")
    parser.add_argument("--cuda", action="store_true", help="bring pycuda along")
    options = parser.parse_args()
    output = options.output.resolve()
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    wheels = output / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    listed = [Path(wheel).name for wheel in manifest["wheels"]]
    built = collect_wheels(listed, wheels)
    extra = pycuda_wheels(wheels) if options.cuda else []
    suffix = "-cuda" if options.cuda else ""
    archive = output / f"{manifest['id']}-{manifest['version']}{suffix}.zip"
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / manifest["id"]
        stage_content(stage, dict(zip(listed, built, strict=True)), extra)
        blender_extension("validate", str(stage))
        blender_extension("build", "--source-dir", str(stage), "--output-filepath", str(archive))
    blender_extension("validate", str(archive))
    print(f"{archive} ({archive.stat().st_size / 1e6:.1f} MB)")


def collect_wheels(names: list[str], folder: Path) -> list[Path]:
    """Build the core's wheel anew, download the others that are not there yet.

    The core's tag names the glibc that its build came to need, so its file may be called otherwise
    than in the manifest. Returns the files in the order of `names`.
    """
    return [
        build_core(folder) if name.startswith("peel4d_core-") else download(name, folder)
        for name in names
    ]


def pycuda_wheels(folder: Path) -> list[Path]:
    found = sorted(folder.glob("pycuda-*.whl"))
    if not found:
        sys.exit(f"build_extension: no pycuda wheel in {folder}; make one: tools/build_pycuda.py")
    pythons = ", ".join(path.name.split("-")[2].removeprefix("cp3") for path in found)
    print(f"With pycuda; installs in Blenders of Python 3.{pythons} only")
    return found


def build_core(folder: Path) -> Path:
    for old in folder.glob("peel4d_core-*.whl"):
        old.unlink()
    run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT / "cuda"))
    return next(folder.glob("peel4d_core-*.whl"))


def download(name: str, folder: Path) -> Path:
    distribution, version, *_build, python, _abi, platform = name.removesuffix(".whl").split("-")
    if not (folder / name).exists():
        run_pip(
            "download",
            f"{distribution}=={version}",
            "--no-deps",
            "--only-binary=:all:",
            f"--python-version={python.removeprefix('cp')}",
            f"--platform={platform.split('.')[0]}",
            f"--dest={folder}",
        )
    if not (folder / name).exists():
        found = ", ".join(sorted(path.name for path in folder.glob(f"{distribution}-*")))
        sys.exit(
            f"build_extension: blender_manifest.toml lists {name}, but pip has {found}. "
            "Correct the manifest, or build on the platform it names"
        )
    return folder / name


def stage_content(stage: Path, wheels: dict[str, Path], extra: list[Path]) -> None:
    """A clean copy of what belongs into the extension.

    wheels: by their name in the manifest. extra: wheels that the manifest does not list.
    """
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    stage.mkdir()
    for name in CONTENT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, stage / name, ignore=ignore)
        else:
            shutil.copy2(source, stage / name)
    manifest = stage / "blender_manifest.toml"
    text = manifest.read_text()
    (stage / "wheels").mkdir()
    for listed, wheel in wheels.items():
        text = text.replace(listed, wheel.name)
        shutil.copy2(wheel, stage / "wheels" / wheel.name)
    for wheel in extra:
        text = text.replace("wheels = [\n", f'wheels = [\n  "./wheels/{wheel.name}",\n', 1)
        shutil.copy2(wheel, stage / "wheels" / wheel.name)
    manifest.write_text(text)


def blender_extension(*arguments: str) -> None:
    """Run a command of Blender's extension tool; its message ends the build when it fails."""
    bpy = importlib.util.find_spec("bpy")
    tools = sorted(Path(bpy.origin).parent.rglob("bl_pkg/cli/blender_ext.py")) if bpy else []
    if not tools:
        sys.exit("build_extension: needs bpy. Install it with: pip install -e '.[blender]'")
    if subprocess.run([sys.executable, str(tools[0]), *arguments]).returncode != 0:
        sys.exit(f"build_extension: Blender's tool refused to {arguments[0]} the extension")


def run_pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"build_extension: this command failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
