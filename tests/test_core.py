"""The splat core as a library: finding it, its C interface, threads, memory, compilers."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.errors import CoreError
from peel4d.engine.render import core, core_library
from peel4d.engine.render.backend import Instance, render, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.reference import peel_reference
from peel4d.engine.render.reference_points import fused_multiply_add, view_color
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "cuda"


def camera(width=64, height=48, **others) -> Camera:
    K = [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]
    return Camera(K, np.eye(3), [0, 0, 3.0], width, height, **others)


def cloud(count=500, seed=0, degree=1) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)) * 0.5,
        rng.uniform(0.02, 0.2, count),
        rng.uniform(0.1, 1, count),
        rng.normal(size=(count, (degree + 1) ** 2, 3)) * 0.3 + 0.4,
    )


def arrays(splats: Splats) -> tuple[np.ndarray, ...]:
    return splats.position, splats.radius, splats.density, splats.sh


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


# Finding the library


@pytest.fixture
def fresh_library():
    """The next call looks the library up again, and so does the next test."""
    core_library.library.cache_clear()
    yield
    core_library.library.cache_clear()


def test_named_library_that_is_missing(fresh_library, monkeypatch, tmp_path):
    monkeypatch.setenv("PEEL4D_CORE", str(tmp_path / "nothing.so"))
    with pytest.raises(CoreError, match="does not exist") as caught:
        render(cloud(), camera())
    assert caught.value.where == str(tmp_path / "nothing.so")
    assert "pip install ./cuda" in caught.value.hint


def test_named_library_that_is_no_library(fresh_library, monkeypatch, tmp_path):
    (tmp_path / "libpeel4d.so").write_text("not an ELF file")
    monkeypatch.setenv("PEEL4D_CORE", str(tmp_path / "libpeel4d.so"))
    with pytest.raises(CoreError, match="cannot be loaded"):
        render(cloud(), camera())


def test_library_of_another_abi(fresh_library, monkeypatch, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to build a library of another version")
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" int peel4d_abi_version() { return 99; }')
    library = tmp_path / "other.so"
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)
    monkeypatch.setenv("PEEL4D_CORE", str(library))
    with pytest.raises(
        CoreError, match=f"ABI version 99, this Peel4D needs {core_library.ABI_VERSION}"
    ):
        render(cloud(), camera())


def test_package_that_is_not_installed(fresh_library, monkeypatch):
    monkeypatch.delenv("PEEL4D_CORE", raising=False)
    monkeypatch.setitem(sys.modules, "peel4d_core", None)
    with pytest.raises(CoreError, match="not installed"):
        render(cloud(), camera())


def test_abi_version_is_that_of_the_header():
    header = (CUDA / "include" / "peel4d.h").read_text()
    assert f"#define PEEL4D_ABI_VERSION {core_library.ABI_VERSION}\n" in header


def test_structs_have_the_sizes_of_the_header(tmp_path):
    """ctypes and the C compiler lay the structs out alike (the core checks the size only)."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to ask for the layout")
    names = ("Camera", "Settings", "Array", "Clip", "Mesh", "Image", "Gradients", "Window")
    structs = {name.lower(): getattr(core_library, f"C{name}") for name in names}
    lines, expected = [], []
    for name, struct in structs.items():
        for field, *_ in struct._fields_:
            lines.append(f'printf("%zu ", offsetof(peel4d_{name}, {field}));')
            expected.append(getattr(struct, field).offset)
        lines.append(f'printf("%zu ", sizeof(peel4d_{name}));')
        expected.append(ctypes.sizeof(struct))
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <peel4d.h>\n"
        f"int main(void) {{ {' '.join(lines)} return 0; }}"
    )
    program = tmp_path / "layout"
    subprocess.run(["gcc", "-I", CUDA / "include", source, "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert [int(number) for number in printed.split()] == expected


def test_render_needs_numpy_only():
    """Blender's Python has no torch, OpenCV or PyAV."""
    result = run_python(
        """
        import sys
        for name in ("torch", "cv2", "av", "safetensors"):
            sys.modules[name] = None
        import numpy as np
        from peel4d.engine.render import backend, core, reference, settings
        from peel4d.engine.render.camera import Camera
        from peel4d.engine.render.splats import Splats
        view = Camera([[9, 0, 5], [0, 9, 5], [0, 0, 1]], np.eye(3), [0, 0, 1], 10, 10)
        points = Splats.from_colors([[0, 0, 0]], [0.5], [1], [[1, 1, 1]])
        print(backend.render(points, view).rgba[5, 5, 3] > 0.9)
        """
    )
    assert result.stdout.strip() == "True", result.stderr


# Bad arguments


@pytest.mark.parametrize(
    "position, radius, density, color",
    [
        ((5, 2), (5,), (5,), (5, 3)),
        ((5, 3), (4,), (5,), (5, 3)),
        ((5, 3), (5, 1), (5,), (5, 3)),
        ((5, 3), (5,), (6,), (5, 3)),
        ((5, 3), (5,), (5,), (5, 4)),
        ((5, 3), (5,), (5,), (4, 3)),
        ((5, 3), (5,), (5,), (5, 2, 3)),
        ((5, 3), (5,), (5,), (5, 4, 4)),
        ((5, 3), (5,), (5,), (5,)),
        ((15,), (5,), (5,), (5, 3)),
    ],
)
def test_arrays_of_wrong_shape(position, radius, density, color):
    bad = [np.ones(shape, np.float32) for shape in (position, radius, density, color)]
    with pytest.raises(CoreError, match="has shape"):
        core.forward(*bad, camera(), PeelSettings())
    with pytest.raises(CoreError, match="has shape"):
        core.backward(*bad, camera(), PeelSettings(), np.ones((48, 64, 4)))


def test_gradients_of_wrong_shape():
    with pytest.raises(CoreError, match="d_rgba has shape"):
        core.backward(*arrays(cloud()), camera(), PeelSettings(), np.ones((64, 48, 4)))
    with pytest.raises(CoreError, match="d_depth has shape"):
        core.backward(
            *arrays(cloud()), camera(), PeelSettings(), np.ones((48, 64, 4)), np.ones((48, 63))
        )


def test_arrays_that_hold_no_numbers():
    with pytest.raises(CoreError, match="no array of numbers"):
        core.forward([["a", "b", "c"]], [1], [1], [[1, 1, 1]], camera(), PeelSettings())


@pytest.mark.parametrize(
    "values",
    [
        {"layers": 0},
        {"layers": 65},
        {"layers": 2.5},
        {"min_radius_px": 0},
        {"min_radius_px": np.nan},
        {"min_transmittance": -0.1},
        {"min_transmittance": 1.1},
        {"min_transmittance": np.nan},
    ],
)
def test_settings_out_of_range(values):
    with pytest.raises(CoreError):
        PeelSettings(**values)


@pytest.mark.parametrize(
    "bad",
    [
        Camera(np.full((3, 3), np.nan), np.eye(3), np.zeros(3), 8, 8),
        Camera(np.eye(3), np.eye(3), [0, np.inf, 0], 8, 8),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 0, 8),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 8, -1),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 40000, 8),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 30000, 30000),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 8, 8, near=2, far=1),
        Camera(np.eye(3), np.eye(3), np.zeros(3), 8, 8, near=0, far=np.inf),
    ],
)
def test_cameras_that_make_no_picture(bad):
    with pytest.raises(CoreError):
        render(cloud(), bad)


