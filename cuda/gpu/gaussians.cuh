// SPDX-License-Identifier: GPL-3.0-or-later
// Pictures of two-dimensional Gaussians, their derivatives, and the fit to a given picture.
//
// A block has a tile, a warp a patch of it. Each tile's Gaussians are sorted by index and
// added in that order, as on the CPU. Derivatives are summed over the
// lanes, then the warps, then the tiles of a Gaussian, always in the same order: no atomic additions
// of floats, and the same bits in every run.
#pragma once

#include "pixels.cuh"
#include "reduce.cuh"
#include "sort.cuh"

namespace peel {

// A tile's list, or a chunk of it, in shared memory.
struct GaussianList {
  uint64_t entries[kSmallTile];  // patches << 32 | Gaussian
};

struct GaussianFitShared {
  GaussianList list;
  float sums[kWarps][kWarp][kGaussianSums];  // of 32 Gaussians, by patch
  float errors[kWarps];
};

struct ErrorShared {
  double warps[kWarps];
};

// Words of 16 bytes. 0: mean, a, b; 1: c, cut, red, green; 2: blue, box, where its partial sums begin.
// The box lies where that of a splat does.
__device__ __forceinline__ void store_gaussian(uint4* gaussians, uint32_t slot,
                                               const Gaussian2D& g, const Box& box,
                                               uint32_t first) {
  uint4* words = gaussians + (uint64_t)slot * kSplatWords;
  words[0] = make_uint4(bits_of(g.x), bits_of(g.y), bits_of(g.a), bits_of(g.b));
  words[1] = make_uint4(bits_of(g.c), bits_of(g.cut), bits_of(g.color[0]), bits_of(g.color[1]));
  words[2] = make_uint4(bits_of(g.color[2]), pack_pair(box.x0, box.x1), pack_pair(box.y0, box.y1),
                        first);
}

// Without its box.
__device__ __forceinline__ Gaussian2D load_gaussian(const uint4* gaussians, uint32_t slot) {
  const uint4* words = gaussians + (uint64_t)slot * kSplatWords;
  const uint4 a = words[0], b = words[1];
  Gaussian2D g = {};
  g.x = float_of(a.x);
  g.y = float_of(a.y);
  g.a = float_of(a.z);
  g.b = float_of(a.w);
  g.c = float_of(b.x);
  g.cut = float_of(b.y);
  g.color[0] = float_of(b.z);
  g.color[1] = float_of(b.w);
  g.color[2] = float_of(words[2].x);
  return g;
}

// Room for the partial sums of every lane's Gaussian, one for each of its tiles; kNowhere: there is
// none. Where it lies does not matter, so one counter serves all blocks.
__device__ __forceinline__ uint32_t take_partials(const GaussianArguments& a, uint32_t tiles) {
  const uint32_t lane = threadIdx.x % kWarp;
  uint64_t sum = tiles;  // of this lane and those before
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= (uint32_t)step) sum += before;
  }
  uint64_t base = 0;
  if (lane == kWarp - 1) {
    base = atomicAdd((unsigned long long*)a.partial_count, (unsigned long long)sum);
  }
  const uint64_t end = __shfl_sync(kAllLanes, base, kWarp - 1) + sum;
  return end <= a.frame.lists.capacity ? (uint32_t)(end - tiles) : kNowhere;
}

__device__ __forceinline__ void prepare_gaussians(const GaussianArguments& a) {
  const Frame& f = a.frame;
  const uint64_t i = (uint64_t)blockIdx.x * kTileThreads + threadIdx.x;
  Record record = no_record();
  Box box = {1, 0, 1, 0};
  Gaussian2D g = {};
  if (i < f.point_count &&
      prepare_gaussian(a.position + 2 * i, a.cholesky + 3 * i, a.color + 3 * i, a.window_x,
                       a.window_y, f.width, f.height, &g)) {
    box = {(int16_t)g.x0, (int16_t)g.x1, (int16_t)g.y0, (int16_t)g.y1};
    record = record_of(box, 0);
  }
  const uint32_t tiles = tiles_of(record);
  const uint32_t first = a.partials ? take_partials(a, tiles) : kNowhere;
  if (tiles > 0) store_gaussian(f.splats, (uint32_t)i, g, box, first);
  if (i < f.point_count) f.records[i] = pack(record);
  count_tiles(f, f.lists, record);
}

