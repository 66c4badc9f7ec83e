"""Pictures of Gaussians on a GPU: the kernels, run on the CPU or a real one, against the core."""

from __future__ import annotations

import ctypes
import gc
from functools import partial

import numpy as np
import pytest
from cuda_emulator import COMPILER, EmulatedDevice, build
from test_gaussians2d import scene
from test_video2d import group as any_group

from peel4d.engine.errors import CoreError
from peel4d.engine.render import cuda_kernels
from peel4d.engine.render.cuda_memory import DeviceMemoryError
from peel4d.engine.render.window import Window
from peel4d.engine.video2d import cuda_queue, gaussians, video
from peel4d.engine.video2d.cuda_gaussians import GOP_ARRAYS, CudaGaussians, rasterizer
from peel4d.engine.video2d.gaussians import Gaussians2D
from peel4d.engine.video2d.gop import Gop, frame_time, legendre
from peel4d.engine.video2d.gop_codec import Steps, encode_gop
from peel4d.engine.video2d.video import VideoInfo, VideoReader, write_video

NAMES = ("position", "cholesky", "color")
emulated = pytest.mark.skipif(not COMPILER, reason="the emulator needs a C++ compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def make(library):
    def make(*, max_vram=None, **device) -> CudaGaussians:
        return CudaGaussians(EmulatedDevice(library, **device), max_vram=max_vram)

    return make


def target_of(width: int, height: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


group = partial(any_group, seed=2)


def assert_close(there: Gaussians2D, here: Gaussians2D, tolerance: float = 1e-5) -> None:
    """But for the order of the sums, float32 ones of up to some thousand pixels."""
    for name in NAMES:
        a, b = getattr(there, name), getattr(here, name)
        assert a.shape == b.shape and a.dtype == np.float32
        assert np.isfinite(a).all()
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), name


def assert_same(gpu: CudaGaussians, seen: Gaussians2D, window: Window) -> None:
    """Pictures to the bit, gradients and errors but for the order of sums."""
    assert np.array_equal(gpu.draw_linear(seen, window), gaussians.draw_linear(seen, window))
    assert np.array_equal(gpu.draw(seen, window), gaussians.draw(seen, window))
    shape = (window.height, window.width, 3)
    d_picture = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert_close(gpu.backward(seen, window, d_picture), gaussians.backward(seen, window, d_picture))
    target = target_of(window.width + 5, window.height + 3)
    inside = Window(2, 3, window.width, window.height)
    there, here = (at.fit(seen, inside, target) for at in (gpu, gaussians))
    assert there[0] == pytest.approx(here[0], rel=1e-6)
    assert_close(there[1], here[1])


@emulated
def test_structs_have_the_sizes_that_the_kernels_give_them(library):
    size = ctypes.CDLL(str(library)).peel4d_emulate_sizeof
    size.restype = ctypes.c_int64
    for struct in (cuda_kernels.GaussianArguments, cuda_kernels.GopArguments):
        assert size(struct.__name__.encode()) == ctypes.sizeof(struct) <= 4096


@emulated
@pytest.mark.parametrize("size", [(70, 50), (1, 1), (3, 7), (16, 16), (17, 15), (33, 31), (257, 3)])
@pytest.mark.parametrize("spread", [0.5, 2.5, 30.0])
def test_same_as_the_cpu(make, size, spread):
    assert_same(make(), scene(150, *size, size=spread), Window(0, 0, *size))


@emulated
@pytest.mark.parametrize("window", [Window(13, 7, 40, 33), Window(-20, -9, 50, 40)])
def test_windows(make, window):
    seen = scene(200, 90, 70)
    gpu = make()
    assert np.array_equal(gpu.draw_linear(seen, window), gaussians.draw_linear(seen, window))
    d_picture = np.ones((window.height, window.width, 3), np.float32)
    assert_close(gpu.backward(seen, window, d_picture), gaussians.backward(seen, window, d_picture))


@emulated
def test_the_order_of_threads_changes_no_bit(make):
    seen, window, target = scene(1500, 100, 70), Window(0, 0, 100, 70), target_of(100, 70)
    pictures, fits = [], []
    for seed in range(6):
        gpu = make(seed=seed)
        pictures.append(gpu.draw(seen, window))
        fits.append(gpu.fit(seen, window, target))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    assert all(error == fits[0][0] for error, _ in fits)
    for name in NAMES:
        assert all(np.array_equal(getattr(g, name), getattr(fits[0][1], name)) for _, g in fits)


@emulated
@pytest.mark.parametrize("seed", [0, 3])
def test_more_gaussians_in_a_tile_than_shared_memory_holds(make, seed):
    assert_same(make(seed=seed), scene(9000, 30, 20, seed=5), Window(0, 0, 30, 20))


@emulated
def test_one_gaussian_over_many_tiles(make):
    """Binned by a whole warp, and summed over more tiles than a warp has lanes."""
    seen = scene(40, 240, 150, seed=6)
    seen.cholesky[::3] *= 40
    assert_same(make(), seen, Window(0, 0, 240, 150))


@emulated
def test_nothing_to_draw(make):
    gpu = make()
    for seen in (
        scene(0, 8, 8),
        Gaussians2D(*(np.full((5, n), 900, np.float32) for n in (2, 3, 3))),
    ):
        seen.cholesky[:] = 1
        assert_same(gpu, seen, Window(0, 0, 20, 9))
        assert not gpu.draw(seen, Window(0, 0, 20, 9)).any()
    error, gradients = gpu.fit(
        scene(0, 8, 8), Window(0, 0, 8, 8), np.full((8, 8, 3), 255, np.uint8)
    )
    assert error == 1 and len(gradients) == 0


@emulated
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_is_not_drawn(make, value):
    seen = scene(60, 40, 40)
    for row, name in enumerate(NAMES):
        getattr(seen, name)[7 + row, 0] = value
    gpu, window = make(), Window(0, 0, 40, 40)
    assert_same(gpu, seen, window)
    gradients = gpu.backward(seen, window, np.ones((40, 40, 3)))
    for name in NAMES:
        assert not getattr(gradients, name)[7:10].any()


@emulated
def test_room_for_overlaps_grows(make, monkeypatch):
    """The picture is made again with more room, later ones are not."""
    monkeypatch.setattr(cuda_queue, "_FEWEST_OVERLAPS", 1)
    seen, window = scene(90, 160, 120, size=60.0), Window(0, 0, 160, 120)
    gpu, target = make(), target_of(160, 120)
    assert np.array_equal(gpu.draw(seen, window), gaussians.draw(seen, window))
    assert gpu.device.log.count("gaussians_draw") == 2
    assert_close(gpu.fit(seen, window, target)[1], gaussians.fit(seen, window, target)[1])
    assert gpu.device.log.count("gaussians_fit") == 1


@emulated
def test_too_many_overlaps_are_refused(make, monkeypatch):
    monkeypatch.setattr(cuda_queue, "MOST_OVERLAPS", 1 << 11)
    gpu = make()
    with pytest.raises(CoreError, match="overlaps of Gaussians and tiles"):
        gpu.draw(scene(90, 160, 120, size=60.0), Window(0, 0, 160, 120))
    assert_same(gpu, scene(50, 30, 30), Window(0, 0, 30, 30))


@emulated
def test_no_memory_is_reported_and_survived(make):
    gpu = make(max_vram=4 << 20)
    small, window = scene(100, 30, 30), Window(0, 0, 30, 30)
    for _ in range(2):
        with pytest.raises(DeviceMemoryError, match="no GPU memory for"):
            gpu.draw(small, Window(0, 0, 1600, 1200))
        assert np.array_equal(gpu.draw(small, window), gaussians.draw(small, window))
    assert gpu.device.most_used <= 4 << 20
    gpu.close()
    assert gpu.vram_used == gpu.device.used == 0


@emulated
def test_wrong_arguments(make):
    gpu, seen = make(), scene(5, 8, 8)
    for window in (Window(0, 0, 0, 5), Window(0, 0, 5, -1), Window(0, 0, 40000, 1)):
        with pytest.raises(CoreError, match="no picture"):
            gpu.draw(seen, window)
    with pytest.raises(CoreError, match="too many"):
        gpu.draw(seen, Window(0, 0, 30000, 30000))
    window = Window(0, 0, 8, 8)
    with pytest.raises(CoreError, match="shape"):
        gpu.draw(Gaussians2D(seen.position, seen.cholesky[:4], seen.color), window)
    with pytest.raises(CoreError, match="target"):
        gpu.fit(seen, Window(2, 0, 8, 8), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(CoreError, match="gradient"):
        gpu.backward(seen, window, np.zeros((8, 9, 3)))
    with pytest.raises(CoreError, match="output"):
        gpu.draw(seen, window, out=np.zeros((8, 8, 3), np.float32))


def assert_same_frames(gpu: CudaGaussians, gop: Gop, size=None) -> None:
    """To a step of 8 bits: exponential functions and the order of few sums differ."""
    width, height = size or (gop.width, gop.height)
    for frame in (0, gop.frames - 1, 0.5):
        seen = gop.at(frame).resized(width / gop.width, height / gop.height)
        here = gaussians.draw(seen, Window(0, 0, width, height)).astype(int)
        difference = np.abs(gpu.draw_frame(gop, frame, size=size).astype(int) - here)
        assert difference.max(initial=0) <= 1
        assert (difference > 0).mean() < 1e-2


@emulated
@pytest.mark.parametrize("orders", [(0, 0), (3, 2), (6, 6)])
@pytest.mark.parametrize("size", [None, (128, 30), (33, 20)])
def test_frames_of_a_group(make, orders, size):
    assert_same_frames(make(), group(orders=orders), size)


@emulated
def test_frames_of_other_groups(make):
    gpu = make()
    assert_same_frames(gpu, group(frames=1))
    assert_same_frames(gpu, group(count=0))


@emulated
def test_a_group_is_uploaded_once_and_no_frame_allocates(make):
    gpu = make()
    out = gpu.picture(64, 48)
    counts = []
    for seed in range(6):
        gop = group(count=280 + seed)
        for frame in range(5):
            assert gpu.draw_frame(gop, frame, out=out) is out
        counts.append((gpu.device.log.count("to_device"), gpu.device.allocations))
        del gop
        gc.collect()
    assert [uploads for uploads, _ in counts] == [1, 2, 3, 4, 5, 6]
    assert counts[3][1] == counts[-1][1]


@emulated
def test_a_reader_draws_with_it(make, monkeypatch, tmp_path):
    gops = [group(), group(count=200)]
    data = [encode_gop(gop, Steps()) for gop in gops]
    info = VideoInfo(64, 48, 25.0, ((5, 300), (5, 200)))
    write_video(tmp_path / "video.g2v", info, data)
    gpu = make()
    monkeypatch.setattr(video, "rasterizer", lambda: gpu)
    monkeypatch.setattr(video.back_ends, "select", lambda name: name)
    with VideoReader(tmp_path / "video.g2v") as reader:
        for size in (None, (32, 24)):
            there, here = (
                np.stack(list(reader.pictures(range(10), size=size, backend=name))).astype(int)
                for name in ("cuda", "cpu")
            )
            assert np.abs(there - here).max() <= 1
        assert gpu.device.log.count("gaussians_draw") == 20
        again = reader.frame(7, backend="cuda").astype(int)
        assert np.abs(again - reader.frame(7, backend="cpu")).max() <= 1


@emulated
class TestTraining:
    """The emulator for a GPU: torch's memory goes in and out by address."""

    def test_fit_as_a_torch_function(self, make):
        torch = pytest.importorskip("torch", reason="the wrapper is written in torch")
        from peel4d.engine.train import gaussians_cuda

        gpu, seen, target = make(lazy=False), scene(200, 60, 40), target_of(64, 48)
        window = Window(3, 2, 60, 40)
        error, gradients = gaussians.fit(seen, window, target)
        leaves = [torch.from_numpy(getattr(seen, name)).double() for name in NAMES]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        loss = gaussians_cuda.fit(*leaves, window, torch.from_numpy(target), on=gpu)
        (3 * loss).backward()
        assert loss.item() == pytest.approx(error, rel=1e-6)
        for leaf, name in zip(leaves, NAMES, strict=True):
            expected = 3 * getattr(gradients, name)
            assert leaf.grad.dtype == torch.float64
            assert np.linalg.norm(leaf.grad - expected) <= 1e-5 * np.linalg.norm(expected)
        leaves[0].requires_grad_(False)
        leaves[1].grad = None
        gaussians_cuda.fit(*leaves, window, torch.from_numpy(target), on=gpu).backward()
        assert leaves[1].grad is not None
        for wrong in (torch.zeros(48, 64, 3), torch.zeros(40, 60, 3, dtype=torch.uint8)):
            with pytest.raises(CoreError, match="target"):
                gaussians_cuda.fit(*leaves, window, wrong, on=gpu)
        with pytest.raises(CoreError, match="disagree"):
            gaussians_cuda.fit(
                leaves[0], leaves[1][:5], leaves[2], window, torch.from_numpy(target), on=gpu
            )

    @pytest.mark.parametrize("frame", [None, 0, 3])
    @pytest.mark.parametrize("orders", [(3, 2), (0, 1), (6, 6)])
    def test_gaussians_of_a_group_as_a_torch_function(self, make, frame, orders):
        torch = pytest.importorskip("torch", reason="the wrapper is written in torch")
        from peel4d.engine.train import gaussians_cuda

        gpu, gop = make(lazy=False), group(count=70, orders=orders)
        basis = None if frame is None else legendre(6, frame_time(frame, 5)).tolist()
        leaves = {
            name: torch.from_numpy(getattr(gop, name)).requires_grad_() for name in GOP_ARRAYS
        }
        doubles = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
        position, color = doubles["position"], doubles["color"]
        if basis is not None:
            weights = torch.tensor(basis).double()
            position = position + torch.einsum("k,knc->nc", weights[: orders[0]], doubles["motion"])
            color = color + torch.einsum("k,knc->nc", weights[: orders[1]], doubles["shade"])
        scale = doubles["log_scale"].exp()
        cholesky = [scale[:, 0], doubles["shear"] * scale[:, 1], scale[:, 1]]
        expected = position, torch.stack(cholesky, dim=1), color
        found = gaussians_cuda.at(leaves, basis, on=gpu)
        random = [torch.randn(t.shape) for t in expected]
        sum((a * b).sum() for a, b in zip(found, random, strict=True)).backward()
        sum((a * b).sum() for a, b in zip(expected, random, strict=True)).backward()
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5)
        for name in GOP_ARRAYS:
            a, b = leaves[name].grad, doubles[name].grad
            if b is None or not b.numel():
                assert a is None or not a.numel()
            else:
                assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5), name
        # What is frozen gets no gradient.
        leaves["shear"].requires_grad_(False)
        leaves["shear"].grad = None
        gaussians_cuda.at(leaves, basis, on=gpu)[1].sum().backward()
        assert leaves["shear"].grad is None and leaves["log_scale"].grad is not None
        with pytest.raises(CoreError, match="polynomials"):
            gaussians_cuda.at({**leaves, "motion": torch.zeros(3, 70, 2)}, [1.0], on=gpu)
        with pytest.raises(CoreError, match="float32"):
            gaussians_cuda.at(doubles, basis, on=gpu)

    def test_a_group_is_trained_alike(self, make):
        """All: warm-up, moves, pruning, freezing; roundings differ and grow with the steps."""
        pytest.importorskip("torch", reason="training is written in torch")
        from peel4d.engine.train.video_gop import GopSettings, gop_psnr, train_gop

        y, x = np.mgrid[:28, :36]
        frames = [
            np.stack([90 + 3 * x, 120 + 40 * np.sin((y + i) / 4), 200 - 2 * x - y], axis=2)
            for i in range(3)
        ]
        frames = [np.clip(frame, 0, 255).astype(np.uint8) for frame in frames]
        recipe = GopSettings(gaussians=60, steps=40, prune=0.2)
        told: list[float] = []
        there, report = train_gop(
            frames,
            recipe,
            Steps(),
            on=make(lazy=False),
            watch=lambda share, psnr: told.append(share),
        )
        here, _ = train_gop(frames, recipe, Steps())
        assert report.steps == 40 and told[-1] == 1
        assert there.frames == 3 and there.position.dtype == np.float32
        scores = [np.mean(gop_psnr(gop, frames)) for gop in (there, here)]
        assert scores[0] == pytest.approx(scores[1], abs=0.3)