def test_the_c_interface_checks_for_itself():
    """Null pointers, foreign sizes and settings out of range come back as a code, not a crash."""
    library = core_library.library()
    view, peel = core.camera_struct(camera()), core.settings_struct(PeelSettings(), 1, 1)
    splats = cloud()
    placed = core.PlacedClip(splats, np.eye(4), 1.0, 1.0, camera().centre, 0)
    alive = []
    clip = core.clip_struct(placed, alive)
    corners = np.zeros((3, 3), np.float32)
    index = np.arange(3, dtype=np.int32)
    flags, ids = np.zeros(1, np.uint8), np.zeros(1, np.int32)
    mesh = core_library.CMesh(
        vertex_count=3,
        count=1,
        **{
            name: core.pointer(array)
            for name, array in (
                ("position", corners),
                ("index", index),
                ("color", corners),
                ("holdout", flags),
                ("id", ids),
            )
        },
    )
    rgba = np.empty((48, 64, 4), np.float32)
    image = core_library.CImage(rgba=core.pointer(rgba))

    def forward(view, peel, clip, mesh, image):
        return library.peel4d_forward(view, peel, clip, 1, mesh, image, None)

    good = (view, peel, clip, mesh, image)
    assert forward(*good) == 0
    assert forward(view, peel, clip, None, image) == 0
    for place in (0, 1, 2, 4):
        assert forward(*(None if i == place else given for i, given in enumerate(good))) == 1
    for struct, field, value in (
        (view, "size", 4),
        (view, "width", 0),
        (view, "height", 1 << 20),
        (view, "fx", np.nan),
        (view, "far_z", -1.0),
        (peel, "size", 0),
        (peel, "layers", 0),
        (peel, "layers", 65),
        (peel, "samples", 3),
        (peel, "min_radius_px", np.nan),
        (peel, "min_transmittance", 2.0),
        (clip, "size", 1),
        (clip, "sh_count", 2),
        (clip, "count", -1),
        (clip, "opacity", 1.5),
        (clip, "radius_scale", np.inf),
        (clip, "radius", core_library.CArray()),
        (clip, "position", core_library.CArray(type=2, data=1)),
        (clip, "color", core_library.CArray(type=3, data=1)),
        (mesh, "size", 1),
        (mesh, "color", None),
        (mesh, "vertex_count", 2),
        (image, "size", 1),
        (image, "rgba", None),
    ):
        broken = type(struct).from_buffer_copy(struct)
        setattr(broken, field, value)
        call = [broken if given is struct else given for given in good]
        assert forward(*call) == 1, field
    assert library.peel4d_forward(view, peel, None, 1, None, image, None) == 1
    assert library.peel4d_forward(view, peel, clip, -1, None, image, None) == 1
    gradients = core_library.CGradients()
    assert library.peel4d_backward(view, peel, clip, None, None, None, gradients) == 1
    assert library.peel4d_prepare(view, peel, clip, 1, None, None, None) == 1
    out = np.empty(library.peel4d_clip_bytes(), np.uint8)
    assert library.peel4d_prepare(view, peel, clip, 1, None, core.pointer(out), None) == 0
    clip.count = 1 << 40
    assert forward(*good) == 3
    messages = {library.peel4d_error_message(code).decode() for code in (0, 1, 2, 3, 4)}
    assert len(messages) == 5


