"""Made scenes, and what every back end in BACKENDS draws of them against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cuda_emulator
import numpy as np
import pytest

from peel4d.engine.render import backend, cuda
from peel4d.engine.render.backend import render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import ambiguous_pixels, reference_scene
from peel4d.engine.render.settings import PeelSettings, Rendered
from peel4d.engine.render.splats import SH_COUNTS, PackedSplats, Quantized, Splats

HERE = np.eye(4)
ATTRIBUTES = ("position", "radius", "density", "sh")
#: "emulated": the CUDA driver on a device of numpy arrays, kernels compiled for the CPU.
BACKENDS = ["cpu", "emulated"]
if backend._cuda_problem() is None:
    BACKENDS.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(scope="module", params=BACKENDS)
def draw(request, tmp_path_factory) -> Iterator[Callable[..., Rendered]]:
    """`render_scene` of one back end, ids included."""
    name = "cpu" if request.param == "cpu" else "cuda"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "emulated":
            if cuda_emulator.COMPILER is None:
                pytest.skip("needs g++ or clang++ to compile the kernels")
            library = cuda_emulator.build(tmp_path_factory.mktemp("emulator"))
            renderer = cuda.CudaRenderer(cuda_emulator.EmulatedDevice(library))
            patch.setattr(cuda, "renderer", lambda: renderer)
            patch.setattr(backend, "_cuda_problem", lambda: None)

        def draw(instances, camera, peel=None, *, ids=True, **others) -> Rendered:
            settings = peel or PeelSettings()
            return render_scene(instances, camera, settings, ids=ids, backend=name, **others)

        draw.backend, draw.emulated = name, request.param == "emulated"
        yield draw


@dataclass
class Tally:
    """Pixels of all pictures that were compared; most are too small to have a share of their own.

    wrong: differ by more than 1/255 or in the surface, all of them excused. loose: not excused and
    further from the reference than float32 sums of a few layers should be.
    """

    pixels: int = 0
    wrong: int = 0
    loose: int = 0


@pytest.fixture(scope="module")
def tally(draw):
    counted = Tally()
    yield counted
    assert counted.wrong <= 1e-4 * counted.pixels, counted
    assert counted.loose <= 1e-4 * counted.pixels, counted


def assert_parity(draw, tally, instances, camera, peel=None, *, meshes=(), samples=1, **others):
    """The parity rule of the project; returns the picture.

    At most 1/255 apart, and the same surface, wherever float32 can know; elsewhere the pixels that
    differ are counted.
    """
    scene = (instances, camera, peel)
    fast = draw(*scene, meshes=meshes, samples=samples, **others)
    slow = reference_scene(*scene, meshes=meshes, samples=samples)
    excused = ambiguous_pixels(*scene, meshes=meshes, samples=samples)
    doubtful = ambiguous_pixels(*scene, meshes=meshes, samples=samples, surface=True)
    shape = (camera.height, camera.width)
    assert fast.rgba.shape == (*shape, 4) and fast.rgba.dtype == np.float32
    assert fast.depth.shape == shape and fast.depth.dtype == np.float32
    assert fast.ids.shape == shape and fast.ids.dtype == np.int32
    difference = np.abs(fast.rgba - slow.rgba).max(axis=2)
    wrong = ~(difference <= 1 / 255)
    assert not (wrong & ~excused).any(), difference[~excused].max()
    with np.errstate(over="ignore"):
        ulp = np.spacing(np.abs(slow.surface).astype(np.float32))
        other = fast.ids != slow.surface_id
        other |= np.isinf(fast.depth) != np.isinf(slow.surface)
        both = np.isfinite(slow.surface) & np.isfinite(fast.depth)
        other[both] |= np.abs(fast.depth[both] - slow.surface[both]) > 2 * ulp[both]
    assert not (other & ~doubtful).any()
    tally.pixels += wrong.size
    tally.wrong += int((wrong | other).sum())
    tally.loose += int((difference[~excused] > 2e-5).sum())
    return fast


def assert_same(a: Rendered, b: Rendered) -> None:
    """Bit for bit."""
    for name in ("rgba", "depth", "ids"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


# Scenes


def look(width=48, height=36, *, orthographic=False, skew=0.0, near=1e-3, far=1e6) -> Camera:
    """3 units from the origin, fx != fy, principal point off the centre, turned about two axes."""
    a, b = 0.3, -0.2
    R = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    R = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]) @ R
    zoom = (0.4 if orthographic else 1.2) * width
    K = [[zoom, skew, 0.42 * width], [0, 0.8 * zoom, 0.55 * height], [0, 0, 1]]
    return Camera(K, R, [0.1, -0.05, 3.0], width, height, near, far, orthographic)


def straight(width=33, height=33, focal=32.0, **others) -> Camera:
    """At the origin, looking along z, so that depth keys are the z coordinates themselves."""
    K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return Camera(K, np.eye(3), np.zeros(3), width, height, **others)


def cloud(seed=0, count=80, degree=1, radii=(0.01, 0.4)) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)) * 0.7,
        np.exp(rng.uniform(*np.log(radii), count)),
        rng.uniform(0.05, 1.1, count),
        rng.normal(size=(count, SH_COUNTS[degree], 3)) * 0.4 + 0.4,
    )


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def pose(seed: int, kind: str) -> np.ndarray:
    """A matrix that stretches differently along oblique axes, mirrors, or flattens."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-0.7, 0.7, 3))
    if kind == "mirrored":
        scale[0] *= -1
    if kind == "flat":
        scale[1] = 0
    matrix = np.eye(4)
    if kind != "plain":
        matrix[:3, :3] = rotation(rng) @ np.diag(scale) @ rotation(rng)
        matrix[:3, 3] = rng.normal(size=3) * 0.4
    return matrix


