"""The real Blender with a window (Xvfb, software OpenGL), Peel4D installed from its zip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
TOOLS = SHARED / "tools" / "blender"
SCRIPTS = Path(__file__).parent / "scripts"
CHROOT = os.environ.get("PEEL4D_BLENDER_CHROOT")
ZIP = os.environ.get("PEEL4D_EXTENSION")

# The folder of a test has the same path inside the chroot and outside, so that a worker with the
# Python of outside, which has torch, finds the files that Blender names.
_MOUNTS = """
set -e
mkdir -p "$CHROOT$FOLDER" "$CHROOT/host"
mount --bind "$FOLDER" "$CHROOT$FOLDER"
mount --rbind / "$CHROOT/host"
exec "$@"
"""


class Window:
    """A windowed Blender of its own user files, in `folder` (the same path in both worlds)."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ZIP, folder / "peel4d.zip")
        shutil.copytree(SCRIPTS, folder / "scripts", dirs_exist_ok=True)
        #: A Python that has torch and what else a worker needs, as a program inside the chroot.
        self.interpreter = folder / "python"
        self.interpreter.write_text(
            f'#!/bin/sh\nexec /usr/sbin/chroot /host {sys.executable} "$@"\n'
        )
        self.interpreter.chmod(0o755)

    def _start(self, program: str, arguments: tuple, timeout: float) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "CHROOT": str(Path(CHROOT).resolve()),
            "FOLDER": str(self.folder),
            "BL_USER": str(self.folder / "user"),
            "BL_STARTUP": "",
            "BL_TIMEOUT": str(round(timeout)),
        }
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _MOUNTS, "bash"]
        return subprocess.run(
            [*command, str(TOOLS / program), CHROOT, *(str(a) for a in arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )

    def background(self, *arguments, timeout: float = 120) -> subprocess.CompletedProcess:
        """`blender -b`."""
        return self._start("bl_bg.sh", arguments, timeout)

    def install(self) -> None:
        """Install and enable the extension from its zip."""
        install = ("install-file", "-r", "user_default", "-e", self.folder / "peel4d.zip")
        installed = self._start("bl_bg.sh", ("--command", "extension", *install), 120)
        assert installed.returncode == 0, installed.stdout
        assert "error" not in installed.stdout.lower(), installed.stdout

    def run(self, script: str, *arguments, timeout: float = 240) -> Path:
        """Run scripts/`script`.py in a window, ending well; the folder that it wrote into."""
        out = self.folder / script
        path = self.folder / "scripts" / f"{script}.py"
        done = self._start("bl_gui.sh", ("-P", path, "--", out, *arguments), timeout)
        pictures = os.environ.get("PEEL4D_PICTURES")
        if pictures and out.is_dir():
            shutil.copytree(out, Path(pictures) / script, dirs_exist_ok=True)
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-6000:]}"
        assert "Traceback" not in done.stdout, done.stdout[-6000:]
        return out


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.shared)


@pytest.fixture
def bare_window(tmp_path) -> Window:
    """Blender as it comes."""
    if not (CHROOT and ZIP):
        pytest.skip("run by tests/real_blender.sh")
    return Window(tmp_path.resolve())


@pytest.fixture
def window(bare_window) -> Window:
    """Blender with Peel4D installed."""
    bare_window.install()
    return bare_window


@pytest.fixture
def shot(window):
    """shot(engine) -> FOLDER/shot.blend as make_shot.py saves it."""

    def make(engine="PEEL4D"):
        script = window.folder / "scripts" / "make_shot.py"
        made = window.background("-P", script, "--", window.folder / "shot", engine)
        assert made.returncode == 0, made.stdout
        return window.folder / "shot" / "shot.blend"

    return make
