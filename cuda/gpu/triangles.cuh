// SPDX-License-Identifier: GPL-3.0-or-later
// Triangles: setup and counting, and the nearest one at every sample of a tile.
#pragma once

#include "bin.cuh"
#include "pixels.cuh"

namespace peel {

__device__ __forceinline__ void project_triangles(const MeshArguments& a) {
  const Triangles& t = a.triangles;
  const int64_t i = (int64_t)blockIdx.x * kTileThreads + threadIdx.x;
  Record record = no_record();
  if (i < t.mesh.count) {
    ScreenTriangle screen;
    if (setup_triangle(t.mesh, i, &screen)) {
      t.screen[i] = screen;
      record = record_of(screen.box, 0);
    }
    t.records[i] = pack(record);
  }
  count_tiles(a.frame, t.lists, record);
}

// What a sample sees of the triangles.
struct Surface {
  float z;            // +inf: none
  uint32_t triangle;
};

constexpr int kTriangleChunk = kTileThreads;

struct TrianglesShared {
  uint32_t triangle[kTriangleChunk];
  uint8_t patches[kTriangleChunk];
};

// All threads of the block; leaves the shared memory free for others.
__device__ __forceinline__ Surface nearest_triangle(const Frame& f, const Triangles& t,
                                                    uint32_t tile, const Place& place,
                                                    TrianglesShared& shared) {
  Surface nearest = {INFINITY, kNowhere};
  const uint32_t start = t.lists.starts[tile];
  const uint32_t count = start == kNowhere ? 0 : t.lists.counts[tile];
  const int tile_x = (int)(tile % (uint32_t)f.tiles_x) * kTile;
  const int tile_y = (int)(tile / (uint32_t)f.tiles_x) * kTile;
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (uint32_t chunk = 0; chunk < count; chunk += kTriangleChunk) {
    const uint32_t size = count - chunk < kTriangleChunk ? count - chunk : kTriangleChunk;
    if (threadIdx.x < size) {
      const uint32_t triangle = t.entries[start + chunk + threadIdx.x];
      shared.triangle[threadIdx.x] = triangle;
      shared.patches[threadIdx.x] =
          (uint8_t)patches_of(t.screen[triangle].box, tile_x, tile_y);
    }
    __syncthreads();
    for (uint32_t base = 0; base < size; base += kWarp) {
      const uint32_t i = base + lane;
      uint32_t hits = __ballot_sync(kAllLanes, i < size && (shared.patches[i] >> warp & 1));
      while (hits) {
        const uint32_t triangle = shared.triangle[base + (uint32_t)__ffs((int)hits) - 1];
        hits &= hits - 1;
        const float z =
            triangle_depth(t.mesh.view, t.screen[triangle], place.x + 0.5, place.y + 0.5);
        if (z < nearest.z || (z == nearest.z && z < INFINITY && triangle < nearest.triangle)) {
          nearest = {z, triangle};
        }
      }
    }
    __syncthreads();
  }
  return nearest;
}

}  // namespace peel
