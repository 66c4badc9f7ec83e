# SPDX-License-Identifier: GPL-3.0-or-later
"""What the codec "residual" is measured against: a sequence of feature grids in the way of ReRF.

Source: ReRF (Wang et al. 2023), its residual coding: frame t is the grid of frame t - 1 and a
residual that is trained to be small (L1); residuals are cut into blocks of 8^3, transformed by the
3D DCT, divided by a table that grows with frequency, and entropy coded in zigzag order; a group of
20 frames starts with a whole grid. The grid has as many values as the field that it is compared
with, the same network and the same points beside it. Coding is closed: a frame's residual is the
difference from what a decoder has of the last one, so that errors do not add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from peel4d.engine.clip.compression import Compressor
from peel4d.engine.clip.dictionary import FieldLayout, Grid
from peel4d.engine.clip.fragment import RADIUS_LIMITS
from peel4d.engine.clip.symbol_coder import encode_symbols
from peel4d.engine.clip.symbol_tables import fitted_table
from peel4d.engine.model.dictionary_field import FieldSample, Interpolate
from peel4d.engine.train.own_values import OwnValues
from peel4d.engine.train.residual import SourceFrame, learn_frame
from peel4d.engine.train.residual_settings import ResidualSettings

BLOCK = 8
#: A symbol that the table coder can hold.
_MOST = 255


@dataclass(frozen=True, eq=False)
class GridFrame:
    """A trained frame. grid: (corners, channels) float32. color: (N, 3) and radius: (N,), what the
    points have beside the field, unquantised."""

    source: SourceFrame
    grid: np.ndarray
    color: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True, eq=False)
class GridSequence:
    """grid: its shape. network: weights and biases, float32."""

    layout: FieldLayout
    grid: Grid
    network: list[np.ndarray]
    frames: list[GridFrame]


@dataclass(frozen=True, eq=False)
class GridFragment:
    """A decoded frame, as `encode_field_points` asks for it."""

    layout: FieldLayout
    grid: Grid
    network: Sequence[np.ndarray]
    values: np.ndarray

    def evaluate(self, step: int, position: np.ndarray):
        index, weight = self.grid.interpolation(position, self.layout.origin)
        features = np.einsum("nk,nkc->nc", weight, self.values[index])
        w1, b1, w2, b2 = self.network
        output = np.maximum(features @ w1 + b1, 0) @ w2 + b2
        low, high = (factor * self.layout.spacing for factor in RADIUS_LIMITS)
        part = 0.5 + 0.5 * np.tanh(0.5 * (output[:, :2] + np.float32(self.layout.start)))
        radius = (low + (high - low) * part[:, 0]).astype(np.float32)
        sh = output[:, 2:].reshape(len(position), -1, 3).astype(np.float32)
        return radius, np.maximum(part[:, 1], 1e-4).astype(np.float32), sh


def same_capacity(layout: FieldLayout) -> Grid:
    """A grid over the same box with as many values as the layout's coefficients and basis."""
    extent = (np.array(layout.coefficient.shape) - 1) * layout.coefficient.cell
    low, high = 1e-3 * extent.max(), extent.max()
    for _ in range(60):  # the number of corners falls as cells grow
        cell = math.sqrt(low * high)
        shape = np.maximum(np.ceil(extent / cell) + 1, 2)
        low, high = (cell, high) if shape.prod() * layout.channels > layout.values else (low, cell)
    shape = np.maximum(np.ceil(extent / high) + 1, 2)
    return Grid(tuple(int(n) for n in shape), high, layout.channels, False)


class GridField(torch.nn.Module):
    """A frame's grid as the last one's and a residual; trained like a `DictionaryField`."""

    def __init__(self, layout: FieldLayout, grid: Grid, before, network):
        super().__init__()
        self.layout, self.grid = layout, grid
        shape = grid.corners, grid.channels
        base = torch.zeros(shape) if before is None else torch.from_numpy(before)
        self.register_buffer("before", base)
        self.differences = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(shape))])
        self.log_scales = torch.nn.ParameterList()
        self.network = torch.nn.ParameterList()
        for index, size in enumerate(layout.network_shapes):
            if network is not None:
                value = torch.from_numpy(network[index])
            elif len(size) == 1:
                value = torch.zeros(size)
            else:
                value = torch.randn(size) * (0.5 if index == 0 else 0.3) * size[0] ** -0.5
            self.network.append(torch.nn.Parameter(value, requires_grad=network is None))

    def sample(self, position: np.ndarray) -> FieldSample:
        layout = replace(self.layout, coefficient=self.grid, basis=())
        return FieldSample(layout, position, torch.device("cpu"))

    @torch.no_grad()
    def start(self, sample: FieldSample) -> None:
        self.differences[0].uniform_(-2, 2).mul_(sample.touched[0][:, None])

    def forward(self, sample: FieldSample) -> torch.Tensor:
        # In the units of the dictionary's basis, so that the same learning rates suit it.
        values = self.layout.steps[1] * (self.before + self.differences[0])
        w1, b1, w2, b2 = self.network
        features = Interpolate.apply(values, *sample.matrices[0])
        return torch.relu(features @ w1 + b1) @ w2 + b2

    def residual_size(self) -> torch.Tensor:
        return self.differences[0].abs().sum()


