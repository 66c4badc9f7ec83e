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

PEEL_HD Footprint footprint(const View& view, double radius, double z) {
  const double divisor = view.orthographic ? 1.0 : z;
  const double least = view.min_radius;
  Footprint f;
  f.a = fabs(view.fx) * radius / divisor;
  f.b = fabs(view.fy) * radius / divisor;
  const double a = f.a > least ? f.a : least;
  const double b = f.b > least ? f.b : least;
  f.inverse_a = 1.0 / a;
  f.inverse_b = 1.0 / b;
  f.compensation = (f.a / a) * (f.b / b);
  return f;
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
