// SPDX-License-Identifier: GPL-3.0-or-later
// The points as the caller stores them, and everything that happens to a point before binning:
// decoding, projection, footprint, colour; and the chain from a splat's derivatives to its inputs.
#pragma once

#include "footprint.h"
#include "project.h"
#include "sh.h"

namespace peel {

enum Type : int32_t { kFloat32 = 0, kFloat16 = 1, kUint8 = 2, kUint16 = 3 };

constexpr int kMaxComponents = 3 * kMaxShCount;

// One attribute of the points of a clip: element (i, c) lies at i * point_stride +
// c * component_stride elements behind data.
struct Array {
  const void* data;
  int64_t point_stride, component_stride;
  int32_t type;
  int32_t table_size;  // 0: no table
  const float* table;  // code -> value; codes past the end take the last value
};

// Values of integer codes without a table: min(code * step + low, high), rounded after each
// operation. Positions in double and then to float, everything else in float.
struct Ramp {
  float step, low, high;
};

struct PositionRamp {
  double step[3], low[3], high[3];
};

// A clip as the kernels take it: plain data, the pointers valid where the kernel runs.
struct Clip {
  View view;
  Array position, radius, density, color;
  PositionRamp position_ramp;
  Ramp radius_ramp, density_ramp, color_ramp[kMaxComponents];
  int64_t count;
  uint32_t first;    // index of its first point among those of all clips
  int32_t sh_count;  // 1, 4, 9, 16; 0: color is rgb
  int32_t id;
};

// Exact, subnormals included.
PEEL_HD float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  uint32_t bits = bits_of(float_of(magnitude << 13) * 5.192296858534828e33f);  // 2^112
  if (magnitude >= 0x7c00u) bits |= 0x7f800000u;
  return float_of(bits | (uint32_t)(half & 0x8000u) << 16);
}

PEEL_HD uint32_t code_at(const Array& array, int64_t at) {
  return array.type == kUint8 ? ((const uint8_t*)array.data)[at]
                              : ((const uint16_t*)array.data)[at];
}

// Component c of point i of anything but a position.
PEEL_HD float load(const Array& array, const Ramp& ramp, int64_t i, int c) {
  const int64_t at = i * array.point_stride + c * array.component_stride;
  if (array.type == kFloat32) return ((const float*)array.data)[at];
  if (array.type == kFloat16) return half_to_float(((const uint16_t*)array.data)[at]);
  const uint32_t code = code_at(array, at);
  if (array.table_size > 0) {
    const uint32_t last = (uint32_t)array.table_size - 1;
    return array.table[code < last ? code : last];
  }
  const float value = (float)code * ramp.step + ramp.low;
  return value < ramp.high ? value : ramp.high;
}

// Coordinate c of point i; float32 or codes.
PEEL_HD float load_position(const Array& array, const PositionRamp& ramp, int64_t i, int c) {
  const int64_t at = i * array.point_stride + c * array.component_stride;
  if (array.type == kFloat32) return ((const float*)array.data)[at];
  const double value = code_at(array, at) * ramp.step[c] + ramp.low[c];
  return (float)(value < ramp.high[c] ? value : ramp.high[c]);
}

// A projected point as the tiles take it.
struct Splat {
  float offset_x, offset_y;    // from the point's centre to that of pixel (box.x0, box.y0), pixels
  float inverse_a, inverse_b;  // of the drawn semi-axes
  float weight;                // alpha at the centre
  float z;
  float rgb[3];
  Box box;
  uint32_t index;  // of the point among those of all clips
};

// Everything about a point that both directions need.
struct Drawn {
  float key;
  float density;  // clipped to 1
  Projection projection;
  Footprint footprint;
};

// False: the point is not drawn.
PEEL_HD bool draw(const View& view, float x, float y, float z, float radius, float density,
                  Drawn* out) {
  out->key = depth_key(view, x, y, z);
  out->density = density < 1.0f ? density : 1.0f;
  const bool inside = project(view, x, y, z, out->key, &out->projection);
  out->footprint = footprint(view, radius, out->projection.inverse_z);
  return inside & (radius > 0.0f) & (density > 0.0f) & is_finite(radius) & is_finite(density) &
         is_finite(out->footprint.a + out->footprint.b);
}

