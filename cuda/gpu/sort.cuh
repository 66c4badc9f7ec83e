// SPDX-License-Identifier: GPL-3.0-or-later
// Depth order of the overlaps of a tile. Entries differ in any case: the point is in the low half.
#pragma once

#include "bin.cuh"

namespace peel {

// Bitonic sort of `count` <= kSmallTile entries in shared memory by kTileThreads threads. The
// memory behind them, up to the next power of two, is overwritten. Starts and ends with a barrier.
__device__ __forceinline__ void sort_small(uint64_t* entries, uint32_t count) {
  uint32_t padded = 64;
  while (padded < count) padded *= 2;
  for (uint32_t i = count + threadIdx.x; i < padded; i += kTileThreads) entries[i] = ~0ull;
  __syncthreads();
  for (uint32_t run = 2; run <= padded; run *= 2) {
    for (uint32_t step = run / 2; step > 0; step /= 2) {
      for (uint32_t t = threadIdx.x; t < padded / 2; t += kTileThreads) {
        const uint32_t low = 2 * t - (t & (step - 1)), high = low + step;
        const uint64_t a = entries[low], b = entries[high];
        if ((a > b) == ((low & run) == 0)) {
          entries[low] = b;
          entries[high] = a;
        }
      }
      // Steps of up to 32 stay inside the 64 entries of a warp.
      const uint32_t next = step > 1 ? step / 2 : run;
      if (step > 32 || next > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
}

constexpr int kDigits = 8;  // of 8 bits
constexpr int kBins = 256;
constexpr int kItems = 4;  // per thread and round
constexpr int kLargeWarps = kLargeThreads / kWarp;

struct LargeShared {
  uint32_t histogram[kDigits][kBins];
  uint32_t next[kBins];                  // where the next entry with a digit goes
  uint32_t warp_sums[kBins / kWarp];
  uint16_t ranks[kLargeWarps][kBins];    // of a round: entries with a digit, per warp
};

// next[] = exclusive sums of a digit's histogram. False: all entries have the same digit.
__device__ __forceinline__ bool scan_histogram(LargeShared& s, int digit, uint32_t count) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t own = 0, sum = 0;
  if (warp < kBins / kWarp) {
    own = sum = s.histogram[digit][threadIdx.x];
    for (int step = 1; step < kWarp; step *= 2) {
      const uint32_t before = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= (uint32_t)step) sum += before;
    }
    if (lane == kWarp - 1) s.warp_sums[warp] = sum;
  }
  const bool single = __syncthreads_or(own == count) != 0;
  if (warp < kBins / kWarp) {
    for (uint32_t w = 0; w < warp; ++w) sum += s.warp_sums[w];
    s.next[threadIdx.x] = sum - own;
  }
  __syncthreads();
  return !single;
}

// One stable pass of the radix sort.
__device__ __forceinline__ void scatter_digit(LargeShared& s, int digit, const uint64_t* from,
                                              uint64_t* to, uint32_t count) {
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (uint32_t round = 0; round < count; round += kLargeThreads * kItems) {
    for (uint32_t bin = lane; bin < kBins; bin += kWarp) s.ranks[warp][bin] = 0;
    __syncwarp();
    uint64_t entry[kItems];
    uint32_t bin[kItems], rank[kItems];
    // A warp works on neighbouring entries, so that ranks inside it keep the order.
    const uint32_t first = round + warp * kWarp * kItems + lane;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const uint32_t i = first + j * kWarp;
      const bool here = i < count;
      entry[j] = here ? from[i] : 0;
      bin[j] = here ? (uint32_t)(entry[j] >> (8 * digit)) & (kBins - 1) : (uint32_t)kBins;
      const uint32_t peers = __match_any_sync(kAllLanes, bin[j]);
      const uint32_t before = peers & ((1u << lane) - 1);
      rank[j] = here ? s.ranks[warp][bin[j]] + __popc(before) : 0;
      __syncwarp();
      if (here && before == 0) s.ranks[warp][bin[j]] += (uint16_t)__popc(peers);
      __syncwarp();
    }
    __syncthreads();
    if (threadIdx.x < kBins) {  // ranks become the number of entries in the warps before
      uint32_t sum = 0;
      for (int w = 0; w < kLargeWarps; ++w) {
        const uint32_t own = s.ranks[w][threadIdx.x];
        s.ranks[w][threadIdx.x] = (uint16_t)sum;
        sum += own;
      }
      s.histogram[digit][threadIdx.x] = sum;  // of this round; the sum over all is in next[]
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      if (bin[j] < kBins) to[s.next[bin[j]] + s.ranks[warp][bin[j]] + rank[j]] = entry[j];
    }
    __syncthreads();
    if (threadIdx.x < kBins) s.next[threadIdx.x] += s.histogram[digit][threadIdx.x];
  }
}

// Radix sort of any number of entries in global memory by one block of kLargeThreads threads.
__device__ __forceinline__ void sort_large_tile(LargeShared& s, uint64_t* entries, uint64_t* spare,
                                                uint32_t count) {
  for (uint32_t i = threadIdx.x; i < kDigits * kBins; i += kLargeThreads) {
    s.histogram[i / kBins][i % kBins] = 0;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < count; i += kLargeThreads) {
    const uint64_t entry = entries[i];
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      atomicAdd(&s.histogram[d][(uint32_t)(entry >> (8 * d)) & (kBins - 1)], 1u);
    }
  }
  __syncthreads();
  uint64_t *from = entries, *to = spare;
  for (int d = 0; d < kDigits; ++d) {
    if (!scan_histogram(s, d, count)) continue;  // common: depths of a tile share their high bits
    scatter_digit(s, d, from, to, count);
    uint64_t* const swap = from;
    from = to;
    to = swap;
  }
  if (from == entries) return;
  for (uint32_t i = threadIdx.x; i < count; i += kLargeThreads) entries[i] = from[i];
}

}  // namespace peel
