// SPDX-License-Identifier: GPL-3.0-or-later
// Per-tile loops; included by kernels.cpp only.
//
// A tile is 32 blocks of 8 neighbouring pixels of a row. The innermost loop runs over the 8 lanes
// of a block, has no branches and calls the arithmetic of include/peel/, so that a compiler turns
// it into vector code of whatever width the machine has.
#pragma once

#include "../include/peel/composite.h"
#include "kernels.h"

namespace peel {
namespace PEEL_ISA {

// The part of a tile that a point can reach, in rows and in blocks of a row, and its offset.
struct Reach {
  int y0, y1, b0, b1;
  float dx;  // from the centre to the first pixel's centre, pixels
  float inverse_a, inverse_b, weight;
};

static inline Reach reach(const Tile& tile, const Splat& s) {
  Reach r;
  r.y0 = s.y0 > tile.y ? s.y0 - tile.y : 0;
  r.y1 = s.y1 < tile.y + kTile - 1 ? s.y1 - tile.y : kTile - 1;
  const int x0 = s.x0 > tile.x ? s.x0 - tile.x : 0;
  const int x1 = s.x1 < tile.x + kTile - 1 ? s.x1 - tile.x : kTile - 1;
  r.b0 = x0 / kLanes;
  r.b1 = x1 / kLanes;
  r.dx = (float)(tile.x + 0.5 - s.u);
  r.inverse_a = s.inverse_a;
  r.inverse_b = s.inverse_b;
  r.weight = s.weight;
  return r;
}

// Walk state of a tile. Lanes outside the image start with a transmittance that takes no layer.
struct alignas(64) Walk {
  float transmittance[kBlocks][kLanes];
  int32_t count[kBlocks][kLanes];
  uint32_t open;  // bit per block: some lane still takes layers

  void begin(const Tile& tile) {
    open = 0;
    for (int block = 0; block < kBlocks; ++block) {
      const int y = tile.y + block * kLanes / kTile;
      bool any = false;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int x = tile.x + block * kLanes % kTile + lane;
        const bool inside = x < tile.width && y < tile.height;
        transmittance[block][lane] = inside ? 1.0f : -1.0f;
        count[block][lane] = 0;
        any |= inside;
      }
      open |= (uint32_t)any << block;
    }
  }

  void close_if_full(int block, const Tile& tile) {
    int any = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      any |= (count[block][lane] < tile.layers) &
             (transmittance[block][lane] >= tile.min_transmittance);
    }
    if (!any) open &= ~(1u << block);
  }
};

// The layers of one point in one block: alpha per lane, 0 where it adds none. Advances the walk
// and returns whether any lane took one. `before` receives the transmittance in front of it.
static inline bool take_block(const Tile& tile, const Reach& r, float sy_squared, int block,
                              Walk* walk, float* alpha, float* before) {
  float* T = walk->transmittance[block];
  int32_t* count = walk->count[block];
  const float first = r.dx + (float)(block * kLanes % kTile);
  int any = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float sx = (first + (float)lane) * r.inverse_a;
    const float q = sx * sx + sy_squared;
    const int take = takes_layer(q, count[lane], tile.layers, T[lane], tile.min_transmittance);
    const float value = falloff(r.weight, q);
    alpha[lane] = take ? value : 0.0f;
    before[lane] = T[lane];
    count[lane] += take;
    T[lane] = transmit(T[lane], alpha[lane]);
    any |= take;
  }
  return any != 0;
}

static void forward_tile(const Tile& tile, const Image& image) {
  Walk walk;
  walk.begin(tile);
  alignas(64) float red[kBlocks][kLanes] = {}, green[kBlocks][kLanes] = {},
                    blue[kBlocks][kLanes] = {}, coverage[kBlocks][kLanes] = {},
                    depth[kBlocks][kLanes] = {}, surface[kBlocks][kLanes];
  for (int block = 0; block < kBlocks; ++block) {
    for (int lane = 0; lane < kLanes; ++lane) surface[block][lane] = INFINITY;
  }
  const int columns = tile.width - tile.x < kTile ? tile.width - tile.x : kTile;
  const int rows = tile.height - tile.y < kTile ? tile.height - tile.y : kTile;
  if (image.layer_ids != nullptr) {
    for (int y = 0; y < rows; ++y) {
      int32_t* ids = image.layer_ids + ((int64_t)(tile.y + y) * tile.width + tile.x) * tile.layers;
      for (int i = 0; i < columns * tile.layers; ++i) ids[i] = -1;
    }
  }

  for (uint32_t place = 0; place < tile.count && walk.open != 0; ++place) {
    const Splat& s = tile.splats[tile.list[place]];
    const Reach r = reach(tile, s);
    for (int y = r.y0; y <= r.y1; ++y) {
      const float sy = (float)(tile.y + y + 0.5 - s.v) * r.inverse_b;
      const float sy_squared = sy * sy;
      if (!(sy_squared < 1.0f)) continue;
      for (int b = r.b0; b <= r.b1; ++b) {
        const int block = y * (kTile / kLanes) + b;
        if (!(walk.open >> block & 1u)) continue;
        alignas(32) float alpha[kLanes], before[kLanes];
        if (!take_block(tile, r, sy_squared, block, &walk, alpha, before)) continue;
        for (int lane = 0; lane < kLanes; ++lane) {
          const float part = before[lane] * alpha[lane];
          const float sum = coverage[block][lane] + part;
          const bool passes = (coverage[block][lane] < 0.5f) & (sum >= 0.5f);
          surface[block][lane] = passes ? s.z : surface[block][lane];
          coverage[block][lane] = sum;
          red[block][lane] += part * s.rgb[0];
          green[block][lane] += part * s.rgb[1];
          blue[block][lane] += part * s.rgb[2];
          depth[block][lane] += part * s.z;
        }
        if (image.layer_ids != nullptr) {
          for (int lane = 0; lane < kLanes; ++lane) {
            if (!(alpha[lane] > 0.0f)) continue;
            const int64_t x = tile.x + b * kLanes + lane;
            const int64_t pixel = (int64_t)(tile.y + y) * tile.width + x;
            image.layer_ids[pixel * tile.layers + walk.count[block][lane] - 1] = (int32_t)s.index;
          }
        }
        walk.close_if_full(block, tile);
      }
    }
  }

  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      const int block = y * (kTile / kLanes) + x / kLanes, lane = x % kLanes;
      const int64_t pixel = (int64_t)(tile.y + y) * tile.width + tile.x + x;
      float* out = image.rgba + 4 * pixel;
      out[0] = red[block][lane];
      out[1] = green[block][lane];
      out[2] = blue[block][lane];
      out[3] = coverage[block][lane];
      if (image.depth != nullptr) image.depth[pixel] = depth[block][lane];
      if (image.surface != nullptr) image.surface[pixel] = surface[block][lane];
    }
  }
}

