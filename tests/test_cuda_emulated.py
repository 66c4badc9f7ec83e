"""The CUDA back end with its kernels run on the CPU: same bits as the CPU core, bounded memory."""

from __future__ import annotations

import ctypes
import gc
import shutil
from dataclasses import replace

import drawn_scenes
import numpy as np
import pytest
from cuda_emulator import COMPILER, GPU, EmulatedDevice, build

from peel4d.engine.errors import CoreError
from peel4d.engine.render import core, cuda_kernels
from peel4d.engine.render.backend import Instance
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.cuda import CudaRenderer, device_clip
from peel4d.engine.render.cuda_frame import DeviceScene, PixelGradients, split_tiles
from peel4d.engine.render.cuda_memory import DeviceMemory, DeviceMemoryError, parse_size
from peel4d.engine.render.mesh import Mesh
from peel4d.engine.render.reference import ambiguous_pixels, reference_scene
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import PackedSplats, Quantized, Splats
from peel4d.engine.render.triangles import join_meshes

pytestmark = pytest.mark.skipif(not COMPILER, reason="the emulator needs a C++ compiler")

EVERYTHING = ("depth", "surface", "surface_id", "layer_ids")
NAMES = ("position", "radius", "density", "color")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def make(library):
    def make(*, max_vram=None, **device) -> CudaRenderer:
        return CudaRenderer(EmulatedDevice(library, **device), max_vram=max_vram)

    return make


def look(width=100, height=70, *, orthographic=False, skew=0.0, near=1e-3, far=1e6) -> Camera:
    """A camera 3 units from the origin, fx != fy, principal point off the centre, turned a bit."""
    angle = 0.3
    R = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    zoom = (0.4 if orthographic else 1.2) * width
    K = [[zoom, skew, 0.42 * width], [0, 0.8 * zoom, 0.55 * height], [0, 0, 1]]
    return Camera(K, R, [0.1, -0.05, 3.0], width, height, near, far, orthographic)


def straight(width=16, height=16) -> Camera:
    return drawn_scenes.straight(width, height, focal=16.0)


def cloud(seed=0, count=2000, basis=1, radii=(0.005, 0.2)) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        rng.normal(size=(count, 3)) * 0.6,
        np.exp(rng.uniform(*np.log(radii), count)),
        rng.uniform(0.05, 1.2, count),
        rng.normal(size=(count, basis, 3)) * 0.5 + 0.4,
    )


def placed(splats, camera, matrix=None, opacity=1.0, number=3) -> core.PlacedClip:
    matrix = np.eye(4) if matrix is None else matrix
    linear, shift = matrix[:3, :3], matrix[:3, 3]
    inverse = np.linalg.inv(linear)
    eye = inverse @ (camera.forward if camera.orthographic else camera.centre - shift)
    if camera.orthographic:
        eye /= np.linalg.norm(eye)
    scale = np.linalg.svd(linear, compute_uv=False)[0]
    return core.PlacedClip(splats, matrix, scale, opacity, eye, number)


def assert_same_bits(renderer, clips, camera, settings=None, want=EVERYTHING, **scene) -> dict:
    settings = settings or PeelSettings()
    there = renderer.render_clips(clips, camera, settings, want=want, **scene)
    here = core.render_clips(clips, camera, settings, want=want, threads=1, **scene)
    assert there.keys() == here.keys()
    for name, array in there.items():
        assert np.array_equal(array, here[name]), name
    return there


