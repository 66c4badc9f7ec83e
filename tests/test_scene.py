"""Whole scenes: what a back end draws against the float64 reference, and inputs that hurt.

Every back end in BACKENDS passes every test that takes `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cuda_emulator
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peel4d.engine.errors import CoreError
from peel4d.engine.render import backend, core, cuda
from peel4d.engine.render.backend import Instance, render, render_scene
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import ambiguous_pixels, reference_scene
from peel4d.engine.render.settings import PeelSettings, Rendered
from peel4d.engine.render.splats import SH_COUNTS, PackedSplats, Quantized, Splats
from peel4d.engine.render.triangles import join_meshes

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


@st.composite
def instances(draw, most=3):
    result = []
    for _ in range(draw(st.integers(0, most))):
        radius = draw(st.sampled_from([0.01, 0.1, 0.6, 2.0]))
        splats = cloud(
            draw(st.integers(0, 2**31)),
            draw(st.sampled_from([0, 1, 17, 60, 100])),
            draw(st.integers(0, 3)),
            (radius / 10, radius),
        )
        result.append(
            Instance(
                packed(splats, draw(st.sampled_from(FORMS))),
                pose(draw(st.integers(0, 2**31)), draw(st.sampled_from(POSES))),
                draw(st.sampled_from([1.0, 1.0, 0.6, 0.0])),
                draw(st.sampled_from([None, None, 7, 100])),
            )
        )
    return result


@st.composite
def meshes(draw, most=3):
    return [
        triangles(
            draw(st.integers(0, 2**31)),
            draw(st.integers(0, 5)),
            draw(st.sampled_from(["vertex", "triangle", "mesh", "holdout"])),
            draw(st.sampled_from([0.5, 3.0])),
        )
        for _ in range(draw(st.integers(0, most)))
    ]


@st.composite
def cameras(draw):
    camera = look(
        draw(st.integers(1, 41)),
        draw(st.integers(1, 41)),
        orthographic=draw(st.booleans()),
        skew=draw(st.sampled_from([0.0, 7.0, -15.0])),
        near=draw(st.sampled_from([1e-3, 2.7])),
        far=draw(st.sampled_from([1e6, 3.3])),
    )
    mirror = draw(st.sampled_from([1.0, 1.0, -1.0]))
    return replace(camera, K=camera.K * [[mirror, 1, 1], [1, 1, 1], [1, 1, 1]])


# Parity


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    instances=instances(),
    meshes=meshes(),
    camera=cameras(),
    samples=st.sampled_from([1, 1, 2, 4]),
    layers=st.sampled_from([1, 2, 5, 12, 64]),
    min_radius=st.sampled_from([0.3, 0.75, 2.0]),
    min_transmittance=st.sampled_from([0.0, 1 / 255]),
    threads=st.integers(1, 3),
)
def test_random_scenes(
    draw, tally, instances, meshes, camera, samples, layers, min_radius, min_transmittance, threads
):
    peel = PeelSettings(layers, min_radius, min_transmittance)
    assert_parity(
        draw, tally, instances, camera, peel, meshes=meshes, samples=samples, threads=threads
    )


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("orthographic", [False, True])
def test_larger_scenes(draw, tally, samples, orthographic):
    """Several tiles in each direction, with everything at once."""
    scene = [
        Instance(packed(cloud(1, 600, 3, (0.005, 0.15)), "codes"), pose(1, "stretched")),
        Instance(packed(cloud(2, 500, 1, (0.005, 0.15)), "half"), pose(2, "mirrored"), 0.7, 50),
        Instance(cloud(3, 400, 0, (0.005, 0.3)), HERE),
    ]
    meshes = [triangles(4, 12, "vertex", 1.0), triangles(5, 3, "holdout", 1.0)]
    picture = assert_parity(
        draw,
        tally,
        scene,
        look(150, 110, orthographic=orthographic, skew=5.0),
        meshes=meshes,
        samples=samples,
    )
    assert {0, 2, 50, meshes[0].id, -1} <= set(picture.ids.ravel().tolist())


def test_a_sheet_without_cracks(draw, tally):
    """A wavy sheet of triangles that covers the picture, points before and behind it."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-4, 4, 21), np.linspace(-4, 4, 21))
    vertices = np.stack([x, y, 0 * x], axis=-1) + rng.uniform(-0.15, 0.15, (21, 21, 3))
    corner = np.arange(441).reshape(21, 21)
    a, b, c, d = (corner[i : i + 20, j : j + 20].ravel() for i in (0, 1) for j in (0, 1))
    sheet = Mesh(
        vertices.reshape(-1, 3),
        np.r_[np.c_[a, b, c], np.c_[b, d, c]],
        rng.random((441, 3)),
    )
    for camera in (look(90, 70), look(90, 70, orthographic=True)):
        picture = assert_parity(draw, tally, [Instance(cloud(6), HERE)], camera, meshes=[sheet])
        assert np.abs(picture.rgba[..., 3] - 1).max() < 1e-5
        assert np.isfinite(picture.depth).all()


