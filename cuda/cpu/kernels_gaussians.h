// SPDX-License-Identifier: GPL-3.0-or-later
// The hot loops of two-dimensional Gaussians: one tile, its Gaussians one after another, sixteen
// pixels of a row at once. Included by kernels.cpp only.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace peel {
namespace PEEL_ISA {

typedef uint32_t NativeBits __attribute__((vector_size(4 * kNative)));

// As peel::exp2_below_zero, sixteen at once.
PEEL_INLINE Floats exp2_below_zero(Floats x) {
  const Floats whole = x + kExp2Round;
  Floats p = exp2_near_zero(x - (whole - kExp2Round));
  // Without signs, because a pixel far outside may run over; its weight is not kept.
  PEEL_EACH p.part[i] =
      (NativeFloats)((NativeBits)p.part[i] + ((NativeBits)whole.part[i] << 23));
  return p;
}

// A Gaussian over one block of sixteen columns of a tile.
struct GaussianBlock {
  Floats dx, square, linear;  // dx^2 a, dx b
  float c, limit;

  PEEL_MEMBER GaussianBlock(const Gaussian2D& g, const float* centres, int left) {
    dx = load(centres) + ((float)left - g.x);
    square = -g.a * (dx * dx);
    linear = -g.b * dx;
    c = -g.c;
    limit = -g.cut;
  }

  PEEL_MEMBER Floats weight(float dy) const {
    const Floats exponent = (square + linear * dy) + c * (dy * dy);
    return keep(at_least(exponent, splat(limit)), exp2_below_zero(exponent));
  }
};

// Rows and blocks of a tile that a Gaussian may reach, inclusive.
struct GaussianReach {
  int y0, y1, block0, block1;