def test_structs_have_the_sizes_that_the_kernels_give_them(library):
    size = ctypes.CDLL(str(library)).peel4d_emulate_sizeof
    size.restype = ctypes.c_int64
    sizes = {
        b"State": ctypes.sizeof(cuda_kernels.State),
        b"Splat": cuda_kernels.SPLAT_BYTES,
        b"ScreenTriangle": cuda_kernels.SCREEN_TRIANGLE_BYTES,
        b"ClipId": cuda_kernels.CLIP_ID_BYTES,
        b"Layer": cuda_kernels.LAYER_BYTES,
        b"Frame": ctypes.sizeof(cuda_kernels.Frame),
        b"ProjectArguments": ctypes.sizeof(cuda_kernels.project_arguments()),
        b"MeshArguments": ctypes.sizeof(cuda_kernels.mesh_arguments()),
        b"BackwardTilesArguments": ctypes.sizeof(cuda_kernels.BackwardTilesArguments),
        b"BackwardPointsArguments": ctypes.sizeof(cuda_kernels.backward_points_arguments()),
    }
    assert {name: size(name) for name in sizes} == sizes
    # CUDA takes at most 4 KiB of arguments on every GPU.
    assert max(sizes.values()) <= 4096


@pytest.mark.parametrize("basis", [1, 4, 9, 16])
@pytest.mark.parametrize("orthographic", [False, True])
def test_same_bits_as_the_cpu(make, basis, orthographic):
    camera = look(orthographic=orthographic, skew=3.0)
    out = assert_same_bits(make(), [placed(cloud(basis=basis), camera)], camera)
    assert (out["rgba"][..., 3] > 0.5).mean() > 0.2
    assert set(np.unique(out["surface_id"])) == {-1, 3}


@pytest.mark.parametrize(
    "settings",
    [
        PeelSettings(layers=1),
        PeelSettings(layers=64, min_transmittance=0.0),
        PeelSettings(min_radius_px=4.0),
        PeelSettings(min_transmittance=1.0),
    ],
)
def test_same_bits_with_other_settings(make, settings):
    camera = look()
    assert_same_bits(make(), [placed(cloud(1), camera)], camera, settings)


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (16, 16), (33, 5), (257, 3)])
def test_same_bits_at_odd_sizes(make, size):
    camera = look(*size)
    assert_same_bits(make(), [placed(cloud(2, 300), camera)], camera)


def test_same_bits_for_points_of_all_sizes_and_limits(make):
    camera = look(near=2.0, far=3.5)
    assert_same_bits(make(), [placed(cloud(3, 500, radii=(1e-6, 5.0)), camera)], camera)


def test_one_point_over_many_tiles(make):
    """Records that reach more than 32 tiles are binned by a whole warp."""
    camera = straight(320, 240)
    splats = cloud(4, 40)
    position = splats.position + np.float32([0, 0, 5])
    radius = np.where(np.arange(40) % 3, splats.radius, 30).astype(np.float32)
    splats = replace(splats, position=position, radius=radius)
    assert_same_bits(make(), [placed(splats, camera)], camera)


def test_close_to_the_float64_reference(make):
    """The parity rule of the project, through the public types."""
    camera = look(48, 40)
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1.3, 0], [0.8, 0, 0.1], [0, 0, 1]]
    instances = [
        Instance(cloud(5, 150, 4), np.eye(4), 0.8, 0),
        Instance(cloud(6, 150), matrix, 1.0, 1),
    ]
    meshes = [triangles_in_space()]
    clips = [placed(i.splats, camera, i.matrix, i.opacity, i.id) for i in instances]
    out = make().render_clips(
        clips, camera, PeelSettings(), triangles=join_meshes(meshes), want=("surface",)
    )
    slow = reference_scene(instances, camera, PeelSettings(), meshes=meshes)
    excused = ambiguous_pixels(instances, camera, PeelSettings(), meshes=meshes)
    difference = np.abs(out["rgba"] - slow.rgba).max(axis=2)
    assert excused.mean() < 0.05
    assert difference[~excused].max() <= 1 / 255


def test_the_order_of_threads_does_not_matter(make):
    camera = look(130, 90)
    clips = [placed(cloud(7, 3000), camera)]
    triangles = join_meshes([triangles_in_space()])
    for seed in range(1, 8):
        assert_same_bits(make(seed=seed), clips, camera, triangles=triangles)