def test_an_edge_through_pixel_centres_leaves_no_crack(draw):
    """A square in halves whose diagonal meets 33 pixel centres exactly: the first half has them."""
    corners = [[-1, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]]
    for order in ([[0, 1, 2], [0, 2, 3]], [[0, 2, 3], [0, 1, 2]], [[2, 1, 0], [3, 2, 0]]):
        square = Mesh(corners, order, [[1, 0, 0], [0, 0, 1]])
        picture = draw([], straight(focal=33.0), meshes=[square])
        assert (picture.rgba[..., 3] == 1).all() and (picture.depth == 2).all()
        assert (picture.rgba[np.arange(33), np.arange(33), :3] == [1, 0, 0]).all()


def test_equal_triangles_show_the_first(draw):
    corners = [[-9, -9, 2], [9, -9, 2], [0, 9, 2]]
    meshes = [Mesh(corners, [[0, 1, 2]], color, id=i) for i, color in enumerate(np.eye(3))]
    for order in ([0, 1, 2], [2, 0, 1]):
        picture = draw([], straight(), meshes=[meshes[i] for i in order])
        assert (picture.ids[16] == order[0]).all()


def test_points_at_the_depth_of_a_triangle_are_hidden(draw):
    """z = 2 exactly for both, 2 minus one unit in the last place is before it."""
    wall = Mesh([[-9, -9, 2], [9, -9, 2], [0, 9, 2]], [[0, 1, 2]], (0, 0, 1))
    for z, red in ((2, 0), (np.nextafter(np.float32(2), np.float32(1)), 1), (2.1, 0)):
        point = Splats.from_colors([[0, 0, z]], [1], [1], [[1, 0, 0]])
        picture = draw([Instance(point, HERE)], straight(), meshes=[wall])
        assert picture.rgba[16, 16] == pytest.approx([red, 0, 1 - red, 1])
        assert picture.ids[16, 16] == (0 if red else -2)


def test_what_the_layers_let_through_falls_on_the_mesh(draw):
    """Also where they end before their time: two points of alpha 0.5, the second one not taken."""
    points = Splats.from_colors([[0, 0, 2], [0, 0, 3]], [1, 1], [0.5, 0.5], [[1, 0, 0], [0, 1, 0]])
    wall = Mesh([[-9, -9, 4], [9, -9, 4], [0, 9, 4]], [[0, 1, 2]], (0, 0, 1))
    for peel in (PeelSettings(1), PeelSettings(min_transmittance=0.6)):
        picture = draw([Instance(points, HERE)], straight(), peel, meshes=[wall])
        assert picture.rgba[16, 16] == pytest.approx([0.5, 0, 0.5, 1])
    picture = draw([Instance(points, HERE)], straight(), meshes=[wall])
    assert picture.rgba[16, 16] == pytest.approx([0.5, 0.25, 0.25, 1])