def train_grids(
    layout: FieldLayout,
    sources: Sequence[SourceFrame],
    color,
    images,
    train_settings,
    settings: ResidualSettings,
) -> GridSequence:
    """One group of frames; nothing of it knows that it will be compressed but the L1 on residuals.
    settings: with `joint` off."""
    torch.manual_seed(train_settings.seed)
    grid = same_capacity(layout)
    before = network = None
    frames = []
    for number, source in enumerate(sources):
        field = GridField(layout, grid, before, network)
        _, own = learn_frame(field, source, color, images, train_settings, settings, number)
        with torch.no_grad():
            before = (field.before + field.differences[0]).numpy()
            network = network or [weight.numpy().copy() for weight in field.network]
            frames.append(_frame(source, before * layout.steps[1], own))
    return GridSequence(layout, grid, network, frames)


def _frame(source: SourceFrame, grid: np.ndarray, own: OwnValues) -> GridFrame:
    color, factor = own(False)
    return GridFrame(source, grid.astype(np.float32), color.numpy(), factor.numpy())


def compress(sequence: GridSequence, quality: float) -> tuple[list[np.ndarray], list[int]]:
    """Decoded grids and the bytes of every frame. quality: step of the lowest frequency; the
    network is counted with the first frame, a byte per number (it is not rounded to that)."""
    shape, channels = sequence.grid.shape, sequence.grid.channels
    decoded, sizes = [], []
    last = np.zeros((sequence.grid.corners, channels), dtype=np.float32)
    for number, frame in enumerate(sequence.frames):
        blocks = _blocks(frame.grid - last, shape)
        table = _table(quality)
        codes = np.rint(_transform(blocks) / table).astype(np.int64)
        last = last + _unblocked(_transform(codes * table, inverse=True), shape)
        decoded.append(last.astype(np.float32))
        network = sum(weight.size for weight in sequence.network) if number == 0 else 0
        sizes.append(_coded(codes) + network)
    return decoded, sizes


def _frequency() -> np.ndarray:
    return np.add.outer(np.add.outer(np.arange(BLOCK), np.arange(BLOCK)), np.arange(BLOCK))


def _table(quality: float) -> np.ndarray:
    """Steps of a block's coefficients: JPEG's habit, coarser for what is finer."""
    return quality * (1 + 0.25 * _frequency())


def _dct() -> np.ndarray:
    k = np.arange(BLOCK)
    matrix = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


def _transform(blocks: np.ndarray, inverse: bool = False) -> np.ndarray:
    """The orthonormal 3D DCT of (..., 8, 8, 8), or back."""
    matrix = _dct().T if inverse else _dct()
    return np.einsum("ai,bj,ck,...ijk->...abc", matrix, matrix, matrix, blocks, optimize=True)


def _blocks(values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(corners, channels) -> (channels, blocks, 8, 8, 8), with zeros around."""
    volume = values.T.reshape(-1, *shape[::-1])
    pad = [(0, 0)] + [(0, -n % BLOCK) for n in volume.shape[1:]]
    volume = np.pad(volume, pad)
    c, z, y, x = volume.shape
    cut = volume.reshape(c, z // BLOCK, BLOCK, y // BLOCK, BLOCK, x // BLOCK, BLOCK)
    return cut.transpose(0, 1, 3, 5, 2, 4, 6).reshape(c, -1, BLOCK, BLOCK, BLOCK)


def _unblocked(blocks: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The inverse of `_blocks`."""
    counts = [-(-n // BLOCK) for n in shape[::-1]]
    cut = blocks.reshape(-1, *counts, BLOCK, BLOCK, BLOCK).transpose(0, 1, 4, 2, 5, 3, 6)
    volume = cut.reshape(len(blocks), *(n * BLOCK for n in counts))
    x, y, z = shape
    return volume[:, :z, :y, :x].reshape(len(blocks), -1).T


def _coded(codes: np.ndarray) -> int:
    """Bytes of all blocks: the better of static tables by frequency, and zstd of run-length pairs
    in zigzag order."""
    order = np.argsort(_frequency().ravel(), kind="stable")
    scanned = codes.reshape(-1, BLOCK**3)[:, order]
    return min(_by_tables(scanned, _frequency().ravel()[order]), _by_runs(scanned))


def _by_tables(scanned: np.ndarray, frequency: np.ndarray) -> int:
    if np.abs(scanned).max(initial=0) > _MOST:
        return 1 << 62
    used = (scanned != 0).any(axis=1)
    flags = fitted_table(used.astype(np.int64))
    total = 3 + (len(encode_symbols(used + flags.highest, [flags.frequencies])) if len(used) else 0)
    runs, tables = [], []
    for level in range(int(frequency.max()) + 1):
        values = scanned[used][:, frequency == level].ravel()
        table = fitted_table(values)
        total += 3
        if table.highest:
            runs.append(values + table.highest)
            tables.append(table.frequencies)
    if runs:
        which = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        total += len(encode_symbols(np.concatenate(runs), tables, which))
    return total


def _by_runs(scanned: np.ndarray) -> int:
    runs, levels = bytearray(), bytearray()
    for block in scanned:
        places = np.flatnonzero(block)
        gaps = np.diff(places, prepend=-1) - 1
        runs += np.minimum(gaps, 254).astype(np.uint8).tobytes() + b"\xff"
        levels += block[places].astype("<i2").tobytes()
    compressor = Compressor()
    return len(compressor.compress(bytes(runs))) + len(compressor.compress(bytes(levels)))