def test_a_missing_barrier_is_noticed(tmp_path):
    """What the test above is worth."""
    for folder in ("gpu", "include"):
        shutil.copytree(GPU.parent / folder, tmp_path / folder)
    source = tmp_path / "gpu" / "composite.cuh"
    whole = source.read_text()
    source.write_text(whole.replace("__syncthreads();\n    bool open = true;", "bool open = true;"))
    assert source.read_text() != whole
    library = build(tmp_path, gpu=tmp_path / "gpu")
    camera = look()
    for seed in range(4):
        with pytest.raises(AssertionError):
            renderer = CudaRenderer(EmulatedDevice(library, seed=seed))
            assert_same_bits(renderer, [placed(cloud(7, 3000), camera)], camera)


def test_several_clips(make):
    camera = look()
    random = np.random.default_rng(8)
    clips = []
    for number in range(5):
        matrix = np.eye(4)
        matrix[:3, :3] += random.normal(size=(3, 3)) * 0.3
        matrix[:3, 3] = random.normal(size=3) * 0.3
        splats = cloud(number, 300 * number, (1, 4, 9, 16, 1)[number])
        clips.append(placed(splats, camera, matrix, 1 - 0.15 * number, 10 * number))
    out = assert_same_bits(make(), clips, camera)
    assert set(np.unique(out["surface_id"])) == {-1, 10, 20, 30, 40}


def test_no_points_at_all(make):
    camera = look()
    for clips in ([], [placed(Splats.empty(), camera)]):
        out = assert_same_bits(make(), clips, camera)
        assert not out["rgba"].any() and (out["layer_ids"] == -1).all()
        assert np.isposinf(out["surface"]).all()


def triangles_in_space(holdout=False, count=12) -> Mesh:
    rng = np.random.default_rng(9)
    vertices = rng.normal(size=(count, 3)) * 0.8
    vertices[0, 2] = -9  # behind the camera
    triangles = rng.integers(0, count, (count, 3))  # some are degenerate
    color = None if holdout else rng.uniform(-0.2, 1.2, (count, 3))
    return Mesh(vertices, triangles, color, id=-7, per=None if holdout else "vertex")


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("orthographic", [False, True])
def test_meshes_holdouts_and_samples(make, samples, orthographic):
    camera = look(61, 47, orthographic=orthographic)
    meshes = [triangles_in_space(), triangles_in_space(holdout=True, count=9)]
    want = ("depth", "surface", "surface_id")
    out = assert_same_bits(
        make(),
        [placed(cloud(10), camera)],
        camera,
        triangles=join_meshes(meshes),
        samples=samples,
        want=want,
    )
    assert {-7, 3} <= set(np.unique(out["surface_id"]))
    assert_same_bits(make(), [], camera, triangles=join_meshes(meshes), samples=samples, want=want)


def test_many_triangles_in_one_tile(make):
    """More than fit into a chunk, with equal depths: the lower index wins whatever the order."""
    camera = straight()
    count = 700
    rng = np.random.default_rng(11)
    corners = rng.uniform(-1, 1, (count, 3, 2))
    depth = np.repeat(rng.integers(2, 5, count), 3).reshape(count, 3, 1)
    vertices = np.concatenate([corners * depth / 2, depth], axis=2).reshape(-1, 3)
    mesh = Mesh(vertices, np.arange(3 * count).reshape(-1, 3), rng.uniform(size=(count, 3)))
    for seed in (0, 1, 5):
        assert_same_bits(make(seed=seed), [], camera, triangles=join_meshes([mesh]))


def packed(splats: Splats, dtype=np.uint8) -> PackedSplats:
    """Positions as 16-bit codes, radii by a table, the rest as codes of `dtype` in planes."""

    def ramp(values, dtype):
        low, high = values.min(axis=0).astype(float), values.max(axis=0).astype(float)
        step = (high - low) / np.iinfo(dtype).max
        planes = np.empty(values.shape[::-1], dtype)
        planes[:] = np.rint((values - low) / step).T
        return Quantized(planes.T, low=low, high=high, step=step)

    count = len(splats)
    table = np.sort(np.random.default_rng(0).choice(splats.radius, 200))
    radius = np.abs(splats.radius[:, None] - table).argmin(axis=1).astype(np.uint8)
    return PackedSplats(
        ramp(splats.position, np.uint16),
        Quantized(radius[:, None], table=table),
        ramp(splats.density[:, None], dtype),
        ramp(splats.sh.reshape(count, -1), dtype),
    )


