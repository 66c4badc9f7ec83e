# SPDX-License-Identifier: GPL-3.0-or-later
"""4K4D's way of peeling: K hardware raster passes over GL points.

One draw per pass; pass k keeps per pixel the nearest point behind the one that pass k - 1 kept
(depth test LESS, and a comparison with the depth texture of the pass before; two depth textures
take turns). The K layers are then composited in one pass over the picture. Written from the paper's
description (Xu et al. 2024, section 3.3 and appendix), for a tight loop: programs, buffers and
textures are made once, a point is one uvec4 (centre, 1 / radius, packed colour), nothing is read
back, and only the points' bounding box is cleared and composited.

Tried on llvmpipe, the software rasteriser of Mesa 22.3, body scene at 1080p on two cores: this form
845 ms; without the bounding box +7 %; float or half layers instead of 8 bits +14 %; two vec4 per
point +7 %; triangles instead of points +20 %; gl_PointCoord, or the tests in another order, no
difference; a flush after every 4096 points -5 % to -25 %, but then a pass is 64 draws.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from peel4d.engine.errors import PeelError
from peel4d.engine.render.camera import Camera
from peel4d.engine.render.settings import PeelSettings
from peel4d.engine.render.splats import SH_C0, Splats

# A depth texture has 24 bits. The window depth is spread over the scene's own range; what lies
# within 1.5 steps counts as the same depth (drivers round differently on write and on comparison).
_VERTEX = """#version 330
uniform mat4x3 view;
uniform vec4 lens;      // fx, fy, cx, cy
uniform vec4 window;    // low x, low y, width, height of the viewport
uniform vec2 depths;    // nearest, 2 / (farthest - nearest)
uniform float min_radius;
layout(location = 0) in vec3 position;
layout(location = 1) in float radius;
layout(location = 2) in vec4 color;  // density in alpha
flat out uvec4 disk;
void main() {
    vec3 p = view * vec4(position, 1.0);
    vec2 centre = lens.xy * p.xy / p.z + lens.zw;
    float exact = lens.x * radius / p.z;
    float drawn = max(exact, min_radius);
    float ratio = exact / drawn;
    uvec4 c = uvec4(round(vec4(color.rgb, color.a * ratio * ratio) * 255.0));
    disk = uvec4(floatBitsToUint(vec3(centre, 1.0 / drawn)),
                 c.r | c.g << 8 | c.b << 16 | c.a << 24);
    gl_PointSize = 2.0 * drawn + 1.0 / 64.0;
    gl_Position = vec4((centre - window.xy) / window.zw * 2.0 - 1.0,
                       (p.z - depths.x) * depths.y - 1.0, 1.0);
    if (p.z < depths.x) gl_Position = vec4(0.0, 0.0, -2.0, 1.0);
}
"""

_FRAGMENT = """#version 330
uniform sampler2D before;
flat in uvec4 disk;
out vec4 layer;
void main() {
    vec2 d = (gl_FragCoord.xy - uintBitsToFloat(disk.xy)) * uintBitsToFloat(disk.z);
    float q = dot(d, d);
    if (q >= 1.0 BEHIND) discard;
    vec4 c = vec4(uvec4(disk.w, disk.w >> 8, disk.w >> 16, disk.w >> 24) & 255u) / 255.0;
    float alpha = c.a * (1.0 - q);
    layer = vec4(c.rgb * alpha, alpha);
}
"""
_BEHIND = """|| gl_FragCoord.z <
    texelFetch(before, ivec2(gl_FragCoord.xy), 0).r + 1.5 / 16777215.0"""

_WHOLE_PICTURE = """#version 330
void main() {
    vec2 corner = vec2(gl_VertexID << 1 & 2, gl_VertexID & 2);
    gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}
