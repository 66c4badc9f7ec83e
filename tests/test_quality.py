"""The quality benchmark: what it measures, with what it compares, and what it shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.capture.capture import Capture, View
from peel4d.engine.cli.benchmark import table
from peel4d.engine.cli.main import main
from peel4d.engine.train.quality import BASKETBALL, chosen_images, published
from peel4d.engine.train.rate_distortion import COARSENESS, FITTED, bd_rate

TINY = ("--preset", "draft", "--steps", "15", "--background", "none")


@pytest.fixture(scope="module")
def folder(ball_capture, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quality") / "ball"
    arguments = ["benchmark", "quality", str(ball_capture), "--output", str(folder), *TINY]
    assert main([*arguments, "--test-views", "04,09", "--frames", "0:2", "--region", "mask"]) == 0
    return folder


def test_the_result_says_what_was_measured_and_where(folder):
    result = json.loads((folder / "quality.json").read_text())
    assert result["test_views"] == ["04", "09"] and result["frames"] == [0, 1]
    assert len(result["training_views"]) == 8 and result["preset"] == "draft"
    assert result["scores"]["camera_color"] == "mean" and result["scores"]["region"] == "mask"
    assert len(result["scores"]["views"]) == 4 and result["mean"] == result["scores"]["mean"]
    mean = result["mean"]
    assert mean["psnr"] > result["initial"]["psnr"] and 0 < mean["gradient_energy"] < 1.5
    assert result["training_seconds"] > 0 and result["peak_memory_bytes"] > 10 << 20
    assert result["bytes_per_frame"] > 100 and result["points_per_frame"] > 100
    assert result["published"] == []  # nobody has published numbers of the ball
    assert result["machine"]["cores"] >= 1 and result["versions"]["torch"]
    # The folder is that of an ordinary reconstruction.
    assert (folder / "clip.p4d").is_file() and (folder / "metrics.json").is_file()


def test_the_contact_sheet_shows_the_worst_and_the_median(folder):
    import cv2

    sheet = cv2.imread(str(folder / "quality.png"))
    caption = 28
    assert sheet.shape == (caption + 4 * (caption + 96), 3 * 96, 3)
    result = json.loads((folder / "quality.json").read_text())
    chosen = chosen_images(result["scores"]["views"])
    assert [kind for kind, _ in chosen] == ["worst", "worst", "worst", "median"]
    psnrs = [score["psnr"] for _, score in chosen]
    assert psnrs[:3] == sorted(psnrs)[:3]
    # Truth, render and their error of the worst image, pixel by pixel.
    rows = sheet[2 * caption : 2 * caption + 96].astype(int)
    truth, render, error = rows[:, :96], rows[:, 96:192], rows[:, 192:]
    assert truth.max() > 150 and render.max() > 100
    np.testing.assert_allclose(error, np.minimum(4 * np.abs(truth - render), 255), atol=4)


def test_rate_and_distortion_of_a_reconstruction(folder, ball_capture, tmp_path, capsys):
    out = tmp_path / "rates"
    command = ["benchmark", "rd", str(folder), "--output", str(out), "--region", "mask"]
    assert main([*command, "--footage", str(ball_capture)]) == 0
    assert "BD-rate" in capsys.readouterr().out
    result = json.loads((out / "rd.json").read_text())
    assert result["region"] == "mask" and result["scored"] == 4 and result["frames"] == 2
    source, *packed = result["rows"]
    fitted, packed = packed[-len(FITTED) :], packed[: -len(FITTED)]
    assert [row["coarseness"] for row in fitted] == [coarseness for coarseness, _ in FITTED]
    assert {row["codec"] for row in fitted} == {"fitted"}
    assert set(result["bd_rate_percent"]) == {"predictive", "predictive, pruned", "fitted"}
    assert source["codec"] == "baked" and len(packed) == 2 * 2 * len(COARSENESS)
    for own, zstd in zip(packed[::2], packed[1::2], strict=True):
        assert (own["codec"], zstd["codec"]) == ("predictive", "zstd")
        assert own["psnr"] == zstd["psnr"] and own["points_per_frame"] == zstd["points_per_frame"]
        assert own["decode_ms"] > 0 and own["encode_seconds"] > 0
    sizes = [row["bytes_per_frame"] for row in packed[::2]][: len(COARSENESS)]
    assert sizes == sorted(sizes, reverse=True)
    assert source["psnr"] - packed[0]["psnr"] < 0.1  # a quarter of the steps costs nothing
    drawn = (out / "rd.svg").read_text()
    assert drawn.count("<polyline") == 6 and drawn.endswith("</svg>")


def test_bjontegaard_rate():
    rates, psnrs = [1.0, 2.0, 4.0, 8.0], [30.0, 33.0, 35.0, 36.0]
    first = list(zip(rates, psnrs, strict=True))
    assert bd_rate(first, [(0.7 * rate, psnr) for rate, psnr in first]) == pytest.approx(-30)
    assert bd_rate(first, first) == pytest.approx(0, abs=1e-6)
    assert bd_rate(first, [(1.0, 40.0), (2.0, 41.0)]) is None


def test_worst_and_median_of_few_images():
    def views(*psnrs):
        return [{"psnr": value} for value in psnrs]

    assert [score["psnr"] for _, score in chosen_images(views(3, 1, 2))] == [1, 2, 3]
    chosen = chosen_images(views(9, 8, 7, 6, 5, 4, 3))
    assert [score["psnr"] for _, score in chosen] == [3, 4, 5, 6]
    assert chosen[-1][0] == "median"


def sports(path: str, size=(640, 360)) -> Capture:
    count = 31
    pose = np.broadcast_to(np.eye(3), (count, 3, 3))
    views = tuple(View(str(i), *size) for i in range(count))
    return Capture(
        Path(path), "dynamic3dgs", views, (0,), pose, pose, np.zeros((count, 3)), np.zeros((1, 31))
    )


def test_published_numbers_stand_beside_what_they_can_be_compared_with():
    capture = sports("/footage/panoptic_basketball")
    held_out = ("0", "10", "15", "30")
    assert published(capture, held_out, "full") == BASKETBALL
    assert all(row.note == "published, 150 frames" for row in BASKETBALL)
    assert published(capture, ("5", "14", "22"), "full") == ()
    assert published(capture, held_out, "mask") == ()
    assert published(sports("/footage/panoptic_boxes"), held_out, "full") == ()
    assert published(sports("/footage/basketball", (320, 180)), held_out, "full") == ()
    assert published(replace(capture, format="easyvolcap"), held_out, "full") == ()


def test_the_table(folder):
    result = json.loads((folder / "quality.json").read_text())
    result["published"] = [row.__dict__ for row in BASKETBALL]
    lines = table(result).splitlines()
    assert "2 frames" in lines[0] and "8 training and 2 test cameras (4 images)" in lines[0]
    assert "region mask" in lines[1] and lines[1].endswith("camera colour: mean")
    title, untrained, ours, first, *_, last = lines[3:]
    for heading in ("PSNR", "SSIM", "LPIPS", "FLIP", "gradients", "training", "memory", "kB/frame"):
        assert heading in title
    end = title.index("PSNR") + 4
    assert float(ours[:end].split()[-1]) > float(untrained[:end].split()[-1])
    assert ours.split()[0] == "Peel4D" and "GB" in ours
    assert first.split()[:3] == ["Dynamic", "3D", "Gaussians"] and "28.22" in first
    assert "2 h" in first and first.endswith("published, 150 frames")
    assert last.split()[:4] == ["MA-GS", "29.60", "0.918", "0.164"]
    assert max(map(len, lines[3:])) <= 120


def test_json_is_the_result_alone(ball_capture, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["benchmark", "quality", str(ball_capture), *TINY, "--frames", "0", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "quality-capture" / "quality.json").read_text())
    assert len(result["scores"]["views"]) == 1 and result["scores"]["region"] == "full"
    # A benchmark begins anew or not at all: its time would mean nothing.
    assert main(arguments) == 2


def test_what_cannot_be_scored_is_said_before_training(ball_capture, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    arguments = ["benchmark", "quality", str(ball_capture), *output, *TINY]
    assert main([*arguments, "--test-views", ""]) == 2
    assert "--test-views" in capsys.readouterr().err
    assert main([*arguments, "--test-views", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["benchmark", "speed", str(ball_capture)])
    assert not (tmp_path / "out").exists()


def test_test_views_without_masks(ball_capture, tmp_path, capsys):
    import shutil

    capture = tmp_path / "capture"
    shutil.copytree(ball_capture, capture)
    shutil.rmtree(capture / "masks" / "09")
    arguments = ["benchmark", "quality", str(capture), "-o", str(tmp_path / "out"), *TINY]
    assert main([*arguments, "--region", "mask"]) == 2
    assert "no masks" in capsys.readouterr().err and not (tmp_path / "out").exists()
