// SPDX-License-Identifier: GPL-3.0-or-later
// The footprint of a point: an axis-aligned ellipse, semi-axes a = |fx| r / z, b = |fy| r / z.
//
// Points smaller than min_radius pixels are drawn with that radius and fainter in proportion to
// the area they gained, so a cloud seen from afar neither flickers nor grows.
#pragma once

#include "common.h"

namespace peel {

struct Footprint {
  double a, b;                  // semi-axes before the minimum, pixels
  double inverse_a, inverse_b;  // of the drawn semi-axes
  double compensation;          // multiplies the density, in (0, 1]
};

// radius: clip units; inverse_z as in Projection.
PEEL_HD Footprint footprint(const View& view, double radius, double inverse_z) {
  const double least = view.min_radius;
  const double size = radius * view.radius_scale * inverse_z;
  Footprint f;
  f.a = fabs(view.fx) * size;
  f.b = fabs(view.fy) * size;
  const double a = f.a > least ? f.a : least;
  const double b = f.b > least ? f.b : least;
  f.inverse_a = 1.0 / a;
  f.inverse_b = 1.0 / b;
  f.compensation = (f.a * f.inverse_a) * (f.b * f.inverse_b);
  f.compensation = f.compensation < 1.0 ? f.compensation : 1.0;  // a * (1 / a) may exceed 1
  return f;
}

// The pixels whose centres a footprint can cover, inclusive.
struct Box {
  int16_t x0, x1, y0, y1;
};

// Of a value >= 0 that fits, without a call into libm.
PEEL_HD int round_up(double value) {
  const int below = (int)value;
  return below + (value > below);
}

PEEL_HD double clamp(double value, double low, double high) {
  return value < low ? low : (value > high ? high : value);
}

// False: no pixel of the image. The margin keeps rims that were rounded to float32 inside.
PEEL_HD bool box_of(const View& view, double u, double v, const Footprint& f, Box* box) {
  const double least = view.min_radius;
  const double reach_x = (f.a > least ? f.a : least) * (1.0 + 1e-6) + 1e-3;
  const double reach_y = (f.b > least ? f.b : least) * (1.0 + 1e-6) + 1e-3;
  const double x0 = u - 0.5 - reach_x, x1 = u - 0.5 + reach_x;
  const double y0 = v - 0.5 - reach_y, y1 = v - 0.5 + reach_y;
  const double last_x = view.width - 1.0, last_y = view.height - 1.0;
  box->x0 = (int16_t)round_up(clamp(x0, 0.0, last_x));
  box->x1 = (int16_t)(int)clamp(x1, 0.0, last_x);
  box->y0 = (int16_t)round_up(clamp(y0, 0.0, last_y));
  box->y1 = (int16_t)(int)clamp(y1, 0.0, last_y);
  return (x1 >= 0.0) & (y1 >= 0.0) & (x0 <= last_x) & (y0 <= last_y) & (box->x0 <= box->x1) &
         (box->y0 <= box->y1);
}

// Adds dL/dradius and dL/dz given the derivatives by the drawn footprint.
PEEL_HD void footprint_backward(const View& view, const Footprint& f, double radius, double z,
                                double d_inverse_a, double d_inverse_b, double d_compensation,
                                double* d_radius, double* d_z) {
  const double least = view.min_radius;
  const bool wide = f.a > least, tall = f.b > least;
  const double ratio_a = wide ? 1.0 : f.a * f.inverse_a;
  const double ratio_b = tall ? 1.0 : f.b * f.inverse_b;
  const double d_a = wide ? -d_inverse_a * f.inverse_a * f.inverse_a
                          : d_compensation * ratio_b * f.inverse_a;
  const double d_b = tall ? -d_inverse_b * f.inverse_b * f.inverse_b
                          : d_compensation * ratio_a * f.inverse_b;
  const double scale = d_a * f.a + d_b * f.b;  // a and b are proportional to radius / z
  *d_radius += scale / radius;
  if (!view.orthographic) *d_z -= scale / z;
}

}  // namespace peel
