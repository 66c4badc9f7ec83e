"""The benchmarks run and write what they promise; what they time is somebody else's business."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest

from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import PeelError
from peel4d.engine.render import backend, cuda
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import Splats

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """The benchmarks' own modules can be imported, as they are when one is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_finds_what_it_imports(path, modules):
    """Some take too long to be run here, and the package goes on under them."""
    runpy.run_path(str(path), run_name="imported")


def run(name: str, path: Path, *arguments: object) -> dict:
    """The JSON that one benchmark writes."""
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments), "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(path.read_text())
    assert {"processor", "cores", "system", "gpu"} <= result["machine"].keys()
    assert {"python", "numpy", "torch", "core"} <= result["versions"].keys()
    return result


def measured(rows: list[dict], key: str) -> list[dict]:
    """The rows that were not skipped; the others must say why."""
    for row in rows:
        assert row["skipped"] if "skipped" in row else row[key] > 0
    return [row for row in rows if "skipped" not in row]


def test_peel_has_a_row_for_every_method(tmp_path):
    options = ("--scene", "body", "--resolution", "720p", "--points", 2000, "--runs", 2)
    rows = run("peel.py", tmp_path / "peel.json", *options)["rows"]
    assert all(row["scene"] == "body" and row["resolution"] == "720p" for row in rows)
    methods = {row["method"] for row in rows}
    assert methods == {"cpu", "cuda", "gl-passes", "torch-reference", "gsplat"}
    done = measured(rows, "median_ms")
    assert {row["input"] for row in done} == {"float32", "half", "quantised"}
    assert {row["sh_degree"] for row in done} == {0, 3}
    assert 1 in {row["threads"] for row in done if row["method"] == "cpu"}
    [reference] = [row for row in done if row["method"] == "torch-reference"]
    assert reference["pixels"] == reference["crop"][2] * reference["crop"][3]
    assert reference["psnr_db"] > 100  # the same arithmetic in float32
    for row in done:
        if row["method"] == "gl-passes":
            assert row["psnr_db"] > 40
            assert row["renderer"]


def test_peel_scaling_fits_slopes(tmp_path):
    options = ("--scaling", "--scene", "body", "--points", 1 << 15, "--runs", 1)
    result = run("peel.py", tmp_path / "scaling.json", *options)
    measured(result["rows"], "median_ms")
    assert {(it["over"], it["threads"]) for it in result["slopes"]} >= {
        ("points", 1),
        ("pixels", 1),
    }
    assert all(np.isfinite(it["slope"]) for it in result["slopes"])
    if result["machine"]["cores"] > 1:
        assert len(result["two_threads"]) * 2 == len(result["rows"])


def test_train_step_sweeps_points_and_pixels(tmp_path):
    options = ("--points", 500, 1000, "--sides", 32, 48, "--runs", 1)
    result = run("train_step.py", tmp_path / "train_step.json", *options)
    rows = [row for row in measured(result["rows"], "step_ms") if row["method"] == "cpu"]
    sizes = {(row["points"], row["pixels"]) for row in rows}
    assert sizes == {(points, side**2) for points in (500, 1000) for side in (32, 48)}
    for row in rows:
        ratio = row["backward_ms"] / row["forward_ms"]
        assert row["backward_over_forward"] == pytest.approx(ratio, abs=1e-3)
    assert {it["over"] for it in result["slopes"]} == {"points", "pixels"}


def test_gaussians_are_trained_and_timed(tmp_path):
    options = ("--size", 64, 40, "--frames", 3, "--gaussians", 100, "--seconds", 0.3, 0.5)
    result = run("gaussians.py", tmp_path / "gaussians.json", *options, "--runs", 2)
    rows = [row for row in result["rows"] if row["method"] == "cpu"]
    assert [row["what"] for row in rows] == ["training", "training", "speed"]
    for row in rows[:2]:
        assert row["step_ms"] == pytest.approx(1e3 * row["seconds"] / row["steps"], rel=0.05)
        assert row["psnr"] <= row["psnr_before_coding"] + 0.1
    assert min(rows[2][name] for name in ("draw_ms", "fit_ms", "picture_ms", "decode_fps")) > 0
    assert (result["width"], result["height"]) == (64, 40)