// The list of a tile in global memory.
struct TileGaussians {
  uint32_t tile, start, count;
};

__device__ __forceinline__ TileGaussians gaussians_of(const Frame& f, uint32_t tile) {
  const uint32_t start = f.lists.starts[tile];
  return {tile, start, start == kNowhere ? 0 : f.lists.counts[tile]};
}

// A chunk of the list, in order, and which patches its Gaussians reach. Returns how many there are.
// Starts and ends with a barrier.
__device__ __forceinline__ uint32_t load_chunk(const Frame& f, const TileGaussians& t,
                                               uint32_t chunk, uint64_t* entries) {
  const uint32_t size = t.count - chunk < kSmallTile ? t.count - chunk : kSmallTile;
  const int x = (int)(t.tile % (uint32_t)f.tiles_x) * kTile;
  const int y = (int)(t.tile / (uint32_t)f.tiles_x) * kTile;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < size; i += kTileThreads) {
    entries[i] = f.entries[t.start + chunk + i];
  }
  if (t.count <= kSmallTile) sort_small(entries, size);  // otherwise sort_large has done it
  for (uint32_t i = threadIdx.x; i < size; i += kTileThreads) {
    const uint32_t slot = (uint32_t)entries[i];
    entries[i] = (uint64_t)patches_of(load_box(f.splats, slot), x, y) << 32 | slot;
  }
  __syncthreads();
  return size;
}

// Calls visit(k, Gaussian) for those of up to 32 entries that reach the warp's patch, in order.
template <class Visit>
__device__ __forceinline__ void for_each_gaussian(const Frame& f, const uint64_t* entries,
                                                  uint32_t count, Visit visit) {
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint64_t own = lane < count ? entries[lane] : 0;
  uint32_t hits = __ballot_sync(kAllLanes, (own >> (32 + warp) & 1) != 0);
  if (!hits) return;
  uint32_t next_k = (uint32_t)__ffs((int)hits) - 1;
  // The next one is on its way while this one is at work.
  Gaussian2D next = load_gaussian(f.splats, (uint32_t)entries[next_k]);
  do {
    const uint32_t k = next_k;
    const Gaussian2D g = next;
    hits &= hits - 1;
    if (hits) {
      next_k = (uint32_t)__ffs((int)hits) - 1;
      next = load_gaussian(f.splats, (uint32_t)entries[next_k]);
    }
    visit(k, g);
  } while (hits);
}

// What the tile's Gaussians sum up to in the lane's pixel. Leaves the last chunk in `entries`.
__device__ __forceinline__ void sum_gaussians(const Frame& f, const TileGaussians& t,
                                              const Place& place, uint64_t* entries,
                                              float rgb[3]) {
  for (int c = 0; c < 3; ++c) rgb[c] = 0.0f;
  for (uint32_t chunk = 0; chunk < t.count; chunk += kSmallTile) {
    const uint32_t size = load_chunk(f, t, chunk, entries);
    for (uint32_t base = 0; base < size; base += kWarp) {
      for_each_gaussian(f, entries + base, size - base, [&](uint32_t, const Gaussian2D& g) {
        const float w =
            gaussian_weight(g, gaussian_dx(g, place.x), gaussian_dy(g, place.y));
        for (int c = 0; c < 3; ++c) rgb[c] += g.color[c] * w;
      });
    }
  }
}

__device__ __forceinline__ float clamp_unit(float v) {
  v = v > 0.0f ? v : 0.0f;  // NaN becomes 0
  return v < 1.0f ? v : 1.0f;
}