def test_layers_of_several_clips_are_counted_through():
    """The points of every layer, where float32 can know them, with triangles among them."""
    camera, peel = look(60, 50), PeelSettings(8)
    clouds = [cloud(32, 150), cloud(33, 90, 0), cloud(34, 120, 3)]
    meshes = [triangles(35, 5, "mesh", 0.5)]
    out = core.render_clips(
        [core.PlacedClip(splats, HERE, 1.0, 1.0, camera.centre, 0) for splats in clouds],
        camera,
        peel,
        triangles=join_meshes(meshes),
        want=("layer_ids", "depth"),
    )
    scene = [Instance(splats, HERE) for splats in clouds]
    slow = reference_scene(scene, camera, peel, meshes=meshes)
    same = (out["layer_ids"] == slow.ids).all(axis=2)
    assert (same | ambiguous_pixels(scene, camera, peel, meshes=meshes)).all()
    assert np.abs(out["depth"] - slow.depth)[same].max() < 1e-5
    assert slow.ids.max() > 240


def test_all_points_at_equal_depth(draw, tally):
    """Two clips on one plane facing the camera, K = 3: clip, then index, decides."""
    rng = np.random.default_rng(7)
    scene = []
    for seed in (1, 2):
        splats = cloud(seed, 50, 0, (0.3, 2.0))
        position = np.c_[rng.normal(size=(50, 2)), np.full(50, 3.0)]
        scene.append(Instance(replace(splats, position=position), HERE))
    for first, second in (scene, scene[::-1]):
        both = [first, second]
        for samples in (1, 2):
            assert_parity(draw, tally, both, straight(40, 40), PeelSettings(3), samples=samples)
    stacked = [
        Instance(Splats.from_colors(np.tile([0, 0, 3.0], (2, 1)), [1, 1], [0.5, 0.5], rgb), HERE)
        for rgb in ([[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]])
    ]
    picture = draw(stacked, straight(), PeelSettings(3))
    assert picture.rgba[16, 16] == pytest.approx([0.5, 0.25, 0.125, 0.875])


def test_supersampling_averages_a_larger_picture(draw):
    scene = [Instance(cloud(8, 300), pose(8, "stretched")), Instance(cloud(9), HERE)]
    meshes = [triangles(10, 4, "triangle", 1.0)]
    camera = look(51, 37)
    for samples in (2, 4):
        fine = draw(scene, camera.scaled(51 * samples, 37 * samples), meshes=meshes)
        mean = fine.rgba.reshape(37, samples, 51, samples, 4).mean(axis=(1, 3))
        picture = draw(scene, camera, meshes=meshes, samples=samples)
        assert np.abs(picture.rgba - mean).max() < 1e-6


@pytest.mark.parametrize("samples", [1, 2])
def test_a_crop_is_a_slice(draw, samples):
    """Windows that begin and end inside tiles, or reach beyond the picture."""
    scene = [Instance(cloud(11, 400, 2, (0.01, 1.0)), pose(11, "stretched"))]
    others = {"meshes": [triangles(12, 6, "vertex", 1.0)], "samples": samples}
    camera = look(101, 77, skew=3.0)
    whole = draw(scene, camera, **others)
    excused = ambiguous_pixels(scene, camera, surface=True, **others)
    for x, y, width, height in ((0, 0, 40, 30), (13, 5, 61, 49), (99, 70, 2, 7), (-9, -4, 30, 20)):
        part = draw(scene, camera.crop(x, y, width, height), **others)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), x + width, y + height
        window, inner = np.s_[y0:y1, x0:x1], np.s_[y0 - y :, x0 - x :]
        sure = ~excused[window]
        assert np.abs(part.rgba[inner] - whole.rgba[window])[sure].max() < 1e-5
        assert np.array_equal(part.ids[inner][sure], whole.ids[window][sure])
        assert part.depth[inner][sure] == pytest.approx(whole.depth[window][sure], rel=1e-6)


