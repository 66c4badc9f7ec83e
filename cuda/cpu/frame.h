// SPDX-License-Identifier: GPL-3.0-or-later
// One frame on the CPU: projection, depth order, binning into tiles, and the walk over the tiles.
#pragma once

#include <cstdint>

#include "../include/peel/common.h"
#include "kernels.h"

namespace peel {

struct Settings {
  int layers, threads;
  float min_transmittance;
};

// Throws std::bad_alloc, std::length_error (too many overlaps), std::runtime_error.
void render_forward(const Kernels&, const View&, const Settings&, const Points&, const Image&);

void render_backward(const Kernels&, const View&, const Settings&, const Points&,
                     const float* d_rgba, const float* d_depth, const Gradients&);

}  // namespace peel
