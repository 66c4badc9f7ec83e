# SPDX-License-Identifier: GPL-3.0-or-later
"""The source texts of the depth peel on Blender's graphics device.

Depths. Blender's back ends differ in how they bring a vertex's z into the depth buffer, and all
round it. The programs write gl_FragDepth = z * depth_scale instead, depth_scale a power of two
beyond the far limit: exact in float32, so that the order of the points is that of their keys.

Rows. Row 0 of every texture is the bottom one, as everywhere in Blender.
"""

from __future__ import annotations

#: Width of the textures that hold points and footprints; a power of two.
TABLE_WIDTH = 4096
_TABLE_SHIFT = TABLE_WIDTH.bit_length() - 1
#: Points of one instance of the batch that is drawn; the graphics device fills its groups of
#: vertices with them, which single triangles would not.
POINTS_PER_INSTANCE = 64
#: Layers that are composited at a time. Even, as two depth textures take turns.
LAYERS_PER_BATCH = 4
#: Pixels along a side of the squares in which a layer is asked whether anything is in it.
COVERAGE_SQUARE = 16

RECTANGLE = "void main() { gl_Position = vec4(corner, 0.0, 1.0); }"

#: One clip and the camera, four numbers a line; filled by `gl_footprints.clip_block`.
CLIP = """
struct Peel4DClip {
  vec4 row0; vec4 row1; vec4 row2;  /* clip -> camera, OpenCV axes but y up */
  vec4 eye;     /* camera centre in the clip (orthographic: viewing direction), radius scale */
  vec4 lens;    /* fx, fy, cx, cy in pixels, from the lower left corner */
  vec4 limits;  /* near, far, skew, smallest radius in pixels */
  vec4 scale;   /* depth scale, opacity, 1 for orthographic cameras, - */
  vec4 table;   /* points, stride, harmonics per channel, first row of the footprints */
};
"""

#: Footprints of the points of one clip, one texel each: centre, depth, weight; semi-axes; colour.
PROJECT = (
    f"""
#define BITS {_TABLE_SHIFT}
#define WIDTH {TABLE_WIDTH}
"""
    + """
/* a b + c, rounded once, as the depth keys of all back ends are. The language's own fma() may round
   twice (Mesa's software device does), so the product's and the sum's rounding errors are added:
   Dekker (1971) and Knuth's two-sum. */
float fused(float a, float b, float c)
{
#ifdef GPU_METAL
  return fma(a, b, c);
#else
  precise float large = a * 4097.0;
  precise float a1 = large - (large - a);
  precise float a2 = a - a1;
  large = b * 4097.0;
  precise float b1 = large - (large - b);
  precise float b2 = b - b1;
  precise float product = a * b;
  precise float lost = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
  precise float sum = product + c;
  precise float part = sum - product;
  precise float missing = (product - (sum - part)) + (c - part);
  precise float result = sum + (missing + lost);
  return result;
#endif
}

float coefficient(int at)
{
  int texel = at >> 2;
  vec4 four = texelFetch(look, ivec2(texel & (WIDTH - 1), texel >> BITS), 0);
  int part = at & 3;
  return part == 0 ? four.x : part == 1 ? four.y : part == 2 ? four.z : four.w;
}

vec3 harmonic(int first, int basis)
{
  int at = first + 1 + 3 * basis;
  return vec3(coefficient(at), coefficient(at + 1), coefficient(at + 2));
}

vec3 view_color(vec3 d, int first, int count)
{
  vec3 c = 0.28209479177387814 * harmonic(first, 0);
  if (count > 1) {
    c += 0.4886025119029199 *
         (d.z * harmonic(first, 2) - d.y * harmonic(first, 1) - d.x * harmonic(first, 3));
  }
  vec3 s = d * d;
  if (count > 4) {
    c += 1.0925484305920792 * (d.x * d.y * harmonic(first, 4) - d.y * d.z * harmonic(first, 5) -
                               d.x * d.z * harmonic(first, 7));
    c += 0.31539156525252005 * (2.0 * s.z - s.x - s.y) * harmonic(first, 6);
    c += 0.5462742152960396 * (s.x - s.y) * harmonic(first, 8);
  }
  if (count > 9) {
    c -= 0.5900435899266435 * d.y * (3.0 * s.x - s.y) * harmonic(first, 9);
    c += 2.890611442640554 * d.x * d.y * d.z * harmonic(first, 10);
    c -= 0.4570457994644658 * d.y * (4.0 * s.z - s.x - s.y) * harmonic(first, 11);
    c += 0.3731763325901154 * d.z * (2.0 * s.z - 3.0 * s.x - 3.0 * s.y) * harmonic(first, 12);
    c -= 0.4570457994644658 * d.x * (4.0 * s.z - s.x - s.y) * harmonic(first, 13);
    c += 1.445305721320277 * d.z * (s.x - s.y) * harmonic(first, 14);
    c -= 0.5900435899266435 * d.x * (s.x - 3.0 * s.y) * harmonic(first, 15);
  }
  return clamp(c, 0.0, 1.0);
}

void main()
{
  place = vec4(0.0);
  axes = vec2(1.0);
  color = vec4(0.0);
  ivec2 here = ivec2(gl_FragCoord.xy);
  int stride = int(clip.table.y);
  int index = (((here.y - int(clip.table.w)) << BITS) + here.x) * stride;
  if (index >= int(clip.table.x)) {
    return;
  }
  vec4 point = texelFetch(points, ivec2(index & (WIDTH - 1), index >> BITS), 0);
  float z = fused(clip.row2.x, point.x,
                  fused(clip.row2.y, point.y, fused(clip.row2.z, point.z, clip.row2.w)));
  bool orthographic = clip.scale.z > 0.5;
  if (!(z > clip.limits.x && z < clip.limits.y && point.w > 0.0) || (!orthographic && z <= 0.0)) {
    return;
  }
  float divisor = orthographic ? 1.0 : z;
  float x = (dot(clip.row0.xyz, point.xyz) + clip.row0.w) / divisor;
  float y = (dot(clip.row1.xyz, point.xyz) + clip.row1.w) / divisor;
  vec2 centre = clip.lens.xy * vec2(x, y) + vec2(clip.limits.z * y, 0.0) + clip.lens.zw;
  /* Fewer points are larger ones, so that they still cover what all of them cover. */
  float radius = point.w * clip.eye.w * sqrt(float(stride));
  vec2 exact = abs(clip.lens.xy) * radius / divisor;
  axes = max(exact, vec2(clip.limits.w));
  int count = int(clip.table.z);
  int first = index * (((3 * count + 4) >> 2) << 2);
  float weight = coefficient(first) * clip.scale.y * (exact.x / axes.x) * (exact.y / axes.y);
  vec3 direction = orthographic ? clip.eye.xyz : point.xyz - clip.eye.xyz;
  float size = length(direction);
  direction = size > 0.0 ? direction / size : vec3(0.0);
  place = vec4(centre, z * clip.scale.x, weight);
  color = vec4(view_color(direction, first, count), 1.0);
}
"""
)