# Input as a clip stores it


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("form", FORMS[1:])
def test_packed_points_are_drawn_as_they_unpack(draw, form, degree):
    """Bit for bit, with a count that fills no whole vectors."""
    small = packed(cloud(13, 1237, degree, (0.01, 0.1)), form)
    others = {"meshes": [triangles(14, 3, "vertex", 0.5)]}
    matrix = pose(13, "stretched")
    picture = draw([Instance(small, matrix)], look(), **others)
    assert_same(picture, draw([Instance(small.unpack(), matrix)], look(), **others))
    assert picture.rgba[..., 3].max() > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_render_draws_one_clip_in_place(form):
    small = packed(cloud(13, 200, 2), form)
    picture = render(small, look(), PeelSettings(5), samples=2, ids=True, backend="cpu")
    scene = [Instance(small, HERE)]
    assert_same(
        picture, render_scene(scene, look(), PeelSettings(5), samples=2, ids=True, backend="cpu")
    )


def test_every_half_and_every_code(draw):
    """All 65,536 halves as radius and harmonics, all codes as positions: what is not finite or not
    positive vanishes, subnormals count."""
    every = np.arange(65536, dtype=np.uint16)
    rng = np.random.default_rng(15)
    low, high = np.array([-1.0, -1, -1]), np.array([1.0, 1, 0.9])
    codes = np.stack([rng.permutation(every) for _ in range(3)], axis=1)
    position = Quantized(codes, low=low, high=high, step=np.full(3, 2 / 65535))
    half = every.view(np.float16)
    bases = np.broadcast_to(half[:, None, None], (65536, 1, 3))
    radius = np.minimum(half, np.float16(0.01))
    for small in (
        PackedSplats(position, radius, np.full(65536, 0.9), np.ones((65536, 1, 3))),
        PackedSplats(position, np.full(65536, 0.01), np.full(65536, 0.9), bases),
        PackedSplats(position, np.full(65536, 0.01), half, np.ones((65536, 1, 3))),
    ):
        picture = draw([Instance(small, HERE)], look())
        assert_same(picture, draw([Instance(small.unpack(), HERE)], look()))
        assert np.isfinite(picture.rgba).all() and picture.rgba[..., 3].max() > 0.4


def test_codes_beyond_the_table_take_its_last_entry(draw):
    codes = np.array([[0], [1], [200], [255]], np.uint8)
    table = np.array([0.2, 0.4], np.float32)
    position = np.c_[np.array([-1.5, -0.5, 0.5, 1.5]), np.zeros(4), np.full(4, 4.0)]
    points = PackedSplats(
        position, Quantized(codes, table=table), np.ones(4), np.full((4, 1, 3), 2.0)
    )
    plain = Splats(position, [0.2, 0.4, 0.4, 0.4], np.ones(4), np.full((4, 1, 3), 2.0))
    assert_same(
        draw([Instance(points, HERE)], straight()), draw([Instance(plain, HERE)], straight())
    )


# Determinism


@pytest.mark.parametrize("samples", [1, 2])
def test_bit_identical_whatever_the_threads(draw, samples):
    scene = [
        Instance(packed(cloud(16, 9000, 3, (0.01, 0.1)), "codes"), pose(16, "stretched")),
        Instance(cloud(17, 5000, 1, (0.005, 0.3)), HERE, 0.8),
    ]
    others = {"meshes": [triangles(18, 20, "vertex", 1.0)], "samples": samples}
    one = draw(scene, look(201, 133), threads=1, **others)
    for threads in (2, 3, 8):
        assert_same(one, draw(scene, look(201, 133), threads=threads, **others))