@pytest.mark.parametrize("given", [False, True], ids=["made here", "given"])
def test_playback_gives_percentiles_of_every_stage(tmp_path, given):
    options: tuple = ("--points", 2000, "--frames", 2)
    if given:  # a clip without cameras
        random = np.random.default_rng(0)
        cloud = Splats.from_colors(
            random.normal(size=(500, 3)), np.full(500, 0.05), np.ones(500), random.random((500, 3))
        )
        write_clip(tmp_path / "given.p4d", [cloud] * 3, fps=24, static=cloud)
        options = ("--clip", tmp_path / "given.p4d")
    result = run(
        "playback.py", tmp_path / "playback.json", "--resolution", "720p", "--runs", 3, *options
    )
    rows = measured(result["rows"], "p99_ms")
    stages = {row["stage"] for row in rows if row["method"] == "cpu"}
    assert stages == {"decode", "render", "end-to-end"}
    assert all(row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in rows)
    assert result["clip"]["frames"] == (3 if given else 2)


@pytest.fixture
def gl_context(modules):
    import gl_passes

    try:
        context = gl_passes.create_context()
    except PeelError as error:
        pytest.skip(str(error))
    yield context
    context.release()


@pytest.mark.parametrize("name", ["body", "room"])
@pytest.mark.parametrize("layers", [1, 3, 12])
def test_hardware_passes_draw_the_core_s_picture(gl_context, name, layers):
    import gl_passes
    import peel
    import scenes

    scene, settings = scenes.scene(name, 20_000), PeelSettings(layers=layers)
    # The window cuts disks in two, whose centres may be outside.
    camera = scene.camera(640, 360).crop(270, 100, 203, 151)
    with gl_passes.GLPasses(gl_context, scene.splats, camera, settings) as passes:
        passes.draw()
        passes.draw()  # nothing of the first picture may show in the second
        picture = passes.picture()
    truth = backend.render(scene.splats, camera, settings, backend="cpu").rgba
    assert (truth[..., 3] > 0).mean() > 0.5
    assert peel.psnr(picture, truth) > 40


def test_hardware_passes_refuse_what_they_cannot_draw(gl_context):
    import gl_passes
    import scenes

    splats, settings = scenes.body(100).splats, PeelSettings()
    round_lens = scenes.body(100).camera(64, 64)
    K = round_lens.K.copy()
    K[1, 1] *= 1.5
    with pytest.raises(PeelError, match="fx = fy"):
        gl_passes.GLPasses(
            gl_context, splats, Camera(K, round_lens.R, round_lens.t, 64, 64), settings
        )
    away = Camera(round_lens.K, round_lens.R, round_lens.t - [0, 0, 100], 64, 64)
    with pytest.raises(PeelError, match="no point"):
        gl_passes.GLPasses(gl_context, splats, away, settings)


def test_scenes_are_what_the_figures_are_quoted_for(modules):
    import scenes

    body = scenes.scene("body")
    assert len(body.splats) == 262_144
    assert np.ptp(body.splats.position[:, 2]) == pytest.approx(1.7, abs=0.001)
    assert set(body.splats.radius) == {np.float32(0.004)}
    assert set(body.splats.density) == {np.float32(0.95)}
    camera = body.camera(1920, 1080)
    assert camera.K[0, 0] == 1600 and body.camera(3840, 2160).K[0, 0] == 3200
    assert np.linalg.norm(camera.centre - [0, 0, 0.85]) == pytest.approx(3)
    alpha = backend.render(body.splats, camera, backend="cpu").rgba[..., 3]
    assert (alpha > 0.5).mean() == pytest.approx(0.11, abs=0.005)
    # A smaller cloud has larger points, which cover as much.
    fewer = scenes.scene("body", 1 << 14)
    other = backend.render(fewer.splats, camera, backend="cpu").rgba[..., 3]
    assert (other > 0.5).mean() == pytest.approx(0.11, abs=0.01)


def test_room_closes_every_pixel(modules):
    import scenes

    room = scenes.scene("room")
    assert len(room.splats) == 1_000_000
    alpha = backend.render(room.splats, room.camera(1280, 720), backend="cpu").rgba[..., 3]
    assert alpha.min() > 0.5


def test_variants_of_a_scene_are_the_same_points(modules):
    import scenes

    splats = scenes.scene("body", 3000).splats
    ordered = scenes.in_morton_order(splats)
    assert not np.array_equal(ordered.position, splats.position)
    assert np.array_equal(np.sort(ordered.position, axis=0), np.sort(splats.position, axis=0))
    step = np.linalg.norm(np.diff(ordered.position, axis=0), axis=1)
    assert np.median(step) < 0.2 * np.median(
        np.linalg.norm(np.diff(splats.position, axis=0), axis=1)
    )
    unpacked = scenes.quantised(splats).unpack()
    np.testing.assert_allclose(unpacked.position, splats.position, atol=1.7 / 65535)
    np.testing.assert_allclose(unpacked.sh, splats.sh, atol=np.ptp(splats.sh) / 255)
    np.testing.assert_allclose(unpacked.radius, splats.radius, rtol=1e-6)
    assert scenes.scene("body", 3000, sh_degree=3).splats.sh_degree == 3


