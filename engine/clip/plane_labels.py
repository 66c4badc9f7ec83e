"""Which texels of planes have the zero code, a shared one or one of their own: coded by neighbours.

A plane is coded in three turns, so that what a texel is predicted by is known before its turn:
every other texel of every other row, what lies between them in these rows, the rows between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

#: Of a texel; the zero code is 0.
CLUSTERED, KEPT = 1, 2
CLASSES = 3
#: What two neighbours may be, for space planes and for time planes.
_CONTEXTS = CLASSES * CLASSES

#: Per group the (H, W) of its planes.
Sizes = Sequence[Sequence[tuple[int, int]]]


def encode_classes(
    groups: Sequence[np.ndarray], sizes: Sizes
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """groups: (T,) classes of all texels of a group's planes. Gives symbols, contexts and how many
    contexts there are, for every turn."""
    planes = _planes(groups, sizes)
    for turn in range(3):
        symbols = [_texels(plane, turn).ravel() for plane, _ in planes]
        contexts = [_contexts(plane, turn, kind) for plane, kind in planes]
        yield np.concatenate(symbols), np.concatenate(contexts), 2 * _CONTEXTS


def decode_classes(
    sizes: Sizes, read: Callable[[int, np.ndarray, int], np.ndarray]
) -> list[np.ndarray]:
    """The classes of every group. read: (count, contexts, how many) -> the symbols of a turn;
    those that are no class become the zero code, which no texel is hurt by."""
    groups = [np.zeros(sum(h * w for h, w in planes), dtype=np.uint8) for planes in sizes]
    planes = _planes(groups, sizes)
    for turn in range(3):
        contexts = np.concatenate([_contexts(plane, turn, kind) for plane, kind in planes])
        symbols = read(len(contexts), contexts, 2 * _CONTEXTS)
        symbols = np.where(symbols < CLASSES, symbols, 0).astype(np.uint8)
        at = 0
        for plane, _ in planes:
            view = _texels(plane, turn)
            view[...] = symbols[at : at + view.size].reshape(view.shape)
            at += view.size
    return groups


def _planes(groups: Sequence[np.ndarray], sizes: Sizes) -> list[tuple[np.ndarray, int]]:
    """Views (H, W) of all planes, and 0 for those of space, 1 for those of time."""
    planes = []
    for number, (group, own) in enumerate(zip(groups, sizes, strict=True)):
        at = 0
        for h, w in own:
            planes.append((group[at : at + h * w].reshape(h, w), number % 2))
            at += h * w
    return planes


def _texels(plane: np.ndarray, turn: int) -> np.ndarray:
    return (plane[::2, ::2], plane[::2, 1::2], plane[1::2])[turn]


def _contexts(plane: np.ndarray, turn: int, kind: int) -> np.ndarray:
    """What the texels of a turn lie between."""
    texels = _texels(plane, turn)
    if turn == 0:
        near = np.zeros(texels.shape, dtype=np.int32)
    else:
        rows = plane[::2] if turn == 2 else plane[::2, ::2].T
        count = texels.shape[0] if turn == 2 else texels.shape[1]
        after = rows[1 : count + 1]
        if len(after) < count:  # the last one has no neighbour behind it
            after = np.concatenate([after, rows[-1:]])
        near = CLASSES * rows[:count].astype(np.int32) + after
        near = near if turn == 2 else near.T
    return (near + kind * _CONTEXTS).ravel()
