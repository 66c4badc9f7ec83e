"""The environment that the preferences' button creates, and all that may keep it from being made.

Nothing is downloaded: the packages are those of the Python that runs the tests, brought in by a
wheel that the tests write.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from test_worker import ROOT, Worker, children, gone, mount, posix

from peel4d.engine.render.core_library import find_library
from peel4d.engine.worker.create import (
    UNFINISHED,
    EnvironmentFault,
    create,
    is_complete,
    python_of,
)
from peel4d.engine.worker.pip_output import PipOutput


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for inside, data in files.items():
            wheel.writestr(inside, data)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return path


def start(folder: Path, requirement: str, wheels: Path | None = None, **pip: str) -> Worker:
    """A worker that creates an environment in `folder`, as Blender starts it."""
    folder.parent.mkdir(exist_ok=True)
    lock = folder.parent / "requirements.lock"
    lock.write_text(f"# what is needed\n{requirement}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    # Where an index is named, all others (of pip's configuration) must not answer in its place.
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", **pip}
    if wheels is not None:
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return Worker("create", folder, lock, env=environment, start_new_session=True)


def test_it_is_created_where_an_earlier_attempt_was_left(tmp_path):
    packages = str(Path(pytest.__file__).parents[1])
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "borrowed", {"borrowed.pth": packages.encode()})
    folder = tmp_path / "new" / "environment"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "half").write_text("of a package")
    (folder / UNFINISHED).touch()
    with start(folder, "borrowed==1.0", wheels) as worker:
        last = worker.finish()
        assert last["event"] == "environment", (last, worker.errors)
        assert worker.process.returncode == 0
    assert last["missing"] == [] and last["executable"] == str(python_of(folder))
    stages = [e["stage"] for e in worker.events if e["event"] == "progress"]
    assert stages[0] == "virtual environment" and stages[-1] == "check"
    assert any("borrowed-1.0" in stage for stage in stages)
    assert is_complete(folder)
    assert not {"lib/half", UNFINISHED, "unpacking"} & {
        str(path.relative_to(folder)) for path in folder.glob("**/*")
    }
    # Once more over a whole one; what fails leaves nothing that could be taken for it.
    with start(folder, "not-here==1.0", wheels) as worker:
        assert worker.finish()["event"] == "error"
    assert not is_complete(folder) and not list(folder.iterdir())


@pytest.mark.parametrize("kind", ["files", "environment"])
def test_what_others_have_made_is_not_replaced(tmp_path, kind):
    folder = tmp_path / "environment"
    folder.mkdir()
    theirs = folder / ("pyvenv.cfg" if kind == "environment" else "thesis.txt")
    theirs.write_text("years of work")
    with start(folder, "borrowed==1.0", tmp_path) as worker:
        last = worker.finish()
    assert last["event"] == "error" and last["where"] == str(folder)
    if kind == "files":
        assert "other files" in last["message"] and "empty folder" in last["hint"]
    else:
        assert "not made by Peel4D" in last["message"] and str(python_of(folder)) in last["hint"]
    assert theirs.read_text() == "years of work" and len(list(folder.iterdir())) == 1


@pytest.fixture
def silent_index():
    """A package index that takes calls and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


@posix
@pytest.mark.parametrize("end", ["cancel", "Blender is gone"])
def test_cancelled_in_the_middle(tmp_path, silent_index, end):
    folder = tmp_path / "environment"
    with start(folder, "borrowed==1.0", PIP_INDEX_URL=silent_index) as worker:
        worker.until(lambda event: event.get("stage") == "virtual environment")
        deadline = time.monotonic() + 60
        while not (folder / "unpacking").is_dir() or not children(worker.process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (pip,) = children(worker.process.pid)
        if end == "cancel":
            worker.cancel()
        else:
            worker.process.stdin.close()
        worker.process.wait(10)
        assert worker.process.returncode == 130
    assert gone(pip, 2.0)
    assert not list(folder.iterdir())


def test_without_a_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    folder = tmp_path / "environment"
    index = f"http://127.0.0.1:{closed}/simple"
    with start(folder, "torch==2.13.0", PIP_INDEX_URL=index) as worker:
        last = worker.finish()
    assert last["code"] == "environment" and "cannot be downloaded" in last["message"]
    assert "refused" in last["message"] and "HTTPS_PROXY" in last["hint"]
    assert any("trying again" in e.get("stage", "") for e in worker.events)
    assert not list(folder.iterdir())


def test_no_package_for_this_python(tmp_path):
    (tmp_path / "wheels").mkdir()
    with start(tmp_path / "environment", "torch==2.13.0", tmp_path / "wheels") as worker:
        last = worker.finish()
    assert "there is no torch==2.13.0 for Python 3." in last["message"]
    assert "interpreter" in last["hint"]


@pytest.mark.parametrize("size", ["4m", "80m"])
def test_a_full_disk(tmp_path, size):
    """For pip itself there is no space, or for what it installs."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "large", {"large.bin": bytes(200 << 20)})
    if not mount(tmp_path / "disk", size):
        pytest.skip("mounting a small disk needs the rights to")
    try:
        folder = tmp_path / "disk" / "environment"
        with start(folder, "large==1.0", wheels) as worker:
            last = worker.finish()
        assert last["code"] == "environment", last
        assert "not enough space" in last["message"] and "0.0 GB free" in last["message"]
        assert "another folder" in last["hint"]
        assert not list(folder.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize(
    "end", [SystemExit(1), subprocess.CalledProcessError(1, "ensurepip", b"No module")]
)
def test_a_python_without_pip(tmp_path, monkeypatch, end):
    """As Debian's without python3-venv, where `venv` exits, and others', where it raises."""

    def ensurepip(command, **_):
        raise end

    monkeypatch.setattr(subprocess, "check_output", ensurepip)
    (tmp_path / "lock").write_text("torch==2.13.0\n")
    with pytest.raises(EnvironmentFault, match=r"apt install python3\.\d+-venv"):
        create(tmp_path / "environment", tmp_path / "lock", lambda *_: None)
    assert not list((tmp_path / "environment").iterdir())


@posix
def test_what_the_lock_names_is_enough_to_reconstruct(ball_capture, tmp_path):
    """A Python that sees the packages of the lock file and no others."""
    lines = (ROOT / "addon" / "job" / "requirements.lock").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines if line and line[0] != "#"}
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            # OpenCV looks for itself where it really is.
            place = shutil.copytree if top == "cv2" else os.symlink
            place(distribution.locate_file(top), packages / top)
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "PEEL4D_CORE": str(find_library()),
    }
    # Without `site` Python sees no packages but these.
    with Worker(
        *("reconstruct", ball_capture, "--output", tmp_path / "r", "--preview", 0.1),
        *("--preset=draft", "--steps=5", "--frames=0:2"),
        python=(sys.executable, "-S"),
        env=environment,
    ) as worker:
        last = worker.finish()
        assert last["event"] == "done", (last, worker.errors)


def test_pip_of_today_and_of_yesterday():
    """Two ways in which pip tells of a connection that does not come about."""
    for line in (
        "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by "
        "'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: "
        "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'"
        ": /simple/torch/",
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NameResolutionError(\"<pip."
        "HTTPSConnection object at 0x7>: Failed to resolve 'pypi.org' ([Errno -3] Temporary failure"
        " in name resolution)\")': /simple/torch/",
    ):
        output = PipOutput()
        assert output.read(line)
        output.read("ERROR: No matching distribution found for torch==2.13.0")
        what, _ = output.failure(1, None)
        assert "Temporary failure in name resolution" in what and "0x7" not in what, what