def test_slope_and_turns(modules):
    import measure

    assert measure.slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.interleaved_ms(functions, 4, block=2)
    assert {name: len(taken) for name, taken in times.items()} == {"a": 4, "b": 4}
    assert "".join(calls) == "aaabbbaaabbb"  # the first call of a turn does not count


@pytest.fixture
def emulated_gpu(modules, monkeypatch, tmp_path):
    """A renderer whose kernels run on the CPU, in place of the process's."""
    if not cuda_emulator.COMPILER:
        pytest.skip("the emulator needs a C++ compiler")
    device = cuda_emulator.EmulatedDevice(cuda_emulator.build(tmp_path))
    renderer = cuda.CudaRenderer(device)
    monkeypatch.setattr(cuda, "renderer", lambda: renderer)
    monkeypatch.setattr(backend, "select", lambda name="auto": "cuda")
    return renderer


def test_cuda_rows_and_playback_ask_a_gpu_for_what_it_has(emulated_gpu, monkeypatch, tmp_path):
    import peel_methods
    import playback
    import scenes

    monkeypatch.setattr(peel_methods, "_BUSY_BYTES", 1024)
    scene = scenes.scene("body", 500)
    stage = peel_methods.Stage(scene, "tiny", scene.camera(64, 48))
    first, *others = list(peel_methods.cuda_cases(stage))
    assert {case.keys["input"] for case in others} == {"float32", "half"}
    first.draw()
    assert first.picture()[..., 3].max() > 0.5
    assert first.measures(3).keys() == {"device_ms"}
    assert emulated_gpu.device.log.count("composite") >= 8  # a burst of pictures

    playback.write_body(tmp_path / "clip.p4d", 500, 3, 64, 48)
    with playback.ClipReader(tmp_path / "clip.p4d") as reader:
        times = playback.measure(reader, playback.cuda_player(stage.camera), stage.camera, 4)
    assert {stage: len(taken) for stage, taken in times.items()} == dict.fromkeys(
        playback.STAGES, 4
    )


@pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("timeout") is None, reason="needs bash and timeout"
)
def test_gpu_check_goes_on_after_a_failure(tmp_path):
    """With a made-up GPU, on which racecheck and one benchmark fail."""
    programs = {
        "nvidia-smi": 'case "$*" in *csv,noheader) echo "NVIDIA Test GPU" ;; esac',
        "compute-sanitizer": 'case "$*" in *racecheck*) exit 9 ;; esac',
        "python": 'case "$*" in *train_step*) exit 3 ;; esac',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
    }
    results = tmp_path / "results"
    command = ["bash", BENCHMARKS / "gpu_check.sh", results]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = (results / "summary.txt").read_text().splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("FAILED")}
    passed = {line.split()[1] for line in lines if line.startswith("ok")}
    assert failed == {"racecheck", "train-step"}
    assert {"tests", "memcheck", "peel-room-4k", "peel-scaling", "playback-4k"} <= passed


def test_the_baseline_of_residual_grids_is_closed(modules):
    """What is decoded is off by the table's steps in every frame: errors do not add up."""
    import rerf

    from peel4d.engine.clip.dictionary import Grid, make_layout

    layout = make_layout(np.array([[-1.0, -1, -1], [1, 1, 1]]), 0.05, 1, (0.0, 0.0))
    grid = rerf.same_capacity(layout)
    assert 0.8 * layout.values < grid.corners * grid.channels <= layout.values
    grid = Grid((9, 5, 17), 0.1, 3, False)
    random = np.random.default_rng(0)
    values = np.cumsum(random.normal(0, 0.2, (6, grid.corners, grid.channels)), axis=0)
    frames = [rerf.GridFrame(None, v.astype(np.float32), None, None) for v in values]
    sequence = rerf.GridSequence(layout, grid, [np.zeros(10, np.float32)], frames)
    sizes = []
    for quality in (1e-3, 0.1):
        decoded, nbytes = rerf.compress(sequence, quality)
        sizes.append(sum(nbytes))
        highest = quality * (1 + 0.25 * 21) / 2
        for mine, theirs in zip(values, decoded, strict=True):
            # The transform keeps lengths: the mean square is that of the coefficients.
            assert np.sqrt(((mine - theirs) ** 2).mean()) < highest
    assert sizes[1] < 0.6 * sizes[0]
