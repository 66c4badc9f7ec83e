"""Makes a virtual environment with what training needs, from a lock file, reporting as it goes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError, PeelError

#: Written last: an environment without it is not finished.
MARK = "peel4d-environment.json"
_LAUNCH = Path(__file__).with_name("launch.py")
_PIP = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--no-input"),
    *("--progress-bar", "off", "--only-binary", ":all:"),
)
#: "Processing" is a file of a local index.
_COLLECTING = re.compile(r"(Collecting|Processing|Downloading|Using cached) (\S+)(?:.*\((.*B)\))?")


class EnvironmentFault(PeelError):
    """The environment cannot be made: no venv module, no network, no wheel for this Python."""

    code = "environment"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_complete(folder: Path) -> bool:
    """Whether `create` has finished there."""
    return (folder / MARK).is_file() and python_of(folder).exists()


def create(folder: Path, lock: Path, progress: Callable[[str, int, int], None]) -> dict:
    """Make `folder` anew with the packages of the file `lock` and return its description.

    progress(what, step, total) is called for every package. An earlier environment in this folder
    is replaced; a folder with anything else in it is refused. Raises PeelError.
    """
    _clear(folder)
    names = [n for n in lock.read_text("utf-8").splitlines() if n.strip() and n[0] not in "#-"]
    total = len(names) + 3
    progress("virtual environment", 0, total)
    try:
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=os.name != "nt").create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFault(
            f"no virtual environment can be made by {sys.executable} ({error})",
            where=folder,
            hint="Install python3-venv, or set an interpreter that has torch in the preferences",
        ) from error
    _install(folder, lock, total, progress)
    progress("check", total - 1, total)
    described = _check(python_of(folder))
    (folder / MARK).write_text(json.dumps(described, indent=1), encoding="utf-8")
    progress("check", total, total)
    return described


def _clear(folder: Path) -> None:
    """What lies there may be an environment, whole or not, or nothing."""
    try:
        foreign = folder.is_dir() and any(folder.iterdir())
        if foreign and not (folder / "pyvenv.cfg").is_file():
            raise OutputError(
                "there are other files in this folder",
                where=folder,
                hint="Choose an empty folder for the environment in the preferences",
            )
        (folder / MARK).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write ({error.strerror})",
            where=folder,
            hint="Choose another folder for the environment in the preferences",
        ) from error


def _install(folder: Path, lock: Path, total: int, progress: Callable[[str, int, int], None]):
    command = [str(python_of(folder)), *_PIP, "-r", str(lock)]
    faults: list[str] = []
    collected: set[str] = set()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        for line in pip.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            if line.startswith("ERROR:"):
                faults.append(line.removeprefix("ERROR:").strip())
            elif line.startswith("Installing collected"):
                progress("installing", total - 2, total)
            elif found := _COLLECTING.match(line.strip()):
                what, name, size = found.groups()
                name = name.rpartition("/")[2]
                if what in ("Collecting", "Processing"):
                    collected.add(name)
                text = f"{what.lower()} {name}" + (f" ({size})" if size else "")
                progress(text, min(len(collected), total - 2), total)
    if pip.returncode != 0:
        reason = faults[0] if faults else f"pip ended with exit code {pip.returncode}"
        raise EnvironmentFault(
            f"the packages could not be installed: {reason}",
            where=folder,
            hint="Check the network and the free space; the log has the details",
        )


def _check(python: Path) -> dict:
    """What the new interpreter says about itself."""
    result = subprocess.run(
        [str(python), str(_LAUNCH), "check"], stdin=subprocess.DEVNULL, capture_output=True
    )
    sys.stderr.write(result.stderr.decode("utf-8", errors="replace"))
    try:
        described = json.loads(result.stdout.decode("utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        raise EnvironmentFault(
            f"the new interpreter does not work (exit code {result.returncode})",
            where=python,
            hint="The log has the details",
        ) from None
    if described["missing"]:
        first = described["missing"][0]
        raise EnvironmentFault(
            f"the new environment lacks {first['name']} ({first['reason']})",
            where=python,
            hint="The log has the details",
        )
    return described
