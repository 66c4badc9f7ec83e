// SPDX-License-Identifier: GPL-3.0-or-later
// The samples of a tile: a warp has a patch of 8 x 4 of them and skips what does not reach it.
#pragma once

#include "memory.cuh"

namespace peel {

// Where a thread works.
struct Place {
  int patch_x, patch_y;  // first sample of the warp's patch
  int x, y;              // sample of the lane
  bool inside;           // the image
};

__device__ __forceinline__ Place place_of(const Frame& f, uint32_t tile, uint32_t warp) {
  const int lane = (int)(threadIdx.x % kWarp);
  Place p;
  p.patch_x = (int)(tile % (uint32_t)f.tiles_x) * kTile + (int)(warp % 2) * kPatchWidth;
  p.patch_y = (int)(tile / (uint32_t)f.tiles_x) * kTile + (int)(warp / 2) * kPatchHeight;
  p.x = p.patch_x + lane % kPatchWidth;
  p.y = p.patch_y + lane / kPatchWidth;
  p.inside = p.x < f.width && p.y < f.height;
  return p;
}

// Bit w: the box reaches the patch of warp w of the tile with its first sample at (x, y).
__device__ __forceinline__ uint32_t patches_of(const Box& box, int x, int y) {
  const uint32_t left = box.x0 < x + kPatchWidth && box.x1 >= x;
  const uint32_t right = box.x0 < x + 2 * kPatchWidth && box.x1 >= x + kPatchWidth;
  uint32_t patches = 0;
#pragma unroll
  for (int row = 0; row < kTile / kPatchHeight; ++row) {
    const int top = y + row * kPatchHeight;
    const uint32_t rows = box.y0 < top + kPatchHeight && box.y1 >= top;
    patches |= ((left | right << 1) & (0u - rows)) << (2 * row);
  }
  return patches;
}

// Where a sample is seen from. The sums below are rounded as on the CPU, so that both draw the same
// bits.
struct Anchor {
  int x, y;    // first sample of the anchor tile
  float right, down;  // from there to the sample
};

__device__ __forceinline__ Anchor anchor_of(const Place& p) {
  Anchor a;
  a.x = p.x - p.x % kAnchorWidth;
  a.y = p.y - p.y % kAnchorHeight;
  a.right = (float)(p.x - a.x);
  a.down = (float)(p.y - a.y);
  return a;
}

// From a splat's centre to a sample, in semi-axes.
__device__ __forceinline__ float offset_x(const Splat& s, const Anchor& a) {
  return (a.right + (s.offset_x + (float)(a.x - s.box.x0))) * s.inverse_a;
}
__device__ __forceinline__ float offset_y(const Splat& s, const Anchor& a) {
  return (a.down + (s.offset_y + (float)(a.y - s.box.y0))) * s.inverse_b;
}

}  // namespace peel
