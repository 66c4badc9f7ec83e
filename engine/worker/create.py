"""Makes a virtual environment with what training needs, from a lock file, reporting as it goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError, PeelError
from .pip_output import PipOutput, full_disk, tells_of_full_disk

#: Written last: an environment without it is not finished.
MARK = "peel4d-environment.json"
#: Lies there from the beginning until MARK does: what is in the folder is ours to delete.
UNFINISHED = "peel4d-unfinished"
_LAUNCH = Path(__file__).with_name("launch.py")
_PIP = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-user"),
    *("--progress-bar", "off", "--only-binary", ":all:"),
)


class EnvironmentFault(PeelError):
    """The environment cannot be made: no venv module, no network, no space, no wheel for this
    Python."""

    code = "environment"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_complete(folder: Path) -> bool:
    """Whether `create` has finished there."""
    return (folder / MARK).is_file() and python_of(folder).exists()


def create(folder: Path, lock: Path, progress: Callable[[str, int, int], None]) -> dict:
    """Make `folder` anew with the packages of the file `lock` and return its description.

    progress(what, step, total) is called for every package. What an earlier call has made in this
    folder is replaced; a folder with anything else in it is refused. After a failure the folder is
    empty. Raises PeelError.
    """
    _take(folder)
    try:
        described = _fill(folder, lock, progress)
        (folder / MARK).write_text(json.dumps(described, indent=1), encoding="utf-8")
        (folder / UNFINISHED).unlink()
    except OSError as error:
        what, hint = full_disk(_free_bytes(folder))
        if not tells_of_full_disk(str(error)):
            what, hint = f"cannot write ({error.strerror or error})", "The log has the details"
        remove_unfinished(folder)
        raise EnvironmentFault(what, where=error.filename or folder, hint=hint) from error
    except PeelError:
        remove_unfinished(folder)
        raise
    return described


def remove_unfinished(folder: Path) -> None:
    """Delete what `create` has left in the folder without having finished."""
    if not (folder / UNFINISHED).is_file():
        return
    for _ in range(20):
        _empty(folder)
        if {entry.name for entry in folder.iterdir()} <= {UNFINISHED}:
            with contextlib.suppress(OSError):
                (folder / UNFINISHED).unlink()
            return
        time.sleep(0.1)  # pip, which has just been ended, was still writing


def _take(folder: Path) -> None:
    """Make the folder, or empty the one that an earlier call made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in folder.iterdir()}
        if names and not names & {MARK, UNFINISHED}:
            other = "pyvenv.cfg" in names
            raise OutputError(
                "this environment was not made by Peel4D, which would replace it"
                if other
                else "there are other files in this folder",
                where=folder,
                hint=f"To use it, set {python_of(folder)} as the interpreter in the preferences; "
                "to create one, choose an empty folder"
                if other
                else "Choose an empty folder for the environment in the preferences",
            )
        (folder / UNFINISHED).touch()
    except OSError as error:
        raise OutputError(
            f"cannot write ({error.strerror})",
            where=folder,
            hint="Choose another folder for the environment in the preferences",
        ) from error
    _empty(folder)


def _empty(folder: Path) -> None:
    """Delete everything but the note that says so; a folder may refuse, as of a running program."""
    with contextlib.suppress(OSError):
        (folder / MARK).unlink()
    for entry in list(folder.iterdir()):
        if entry.name == UNFINISHED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                entry.unlink()


def _fill(folder: Path, lock: Path, progress: Callable[[str, int, int], None]) -> dict:
    names = [n for n in lock.read_text("utf-8").splitlines() if n.strip() and n[0] not in "#-"]
    total = len(names) + 3
    progress("virtual environment", 0, total)
    try:
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    except (subprocess.CalledProcessError, SystemExit) as error:  # Debian's venv exits
        said = (getattr(error, "output", None) or b"").decode(errors="replace")
        print(said, file=sys.stderr, flush=True)
        if tells_of_full_disk(said):
            what, hint = full_disk(_free_bytes(folder))
            raise EnvironmentFault(what, where=folder, hint=hint) from error
        raise EnvironmentFault(
            f"{sys.executable} cannot make a virtual environment with pip",
            where=folder,
            hint="Install its venv package (Debian, Ubuntu: "
            f"sudo apt install python3.{sys.version_info[1]}-venv), or set an interpreter that has "
            "torch in the preferences",
        ) from error
    _install(folder, lock, total, progress)
    progress("check", total - 1, total)
    described = _check(python_of(folder))
    progress("check", total, total)
    return described


def _install(folder: Path, lock: Path, total: int, progress: Callable[[str, int, int], None]):
    # Gigabytes are unpacked on the way, and /tmp is often small.
    unpacking = folder / "unpacking"
    unpacking.mkdir()
    output = PipOutput()
    with subprocess.Popen(
        [str(python_of(folder)), *_PIP, "-r", str(lock)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(unpacking))},
    ) as pip:
        for line in pip.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            if text := output.read(line):
                done = total - 2 if output.installing else len(output.packages)
                progress(text, min(done, total - 2), total)
    if pip.returncode != 0:
        what, hint = output.failure(pip.returncode, _free_bytes(folder))
        raise EnvironmentFault(what, where=folder, hint=hint)
    shutil.rmtree(unpacking, ignore_errors=True)


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _check(python: Path) -> dict:
    """What the new interpreter says about itself."""
    result = subprocess.run(
        [str(python), str(_LAUNCH), "check"], stdin=subprocess.DEVNULL, capture_output=True
    )
    sys.stderr.write(result.stderr.decode("utf-8", errors="replace"))
    try:
        described = json.loads(result.stdout.decode("utf-8").splitlines()[-1])
        del described["event"]
    except (ValueError, IndexError, KeyError):
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
