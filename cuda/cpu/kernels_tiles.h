// SPDX-License-Identifier: GPL-3.0-or-later
// Per-pixel loops; included by kernels.cpp only.
//
// A tile walks its points nearest first and works on blocks of kLanes neighbouring pixels of a row.
// The loops over lanes have a fixed length and no branches, so the compiler turns them into vector
// code on any machine; sums over lanes are always taken in the same order.
#pragma once

#include "../include/peel/composite.h"
#include "kernels.h"

namespace peel {
namespace PEEL_ISA {

// Before a loop over lanes: the iterations are independent, and the loop stays whole for the
// vectoriser (which would find nothing left after complete unrolling).
#if defined(__clang__)
#define PEEL_LANES _Pragma("clang loop vectorize(assume_safety) unroll(disable)")
#elif defined(__GNUC__)
#define PEEL_LANES _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#else
#define PEEL_LANES
#endif

constexpr int kBlocksPerRow = kTile / kLanes;
constexpr uint32_t kAliveInterval = 16;  // points between two looks at which blocks are finished

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

// What a walk keeps per pixel to know whether it takes another layer.
struct alignas(64) Progress {
  float transmittance[kTilePixels];
  int count[kTilePixels];
  uint8_t alive[kBlocks];
};

static inline void start(const Tile& tile, Progress* progress) {
  for (int y = 0; y < kTile; ++y) {
    for (int x = 0; x < kTile; ++x) {
      const bool inside = tile.x + x < tile.width && tile.y + y < tile.height;
      progress->transmittance[y * kTile + x] = 1.0f;
      progress->count[y * kTile + x] = inside ? 0 : tile.layers;  // a pixel outside is finished
    }
  }
  for (int b = 0; b < kBlocks; ++b) progress->alive[b] = 1;
}

// Whether any lane of a block takes another layer.
static inline int takes_any(const float* T, const int* count, int layers, float least) {
  int lanes = 0;
  PEEL_LANES
  for (int l = 0; l < kLanes; ++l) lanes += takes_layer(0.0f, count[l], layers, T[l], least);
  return lanes != 0;
}

// False when every pixel of the tile is finished.
static inline bool refresh_alive(const Tile& tile, Progress* progress) {
  const int layers = tile.layers;
  const float least = tile.min_transmittance;
  int any = 0;
  for (int b = 0; b < kBlocks; ++b) {
    const int alive = takes_any(progress->transmittance + b * kLanes, progress->count + b * kLanes,
                                layers, least);
    progress->alive[b] = (uint8_t)alive;
    any |= alive;
  }
  return any != 0;
}

// The part of a splat's box inside the tile, and its offsets in semi-axes.
struct Window {
  int block0, block1, row0, row1;  // inclusive
  float dy;                        // first row, pixels
  alignas(32) float sx[kTile];     // per column
  alignas(32) float qx[kTile];     // sx squared
};

static inline void open_window(const Tile& tile, const Splat& s, Window* w) {
  w->block0 = max_int(s.x0 - tile.x, 0) / kLanes;
  w->block1 = min_int(s.x1 - tile.x, kTile - 1) / kLanes;
  w->row0 = max_int(s.y0 - tile.y, 0);
  w->row1 = min_int(s.y1 - tile.y, kTile - 1);
  // Subtracted in double: what is left is small and exact enough for the rim test in float32.
  const float dx = (float)(tile.x + 0.5 - s.u);
  w->dy = (float)(tile.y + 0.5 - s.v);
  const float inverse_a = s.inverse_a;
  PEEL_LANES
  for (int x = 0; x < kTile; ++x) {
    const float sx = (dx + (float)x) * inverse_a;
    w->sx[x] = sx;
    w->qx[x] = sx * sx;
  }
}

static inline float offset_y(const Window& w, const Splat& s, int row) {
  return (w.dy + (float)row) * s.inverse_b;
}

struct alignas(64) Sums {
  float r[kTilePixels], g[kTilePixels], b[kTilePixels], a[kTilePixels];
  float depth[kTilePixels], surface[kTilePixels];
};

static inline void record_layer_ids(const Tile& tile, const Image& image, int block,
                                    const int* hit, const int* count_after, uint32_t index) {
  const int y = tile.y + block / kBlocksPerRow;
  const int x = tile.x + block % kBlocksPerRow * kLanes;
  for (int l = 0; l < kLanes; ++l) {
    if (!hit[l]) continue;
    const int64_t pixel = (int64_t)y * tile.width + x + l;
    image.layer_ids[pixel * tile.layers + count_after[l] - 1] = (int32_t)index;
  }
}

template <bool kLayerIds>
static inline void walk_forward(const Tile& tile, const Image& image, Progress* __restrict p,
                                Sums* __restrict sums) {
  const int layers = tile.layers;
  const float least = tile.min_transmittance;
  Window w;
  for (uint32_t place = 0; place < tile.count; ++place) {
    if (place % kAliveInterval == 0 && place > 0 && !refresh_alive(tile, p)) break;
    const Splat& s = tile.splats[tile.list[place]];
    open_window(tile, s, &w);
    const float weight = s.weight, red = s.rgb[0], green = s.rgb[1], blue = s.rgb[2], z = s.z;
    for (int y = w.row0; y <= w.row1; ++y) {
      const float sy = offset_y(w, s, y);
      const float qy = sy * sy;
      for (int column = w.block0; column <= w.block1; ++column) {
        const int block = y * kBlocksPerRow + column;
        if (!p->alive[block]) continue;
        const float* qx = w.qx + column * kLanes;
        float* T = p->transmittance + block * kLanes;
        int* count = p->count + block * kLanes;
        float* R = sums->r + block * kLanes;
        float* G = sums->g + block * kLanes;
        float* B = sums->b + block * kLanes;
        float* A = sums->a + block * kLanes;
        float* D = sums->depth + block * kLanes;
        float* S = sums->surface + block * kLanes;
        int hit[kLanes];
        PEEL_LANES
        for (int l = 0; l < kLanes; ++l) {
          const float q = qx[l] + qy;
          hit[l] = takes_layer(q, count[l], layers, T[l], least);
          const float alpha = hit[l] ? falloff(weight, q) : 0.0f;
          const float contribution = T[l] * alpha;
          R[l] += contribution * red;
          G[l] += contribution * green;
          B[l] += contribution * blue;
          D[l] += contribution * z;
          const float before = A[l];
          A[l] = before + contribution;
          S[l] = (before < 0.5f) & (A[l] >= 0.5f) ? z : S[l];
          T[l] = transmit(T[l], alpha);
          count[l] += hit[l];
        }
        if (kLayerIds) record_layer_ids(tile, image, block, hit, count, s.index);
      }
    }
  }
}

static void forward_tile(const Tile& tile, const Image& image) {
  const int columns = min_int(kTile, tile.width - tile.x);
  const int rows = min_int(kTile, tile.height - tile.y);
  Progress progress;
  Sums sums;
  start(tile, &progress);
  for (int i = 0; i < kTilePixels; ++i) {
    sums.r[i] = sums.g[i] = sums.b[i] = sums.a[i] = sums.depth[i] = 0.0f;
    sums.surface[i] = INFINITY;
  }
  if (image.layer_ids) {
    for (int y = 0; y < rows; ++y) {
      int32_t* ids =
          image.layer_ids + ((int64_t)(tile.y + y) * tile.width + tile.x) * tile.layers;
      for (int i = 0; i < columns * tile.layers; ++i) ids[i] = -1;
    }
    walk_forward<true>(tile, image, &progress, &sums);
  } else {
    walk_forward<false>(tile, image, &progress, &sums);
  }
  for (int y = 0; y < rows; ++y) {
    const int64_t first = (int64_t)(tile.y + y) * tile.width + tile.x;
    for (int x = 0; x < columns; ++x) {
      const int i = y * kTile + x;
      float* rgba = image.rgba + 4 * (first + x);
      rgba[0] = sums.r[i];
      rgba[1] = sums.g[i];
      rgba[2] = sums.b[i];
      rgba[3] = sums.a[i];
      if (image.depth) image.depth[first + x] = sums.depth[i];
      if (image.surface) image.surface[first + x] = sums.surface[i];
    }
  }
}

// The forward walk again, keeping T and alpha of every block that received a layer.
static inline int64_t trace_tile(const Tile& tile, const Trace& trace, Progress* __restrict p) {
  const int layers = tile.layers;
  const float least = tile.min_transmittance;
  int64_t records = 0;
  Window w;
  for (uint32_t place = 0; place < tile.count; ++place) {
    if (place % kAliveInterval == 0 && place > 0 && !refresh_alive(tile, p)) break;
    const Splat& s = tile.splats[tile.list[place]];
    open_window(tile, s, &w);
    const float weight = s.weight;
    for (int y = w.row0; y <= w.row1; ++y) {
      const float sy = offset_y(w, s, y);
      const float qy = sy * sy;
      for (int column = w.block0; column <= w.block1; ++column) {
        const int block = y * kBlocksPerRow + column;
        if (!p->alive[block]) continue;
        const float* qx = w.qx + column * kLanes;
        float* T = p->transmittance + block * kLanes;
        int* count = p->count + block * kLanes;
        float* __restrict kept_T = trace.transmittance + records * kLanes;
        float* __restrict kept_alpha = trace.alpha + records * kLanes;
        int any = 0;
        PEEL_LANES
        for (int l = 0; l < kLanes; ++l) {
          const float q = qx[l] + qy;
          const int hit = takes_layer(q, count[l], layers, T[l], least);
          const float alpha = hit ? falloff(weight, q) : 0.0f;
          kept_T[l] = T[l];
          kept_alpha[l] = alpha;
          T[l] = transmit(T[l], alpha);
          count[l] += hit;
          any += hit;
        }
        trace.place[records] = place;
        trace.block[records] = (uint8_t)block;
        records += any != 0;  // a record without a layer is overwritten by the next one
      }
    }
  }
  return records;
}

// dL/dpixel of a tile, one plane per channel: r, g, b, a, accumulated depth.
struct alignas(64) PixelGradients {
  float r[kTilePixels], g[kTilePixels], b[kTilePixels], a[kTilePixels], depth[kTilePixels];
};

static inline void load_gradients(const Tile& tile, const float* d_rgba, const float* d_depth,
                                  PixelGradients* out) {
  for (int y = 0; y < kTile; ++y) {
    for (int x = 0; x < kTile; ++x) {
      const int i = y * kTile + x;
      const bool inside = tile.x + x < tile.width && tile.y + y < tile.height;
      const int64_t pixel = inside ? (int64_t)(tile.y + y) * tile.width + tile.x + x : 0;
      out->r[i] = inside ? d_rgba[4 * pixel + 0] : 0.0f;
      out->g[i] = inside ? d_rgba[4 * pixel + 1] : 0.0f;
      out->b[i] = inside ? d_rgba[4 * pixel + 2] : 0.0f;
      out->a[i] = inside ? d_rgba[4 * pixel + 3] : 0.0f;
      out->depth[i] = inside && d_depth ? d_depth[pixel] : 0.0f;
    }
  }
}

static inline float sum_lanes(const float* v) {
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

static void backward_tile(const Tile& tile, const float* d_rgba, const float* d_depth,
                          const Trace& trace, float* partials) {
  Progress progress;
  start(tile, &progress);
  int64_t record = trace_tile(tile, trace, &progress);
  if (record == 0) return;
  PixelGradients gradients;
  load_gradients(tile, d_rgba, d_depth, &gradients);
  alignas(64) float suffix[kTilePixels] = {};
  const int tile_x = tile.x / kTile, tile_y = tile.y / kTile;
  Window w;
  while (record > 0) {
    const uint32_t place = trace.place[record - 1];
    const Splat& s = tile.splats[tile.list[place]];
    open_window(tile, s, &w);
    const float red = s.rgb[0], green = s.rgb[1], blue = s.rgb[2], z = s.z;
    alignas(32) float total[kPartials][kLanes] = {};
    for (; record > 0 && trace.place[record - 1] == place; --record) {
      const int block = trace.block[record - 1];
      const float sy = offset_y(w, s, block / kBlocksPerRow);
      const float qy = sy * sy;
      const float* sx = w.sx + block % kBlocksPerRow * kLanes;
      const float* qx = w.qx + block % kBlocksPerRow * kLanes;
      const float* T = trace.transmittance + (record - 1) * kLanes;
      const float* alphas = trace.alpha + (record - 1) * kLanes;
      const float* gr = gradients.r + block * kLanes;
      const float* gg = gradients.g + block * kLanes;
      const float* gb = gradients.b + block * kLanes;
      const float* ga = gradients.a + block * kLanes;
      const float* gz = gradients.depth + block * kLanes;
      float* S = suffix + block * kLanes;
      PEEL_LANES
      for (int l = 0; l < kLanes; ++l) {
        const float alpha = alphas[l];
        const float value = gr[l] * red + gg[l] * green + gb[l] * blue + ga[l] + gz[l] * z;
        const float contribution = T[l] * alpha;
        const float h = alpha > 0.0f ? alpha_derivative(T[l], value, S[l]) : 0.0f;
        S[l] = extend_suffix(alpha, value, S[l]);
        total[0][l] += contribution * gr[l];
        total[1][l] += contribution * gg[l];
        total[2][l] += contribution * gb[l];
        total[3][l] += contribution * gz[l];
        total[4][l] += h * (1.0f - (qx[l] + qy));
        total[5][l] += h * sx[l];
        total[6][l] += h * qx[l];
        total[7][l] += h * sy;
        total[8][l] += h * qy;
      }
    }
    const int first_x = s.x0 / kTile, last_x = s.x1 / kTile;
    const int first_y = max_int(s.y0 / kTile, tile.band_row);
    const int64_t overlap = (int64_t)s.first +
                            (int64_t)(tile_y - first_y) * (last_x - first_x + 1) +
                            (tile_x - first_x);
    float* out = partials + overlap * kPartials;
    for (int j = 0; j < kPartials; ++j) out[j] = sum_lanes(total[j]);
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
