// SPDX-License-Identifier: GPL-3.0-or-later
// The triangles of a tile; included by kernels.cpp only.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace peel {
namespace PEEL_ISA {

// Nearest triangle of every sample, block by block like the tile's other planes.
struct alignas(64) MeshPlanes {
  float z[kBlocks * kBlockSamples];  // +inf: none
  int32_t triangle[kBlocks * kBlockSamples];
};

static inline bool outside(const double e[3], double x0, double y0, double x1, double y1) {
  return edge_at(e, x0, y0) < 0.0 && edge_at(e, x1, y0) < 0.0 && edge_at(e, x0, y1) < 0.0 &&
         edge_at(e, x1, y1) < 0.0;
}

// The list is in the order of the triangles, so at equal depth the first one stays.
static void draw_triangles(const Tile& tile, MeshPlanes* __restrict planes) {
  for (int i = 0; i < kBlocks * kBlockSamples; ++i) {
    planes->z[i] = INFINITY;
    planes->triangle[i] = -1;
  }
  const View& view = tile.mesh->view;
  const double left = tile.x + 0.5, top = tile.y + 0.5;
  for (uint32_t k = 0; k < tile.triangle_count; ++k) {
    const uint32_t number = tile.triangle_list[k];
    const ScreenTriangle& t = tile.triangles[number];
    const double right = left + kTileWidth - 1, bottom = top + kTileHeight - 1;
    if (outside(t.edge[0], left, top, right, bottom) ||
        outside(t.edge[1], left, top, right, bottom) ||
        outside(t.edge[2], left, top, right, bottom)) {
      continue;
    }
    const int y0 = (t.box.y0 > tile.y ? t.box.y0 - tile.y : 0) / kBlock;
    const int y1 = (t.box.y1 < tile.y + kTileHeight ? t.box.y1 - tile.y : kTileHeight - 1) / kBlock;
    const int x0 = (t.box.x0 > tile.x ? t.box.x0 - tile.x : 0) / kBlock;
    const int x1 = (t.box.x1 < tile.x + kTileWidth ? t.box.x1 - tile.x : kTileWidth - 1) / kBlock;
    for (int y = y0; y <= y1; ++y) {
      for (int x = x0; x <= x1; ++x) {
        const int first = (y * kBlocksAcross + x) * kBlockSamples;
        float* z = planes->z + first;
        int32_t* triangle = planes->triangle + first;
        PEEL_LANES
        for (int l = 0; l < kBlockSamples; ++l) {
          const float here = triangle_depth(view, t, left + (x * kBlock + l % kBlock),
                                            top + (y * kBlock + l / kBlock));
          triangle[l] = here < z[l] ? (int32_t)number : triangle[l];
          z[l] = here < z[l] ? here : z[l];
        }
      }
    }
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
