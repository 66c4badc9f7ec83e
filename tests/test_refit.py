"""Packed points that are fitted to the footage again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.images import UnreadableImage
from peel4d.engine.cli.main import main
from peel4d.engine.clip.pack import PackSettings, pack
from peel4d.engine.clip.predictive import Steps, decode_predictive, encode_predictive
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.errors import CaptureError, ClipError, ReconstructionError
from peel4d.engine.model.lattice_points import LatticePoints
from peel4d.engine.render.splats import Splats
from peel4d.engine.train.evaluate import evaluate
from peel4d.engine.train.finished import finished_plan
from peel4d.engine.train.plan import Folder
from peel4d.engine.train.refit import Refit, _check_same


def cloud(count: int = 400, degree: int = 2) -> Splats:
    random = np.random.default_rng(3)
    return Splats(
        random.normal(size=(count, 3)).astype(np.float32),
        random.uniform(0.03, 0.06, count).astype(np.float32),
        random.uniform(0, 1, count).astype(np.float32),
        random.normal(0, 0.4, (count, (degree + 1) ** 2, 3)).astype(np.float32),
    )


def test_what_is_fitted_is_what_the_clip_will_show():
    splats, steps, cell = cloud(), Steps(dead_zone=0).scaled(2), 0.0123456
    with torch.no_grad():
        fitted = LatticePoints(splats, steps, cell, 0.05)().to_splats()
    chunk = encode_predictive(fitted, steps, "here", cell=cell)
    decoded = decode_predictive(chunk.data, len(splats), 2, "here").unpack()
    order = np.lexsort(fitted.position.T)
    again = np.lexsort(decoded.position.T)
    for name, tolerance in (("position", 1e-5), ("radius", 1e-6), ("density", 1e-5), ("sh", 1e-5)):
        np.testing.assert_allclose(
            getattr(decoded, name)[again], getattr(fitted, name)[order], atol=tolerance
        )
    # As near as the lattice lets them be.
    assert np.abs(fitted.sh[:, 0] - splats.sh[:, 0]).max() <= 0.5 * steps.coefficient(0, 2) * 1.001
    assert np.abs(fitted.position - splats.position).max() <= 0.5 * cell * 1.001


def test_gradients_pass_the_rounding_and_bits_fall():
    model = LatticePoints(cloud(), Steps().scaled(2), 0.01, 0.05)
    points = model()
    sum(tensor.sum() for tensor in points if tensor.requires_grad).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    before = model.bits().item()
    splats, steps = model().to_splats(), Steps().scaled(2)
    for _ in range(60):
        optimizer.zero_grad()
        model.bits().backward()
        optimizer.step()
    assert model.bits().item() < 0.6 * before
    # And so do those of the stream.
    sizes = [
        len(encode_predictive(part, steps, "here", cell=0.01).data)
        for part in (splats, model().to_splats())
    ]
    assert sizes[1] < 0.75 * sizes[0]


@pytest.fixture(scope="module")
def folder(ball_capture, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refit") / "ball"
    arguments = ["reconstruct", str(ball_capture), "-o", str(folder), "--background", "none"]
    arguments += ["--preset", "draft", "--steps", "150", "--frames", "0:2"]
    assert main([*arguments, "--test-views", "04,09"]) == 0
    return folder


def psnr(folder: Path, clip: Path) -> float:
    """In the views that it is fitted to: so few cameras as here say little about any other."""
    return evaluate(folder, clip=clip, region="mask", views=["00", "03", "06"])["mean"]["psnr"]


def test_a_fitted_clip_is_nearer_the_footage(folder, ball_capture, tmp_path):
    plain, fitted = tmp_path / "plain.p4d", tmp_path / "fitted.p4d"
    settings = PackSettings(coarseness=4.0)
    first = pack(folder, plain, settings)
    second = pack(folder, fitted, settings, fitter=Refit(folder, ball_capture, device="cpu"))
    assert psnr(folder, fitted) > psnr(folder, plain) + 0.2
    assert second.nbytes < 1.02 * first.nbytes
    with ClipReader(fitted) as reader:
        assert reader.info.provenance["packed"]["fitted"] is True


def test_processes_make_the_same_clip(folder, ball_capture, tmp_path):
    settings, files = PackSettings(coarseness=3.0), []
    for jobs in (1, 2):
        files.append(tmp_path / f"{jobs}.p4d")
        with Refit(folder, ball_capture, jobs=jobs, device="cpu") as fitter:
            pack(folder, files[-1], settings, fitter=fitter)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_goes_wrong_in_a_process_says_so_here(folder, ball_capture, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(ball_capture, spoilt)
    image = next((spoilt / "images" / "03").glob("*1.*"))
    with Refit(folder, spoilt, jobs=2, device="cpu") as fitter:
        image.write_bytes(b"not an image")  # after the capture was looked at
        with pytest.raises(CaptureError, match="03") as caught:
            pack(folder, tmp_path / "a.p4d", PackSettings(coarseness=3.0), fitter=fitter)
    assert isinstance(caught.value, UnreadableImage) and caught.value.file == image
    assert not (tmp_path / "a.p4d").exists()


def test_on_the_command_line_it_is_twice_as_coarse(folder, ball_capture, tmp_path, capsys):
    output = tmp_path / "small.p4d"
    arguments = ["pack", str(folder), "-o", str(output), "--device", "cpu", "--json"]
    assert main([*arguments, "--capture", str(ball_capture)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["coarseness"] == 2.0 and result["bytes"] == output.stat().st_size


def test_a_size_is_met_with_fitted_points(folder, ball_capture, tmp_path):
    plain = pack(folder, tmp_path / "plain.p4d")
    target = round(0.6 * plain.nbytes)
    packed = pack(
        folder,
        tmp_path / "small.p4d",
        PackSettings(target_bytes=target),
        fitter=Refit(folder, ball_capture, device="cpu"),
    )
    assert 0.85 * target < packed.nbytes <= target


def test_other_footage_is_refused(folder, ball_capture, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(ball_capture, other)
    Refit(folder, other, device="cpu")  # copied, with other times: the same
    extri = next(other.glob("extri.yml"))
    before, comma, after = extri.read_text().partition("T_00:")
    after = re.sub(r"data: \[[^,]+,", "data: [0.5,", after, count=1)
    extri.write_text(before + comma + after)
    with pytest.raises(ReconstructionError, match="not the capture"):
        Refit(folder, other, device="cpu")
    with pytest.raises(ReconstructionError, match="not the capture"):
        Refit(folder, _without_frames(ball_capture, tmp_path / "short"), device="cpu")
    arguments = ["pack", str(folder / "clip.p4d"), "-o", str(tmp_path / "a.p4d")]
    assert main([*arguments, "--capture", str(ball_capture)]) != 0
    assert "folder" in capsys.readouterr().err
    with pytest.raises(ClipError, match="baked"):
        settings = PackSettings(codec="baked")
        pack(folder, tmp_path / "a.p4d", settings, fitter=Refit(folder, device="cpu"))


def test_cameras_that_were_turned_are_the_same(folder, ball_capture):
    capture, plan = open_capture(ball_capture), finished_plan(Folder(folder))
    centre = -np.einsum("vji,vj->vi", capture.R, capture.t)
    for angle, accepted in ((0.01, True), (0.2, False)):
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ capture.R
        turned = capture.posed(R, -np.einsum("vij,vj->vi", R, centre))
        if accepted:
            _check_same(turned, plan, Folder(folder))
        else:
            with pytest.raises(ReconstructionError, match="stands elsewhere"):
                _check_same(turned, plan, Folder(folder))


def _without_frames(capture: Path, target: Path) -> Path:
    shutil.copytree(capture, target)
    for kind in ("images", "masks"):
        for file in (target / kind).glob("*/*"):
            if file.stem.lstrip("0") in ("", "1"):
                file.unlink()
    return target