  PEEL_MEMBER GaussianReach(const Gaussian2D& g, const GaussianTile& tile) {
    const int x0 = g.x0 > tile.x ? g.x0 - tile.x : 0;
    const int x1 = g.x1 < tile.x + kGaussianTile ? g.x1 - tile.x : kGaussianTile - 1;
    block0 = x0 / kLanes;
    block1 = x1 / kLanes;
    y0 = g.y0 > tile.y ? g.y0 - tile.y : 0;
    y1 = g.y1 < tile.y + kGaussianTile ? g.y1 - tile.y : kGaussianTile - 1;
  }
};

alignas(64) static const float kCentres[kLanes] = {0.5f,  1.5f,  2.5f,  3.5f,  4.5f,  5.5f,
                                                   6.5f,  7.5f,  8.5f,  9.5f,  10.5f, 11.5f,
                                                   12.5f, 13.5f, 14.5f, 15.5f};

static void draw_gaussians(const GaussianTile& tile, GaussianPlanes& sums) {
  memset(&sums, 0, sizeof sums);
  for (uint32_t k = 0; k < tile.count; ++k) {
    const Gaussian2D& g = tile.gaussians[tile.list[k]];
    const GaussianReach reach(g, tile);
    for (int block = reach.block0; block <= reach.block1; ++block) {
      const GaussianBlock columns(g, kCentres, tile.x + block * kLanes);
      const float top = (float)tile.y + 0.5f - g.y;
      for (int y = reach.y0; y <= reach.y1; ++y) {
        const Floats w = columns.weight((float)y + top);
        float* at = sums.channel[0][y] + block * kLanes;
        PEEL_UNROLL for (int i = 0; i < 3; ++i) {
          store(at + i * kGaussianPixels, load(at + i * kGaussianPixels) + g.color[i] * w);
        }
      }
    }
  }
}

static void differentiate_gaussians(const GaussianTile& tile, const GaussianPlanes& gradient,
                                    GaussianSums* out) {
  for (uint32_t k = 0; k < tile.count; ++k) {
    const Gaussian2D& g = tile.gaussians[tile.list[k]];
    const GaussianReach reach(g, tile);
    Floats sums[8];
    PEEL_UNROLL for (int i = 0; i < 8; ++i) sums[i] = splat(0.0f);
    for (int block = reach.block0; block <= reach.block1; ++block) {
      const GaussianBlock columns(g, kCentres, tile.x + block * kLanes);
      const float top = (float)tile.y + 0.5f - g.y;
      Floats sum_t = splat(0.0f), sum_ty = sum_t;
      for (int y = reach.y0; y <= reach.y1; ++y) {
        const float dy = (float)y + top;
        const Floats w = columns.weight(dy);
        const float* at = gradient.channel[0][y] + block * kLanes;
        const Floats dr = load(at), dg = load(at + kGaussianPixels),
                     db = load(at + 2 * kGaussianPixels);
        sums[0] = sums[0] + w * dr;
        sums[1] = sums[1] + w * dg;
        sums[2] = sums[2] + w * db;
        const Floats t = w * (g.color[0] * dr + (g.color[1] * dg + g.color[2] * db));
        const Floats ty = t * dy;
        sum_t = sum_t + t;
        sum_ty = sum_ty + ty;
        sums[7] = sums[7] + ty * dy;
      }
      // Moments along x follow from what the columns have summed up.
      const Floats tx = sum_t * columns.dx;
      sums[3] = sums[3] + tx;
      sums[4] = sums[4] + sum_ty;
      sums[5] = sums[5] + tx * columns.dx;
      sums[6] = sums[6] + sum_ty * columns.dx;
    }
    const Floats8 total = sum_lanes(sums);
    memcpy(out + k, &total, sizeof total);
  }
}

static void gaussian_bytes(const GaussianPlanes& sums, int width, int height, uint8_t* out,
                           int64_t stride) {
  for (int y = 0; y < height; ++y) {
    int32_t bytes[3][kGaussianTile];
    for (int i = 0; i < 3; ++i) {
      PEEL_LANES for (int x = 0; x < kGaussianTile; ++x) {
        float v = sums.channel[i][y][x] * 255.0f + 0.5f;
        v = v > 0.0f ? v : 0.0f;
        v = v < 255.0f ? v : 255.0f;
        bytes[i][x] = (int32_t)v;
      }
    }
    uint8_t* row = out + y * stride;
    for (int x = 0; x < width; ++x) {
      for (int i = 0; i < 3; ++i) row[3 * x + i] = (uint8_t)bytes[i][x];
    }
  }
}

static void gaussian_floats(const GaussianPlanes& sums, int width, int height, float* out,
                            int64_t stride) {
  for (int y = 0; y < height; ++y) {
    float* row = out + y * stride;
    for (int x = 0; x < width; ++x) {
      for (int i = 0; i < 3; ++i) row[3 * x + i] = sums.channel[i][y][x];
    }
  }
}

static void read_gaussian_gradient(const float* in, int64_t stride, int width, int height,
                                   GaussianPlanes& out) {
  memset(&out, 0, sizeof out);
  for (int y = 0; y < height; ++y) {
    const float* row = in + y * stride;
    for (int x = 0; x < width; ++x) {
      for (int i = 0; i < 3; ++i) out.channel[i][y][x] = row[3 * x + i];
    }
  }
}

static double gaussian_residual(GaussianPlanes& sums, const uint8_t* target, int64_t stride,
                                int width, int height, float weight) {
  double total = 0.0;
  for (int y = 0; y < kGaussianTile; ++y) {
    if (y >= height) {
      for (int i = 0; i < 3; ++i) memset(sums.channel[i][y], 0, sizeof sums.channel[i][y]);
      continue;
    }
    float truth[3][kGaussianTile] = {};
    const uint8_t* row = target + y * stride;
    for (int x = 0; x < width; ++x) {
      for (int i = 0; i < 3; ++i) truth[i][x] = (float)row[3 * x + i];
    }
    float errors[kGaussianTile] = {};
    for (int i = 0; i < 3; ++i) {
      PEEL_LANES for (int x = 0; x < kGaussianTile; ++x) {
        float v = sums.channel[i][y][x];
        v = v > 0.0f ? v : 0.0f;
        v = v < 1.0f ? v : 1.0f;
        float residual = v - truth[i][x] * (1.0f / 255.0f);
        residual = x < width ? residual : 0.0f;
        errors[x] += residual * residual;
        sums.channel[i][y][x] = residual * weight;
      }
    }
    for (int x = 0; x < kGaussianTile; ++x) total += (double)errors[x];
  }
  return total;
}

}  // namespace PEEL_ISA
}  // namespace peel