def test_a_picture_that_is_given_is_written_to(draw):
    """Every element, whatever was in it; the arrays that come back are those that were given."""
    scene, meshes = [Instance(cloud(19), HERE)], [triangles(20, 2, "mesh", 0.5)]
    fresh = draw(scene, look(), meshes=meshes)
    given = Rendered(
        np.full((36, 48, 4), np.nan, np.float32),
        np.full((36, 48), np.nan, np.float32),
        np.full((36, 48), 77, np.int32),
    )
    picture = draw(scene, look(), meshes=meshes, out=given)
    assert picture.rgba is given.rgba and picture.depth is given.depth and picture.ids is given.ids
    assert_same(picture, fresh)
    empty = draw([], look(), out=given)
    assert not empty.rgba.any() and np.isinf(empty.depth).all() and (empty.ids == -1).all()
    assert draw(scene, look(), ids=False).ids is None
    assert fresh.backend == draw.backend


# Numbers that hurt


def spoiled(splats: Splats, attribute: str, rows, value) -> Splats:
    arrays = {name: getattr(splats, name).copy() for name in ATTRIBUTES}
    arrays[attribute][rows] = value
    return Splats(**arrays)


def without(splats: Splats, rows) -> Splats:
    return Splats(*(np.delete(getattr(splats, name), rows, axis=0) for name in ATTRIBUTES))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_points_that_are_not_finite_vanish(draw, attribute, bad):
    """The picture is that without them, bit for bit, whatever the form of the input."""
    splats, rows = cloud(21, 120, 2, (0.05, 0.5)), [0, 30, 31, 119]
    for camera in (look(), look(orthographic=True)):
        kept = draw([Instance(without(splats, rows), pose(21, "stretched"))], camera)
        broken = spoiled(splats, attribute, rows, bad)
        assert_same(kept, draw([Instance(broken, pose(21, "stretched"))], camera))
    kept = draw([Instance(PackedSplats.pack_half(without(splats, rows)), HERE)], look())
    assert_same(kept, draw([Instance(PackedSplats.pack_half(broken), HERE)], look()))


def test_one_coordinate_or_coefficient_is_enough(draw):
    splats = cloud(22, 60, 3, (0.1, 0.5))
    expected = draw([Instance(without(splats, [20, 40]), HERE)], look())
    for attribute, at in (("position", (0,)), ("position", (2,)), ("sh", (15, 2)), ("sh", (0, 0))):
        broken = spoiled(splats, attribute, (20, *at), np.nan)
        broken = spoiled(broken, attribute, (40, *at), np.inf)
        assert_same(expected, draw([Instance(broken, HERE)], look()))


def test_tables_that_are_not_finite(draw):
    splats = cloud(23, 90, 1, (0.05, 0.5))
    codes = np.arange(90, dtype=np.uint8)[:, None]
    table = splats.radius.copy()
    table[[10, 50, 89]] = [np.nan, np.inf, -np.inf]
    broken = PackedSplats(splats.position, Quantized(codes, table=table), splats.density, splats.sh)
    kept = without(splats, [10, 50, 89])
    assert_same(draw([Instance(kept, HERE)], look()), draw([Instance(broken, HERE)], look()))


@pytest.mark.parametrize("value", [1e-45, -1e-45, 1e-39, 1e-30, -0.0, 0.0, 1e30, 3.4e38, -3.4e38])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_denormals_and_huge_numbers(draw, tally, attribute, value):
    """As the reference draws them: they are numbers like others."""
    splats = cloud(24, 60, 0, (0.1, 0.5))
    rows = np.arange(0, 60, 7)
    splats = spoiled(splats, attribute, rows, np.float32(value))
    for camera in (look(), look(orthographic=True)):
        picture = assert_parity(draw, tally, [Instance(splats, HERE)], camera)
        assert np.isfinite(picture.rgba).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_clips_of_absurd_size(draw, scale):
    matrix = np.diag([scale, scale, scale, 1.0])
    for camera in (look(), look(orthographic=True)):
        picture = draw([Instance(cloud(25, 90, 3), matrix)], camera, samples=2)
        assert np.isfinite(picture.rgba).all() and not np.isnan(picture.depth).any()


