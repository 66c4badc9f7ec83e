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
// Nothing waits for the host in between. The room for overlaps is fixed beforehand; a frame that
// needs more leaves tiles out and says in State how much it needs.
#pragma once

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

}  // namespace peel
