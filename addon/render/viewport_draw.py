# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished picture as a texture in a viewport.

`RenderEngine.view_draw` draws into a scene-linear buffer: the scene's view transform comes later.
The picture goes to the graphics device as it is and a shader decodes it, as
`color.scene_linear_from_clip` does, which takes no time of the UI thread.
"""

from __future__ import annotations

import numpy as np

_VERTEX = """
void main()
{
  uv = vec2(corner.x, 1.0 - corner.y);
  gl_Position = vec4(rectangle.xy + corner * rectangle.zw, 0.0, 1.0);
}
"""

_FRAGMENT = """
void main()
{
  vec4 c = texture(picture, uv);
  vec3 light = vec3(0.0);
  if (c.a > 0.0) {
    vec3 s = max(c.rgb / c.a, vec3(0.0));
    vec3 low = s / 12.92;
    vec3 high = pow((s + 0.055) / 1.055, vec3(2.4));
    light = mix(high, low, vec3(lessThanEqual(s, vec3(0.04045))));
    light = vec3(dot(red.xyz, light), dot(green.xyz, light), dot(blue.xyz, light)) * c.a;
  }
  fragment = vec4(light, c.a) + (1.0 - c.a) * background;
}
"""


def fill(rectangle: tuple[int, int, int, int], color: tuple[float, float, float]) -> None:
    """Fill a part of the bound framebuffer's viewport; x, y, width, height in pixels, y up.

    That costs next to nothing, so pictures only need to hold the part in which anything is.
    """
    import gpu

    x, y, width, height = rectangle
    origin_x, origin_y, region_width, region_height = gpu.state.viewport_get()
    framebuffer = gpu.state.active_framebuffer_get()
    if (x, y, width, height) == (0, 0, region_width, region_height):
        framebuffer.clear(color=(*map(float, color), 1.0))
        return
    before = gpu.state.scissor_get()
    gpu.state.scissor_set(origin_x + x, origin_y + y, width, height)
    gpu.state.scissor_test_set(True)
    try:
        framebuffer.clear(color=(*map(float, color), 1.0))
    finally:
        gpu.state.scissor_test_set(False)
        gpu.state.scissor_set(*before)


class PictureTexture:
    """The texture of one viewport. Main thread, with a graphics context."""

    def __init__(self) -> None:
        self._texture = None
        self._source: object | None = None
        self._shader = None
        self._batch = None

    def upload(self, rgba: np.ndarray, source: object, fine: bool) -> None:
        """rgba: (H, W, 4) float32, contiguous, row 0 = top. source: its identity; the same is not
        uploaded again. fine: with more than 8 bits, which takes twice as long or more."""
        if source is self._source:
            return
        import gpu

        height, width = rgba.shape[:2]
        pixels = gpu.types.Buffer("FLOAT", rgba.size, rgba.reshape(-1))
        kind = "RGBA16F" if fine else "RGBA8"
        self._texture = gpu.types.GPUTexture((width, height), format=kind, data=pixels)
        self._source = source

    def draw(
        self,
        rectangle: tuple[float, float, float, float],
        background: tuple[float, float, float] | None,
        rec709_to_scene_linear: np.ndarray | None,
    ) -> None:
        """Draw over the bound framebuffer.

        rectangle: left, bottom, width, height in [0, 1] of the region. background: scene-linear,
        None = transparent.
        """
        import gpu

        if self._texture is None:
            return
        if self._shader is None:
            self._shader, self._batch = _create()
        left, bottom, width, height = rectangle
        rows = np.eye(3) if rec709_to_scene_linear is None else rec709_to_scene_linear
        shader = self._shader
        blend = gpu.state.blend_get()
        gpu.state.blend_set("ALPHA_PREMULT")
        try:
            shader.bind()
            corners = (2 * left - 1, 2 * bottom - 1, 2 * width, 2 * height)
            shader.uniform_float("rectangle", corners)
            for name, row in zip(("red", "green", "blue"), rows, strict=True):
                shader.uniform_float(name, (*map(float, row), 0.0))
            opaque = (0.0,) * 4 if background is None else (*map(float, background), 1.0)
            shader.uniform_float("background", opaque)
            shader.uniform_sampler("picture", self._texture)
            self._batch.draw(shader)
        finally:
            gpu.state.blend_set(blend)


def _create() -> tuple[object, object]:
    import gpu
    from gpu_extras.batch import batch_for_shader

    between = gpu.types.GPUStageInterfaceInfo("peel4d_picture")
    between.smooth("VEC2", "uv")
    info = gpu.types.GPUShaderCreateInfo()
    info.vertex_in(0, "VEC2", "corner")
    info.vertex_out(between)
    info.fragment_out(0, "VEC4", "fragment")
    info.sampler(0, "FLOAT_2D", "picture")
    for name in ("rectangle", "background", "red", "green", "blue"):
        info.push_constant("VEC4", name)
    info.vertex_source(_VERTEX)
    info.fragment_source(_FRAGMENT)
    shader = gpu.shader.create_from_info(info)
    corners = [(0, 0), (1, 0), (1, 1), (0, 0), (1, 1), (0, 1)]
    return shader, batch_for_shader(shader, "TRIS", {"corner": corners})
