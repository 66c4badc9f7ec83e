// SPDX-License-Identifier: GPL-3.0-or-later
// Two-dimensional Gaussians: a picture as a sum without order (D2GV, arXiv 2503.05600; GaussianImage,
// arXiv 2403.08551).
//
//   C(u) = sum_n c_n w_n(u),  w_n(u) = exp(-1/2 d^T Sigma_n^-1 d),  d = u - mean_n,  Sigma = L L^T
//
// w counts as 0 where it is below the Gaussian's cut: 1/255, and more for a faint Gaussian, whose
// edge must not be seen: below 1/512 of the display's range in its strongest channel.
#pragma once

#include <math.h>
#include <stdint.h>

#include "common.h"

namespace peel {

constexpr float kLog2E = 1.44269504088896341f;
// Exponents (base e) of the cut: of a strong Gaussian, of a faint one, and ln(512).
constexpr float kDeepestCut = 5.54126354515843f, kShallowestCut = 1.0f, kLn512 = 6.23832462503951f;
// Sides of a Gaussian below this many pixels are no Gaussian: it would fall between the samples.
constexpr float kThinnest = 1e-3f;

// Ready to be drawn: w = 2^-(a dx^2 + b dx dy + c dy^2) where the exponent is above -cut.
struct Gaussian2D {
  float x, y;       // mean, pixels of the window
  float a, b, c;    // Sigma^-1 log2(e) / 2, b doubled
  float cut;        // base 2, > 0
  float color[3];
  int32_t x0, x1;   // columns and rows of the window whose pixel centres it may reach, inclusive
  int32_t y0, y1;
};

// False where the Gaussian shows nowhere in the window of width x height pixels.
PEEL_HD bool prepare_gaussian(const float* position, const float* cholesky, const float* color,
                              float window_x, float window_y, int width, int height,
                              Gaussian2D* out) {
  const float x = position[0] - window_x, y = position[1] - window_y;
  const float l1 = cholesky[0], l2 = cholesky[1], l3 = cholesky[2];
  const float strongest =
      fmaxf(fabsf(color[0]), fmaxf(fabsf(color[1]), fabsf(color[2])));
  // Written so that a NaN anywhere is refused.
  if (!(fabsf(l1) > kThinnest && fabsf(l3) > kThinnest && fabsf(l1) < 1e6f && fabsf(l2) < 1e6f &&
        fabsf(l3) < 1e6f && fabsf(x) < 1e7f && fabsf(y) < 1e7f && fabsf(color[0]) < 1e6f &&
        fabsf(color[1]) < 1e6f && fabsf(color[2]) < 1e6f)) {
    return false;
  }
  float cut = kShallowestCut;
  if (strongest > 1e-6f) cut = logf(strongest) + kLn512;
  cut = fminf(fmaxf(cut, kShallowestCut), kDeepestCut);
  const float s11 = l1 * l1, s12 = l1 * l2, s22 = l2 * l2 + l3 * l3;
  const float scale = 0.5f * kLog2E / (s11 * l3 * l3);
  out->x = x;
  out->y = y;
  out->a = s22 * scale;
  out->b = -2.0f * s12 * scale;
  out->c = s11 * scale;
  out->cut = cut * kLog2E;
  for (int i = 0; i < 3; ++i) out->color[i] = color[i];
  const float across = sqrtf(2.0f * cut * s11), down = sqrtf(2.0f * cut * s22);
  const float left = fmaxf(ceilf(x - across - 0.5f), 0.0f);
  const float right = fminf(floorf(x + across - 0.5f), (float)(width - 1));
  const float top = fmaxf(ceilf(y - down - 0.5f), 0.0f);
  const float bottom = fminf(floorf(y + down - 0.5f), (float)(height - 1));
  if (!(left <= right && top <= bottom)) return false;
  out->x0 = (int32_t)left;
  out->x1 = (int32_t)right;
  out->y0 = (int32_t)top;
  out->y1 = (int32_t)bottom;
  return true;
}

// 2^f for |f| <= 1/2, relative error below 3e-6. T: float, or a vector of them.
template <class T>
PEEL_HD T exp2_near_zero(T f) {
  T p = 0.009562746071392271f * f + 0.05591723645339253f;
  p = p * f + 0.24024926086668888f;
  p = p * f + 0.6931219309591208f;
  return p * f + 0.9999992072431919f;
}

constexpr float kExp2Round = 12582912.0f;  // 1.5 2^23: the sum's last bits are the nearest integer

// 2^x for -126 < x <= 0; any other x gives some bits and no harm. Every back end computes it so, and
// not by an instruction of its own, and thus they draw the same picture.
PEEL_HD float exp2_below_zero(float x) {
  const float whole = x + kExp2Round;
  const float fraction = exp2_near_zero(x - (whole - kExp2Round));
  return float_of(bits_of(fraction) + (bits_of(whole) << 23));
}

// From a mean to the centre of a pixel. Summed up from the first of 16 columns and of 32 rows, so that
// back ends with tiles of other sizes round alike.
constexpr int kGaussianColumns = 16, kGaussianRows = 32;

PEEL_HD float gaussian_dx(const Gaussian2D& g, int x) {
  const int left = x - x % kGaussianColumns;
  return ((float)(x - left) + 0.5f) + ((float)left - g.x);
}

PEEL_HD float gaussian_dy(const Gaussian2D& g, int y) {
  const int top = y - y % kGaussianRows;
  return (float)(y - top) + ((float)top + 0.5f - g.y);
}

PEEL_HD float gaussian_weight(const Gaussian2D& g, float dx, float dy) {
  const float exponent = (-g.a * (dx * dx) + -g.b * dx * dy) + -g.c * (dy * dy);
  return exponent >= -g.cut ? exp2_below_zero(exponent) : 0.0f;
}

// What a Gaussian's pixels sum up for its gradients, with t = w sum_channel c dL/dC.
struct GaussianSums {
  float color[3];         // sum w dL/dC
  float x, y;             // sum t d
  float xx, xy, yy;       // sum t d d^T
};

// Chains the sums to mean, L and colour. With y = L^-1 d: d(y^T y / 2) = -y^T L^-1 (d mean + dL y),
// hence dL/dmean = Sigma^-1 sum t d and dLoss/dL = L^-T (L^-1 (sum t d d^T) L^-T), lower triangle.
PEEL_HD void chain_gaussian(const float* cholesky, const GaussianSums& sums, float* d_position,
                            float* d_cholesky, float* d_color) {
  const float i1 = 1.0f / cholesky[0], i3 = 1.0f / cholesky[2];
  const float i2 = -cholesky[1] * i1 * i3;  // L^-1 = [[i1, 0], [i2, i3]]
  const float u = i1 * sums.x, v = i2 * sums.x + i3 * sums.y;
  d_position[0] = i1 * u + i2 * v;
  d_position[1] = i3 * v;
  const float m11 = i1 * i1 * sums.xx;
  const float m12 = i1 * (i2 * sums.xx + i3 * sums.xy);
  const float m22 = i2 * i2 * sums.xx + 2.0f * i2 * i3 * sums.xy + i3 * i3 * sums.yy;
  d_cholesky[0] = i1 * m11 + i2 * m12;
  d_cholesky[1] = i3 * m12;
  d_cholesky[2] = i3 * m22;
  for (int i = 0; i < 3; ++i) d_color[i] = sums.color[i];
}

}  // namespace peel