// Fills everything but rgb and index. False: the point covers no pixel.
PEEL_HD bool make_splat(const View& view, const Drawn& drawn, Splat* out) {
  const Projection& q = drawn.projection;
  const Footprint& f = drawn.footprint;
  const bool covers = box_of(view, q.u, q.v, f, &out->box);
  out->offset_x = (float)(out->box.x0 + 0.5 - q.u);
  out->offset_y = (float)(out->box.y0 + 0.5 - q.v);
  out->inverse_a = (float)f.inverse_a;
  out->inverse_b = (float)f.inverse_b;
  out->weight = (float)((double)drawn.density * view.opacity * f.compensation);
  out->z = (float)q.z;
  return covers & (out->weight > 0.0f);
}

// Colour before the clip, and what its derivative needs of the direction. False: not finite.
PEEL_HD bool raw_color(const Clip& clip, int64_t i, const float p[3], double direction[3],
                       double* distance, float sh[kMaxComponents], float rgb[3]) {
  const int components = clip.sh_count == 0 ? 3 : 3 * clip.sh_count;
  for (int c = 0; c < components; ++c) sh[c] = load(clip.color, clip.color_ramp[c], i, c);
  if (clip.sh_count == 0) {
    for (int c = 0; c < 3; ++c) rgb[c] = sh[c];
  } else {
    *distance = view_direction(clip.view.eye, clip.view.orthographic, p, direction);
    sh_color(clip.sh_count, direction, sh, rgb);
  }
  return is_finite(rgb[0]) & is_finite(rgb[1]) & is_finite(rgb[2]);
}

// What the tiles sum up for a point: dL/d rgb (3), dL/dz, dL/dweight, and, with h = dL/dalpha and s
// the offset from the centre in semi-axes, the sums of h s_x, h s_x^2, h s_y, h s_y^2.
constexpr int kPartials = 9;

struct PointGradient {
  float position[3], radius, density;
  float color[kMaxComponents];
};

// Chains the sums of a point to its inputs; false (nothing is written): it was not drawn.
PEEL_HD bool point_backward(const Clip& clip, int64_t i, const float sums[kPartials],
                            PointGradient* out) {
  const View& view = clip.view;
  float p[3];
  for (int c = 0; c < 3; ++c) p[c] = load_position(clip.position, clip.position_ramp, i, c);
  const float radius = load(clip.radius, clip.radius_ramp, i, 0);
  const float density = load(clip.density, clip.density_ramp, i, 0);
  Drawn drawn;
  if (!draw(view, p[0], p[1], p[2], radius, density, &drawn)) return false;
  const Projection& q = drawn.projection;
  const Footprint& f = drawn.footprint;
  const double strength = (double)drawn.density * view.opacity;
  const double weight = strength * f.compensation;
  const double d_weight = sums[4];
  const double d_u = 2.0 * weight * f.inverse_a * sums[5];
  const double d_inverse_a = -2.0 * weight * sums[6] / f.inverse_a;
  const double d_v = 2.0 * weight * f.inverse_b * sums[7];
  const double d_inverse_b = -2.0 * weight * sums[8] / f.inverse_b;
  double d_radius = 0.0, d_z = sums[3];
  footprint_backward(view, f, radius, q.z, d_inverse_a, d_inverse_b, d_weight * strength,
                     &d_radius, &d_z);
  double d_position[3] = {0.0, 0.0, 0.0};
  project_backward(view, q, d_u, d_v, d_z, d_position);

  double direction[3] = {0.0, 0.0, 0.0}, distance = 0.0;
  float sh[kMaxComponents], raw[3], d_rgb[3];
  raw_color(clip, i, p, direction, &distance, sh, raw);
  for (int c = 0; c < 3; ++c) d_rgb[c] = clip_color_backward(raw[c], sums[c]);
  if (clip.sh_count == 0) {
    for (int c = 0; c < 3; ++c) out->color[c] = d_rgb[c];
  } else {
    double d_direction[3];
    sh_color_backward(clip.sh_count, direction, sh, d_rgb, out->color, d_direction);
    if (!view.orthographic) direction_backward(direction, distance, d_direction, d_position);
  }
  for (int c = 0; c < 3; ++c) out->position[c] = (float)d_position[c];
  out->radius = (float)d_radius;
  out->density = density <= 1.0f ? (float)(d_weight * view.opacity * f.compensation) : 0.0f;
  return true;
}

}  // namespace peel
