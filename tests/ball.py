"""A striped ball filmed by a ring of cameras: the capture that the tests make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peel4d.engine.render.camera import Camera


def ring_camera(angle: float, height: float, size: int):
    """A camera on a ring of radius 3 that looks at the origin, z up."""
    position = np.array([3 * np.cos(angle), 3 * np.sin(angle), height])
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[1.4 * size, 0, size / 2], [0, 1.4 * size, size / 2], [0, 0, 1]])
    return Camera(K, R, -R @ position, size, size)


def ball_picture(camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """A ray-traced, striped ball of radius 0.6 that drifts along x: RGB uint8 and mask."""
    centre = np.array([0.05 * frame, 0.0, 0.0])
    samples = 2
    total = np.zeros((camera.height, camera.width, 4))
    for sub in np.ndindex(samples, samples):
        u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        x = (u + (sub[0] + 0.5) / samples - camera.K[0, 2]) / camera.K[0, 0]
        y = (v + (sub[1] + 0.5) / samples - camera.K[1, 2]) / camera.K[1, 1]
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.R
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        origin = camera.centre - centre
        b = rays @ origin
        discriminant = b**2 - (origin @ origin - 0.6**2)
        hit = discriminant > 0
        distance = -b - np.sqrt(np.maximum(discriminant, 0))
        normal = (origin + distance[..., None] * rays) / 0.6
        color = 0.5 + 0.3 * np.sin(6 * normal + np.array([0.0, 1.0, 2.0]))
        total += np.where(hit[..., None], np.concatenate([color, hit[..., None]], axis=-1), 0)
    total /= samples**2
    return np.round(total[..., :3] * 255).astype(np.uint8), total[..., 3] > 0.5


def write_ball_capture(folder: Path, *, cameras: int = 10, frames: int = 3, size: int = 96) -> Path:
    """The striped ball as an EasyVolcap capture over black; the last view is held out."""
    import cv2

    rig: dict[str, Camera] = {
        f"{i:02d}": ring_camera(2 * np.pi * i / cameras, 0.8 if i % 2 else -0.5, size)
        for i in range(cameras)
    }

    def matrix(name: str, value: np.ndarray) -> str:
        rows, columns = value.shape
        data = ", ".join(repr(float(v)) for v in value.ravel())
        return (
            f"{name}: !!opencv-matrix\n  rows: {rows}\n  cols: {columns}\n  dt: d\n"
            f"  data: [{data}]\n"
        )

    header = "%YAML:1.0\n---\nnames:\n" + "".join(f'  - "{name}"\n' for name in rig)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intri.yml").write_text(
        header
        + "".join(
            matrix(f"K_{name}", camera.K)
            + matrix(f"D_{name}", np.zeros((1, 5)))
            + f"H_{name}: {size}\nW_{name}: {size}\n"
            for name, camera in rig.items()
        )
    )
    (folder / "extri.yml").write_text(
        header
        + "".join(
            matrix(f"Rot_{name}", camera.R) + matrix(f"T_{name}", camera.t[:, None])
            for name, camera in rig.items()
        )
    )
    (folder / "peel4d.json").write_text(f'{{"test_views": ["{list(rig)[-1]}"], "fps": 24}}')
    for name, camera in rig.items():
        for kind in ("images", "masks"):
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
        for frame in range(frames):
            rgb, mask = ball_picture(camera, frame)
            file = f"{name}/{frame:06d}.png"
            cv2.imwrite(str(folder / "images" / file), rgb[..., ::-1])
            cv2.imwrite(str(folder / "masks" / file), mask.astype(np.uint8) * 255)
    return folder