def test_too_many_overlaps_for_a_gradient():
    """66,000 points across 1,024 tiles in one row: an error, not 2 GB of memory and a kill."""
    count = 66_000
    points = (np.zeros((count, 3)), np.full(count, 1e4), np.ones(count), np.ones((count, 3)))
    wide = camera(32767, 16)
    with pytest.raises(CoreError, match="overlaps") as caught:
        core.backward(*points, wide, PeelSettings(), np.ones((16, 32767, 4)))
    assert "fewer points" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_out_of_memory_is_an_error_and_can_be_survived():
    result = run_python(
        """
        import resource
        import numpy as np
        from peel4d.engine.errors import CoreError
        from peel4d.engine.render import core, core_library
        from peel4d.engine.render.camera import Camera
        from peel4d.engine.render.settings import PeelSettings
        view = Camera([[64, 0, 32], [0, 64, 32], [0, 0, 1]], np.eye(3), [0, 0, 3], 64, 64)
        def points(count):
            sizes = np.full((2, count), 0.5, "f")
            return np.zeros((count, 3), "f"), *sizes, np.ones((count, 3), "f")
        few, many = points(100), points(3_000_000)
        before = core.forward(*few, view, PeelSettings())["rgba"]
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (100 << 20)  # the points alone need 190 MB more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for call in (
            lambda: core.forward(*many, view, PeelSettings()),
            lambda: core.backward(*many, view, PeelSettings(), np.ones((64, 64, 4), "f")),
        ):
            try:
                call()
            except CoreError as error:
                print(error.what)
        print(np.array_equal(core.forward(*few, view, PeelSettings())["rgba"], before))
        """
    )
    line = "the splat core stopped: not enough memory"
    assert result.stdout.splitlines() == [line, line, "True"], result.stderr