__device__ __forceinline__ void draw_gaussians(const GaussianArguments& a, GaussianList& list) {
  const Frame& f = a.frame;
  const Place place = place_of(f, blockIdx.x, threadIdx.x / kWarp);
  float rgb[3];
  sum_gaussians(f, gaussians_of(f, blockIdx.x), place, list.entries, rgb);
  if (!place.inside) return;
  const int64_t first = 3 * ((int64_t)place.y * f.width + place.x);
  for (int c = 0; c < 3; ++c) {
    if (a.rgb) a.rgb[first + c] = rgb[c];
    if (a.bytes) {
      float v = rgb[c] * 255.0f + 0.5f;
      v = v > 0.0f ? v : 0.0f;
      v = v < 255.0f ? v : 255.0f;
      a.bytes[first + c] = (uint8_t)v;
    }
  }
}

// Adds up what the warps have found of a Gaussian in a tile: eight threads for each entry.
__device__ __forceinline__ void combine_patches(const GaussianArguments& a, const TileGaussians& t,
                                                const uint64_t* entries, uint32_t count,
                                                const GaussianFitShared& shared) {
  const Frame& f = a.frame;
  const uint32_t k = threadIdx.x / kGaussianSums, j = threadIdx.x % kGaussianSums;
  if (k >= count) return;
  const uint32_t slot = (uint32_t)entries[k], patches = (uint32_t)(entries[k] >> 32);
  float sum = 0.0f;
  for (uint32_t w = 0; w < kWarps; ++w) {
    if (patches >> w & 1) sum += shared.sums[w][k][j];
  }
  const uint32_t first = f.splats[(uint64_t)slot * kSplatWords + 2].w;
  if (first == kNowhere) return;
  const Record r = record_of(load_box(f.splats, slot), 0);
  const uint32_t across = t.tile % (uint32_t)f.tiles_x - r.x0;
  const uint32_t down = t.tile / (uint32_t)f.tiles_x - r.y0;
  const uint64_t place = (uint64_t)first + down * (r.x1 - r.x0 + 1) + across;
  a.partials[place * kGaussianSums + j] = sum;
}

// d: the derivative by the lane's pixel, zeros outside the picture. in_place: the list is short and
// was loaded before.
__device__ __forceinline__ void differentiate_gaussians(const GaussianArguments& a,
                                                        const TileGaussians& t,
                                                        const Place& place, const float d[3],
                                                        bool in_place,
                                                        GaussianFitShared& shared) {
  const Frame& f = a.frame;
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  uint64_t* const entries = shared.list.entries;
  for (uint32_t chunk = 0; chunk < t.count; chunk += kSmallTile) {
    const uint32_t size = in_place ? t.count : load_chunk(f, t, chunk, entries);
    for (uint32_t base = 0; base < size; base += kWarp) {
      const uint32_t count = size - base < kWarp ? size - base : kWarp;
      for_each_gaussian(f, entries + base, count, [&](uint32_t k, const Gaussian2D& g) {
        const float dx = gaussian_dx(g, place.x), dy = gaussian_dy(g, place.y);
        const float w = gaussian_weight(g, dx, dy);
        const float s = w * (g.color[0] * d[0] + (g.color[1] * d[1] + g.color[2] * d[2]));
        const float sx = s * dx, sy = s * dy;
        const float v[kGaussianSums] = {w * d[0], w * d[1], w * d[2], sx,
                                        sy,       sx * dx,  sx * dy,  sy * dy};
        const float sum = eight_sums(v);
        if (lane % 4 == 0) shared.sums[warp][k][lane / 4] = sum;
      });
      __syncthreads();
      combine_patches(a, t, entries + base, count, shared);
      __syncthreads();
    }
  }
}

__device__ __forceinline__ void backward_gaussians(const GaussianArguments& a,
                                                   GaussianFitShared& shared) {
  const Frame& f = a.frame;
  const Place place = place_of(f, blockIdx.x, threadIdx.x / kWarp);
  float d[3] = {0.0f, 0.0f, 0.0f};
  if (place.inside) {
    const float* pixel = a.d_rgb + 3 * ((int64_t)place.y * f.width + place.x);
    for (int c = 0; c < 3; ++c) d[c] = pixel[c];
  }
  differentiate_gaussians(a, gaussians_of(f, blockIdx.x), place, d, false, shared);
}

