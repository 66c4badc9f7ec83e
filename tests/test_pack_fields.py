"""Packing reconstructions with their fields: whole runs on the small ball."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_cli import QUICK, fails, peel4d

from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.target import Target, clip_psnr
from peel4d.engine.errors import CaptureError, ClipError, ReconstructionError
from peel4d.engine.train import rate_distortion
from peel4d.engine.train.checkpoint import load_field, load_splats
from peel4d.engine.train.codebook import CodebookSettings
from peel4d.engine.train.distill import distill
from peel4d.engine.train.pack_fields import FieldPackSettings, pack_fields
from peel4d.engine.train.plan import Folder, load_plan

FEW = FieldPackSettings(
    tuning=3, dynamic=0.1, dynamic_steps=3, fragment=2, codes=CodebookSettings(sharing=4)
)


@pytest.fixture(scope="module")
def with_field(ball_capture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields") / "ball"
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--model", "field", "--json")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def explicit(ball_capture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields") / "explicit"
    result = peel4d("reconstruct", ball_capture, "-o", folder, *QUICK, "--frames", "0:2")
    assert result.returncode == 0, result.stderr
    return folder


def test_training_keeps_the_field_beside_its_frames(with_field):
    folder = Folder(with_field)
    plan = load_plan(folder)
    model, labels = load_field(folder.field(plan.frames[0]))
    assert labels == plan.frames
    for step, label in enumerate(labels):
        splats, frame = model(step).to_splats(), load_splats(folder.frame(label))
        for name in ("position", "radius", "density", "sh"):
            np.testing.assert_array_equal(getattr(splats, name), getattr(frame, name))


def test_the_command_packs_informs_and_scores(with_field, tmp_path):
    packed = tmp_path / "small.p4d"
    options = ("--codec", "codebook", "--jobs", "2", "--dynamic", "0.05", "--tuning", "6")
    result = peel4d("pack", with_field, "-o", packed, *options, "--json")
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    assert row["codec"] == "codebook" and row["bytes"] == packed.stat().st_size
    information = json.loads(peel4d("info", packed, "--json").stdout)
    assert information["fragments"] == [{"first": 0, "frames": 3, "base": 0}]
    shared = information["shared_bytes"]
    assert {"codebook", "codes", "indices", "heads", "dynamic codes"} <= set(shared)
    assert 0 < sum(shared.values()) < information["bytes"]["shared"]
    assert information["provenance"]["packed"]["tuned"] is True
    assert "base" in peel4d("info", packed).stdout
    plain = tmp_path / "plain.p4d"
    assert peel4d("pack", with_field, "-o", plain, "--codec", "kplanes").returncode == 0
    with ClipReader(plain) as first, ClipReader(packed) as second:
        assert second.shared_nbytes < 0.3 * first.shared_nbytes
    scores = []
    for clip in (with_field / "clip.p4d", plain, packed):
        result = peel4d("evaluate", with_field, "--clip", clip, "--json")
        assert result.returncode == 0, result.stderr
        scores.append(json.loads(result.stdout)["mean"]["psnr"])
    assert scores[1] > scores[0] - 0.3 and scores[2] > scores[0] - 0.5


def test_frames_and_fragments_of_a_packed_reconstruction(with_field, tmp_path):
    packed = pack_fields(with_field, tmp_path / "a.p4d", FEW)
    assert [(f.first, f.frames, f.base) for f in packed.info.fragments] == [(0, 2, 0), (2, 1, 0)]
    still = pack_fields(with_field, tmp_path / "c.p4d", replace(FEW, tuning=0, dynamic=0.0))
    assert [(f.first, f.frames) for f in still.info.fragments] == [(0, 3)]
    again = pack_fields(with_field, tmp_path / "b.p4d", FEW)
    assert (tmp_path / "a.p4d").read_bytes() == (tmp_path / "b.p4d").read_bytes()
    assert again.nbytes == packed.nbytes
    folder = Folder(with_field)
    with ClipReader(tmp_path / "a.p4d") as reader:
        for number, label in enumerate(load_plan(folder).frames):
            splats, truth = reader.frame(number), load_splats(folder.frame(label))
            gap = np.abs(splats.position[:, None] - truth.position[None]).max(axis=2)
            nearest = gap.argmin(axis=1)
            assert gap.min(axis=1).max() < 0.1 * np.median(truth.radius)
            close = np.abs(np.log(splats.radius / truth.radius[nearest]))
            assert np.median(close) < 0.1


def test_an_explicit_reconstruction_is_distilled_first(explicit, tmp_path, caplog):
    caplog.set_level("INFO")
    packed = pack_fields(explicit, tmp_path / "a.p4d", FEW)
    assert packed.info.codec == "codebook" and "a field was fitted" in caplog.text
    assert not (explicit / "fields").exists()  # a reconstruction is not changed by packing it


def test_a_distilled_field_says_what_the_points_say(explicit):
    folder = Folder(explicit)
    plan = load_plan(folder)
    frames = [load_splats(folder.frame(label)) for label in plan.frames]
    weights = [np.ones(len(splats)) for splats in frames]
    spacing = 2 * float(np.median(frames[0].radius))
    fitted = distill(frames, weights, spacing, plan.settings, steps=200)
    spread = np.log(frames[0].radius).std(), frames[0].density.std()
    assert fitted.errors["radius"] < 0.7 * spread[0]
    assert fitted.errors["density"] < 0.7 * spread[1]
    np.testing.assert_allclose(fitted.model(1).to_splats().position, frames[1].position, atol=1e-6)


def test_a_size_and_a_psnr_are_met(with_field, tmp_path):
    settings = FieldPackSettings(codec="kplanes")
    plain = pack_fields(with_field, tmp_path / "plain.p4d", settings)
    coarse = replace(settings, coarseness=8.0)
    least = pack_fields(with_field, tmp_path / "coarse.p4d", coarse).nbytes
    target = (plain.nbytes + least) // 2
    sized = pack_fields(with_field, tmp_path / "sized.p4d", settings, target=Target(nbytes=target))
    assert 0.97 * target < sized.nbytes <= target and sized.coarseness > 1
    with ClipReader(with_field / "clip.p4d") as original:
        with ClipReader(tmp_path / "plain.p4d") as coded:
            before = clip_psnr(original, coded)
        target = Target(psnr=before - 3)
        pack_fields(with_field, tmp_path / "worse.p4d", settings, target=target)
        with ClipReader(tmp_path / "worse.p4d") as coded:
            assert target.psnr <= clip_psnr(original, coded) < target.psnr + 0.5
    with pytest.raises(ClipError, match="cannot be met"):
        pack_fields(with_field, tmp_path / "no.p4d", settings, target=Target(nbytes=1000))
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "no.p4d").exists()


def test_without_the_footage_codes_are_not_tuned(with_field, tmp_path, caplog):
    folder = tmp_path / "moved"
    shutil.copytree(with_field, folder)
    plan = json.loads((folder / "reconstruction.json").read_text())
    plan["capture"] = str(tmp_path / "gone")
    (folder / "reconstruction.json").write_text(json.dumps(plan))
    packed = pack_fields(folder, tmp_path / "a.p4d", FEW)
    assert "not tuned to the footage" in caplog.text and "--capture" in caplog.text
    assert packed.info.provenance["packed"]["tuned"] is False
    with pytest.raises(CaptureError):
        pack_fields(folder, tmp_path / "a.p4d", FEW, capture=tmp_path / "gone")


def test_the_footage_may_be_named(with_field, ball_capture, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(with_field, folder)
    plan = json.loads((folder / "reconstruction.json").read_text())
    plan["capture"] = str(tmp_path / "gone")
    (folder / "reconstruction.json").write_text(json.dumps(plan))
    packed = pack_fields(folder, tmp_path / "a.p4d", FEW, capture=ball_capture)
    assert packed.info.provenance["packed"]["tuned"] is True


def test_rates_of_the_codecs_of_fields_are_measured(with_field, monkeypatch):
    few = replace(FEW, dynamic=0.0)
    monkeypatch.setattr(rate_distortion, "COARSENESS", (0.5, 2.0))
    monkeypatch.setattr(
        rate_distortion, "FieldPackSettings", lambda codec: replace(few, codec=codec)
    )
    result = rate_distortion.measure_rate(with_field, region="mask", frames=1)
    rows = [row for row in result["rows"] if row["codec"] in ("kplanes", "codebook")]
    assert [(row["codec"], row["coarseness"]) for row in rows] == [
        (codec, factor) for codec in ("codebook", "kplanes") for factor in (0.5, 1.0, 2.0)
    ]
    assert all(row["decode_ms"] > 0 and row["psnr"] > 10 for row in rows)
    sizes = [row["bytes_per_frame"] for row in rows]
    assert sizes[:3] == sorted(sizes[:3], reverse=True) and sizes[0] < sizes[3]
    assert {"codebook, pruned", "kplanes, pruned"} < set(result["bd_rate_percent"])


def test_bad_input_is_explained(with_field, tmp_path):
    clip = with_field / "clip.p4d"
    with pytest.raises(ClipError, match="packed onto itself"):
        pack_fields(with_field, clip, FEW)
    with pytest.raises(ClipError, match="no codec of fields"):
        pack_fields(with_field, tmp_path / "a.p4d", FieldPackSettings(codec="baked"))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(with_field, unfinished)
    (unfinished / "clip.p4d").unlink()
    with pytest.raises(ReconstructionError, match="not finished"):
        pack_fields(unfinished, tmp_path / "a.p4d", FEW)
    options = ("-o", tmp_path / "a.p4d", "--codec", "codebook")
    fails(peel4d("pack", clip, *options), "from a reconstruction")
    wrong = peel4d("pack", with_field, *options, "--dynamic", "2")
    assert wrong.returncode == 2 and "not a share" in wrong.stderr
    assert not (tmp_path / "a.p4d").exists()


def test_a_broken_field_is_explained(with_field, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(with_field, folder)
    path = next((folder / "fields").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ReconstructionError, match="unreadable checkpoint"):
        pack_fields(folder, tmp_path / "a.p4d", FEW)
