"""Cameras that are turned while the scene is learned: what they see, and what is no correction."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from traced_room import ROOM, picture, room_cameras, texture, walls

from peel4d.engine.model.camera_color import CameraColor
from peel4d.engine.model.camera_rotation import CameraRotation
from peel4d.engine.model.points import ExplicitPoints
from peel4d.engine.render.camera import Camera
from peel4d.engine.train.images import PlateImages
from peel4d.engine.train.settings import TrainSettings
from peel4d.engine.train.trainer import Job, train

CENTRE = np.array([0.0, 0.0, 2.0])


def turned(camera: Camera, R: np.ndarray, t: np.ndarray) -> Camera:
    return Camera(camera.K, R, t, camera.width, camera.height)


def rotation_of(cameras, pixels, used=None) -> CameraRotation:
    rotation = CameraRotation(cameras, range(len(cameras)) if used is None else used, CENTRE)
    with torch.no_grad():
        rotation.raw.copy_(torch.as_tensor(pixels, dtype=torch.float32))
    return rotation


def test_turned_points_are_seen_as_the_turned_camera_sees_them():
    cameras = room_cameras()
    random = np.random.default_rng(0)
    rotation = rotation_of(cameras, random.normal(0, 5, (len(cameras), 3)))
    points = random.uniform(-1, 1, (50, 3)) + CENTRE
    R, t = rotation.extrinsics()
    for view, camera in enumerate(cameras):
        other = turned(camera, R[view], t[view])
        np.testing.assert_allclose(other.centre, camera.centre, atol=1e-9)
        np.testing.assert_allclose(R[view] @ R[view].T, np.eye(3), atol=1e-12)
        moved = rotation(view, torch.from_numpy(np.float32(points))).detach().numpy()
        uv, z = camera.project(moved)
        expected_uv, expected_z = other.project(points)
        # float32 places of about 2 units, in pixels of focal length 67
        np.testing.assert_allclose(uv, expected_uv, atol=1e-3)
        np.testing.assert_allclose(z, expected_z, atol=1e-5)


def test_an_angle_is_so_many_pixels_of_an_image_640_long():
    cameras = room_cameras(16)
    pixels = np.zeros((16, 3))
    pixels[5, 1] = 2.0  # about the image's vertical axis: along its rows
    rotation = rotation_of(cameras, pixels)
    R, t = rotation.extrinsics()
    ahead = cameras[5].centre + cameras[5].R[2]
    before = cameras[5].project(ahead[None])[0]
    after = turned(cameras[5], R[5], t[5]).project(ahead[None])[0]
    # Of the sixteen rotations' 48 numbers six are taken out; most of a single one is left.
    assert 0.5 < abs(after - before)[0, 0] * 640 / cameras[5].width / 2.0 < 1.05
    assert rotation.moved_pixels()[5] == pytest.approx(
        abs(after - before)[0, 0] * 640 / cameras[5].width, rel=0.05
    )


@pytest.mark.parametrize("motion", range(6))
def test_what_moves_the_whole_scene_is_no_correction(motion):
    cameras = room_cameras()
    pixels = []
    for camera in cameras:
        away = CENTRE - camera.centre
        distance = np.linalg.norm(away)
        axis = np.eye(3)[motion % 3]
        vector = np.cross(away / distance, axis) if motion < 3 else axis
        unit = camera.width / 640 / camera.K[0, 0]
        pixels.append(camera.R @ vector / unit)
    assert np.abs(pixels).max() > 100
    angles = rotation_of(cameras, np.array(pixels)).angles().detach()
    assert angles.abs().max() < 1e-4


def test_views_that_learn_nothing_stay():
    cameras = room_cameras()
    pixels = np.random.default_rng(1).normal(0, 3, (len(cameras), 3))
    rotation = rotation_of(cameras, pixels, used=[0, 2, 3, 5, 6, 7])
    angles = rotation.angles().detach().numpy()
    assert np.abs(angles[[1, 4]]).max() < 1e-15 and np.abs(angles[[0, 2]]).min() > 0
    R, _ = rotation.extrinsics()
    np.testing.assert_allclose(R[1], cameras[1].R, atol=1e-12)


def test_a_wrong_calibration_is_found_while_the_scene_is_learned():
    """The room's walls, of points that know the texture roughly; two cameras are off by 1.5 pixels
    of their 96, in opposite directions."""
    true = room_cameras()
    cameras = list(true)
    for view, shift in ((2, 1.5), (5, -1.5)):
        angle = np.arctan(shift / true[view].K[0, 0])
        c, s = np.cos(angle), np.sin(angle)
        R = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ true[view].R
        cameras[view] = turned(true[view], R, -R @ true[view].centre)
    plates = {
        view: np.dstack([picture(camera, walls), np.full((72, 96), 255, np.uint8)])
        for view, camera in enumerate(true)
    }
    spacing = 0.12
    u, v = (axis.ravel() for axis in np.meshgrid(*(np.arange(-3, 3, spacing),) * 2))
    back = np.stack([u, v * 2 / 3, np.full_like(u, 3.0)], axis=1)
    sides = [np.stack([np.full_like(u, x), v * 2 / 3, u], axis=1) for x in (-3.0, 3.0)]
    floors = [np.stack([u, np.full_like(u, y), v], axis=1) for y in (-2.0, 2.0)]
    position = np.concatenate([back, *sides, *floors]).astype(np.float32)
    assert (np.abs(position) <= ROOM + 1e-6).all()
    rgb = np.float32(0.5 + 0.5 * (texture(position) - 0.5))
    model = ExplicitPoints(position, rgb, spacing, sh_degree=0, radius=1.2, density=0.9)
    rotation = CameraRotation(cameras, range(len(cameras)), CENTRE)
    footage = SimpleNamespace(camera=lambda _, view: cameras[view])
    job = Job("room", (0,), (tuple(range(len(cameras))),))
    images = PlateImages(footage, plates)
    settings = TrainSettings(background_steps=300, background_samples=1, rotation_rate=0.2)
    train(model, CameraColor(len(cameras)), job, images, settings.for_background, rotation=rotation)
    R, _ = rotation.extrinsics()

    def error(rotations) -> np.ndarray:
        """Pixels that the middle of every image is off, along its rows."""
        ahead = [camera.centre + 3 * camera.R[2] for camera in true]
        seen = zip(rotations, ahead, true, strict=True)
        places = [R @ (x - camera.centre) for R, x, camera in seen]
        return np.array([67.2 * x[0] / x[2] for x in places])

    before, after = error([camera.R for camera in cameras]), error(R)
    assert np.abs(before[[2, 5]]).min() > 1.4
    assert np.abs(after).max() < 0.5, after
