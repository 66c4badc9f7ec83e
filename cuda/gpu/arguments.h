// SPDX-License-Identifier: GPL-3.0-or-later
// The arguments of the kernels: plain data, passed by value. engine/render/cuda_kernels.py mirrors
// them.
//
// One frame runs on one stream:
//
//   memset(state, counts) -> project (one launch per clip) -> [project_triangles]
//   then per range of tiles, usually once for all of them:
//   allocate -> scatter -> [allocate_triangles -> scatter_triangles] -> sort_large -> composite
//   and for derivatives, after a frame with `keep`:
//   memset(sums) -> backward_tiles -> backward_points
//
// A picture of two-dimensional Gaussians shares what bins and sorts:
//
//   [gaussians_at ->] memset(state, counts) -> gaussians_prepare
//   allocate -> scatter_points -> sort_large -> gaussians_draw
//   or, for derivatives, gaussians_backward or gaussians_fit -> gaussians_chain [-> gaussians_at_backward]
//
// Nothing waits for the host in between. The room for overlaps is fixed beforehand; a frame that
// needs more leaves tiles out and says in State how much it needs.
#pragma once

#include "../include/peel/gaussian2d.h"
#include "../include/peel/points.h"
#include "../include/peel/triangle.h"
#include "platform.h"

namespace peel {

constexpr int kTile = 16;               // samples along a side
constexpr int kTileThreads = 256;       // one per sample
constexpr int kWarp = 32;
constexpr int kWarps = kTileThreads / kWarp;
constexpr int kPatchWidth = 8, kPatchHeight = 4;  // the samples of a warp
constexpr int kSmallTile = 2048;        // overlaps that are sorted in shared memory
constexpr int kLargeThreads = 1024;     // sort_large
constexpr int kGaussianSums = 8;        // of struct GaussianSums
constexpr int kMostOrders = 6;          // of the polynomials of a group of pictures
constexpr uint32_t kNowhere = 0xffffffffu;

// Written by the device, read by the host after the frame.
struct State {
  uint64_t overlaps;            // that the frame or the range of tiles has
  uint64_t triangle_overlaps;
  uint32_t large_tiles;         // more than kSmallTile overlaps
  uint32_t unused;
};

struct ClipId {
  uint32_t first;
  int32_t id;
};

// Where tiles keep what reaches them: `entries` is one array, the segment of tile t begins at
// starts[t] (kNowhere: it did not fit) and has counts[t] entries.
struct Lists {
  uint32_t* counts;
  uint32_t* starts;
  uint32_t* cursors;  // where the next entry goes
  uint64_t capacity;  // of entries
};

struct Frame {
  int32_t width, height;    // samples
  int32_t tiles_x, tiles_y;
  int32_t samples;          // along the side of a pixel
  int32_t layers;
  float min_transmittance;
  int32_t clip_count;
  uint32_t tile_begin, tile_end;  // the range at work
  uint32_t point_count;     // of all clips
  int32_t keep;             // leave the order in `entries` for a backward pass
  State* state;
  uint4* records;           // (point_count), see memory.cuh
  uint4* splats;            // (point_count, 3), likewise
  ClipId* clip_ids;         // (clip_count)
  Lists lists;
  uint64_t* entries;        // depth << 32 | point; `keep` turns that into patches << 32 | point
  uint64_t* spare;          // as large, for sort_large
  uint32_t* large_tiles;    // (tiles)
  float* rgba;              // outputs in pixels, all may be null
  float* depth;
  float* surface;
  int32_t* surface_id;
  int32_t* layer_ids;
};

struct Triangles {
  Mesh mesh;
  ScreenTriangle* screen;   // (count)
  uint4* records;           // (count)
  Lists lists;
  uint32_t* entries;        // triangle
};

struct FrameArguments {
  Frame frame;
};

struct ProjectArguments {
  Frame frame;
  Clip clip;
  int32_t clip_number;
  int32_t unused;
};

struct MeshArguments {
  Frame frame;
  Triangles triangles;
};

struct BackwardTilesArguments {
  Frame frame;
  const float* d_rgba;   // (height, width, 4)
  const float* d_depth;  // (height, width) or null
  float* sums;           // (point_count, kPartials), zeros
};

struct BackwardPointsArguments {
  Clip clip;
  const float* sums;
  float* position;  // gradients, contiguous; (count, 3), (count), (count), (count, colours)
  float* radius;
  float* density;
  float* color;
};

// A picture of Gaussians. Of its frame, `splats` are the Gaussians, `records` have no depth.
struct GaussianArguments {
  Frame frame;
  const float* position;  // (point_count, 2), pixels
  const float* cholesky;  // (point_count, 3)
  const float* color;     // (point_count, 3)
  float window_x, window_y;
  float* rgb;             // (height, width, 3), may be null
  uint8_t* bytes;         // likewise
  const float* d_rgb;     // (height, width, 3), of gaussians_backward
  const uint8_t* target;  // of gaussians_fit: the first pixel of the window
  int64_t stride;         // bytes from one of its rows to the next
  uint64_t* partial_count;
  float* partials;        // (capacity, kGaussianSums): of every overlap, those of a Gaussian together;
                          // null: no derivatives
  double* errors;         // (tiles) sums of squares
  float* error;           // their mean, null: not asked for
  float* d_position;
  float* d_cholesky;
  float* d_color;
};

// Gaussians of a group of pictures at one time, in a picture of another size: engine/video2d/gop.py and
// Gaussians2D.resized.
struct GopArguments {
  const float* position;   // (count, 2)
  const float* log_scale;  // (count, 2)
  const float* shear;      // (count)
  const float* color;      // (count, 3)
  const float* motion;     // (motion_orders, count, 2)
  const float* shade;      // (shade_orders, count, 3)
  float* at_position;
  float* at_cholesky;
  float* at_color;
  const float* d_at_position;  // of gaussians_at_backward, which knows no other size
  const float* d_at_cholesky;
  const float* d_at_color;
  float* d_position;       // as the parameters; each may be null
  float* d_log_scale;
  float* d_shear;
  float* d_color;
  float* d_motion;
  float* d_shade;
  double across, down;     // sides of the picture over those of the group
  float basis[kMostOrders];
  uint32_t count;
  int32_t motion_orders, shade_orders;
  int32_t unused;
};

}  // namespace peel