# Threads


def test_calls_may_overlap():
    """Four threads, clouds of their own (a render thread beside a prefetching one)."""
    clouds = [cloud(3000, seed) for seed in range(4)]
    expected = [render(splats, camera()).rgba for splats in clouds]
    upstream = np.ones((48, 64, 4), np.float32)
    gradient = core.backward(*arrays(clouds[0]), camera(), PeelSettings(), upstream)

    def work(turn: int) -> bool:
        which = turn % 4
        same = np.array_equal(render(clouds[which], camera(), threads=3).rgba, expected[which])
        again = core.backward(*arrays(clouds[0]), camera(), PeelSettings(), upstream, threads=2)
        return same and all(map(np.array_equal, again, gradient))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_python_runs_on_while_the_core_works():
    """ctypes lets go of the interpreter: another thread advances during a long call."""
    ticks, calls = [], []

    def tick() -> None:
        while not done:
            ticks.append(time.monotonic())
            time.sleep(0.001)

    splats, done = cloud(200_000), False
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tick)
        try:
            for _ in range(5):
                start = time.monotonic()
                render(splats, camera(1280, 720), threads=1)
                calls.append((start, time.monotonic()))
        finally:
            done = True
        running.result()
    assert max(sum(start < t < end for t in ticks) for start, end in calls) >= 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_can_render():
    """The child has none of the pool's threads; it must not wait for them."""
    result = run_python(
        """
        import os, signal
        import numpy as np
        from peel4d.engine.render import core, core_library
        from peel4d.engine.render.camera import Camera
        from peel4d.engine.render.settings import PeelSettings
        rng = np.random.default_rng(0)
        view = Camera([[64, 0, 32], [0, 64, 32], [0, 0, 1]], np.eye(3), [0, 0, 3], 64, 64)
        points = rng.normal(size=(9000, 3)), *np.full((2, 9000), 0.1), rng.random((9000, 3))
        picture = lambda: core.forward(*points, view, PeelSettings(), threads=4)["rgba"]
        before = picture()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if np.array_equal(picture(), before) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert result.stdout.strip() == "0", result.stderr


def test_threads_from_the_environment():
    """$PEEL4D_THREADS counts where the caller does not say; nonsense falls back to all cores."""
    code = """
        import os
        import numpy as np
        from peel4d.engine.render import core, core_library
        from peel4d.engine.render.camera import Camera
        from peel4d.engine.render.settings import PeelSettings
        view = Camera([[64, 0, 32], [0, 64, 32], [0, 0, 1]], np.eye(3), [0, 0, 3], 64, 64)
        points = np.zeros((9000, 3)), *np.full((2, 9000), 0.1), np.zeros((9000, 3))
        alone = len(os.listdir("/proc/self/task"))
        core.forward(*points, view, PeelSettings(), threads=THREADS)
        print(len(os.listdir("/proc/self/task")) - alone)
        """
    if not Path("/proc/self/task").is_dir():
        pytest.skip("counts threads in /proc")
    cores = len(os.sched_getaffinity(0))
    for threads, variable, helpers in (
        (0, "1", 0),
        (0, "3", 2),
        (2, "1", 1),
        (0, "x", min(cores, 16) - 1),  # 16 tiles: no more threads than tasks
    ):
        result = run_python(code.replace("THREADS", str(threads)), PEEL4D_THREADS=variable)
        assert result.stdout.strip() == str(helpers), (threads, variable, result.stderr)


# Instruction sets and compilers


def test_every_instruction_set_gives_the_same_bits(tmp_path):
    """The copy for processors without AVX2 agrees with the one in use, forward and backward."""
    code = """
        import sys
        import numpy as np
        from peel4d.engine.render import core, core_library
        from peel4d.engine.render.camera import Camera
        from peel4d.engine.render.settings import PeelSettings
        rng = np.random.default_rng(3)
        view = Camera([[99, 2, 48], [0, 80, 40], [0, 0, 1]], np.eye(3), [0, 0, 3], 97, 83)
        n = 3000
        points = rng.normal(size=(n, 3)), *rng.random((2, n)) * 0.2, rng.normal(size=(n, 16, 3))
        want = ("depth", "surface", "layer_ids")
        out = core.forward(*points, view, PeelSettings(), want=want)
        gradients = core.backward(*points, view, PeelSettings(), rng.normal(size=(83, 97, 4)))
        np.savez(sys.argv[1], *out.values(), *gradients)
        print(core.build_info())
        """
    results = []
    for isa in ("baseline", "best"):
        file = tmp_path / f"{isa}.npz"
        result = run_python(code.replace("sys.argv[1]", repr(str(file))), PEEL4D_ISA=isa)
        assert result.returncode == 0, result.stderr
        if isa == "baseline":
            assert result.stdout.strip() == "0.1.0 baseline"
        results.append(np.load(file))
    assert len(results[0].files) == 8
    for name in results[0].files:
        assert np.array_equal(results[0][name], results[1][name])


def test_fused_multiply_add_is_that_of_c():
    """The reference's depth key rounds once, as fmaf; a * b + c in float64 would round twice."""
    found = ctypes.util.find_library("m")
    if found is None:
        pytest.skip("no C mathematics library to compare with")
    fmaf = ctypes.CDLL(found).fmaf
    fmaf.argtypes, fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20_000)).astype(np.float32)
    c = (-a.astype(np.float64) * b * rng.choice([1, 1 + 2**-23, 0.5, 0], 20_000)).astype(np.float32)
    c[::7] = rng.normal(size=len(c[::7]))
    # A sum just beside the middle between two floats, where rounding twice goes wrong.
    a[0], b[0], c[0] = 1 + 2**-23, 1 + 2**-23, 2**24 * (1 + 2**-23)
    a[1], b[1], c[1] = 2**-30, 2**-30, 1.0
    expected = np.array([fmaf(*map(float, abc)) for abc in zip(a, b, c, strict=True)], np.float32)
    assert np.array_equal(fused_multiply_add(a, b, c), expected)


