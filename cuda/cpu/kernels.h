// SPDX-License-Identifier: GPL-3.0-or-later
// The hot loops of the CPU core. kernels/*.cpp are compiled once per instruction set (macro
// PEEL_ISA) and reached through a table of functions, so one library serves old and new machines.
#pragma once

#include <cstdint>

#include "../include/peel/common.h"

namespace peel {

constexpr int kTile = 16;                    // pixels along each side of a tile
constexpr int kLanes = 8;                    // pixels of a row that are worked on together
constexpr int kTilePixels = kTile * kTile;
constexpr int kBlocks = kTilePixels / kLanes;  // (row, half row) blocks of a tile
constexpr int kPartials = 9;                 // see backward_tile

// The points as the caller gave them, sh_count 0: color is rgb.
struct Points {
  int64_t count;
  int sh_count;
  const float *position, *radius, *density, *color;
};

struct Gradients {
  float *position, *radius, *density, *color;
};

// A projected point; 64 bytes, one cache line.
struct alignas(64) Splat {
  double u, v;                 // centre, pixels
  float inverse_a, inverse_b;  // of the drawn semi-axes
  float weight;                // density times compensation
  float z;
  float rgb[3];
  int16_t x0, x1, y0, y1;  // pixels that the footprint can reach, inclusive, inside the image
  uint32_t index;          // of the point
  uint32_t first;          // its first (point, tile) overlap in this band, see frame.h
};

// A tile and the points that may cover it, nearest first.
struct Tile {
  const Splat* splats;
  const uint32_t* list;
  uint32_t count;
  int x, y;           // top-left pixel
  int width, height;  // image
  int band_row;       // first tile row of the band
  int layers;
  float min_transmittance;
};

struct Image {
  float *rgba, *depth, *surface;  // depth and surface may be null
  int32_t* layer_ids;             // may be null
};

// What backward_tile remembers of its walk: one record per (point, block) with a layer.
struct Trace {
  float* transmittance;  // (capacity, kLanes)
  float* alpha;          // (capacity, kLanes), 0 where the lane has no layer
  uint32_t* place;       // (capacity) position in the tile's list
  uint8_t* block;        // (capacity)
};

// Every pixel takes at most `layers` layers, so there are never more records than this.
inline int64_t trace_capacity(int layers) { return int64_t{kTilePixels} * layers + 1; }

struct Kernels {
  const char* name;
  // Fills keys and splats (all but `first`) of the visible points of [begin, end), packed from
  // `begin` on in the order of their indices; returns how many are visible.
  int64_t (*project_points)(const View&, const Points&, int64_t begin, int64_t end, Splat* splats,
                            uint64_t* keys);
  void (*forward_tile)(const Tile&, const Image&);
  // Writes kPartials sums per overlap to partials[(first + tile inside the point's box)]:
  // dL/d rgb (3), dL/dz, dL/dweight, and, with h = dL/dalpha and s the offset from the centre in
  // semi-axes, the sums of h s_x, h s_x^2, h s_y, h s_y^2. Overlaps without a layer are left alone.
  void (*backward_tile)(const Tile&, const float* d_rgba, const float* d_depth, const Trace&,
                        float* partials);
  // Chains the summed partials (kPartials per point) to the inputs of points [begin, end).
  void (*backward_points)(const View&, const Points&, int64_t begin, int64_t end,
                          const float* sums, const Gradients&);
  void (*sh_colors)(const double eye[3], int orthographic, int sh_count, int64_t begin,
                    int64_t end, const float* position, const float* sh, float* rgb);
};

namespace baseline {
extern const Kernels kernels;
}
#if defined(PEEL_WITH_AVX2)
namespace avx2 {
extern const Kernels kernels;
}
#endif

}  // namespace peel
