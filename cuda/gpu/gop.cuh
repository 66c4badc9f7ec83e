// SPDX-License-Identifier: GPL-3.0-or-later
// A group of pictures at one time: the polynomials of its Gaussians, so that a group is uploaded once
// and a frame of it costs no transfer.
#pragma once

#include "arguments.h"

namespace peel {

// sum_k basis_k coefficients[k][i] of (orders, count, components).
__device__ __forceinline__ float polynomial(const GopArguments& a, const float* coefficients,
                                            int orders, int components, uint64_t i, int c) {
  float sum = 0.0f;
  for (int k = 0; k < orders; ++k) {
    sum += a.basis[k] * coefficients[((uint64_t)k * a.count + i) * components + c];
  }
  return sum;
}

__device__ __forceinline__ void gaussian_at(const GopArguments& a) {
  const uint64_t i = (uint64_t)blockIdx.x * kTileThreads + threadIdx.x;
  if (i >= a.count) return;
  float position[2], color[3];
  for (int c = 0; c < 2; ++c) {
    position[c] = a.position[2 * i + c] + polynomial(a, a.motion, a.motion_orders, 2, i, c);
  }
  for (int c = 0; c < 3; ++c) {
    color[c] = a.color[3 * i + c] + polynomial(a, a.shade, a.shade_orders, 3, i, c);
  }
  const float scale[2] = {expf(a.log_scale[2 * i]), expf(a.log_scale[2 * i + 1])};
  float cholesky[3] = {scale[0], a.shear[i] * scale[1], scale[1]};
  if (a.across != 1.0 || a.down != 1.0) {
    constexpr double kPixelVariance = 1.0 / 12.0;  // of a pixel as a box
    const double l11 = cholesky[0] * a.across, l21 = cholesky[1] * a.down,
                 l22 = cholesky[2] * a.down;
    double s11 = l11 * l11, s22 = l21 * l21 + l22 * l22;
    const double s12 = l11 * l21, before = s11 * s22 - s12 * s12;
    s11 += fmax(0.0, 1.0 - a.across * a.across) * kPixelVariance;
    s22 += fmax(0.0, 1.0 - a.down * a.down) * kPixelVariance;
    const double fade = sqrt(before / fmax(s11 * s22 - s12 * s12, 1e-30));
    const double first = sqrt(s11), second = s12 / fmax(first, 1e-15);
    cholesky[0] = (float)first;
    cholesky[1] = (float)second;
    cholesky[2] = (float)sqrt(fmax(s22 - second * second, 0.0));
    for (int c = 0; c < 3; ++c) color[c] = (float)(color[c] * fade);
    position[0] = (float)(position[0] * a.across);
    position[1] = (float)(position[1] * a.down);
  }
  for (int c = 0; c < 2; ++c) a.at_position[2 * i + c] = position[c];
  for (int c = 0; c < 3; ++c) a.at_cholesky[3 * i + c] = cholesky[c];
  for (int c = 0; c < 3; ++c) a.at_color[3 * i + c] = color[c];
}

// The derivative of the polynomials, of `components` numbers, by their coefficients.
__device__ __forceinline__ void polynomial_backward(const GopArguments& a, float* coefficients,
                                                    int orders, int components, uint64_t i,
                                                    const float* d) {
  for (int k = 0; k < orders; ++k) {
    float* out = coefficients + ((uint64_t)k * a.count + i) * components;
    for (int c = 0; c < components; ++c) out[c] = a.basis[k] * d[c];
  }
}

__device__ __forceinline__ void gaussian_at_backward(const GopArguments& a) {
  const uint64_t i = (uint64_t)blockIdx.x * kTileThreads + threadIdx.x;
  if (i >= a.count) return;
  const float* cholesky = a.at_cholesky + 3 * i;
  float position[2], d[3], color[3];
  for (int c = 0; c < 2; ++c) position[c] = a.d_at_position[2 * i + c];
  for (int c = 0; c < 3; ++c) d[c] = a.d_at_cholesky[3 * i + c];
  for (int c = 0; c < 3; ++c) color[c] = a.d_at_color[3 * i + c];
  if (a.d_position) {
    for (int c = 0; c < 2; ++c) a.d_position[2 * i + c] = position[c];
  }
  if (a.d_color) {
    for (int c = 0; c < 3; ++c) a.d_color[3 * i + c] = color[c];
  }
  // l11 = e^s1, l21 = shear e^s2, l22 = e^s2.
  if (a.d_log_scale) {
    a.d_log_scale[2 * i] = d[0] * cholesky[0];
    a.d_log_scale[2 * i + 1] = d[1] * cholesky[1] + d[2] * cholesky[2];
  }
  if (a.d_shear) a.d_shear[i] = d[1] * cholesky[2];
  if (a.d_motion) polynomial_backward(a, a.d_motion, a.motion_orders, 2, i, position);
  if (a.d_shade) polynomial_backward(a, a.d_shade, a.shade_orders, 3, i, color);
}

}  // namespace peel