def test_densities_and_radii_out_of_range(draw, tally):
    splats = cloud(26, 90, 1, (0.1, 0.5))
    splats = spoiled(splats, "radius", slice(0, 10), -0.3)
    splats = spoiled(splats, "radius", slice(10, 15), 0)
    splats = spoiled(splats, "density", slice(15, 20), 0)
    splats = spoiled(splats, "density", slice(20, 25), -1)
    splats = spoiled(splats, "density", slice(25, 40), 9)
    picture = assert_parity(draw, tally, [Instance(splats, HERE, 0.5)], look())
    assert_same(picture, draw([Instance(without(splats, slice(0, 25)), HERE, 0.5)], look()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45])
def test_vertices_that_hurt(draw, bad):
    """A triangle with a corner that is not finite is not there; others leave finite pictures."""
    mesh = triangles(27, 12, "vertex", 1.0)
    scene = [Instance(cloud(27), HERE)]
    kept = replace(mesh, triangles=np.delete(mesh.triangles, [2, 7], axis=0))
    for camera in (look(), look(orthographic=True)):
        for axis in range(3):
            vertices = mesh.vertices.copy()
            vertices[mesh.triangles[2, 1], axis] = vertices[mesh.triangles[7, 0], axis] = bad
            picture = draw(scene, camera, meshes=[replace(mesh, vertices=vertices)])
            assert np.isfinite(picture.rgba).all() and not np.isnan(picture.depth).any()
            if not np.isfinite(bad):
                assert_same(picture, draw(scene, camera, meshes=[kept]))


def test_degenerate_triangles_are_not_there(draw):
    corners = [[-1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    flat = Mesh(corners, [[0, 1, 2], [0, 0, 3], [1, 1, 1]], (1, 1, 1))
    for camera in (straight(), replace(straight(), orthographic=True, near=-1.0)):
        assert not draw([], camera, meshes=[flat]).rgba.any()


def test_triangles_larger_than_the_world(draw, tally):
    """Corners 10^6 units away, through the camera's plane and around it."""
    vertices = np.array([[-1e6, 1, -1e6], [1e6, 1, -1e6], [0, 1, 2e6]])
    floor = Mesh(vertices, [[0, 1, 2]], np.eye(3))
    for camera in (look(), look(near=2.0, far=40.0), straight(48, 36)):
        picture = assert_parity(draw, tally, [Instance(cloud(28), HERE)], camera, meshes=[floor])
        assert picture.rgba[-1, :, 3].min() > 0.99


def test_cameras_and_matrices_that_are_refused(draw):
    scene = [Instance(cloud(29, 5), HERE)]
    for bad in (
        replace(look(), t=[np.nan, 0, 0]),
        replace(look(), K=np.full((3, 3), np.inf)),
        replace(look(), near=2, far=1),
        replace(look(), width=0),
    ):
        with pytest.raises(CoreError):
            draw(scene, bad)
    for camera, samples in ((look(), 0), (look(), 3), (look(), 8), (look(8192, 1), 4)):
        with pytest.raises(CoreError):
            draw(scene, camera, samples=samples)
    for matrix in (np.full((4, 4), np.nan), np.diag([1, 1, 1, 2.0]), np.eye(3)):
        with pytest.raises(CoreError):
            draw([Instance(cloud(29, 5), matrix)], look())
    with pytest.raises(CoreError):
        draw([Instance(cloud(29, 5), HERE, np.nan)], look())


def test_nothing_at_all(draw):
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), int), None)
    unused = Mesh(np.zeros((5, 3)), np.zeros((0, 3), int), (1, 1, 1))
    empty = Instance(Splats.empty(3), HERE)
    no_codes = Instance(packed(Splats.empty(1), "codes"), HERE)
    behind = Instance(Splats.from_colors([[0, 0, -9]], [1], [1], [[1, 1, 1]]), HERE)
    for scene in ([], [empty], [no_codes, empty], [behind]):
        for meshes in ([], [nothing], [unused, nothing]):
            for size, samples in (((1, 1), 1), ((1, 1), 4), ((70, 3), 2), ((3, 70), 1)):
                picture = draw(scene, straight(*size), meshes=meshes, samples=samples)
                assert picture.rgba.shape == (size[1], size[0], 4) and not picture.rgba.any()
                assert np.isinf(picture.depth).all() and (picture.ids == -1).all()