def test_building_without_a_compiler_says_what_to_install(tmp_path):
    pytest.importorskip("setuptools", reason="building needs setuptools")
    environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "PATH")}
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "build"],
        cwd=CUDA,
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "apt-get install g++" in result.stderr


# Several clouds in one picture


def pose(angle=0.0, scale=(1, 1, 1), shift=(0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    c, s = np.cos(angle), np.sin(angle)
    matrix[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) * np.asarray(scale, float)
    matrix[:3, 3] = shift
    return matrix


def test_one_instance_in_place_is_the_cloud_itself():
    splats = cloud(degree=3)
    plain, scene = render(splats, camera()), render_scene([Instance(splats, np.eye(4))], camera())
    assert np.abs(plain.rgba - scene.rgba).max() < 1e-6
    assert np.array_equal(plain.depth, scene.depth)


def test_no_instances_make_an_empty_picture():
    picture = render_scene([], camera())
    assert not picture.rgba.any() and np.isinf(picture.depth).all()
    assert not render_scene([Instance(Splats.empty(2), np.eye(4))], camera()).rgba.any()


@pytest.mark.parametrize("orthographic", [False, True])
def test_moving_the_object_is_moving_the_camera(orthographic):
    """A rigid and a scaled pose give the picture of the camera moved the other way, colours too."""
    view = camera(orthographic=orthographic)
    if orthographic:
        view = Camera(view.K * [[0.3], [0.3], [1]], view.R, view.t, 64, 48, orthographic=True)
    splats = cloud(degree=3)
    for matrix in (pose(0.7, shift=(0.2, -0.1, 0.4)), pose(-0.4, (1.5, 1.5, 1.5), (0, 0.1, 0))):
        scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
        R = view.R @ matrix[:3, :3] / scale
        t = (view.R @ matrix[:3, 3] + view.t) / scale
        K = view.K * ([[scale], [scale], [1]] if orthographic else 1)
        if orthographic:
            K[:2, 2] = view.K[:2, 2]
        moved = Camera(K, R, t, 64, 48, view.near / scale, view.far / scale, orthographic)
        scene = render_scene([Instance(splats, matrix)], view)
        plain = render(splats, moved)
        difference = np.abs(scene.rgba - plain.rgba).max(axis=2)
        assert (difference > 1e-3).sum() <= 2  # positions were rounded: a rim may move
        assert np.median(difference) < 1e-6


def test_instances_share_one_depth_order():
    """The nearer cloud covers the farther one, whatever the order in which they are given."""
    red = Splats.from_colors([[0, 0, 0]], [1], [1], [[1, 0, 0]])
    blue = Splats.from_colors([[0, 0, 0]], [1], [1], [[0, 0, 1]])
    near, far = Instance(red, pose(shift=(0, 0, -1))), Instance(blue, pose(shift=(0, 0, 1)))
    for scene in ([near, far], [far, near]):
        assert render_scene(scene, camera(65, 49)).rgba[24, 32] == pytest.approx([1, 0, 0, 1])
    half = Instance(red, near.matrix, opacity=0.5)
    mixed = render_scene([half, far], camera(65, 49))
    assert mixed.rgba[24, 32] == pytest.approx([0.5, 0, 0.5, 1])
    assert mixed.depth[24, 32] == 2  # half of the light is gone at the red point
    hidden = [Instance(red, near.matrix, opacity=0), far]
    assert render_scene(hidden, camera(65, 49)).rgba[24, 32] == pytest.approx([0, 0, 1, 1])


def test_radius_takes_the_largest_stretch():
    point = Splats.from_colors([[0, 0, 0]], [0.1], [1], [[1, 1, 1]])
    stretched = render_scene([Instance(point, pose(0.3, (1, 3, 0.5)))], camera())
    thick = Splats.from_colors([[0, 0, 0]], [0.3], [1], [[1, 1, 1]])
    assert np.abs(stretched.rgba - render(thick, camera()).rgba).max() < 1e-5


@pytest.mark.parametrize("scale", [(0, 0, 0), (1, 0, 1), (-1, 1, 1), (1e-20, 1e-20, 1e-20)])
def test_flat_mirrored_and_vanishing_objects(scale):
    picture = render_scene([Instance(cloud(degree=3), pose(0.2, scale))], camera())
    assert np.isfinite(picture.rgba).all()
    assert (picture.rgba.max() > 0.1) == (max(scale) == 1)


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, 1, 2.0])], ids=str
)
def test_matrices_that_are_none(matrix):
    with pytest.raises(CoreError, match="affine"):
        render_scene([Instance(cloud(), matrix)], camera())


def test_instances_of_different_degree_agree_with_the_reference():
    """Harmonics of two objects, each in its own space, against colours worked out by hand."""
    view = camera()
    first, second = cloud(200, 1, degree=3), cloud(200, 2, degree=0)
    matrix = pose(0.5, (1.2, 0.8, 1.0), (0.3, 0, 0))
    scene = render_scene([Instance(first, matrix), Instance(second, np.eye(4))], view)
    eye = np.linalg.inv(matrix) @ [*view.centre, 1]
    rgb = [
        np.clip(view_color(first.position, first.sh, eye[:3], False), 0, 1),
        np.clip(view_color(second.position, second.sh, view.centre, False), 0, 1),
    ]
    position = first.position @ matrix[:3, :3].T + matrix[:3, 3]
    largest = np.linalg.norm(matrix[:3, :3], 2)
    layers = peel_reference(
        np.r_[position.astype(np.float32), second.position],
        np.r_[first.radius * np.float32(largest), second.radius],
        np.r_[first.density, second.density],
        np.r_[rgb[0], rgb[1]],
        view,
    )
    assert np.abs(scene.rgba - layers.rgba).max() < 1e-5
