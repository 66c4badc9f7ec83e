// SPDX-License-Identifier: GPL-3.0-or-later
// View-dependent colour: real spherical harmonics up to degree 3, and the derivatives.
//
// Basis order (l, m): 0 0; 1 -1, 1 0, 1 1; 2 -2 .. 2 2; 3 -3 .. 3 3, with the Condon-Shortley
// phase, so that Y_1 = (-C1 y, C1 z, -C1 x).
#pragma once

#include "common.h"

namespace peel {

constexpr float kSh0 = 0.28209479177387814f;   // sqrt(1 / 4 pi)
constexpr float kSh1 = 0.4886025119029199f;    // sqrt(3 / 4 pi)
constexpr float kSh2a = 1.0925484305920792f;   // sqrt(15 / 4 pi)
constexpr float kSh2b = 0.31539156525252005f;  // sqrt(5 / 16 pi)
constexpr float kSh2c = 0.5462742152960396f;   // sqrt(15 / 16 pi)
constexpr float kSh3a = 0.5900435899266435f;   // sqrt(35 / 32 pi)
constexpr float kSh3b = 2.890611442640554f;    // sqrt(105 / 4 pi)
constexpr float kSh3c = 0.4570457994644658f;   // sqrt(21 / 32 pi)
constexpr float kSh3d = 0.3731763325901154f;   // sqrt(7 / 16 pi)
constexpr float kSh3e = 1.445305721320277f;    // sqrt(105 / 16 pi)

// Y_0 .. Y_{count-1} at the unit direction (x, y, z); count is 1, 4, 9 or 16.
PEEL_HD void sh_basis(int count, float x, float y, float z, float* Y) {
  Y[0] = kSh0;
  if (count < 4) return;
  Y[1] = -kSh1 * y;
  Y[2] = kSh1 * z;
  Y[3] = -kSh1 * x;
  if (count < 9) return;
  const float xx = x * x, yy = y * y, zz = z * z;
  Y[4] = kSh2a * x * y;
  Y[5] = -kSh2a * y * z;
  Y[6] = kSh2b * (2.0f * zz - xx - yy);
  Y[7] = -kSh2a * x * z;
  Y[8] = kSh2c * (xx - yy);
  if (count < 16) return;
  Y[9] = -kSh3a * y * (3.0f * xx - yy);
  Y[10] = kSh3b * x * y * z;
  Y[11] = -kSh3c * y * (4.0f * zz - xx - yy);
  Y[12] = kSh3d * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
  Y[13] = -kSh3c * x * (4.0f * zz - xx - yy);
  Y[14] = kSh3e * z * (xx - yy);
  Y[15] = -kSh3a * x * (xx - 3.0f * yy);
}

// dL/d(x, y, z) given g_b = dL/dY_b; the direction is taken as free (not yet constrained to the
// sphere, direction_backward does that).
PEEL_HD void sh_basis_backward(int count, float x, float y, float z, const float* g, double d[3]) {
  d[0] = d[1] = d[2] = 0.0;
  if (count < 4) return;
  d[0] = -kSh1 * g[3];
  d[1] = -kSh1 * g[1];
  d[2] = kSh1 * g[2];
  if (count < 9) return;
  d[0] += kSh2a * (y * g[4] - z * g[7]) - 2.0f * kSh2b * x * g[6] + 2.0f * kSh2c * x * g[8];
  d[1] += kSh2a * (x * g[4] - z * g[5]) - 2.0f * kSh2b * y * g[6] - 2.0f * kSh2c * y * g[8];
  d[2] += -kSh2a * (y * g[5] + x * g[7]) + 4.0f * kSh2b * z * g[6];
  if (count < 16) return;
  const float xx = x * x, yy = y * y, zz = z * z;
  d[0] += -kSh3a * 6.0f * x * y * g[9] + kSh3b * y * z * g[10] + kSh3c * 2.0f * x * y * g[11] -
          kSh3d * 6.0f * x * z * g[12] - kSh3c * (4.0f * zz - 3.0f * xx - yy) * g[13] +
          kSh3e * 2.0f * x * z * g[14] - kSh3a * 3.0f * (xx - yy) * g[15];
  d[1] += -kSh3a * 3.0f * (xx - yy) * g[9] + kSh3b * x * z * g[10] -
          kSh3c * (4.0f * zz - xx - 3.0f * yy) * g[11] - kSh3d * 6.0f * y * z * g[12] +
          kSh3c * 2.0f * x * y * g[13] - kSh3e * 2.0f * y * z * g[14] +
          kSh3a * 6.0f * x * y * g[15];
  d[2] += kSh3b * x * y * g[10] - kSh3c * 8.0f * y * z * g[11] +
          kSh3d * (6.0f * zz - 3.0f * xx - 3.0f * yy) * g[12] - kSh3c * 8.0f * x * z * g[13] +
          kSh3e * (xx - yy) * g[14];
}

// Unit direction from the eye to the point and the distance; orthographic: the eye vector itself.
PEEL_HD double view_direction(const double eye[3], int orthographic, const float p[3],
                              double d[3]) {
  if (orthographic) {
    for (int i = 0; i < 3; ++i) d[i] = eye[i];
    return 0.0;
  }
  for (int i = 0; i < 3; ++i) d[i] = (double)p[i] - eye[i];
  const double distance = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  const double inverse = distance > 0.0 ? 1.0 / distance : 0.0;
  for (int i = 0; i < 3; ++i) d[i] *= inverse;
  return distance;
}

// Adds dL/dp given dL/ddirection of a perspective camera: the part along the direction is lost.
PEEL_HD void direction_backward(const double d[3], double distance, const double dd[3],
                                double dp[3]) {
  if (!(distance > 0.0)) return;
  const double along = d[0] * dd[0] + d[1] * dd[1] + d[2] * dd[2];
  for (int i = 0; i < 3; ++i) dp[i] += (dd[i] - along * d[i]) / distance;
}

// Colour before the clip: sum_b Y_b sh_b; sh: (count, 3).
PEEL_HD void sh_color(int count, const double d[3], const float* sh, float rgb[3]) {
  float Y[kMaxShCount];
  sh_basis(count, (float)d[0], (float)d[1], (float)d[2], Y);
  rgb[0] = rgb[1] = rgb[2] = 0.0f;
  for (int b = 0; b < count; ++b) {
    for (int c = 0; c < 3; ++c) rgb[c] += Y[b] * sh[3 * b + c];
  }
}

// Writes dL/dsh (count, 3) and dL/ddirection given dL/drgb (already masked by the clip).
PEEL_HD void sh_color_backward(int count, const double d[3], const float* sh, const float g[3],
                               float* d_sh, double d_direction[3]) {
  float Y[kMaxShCount], g_basis[kMaxShCount];
  const float x = (float)d[0], y = (float)d[1], z = (float)d[2];
  sh_basis(count, x, y, z, Y);
  for (int b = 0; b < count; ++b) {
    g_basis[b] = 0.0f;
    for (int c = 0; c < 3; ++c) {
      d_sh[3 * b + c] = Y[b] * g[c];
      g_basis[b] += sh[3 * b + c] * g[c];
    }
  }
  sh_basis_backward(count, x, y, z, g_basis, d_direction);
}

// clip to [0, 1]; NaN stays NaN. Its derivative is 1 on [0, 1] and 0 outside.
PEEL_HD float clip_color(float c) { return c < 0.0f ? 0.0f : (c > 1.0f ? 1.0f : c); }
PEEL_HD float clip_color_backward(float c, float g) { return c >= 0.0f && c <= 1.0f ? g : 0.0f; }

}  // namespace peel