@pytest.fixture(scope="module")
def gpu():
    try:
        return rasterizer()
    except CoreError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
class TestGpu:
    @pytest.mark.parametrize("size", [(70, 50), (1, 1), (3, 7)])
    def test_close_to_the_cpu(self, gpu, size):
        self.compare(gpu, 300, size)

    def test_a_large_picture(self, gpu):
        self.compare(gpu, 20_000, (1280, 720))

    def compare(self, gpu, count, size):
        """A GPU's logarithm may move a Gaussian's cut over a pixel, where it weighs 1/255."""
        seen, window = scene(count, *size), Window(0, 0, *size)
        there, here = (at.draw_linear(seen, window) for at in (gpu, gaussians))
        differs = np.abs(there - here) > 1e-6
        assert differs.mean() <= 1e-4 and np.abs(there - here).max() < 0.02
        target = target_of(*size)
        found, expected = (at.fit(seen, window, target) for at in (gpu, gaussians))
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        assert_close(found[1], expected[1], 1e-4)

    def test_runs_repeat_bit_by_bit(self, gpu):
        seen, window, target = scene(5000, 320, 200), Window(0, 0, 320, 200), target_of(320, 200)
        fits = [gpu.fit(seen, window, target) for _ in range(5)]
        for name in NAMES:
            assert all(np.array_equal(getattr(g, name), getattr(fits[0][1], name)) for _, g in fits)

    def test_large_tiles(self, gpu):
        seen, window = scene(100_000, 60, 40), Window(0, 0, 60, 40)
        difference = np.abs(gpu.draw_linear(seen, window) - gaussians.draw_linear(seen, window))
        assert difference.max() < 0.05

    @pytest.mark.parametrize("own_stream", [False, True])
    def test_training_step(self, gpu, own_stream):
        torch = pytest.importorskip("torch", reason="training needs torch")
        if not torch.cuda.is_available():
            pytest.skip("this torch was built without CUDA")
        from peel4d.engine.train import gaussians_cuda

        seen, target, window = scene(5000, 320, 200), target_of(320, 200), Window(0, 0, 320, 200)
        error, gradients = gaussians.fit(seen, window, target)
        stream = torch.cuda.Stream() if own_stream else torch.cuda.default_stream()
        with torch.cuda.stream(stream):
            leaves = [torch.tensor(getattr(seen, name), device="cuda") for name in NAMES]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            picture = torch.from_numpy(target).to("cuda")
            loss = gaussians_cuda.fit(*leaves, window, picture)
            loss.backward()
            found = Gaussians2D(*(leaf.grad.cpu().numpy() for leaf in leaves))
            assert loss.item() == pytest.approx(error, rel=1e-5)
        assert_close(found, gradients, 1e-4)

    def test_a_group_is_trained_alike(self, gpu):
        torch = pytest.importorskip("torch", reason="training needs torch")
        if not torch.cuda.is_available():
            pytest.skip("this torch was built without CUDA")
        from test_video_encode import movie

        from peel4d.engine.train.video_gop import GopSettings, gop_psnr, train_gop

        frames, recipe = movie(6), GopSettings(gaussians=400, steps=300, prune=0.2)
        there, here = (
            train_gop(frames, recipe, Steps(), device=torch.device(name))[0]
            for name in ("cuda", "cpu")
        )
        scores = [np.mean(gop_psnr(gop, frames)) for gop in (there, here)]
        assert scores[0] == pytest.approx(scores[1], abs=0.3)

    def test_frames(self, gpu):
        assert_same_frames(gpu, group())
        assert_same_frames(gpu, group(), (33, 20))
