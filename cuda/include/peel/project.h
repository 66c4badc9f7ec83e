// SPDX-License-Identifier: GPL-3.0-or-later
// Point of a clip -> camera space -> pixels, the depth key, and the derivative.
//
// Done in double: it costs little per point, and a rim that moves by 1e-4 pixel at 4K (which is
// what float32 would give) changes which K points a pixel sees. No branches, so that a loop over
// points becomes vector code.
#pragma once

#include "common.h"

namespace peel {

struct Projection {
  double x, y, z;    // camera space
  double inverse_z;  // orthographic: 1
  double u, v;       // pixels
};

// Order of the points along the viewing axis. float32 with explicit fused operations: the same
// bits on every back end, whatever the compiler would contract. -0 comes out as 0.
PEEL_HD float depth_key(const View& view, float x, float y, float z) {
  const float* k = view.key_row;
  return fmaf(k[0], x, fmaf(k[1], y, fmaf(k[2], z, k[3]))) + 0.0f;
}

// Order-preserving map of a float to an unsigned integer.
PEEL_HD uint32_t sortable(float key) {
  const uint32_t bits = bits_of(key);
  return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

// False: the point is outside (near, far) or anything about it is not finite.
PEEL_HD bool project(const View& view, float x, float y, float z, float key, Projection* out) {
  const double* A = view.linear;
  const double* b = view.shift;
  const double px = x, py = y, pz = z;
  out->x = A[0] * px + A[1] * py + A[2] * pz + b[0];
  out->y = A[3] * px + A[4] * py + A[5] * pz + b[1];
  out->z = A[6] * px + A[7] * py + A[8] * pz + b[2];
  const bool orthographic = view.orthographic != 0;
  out->inverse_z = orthographic ? 1.0 : 1.0 / out->z;
  out->u = (view.fx * out->x + view.skew * out->y) * out->inverse_z + view.cx;
  out->v = view.fy * out->y * out->inverse_z + view.cy;
  return (key > view.near_z) & (key < view.far_z) & is_finite(key) &
         (orthographic | (out->z > 0.0)) & is_finite(out->u + out->v + out->z);
}

// Adds dL/dp (clip space) given dL/du, dL/dv and dL/dz (z: every other use of the camera depth).
PEEL_HD void project_backward(const View& view, const Projection& q, double du, double dv,
                              double dz, double dp[3]) {
  const double dx = du * view.fx * q.inverse_z;
  const double dy = (du * view.skew + dv * view.fy) * q.inverse_z;
  if (!view.orthographic) {
    dz -= (du * (view.fx * q.x + view.skew * q.y) + dv * view.fy * q.y) * q.inverse_z *
          q.inverse_z;
  }
  const double* A = view.linear;
  for (int i = 0; i < 3; ++i) dp[i] += A[i] * dx + A[3 + i] * dy + A[6 + i] * dz;
}

}  // namespace peel