// The picture of a tile, its error and their derivatives, while the tile's list is at hand.
__device__ __forceinline__ void fit_gaussians(const GaussianArguments& a,
                                              GaussianFitShared& shared) {
  const Frame& f = a.frame;
  const uint32_t warp = threadIdx.x / kWarp;
  const TileGaussians t = gaussians_of(f, blockIdx.x);
  const Place place = place_of(f, blockIdx.x, warp);
  float d[3], error = 0.0f;
  sum_gaussians(f, t, place, shared.list.entries, d);
  const float weight = (float)(2.0 / (3.0 * f.width * f.height));
  const uint8_t* truth = a.target + place.y * a.stride + 3 * place.x;
  for (int c = 0; c < 3; ++c) {
    const float residual =
        place.inside ? clamp_unit(d[c]) - (float)truth[c] * (1.0f / 255.0f) : 0.0f;
    error += residual * residual;
    d[c] = residual * weight;
  }
  error = warp_sum(error);
  if (threadIdx.x % kWarp == 0) shared.errors[warp] = error;
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) sum += (double)shared.errors[w];
    a.errors[t.tile] = sum;
  }
  differentiate_gaussians(a, t, place, d, t.count <= kSmallTile, shared);
}

// What the tiles have found of a warp's Gaussian, chained to its mean, L and colour.
__device__ __forceinline__ void chain_sums(const GaussianArguments& a) {
  const Frame& f = a.frame;
  const uint32_t lane = threadIdx.x % kWarp;
  const uint64_t i = (uint64_t)blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (i >= f.point_count) return;
  const uint32_t tiles = tiles_of(unpack(f.records[i]));
  const uint32_t first = tiles > 0 ? f.splats[i * kSplatWords + 2].w : kNowhere;
  float position[2] = {}, cholesky[3] = {}, color[3] = {};
  if (first != kNowhere) {
    float v[kGaussianSums] = {};
    for (uint32_t t = lane; t < tiles; t += kWarp) {
      const float4* partial = (const float4*)a.partials + ((uint64_t)first + t) * 2;
      const float4 low = partial[0], high = partial[1];
      v[0] += low.x;
      v[1] += low.y;
      v[2] += low.z;
      v[3] += low.w;
      v[4] += high.x;
      v[5] += high.y;
      v[6] += high.z;
      v[7] += high.w;
    }
    const float sum = eight_sums(v);
    for (int j = 0; j < kGaussianSums; ++j) v[j] = __shfl_sync(kAllLanes, sum, 4 * j);
    const GaussianSums sums = {{v[0], v[1], v[2]}, v[3], v[4], v[5], v[6], v[7]};
    chain_gaussian(a.cholesky + 3 * i, sums, position, cholesky, color);
  }
  if (lane != 0) return;
  for (int c = 0; c < 2; ++c) a.d_position[2 * i + c] = position[c];
  for (int c = 0; c < 3; ++c) a.d_cholesky[3 * i + c] = cholesky[c];
  for (int c = 0; c < 3; ++c) a.d_color[3 * i + c] = color[c];
}

// The mean of the tiles' errors, by one block.
__device__ __forceinline__ void add_errors(const GaussianArguments& a, ErrorShared& shared) {
  const Frame& f = a.frame;
  const uint32_t tiles = (uint32_t)(f.tiles_x * f.tiles_y);
  double sum = 0.0;
  for (uint32_t t = threadIdx.x; t < tiles; t += kTileThreads) sum += a.errors[t];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) shared.warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0.0;
  for (int w = 0; w < kWarps; ++w) sum += shared.warps[w];
  *a.error = (float)(sum / (3.0 * f.width * f.height));
}

}  // namespace peel
