"""`clip.json`: ClipInfo to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np

from ..errors import ClipError, PeelError
from ..render.settings import PeelSettings
from ..render.splats import SH_COUNTS
from .clip import (
    COLOR_SPACE,
    FOOTPRINT_VERSION,
    MAX_BASES,
    MAX_DECODED_BYTES,
    MAX_FRAMES,
    MAX_IMAGE_SIZE,
    MAX_INFO_BYTES,
    MAX_POINTS,
    SCHEMA,
    SCHEMA_VERSION,
    ClipAttribute,
    ClipCamera,
    ClipFragment,
    ClipInfo,
)
from .fields import Fields, parse_object

#: How the chunks of a clip may be stored; codecs.py has them.
CODECS = ("baked", "predictive")
#: Codecs of clips whose frames share fields; codecs.py has them, too.
FIELD_CODECS = ("kplanes", "codebook", "residual")

UPDATE_HINT = "Update Peel4D to open it"


def encode_info(info: ClipInfo, where: str) -> bytes:
    """`clip.json` of a clip. Raises ClipError when the provenance is not plain JSON."""
    document = {
        "schema": SCHEMA,
        "version": info.version,
        "codec": info.codec,
        "frame_count": info.frame_count,
        "first_frame": info.first_frame,
        "fps": info.fps,
        "points": list(info.points),
        "static_points": info.static_points,
        "sh_degree": info.sh_degree,
        "bounds": info.bounds.tolist(),
        "frame_bounds": info.frame_bounds.tolist(),
        "up": None if info.up is None else info.up.tolist(),
        "color": info.color,
        "render": {
            "layers": info.settings.layers,
            "min_radius_px": info.settings.min_radius_px,
            "min_transmittance": info.settings.min_transmittance,
            "footprint": info.footprint,
        },
        "cameras": [
            {
                "name": camera.name,
                "K": camera.K.tolist(),
                "R": camera.R.tolist(),
                "t": camera.t.tolist(),
                "width": camera.width,
                "height": camera.height,
                "train": camera.train,
            }
            for camera in info.cameras
        ],
        "attributes": [
            {
                "name": attribute.name,
                "type": attribute.type,
                "components": attribute.components,
                "scope": attribute.scope,
                "range": [attribute.low, attribute.high],
                "bytes": attribute.nbytes,
            }
            for attribute in info.attributes
        ],
        "provenance": dict(info.provenance),
    }
    if info.fragments:
        document["fragments"] = [
            {"first": fragment.first, "frames": fragment.frames, "base": fragment.base}
            for fragment in info.fragments
        ]
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ClipError(
            f"the clip's description cannot be written as JSON ({error})",
            where=where,
            hint="Cameras must be finite; provenance takes texts, numbers, lists and dicts",
        ) from error
    if len(text) > MAX_INFO_BYTES:
        raise ClipError(
            f"the clip's description takes {len(text)} bytes, more than {MAX_INFO_BYTES}",
            where=where,
            hint="Put less into the provenance",
        )
    return text.encode("ascii")


def decode_info(data: bytes, where: str) -> ClipInfo:
    """The validated ClipInfo in `clip.json`.

    Raises ClipError for another schema or version and for missing, mistyped or absurd values.
    Keys that this version does not know are ignored.
    """
    fields = parse_object(data, where)
    if fields.values.get("schema") != SCHEMA:
        raise ClipError(
            f"not a Peel4D clip (schema {fields.values.get('schema')!r})",
            where=where,
            hint="Choose a .p4d file that Peel4D has written",
        )
    version = fields.integer("version", 0, 1 << 31)
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise ClipError(
            f"clip version {version} is {'newer' if newer else 'older'} than this program's "
            f"version {SCHEMA_VERSION}",
            where=where,
            hint=UPDATE_HINT if newer else "Export the clip again with this version",
        )
    codec = _supported(fields, "codec", CODECS + FIELD_CODECS)
    _supported(fields, "color", {COLOR_SPACE})
    frame_count = fields.integer("frame_count", 1, MAX_FRAMES)
    points = fields.integers("points", frame_count, 0, MAX_POINTS)
    static_points = fields.integer("static_points", 0, MAX_POINTS)
    sh_degree = fields.integer("sh_degree", 0, len(SH_COUNTS) - 1)
    decoded = (max(points) + static_points) * point_nbytes(sh_degree)
    if decoded > MAX_DECODED_BYTES:
        raise fields.fail("points", f"a size this program opens ({decoded} bytes per frame)")
    own_bounds = "frame_bounds" if "frame_bounds" in fields.values else "bounds"
    return ClipInfo(
        version=version,
        codec=codec,
        frame_count=frame_count,
        first_frame=fields.integer("first_frame", -(1 << 31), 1 << 31),
        fps=fields.number("fps", 1e-6, 1e6),
        points=points,
        static_points=static_points,
        sh_degree=sh_degree,
        bounds=_bounds(fields, "bounds"),
        frame_bounds=_bounds(fields, own_bounds),
        up=None if fields.values.get("up") is None else _direction(fields, "up"),
        color=COLOR_SPACE,
        footprint=FOOTPRINT_VERSION,
        settings=_render_rules(fields.mapping("render")),
        cameras=tuple(_camera(camera) for camera in fields.mappings("cameras")),
        attributes=tuple(_attribute(row) for row in fields.mappings("attributes")),
        provenance=fields.mapping("provenance").values,
        fragments=_fragments(fields, frame_count) if codec in FIELD_CODECS else (),
    )


def point_nbytes(sh_degree: int) -> int:
    """Bytes of one decoded point: position, radius, density and SH as float32."""
    return 4 * (3 + 1 + 1 + 3 * SH_COUNTS[sh_degree])


def _supported(fields: Fields, key: str, known: Collection[str]) -> str:
    value = fields.text(key)
    if value not in known:
        raise ClipError(
            f"{key} {value!r} is not known to this program ({', '.join(sorted(known))})",
            where=fields.where,
            hint=UPDATE_HINT,
        )
    return value


def _bounds(fields: Fields, key: str) -> np.ndarray:
    bounds = fields.array(key, (2, 3))
    if (bounds[0] > bounds[1]).any():
        raise fields.fail(key, "lowest before highest")
    return bounds


def _direction(fields: Fields, key: str) -> np.ndarray:
    vector = fields.array(key, (3,))
    length = float(np.linalg.norm(vector))
    if abs(length - 1) > 1e-6:
        raise fields.fail(key, "of unit length")
    return vector


def _fragments(fields: Fields, frame_count: int) -> tuple[ClipFragment, ...]:
    """Fragments that follow each other and hold every frame."""
    fragments: list[ClipFragment] = []
    first = bases = 0
    for row in fields.mappings("fragments"):
        if row.integer("first", 0, MAX_FRAMES) != first:
            raise row.fail("first", f"{first}, the frame after the last fragment")
        frames = row.integer("frames", 1, MAX_FRAMES)
        base = None
        if row.values.get("base") is not None:
            base = row.integer("base", 0, min(bases, MAX_BASES - 1))  # first comes, first counted
            bases = max(bases, base + 1)
        fragments.append(ClipFragment(first, frames, base))
        first += frames
    if first != frame_count:
        raise fields.fail("fragments", f"a list that holds the {frame_count} frames")
    return tuple(fragments)


def _render_rules(fields: Fields) -> PeelSettings:
    footprint = fields.integer("footprint", 0, 1 << 31)
    if footprint != FOOTPRINT_VERSION:
        raise ClipError(
            f"the clip was made for version {footprint} of the rendering rules, "
            f"this program has version {FOOTPRINT_VERSION}",
            where=fields.where,
            hint=UPDATE_HINT,
        )
    layers = fields.integer("layers", 1, 1 << 31)
    min_radius_px = fields.number("min_radius_px")
    min_transmittance = fields.number("min_transmittance")
    try:
        return PeelSettings(layers, min_radius_px, min_transmittance)
    except PeelError as error:
        raise ClipError(error.what, where=fields.where, hint=error.hint) from error


def _camera(fields: Fields) -> ClipCamera:
    return ClipCamera(
        name=fields.text("name"),
        K=fields.array("K", (3, 3)),
        R=fields.array("R", (3, 3)),
        t=fields.array("t", (3,)),
        width=fields.integer("width", 1, MAX_IMAGE_SIZE),
        height=fields.integer("height", 1, MAX_IMAGE_SIZE),
        train=fields.flag("train"),
    )


def _attribute(fields: Fields) -> ClipAttribute:
    low, high = fields.array("range", (2,)).tolist()
    return ClipAttribute(
        name=fields.text("name"),
        type=fields.text("type"),
        components=fields.integer("components", 1, 1 << 20),
        scope=fields.text("scope"),
        low=low,
        high=high,
        nbytes=fields.integer("bytes", 0, 1 << 62),
    )
