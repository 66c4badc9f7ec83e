// SPDX-License-Identifier: GPL-3.0-or-later
// Pictures of two-dimensional Gaussians, their gradients, and the fit to a given picture.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace peel {

// The part of the plane that is drawn: width x height pixels from (x, y) on.
struct Window {
  int x, y, width, height, threads;
};

// position (count, 2), cholesky (count, 3) l11, l21, l22 and color (count, 3), all in pixels.
struct GaussianArrays {
  const float *position, *cholesky, *color;
  int64_t count;
};

struct GaussianGradients {
  float *position, *cholesky, *color;
};

// Overlaps of Gaussians and tiles beyond which a picture is refused with std::length_error.
constexpr int64_t kMostGaussianOverlaps = int64_t{1} << 26;

// rgb (height, width, 3), not clamped, and bytes of the same shape; either may be null.
void draw(const Kernels&, const Window&, const GaussianArrays&, float* rgb, uint8_t* bytes);

void differentiate(const Kernels&, const Window&, const GaussianArrays&, const float* d_rgb,
                   const GaussianGradients&);

// Mean squared error of the clamped picture from target, whose rows are `stride` bytes apart.
double fit(const Kernels&, const Window&, const GaussianArrays&, const uint8_t* target,
           int64_t stride, const GaussianGradients&);

}  // namespace peel
