// SPDX-License-Identifier: GPL-3.0-or-later
// Which tiles a point or triangle reaches: counting, room for every tile's list, filling the lists.
//
// The lists are filled in any order. Points carry their depth and index and are sorted afterwards;
// triangles are compared by depth and index per pixel. So nothing depends on the order of threads.
#pragma once

#include "memory.cuh"
#include "reduce.cuh"

namespace peel {

constexpr int kManyTiles = 32;  // beyond, the whole warp works on one record

__device__ __forceinline__ uint32_t tiles_of(const Record& r) {
  return r.x0 > r.x1 ? 0 : (r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1);
}

// Calls visit(record, payload, tile) for every tile of the record of every lane. All lanes of the
// warp must take part, those without a record with one that reaches no tile.
template <class Visit>
__device__ __forceinline__ void for_each_tile(const Frame& f, const Record& own, uint32_t payload,
                                              Visit visit) {
  const uint32_t tiles = tiles_of(own);
  uint32_t wide = __ballot_sync(kAllLanes, tiles > kManyTiles);
  if (tiles <= kManyTiles && tiles > 0) {
    for (uint32_t y = own.y0; y <= own.y1; ++y) {
      for (uint32_t x = own.x0; x <= own.x1; ++x) {
        visit(own.key, payload, y * (uint32_t)f.tiles_x + x);
      }
    }
  }
  const uint32_t lane = threadIdx.x % kWarp;
  while (wide) {
    const int from = __ffs((int)wide) - 1;
    wide &= wide - 1;
    const uint32_t key = __shfl_sync(kAllLanes, own.key, from);
    const uint32_t item = __shfl_sync(kAllLanes, payload, from);
    const uint32_t columns = __shfl_sync(kAllLanes, own.x0 | own.x1 << 16, from);
    const uint32_t rows = __shfl_sync(kAllLanes, own.y0 | own.y1 << 16, from);
    const uint32_t x0 = columns & 0xffffu, y0 = rows & 0xffffu;
    const uint32_t span = (columns >> 16) - x0 + 1;
    const uint32_t count = span * ((rows >> 16) - y0 + 1);
    for (uint32_t t = lane; t < count; t += kWarp) {
      visit(key, item, (y0 + t / span) * (uint32_t)f.tiles_x + x0 + t % span);
    }
  }
}

__device__ __forceinline__ void count_tiles(const Frame& f, const Lists& lists, const Record& own) {
  for_each_tile(f, own, 0, [&](uint32_t, uint32_t, uint32_t tile) {
    atomicAdd(&lists.counts[tile], 1u);
  });
}

struct AllocateShared {
  uint64_t warp_sums[kWarps];
  uint64_t base;
};

// Gives every tile of the range its segment. Segments need no particular order, so blocks take
// theirs from one counter and no scan runs across blocks.
__device__ __forceinline__ void allocate_segments(const Frame& f, const Lists& lists,
                                                  uint64_t* needed, uint32_t* large_count,
                                                  AllocateShared& shared) {
  const uint32_t tile = f.tile_begin + blockIdx.x * kTileThreads + threadIdx.x;
  const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const uint32_t count = tile < f.tile_end ? lists.counts[tile] : 0u;
  uint64_t sum = count;  // of this lane and those before
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= (uint32_t)step) sum += before;
  }
  if (lane == kWarp - 1) shared.warp_sums[warp] = sum;
  __syncthreads();
  uint64_t place = sum - count;
  uint64_t total = 0;
  for (uint32_t w = 0; w < kWarps; ++w) {
    if (w < warp) place += shared.warp_sums[w];
    total += shared.warp_sums[w];
  }
  if (threadIdx.x == 0) {
    shared.base = atomicAdd((unsigned long long*)needed, (unsigned long long)total);
  }
  __syncthreads();
  if (tile >= f.tile_end) return;
  place += shared.base;
  const bool fits = place + count <= lists.capacity;
  lists.starts[tile] = fits ? (uint32_t)place : kNowhere;
  lists.cursors[tile] = (uint32_t)place;
  if (large_count && fits && count > kSmallTile) {
    f.large_tiles[atomicAdd(large_count, 1u)] = tile;
  }
}

// entry_of(key, item) -> what goes into the list of a tile.
template <class Entry, class EntryOf>
__device__ __forceinline__ void scatter(const Frame& f, const Lists& lists, Entry* entries,
                                        const Record& own, uint32_t item, EntryOf entry_of) {
  for_each_tile(f, own, item, [&](uint32_t key, uint32_t what, uint32_t tile) {
    if (tile < f.tile_begin || tile >= f.tile_end || lists.starts[tile] == kNowhere) return;
    entries[atomicAdd(&lists.cursors[tile], 1u)] = entry_of(key, what);
  });
}

}  // namespace peel