// Which of the band's (point, tile) overlaps this is: see Splat::first.
static inline int64_t overlap(const Tile& tile, const Splat& s) {
  const int top = s.y0 / kTile > tile.band_row ? s.y0 / kTile : tile.band_row;
  const int left = s.x0 / kTile, across = s.x1 / kTile - left + 1;
  return (int64_t)s.first + (int64_t)(tile.y / kTile - top) * across + (tile.x / kTile - left);
}

static void backward_tile(const Tile& tile, const float* d_rgba, const float* d_depth,
                          const Trace& trace, float* partials) {
  // Front to back, remembering every layer.
  Walk walk;
  walk.begin(tile);
  int64_t records = 0;
  for (uint32_t place = 0; place < tile.count && walk.open != 0; ++place) {
    const Splat& s = tile.splats[tile.list[place]];
    const Reach r = reach(tile, s);
    for (int y = r.y0; y <= r.y1; ++y) {
      const float sy = (float)(tile.y + y + 0.5 - s.v) * r.inverse_b;
      const float sy_squared = sy * sy;
      if (!(sy_squared < 1.0f)) continue;
      for (int b = r.b0; b <= r.b1; ++b) {
        const int block = y * (kTile / kLanes) + b;
        if (!(walk.open >> block & 1u)) continue;
        float* alpha = trace.alpha + records * kLanes;
        float* before = trace.transmittance + records * kLanes;
        if (!take_block(tile, r, sy_squared, block, &walk, alpha, before)) continue;
        trace.place[records] = place;
        trace.block[records] = (uint8_t)block;
        ++records;
        walk.close_if_full(block, tile);
      }
    }
  }
  if (records == 0) return;

  // dL/dpixel by channel and block; zero outside the image.
  alignas(64) float g[5][kBlocks][kLanes] = {}, suffix[kBlocks][kLanes] = {};
  for (int y = 0; y < kTile && tile.y + y < tile.height; ++y) {
    for (int x = 0; x < kTile && tile.x + x < tile.width; ++x) {
      const int block = y * (kTile / kLanes) + x / kLanes, lane = x % kLanes;
      const int64_t pixel = (int64_t)(tile.y + y) * tile.width + tile.x + x;
      for (int c = 0; c < 4; ++c) g[c][block][lane] = d_rgba[4 * pixel + c];
      if (d_depth != nullptr) g[4][block][lane] = d_depth[pixel];
    }
  }

  // Back to front. The records of a point stand together, so its sums stay in registers.
  for (int64_t end = records; end > 0;) {
    const uint32_t place = trace.place[end - 1];
    const Splat& s = tile.splats[tile.list[place]];
    const Reach r = reach(tile, s);
    alignas(64) float sums[kPartials][kLanes] = {};
    int64_t record = end - 1;
    for (; record >= 0 && trace.place[record] == place; --record) {
      const int block = trace.block[record];
      const float* alpha = trace.alpha + record * kLanes;
      const float* before = trace.transmittance + record * kLanes;
      const float sy = (float)(tile.y + block * kLanes / kTile + 0.5 - s.v) * r.inverse_b;
      const float first = r.dx + (float)(block * kLanes % kTile);
      for (int lane = 0; lane < kLanes; ++lane) {
        const float sx = (first + (float)lane) * r.inverse_a;
        const float g0 = g[0][block][lane], g1 = g[1][block][lane], g2 = g[2][block][lane];
        const float value = g0 * s.rgb[0] + g1 * s.rgb[1] + g2 * s.rgb[2] + g[3][block][lane] +
                            g[4][block][lane] * s.z;
        const float a = alpha[lane], behind = suffix[block][lane];
        const float derivative = alpha_derivative(before[lane], value, behind);
        const float h = a > 0.0f ? derivative : 0.0f;
        suffix[block][lane] = a > 0.0f ? extend_suffix(a, value, behind) : behind;
        const float part = before[lane] * a;
        sums[0][lane] += part * g0;
        sums[1][lane] += part * g1;
        sums[2][lane] += part * g2;
        sums[3][lane] += part * g[4][block][lane];
        sums[4][lane] += h * (1.0f - (sx * sx + sy * sy));
        sums[5][lane] += h * sx;
        sums[6][lane] += h * sx * sx;
        sums[7][lane] += h * sy;
        sums[8][lane] += h * sy * sy;
      }
    }
    float* out = partials + overlap(tile, s) * kPartials;
    for (int i = 0; i < kPartials; ++i) {
      float total = 0.0f;
      for (int lane = 0; lane < kLanes; ++lane) total += sums[i][lane];
      out[i] = total;
    }
    end = record + 1;
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