def triangles(seed: int, count: int, color: str, reach: float) -> Mesh:
    """Triangles that share no corner, some through the near plane or behind the camera."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(count, 1, 3)) * [0.8, 0.8, reach]
    vertices = (centre + rng.normal(size=(count, 3, 3)) * 0.6).reshape(-1, 3)
    shapes = {"vertex": (3 * count, 3), "triangle": (count, 3), "mesh": (3,)}
    colors = rng.uniform(-0.2, 1.2, shapes[color]) if color in shapes else None
    return Mesh(vertices, np.arange(3 * count).reshape(-1, 3), colors, id=int(rng.integers(99)))


def quantized(values: np.ndarray, dtype: type, *, planes: bool = True) -> Quantized:
    """Ramps over the range of each column of (N, C); stored component by component, or by point."""
    top = np.iinfo(dtype).max
    values = values.astype(np.float64)
    low, high = values.min(axis=0, initial=1e3), values.max(axis=0, initial=-1e3)
    step = np.maximum(high - low, 0) / top
    codes = np.rint((values - low) / np.where(step > 0, step, 1)).clip(0, top).astype(dtype)
    if planes:
        codes = np.ascontiguousarray(codes.T).T
    return Quantized(codes, low=low, high=high, step=step)


def logarithmic(values: np.ndarray) -> Quantized:
    """(N,) positive -> codes into a table of 256 sizes."""
    table = np.exp(np.linspace(np.log(1e-3), np.log(1.0), 256)).astype(np.float32)
    codes = np.abs(np.log(values)[:, None] - np.log(table)).argmin(axis=1)
    return Quantized(codes.astype(np.uint8)[:, None], table=table)


def packed(splats: Splats, form: str) -> Splats | PackedSplats:
    flat = splats.sh.reshape(len(splats), splats.sh.shape[1] * 3)
    if form == "half":
        return PackedSplats.pack_half(splats)
    if form == "codes":
        return PackedSplats(
            quantized(splats.position, np.uint16),
            logarithmic(splats.radius),
            quantized(splats.density[:, None], np.uint8),
            quantized(flat, np.uint8),
        )
    if form == "mixed":
        return PackedSplats(
            splats.position,
            quantized(splats.radius[:, None], np.uint16),
            splats.density.astype(np.float16),
            quantized(flat, np.uint16, planes=False),
        )
    return splats


FORMS = ("float", "half", "codes", "mixed")
POSES = ("plain", "stretched", "mirrored", "flat")
