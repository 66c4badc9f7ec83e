# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a composite has to mend the edges of CG that stands before a clip. No bpy.

A pixel at such an edge shows CG by the share c and the clip by the rest, but in the bare CG picture
that rest is what lies behind the clip: a bright sky would shine through as a line between dark CG
and a dark clip. There the CG's colour is taken from the nearest pixels that show CG alone.
"""

from __future__ import annotations

import numpy as np

#: The passes of a composite: pixels that do not show CG alone, and how far a pixel is to be mended.
#: Zeros, which is also what a pass holds that was never written, mend nothing.
OUTSIDE, EDGE = "CG Outside", "CG Edge"
#: Pixels from which an edge may take its colour: past those that a render filter still blurs.
REACH = 4
#: Less alpha than this cannot be seen.
_SEEN = 1 / 255
#: A surface ends where the second difference of 1 / depth is more than this share of it.
_BREAK = 0.01


def edges_of_cg(held: np.ndarray, free: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    """The passes OUTSIDE and EDGE, (H, W) float32; none where there is nothing to mend, or nothing
    to mend it with: an Inpaint node that finds no colour at all reads memory that is not its own.

    held, free: (H, W) alpha of the clips with the CG as a holdout and without. depth: (H, W) of the
    CG alone, not finite where there is none.
    """
    shown, hidden = held > _SEEN, held < free - _SEEN
    # Filters blur the edge into the next pixel, if that is nearer than the middle of this one.
    shared = shown | _grown(shown & (held > 0.5 * free), diagonally=False)
    # Thin parts of a clip before CG let it through, too, but there the CG's own colour is right.
    at_edge = hidden & shared & _grown(_breaks(depth))
    # Render filters are wider than a pixel: what touches the clip is not CG alone.
    inside = hidden & ~_grown(shown)
    if not (inside.any() and at_edge.any()):
        return {}
    return {
        OUTSIDE: (~inside).astype(np.float32),
        # Where the clip itself is thin, what is behind it belongs into the pixel.
        EDGE: np.where(at_edge, free, 0.0).astype(np.float32),
    }


def _breaks(depth: np.ndarray) -> np.ndarray:
    """Where a pixel and its neighbours are not of one surface: 1 / depth of a plane is linear."""
    near = np.where(np.isfinite(depth), 1.0 / np.maximum(depth, 1e-12), 0.0)
    found = np.zeros(depth.shape, bool)
    for w, breaks in ((near, found), (near.T, found.T)):
        bend = np.abs(w[:-2] - 2.0 * w[1:-1] + w[2:])
        breaks[1:-1] |= bend > _BREAK * np.maximum(np.maximum(w[:-2], w[1:-1]), w[2:])
    return found


def _grown(mask: np.ndarray, diagonally: bool = True) -> np.ndarray:
    """With the neighbours."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    source, result = (grown, grown.copy()) if diagonally else (mask, grown)
    result[:, 1:] |= source[:, :-1]
    result[:, :-1] |= source[:, 1:]
    return result