@pytest.mark.parametrize("basis", [1, 4, 16])
def test_packed_points_are_uploaded_as_they_are(make, basis):
    camera = look()
    splats = cloud(12, basis=basis)
    for points in (
        packed(splats),
        packed(splats, np.uint16),
        PackedSplats.pack_half(splats),
        PackedSplats(splats.position, splats.radius, splats.density.astype(np.float16), splats.sh),
    ):
        renderer = make()
        assert_same_bits(renderer, [placed(points, camera)], camera)
        assert_same_bits(renderer, [placed(points.unpack(), camera)], camera)
        copied = [block for block in renderer._uploads._uploads.values()]
        assert len(copied) == 2


def test_bad_points_are_not_drawn(make):
    camera = look()
    splats = cloud(13, 400)
    bad = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e38, 1e-40, 3e38]
    arrays = [a.copy() for a in (splats.position, splats.radius, splats.density, splats.sh)]
    rng = np.random.default_rng(14)
    for array in arrays:
        flat = array.reshape(-1)
        flat[rng.choice(len(flat), 60, replace=False)] = rng.choice(bad, 60)
    out = assert_same_bits(make(), [placed(Splats(*arrays), camera)], camera)
    assert np.isfinite(out["rgba"]).all()


@pytest.mark.parametrize("same_depth", [False, True])
def test_very_many_points_in_one_tile(make, same_depth):
    """Too many for shared memory: the radix sort, over all eight digits, with ties by index."""
    count = 300_000
    rng = np.random.default_rng(15)
    z = np.full(count, 2.0) if same_depth else rng.uniform(1, 3, count)
    position = np.c_[rng.uniform(-0.4, 0.4, (count, 2)) * z[:, None], z]
    rgb = rng.uniform(size=(count, 3))
    splats = Splats.from_colors(position, np.full(count, 0.03), np.full(count, 0.02), rgb)
    camera = straight()
    renderer = make()
    settings = PeelSettings(layers=64, min_transmittance=0.0)
    out = assert_same_bits(renderer, [placed(splats, camera)], camera, settings)
    assert (out["layer_ids"] >= 0).any()


def test_sorting_large_tiles_in_any_order_of_threads(make):
    count = 9000  # three rounds, the last one not full
    rng = np.random.default_rng(16)
    z = rng.choice(rng.uniform(1, 3, 50), count)
    position = np.c_[rng.uniform(-0.4, 0.4, (count, 2)) * z[:, None], z]
    splats = Splats.from_colors(position, np.full(count, 0.1), np.full(count, 0.1), position)
    camera = straight(40, 24)
    for seed in (1, 2, 3):
        assert_same_bits(make(seed=seed), [placed(splats, camera)], camera)


