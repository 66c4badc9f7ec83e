"""The readers: what they make of each format, checked against each format's own convention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from peel4d.engine.capture.detect import open_capture
from peel4d.engine.capture.easyvolcap import rodrigues
from peel4d.engine.capture.opencv_yaml import read_opencv_yaml
from peel4d.engine.errors import CaptureError

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "formats"
shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not FORMATS.is_dir(), reason="the shared calibration files are not there"),
]
POINT = np.array([0.12, -0.31, 0.27])


def look_at(position, target=(0, 0, 0)) -> np.ndarray:
    """Camera-to-world (4, 4) with OpenGL axes, z up."""
    position = np.asarray(position, dtype=float)
    back = position - np.asarray(target, dtype=float)
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return pose


def ring(count: int) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [look_at([3 * np.cos(a), 3 * np.sin(a), 1]) for a in angles]


def write_json(path: Path, document: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def write_png(path: Path, pixels: np.ndarray) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


# --- Dynamic 3D Gaussians ---------------------------------------------------------------------


def meta(cameras: list[int], frames: int, move: float = 0.0) -> dict:
    k = [[40.0, 0, 16], [0, 42.0, 12], [0, 0, 1]]

    def w2c(camera: int, frame: int) -> list:
        pose = np.eye(4)
        pose[:3, :3] = rodrigues(np.array([0.1, 0.2 * camera, 0.0]))
        pose[:3, 3] = [0.1 * camera, move * frame, 3]
        return pose.tolist()

    return {
        "w": 32,
        "h": 24,
        "k": [[k for _ in cameras] for _ in range(frames)],
        "w2c": [[w2c(c, f) for c in cameras] for f in range(frames)],
        "fn": [[f"{c}/{f + 5:06d}.jpg" for c in cameras] for f in range(frames)],
        "cam_id": [cameras for _ in range(frames)],
    }


def test_dynamic3dgs_merges_both_files(tmp_path):
    write_json(tmp_path / "train_meta.json", meta([1, 2, 11], 3))
    write_json(tmp_path / "test_meta.json", meta([0, 10], 4))
    for file in ("ims/1/000005.jpg", "ims/10/000008.jpg", "seg/1/000005.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    capture = open_capture(tmp_path)
    assert capture.format == "dynamic3dgs"
    assert [view.name for view in capture.views] == ["0", "1", "2", "10", "11"]
    assert [view.train for view in capture.views] == [False, True, True, False, True]
    assert capture.frames == (5, 6, 7, 8)
    assert not capture.moving and capture.K.shape == (5, 3, 3)
    assert set(capture.images) == {(0, 1), (3, 3)}
    assert set(capture.masks) == {(0, 1)}
    assert np.allclose(capture.time[:, 0] * capture.fps, [5, 6, 7, 8])
    assert "15 images" in capture.notes[0]  # 3 x 3 + 2 x 4 - 2


def test_dynamic3dgs_projects_like_its_w2c(tmp_path):
    document = meta([3], 2)
    camera = open_capture(write_json(tmp_path / "train_meta.json", document)).camera(1, 0)
    homogeneous = np.array(document["w2c"][1][0]) @ [*POINT, 1]
    u, v, w = np.array(document["k"][1][0]) @ homogeneous[:3]
    pixel, z = camera.project(POINT)
    assert np.allclose(pixel, [u / w, v / w]) and np.isclose(z, homogeneous[2])


def test_dynamic3dgs_moving_cameras_keep_every_pose(tmp_path):
    document = meta([0, 1], 3, move=0.5)
    capture = open_capture(write_json(tmp_path / "train_meta.json", document))
    assert capture.R.shape == (3, 2, 3, 3) and capture.K.shape == (2, 3, 3)
    assert np.allclose(capture.camera(2, 1).t, np.array(document["w2c"][2][1])[:3, 3])


def test_dynamic3dgs_rejects_ragged_tables(tmp_path):
    document = meta([0, 1], 3)
    document["w2c"][1].pop()
    with pytest.raises(CaptureError, match="as many frames and cameras"):
        open_capture(write_json(tmp_path / "train_meta.json", document))


@pytest.mark.shared
def test_basketball(basketball):
    capture = open_capture(basketball)
    assert len(capture.views) == 31 and len(capture.frames) == 30
    assert capture.presence.all() and len(capture.masks) == 27 * 30
    held_out = [view.name for view in capture.views if not view.train]
    assert held_out == ["0", "10", "15", "30"]
    assert capture.up is None  # the format does not say
    # README of the capture: cameras 2.8 to 3.9 m from the centre.
    distance = [np.linalg.norm(capture.camera(0, v).centre) for v in range(31)]
    assert min(distance) > 2.5 and max(distance) < 4.2


# --- EasyVolcap / EasyMocap -------------------------------------------------------------------


def write_easyvolcap(root: Path, cameras: dict[str, tuple], size=(32, 24), **extra) -> Path:
    """{name: (K, rotation vector, T, D)} through OpenCV's own writer."""
    import cv2

    root.mkdir(parents=True, exist_ok=True)
    intri = cv2.FileStorage(str(root / "intri.yml"), cv2.FILE_STORAGE_WRITE)
    extri = cv2.FileStorage(str(root / "extri.yml"), cv2.FILE_STORAGE_WRITE)
    for storage in (intri, extri):
        storage.startWriteStruct("names", cv2.FileNode_SEQ)
        for name in cameras:
            storage.write("", name)
        storage.endWriteStruct()
    for name, (K, rotation, T, D) in cameras.items():
        intri.write(f"K_{name}", np.asarray(K, dtype=float))
        intri.write(f"D_{name}", np.asarray(D, dtype=float).reshape(1, -1))
        if size:
            intri.write(f"W_{name}", size[0])
            intri.write(f"H_{name}", size[1])
        extri.write(f"R_{name}", np.asarray(rotation, dtype=float).reshape(3, 1))
        extri.write(f"T_{name}", np.asarray(T, dtype=float).reshape(3, 1))
    intri.release()
    extri.release()
    if extra:
        write_json(root / "peel4d.json", extra)
    return root


