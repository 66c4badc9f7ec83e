"""Detection of formats, bad input, and peel4d.json."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.errors import CaptureError

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "formats"
POSE = np.eye(4).tolist()
NERFSTUDIO = {"fl_x": 40.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24}


def transforms(**first_frame) -> str:
    frames = [{"file_path": "a.png", "transform_matrix": POSE} | first_frame]
    return json.dumps(NERFSTUDIO | {"frames": frames})


@pytest.mark.parametrize(
    "files, message",
    [
        (None, "no such file or folder"),
        ({}, "the folder is empty"),
        ({"readme.md": "hello"}, r"not a capture of a known kind.*Supported are Dynamic 3D"),
        ({"sparse/0/cameras.bin": "x"}, "COLMAP model.*Supported are"),
        ({"poses_bounds.npy": "x"}, "LLFF"),
        ({"cams.xml": "<?xml?><document><chunk label='1'>"}, "Metashape.*Supported are"),
        ({"camera/000.json": "{}", "dataset.json": "{}"}, "Nerfies"),
        ({"images/01/000.jpg": "x"}, "images without a calibration"),
        ({"videos/01.mp4": "x"}, "videos without a calibration"),
        ({"run1/transforms.json": transforms()}, "Did you mean the folder 'run1'"),
        ({"a.json": transforms(), "b.json": transforms()}, "several calibrations: a.json, b.json"),
        ({"transforms.json": "{"}, r"transforms\.json: is not valid JSON .*line 1"),
        ({"transforms.json": "[1, 2]"}, "not an object"),
        ({"transforms.json": "[" * 100_000}, "nested too deeply"),
        ({"transforms.json": '{"frames": 3}'}, "no list 'frames'"),
        ({"transforms.json": '{"frames": []}'}, "lists no cameras"),
        ({"transforms.json": '{"frames": [3]}'}, r"frames\[0\]: has no transform_matrix"),
        ({"transforms.json": transforms(fl_x=float("nan"))}, r"view 'a\.png': fl_x contains NaN"),
        ({"transforms.json": transforms(cx=float("inf"))}, r"view 'a\.png': cx contains NaN"),
        ({"transforms.json": transforms(w=0)}, "w is 0, not a number of pixels"),
        ({"transforms.json": transforms(w=32.5)}, r"w is 32\.5"),
        ({"transforms.json": transforms(fl_x="wide")}, "fl_x is not a table of numbers"),
        ({"transforms.json": transforms(transform_matrix=[[1]])}, "1 x 1 instead of 4 x 4"),
        ({"transforms.json": transforms(time=0.5, camera_model="SPHERE")}, "SPHERE"),
        ({"train_meta.json": '{"w": 3, "h": 2}'}, "'k' is not a list"),
        ({"train_meta.json": '{"w": 3, "h": 2, "k": [], "w2c": []}'}, "lists no cameras"),
        ({"train_meta.json": '{"h": 2, "k": [], "w2c": []}'}, "w is missing"),
        ({"intri.yml": "names:\n", "extri.yml": "names:\n"}, "lists no cameras"),
        ({"intri.yml": "names:\nK_1: 3\n", "extri.yml": "names:\n"}, r"intri\.yml: lists no cam"),
        ({"intri.yml": "hello there\n", "extri.yml": "names:\n"}, "not an OpenCV YAML file"),
        ({"intri.yml": 'names: [ "1" ]\n', "extri.yml": 'names: [ "1" ]\n'}, "K_1 is missing"),
    ],
)
def test_bad_captures(tmp_path, files, message):
    root = tmp_path / "capture"
    if files is not None:
        root.mkdir()
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    with pytest.raises(CaptureError, match=message):
        open_capture(root)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("cameras.bin", b"\x01\0", "COLMAP binary"),
        ("images.txt", b"# Image list", "COLMAP text"),
        ("a.db", b"SQLite format 3\0", "COLMAP database"),
        ("poses_bounds.npy", b"\x93NUMPY", "LLFF"),
        ("a.smc", b"\x89HDF", "DNA-Rendering"),
        ("a.p4d", b"PK\3\4", "a Peel4D clip, not a capture"),
        ("a.mp4", b"", "a video without a calibration"),
        ("a.json", b"{}", "no calibration of a known kind"),
        ("a.json", b"\xff\xfe\0", "is not a text file"),
        ("a.txt", b"", "not a calibration file of a known kind"),
    ],
)
def test_foreign_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaptureError, match=message) as caught:
        open_capture(tmp_path / name)
    assert name in str(caught.value)


def test_nan_in_yaml_names_the_view(tmp_path, ball_capture):
    for name in ("intri.yml", "extri.yml"):
        shutil.copy(ball_capture / name, tmp_path)
    path = tmp_path / "extri.yml"
    nan = re.sub(r"(T_03: (?:.*\n){4}  data: \[)[^,]*", r"\1.NaN", path.read_text())
    path.write_text(nan)
    with pytest.raises(CaptureError, match=r"extri\.yml, view '03': T_03 contains NaN"):
        open_capture(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text(transforms())
    path.chmod(0)
    with pytest.raises(CaptureError, match="cannot read"):
        open_capture(tmp_path)


def test_a_calibration_under_another_name_is_found(tmp_path):
    (tmp_path / "settings.json").write_text('{"frames": 3}')
    (tmp_path / "rig.json").write_text(transforms())
    assert len(open_capture(tmp_path).views) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"test_views": ["99"]}', "no view called '99'.*00, 01"),
        ('{"test_views": "03"}', "not a list"),
        ('{"fps": 0}', "fps is 0"),
        ('{"up": [0, 0, 0]}', "no direction"),
        ('{"bounds": [[0, 0, 0], [1, 1, 0]]}', "minimum and a maximum"),
        ('{"depth_scale": -1}', "depth_scale is -1"),
        ('{"tset_views": []}', "'tset_views' is not known"),
    ],
)
def test_faults_in_the_sidecar(tmp_path, ball_capture, text, message):
    for name in ("intri.yml", "extri.yml"):
        shutil.copy(ball_capture / name, tmp_path)
    (tmp_path / "peel4d.json").write_text(text)
    with pytest.raises(CaptureError, match=message):
        open_capture(tmp_path)


def test_sidecar_bounds(tmp_path, ball_capture):
    for name in ("intri.yml", "extri.yml"):
        shutil.copy(ball_capture / name, tmp_path)
    (tmp_path / "peel4d.json").write_text('{"bounds": [[-1, -2, -3], [1, 2, 3]]}')
    assert open_capture(tmp_path).bounds.tolist() == [[-1, -2, -3], [1, 2, 3]]


def test_readers_need_no_opencv():
    """Blender's own process reads calibrations, and has no OpenCV, PyAV or torch."""
    import subprocess
    import sys

    program = (
        "import sys\n"
        "for name in ('cv2', 'av', 'torch'): sys.modules[name] = None\n"
        "import peel4d.engine.capture.detect, peel4d.engine.capture.health\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.shared
@pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared calibration files are not there")
@pytest.mark.parametrize(
    "place, message",
    [
        ("colmap", "COLMAP model"),
        ("colmap/cameras.bin", "COLMAP binary"),
        ("metashape", "Metashape"),
        ("metashape/metashape_cameras_47.xml", "Metashape"),
        ("llff", "LLFF"),
        ("llff/poses_bounds.npy", "LLFF"),
        ("instant_ngp", "several calibrations"),
    ],
)
def test_shared_files_of_unsupported_kinds(place, message):
    with pytest.raises(CaptureError, match=message) as caught:
        open_capture(FORMATS / place)
    assert "Supported are" in str(caught.value) or "several" in message