class TestMemory:
    def test_no_allocation_per_frame(self, make):
        """A clip that plays: other points each frame, some more, some fewer."""
        camera = look()
        renderer = make()
        device = renderer.device
        out = renderer.picture(camera.width, camera.height, ids=True)
        out = {"rgba": out.rgba, "surface": out.depth, "surface_id": out.ids}
        counts = []
        for frame in range(8):
            clip = placed(cloud(frame, 2000 + 20 * (frame % 3)), camera)
            renderer.render_clips(
                [clip], camera, PeelSettings(), want=("surface", "surface_id"), out=out
            )
            del clip
            gc.collect()
            counts.append((device.allocations, device.pinned_allocations, len(device.log)))
        assert counts[4][:2] == counts[-1][:2]
        # Upload, memset, five kernels, the count and three planes.
        assert counts[-1][2] - counts[-2][2] == 11

    def test_points_are_uploaded_once(self, make):
        renderer = make()
        splats = cloud(1)
        for width in (30, 40, 50):
            camera = look(width)
            assert_same_bits(renderer, [placed(splats, camera)], camera)
        assert renderer.device.log.count("to_device") == 1

    def test_the_next_frame_is_uploaded_beside_this_one(self, make):
        """On memory of the frame before; nothing of it waits for the frame that is drawn."""
        camera = look()
        renderer = make()
        device = renderer.device
        following = cloud(0)
        for seed in range(1, 12):
            current, following = following, cloud(seed)
            renderer.draw([placed(current, camera)], camera, PeelSettings())
            drawn = device.done[renderer.stream]
            renderer.prefetch(following)
            upload = renderer._uploads.get(following, list)
            upload.ready.synchronize()
            assert device.done[renderer.stream] == drawn
            assert_same_bits(renderer, [placed(current, camera)], camera)
            del current
            gc.collect()
            if seed == 5:
                allocations = device.allocations
        assert device.log.count("to_device") == 12
        assert device.allocations == allocations

    def test_unfetched_frames_do_not_mix(self, make):
        """Frames that were only queued: their points stay until the kernels have read them."""
        camera = look()
        renderer = make()
        for seed in range(10):
            renderer.draw([placed(cloud(seed), camera)], camera, PeelSettings())
            gc.collect()
        assert_same_bits(renderer, [placed(cloud(99), camera)], camera)

    def test_room_for_overlaps_grows(self, make):
        """More overlaps than points: the frame is repeated with more room, later ones are not."""
        camera = look(640, 480)
        splats = cloud(17, 200, radii=(1.0, 2.0))
        renderer = make()
        assert_same_bits(renderer, [placed(splats, camera)], camera)
        assert renderer.device.log.count("composite") == 2
        assert_same_bits(renderer, [placed(splats, camera)], camera)
        assert renderer.device.log.count("composite") == 3

    def test_room_for_triangles_grows(self, make):
        camera = look(320, 240)
        rng = np.random.default_rng(18)
        corners = rng.normal(size=(300, 3))
        mesh = Mesh(corners, rng.integers(0, 300, (400, 3)), (0.2, 0.4, 0.6))
        renderer = make()
        assert_same_bits(renderer, [placed(cloud(), camera)], camera, triangles=join_meshes([mesh]))
        assert renderer.device.log.count("composite_mesh") == 2

    @pytest.mark.parametrize("meshed", [False, True])
    def test_ranges_of_tiles_when_memory_is_bounded(self, make, meshed):
        camera = look(640, 480)
        splats = cloud(19, 300, radii=(0.8, 1.5))
        triangles = join_meshes([triangles_in_space()]) if meshed else None
        kernel = "composite_mesh" if meshed else "composite"
        plenty = make()
        assert_same_bits(plenty, [placed(splats, camera)], camera, triangles=triangles)
        bound = plenty.vram_used - (2 << 20)
        renderer = make(max_vram=bound)
        for _ in range(2):
            assert_same_bits(renderer, [placed(splats, camera)], camera, triangles=triangles)
        assert renderer.device.log.count(kernel) > 4
        assert renderer.device.most_used <= bound
        # A smaller picture of the same points fits at once again.
        small = look(64, 48)
        before = renderer.device.log.count(kernel)
        for _ in range(2):
            assert_same_bits(renderer, [placed(splats, small)], small, triangles=triangles)
        assert renderer.device.log.count(kernel) == before + 2

    @pytest.mark.parametrize("bound", ["max_vram", "device"])
    def test_out_of_memory_is_reported_and_survived(self, make, bound):
        limit = {"max_vram": 6 << 20} if bound == "max_vram" else {"limit": 6 << 20}
        renderer = make(**limit)
        small, large = look(40, 30), look(1200, 900)
        assert_same_bits(renderer, [placed(cloud(), small)], small)
        for attempt in range(2):
            with pytest.raises(DeviceMemoryError, match=r"no GPU memory for .*MiB needed") as info:
                renderer.render_clips([placed(cloud(), large)], large, PeelSettings())
            assert "6.0 MiB" in str(info.value)
            assert_same_bits(renderer, [placed(cloud(attempt), small)], small)
        assert renderer.device.most_used <= 6 << 20

    def test_too_many_points_in_one_tile(self, make):
        """What no range of tiles can hold is an error with numbers, and the renderer goes on."""
        count = 150_000
        position = np.c_[np.random.default_rng(0).uniform(-0.4, 0.4, (count, 2)), np.ones(count)]
        splats = Splats.from_colors(position, np.full(count, 0.1), np.ones(count), position)
        camera = straight()
        renderer = make(max_vram=(count * 96) + (3 << 20))
        with pytest.raises(DeviceMemoryError, match="150,000 points"):
            renderer.render_clips([placed(splats, camera)], camera, PeelSettings())
        camera = look()
        assert_same_bits(renderer, [placed(cloud(), camera)], camera)

    def test_close_gives_everything_back(self, make):
        camera = look()
        renderer = make()
        renderer.render_clips([placed(cloud(), camera)], camera, PeelSettings())
        assert renderer.vram_used == renderer.device.used > 0
        renderer.close()
        assert renderer.vram_used == renderer.device.used == 0

    def test_max_vram_from_the_environment(self, make, monkeypatch):
        monkeypatch.setenv("PEEL4D_MAX_VRAM", "1M")
        camera = look(1000, 1000)
        with pytest.raises(CoreError, match=r"of 1\.0 MiB allowed"):
            make().render_clips([placed(cloud(), camera)], camera, PeelSettings())
        monkeypatch.setenv("PEEL4D_MAX_VRAM", "much")
        with pytest.raises(CoreError, match="'much' is no amount of memory"):
            make()

    def test_blocks_are_shared_by_similar_sizes(self, library):
        device = EmulatedDevice(library)
        memory = DeviceMemory(device)
        with device.active():
            block = memory.take("points", 1_000_000)
            memory.give(block)
            assert memory.take("points", 1_010_000) is block
            assert memory.take("points", 100).nbytes == 1 << 16

    def test_sizes(self):
        assert parse_size("8G") == 8 << 30
        assert parse_size("1.5 MiB") == 3 << 19
        assert parse_size("1000") == 1000
        for wrong in ("", "-1", "8T", "0"):
            with pytest.raises(CoreError):
                parse_size(wrong)

    def test_ranges_of_tiles(self):
        counts = np.array([[3, 0, 5, 5, 1, 1], [0, 0, 0, 9, 0, 0]], np.uint32)
        assert split_tiles(counts, [8, 9]) == [(0, 3), (3, 6)]
        assert split_tiles(counts, [5, 9]) == [(0, 2), (2, 3), (3, 4), (4, 6)]
        assert split_tiles(np.zeros((2, 4), np.uint32), [1, 1]) == [(0, 4)]