def test_clips_without_points_change_no_ids(draw):
    """Wherever they stand, and whatever was drawn before."""
    first, second = cloud(37, 60, radii=(0.1, 0.5)), cloud(38, 60, radii=(0.1, 0.5))
    both = [Instance(first, HERE, id=7), Instance(second, HERE, id=8)]
    expected = draw(both, look())
    assert {7, 8} <= set(expected.ids.ravel().tolist())
    nobody = [Instance(Splats.empty(1), HERE, id=9 + i) for i in range(3)]
    others = [Instance(first, HERE, id=20 + i) for i in range(5)]
    for scene in ([*both, *nobody], [*nobody, *both], [both[0], *nobody, both[1]]):
        draw(others, look())
        assert_same(expected, draw(scene, look()))


# Much of something


@pytest.mark.parametrize("samples", [1, 2])
def test_one_point_over_a_whole_4k_picture(draw, samples):
    """alpha = density (1 - q) at each of 8.3 million pixels."""
    if draw.emulated:
        pytest.skip("takes minutes under the emulator")
    width, height = (3840, 2160) if samples == 1 else (1920, 1080)
    camera = straight(width, height, focal=float(width))
    point = Splats.from_colors([[0.1, -0.05, 2]], [1.6], [0.7], [[1, 0.5, 0.25]])
    picture = draw([Instance(point, HERE, id=3)], camera, samples=samples)
    fine = np.arange(width * samples), np.arange(height * samples)
    semi_axis = width * samples * 1.6 / 2
    centre = (
        width * samples * np.array([0.05, -0.025]) + np.array(fine[0].shape + fine[1].shape) / 2
    )
    x, y = (((axis + 0.5 - c) / semi_axis) ** 2 for axis, c in zip(fine, centre, strict=True))
    for row in range(0, height, 97):
        alpha = 0.7 * (1 - y[row * samples : (row + 1) * samples, None] - x[None, :])
        alpha = np.maximum(alpha, 0)
        alpha_of_pixel = alpha.reshape(samples, width, samples).mean(axis=(0, 2))
        assert np.abs(picture.rgba[row, :, 3] - alpha_of_pixel).max() < 1e-5
        assert np.abs(picture.rgba[row, :, 1] - 0.5 * alpha_of_pixel).max() < 1e-5
        surface = (alpha > 0.5 + 1e-5).reshape(samples, width, samples).sum(axis=(0, 2))
        maybe = (alpha > 0.5 - 1e-5).reshape(samples, width, samples).sum(axis=(0, 2))
        least = samples**2 / 2
        assert (picture.ids[row][surface >= least] == 3).all()
        assert (picture.ids[row][maybe < least] == -1).all()
        assert (picture.depth[row][surface >= least] == 2).all()
    assert picture.rgba[..., 3].min() >= 0 and (picture.ids == 3).any() and (picture.ids < 0).any()