K = [[40.0, 0, 16], [0, 42.0, 12], [0, 0, 1]]
TWO = {
    "01": (K, [0.1, 0.2, 0.3], [0.1, 0.2, 3.0], [0.1, -0.05, 0, 0, 0]),
    "cam b": (K, [0.1, -1.2, 0.3], [0.0, 0.2, 3.1], [0.0] * 5),
}


def test_easyvolcap_reads_what_opencv_wrote(tmp_path):
    import cv2

    capture = open_capture(write_easyvolcap(tmp_path, TWO))
    assert capture.format == "easyvolcap"
    assert [view.name for view in capture.views] == ["01", "cam b"]
    assert (capture.views[0].width, capture.views[0].height) == (32, 24)
    assert capture.views[0].distortion == (0.1, -0.05, 0, 0)
    assert capture.views[1].distortion == ()
    for index, (K_, rotation, T, _) in enumerate(TWO.values()):
        expected, _ = cv2.projectPoints(
            POINT[None], np.array(rotation), np.array(T), np.array(K_), None
        )
        assert np.allclose(capture.camera(0, index).project(POINT)[0], expected.ravel())


def test_opencv_yaml_in_the_forms_found_in_the_wild(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(
        "%YAML:1.0\n---\n# a comment\n"
        'names: [ "0", cam_b,\n   "c d" ]\n'
        "K_0: !!opencv-matrix\n   rows: 2\n   cols: 2\n   dt: f\n"
        "   data: [ 1., 2.5e+00, .NaN,\n       -.Inf ]\n"
        "H_0: 1080\n"
        '"quoted": "text"\n'
    )
    values = read_opencv_yaml(path)
    assert values["names"] == ["0", "cam_b", "c d"]
    np.testing.assert_array_equal(values["K_0"], [[1, 2.5], [np.nan, -np.inf]])
    assert values["H_0"] == "1080" and values["quoted"] == "text"
    path.write_text("names:\n- '7'\n- 8\n")
    assert read_opencv_yaml(path)["names"] == ["7", "8"]


@pytest.mark.parametrize("text", ["K_0: !!opencv-matrix\n  rows: 3\n  cols: 3\n  data: [1, 2", ""])
def test_truncated_yaml_is_an_error(tmp_path, text):
    path = tmp_path / "intri.yml"
    path.write_text(text)
    with pytest.raises(CaptureError, match=r"intri\.yml: .*(incomplete|empty)"):
        read_opencv_yaml(path)


def test_easyvolcap_footage(tmp_path):
    root = write_easyvolcap(
        tmp_path, TWO, test_views=["cam b"], fps=24, up=[0, 0, 2], depth_scale=0.5
    )
    for frame in (3, 4):
        write_png(root / f"images/1/{frame:06d}.png", np.zeros((24, 32, 3), np.uint8))
    write_png(root / "images/cam b/frame_4.jpg", np.zeros((24, 32, 3), np.uint8))
    write_png(root / "masks/01/000004.png", np.full((24, 32), 255, np.uint8))
    write_png(root / "depth/01/000003.png", np.full((24, 32), 7, np.uint16))
    capture = open_capture(root)
    # The folder "1" belongs to camera "01": EasyMocap pads names differently from place to place.
    assert capture.frames == (3, 4) and set(capture.images) == {(0, 0), (1, 0), (1, 1)}
    assert set(capture.masks) == {(1, 0)} and set(capture.depths) == {(0, 0)}
    assert [view.train for view in capture.views] == [True, False]
    assert capture.depths[0, 0].scale == 0.5
    assert capture.fps == 24 and np.allclose(capture.time[:, 0], [3 / 24, 4 / 24])
    assert np.allclose(capture.up, [0, 0, 1])


def test_easyvolcap_without_size_takes_the_images(tmp_path):
    root = write_easyvolcap(tmp_path, TWO, size=None)
    with pytest.raises(CaptureError, match=r"--size WxH"):
        open_capture(root)
    assert open_capture(root, size=(64, 48)).views[1].width == 64
    for name in TWO:
        write_png(root / f"images/{name}/000000.jpg", np.zeros((24, 32, 3), np.uint8))
    view = open_capture(root).views[0]
    assert (view.width, view.height) == (32, 24)


def test_easyvolcap_alpha_is_the_mask_without_a_mask_folder(tmp_path):
    root = write_easyvolcap(tmp_path, TWO)
    write_png(root / "images/01/000000.png", np.zeros((24, 32, 4), np.uint8))
    write_png(root / "images/cam b/000000.png", np.zeros((24, 32, 3), np.uint8))
    capture = open_capture(root)
    assert set(capture.masks) == {(0, 0)} and capture.masks[0, 0].layer == "alpha"


def test_easyvolcap_moving_cameras(tmp_path):
    """EasyVolcap's monocular layout: cameras/<cam>/intri.yml with one entry per frame."""
    poses = {f"{f:06d}": (K, [0, 0.1 * f, 0], [0.1 * f, 0, 3], [0.0]) for f in (2, 3, 5)}
    write_easyvolcap(tmp_path / "cameras" / "00", poses)
    capture = open_capture(tmp_path)
    assert [view.name for view in capture.views] == ["00"] and capture.frames == (2, 3, 5)
    assert capture.moving and np.allclose(capture.camera(2, 0).t, [0.5, 0, 3])


def test_easyvolcap_drops_cameras_of_one_file_only(tmp_path):
    write_easyvolcap(tmp_path / "a", TWO)
    write_easyvolcap(tmp_path / "b", {"01": TWO["01"], "09": TWO["cam b"]})
    (tmp_path / "b" / "extri.yml").replace(tmp_path / "a" / "extri.yml")
    capture = open_capture(tmp_path / "a")
    assert [view.name for view in capture.views] == ["01"]
    assert len(capture.notes) == 2 and "cam b" in capture.notes[0] and "09" in capture.notes[1]


@pytest.mark.parametrize("gone", ["intri", "extri"])
def test_easyvolcap_says_which_file_is_missing(tmp_path, gone):
    write_easyvolcap(tmp_path, TWO)
    (tmp_path / f"{gone}.yml").unlink()
    with pytest.raises(CaptureError, match=rf"no {gone}\.yml is there"):
        open_capture(tmp_path)


def test_easyvolcap_without_a_common_camera(tmp_path):
    write_easyvolcap(tmp_path / "a", {"01": TWO["01"]})
    write_easyvolcap(tmp_path / "b", {"02": TWO["01"]})
    (tmp_path / "b" / "extri.yml").replace(tmp_path / "a" / "extri.yml")
    with pytest.raises(CaptureError, match="no camera in common"):
        open_capture(tmp_path / "a")


class TestEasyMocapFiles:
    pytestmark = shared
    folder = FORMATS / "easymocap"

    @pytest.mark.parametrize("file", ["", "easymocap_intri_32cam.yml", "easymocap_extri_11cam.yml"])
    def test_partner_is_found(self, file):
        capture = open_capture(self.folder / file, size=(1920, 1080))
        assert len(capture.views) == 11 and "21 cameras" in capture.notes[0]

    def test_parser_agrees_with_opencv(self):
        import cv2

        for path in sorted(self.folder.glob("*.yml")):
            storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
            values = read_opencv_yaml(path)
            assert set(values) == set(storage.root().keys())
            for key, value in values.items():
                if key != "names":
                    np.testing.assert_array_equal(value, storage.getNode(key).mat())

    def test_projection_agrees_with_the_file(self):
        """R_ and Rot_ state one rotation with 6 digits: a point 3 m away moves by < 0.05 px."""
        capture = open_capture(self.folder, size=(1920, 1080))
        intri = read_opencv_yaml(self.folder / "easymocap_intri_32cam.yml")
        extri = read_opencv_yaml(self.folder / "easymocap_extri_11cam.yml")
        for index, view in enumerate(capture.views):
            x = extri[f"Rot_{view.name}"] @ POINT + extri[f"T_{view.name}"].ravel()
            expected = (intri[f"K_{view.name}"] @ x)[:2] / x[2]
            assert np.allclose(capture.camera(0, index).project(POINT)[0], expected, atol=0.05)


# --- transforms.json --------------------------------------------------------------------------


def ndc_pixel(c2w: np.ndarray, angle: float, width: int, height: int) -> np.ndarray:
    """Blender's way: camera space, divide by -z, normalised device coordinates, viewport."""
    x, y, z, _ = np.linalg.inv(c2w) @ [*POINT, 1]
    half = np.tan(angle / 2)
    ndc = np.array([x / -z / half, y / -z / (half * height / width)])
    return (ndc * [1, -1] + 1) / 2 * [width, height]


def test_blender_projection_is_blenders(tmp_path):
    poses = ring(4)
    document = {
        "camera_angle_x": 0.7,
        "frames": [
            {"file_path": f"./train/r_{i}", "transform_matrix": p.tolist()}
            for i, p in enumerate(poses)
        ],
    }
    path = write_json(tmp_path / "transforms_train.json", document)
    with pytest.raises(CaptureError, match=r"--size WxH"):
        open_capture(path)
    capture = open_capture(path, size=(200, 100))
    assert capture.format == "blender" and len(capture.views) == 4 and len(capture.frames) == 1
    assert np.allclose(capture.up, [0, 0, 1])
    for index, pose in enumerate(poses):
        expected = ndc_pixel(pose, 0.7, 200, 100)
        assert np.allclose(capture.camera(0, index).project(POINT)[0], expected)


def test_blender_splits_alpha_and_size_from_images(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        frames = [
            {"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()}
            for i, pose in enumerate(ring(count))
        ]
        write_json(tmp_path / f"transforms_{split}.json", {"camera_angle_x": 0.7, "frames": frames})
        for i in range(count):
            write_png(tmp_path / split / f"r_{i}.png", np.zeros((8, 10, 4), np.uint8))
    capture = open_capture(tmp_path)
    names = [view.name for view in capture.views]
    assert names == ["train_r_0", "train_r_1", "train_r_2", "val_r_0", "test_r_0", "test_r_1"]
    assert [view.train for view in capture.views] == [True] * 3 + [False] * 3
    assert (capture.views[0].width, capture.views[0].height) == (10, 8)
    assert len(capture.masks) == 6 and capture.masks[0, 0].layer == "alpha"


def nerfstudio(frames: list[dict], **fields) -> dict:
    return (
        {"fl_x": 40.0, "fl_y": 42.0, "cx": 17.0, "cy": 11.0, "w": 32, "h": 24}
        | fields
        | {"frames": frames}
    )


def test_nerfstudio_fields(tmp_path):
    pose = look_at([2, 1, 1])
    frames = [
        {
            "file_path": "images\\a.png",
            "transform_matrix": pose.tolist(),
            "mask_path": "masks/a.png",
            "depth_file_path": "depth/a.png",
        },
        {
            "file_path": "images/b",
            "transform_matrix": (pose * [1, 1, 1, 2]).tolist()[:3],
            "fl_x": 50,
            "k1": 0.2,
        },
        {"file_path": "images/c.png", "transform_matrix": pose.tolist()},
    ]
    for file in ("images/a.png", "images/b.png", "masks/a.png"):
        write_png(tmp_path / file, np.zeros((24, 32), np.uint8))
    write_png(tmp_path / "depth/a.png", np.zeros((24, 32), np.uint16))
    document = nerfstudio(frames, k1=0.1, k2=0.01, p1=0.001, p2=0.002, test_filenames=["images/b"])
    write_json(tmp_path / "transforms.json", document)
    capture = open_capture(tmp_path)
    assert capture.format == "transforms" and capture.up is None
    assert [view.name for view in capture.views] == ["a", "b", "c"]
    assert [view.train for view in capture.views] == [True, False, True]
    assert capture.views[0].distortion == (0.1, 0.01, 0.001, 0.002)
    assert capture.views[1].distortion == (0.2, 0.01, 0.001, 0.002)
    assert capture.K[1, 0, 0] == 50 and capture.K[0, 0, 0] == 40 and capture.K[0, 1, 2] == 11
    assert set(capture.images) == {(0, 0), (0, 1)} and set(capture.masks) == {(0, 0)}
    assert capture.depths[0, 0].scale == 1e-3
    assert "1 images" in capture.notes[0]
    assert np.allclose(capture.camera(0, 1).centre, 2 * pose[:3, 3])


def test_nerfstudio_projection_from_opengl_axes(tmp_path):
    pose = look_at([2, 1, 1])
    frame = {"file_path": "a.png", "transform_matrix": pose.tolist()}
    capture = open_capture(write_json(tmp_path / "transforms.json", nerfstudio([frame])))
    x, y, z, _ = np.linalg.inv(pose) @ [*POINT, 1]
    expected = [17 + 40 * x / -z, 11 + 42 * -y / -z]
    assert np.allclose(capture.camera(0, 0).project(POINT)[0], expected)


def test_scale_of_a_camera_object_is_divided_out(tmp_path):
    pose = look_at([2, 1, 1])
    scaled = pose.copy()
    scaled[:3, :3] *= 1.7
    frames = [
        {"file_path": f"{i}.png", "transform_matrix": p.tolist()}
        for i, p in enumerate((pose, scaled))
    ]
    capture = open_capture(write_json(tmp_path / "transforms.json", nerfstudio(frames)))
    assert np.allclose(capture.R[0], capture.R[1]) and np.allclose(capture.t[0], capture.t[1])


def test_camera_models(tmp_path):
    frame = {"file_path": "a.png", "transform_matrix": look_at([2, 1, 1]).tolist()}

    def first_view(**fields):
        path = write_json(tmp_path / "transforms.json", nerfstudio([frame], **fields))
        return open_capture(path).views[0]

    fisheye = first_view(camera_model="OPENCV_FISHEYE", k1=0.1, k4=0.2)
    assert fisheye.lens == "fisheye" and fisheye.distortion == (0.1, 0, 0, 0.2)
    rational = first_view(camera_model="FULL_OPENCV", k1=0.1, k2=0.2, k3=0.3, k6=0.6, p1=0.01)
    assert rational.distortion == (0.1, 0.2, 0.01, 0, 0.3, 0, 0, 0.6)
    with pytest.raises(CaptureError, match="EQUIRECTANGULAR is not supported"):
        first_view(camera_model="EQUIRECTANGULAR")
    with pytest.raises(CaptureError, match="k4"):
        first_view(k4=0.1)


def test_dnerf_is_one_moving_view(tmp_path):
    poses = ring(7)
    frames = [
        {"file_path": f"./train/r_{i:03d}", "transform_matrix": p.tolist(), "time": i / 6}
        for i, p in enumerate(poses)
    ]
    document = {"camera_angle_x": 0.7, "frames": list(reversed(frames))}
    path = write_json(tmp_path / "transforms_train.json", document)
    capture = open_capture(path, size=(20, 20))
    assert capture.format == "dnerf" and len(capture.views) == 1 and len(capture.frames) == 7
    assert capture.moving and capture.K.shape == (1, 3, 3)
    assert np.allclose(capture.time[:, 0], np.arange(7) / capture.fps)
    for frame, pose in enumerate(poses):
        expected = ndc_pixel(pose, 0.7, 20, 20)
        assert np.allclose(capture.camera(frame, 0).project(POINT)[0], expected)


def test_dnerf_splits_share_the_frames(tmp_path):
    for split, times in (("train", (0, 0.5, 1)), ("test", (0.25, 1.0))):
        frames = [
            {"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist(), "time": time}
            for i, (time, pose) in enumerate(zip(times, ring(len(times)), strict=True))
        ]
        for i in range(len(times)):
            write_png(tmp_path / split / f"r_{i}.png", np.zeros((8, 8, 4), np.uint8))
        write_json(tmp_path / f"transforms_{split}.json", {"camera_angle_x": 0.7, "frames": frames})
    capture = open_capture(tmp_path)
    assert [view.name for view in capture.views] == ["train", "test"]
    assert [view.train for view in capture.views] == [True, False]
    assert capture.presence.tolist() == [[1, 0], [0, 1], [1, 0], [1, 1]]


def timed(files: list[tuple[str, int, np.ndarray]], **fields) -> dict:
    return nerfstudio(
        [
            {"file_path": name, "time": time, "transform_matrix": pose.tolist(), **fields}
            for name, time, pose in files
        ]
    )


def test_static_cameras_with_time_are_views(tmp_path):
    poses = ring(3)
    by_folder = [(f"cam{c}/{t:04d}.png", t, poses[c]) for t in range(4) for c in range(3)]
    flat = [(f"images/{c + 3 * t:04d}.png", t, poses[c]) for t in range(4) for c in range(3)]
    for files, names in (
        (by_folder, ["cam0", "cam1", "cam2"]),
        (flat, ["camera_00", "camera_01", "camera_02"]),
    ):
        capture = open_capture(write_json(tmp_path / "transforms.json", timed(files)))
        assert [view.name for view in capture.views] == names
        assert len(capture.frames) == 4 and not capture.moving
        assert np.allclose(capture.camera(3, 2).centre, poses[2][:3, 3])


def test_moving_cameras_with_time_by_folder_or_label(tmp_path):
    def pose(camera: int, time: int) -> np.ndarray:
        return look_at([3, camera, 0.1 * time])

    files = [(f"cam{c}/{t}.png", t, pose(c, t)) for t in range(4) for c in range(2)]
    capture = open_capture(write_json(tmp_path / "transforms.json", timed(files)))
    assert [view.name for view in capture.views] == ["cam0", "cam1"] and capture.moving
    assert np.allclose(capture.camera(2, 1).centre, [3, 1, 0.2])

    document = timed([(f"all/{t}_{c}.png", t, pose(c, t)) for t in range(4) for c in range(2)])
    for entry in document["frames"]:
        entry["camera"] = "left" if entry["file_path"].endswith("_0.png") else "right"
    capture = open_capture(write_json(tmp_path / "transforms.json", document))
    assert [view.name for view in capture.views] == ["left", "right"]

    for entry in document["frames"]:
        del entry["camera"]
    capture = open_capture(write_json(tmp_path / "transforms.json", document))
    assert len(capture.views) == 2 and np.allclose(capture.camera(2, 1).centre, [3, 1, 0.2])


class TestSharedTransforms:
    pytestmark = shared

    def pose(self, file: Path, index: int) -> np.ndarray:
        return np.array(json.loads(file.read_text())["frames"][index]["transform_matrix"])

    @pytest.mark.parametrize(
        "name", ["instantngp_transforms.json", "instantngp_transforms_backslash.json"]
    )
    def test_instant_ngp(self, name):
        file = FORMATS / "instant_ngp" / name
        capture = open_capture(file)
        document = json.loads(file.read_text())
        assert len(capture.views) == len(document["frames"]) == 67
        assert (capture.views[0].width, capture.views[0].height) == (1080, 1920)
        assert capture.views[0].name == "0001" and len(capture.views[0].distortion) == 4
        x, y, z, _ = np.linalg.inv(self.pose(file, 20)) @ [*POINT, 1]
        expected = [
            document["cx"] - document["fl_x"] * x / z,
            document["cy"] + document["fl_y"] * y / z,
        ]
        # The file's rotations are orthonormal to about 1e-7, its own inverse differs by as much.
        assert np.allclose(capture.camera(0, 20).project(POINT)[0], expected, atol=1e-2)

    @pytest.mark.parametrize(
        "file, views, frames",
        [
            ("blender/blender_transforms_train.json", 100, 1),
            ("dnerf/dnerf_transforms_train_time.json", 1, 150),
        ],
    )
    def test_blender_and_dnerf(self, file, views, frames):
        with pytest.raises(CaptureError, match=r"--size WxH"):
            open_capture(FORMATS / file)
        capture = open_capture(FORMATS / file, size=(800, 800))
        assert (len(capture.views), len(capture.frames)) == (views, frames)
        key = (0, 50) if views > 1 else (50, 0)
        expected = ndc_pixel(self.pose(FORMATS / file, 50), 0.6911112070083618, 800, 800)
        assert np.allclose(capture.camera(*key).project(POINT)[0], expected, atol=1e-3)

    def test_dynamic3dgs_alone(self):
        capture = open_capture(FORMATS / "dynamic3dgs" / "dynamic3dgs_test_meta.json")
        assert len(capture.views) == 4 and len(capture.frames) == 150 and not capture.images
