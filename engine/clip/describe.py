"""A clip in numbers, for `peel4d info` and for whoever wants to know what it costs."""

from __future__ import annotations

import numpy as np

from .reader import ClipReader


def describe(reader: ClipReader) -> dict[str, object]:
    """JSON-able description of an open clip.

    Keys: path, version, codec, color, frames, first_frame, fps, seconds, points {min, mean, max,
    static}, sh_degree, bounds {low, high}, frame_bounds {low, high}, up, bytes {total, shared,
    frame_min, frame_mean, frame_max, per_point}, bytes_per_frame {attribute: mean}, static_bytes
    {attribute: bytes},
    shared_bytes {component: bytes of all fragments and bases}, fragments [{first, frames,
    base}], render, cameras [{name, width, height, train}], attributes [{name, type, components,
    scope, range}], provenance.
    """
    info = reader.info
    sizes = [reader.frame_nbytes(index) for index in range(info.frame_count)]
    stored = sum(info.points)
    return {
        "path": str(reader.path),
        "version": info.version,
        "codec": info.codec,
        "color": info.color,
        "frames": info.frame_count,
        "first_frame": info.first_frame,
        "fps": info.fps,
        "seconds": info.frame_count / info.fps,
        "points": {
            "min": min(info.points),
            "mean": stored / info.frame_count,
            "max": max(info.points),
            "static": info.static_points,
        },
        "sh_degree": info.sh_degree,
        "bounds": _box(info.bounds),
        "frame_bounds": _box(info.frame_bounds),
        "up": None if info.up is None else info.up.tolist(),
        "bytes": {
            "total": reader.total_nbytes,
            "shared": reader.shared_nbytes,
            "frame_min": min(sizes),
            "frame_mean": sum(sizes) / len(sizes),
            "frame_max": max(sizes),
            "per_point": sum(sizes) / stored if stored else None,
        },
        "bytes_per_frame": {
            row.name: row.nbytes / info.frame_count
            for row in info.attributes
            if row.scope == "frame"
        },
        "static_bytes": {row.name: row.nbytes for row in info.attributes if row.scope == "static"},
        "shared_bytes": {
            row.name: row.nbytes for row in info.attributes if row.scope == "fragment"
        },
        "fragments": [
            {"first": fragment.first, "frames": fragment.frames, "base": fragment.base}
            for fragment in info.fragments
        ],
        "render": {
            "layers": info.settings.layers,
            "min_radius_px": info.settings.min_radius_px,
            "min_transmittance": info.settings.min_transmittance,
            "footprint": info.footprint,
        },
        "cameras": [
            {
                "name": camera.name,
                "width": camera.width,
                "height": camera.height,
                "train": camera.train,
            }
            for camera in info.cameras
        ],
        "attributes": [
            {
                "name": row.name,
                "type": row.type,
                "components": row.components,
                "scope": row.scope,
                "range": [row.low, row.high],
            }
            for row in info.attributes
        ],
        "provenance": dict(info.provenance),
    }


def _box(bounds: np.ndarray) -> dict[str, list[float]]:
    return {"low": bounds[0].tolist(), "high": bounds[1].tolist()}