class OnDevice:
    """Arrays of a training step in the emulated device's memory, `offset` bytes off alignment."""

    def __init__(self, renderer, arrays, camera, settings, offset=0):
        self.renderer, self.camera = renderer, camera
        self.arrays = [np.ascontiguousarray(array, np.float32) for array in arrays]
        with renderer.device.active():
            self.addresses = {
                name: self._put(array, offset)
                for name, array in zip(NAMES, self.arrays, strict=True)
            }
        color = self.arrays[3]
        clip = device_clip(
            self.addresses, len(color), color.shape[1] if color.ndim == 3 else 0, camera
        )
        self.scene = DeviceScene(
            core.camera_struct(camera), core.settings_struct(settings, 1, 0), [clip]
        )

    def _put(self, array: np.ndarray, offset: int = 0) -> int:
        address = self.renderer.device.allocate(max(array.nbytes, 4) + offset) + offset
        self.renderer.device._view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)
        return address

    def _get(self, address: int, shape) -> np.ndarray:
        self.renderer.device.synchronize()
        nbytes = int(np.prod(shape)) * 4
        return self.renderer.device._view(address, nbytes).view(np.float32).reshape(shape).copy()

    def forward(self):
        shape = (self.camera.height, self.camera.width)
        with self.renderer.device.active():
            outputs = {
                "rgba": self._put(np.zeros((*shape, 4), np.float32)),
                "depth": self._put(np.zeros(shape, np.float32)),
            }
        self.job = self.renderer.forward_pointers(self.scene, outputs, None)
        return self._get(outputs["rgba"], (*shape, 4)), self._get(outputs["depth"], shape)

    def backward(self, d_rgba, d_depth):
        with self.renderer.device.active():
            pixels = PixelGradients(
                self._put(d_rgba), None if d_depth is None else self._put(d_depth)
            )
            garbage = [self._put(np.full_like(array, np.nan)) for array in self.arrays]
        gradients = dict(zip(NAMES, garbage, strict=True))
        self.renderer.backward_pointers(self.job, pixels, gradients, None)
        return [
            self._get(address, array.shape)
            for address, array in zip(garbage, self.arrays, strict=True)
        ]


