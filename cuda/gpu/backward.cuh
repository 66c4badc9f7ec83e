// SPDX-License-Identifier: GPL-3.0-or-later
// Derivatives: every warp walks its samples' layers again, front to back to find them and back to
// front to differentiate, and adds its sums to those of the points.
#pragma once

#include "../include/peel/composite.h"
#include "pixels.cuh"
#include "reduce.cuh"
#include "sort.cuh"

namespace peel {

// A layer of a sample: its place in the tile's list and the light that reaches it.
struct Layer {
  uint32_t place;
  float transmittance;
};

__device__ __forceinline__ uint32_t warp_max(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
#else
  return __reduce_max_sync(kAllLanes, value);
#endif
}

// Sums of nine values over the warp. Lane 4 i ends with the sum of v[i], i < 8, lane 1 with v[8].
__device__ __forceinline__ float nine_sums(const float v[kPartials]) {
  const float sum = eight_sums(v), last = warp_sum(v[8]);
  return threadIdx.x % kWarp == 1 ? last : sum;
}

// Front to back; returns the number of layers of the sample.
__device__ __forceinline__ int trace_layers(const Frame& f, const uint64_t* entries, uint32_t count,
                                            uint32_t patch, const Place& place, Layer* layers) {
  const uint32_t lane = threadIdx.x % kWarp;
  const Anchor anchor = anchor_of(place);
  float transmittance = 1.0f;
  int found = place.inside ? 0 : f.layers;
  for (uint32_t base = 0; base < count; base += kWarp) {
    const bool open = takes_layer(0.0f, found, f.layers, transmittance, f.min_transmittance);
    if (!__any_sync(kAllLanes, open)) break;
    const uint64_t own = base + lane < count ? entries[base + lane] : 0;
    uint32_t hits = __ballot_sync(kAllLanes, (own >> (32 + patch) & 1) != 0);
    while (hits) {
      const int from = __ffs((int)hits) - 1;
      hits &= hits - 1;
      const Splat s = load_splat(f.splats, __shfl_sync(kAllLanes, (uint32_t)own, from));
      const float sx = offset_x(s, anchor), sy = offset_y(s, anchor);
      const float q = sx * sx + sy * sy;
      if (!takes_layer(q, found, f.layers, transmittance, f.min_transmittance)) continue;
      layers[found * kWarp + lane] = {base + (uint32_t)from, transmittance};
      transmittance = transmit(transmittance, falloff(s.weight, q));
      ++found;
    }
  }
  return place.inside ? found : 0;
}

// layers: room for f.layers of every lane of the warp.
__device__ __forceinline__ void backward_patch(const BackwardTilesArguments& a, uint32_t tile,
                                               uint32_t patch, Layer* layers) {
  const Frame& f = a.frame;
  const uint32_t start = f.lists.starts[tile];
  const uint32_t count = start == kNowhere ? 0 : f.lists.counts[tile];
  const uint64_t* entries = f.entries + start;
  if (count == 0) return;
  const uint32_t lane = threadIdx.x % kWarp;
  const Place place = place_of(f, tile, patch);
  const Anchor anchor = anchor_of(place);
  int left = trace_layers(f, entries, count, patch, place, layers);
  float4 d_rgba = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float d_depth = 0.0f, suffix = 0.0f;
  if (place.inside) {
    const int64_t pixel = (int64_t)place.y * f.width + place.x;
    d_rgba = ((const float4*)a.d_rgba)[pixel];
    if (a.d_depth) d_depth = a.d_depth[pixel];
  }
  while (true) {
    const uint32_t own = left > 0 ? layers[(left - 1) * kWarp + lane].place + 1 : 0;
    const uint32_t last = warp_max(own);  // the farthest point that a lane has not done yet
    if (last == 0) break;
    const uint32_t slot = (uint32_t)entries[last - 1];
    const Splat s = load_splat(f.splats, slot);
    float v[kPartials] = {};
    if (own == last) {
      const float transmittance = layers[(left - 1) * kWarp + lane].transmittance;
      const float sx = offset_x(s, anchor), sy = offset_y(s, anchor);
      const float qx = sx * sx, qy = sy * sy, q = qx + qy;
      const float alpha = falloff(s.weight, q);
      const float value = d_rgba.x * s.rgb[0] + d_rgba.y * s.rgb[1] + d_rgba.z * s.rgb[2] +
                          d_rgba.w + d_depth * s.z;
      const float contribution = transmittance * alpha;
      const float h = alpha_derivative(transmittance, value, suffix);
      suffix = extend_suffix(alpha, value, suffix);
      v[0] = contribution * d_rgba.x;
      v[1] = contribution * d_rgba.y;
      v[2] = contribution * d_rgba.z;
      v[3] = contribution * d_depth;
      v[4] = h * (1.0f - q);
      v[5] = h * sx;
      v[6] = h * qx;
      v[7] = h * sy;
      v[8] = h * qy;
      --left;
    }
    const float sum = nine_sums(v);
    const uint32_t which = lane % 4 == 0 ? lane / 4 : lane == 1 ? 8 : kNowhere;
    if (which != kNowhere) atomicAdd(a.sums + (uint64_t)slot * kPartials + which, sum);
  }
}

__device__ __forceinline__ void backward_point(const BackwardPointsArguments& a) {
  const int64_t i = (int64_t)blockIdx.x * kTileThreads + threadIdx.x;
  if (i >= a.clip.count) return;
  const int components = a.clip.sh_count == 0 ? 3 : 3 * a.clip.sh_count;
  float sums[kPartials];
  bool touched = false;
  for (int j = 0; j < kPartials; ++j) {
    sums[j] = a.sums[((uint64_t)a.clip.first + i) * kPartials + j];
    touched |= sums[j] != 0.0f;  // NaN counts
  }
  PointGradient g;
  const bool drawn = touched && point_backward(a.clip, i, sums, &g);
  for (int c = 0; c < 3; ++c) a.position[3 * i + c] = drawn ? g.position[c] : 0.0f;
  a.radius[i] = drawn ? g.radius : 0.0f;
  a.density[i] = drawn ? g.density : 0.0f;
  for (int c = 0; c < components; ++c) {
    a.color[i * components + c] = drawn ? g.color[c] : 0.0f;
  }
}

}  // namespace peel
