"""The CUDA back end on what the machine has: nvcc, pycuda, a GPU. Each part is skipped without."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_emulator import COMPILER, FLAGS

from peel4d.engine.errors import CoreError
from peel4d.engine.render import core, core_library, cuda_device
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import PackedSplats, Splats
from peel4d.engine.render.triangles import join_meshes

TESTS = Path(__file__).resolve().parent
CUDA = TESTS.parent / "cuda"
PYCUDA = importlib.util.find_spec("pycuda") is not None


def load_fatbin_module():
    spec = importlib.util.spec_from_file_location("fatbin", CUDA / "fatbin.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fatbin = load_fatbin_module()
PTX, MACHINE_CODE = 1, 2


def parts_of(data: bytes) -> list[tuple[int, int, bytes]]:
    """(kind, architecture, contents) of what a fatbin holds."""
    magic, _, header, size = struct.unpack_from("<IHHQ", data)
    assert magic == 0xBA55ED50 and header + size == len(data)
    parts, at = [], header
    while at < len(data):
        kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
        (architecture,) = struct.unpack_from("<I", data, at + 28)
        parts.append((kind, architecture, data[at + header : at + header + size]))
        at += header + size
    return parts


def assert_complete(file: Path, numbers: list[int]) -> None:
    """Machine code of all kernels for each architecture, and PTX for the newest two."""
    parts = parts_of(file.read_bytes())
    assert sorted(number for kind, number, _ in parts if kind == MACHINE_CODE) == numbers
    assert sorted(number for kind, number, _ in parts if kind == PTX) == numbers[-2:]
    kernels = re.findall(r"^PEEL_KERNEL\((\w+)", (CUDA / "gpu/kernels.cu").read_text(), re.M)
    assert len(kernels) == 22
    for kind, number, contents in parts:
        if kind == MACHINE_CODE:
            missing = [k for k in kernels if f".text.{k}\0".encode() not in contents]
            assert not missing, number


@pytest.mark.skipif(fatbin.find_nvcc() is None, reason="the fatbin needs nvcc")
def test_build_fatbin(tmp_path, monkeypatch):
    """For the oldest architecture and one in the middle only, which is quicker."""
    known = fatbin.architectures(fatbin.find_nvcc())
    assert {75, 80, 86, 89, 90} <= set(known) <= set(fatbin.ARCHITECTURES)
    monkeypatch.setattr(fatbin, "ARCHITECTURES", (75, 90, 9999))
    assert fatbin.build_fatbin(tmp_path / "peel4d.fatbin")
    assert_complete(tmp_path / "peel4d.fatbin", [75, 90])


@pytest.mark.skipif(fatbin.find_nvcc() is None, reason="which architectures, nvcc knows")
def test_installed_fatbin():
    file = core_library.find_library().with_name("peel4d.fatbin")
    if not file.is_file():
        pytest.skip("the installed core was built without nvcc")
    assert_complete(file, fatbin.architectures(fatbin.find_nvcc()))


def test_fatbin_without_nvcc(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fatbin, "find_nvcc", lambda: None)
    assert not fatbin.build_fatbin(tmp_path / "none")
    assert "CPU only" in capsys.readouterr().out
    monkeypatch.setattr(fatbin, "find_nvcc", lambda: shutil.which("false"))
    assert not fatbin.build_fatbin(tmp_path / "none")
    assert "CPU only" in capsys.readouterr().out


@pytest.fixture
def no_device():
    """Whatever was opened before, or could not be."""
    cuda_device.open_device.cache_clear()
    yield
    cuda_device.open_device.cache_clear()


def test_core_without_fatbin(no_device, monkeypatch, tmp_path):
    monkeypatch.setattr(
        cuda_device, "find_library", lambda: tmp_path / "libpeel4d.so", raising=False
    )
    monkeypatch.setattr(core_library, "find_library", lambda: tmp_path / "libpeel4d.so")
    with pytest.raises(CoreError, match="no CUDA here: the splat core was built without nvcc"):
        cuda_device.open_device()


def test_without_pycuda(no_device, monkeypatch, tmp_path):
    (tmp_path / "peel4d.fatbin").write_bytes(b"")
    monkeypatch.setattr(core_library, "find_library", lambda: tmp_path / "libpeel4d.so")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(CoreError, match=r"no CUDA here: pycuda\.driver cannot be imported"):
        cuda_device.open_device()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not COMPILER:
        pytest.skip("the emulated driver needs a C++ compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, target = str(TESTS / "fake_libcuda.cpp"), str(folder / "libcuda.so.1")
    command = [COMPILER, *FLAGS, "-Wl,-soname,libcuda.so.1", source, "-o", target]
    subprocess.run(command, check=True)
    shutil.copy(core_library.find_library(), folder / "libpeel4d.so")
    (folder / "peel4d.fatbin").write_bytes(b"what the emulated driver does not read")
    return folder


@pytest.mark.skipif(not PYCUDA, reason="pycuda is not installed")
class TestPycuda:
    """The real pycuda, on a driver that runs the kernels on the CPU."""

    def run(self, script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
        start = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n"  # not all symbols are there
        return subprocess.run(
            [sys.executable, "-c", start + script],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(folder),
                "PEEL4D_CORE": str(folder / "libpeel4d.so"),
                "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
                **environment,
            },
            capture_output=True,
            text=True,
        )

    def test_pictures(self, folder):
        """Everything that `check_device` draws, and a GPU with too little memory."""
        script = (
            "import test_cuda\n"
            "from peel4d.engine.render.cuda import renderer\n"
            "test_cuda.check_device(renderer())\n"
            "print(renderer().device.name)\n"
        )
        done = self.run(script, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "emulated GPU\n"
        done = self.run(script, folder, FAKE_CUDA_MEMORY="1500000")
        assert "DeviceMemoryError: no GPU memory for" in done.stderr
        assert "of 1.4 MiB free on the device" in done.stderr

    def test_gaussians(self, folder):
        """Pictures, gradients and frames of a group of two-dimensional Gaussians."""
        script = (
            "import test_cuda_gaussians as test\n"
            "gpu = test.rasterizer()\n"
            "test.assert_same(gpu, test.scene(300, 70, 50), test.Window(0, 0, 70, 50))\n"
            "test.assert_same_frames(gpu, test.group(), (33, 20))\n"
            "out = gpu.picture(64, 48)\n"
            "assert gpu.draw_frame(test.group(), 2, out=out) is out\n"
            "gpu.close()\n"
            "print(gpu.device.name, gpu.vram_used)\n"
        )
        done = self.run(script, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "emulated GPU 0\n"

    @pytest.mark.parametrize(
        "environment, reason",
        [
            ({"FAKE_CUDA_VERSION": "12080"}, r"the driver is for CUDA 12\.8"),
            ({"FAKE_CUDA_NO_DEVICE": "1"}, "cuInit failed"),
        ],
    )
    def test_no_usable_driver(self, folder, environment, reason):
        script = "from peel4d.engine.render.cuda import renderer; renderer()"
        done = self.run(script, folder, **environment)
        assert re.search(f"CoreError: no CUDA here: .*{reason}", done.stderr), done.stderr
        assert "580" in done.stderr  # the driver that is needed

    def test_no_driver(self, folder):
        script = "from peel4d.engine.render.cuda import renderer; renderer()"
        done = self.run(script, folder, LD_LIBRARY_PATH="")
        if done.returncode == 0:
            pytest.skip("this machine has a driver")
        assert "CoreError: no CUDA here: " in done.stderr, done.stderr


def check_device(renderer) -> None:
    """Draws a bit of everything and compares it with the CPU core, bit by bit."""
    rng = np.random.default_rng(0)
    K = [[150, 0, 80], [0, 140, 60], [0, 0, 1]]
    camera = Camera(K, np.eye(3), [0, 0, 3], 160, 120)
    triangles = join_meshes([Mesh(rng.normal(size=(9, 3)), rng.integers(0, 9, (9, 3)), (1, 0, 0))])
    want = ("depth", "surface", "surface_id")
    for basis in (1, 4, 9, 16):
        splats = Splats(
            rng.normal(size=(3000, 3)) * 0.5,
            rng.uniform(0.001, 0.1, 3000),
            rng.uniform(0.1, 1, 3000),
            rng.normal(size=(3000, basis, 3)),
        )
        for points in (splats, PackedSplats.pack_half(splats)):
            clip = core.PlacedClip(points, np.eye(4), 1.0, 0.9, camera.centre, 5)
            for scene in ({}, {"samples": 2}, {"triangles": triangles}):
                arguments = ([clip], camera, PeelSettings())
                there = renderer.render_clips(*arguments, want=want, **scene)
                here = core.render_clips(*arguments, want=want, **scene)
                for name, array in there.items():
                    assert np.array_equal(array, here[name]), (basis, scene, name)


@pytest.fixture(scope="module")
def gpu():
    from peel4d.engine.render.cuda import renderer

    try:
        return renderer()
    except CoreError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
class TestGpu:
    def test_same_bits_as_the_cpu(self, gpu):
        check_device(gpu)

    def test_a_million_points_in_one_tile(self, gpu):
        count = 1_000_000
        rng = np.random.default_rng(1)
        position = np.c_[rng.uniform(-0.4, 0.4, (count, 2)), rng.uniform(1, 3, count)]
        splats = Splats.from_colors(position, np.full(count, 0.02), np.full(count, 0.01), position)
        camera = Camera([[16, 0, 8], [0, 16, 8], [0, 0, 1]], np.eye(3), np.zeros(3), 16, 16)
        clip = core.PlacedClip(splats, np.eye(4), 1.0, 1.0, camera.centre, 0)
        settings = PeelSettings(layers=64, min_transmittance=0)
        there = gpu.render_clips([clip], camera, settings)
        here = core.render_clips([clip], camera, settings)
        assert np.array_equal(there["rgba"], here["rgba"])

    def test_frames_repeat_bit_by_bit(self, gpu):
        rng = np.random.default_rng(2)
        count = 200_000
        splats = Splats.from_colors(
            rng.normal(size=(count, 3)),
            np.full(count, 0.01),
            np.full(count, 0.5),
            rng.uniform(size=(count, 3)),
        )
        camera = Camera(
            [[2000, 0, 960], [0, 2000, 540], [0, 0, 1]], np.eye(3), [0, 0, 4], 1920, 1080
        )
        clip = core.PlacedClip(splats, np.eye(4), 1.0, 1.0, camera.centre, 0)
        frames = [gpu.render_clips([clip], camera, PeelSettings()) for _ in range(5)]
        assert all(np.array_equal(frame["rgba"], frames[0]["rgba"]) for frame in frames)
        here = core.render_clips([clip], camera, PeelSettings())
        assert np.array_equal(frames[0]["rgba"], here["rgba"])

    @pytest.mark.parametrize("own_stream", [False, True])
    def test_training_step(self, gpu, own_stream):
        torch = pytest.importorskip("torch", reason="training needs torch")
        if not torch.cuda.is_available():
            pytest.skip("this torch was built without CUDA")
        from peel4d.engine.train import peel_autograd, peel_cuda

        rng = np.random.default_rng(3)
        arrays = [
            rng.normal(size=(5000, 3)) * 0.5,
            rng.uniform(0.01, 0.1, 5000),
            rng.uniform(0.1, 1, 5000),
            rng.normal(size=(5000, 4, 3)),
        ]
        camera = Camera([[150, 0, 80], [0, 140, 60], [0, 0, 1]], np.eye(3), [0, 0, 3], 160, 120)
        target = torch.rand(120, 160, 4)
        gradients = []
        stream = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()
        for device, peel in (("cuda", peel_cuda.peel), ("cpu", peel_autograd.peel)):
            with torch.cuda.stream(stream):
                leaves = [torch.tensor(a, dtype=torch.float32, device=device) for a in arrays]
                leaves = [leaf.requires_grad_() for leaf in leaves]
                rgba, depth = peel(*leaves, camera, PeelSettings())
                loss = ((rgba - target.to(device)) ** 2).sum() + depth.sum()
                loss.backward()
                gradients.append([leaf.grad.cpu() for leaf in leaves])
        for there, here in zip(*gradients, strict=True):
            assert (there - here).norm() <= 1e-5 * here.norm()
