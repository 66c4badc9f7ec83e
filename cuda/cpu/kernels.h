// SPDX-License-Identifier: GPL-3.0-or-later
// The hot loops of the CPU core. kernels.cpp is compiled once per instruction set (macro PEEL_ISA)
// and reached through a table of functions, so one library serves old and new machines.
#pragma once

#include <cstdint>

#include "../include/peel/gaussian2d.h"
#include "../include/peel/points.h"
#include "../include/peel/triangle.h"

namespace peel {

// Samples along the sides of a tile, and of the blocks that a tile is drawn in: 16 samples, whose
// state stays in registers while their points pass by. Tiles are larger than they had to be, because
// a point that two tiles share is binned twice.
constexpr int kTileWidth = kAnchorWidth, kTileHeight = kAnchorHeight;
constexpr int kBlock = 4;
constexpr int kBlocksAcross = kTileWidth / kBlock;
constexpr int kBlocks = kBlocksAcross * (kTileHeight / kBlock);
constexpr int kBlockSamples = kBlock * kBlock;

// The tiles that a footprint or a triangle can reach, inclusive.
struct TileBox {
  uint16_t x0, x1, y0, y1;
};

static inline TileBox tiles_of(const Box& box) {
  return {(uint16_t)((unsigned)box.x0 / kTileWidth), (uint16_t)((unsigned)box.x1 / kTileWidth),
          (uint16_t)((unsigned)box.y0 / kTileHeight), (uint16_t)((unsigned)box.y1 / kTileHeight)};
}

// How many boxes reach each tile, as a two-dimensional difference array: four additions per box,
// whatever its size. (tiles_y + 1, stride) numbers, stride = tiles_x + 1.
struct TileCounts {
  int32_t* difference;
  int stride;