def step_arrays(count=400, basis=4, seed=20):
    splats = cloud(seed, count, max(basis, 1))
    color = splats.sh if basis else splats.sh[:, 0]
    return [splats.position, splats.radius, splats.density, color]


def pixel_gradients(camera, seed=21):
    rng = np.random.default_rng(seed)
    shape = (camera.height, camera.width)
    return (
        rng.normal(size=(*shape, 4)).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
    )


def assert_close_gradients(there, here, tolerance):
    for name, a, b in zip(NAMES, there, here, strict=True):
        norm = np.linalg.norm(b)
        assert norm > 0
        assert np.linalg.norm(a - b) <= tolerance * norm, name


class TestGradients:
    @pytest.mark.parametrize("basis", [0, 1, 4, 9, 16])
    @pytest.mark.parametrize("orthographic", [False, True])
    def test_same_as_the_cpu(self, make, basis, orthographic):
        """But for the order of the sums, which atomic additions leave open."""
        camera = look(50, 38, orthographic=orthographic)
        arrays = step_arrays(basis=basis)
        settings = PeelSettings()
        step = OnDevice(make(), arrays, camera, settings)
        rgba, depth = step.forward()
        expected = core.forward(*arrays, camera, settings, want=("depth",), threads=1)
        assert np.array_equal(rgba, expected["rgba"])
        assert np.array_equal(depth, expected["depth"])
        for d_rgba, d_depth in (pixel_gradients(camera), (pixel_gradients(camera)[0], None)):
            there = step.backward(d_rgba, d_depth)
            here = core.backward(*arrays, camera, settings, d_rgba, d_depth, threads=1)
            assert_close_gradients(there, here, 1e-5)

    def test_same_as_the_torch_twin(self, make):
        torch = pytest.importorskip("torch", reason="the gradient reference is written in torch")
        from peel4d.engine.train import peel_torch

        camera = look(32, 24)
        arrays = step_arrays(120)
        settings = PeelSettings()
        d_rgba, d_depth = pixel_gradients(camera)
        tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
        rgba, depth = peel_torch.peel(*tensors, camera, settings)
        (rgba * torch.from_numpy(d_rgba)).sum().backward(retain_graph=True)
        (depth * torch.from_numpy(d_depth)).sum().backward()
        step = OnDevice(make(seed=2), arrays, camera, settings)
        step.forward()
        there = step.backward(d_rgba, d_depth)
        assert_close_gradients(there, [t.grad.numpy() for t in tensors], 1e-3)

    def test_as_a_torch_function(self, make):
        """peel_cuda with the emulator for a GPU: torch's memory goes in and out by address."""
        torch = pytest.importorskip("torch", reason="the wrapper is written in torch")
        from peel4d.engine.train import peel_autograd, peel_cuda

        camera = look(40, 30)
        gpu = make(lazy=False)
        d_rgba, d_depth = map(torch.from_numpy, pixel_gradients(camera))
        for use in ("both", "rgba", "depth"):
            found = []
            for function, extra in ((peel_cuda.peel, {"on": gpu}), (peel_autograd.peel, {})):
                leaves = [torch.from_numpy(a).double().requires_grad_() for a in step_arrays()]
                leaves[1].requires_grad_(use != "rgba")
                rgba, depth = function(*leaves, camera, PeelSettings(), **extra)
                loss = (rgba * d_rgba).sum() * (use != "depth")
                if use != "rgba":
                    loss = (depth * d_depth).sum() + (loss if use == "both" else 0)
                loss.backward()
                found.append([leaf.grad for leaf in leaves])
            for there, here in zip(*found, strict=True):
                assert (there is None) == (here is None)
                if here is not None:
                    assert there.dtype == torch.float64
                    assert (there - here).norm() <= 1e-5 * here.norm()
        with pytest.raises(CoreError, match="disagree"):
            peel_cuda.peel(*leaves[:3], leaves[3][:5], camera, PeelSettings(), on=gpu)

    @pytest.mark.parametrize("layers", [1, 12, 40, 64])
    def test_any_number_of_layers_and_order_of_threads(self, make, layers):
        camera = look(50, 38)
        arrays = step_arrays()
        settings = PeelSettings(layers=layers, min_transmittance=0.0)
        gradients = pixel_gradients(camera)
        here = core.backward(*arrays, camera, settings, *gradients, threads=1)
        step = OnDevice(make(seed=3 + layers), arrays, camera, settings)
        step.forward()
        assert_close_gradients(step.backward(*gradients), here, 1e-5)

    def test_tensors_that_begin_anywhere(self, make):
        """Harmonics are read 16 bytes at a time only where that is possible."""
        camera = look(50, 38)
        arrays = step_arrays(basis=16)
        step = OnDevice(make(), arrays, camera, PeelSettings(), offset=4)
        rgba, _ = step.forward()
        assert np.array_equal(rgba, core.forward(*arrays, camera, PeelSettings())["rgba"])

    def test_another_picture_in_between(self, make):
        """The scratch memory then holds that one, and the frame runs again."""
        camera = look(50, 38)
        arrays = step_arrays()
        renderer = make()
        step = OnDevice(renderer, arrays, camera, PeelSettings())
        step.forward()
        OnDevice(renderer, step_arrays(seed=30), look(70, 20), PeelSettings()).forward()
        gradients = pixel_gradients(camera)
        there = step.backward(*gradients)
        here = core.backward(*arrays, camera, PeelSettings(), *gradients, threads=1)
        assert_close_gradients(there, here, 1e-5)

    def test_points_of_a_large_tile(self, make):
        camera = straight(32, 16)
        arrays = step_arrays(6000, 0)
        arrays[0] = arrays[0] * np.float32(0.2) + np.float32([0, 0, 1])
        gradients = pixel_gradients(camera)
        step = OnDevice(make(seed=1), arrays, camera, PeelSettings(layers=30))
        step.forward()
        there = step.backward(*gradients)
        here = core.backward(*arrays, camera, PeelSettings(layers=30), *gradients, threads=1)
        assert_close_gradients(there, here, 1e-5)

    def test_in_ranges_of_tiles(self, make):
        camera = look(640, 480)
        arrays = step_arrays(60)
        arrays[1] = arrays[1] * 10 + 1
        gradients = pixel_gradients(camera)
        bound = 1_000_000
        renderer = make(max_vram=bound)
        step = OnDevice(renderer, arrays, camera, PeelSettings())
        rgba, _ = step.forward()
        assert np.array_equal(rgba, core.forward(*arrays, camera, PeelSettings())["rgba"])
        there = step.backward(*gradients)
        assert renderer.device.log.count("backward_tiles") > 1
        here = core.backward(*arrays, camera, PeelSettings(), *gradients, threads=1)
        assert_close_gradients(there, here, 1e-5)

    def test_no_points(self, make):
        camera = look()
        step = OnDevice(make(), step_arrays(0), camera, PeelSettings())
        rgba, _ = step.forward()
        assert not rgba.any()
        assert [g.shape for g in step.backward(*pixel_gradients(camera))] == [
            (0, 3),
            (0,),
            (0,),
            (0, 4, 3),
        ]
