// SPDX-License-Identifier: GPL-3.0-or-later
// Sums over the lanes of a warp, in an order that is always the same.
#pragma once

#include "arguments.h"

namespace peel {

constexpr uint32_t kAllLanes = 0xffffffffu;

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Sums of eight values over the warp; lane 4 i ends with that of v[i]. Each exchange halves the number
// of values that a lane still carries: 9 shuffles instead of 40.
__device__ __forceinline__ float eight_sums(const float* v) {
  const uint32_t lane = threadIdx.x % kWarp;
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float keep = lane & 16 ? v[4 + i] : v[i], give = lane & 16 ? v[i] : v[4 + i];
    four[i] = keep + __shfl_xor_sync(kAllLanes, give, 16);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float keep = lane & 8 ? four[2 + i] : four[i], give = lane & 8 ? four[i] : four[2 + i];
    two[i] = keep + __shfl_xor_sync(kAllLanes, give, 8);
  }
  const float keep = lane & 4 ? two[1] : two[0], give = lane & 4 ? two[0] : two[1];
  float sum = keep + __shfl_xor_sync(kAllLanes, give, 4);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  return sum + __shfl_xor_sync(kAllLanes, sum, 1);
}

}  // namespace peel