#: One layer: a triangle around every footprint, which has two corners and one edge less to set up
#: than a square.
PEEL_VERTEX = (
    f"""
#define BITS {_TABLE_SHIFT}
#define WIDTH {TABLE_WIDTH}
#define GROUP {POINTS_PER_INSTANCE}
"""
    + """
void main()
{
  int index = first + gl_InstanceID * GROUP + int(corner.z);
  ivec2 texel = ivec2(index & (WIDTH - 1), index >> BITS);
  vec4 centre = texelFetch(place, texel, 0);
  vec2 reach = texelFetch(axes, texel, 0).xy;
  disk = vec4(centre.xy, 1.0 / reach);
  tint = vec4(texelFetch(color, texel, 0).rgb, centre.w);
  key = vec2(centre.z, float(index));
  vec2 pixel = centre.xy + corner.xy * (reach + 1.0 / 64.0);
  gl_Position = centre.w > 0.0 ? vec4(pixel / size * 2.0 - 1.0, 0.0, 1.0) :
                                 vec4(-2.0, -2.0, 0.0, 1.0);
}
"""
)
PEEL_FRAGMENT = """
void main()
{
  vec2 d = (gl_FragCoord.xy - disk.xy) * disk.zw;
  float q = dot(d, d);
  ivec2 here = ivec2(gl_FragCoord.xy);
  float last = texelFetch(before, here, 0).r;
  if (q >= 1.0 || key.x < last ||
      (key.x == last && key.y <= texelFetch(before_index, here, 0).r) ||
      key.x >= texelFetch(limit, here, 0).r ||
      1.0 - texelFetch(total, here, 0).a < min_transmittance)
  {
    discard;
  }
  float alpha = tint.a * (1.0 - q);
  layer = vec4(tint.rgb * alpha, alpha);
  index = key.y;
  gl_FragDepth = key.x;
}
"""

#: The layers of a batch behind what was composited so far.
COMPOSITE = """
void main()
{
  ivec2 here = ivec2(gl_FragCoord.xy);
  vec4 all = texelFetch(total, here, 0);
  for (int k = 0; k < count; k++) {
    if (1.0 - all.a >= min_transmittance) {
      vec4 one = k == 0 ? texelFetch(layer0, here, 0) :
                 k == 1 ? texelFetch(layer1, here, 0) :
                 k == 2 ? texelFetch(layer2, here, 0) : texelFetch(layer3, here, 0);
      all += (1.0 - all.a) * one;
    }
  }
  result = all;
}
"""

