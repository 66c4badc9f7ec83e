"""Furniture is boxes, cushions and sheets: surfaces with UV in metres, fine enough to hold light.

Numpy only. Light is baked per vertex, so no cell is larger than `STEP`.
"""

from __future__ import annotations

import numpy as np
from demo_shapes import Surface, joined, open_surface

STEP = 0.12


def sheet(
    corner: tuple[float, float, float],
    right: tuple[float, float, float],
    up: tuple[float, float, float],
    step: float = STEP,
) -> Surface:
    """A rectangle: from `corner`, u runs `right` and v runs `up` (vectors); it faces right x up."""
    right, up = np.asarray(right, float), np.asarray(up, float)
    width, height = np.linalg.norm(right), np.linalg.norm(up)
    a = np.linspace(0, 1, max(2, int(np.ceil(width / step)) + 1))
    b = np.linspace(0, 1, max(2, int(np.ceil(height / step)) + 1))
    grid = np.asarray(corner, float) + b[:, None, None] * up + a[None, :, None] * right
    return open_surface(grid, (width, height))


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Surface:
    """An upright box; v runs up on its sides, and along its longer side on top and bottom."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    w, d, h = x1 - x0, y1 - y0, z1 - z0
    sides = [
        sheet((x0, y0, z0), (w, 0, 0), (0, 0, h)),
        sheet((x1, y0, z0), (0, d, 0), (0, 0, h)),
        sheet((x1, y1, z0), (-w, 0, 0), (0, 0, h)),
        sheet((x0, y1, z0), (0, -d, 0), (0, 0, h)),
    ]
    if w > d:
        sides.append(sheet((x1, y0, z1), (0, d, 0), (-w, 0, 0)))
        sides.append(sheet((x0, y0, z0), (0, d, 0), (w, 0, 0)))
    else:
        sides.append(sheet((x0, y0, z1), (w, 0, 0), (0, d, 0)))
        sides.append(sheet((x1, y0, z0), (-w, 0, 0), (0, d, 0)))
    return joined(sides)


def boxes(*corners: tuple[tuple, tuple]) -> Surface:
    """Several boxes (low, high) as one mesh."""
    return joined([box(low, high) for low, high in corners])


def cushion(
    low: tuple[float, float, float], high: tuple[float, float, float], power: float = 0.35
) -> Surface:
    """A stuffed box: a superellipsoid that fills the box; UV are metres around and upwards."""
    rows, columns = 19, 36
    size = np.subtract(high, low)

    def rounded(wave: np.ndarray) -> np.ndarray:
        return np.sign(wave) * np.abs(wave) ** power

    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns + 1)[None]
    unit = np.stack(
        [
            rounded(np.cos(latitude)) * rounded(np.cos(longitude)),
            rounded(np.cos(latitude)) * rounded(np.sin(longitude)),
            rounded(np.sin(latitude)) + 0 * longitude,
        ],
        axis=-1,
    )
    grid = np.add(low, high) / 2 + unit * size / 2
    return open_surface(grid, (2 * (size[0] + size[1]), size[2] + min(size[:2])))


def curtain(
    corner: tuple[float, float, float], width: float, height: float, folds: int, depth: float = 0.05
) -> Surface:
    """Hanging cloth along y from a lower corner, in folds that grow looser downwards."""
    s = np.linspace(0, 1, folds * 8 + 1)[None]
    v = np.linspace(0, 1, max(2, int(height / STEP) + 1))[:, None]
    wave = depth * (1.15 - 0.4 * v) * np.sin(2 * np.pi * folds * s + 0.5 * np.sin(7 * s))
    grid = np.stack([wave, width * s + 0 * v, height * v + 0 * s], axis=-1)
    return open_surface(grid + np.asarray(corner), (2 * width, height))
