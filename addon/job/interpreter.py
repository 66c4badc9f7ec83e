# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python that reconstructs, and how a worker is started with it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engine.errors import CoreError, ReconstructionError
from ...engine.render.core_library import find_library
from ...engine.worker.create import is_complete, python_of
from .process import WorkerProcess

LAUNCH = Path(__file__).resolve().parents[2] / "engine" / "worker" / "launch.py"
LOCK = Path(__file__).with_name("requirements.lock")
#: What a worker needs that Blender may find in places of its own.
_PACKAGES = ("torch", "numpy", "cv2", "av", "safetensors", "packaging", "zstandard")


@dataclass(frozen=True)
class Interpreter:
    """path: the program. source: "Blender", "preferences" or "environment"."""

    path: Path
    source: str


def choose(interpreter: Path | None, environment_folder: Path) -> Interpreter:
    """Blender's own Python when torch is there, else the one of the preferences, else the
    environment. Raises ReconstructionError when there is none of them."""
    if own_python() is not None and _spec("torch") is not None:
        return Interpreter(own_python(), "Blender")
    if interpreter is not None:
        if not interpreter.is_file():
            raise ReconstructionError(
                "there is no such interpreter",
                where=interpreter,
                hint="Set it again in the preferences of Peel4D",
            )
        return Interpreter(interpreter, "preferences")
    if is_complete(environment_folder):
        return Interpreter(python_of(environment_folder), "environment")
    raise ReconstructionError(
        "no Python with torch was found to reconstruct with",
        hint="In the preferences of Peel4D, set an interpreter or press Create Environment",
    )


def own_python() -> Path | None:
    """The interpreter that Blender runs, as a program of its own."""
    path = Path(sys.executable) if sys.executable else None
    return path if path is not None and "python" in path.name.lower() and path.is_file() else None


def command(interpreter: Path, arguments: Sequence[str]) -> list[str]:
    """A worker's command line; it ends with this process."""
    return [str(interpreter), str(LAUNCH), *arguments, "--parent", str(os.getpid())]


def environment(interpreter: Interpreter) -> dict[str, str]:
    """The environment variables of a worker: Blender's Python stays Blender's."""
    values = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONOPTIMIZE")
    }
    values |= {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if interpreter.source == "Blender":
        folders = {_folder(name): None for name in _PACKAGES}
        values["PYTHONPATH"] = os.pathsep.join(str(folder) for folder in folders if folder)
    # The core is a library for any Python, so the worker uses the one that Blender has.
    with contextlib.suppress(CoreError):
        values["PEEL4D_CORE"] = str(find_library())
    return values


def launch(interpreter: Interpreter, arguments: Sequence[str], log: Path) -> WorkerProcess:
    """Start a worker. Raises ReconstructionError where the interpreter is no program."""
    try:
        return WorkerProcess(
            command(interpreter.path, arguments), log=log, environment=environment(interpreter)
        )
    except (OSError, ValueError) as error:
        raise ReconstructionError(
            f"the interpreter cannot be started ({error})",
            where=interpreter.path,
            hint="Set another one in the preferences of Peel4D",
        ) from error


def _spec(name: str):
    """Where a module would come from, without importing it."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _folder(name: str) -> Path | None:
    """The folder on the search path that a package is found in."""
    spec = _spec(name)
    return Path(spec.origin).parent.parent if spec is not None and spec.origin else None
