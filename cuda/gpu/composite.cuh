// SPDX-License-Identifier: GPL-3.0-or-later
// The picture of a tile: depth order, layers, triangles, and the mean over the samples of a pixel.
#pragma once

#include "../include/peel/composite.h"
#include "pixels.cuh"
#include "sort.cuh"
#include "triangles.cuh"

namespace peel {

// What a sample has gathered.
struct Sample {
  float transmittance;
  int count;
  float r, g, b, depth;
  float surface;           // z of the layer where alpha reaches 0.5, +inf: none yet
  uint32_t surface_index;  // its point
};

union CompositeShared {
  uint64_t entries[kSmallTile];
  TrianglesShared triangles;
};

template <bool kMesh>
__device__ __forceinline__ void add_layer(const Frame& f, const Splat& s, const Place& place,
                                          const Anchor& anchor, float hidden, Sample& p) {
  const float sx = offset_x(s, anchor), sy = offset_y(s, anchor);
  const float q = sx * sx + sy * sy;
  bool hit = takes_layer(q, p.count, f.layers, p.transmittance, f.min_transmittance);
  if (kMesh) hit &= s.z < hidden;
  if (!hit) return;
  const float alpha = falloff(s.weight, q);
  const float contribution = p.transmittance * alpha;
  p.r += contribution * s.rgb[0];
  p.g += contribution * s.rgb[1];
  p.b += contribution * s.rgb[2];
  p.depth += contribution * s.z;
  const float after = transmit(p.transmittance, alpha);
  if (p.transmittance > 0.5f && after <= 0.5f) {
    p.surface = s.z;
    p.surface_index = s.index;
  }
  p.transmittance = after;
  if (f.layer_ids) {
    const int64_t pixel = (int64_t)place.y * f.width + place.x;
    f.layer_ids[pixel * f.layers + p.count] = (int32_t)s.index;
  }
  ++p.count;
}

// Sorts the tile's overlaps and walks them, nearest first, until every sample is finished.
template <bool kMesh>
__device__ __forceinline__ void walk_tile(const Frame& f, uint32_t tile, uint32_t start,
                                          uint32_t count, const Place& place, float hidden,
                                          uint64_t* entries, Sample& p) {
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int tile_x = (int)(tile % (uint32_t)f.tiles_x) * kTile;
  const int tile_y = (int)(tile / (uint32_t)f.tiles_x) * kTile;
  const Anchor anchor = anchor_of(place);
  for (uint32_t chunk = 0; chunk < count; chunk += kSmallTile) {
    const uint32_t size = count - chunk < kSmallTile ? count - chunk : kSmallTile;
    uint64_t* const global = f.entries + start + chunk;
    for (uint32_t i = threadIdx.x; i < size; i += kTileThreads) entries[i] = global[i];
    if (count <= kSmallTile) sort_small(entries, size);  // otherwise sort_large has done it
    // From here on the depth is not needed; the patches that a point reaches take its place.
    for (uint32_t i = threadIdx.x; i < size; i += kTileThreads) {
      const uint32_t slot = (uint32_t)entries[i];
      const uint64_t patches = patches_of(load_box(f.splats, slot), tile_x, tile_y);
      entries[i] = patches << 32 | slot;
      if (f.keep) global[i] = patches << 32 | slot;
    }
    __syncthreads();
    bool open = true;
    for (uint32_t base = 0; base < size; base += kWarp) {
      open = takes_layer(0.0f, p.count, f.layers, p.transmittance, f.min_transmittance);
      if (!__any_sync(kAllLanes, open)) break;
      const uint32_t i = base + lane;
      const uint64_t own = i < size ? entries[i] : 0;
      uint32_t hits = __ballot_sync(kAllLanes, (own >> (32 + warp) & 1) != 0);
      if (!hits) continue;
      // The next splat is on its way while this one is added.
      Splat next = load_splat(f.splats, (uint32_t)entries[base + (uint32_t)__ffs((int)hits) - 1]);
      do {
        const Splat s = next;
        hits &= hits - 1;
        if (hits) {
          next = load_splat(f.splats, (uint32_t)entries[base + (uint32_t)__ffs((int)hits) - 1]);
        }
        add_layer<kMesh>(f, s, place, anchor, hidden, p);
      } while (hits);
    }
    open = takes_layer(0.0f, p.count, f.layers, p.transmittance, f.min_transmittance);
    if (!__syncthreads_or(open)) break;
  }
}

__device__ __forceinline__ int32_t clip_id(const Frame& f, uint32_t index) {
  int low = 0, high = f.clip_count - 1;
  while (low < high) {  // the last clip that begins at or before the point
    const int middle = (low + high + 1) / 2;
    if (f.clip_ids[middle].first <= index) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return f.clip_ids[low].id;
}

// The samples of a pixel lie in one warp; its first lane gets their mean in row-major order.
__device__ __forceinline__ float mean(const Frame& f, int first, float value) {
  float sum = 0.0f;
  for (int y = 0; y < f.samples; ++y) {
    for (int x = 0; x < f.samples; ++x) {
      sum += __shfl_sync(kAllLanes, value, first + y * kPatchWidth + x);
    }
  }
  return sum * (1.0f / (float)(f.samples * f.samples));
}

__device__ __forceinline__ void write_samples(const Frame& f, const Place& place, Sample& p,
                                              int32_t id) {
  float alpha = 1.0f - p.transmittance;
  int x = place.x, y = place.y, width = f.width;
  bool writes = place.inside;
  if (f.samples > 1) {
    const int lane = (int)(threadIdx.x % kWarp), side = f.samples;
    const int column = lane % kPatchWidth, row = lane / kPatchWidth;
    const int first = (row - row % side) * kPatchWidth + column - column % side;
    p.r = mean(f, first, p.r);
    p.g = mean(f, first, p.g);
    p.b = mean(f, first, p.b);
    alpha = mean(f, first, alpha);
    p.depth = mean(f, first, p.depth);
    float nearest = INFINITY;
    int32_t nearest_id = -1;
    int seen = 0;
    for (int j = 0; j < side; ++j) {
      for (int i = 0; i < side; ++i) {
        const float z = __shfl_sync(kAllLanes, p.surface, first + j * kPatchWidth + i);
        const int32_t other = __shfl_sync(kAllLanes, id, first + j * kPatchWidth + i);
        seen += z < INFINITY;
        if (z < nearest) {
          nearest = z;
          nearest_id = other;
        }
      }
    }
    const bool enough = 2 * seen >= side * side;
    p.surface = enough ? nearest : INFINITY;
    id = enough ? nearest_id : -1;
    writes = writes && lane == first;
    x /= side;
    y /= side;
    width /= side;
  }
  if (!writes) return;
  const int64_t pixel = (int64_t)y * width + x;
  if (f.rgba) ((float4*)f.rgba)[pixel] = make_float4(p.r, p.g, p.b, alpha);
  if (f.depth) f.depth[pixel] = p.depth;
  if (f.surface) f.surface[pixel] = p.surface;
  if (f.surface_id) f.surface_id[pixel] = id;
}

template <bool kMesh>
__device__ __forceinline__ void composite_tile(const Frame& f, const Triangles* triangles,
                                               CompositeShared& shared) {
  const uint32_t tile = f.tile_begin + blockIdx.x;
  const Place place = place_of(f, tile, threadIdx.x / kWarp);
  Surface mesh = {INFINITY, kNowhere};
  if (kMesh) mesh = nearest_triangle(f, *triangles, tile, place, shared.triangles);
  Sample p = {1.0f, place.inside ? 0 : f.layers, 0.0f, 0.0f, 0.0f, 0.0f, INFINITY, kNowhere};
  const uint32_t start = f.lists.starts[tile], listed = f.lists.counts[tile];
  const uint32_t count = start == kNowhere ? 0 : listed;
  if (count > 0) walk_tile<kMesh>(f, tile, start, count, place, mesh.z, shared.entries, p);
  if (f.layer_ids && place.inside) {
    int32_t* ids = f.layer_ids + ((int64_t)place.y * f.width + place.x) * f.layers;
    for (int k = p.count; k < f.layers; ++k) ids[k] = -1;
  }
  int32_t id = -1;
  if (f.surface_id && p.surface_index != kNowhere) id = clip_id(f, p.surface_index);
  if (kMesh && mesh.triangle != kNowhere && !triangles->mesh.holdout[mesh.triangle]) {
    float rgb[3];
    triangle_color(triangles->mesh, mesh.triangle, triangles->screen[mesh.triangle],
                   place.x + 0.5, place.y + 0.5, rgb);
    if (p.surface_index == kNowhere) {
      p.surface = mesh.z;
      id = triangles->mesh.id[mesh.triangle];
    }
    p.r += p.transmittance * rgb[0];
    p.g += p.transmittance * rgb[1];
    p.b += p.transmittance * rgb[2];
    p.depth += p.transmittance * mesh.z;
    p.transmittance = 0.0f;
  }
  write_samples(f, place, p, id);
}

}  // namespace peel
