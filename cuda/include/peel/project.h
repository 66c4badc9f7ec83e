// SPDX-License-Identifier: GPL-3.0-or-later
// World point -> camera space -> pixels, the depth key, and the derivative.
//
// Done in double: it costs little per point, and a rim that moves by 1e-4 pixel at 4K (which is
// what float32 would give) changes which K points a pixel sees.
#pragma once

#include "common.h"

namespace peel {

struct Projection {
  double x, y, z;  // camera space
  double u, v;     // pixels
};

// Order of the points along the viewing axis. float32 with explicit fused operations: the same
// bits on every back end, whatever the compiler would contract.
PEEL_HD float depth_key(const View& view, const float p[3]) {
  const float* k = view.key_row;
  return fmaf(k[0], p[0], fmaf(k[1], p[1], fmaf(k[2], p[2], k[3])));
}

// False: the point is outside (near, far) or anything about it is not finite.
PEEL_HD bool project(const View& view, const float p[3], float key, Projection* out) {
  if (!(key > view.near_z && key < view.far_z) || !is_finite(key)) return false;
  const double* R = view.rotation;
  const double* t = view.translation;
  const double px = p[0], py = p[1], pz = p[2];
  out->x = R[0] * px + R[1] * py + R[2] * pz + t[0];
  out->y = R[3] * px + R[4] * py + R[5] * pz + t[1];
  out->z = R[6] * px + R[7] * py + R[8] * pz + t[2];
  double divisor = 1.0;
  if (!view.orthographic) {
    if (!(out->z > 0.0)) return false;
    divisor = out->z;
  }
  out->u = (view.fx * out->x + view.skew * out->y) / divisor + view.cx;
  out->v = view.fy * out->y / divisor + view.cy;
  return is_finite(out->u) && is_finite(out->v) && is_finite(out->z);
}

// Adds dL/dp given dL/du, dL/dv and dL/dz (z: every other use of the camera depth).
PEEL_HD void project_backward(const View& view, const Projection& q, double du, double dv,
                              double dz, double dp[3]) {
  const double inverse = view.orthographic ? 1.0 : 1.0 / q.z;
  const double dx = du * view.fx * inverse;
  const double dy = (du * view.skew + dv * view.fy) * inverse;
  if (!view.orthographic) {
    dz -= (du * (view.fx * q.x + view.skew * q.y) + dv * view.fy * q.y) * inverse * inverse;
  }
  const double* R = view.rotation;
  for (int i = 0; i < 3; ++i) dp[i] += R[i] * dx + R[3 + i] * dy + R[6 + i] * dz;
}

}  // namespace peel
