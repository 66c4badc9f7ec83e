"""Training on a GPU: the same scene as on the CPU, alone and in several processes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.errors import ReconstructionError
from peel4d.engine.train import run as train_run
from peel4d.engine.train.plan import make_plan
from peel4d.engine.train.run import training_device
from peel4d.engine.train.settings import preset
from peel4d.engine.worker import frame_pool
from peel4d.engine.worker.run import Resources, run_plan


def plan_for(folder, model: str):
    return make_plan(
        open_capture(folder),
        size=None,
        frames="0:2",
        views=None,
        test_views=None,
        points="auto",
        preset="draft",
        settings=preset("draft", model=model),
    )


def trained(folder, output, model: str, device: str, jobs: int) -> dict:
    return run_plan(
        plan_for(folder, model),
        output,
        resume=False,
        resources=Resources(device=device, jobs=jobs),
        progress=lambda _: None,
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("model", "jobs"), [("explicit", 1), ("explicit", 2), ("field", 1)])
def test_a_gpu_trains_the_same_scene(ball_capture, tmp_path, model, jobs):
    try:
        training_device("cuda")
    except ReconstructionError as error:
        pytest.skip(str(error))
    on_gpu = trained(ball_capture, tmp_path / "gpu", model, "cuda", jobs)
    on_cpu = trained(ball_capture, tmp_path / "cpu", model, "cpu", 1)
    assert on_gpu["device"] == "cuda" and on_cpu["device"] == "cpu"
    psnr = [result["scores"]["final_full"]["psnr"] for result in (on_gpu, on_cpu)]
    assert abs(psnr[0] - psnr[1]) < 0.3
    assert on_gpu["points_per_frame"] == on_cpu["points_per_frame"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_says_so():
    assert training_device("auto").type == "cpu"
    with pytest.raises(ReconstructionError, match="cannot train on a GPU"):
        training_device("cuda")
    with pytest.raises(ReconstructionError, match="no device called 'tpu'"):
        training_device("tpu")


@pytest.fixture
def pools(monkeypatch):
    """(jobs, bytes of the GPU for each) of the pools that a run would start on a large machine."""
    asked: list[tuple[int, int | None]] = []

    class Pool:
        def __init__(self, output, jobs, **options):
            asked.append((jobs, options["max_vram"]))
            raise ReconstructionError("far enough")

    monkeypatch.setattr(frame_pool, "FramePool", Pool)
    monkeypatch.setattr(frame_pool, "cores", lambda: 64)
    return asked


def begin(capture, output, **resources) -> None:
    run_plan(
        plan_for(capture, "explicit"),
        output,
        resume=False,
        resources=Resources(**resources),
        progress=lambda _: None,
    )


def test_the_limit_of_a_gpus_memory_is_shared_out(monkeypatch, pools, ball_capture, tmp_path):
    fractions = []
    total = SimpleNamespace(total_memory=16 << 30)
    monkeypatch.setenv("PEEL4D_MAX_VRAM", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (12 << 30, 16 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: total)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, _: fractions.append(part)
    )
    monkeypatch.setattr(train_run, "training_device", lambda _: torch.device("cuda", 0))
    with pytest.raises(ReconstructionError, match="far enough"):
        begin(ball_capture, tmp_path, max_vram=3 << 30, jobs=2)
    half = ((1 << 30) - (450 << 20)) // 2  # of a third, less what the driver takes
    assert pools == [(2, 1 << 30)] and fractions == [half / (16 << 30)]
    assert os.environ["PEEL4D_MAX_VRAM"] == str(half)
    with pytest.raises(ReconstructionError, match="too little"):
        begin(ball_capture, tmp_path, max_vram=1 << 30, jobs=2)
    # Torch sees a GPU that the splat core cannot use: as many processes as on the CPU.
    monkeypatch.setattr(train_run, "training_device", lambda _: torch.device("cpu"))
    with pytest.raises(ReconstructionError, match="far enough"):
        begin(ball_capture, tmp_path, max_vram=3 << 30, jobs=2)
    assert pools[-1] == (2, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_before_processes_are_started(pools, ball_capture, tmp_path):
    with pytest.raises(ReconstructionError, match="cannot train on a GPU"):
        begin(ball_capture, tmp_path, device="cuda", jobs=2)
    assert not pools