  void add(const TileBox& box) const {
    ++difference[box.y0 * stride + box.x0];
    --difference[box.y0 * stride + box.x1 + 1];
    --difference[(box.y1 + 1) * stride + box.x0];
    ++difference[(box.y1 + 1) * stride + box.x1 + 1];
  }
};

// Where project_points puts the visible points, packed, in the order of their indices.
struct Projected {
  Splat* splats;
  uint32_t* keys;  // sortable depth
  TileBox* boxes;
  TileCounts counts;
};

struct KeyRange {
  uint32_t low, high;
};

// A tile with the points and triangles that may cover it, the points nearest first.
struct Tile {
  const Splat* splats;
  const uint32_t* list;
  uint32_t count;
  int x, y;           // top-left sample
  int width, height;  // image, samples
  int layers;
  float min_transmittance;
  const Clip* clips;
  int clip_count;
  const Mesh* mesh;  // null without triangles here
  const ScreenTriangle* triangles;
  const uint32_t* triangle_list;
  uint32_t triangle_count;
};

struct Image {
  float *rgba, *depth, *surface;  // all but rgba may be null
  int32_t *surface_id, *layer_ids;
  int samples;
  bool stream;  // write past the caches
};

// What backward_tile remembers of its walk: one record per point and block with a layer.
struct Trace {
  float* transmittance;  // (capacity, kBlockSamples)
  float* alpha;          // (capacity, kBlockSamples), 0 where a sample has no layer
  uint32_t* place;       // (capacity) position in the tile's list
  int32_t* before;       // (capacity) the block's record before this one, or -1
  uint32_t* row;         // (length of the tile's list) row of the sums, or ~0
};

// Every sample takes at most `layers` layers, so there are never more records than this.
inline int64_t trace_capacity(int layers) {
  return int64_t{kTileWidth} * kTileHeight * layers + 1;
}

// Where backward_tile puts its sums: `sums` has kPartials numbers per overlap of the tile, filled
// from the front; place[first overlap of the splat + tile in its box] says which.
struct Partials {
  float* sums;           // of this tile
  uint32_t* place;       // of all overlaps of the band
  uint32_t base;         // number of the first of `sums` in the band
  const uint32_t* first;  // (splats) number of a splat's first overlap in the band
  int band_row;          // first tile row of the band
};

struct Gradients {
  float *position, *radius, *density, *color;
};

// Side of a tile of a picture of two-dimensional Gaussians, in pixels: three planes of floats and the
// Gaussians of a tile stay in the first cache.
constexpr int kGaussianTile = 32;
constexpr int kGaussianPixels = kGaussianTile * kGaussianTile;

struct alignas(64) GaussianPlanes {
  float channel[3][kGaussianTile][kGaussianTile];
};

struct GaussianTile {
  const Gaussian2D* gaussians;
  const uint32_t* list;
  uint32_t count;
  int x, y;  // top-left pixel in the window
};

// What training compares: a picture of points, the camera's tone, and what the camera saw. Arrays as
// in peel4d_truth and peel4d_tone.
struct PictureTask {
  int width, height, samples;
  const float* rgba;
  float* d_rgba;
  const uint8_t *truth, *background, *region, *mask, *known;  // the last two may be null
  float x, dx, y, dy;
  float gain[3], offset[3], vignetting[2][3];
  float color_weight;                // of a squared difference
  float dissimilarity_weight;        // of 1 - SSIM in a pixel and channel
  float dssim_weight;                // of their sum in the loss; 0: it is not formed
  float mask_inside, mask_outside;   // dL/dalpha where the mask is known
  bool tone;                         // whether its gradient is wanted
};

// Of a band of rows. tone: gain, offset and the two vignettings by channel.
struct PictureSums {
  double error, dissimilarity, tone[12];
};

// Coverage inside the mask, coverage, and the mask, where it is known.
struct MaskSums {
  double both, covered, masked;
};

// Side of the window of SSIM in training, and rows of a band, which do not depend on the threads.
constexpr int kPictureWindow = 7;
constexpr int kPictureBand = 32;

struct Kernels {
  const char* name;
  // Returns how many of the points [begin, end) are visible; range covers their keys.
  int64_t (*project_points)(const Clip&, int64_t begin, int64_t end, const Projected&,
                            KeyRange* range);
  void (*forward_tile)(const Tile&, const Image&);
  void (*clear_tile)(const Tile&, const Image&);
  void (*backward_tile)(const Tile&, const float* d_rgba, const float* d_depth, const Trace&,
                        const Partials&);
  // Chains the sums, kPartials per splat, of `count` splats to the inputs of their points.
  void (*backward_points)(const Clip&, const Splat* splats, int64_t count, const float* sums,
                          const Gradients&);
  void (*finish_streaming)();
  // All of `sums` and of `out` (one per Gaussian of the tile's list) is written.
  void (*draw_gaussians)(const GaussianTile&, GaussianPlanes& sums);
  void (*differentiate_gaussians)(const GaussianTile&, const GaussianPlanes& gradient,
                                  GaussianSums* out);
  // A tile's part of a picture of three channels; rows are `stride` elements apart.
  void (*gaussian_bytes)(const GaussianPlanes&, int width, int height, uint8_t* out,
                         int64_t stride);
  void (*gaussian_floats)(const GaussianPlanes&, int width, int height, float* out,
                          int64_t stride);
  void (*read_gaussian_gradient)(const float* in, int64_t stride, int width, int height,
                                 GaussianPlanes& out);
  // Returns the sum of squared differences from the target; the sums become weight x difference.
  double (*gaussian_residual)(GaussianPlanes& sums, const uint8_t* target, int64_t stride,
                              int width, int height, float weight);
  // Rows [y0, y1) of a picture, at most kPictureBand. memory: picture_memory(width) floats.
  int64_t (*picture_memory)(int width);
  void (*mask_sums)(const PictureTask&, int y0, int y1, float* memory, MaskSums*);
  void (*picture_band)(const PictureTask&, int y0, int y1, float* memory, PictureSums*);
};

namespace baseline {
extern const Kernels kernels;
}
#if defined(PEEL_WITH_X86)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

}  // namespace peel