def test_a_million_points_in_one_tile(draw):
    """All within 12 x 12 pixels; the K nearest of some pixels are found by sorting everything."""
    if draw.emulated:
        pytest.skip("takes minutes under the emulator")
    rng = np.random.default_rng(30)
    count, layers = 1_000_000, 12
    camera = straight(32, 32)
    z = rng.uniform(2, 4, count).astype(np.float32)
    z[rng.random(count) < 0.3] = 3.0  # and many of them at one depth
    u, v = rng.uniform(2, 14, (2, count))
    position = np.stack([(u - 16) * z / 32, (v - 16) * z / 32, z], axis=1).astype(np.float32)
    radius = (rng.uniform(0.5, 3, count) * z / 32).astype(np.float32)
    density = rng.uniform(0.01, 0.2, count).astype(np.float32)
    rgb = rng.random((count, 3))
    splats = Splats.from_colors(position, radius, density, rgb)
    picture = draw([Instance(splats, HERE)], camera, PeelSettings(layers))
    position, radius = position.astype(np.float64), radius.astype(np.float64)
    centre = 32 * position[:, :2] / position[:, 2:] + 16
    semi_axis = 32 * radius / position[:, 2]
    drawn = np.maximum(semi_axis, 0.75)
    weight = density * (semi_axis / drawn) ** 2
    for x, y in ((8, 8), (2, 13), (5, 6), (13, 3), (10, 12), (0, 0), (16, 16)):
        q = (((centre - [x + 0.5, y + 0.5]) / drawn[:, None]) ** 2).sum(axis=1)
        covering = np.flatnonzero(q < 1)
        front = covering[np.argsort(z[covering], kind="stable")][:layers]
        expected, transmittance = np.zeros(4), 1.0
        for i in front:
            alpha = weight[i] * (1 - q[i])
            expected += transmittance * alpha * np.r_[rgb[i], 1]
            transmittance *= 1 - alpha
        assert picture.rgba[y, x] == pytest.approx(expected, abs=1e-5)
    assert not picture.rgba[20:, 20:].any()


def test_many_triangles_in_one_pixel(draw):
    """20,000 triangles that all cover the middle: the nearest one, whatever its place."""
    rng = np.random.default_rng(31)
    z = rng.permutation(np.linspace(2, 9, 20_000)).astype(np.float32)
    corners = np.array([[-0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0.3, 0]])
    vertices = (corners * 4)[None] + np.array([0, 0, 1]) * z[:, None, None]
    color = rng.random((20_000, 3))
    mesh = Mesh(vertices.reshape(-1, 3), np.arange(60_000).reshape(-1, 3), color)
    picture = draw([], straight(), meshes=[mesh])
    assert picture.depth[16, 16] == 2
    assert picture.rgba[16, 16, :3] == pytest.approx(color[z.argmin()], abs=1e-6)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_longest_picture(draw, tally, samples):
    """32,767 samples a row, the most there can be; triangles and points along all of it."""
    width = 32767 // samples
    rng = np.random.default_rng(36)
    position = np.c_[rng.uniform(-1, 1, 20), rng.normal(size=20) * 1e-4, rng.uniform(2, 3, 20)]
    points = Splats.from_colors(position, np.full(20, 0.2), np.full(20, 0.6), rng.random((20, 3)))
    bar = Mesh([[-9, 1, 2.4], [9, 1.1, 2.6], [0, -1, 2.5]], [[0, 1, 2]], np.eye(3))
    for camera in (straight(width, 2, width), straight(2, width, width)):
        turn = np.eye(4) if camera.height == 2 else np.eye(4)[[1, 0, 2, 3]]
        scene = [Instance(points, turn)]
        mesh = replace(bar, vertices=bar.vertices @ turn[:3, :3].T)
        assert_parity(draw, tally, scene, camera, meshes=[mesh], samples=samples)


def test_many_instances(draw, tally):
    """40 clips of a few points each in one order."""
    scene = [
        Instance(cloud(seed, 5, seed % 4, (0.1, 0.4)), pose(seed, "stretched"), id=1000 - seed)
        for seed in range(40)
    ]
    picture = assert_parity(draw, tally, scene, look())
    assert len(set(picture.ids.ravel().tolist())) > 10
