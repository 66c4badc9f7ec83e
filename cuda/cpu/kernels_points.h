// SPDX-License-Identifier: GPL-3.0-or-later
// Per-point loops; included by kernels.cpp only.
#pragma once

#include "../include/peel/footprint.h"
#include "../include/peel/project.h"
#include "../include/peel/sh.h"
#include "kernels.h"

namespace peel {
namespace PEEL_ISA {

// Order-preserving map of a finite float to an unsigned integer; -0 and 0 are the same depth.
static inline uint32_t sortable(float key) {
  key += 0.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &key, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline double clamp(double value, double low, double high) {
  return value < low ? low : (value > high ? high : value);
}

// Of a value >= 0 that fits, without a call into libm.
static inline int round_up(double value) {
  const int below = (int)value;
  return below + (value > below);
}

// Everything about a point that both directions need. False: the point is not drawn.
struct Drawn {
  float key;
  Projection projection;
  Footprint footprint;
  float density;  // clipped to 1
};

static inline bool draw(const View& view, const Points& points, int64_t i, Drawn* out) {
  const float* p = points.position + 3 * i;
  const float radius = points.radius[i], density = points.density[i];
  if (!(radius > 0.0f && density > 0.0f) || !is_finite(radius) || !is_finite(density)) return false;
  out->key = depth_key(view, p);
  if (!project(view, p, out->key, &out->projection)) return false;
  out->footprint = footprint(view, radius, out->projection.z);
  if (!is_finite(out->footprint.a) || !is_finite(out->footprint.b)) return false;
  out->density = density < 1.0f ? density : 1.0f;
  return true;
}

// Colour before the clip, and what the derivative needs of the direction.
static inline void raw_color(const View& view, const Points& points, int64_t i, double direction[3],
                             double* distance, float rgb[3]) {
  if (points.sh_count == 0) {
    for (int c = 0; c < 3; ++c) rgb[c] = points.color[3 * i + c];
    return;
  }
  *distance = view_direction(view.eye, view.orthographic, points.position + 3 * i, direction);
  sh_color(points.sh_count, direction, points.color + 3 * points.sh_count * i, rgb);
}

static inline bool finite3(const float v[3]) {
  return is_finite(v[0]) && is_finite(v[1]) && is_finite(v[2]);
}

static int64_t project_points(const View& view, const Points& points, int64_t begin, int64_t end,
                              Splat* splats, uint64_t* keys) {
  int64_t visible = begin;
  for (int64_t i = begin; i < end; ++i) {
    Drawn drawn;
    if (!draw(view, points, i, &drawn)) continue;
    const Projection& q = drawn.projection;
    const Footprint& f = drawn.footprint;
    // The pixel centres inside the box of the footprint; the margin keeps float32 rims inside.
    const double reach_x = (1.0 / f.inverse_a) * (1.0 + 1e-6) + 1e-3;
    const double reach_y = (1.0 / f.inverse_b) * (1.0 + 1e-6) + 1e-3;
    const double x0 = q.u - 0.5 - reach_x, x1 = q.u - 0.5 + reach_x;
    const double y0 = q.v - 0.5 - reach_y, y1 = q.v - 0.5 + reach_y;
    if (!(x1 >= 0.0 && y1 >= 0.0 && x0 <= view.width - 1 && y0 <= view.height - 1)) continue;
    double direction[3] = {0.0, 0.0, 0.0}, distance = 0.0;
    float rgb[3];
    raw_color(view, points, i, direction, &distance, rgb);
    if (!finite3(rgb)) continue;
    Splat& s = splats[visible];
    s.u = q.u;
    s.v = q.v;
    s.inverse_a = (float)f.inverse_a;
    s.inverse_b = (float)f.inverse_b;
    s.weight = (float)(drawn.density * f.compensation);
    s.z = (float)q.z;
    for (int c = 0; c < 3; ++c) s.rgb[c] = clip_color(rgb[c]);
    s.x0 = (int16_t)round_up(clamp(x0, 0.0, view.width - 1.0));
    s.x1 = (int16_t)clamp(x1, 0.0, view.width - 1.0);
    s.y0 = (int16_t)round_up(clamp(y0, 0.0, view.height - 1.0));
    s.y1 = (int16_t)clamp(y1, 0.0, view.height - 1.0);
    s.index = (uint32_t)i;
    keys[visible] = (uint64_t)sortable(drawn.key) << 32 | (uint64_t)visible;
    ++visible;
  }
  return visible - begin;
}

static void backward_points(const View& view, const Points& points, int64_t begin, int64_t end,
                            const float* sums, const Gradients& out) {
  const int colors = points.sh_count == 0 ? 3 : 3 * points.sh_count;
  for (int64_t i = begin; i < end; ++i) {
    const float* s = sums + kPartials * i;
    float* d_color = out.color + colors * i;
    bool touched = false;
    for (int j = 0; j < kPartials; ++j) touched |= s[j] != 0.0f;  // NaN counts as touched
    Drawn drawn;
    if (!touched || !draw(view, points, i, &drawn)) {
      for (int c = 0; c < 3; ++c) out.position[3 * i + c] = 0.0f;
      out.radius[i] = out.density[i] = 0.0f;
      for (int c = 0; c < colors; ++c) d_color[c] = 0.0f;
      continue;
    }
    const Projection& q = drawn.projection;
    const Footprint& f = drawn.footprint;
    const double weight = drawn.density * f.compensation;
    const double d_weight = s[4];
    const double d_u = 2.0 * weight * f.inverse_a * s[5];
    const double d_inverse_a = -2.0 * weight * s[6] / f.inverse_a;
    const double d_v = 2.0 * weight * f.inverse_b * s[7];
    const double d_inverse_b = -2.0 * weight * s[8] / f.inverse_b;
    double d_radius = 0.0, d_z = s[3];
    footprint_backward(view, f, points.radius[i], q.z, d_inverse_a, d_inverse_b,
                       d_weight * drawn.density, &d_radius, &d_z);
    double d_position[3] = {0.0, 0.0, 0.0};
    project_backward(view, q, d_u, d_v, d_z, d_position);

    double direction[3] = {0.0, 0.0, 0.0}, distance = 0.0;
    float raw[3], d_rgb[3];
    raw_color(view, points, i, direction, &distance, raw);
    for (int c = 0; c < 3; ++c) d_rgb[c] = clip_color_backward(raw[c], s[c]);
    if (points.sh_count == 0) {
      for (int c = 0; c < 3; ++c) d_color[c] = d_rgb[c];
    } else {
      double d_direction[3];
      sh_color_backward(points.sh_count, direction, points.color + colors * i, d_rgb, d_color,
                        d_direction);
      if (!view.orthographic) direction_backward(direction, distance, d_direction, d_position);
    }
    for (int c = 0; c < 3; ++c) out.position[3 * i + c] = (float)d_position[c];
    out.radius[i] = (float)d_radius;
    out.density[i] = points.density[i] <= 1.0f ? (float)(d_weight * f.compensation) : 0.0f;
  }
}

static void sh_colors(const double eye[3], int orthographic, int sh_count, int64_t begin,
                      int64_t end, const float* position, const float* sh, float* rgb) {
  for (int64_t i = begin; i < end; ++i) {
    double direction[3];
    float raw[3];
    view_direction(eye, orthographic, position + 3 * i, direction);
    sh_color(sh_count, direction, sh + 3 * sh_count * i, raw);
    const bool finite = finite3(raw);
    for (int c = 0; c < 3; ++c) rgb[3 * i + c] = finite ? clip_color(raw[c]) : NAN;
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