#: Whether anything is in the squares of a layer: the largest alpha of each.
COVERAGE = (
    f"""
#define SQUARE {COVERAGE_SQUARE}
"""
    + """
void main()
{
  ivec2 low = ivec2(gl_FragCoord.xy) * SQUARE;
  ivec2 high = min(low + SQUARE, textureSize(layer, 0));
  float most = 0.0;
  for (int y = low.y; y < high.y; y++) {
    for (int x = low.x; x < high.x; x++) {
      most = max(most, texelFetch(layer, ivec2(x, y), 0).a);
    }
  }
  result = vec4(most);
}
"""
)

#: The depth buffer of a viewport -> key of what stands in the scene. `rows`: the third and fourth
#: row's last two numbers of the projection that made it.
LIMIT = """
void main()
{
  vec2 size_in = vec2(textureSize(scene, 0));
  ivec2 from = min(ivec2(gl_FragCoord.xy / size * size_in), ivec2(size_in) - 1);
  float depth = texelFetch(scene, from, 0).r;
  float ndc = depth * 2.0 - 1.0;
  float z = (rows.y - ndc * rows.w) / (ndc * rows.z - rows.x) + shift;
  result = vec4(0.0);
  gl_FragDepth = depth >= 1.0 ? 1.0 : clamp(z * depth_scale, 0.0, 1.0);
}
"""

MESH_VERTEX = """
void main()
{
  gl_Position = projection * vec4(position, 1.0);
  tint = color;
  z = dot(forward.xyz, position) + forward.w;
}
"""
MESH_FRAGMENT = """
void main()
{
  result = vec4(clamp(tint.rgb, 0.0, 1.0) * tint.a, tint.a);
  gl_FragDepth = clamp(z * depth_scale, 0.0, 1.0);
}
"""

DECODE = """
vec3 decode(vec3 srgb)
{
  vec3 low = srgb / 12.92;
  vec3 high = pow((max(srgb, vec3(0.0)) + 0.055) / 1.055, vec3(2.4));
  return mix(high, low, lessThanEqual(srgb, vec3(0.04045)));
}
"""

#: The finished picture: points before the triangles, premultiplied; scene-linear if `linear`.
RESOLVE = (
    DECODE
    + """
void main()
{
  ivec2 here = ivec2(gl_FragCoord.xy);
  vec4 points = texelFetch(total, here, 0);
  vec4 rgba = points + (1.0 - points.a) * texelFetch(mesh, here, 0);
  if (linear != 0 && rgba.a > 0.0) {
    rgba.rgb = (to_scene * vec4(decode(rgba.rgb / rgba.a), 0.0)).rgb * rgba.a;
  }
  result = rgba;
}
"""
)

#: The picture over the framebuffer, premultiplied. encoded: so that a framebuffer which decodes and
#: encodes sRGB where it blends holds what one that does not would be left with; for that it has to
#: be known what is there: `backdrop` (one texel per row) where the depth buffer is empty, else
#: nothing. Dark over bright takes a higher alpha.
SHOW = (
    DECODE
    + """
void main()
{
  vec2 size = vec2(textureSize(picture, 0));
  vec4 rgba = interpolate == 0 ? texelFetch(picture, ivec2(floor(uv * size)), 0) :
                                 texture(picture, uv);
  if (rgba.a <= 0.0) {
    discard;
  }
  if (encoded != 0) {
    vec2 size_of_scene = vec2(textureSize(scene, 0));
    ivec2 under = min(ivec2(uv * size_of_scene), ivec2(size_of_scene) - 1);
    int row = min(under.y, textureSize(backdrop, 0).y - 1);
    vec3 behind = texelFetch(scene, under, 0).r < 1.0 ? vec3(0.0) :
                                                        texelFetch(backdrop, ivec2(0, row), 0).rgb;
    vec3 wanted = decode(rgba.rgb + (1.0 - rgba.a) * behind);
    behind = decode(behind);
    vec3 share = wanted / max(behind, vec3(1e-6));
    float through = min(1.0 - rgba.a, min(share.r, min(share.g, share.b)));
    rgba = vec4(wanted - through * behind, 1.0 - through);
  }
  result = rgba;
}
"""
)
SHOW_VERTEX = "void main() { uv = corner * 0.5 + 0.5; gl_Position = vec4(corner, 0.0, 1.0); }"
