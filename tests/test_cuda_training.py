"""Training on a GPU: the same scene as on the CPU, alone and in several processes."""

from __future__ import annotations

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


def test_the_limit_of_a_gpus_memory_is_shared_out(monkeypatch, ball_capture, tmp_path):
    """What happens up to the device itself: torch and the core's fake GPU only note the limit."""
    limits, opened = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(train_run, "limit_vram", limits.append)

    class Pool:
        pids, memory_bytes = (), 0

        def __init__(self, output, jobs, **options):
            opened.append((jobs, options["max_vram"]))
            raise ReconstructionError("far enough")

    monkeypatch.setattr(frame_pool, "FramePool", Pool)
    monkeypatch.setattr(frame_pool, "processors", lambda: 64)
    with pytest.raises(ReconstructionError, match="far enough"):
        run_plan(
            plan_for(ball_capture, "explicit"),
            tmp_path,
            resume=False,
            resources=Resources(max_vram=3 << 30, jobs=2),
            progress=lambda _: None,
        )
    assert limits == [1 << 30] and opened == [(2, 1 << 30)]
