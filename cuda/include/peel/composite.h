// SPDX-License-Identifier: GPL-3.0-or-later
// One layer of one pixel: falloff inside the footprint, the over operator, and their derivatives.
//
// The picture of a pixel is sum_k T_k alpha_k v_k with T_k = prod_{j<k} (1 - alpha_j), the same
// sum for each colour channel, for alpha (v = 1) and for the accumulated depth (v = z).
// Source: 4K4D (Xu et al. 2024), differentiable depth peeling.
#pragma once

#include "common.h"

namespace peel {

// F is a float, or a vector of floats with the arithmetic operators.

// alpha of a layer; q is the squared distance from the centre in units of the semi-axes. The
// caller keeps the layer only where q < 1.
template <class F>
PEEL_HD F falloff(F weight, F q) {
  return weight * (1.0f - q);
}

// A sample takes another layer while it has fewer than K and still lets light through.
PEEL_HD bool takes_layer(float q, int count, int layers, float transmittance, float least) {
  return (q < 1.0f) & (count < layers) & (transmittance >= least);
}

template <class F>
PEEL_HD F transmit(F transmittance, F alpha) {
  return transmittance * (1.0f - alpha);
}

// Derivatives run back to front with the division-free suffix
//   S_k = alpha_k v_k + (1 - alpha_k) S_{k+1},   dL/dalpha_k = T_k (v_k - S_{k+1}),
// where v_k = <dL/dpixel, (r, g, b, 1, z)_k> folds the channels into one number per layer. Unlike
// recovering T by division it stays exact when a layer is opaque.
template <class F>
PEEL_HD F alpha_derivative(F transmittance, F value, F suffix) {
  return transmittance * (value - suffix);
}

template <class F>
PEEL_HD F extend_suffix(F alpha, F value, F suffix) {
  return alpha * value + (1.0f - alpha) * suffix;
}

}  // namespace peel