"""


def create_context():
    """A context without a window (EGL on Linux), software or GPU. Raises PeelError."""
    # llvmpipe reads this when it starts; its default is the machine's cores, not the process's.
    if hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("LP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    hint = "pip install moderngl, and libegl1 and libgl1-mesa-dri where there is no GPU's driver"
    try:
        import moderngl
    except ImportError as error:
        raise PeelError(f"moderngl is not installed ({error})", hint=hint) from error
    how = {"backend": "egl"} if sys.platform == "linux" else {}
    try:
        return moderngl.create_context(standalone=True, require=330, **how)
    except Exception as error:  # glcontext raises bare Exception
        raise PeelError(f"no OpenGL context ({error})", hint=hint) from error


class GLPasses:
    """K raster passes over one cloud from one camera; a context manager.

    Colours are the points' view-independent part. fx and fy must be equal, as points are round.
    Raises PeelError for what GL points cannot draw.
    """

    def __init__(self, context, splats: Splats, camera: Camera, settings: PeelSettings):
        import moderngl

        self.context, self.camera = context, camera
        self._points, self._triangles = moderngl.POINTS, moderngl.TRIANGLES
        self._depth_test, self._point_size = moderngl.DEPTH_TEST, moderngl.PROGRAM_POINT_SIZE
        self._made: list = []
        try:
            self._make(splats, camera, settings)
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> GLPasses:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Free everything in the context."""
        while self._made:
            self._made.pop().release()

    def draw(self) -> None:
        """One picture, finished when this returns."""
        context, box = self.context, self._box
        context.enable_only(self._depth_test | self._point_size)
        for k, target in enumerate(self._passes):
            target.use()
            target.clear(viewport=box)
            if k:
                self._depths[(k - 1) % 2].use(0)
            (self._behind if k else self._first).render(self._points)
        context.enable_only(context.NOTHING)
        self._target.use()
        for k, layer in enumerate(self._layers):
            layer.use(k)
        self._composite.render(self._triangles, 3)
        context.finish()

    def picture(self) -> np.ndarray:
        """The last picture, (H, W, 4) float32 premultiplied, 8 bits deep, row 0 at the top."""
        shape = (self.camera.height, self.camera.width, 4)
        return np.frombuffer(self._picture.read(), np.uint8).reshape(shape) / np.float32(255)

    def _make(self, splats: Splats, camera: Camera, settings: PeelSettings) -> None:
        if camera.orthographic or camera.K[0, 0] != camera.K[1, 1] or camera.K[0, 1] != 0:
            raise PeelError("GL points are round, so this needs a perspective camera with fx = fy")
        margin, low, size, depths = self._extent(splats, camera, settings)
        self._box = (*low, *size)
        context, own = self.context, self._own
        rgb = np.clip(splats.sh[:, 0] * np.float32(SH_C0), 0, 1)
        columns = (splats.position, splats.radius[:, None], rgb, splats.density[:, None])
        buffer = own(context.buffer(np.concatenate(columns, axis=1).astype(np.float32)))
        attributes = [(buffer, "3f 1f 4f", 0, 1, 2)]
        programs = []
        for behind in ("", _BEHIND):
            fragment = _FRAGMENT.replace("BEHIND", behind)
            program = own(context.program(vertex_shader=_VERTEX, fragment_shader=fragment))
            program["view"] = tuple(np.c_[camera.R, camera.t].T.ravel())
            program["lens"] = tuple(camera.K[[0, 1, 0, 1], [0, 1, 2, 2]])
            # Wider than the picture: GL drops points whose centre is outside the viewport.
            viewport = (-margin, -margin, camera.width + 2 * margin, camera.height + 2 * margin)
            program["window"] = viewport
            program["depths"] = (depths[0], 2 / (depths[1] - depths[0]))
            program["min_radius"] = settings.min_radius_px
            programs.append(own(context.vertex_array(program, attributes)))
        self._first, self._behind = programs

        whole = (camera.width, camera.height)
        self._depths = [own(context.depth_texture(whole)) for _ in range(2)]
        for depth in self._depths:
            depth.compare_func = ""  # read as numbers
            depth.filter = (context.NEAREST, context.NEAREST)
        self._layers = [own(context.texture(whole, 4)) for _ in range(settings.layers)]
        self._passes = [
            own(context.framebuffer([layer], self._depths[k % 2]))
            for k, layer in enumerate(self._layers)
        ]
        self._picture = own(context.texture(whole, 4))
        self._target = own(context.framebuffer([self._picture]))
        self._target.clear()
        for target in (*self._passes, self._target):
            target.scissor = self._box
        for target in self._passes:
            target.viewport = viewport
        program = own(
            context.program(
                vertex_shader=_WHOLE_PICTURE,
                fragment_shader=_composite_shader(settings.layers, settings.min_transmittance),
            )
        )
        for k in range(settings.layers):
            program[f"layer{k}"] = k
        self._composite = own(context.vertex_array(program, []))

    def _own(self, thing):
        self._made.append(thing)
        return thing

    def _extent(
        self, splats: Splats, camera: Camera, settings: PeelSettings
    ) -> tuple[int, list[int], list[int], list[float]]:
        """Largest radius in pixels, low corner and size of the box that is drawn, depth range."""
        pixels, z = camera.project(splats.position)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.maximum(camera.K[0, 0] * splats.radius / z, settings.min_radius_px)[:, None]
            seen = (z > camera.near) & (z < camera.far)
            size = np.array([camera.width, camera.height])
            seen &= ((pixels + reach > 0) & (pixels - reach < size)).all(axis=1)
        if not seen.any():
            raise PeelError("no point is in the picture")
        pixels, reach, z = pixels[seen], reach[seen], z[seen]
        largest = self.context.info["GL_POINT_SIZE_RANGE"][1]
        if 2 * reach.max() + 1 > largest:
            raise PeelError(
                f"a point is {2 * reach.max():.0f} px wide, GL's points end at {largest:.0f} px"
            )
        low = np.clip(np.floor((pixels - reach).min(axis=0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil((pixels + reach).max(axis=0)) + 1, 0, size).astype(int)
        slack = 1e-3 * z.max()
        depths = [float(z.min() - slack), float(z.max() + slack)]
        return int(np.ceil(reach.max())) + 1, low.tolist(), (high - low).tolist(), depths


def _composite_shader(layers: int, min_transmittance: float) -> str:
    """Front to back over all layers at a pixel."""
    samplers = "".join(f"uniform sampler2D layer{k};\n" for k in range(layers))
    step = (
        f"    if (1.0 - sum.a >= {min_transmittance!r})"
        " sum += (1.0 - sum.a) * texelFetch(layer{k}, p, 0);\n"
    )
    return (
        f"#version 330\n{samplers}out vec4 sum;\nvoid main() {{\n"
        "    ivec2 p = ivec2(gl_FragCoord.xy);\n    sum = vec4(0.0);\n"
        + "".join(step.replace("{k}", str(k)) for k in range(layers))
        + "}\n"
    )
