// SPDX-License-Identifier: GPL-3.0-or-later
// Per-sample loops; included by kernels.cpp only.
//
// A tile is drawn in blocks of 4 x 4 samples, one lane each. Its points are taken nearest first, a
// chunk at a time: copied together, listed for the blocks that they can reach, and then every block
// takes those of its list with its state in registers, until all of its samples are finished.
#pragma once

#include "../include/peel/composite.h"
#include "kernels.h"
#include "kernels_mesh.h"
#include "simd.h"

#include <stddef.h>

namespace peel {
namespace PEEL_ISA {

static_assert(kBlockSamples == kLanes, "a block is one vector");

constexpr int kChunkPoints = 256;
constexpr int kSamples = kBlocks * kBlockSamples;
constexpr int kAhead = 24;  // splats that are fetched before they are needed

// Column and row of a lane inside its block.
alignas(64) static const float kLaneX[kLanes] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
alignas(64) static const float kLaneY[kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};

static inline int block_of(int x, int y) { return y / kBlock * kBlocksAcross + x / kBlock; }
static inline int sample_of(int x, int y) {
  return block_of(x, y) * kBlockSamples + y % kBlock * kBlock + x % kBlock;
}

// What a walk keeps per sample to know whether it takes another layer.
struct alignas(64) Progress {
  float transmittance[kSamples];  // negative outside the image
  int32_t count[kSamples];
  bool open[kBlocks];  // some sample takes another layer
};

static inline void start(const Tile& tile, Progress* p) {
  const int columns = min_int(kTileWidth, tile.width - tile.x);
  const int rows = min_int(kTileHeight, tile.height - tile.y);
  memset(p->count, 0, sizeof p->count);
  if (columns == kTileWidth && rows == kTileHeight) {
    for (int i = 0; i < kSamples; ++i) p->transmittance[i] = 1.0f;
    for (int b = 0; b < kBlocks; ++b) p->open[b] = true;
    return;
  }
  for (int y = 0; y < kTileHeight; ++y) {
    for (int x = 0; x < kTileWidth; ++x) {
      p->transmittance[sample_of(x, y)] = x < columns && y < rows ? 1.0f : -1.0f;
    }
  }
  for (int b = 0; b < kBlocks; ++b) {
    p->open[b] = b % kBlocksAcross * kBlock < columns && b / kBlocksAcross * kBlock < rows;
  }
}

// A splat as the blocks of one tile take it.
struct LocalSplat {
  float x, y;  // of the tile's first sample, from the centre of the point, samples
  float inverse_a, inverse_b, weight, z, rgb[3];
  uint32_t place;  // in the tile's list
};
constexpr size_t kSharedBytes = offsetof(LocalSplat, place);
static_assert(offsetof(Splat, box) == kSharedBytes, "both begin with the same numbers");

// Some points of a tile, and which of them each block can see.
struct alignas(64) BlockLists {
  LocalSplat splats[kChunkPoints];
  uint32_t count[kBlocks];
  uint8_t list[kBlocks][kChunkPoints + 16];  // one more is written than ever counts, see list_chunk
};
static_assert(kChunkPoints <= 256, "places in a chunk are bytes");

static inline void list_chunk(const Tile& tile, uint32_t begin, int n, BlockLists* lists) {
  memset(lists->count, 0, sizeof lists->count);
  const Splat* splats = tile.splats;
  const uint32_t* list = tile.list + begin;
  const uint32_t left = tile.count - begin;
  for (int i = 0; i < n; ++i) {
    if (i + kAhead < (int)left) {
      const char* next = (const char*)(splats + list[i + kAhead]);
      __builtin_prefetch(next);
      __builtin_prefetch(next + sizeof(Splat) - 1);
    }
    const Splat& s = splats[list[i]];
    LocalSplat& local = lists->splats[i];
    memcpy(&local, &s, kSharedBytes);
    local.x += (float)(tile.x - s.box.x0);
    local.y += (float)(tile.y - s.box.y0);
    local.place = begin + i;
    const int x0 = max_int(s.box.x0 - tile.x, 0) / kBlock;
    const int y0 = max_int(s.box.y0 - tile.y, 0) / kBlock;
    const int wide = min_int(s.box.x1 - tile.x, kTileWidth - 1) / kBlock - x0;
    const int tall = min_int(s.box.y1 - tile.y, kTileHeight - 1) / kBlock - y0;
    const int first = y0 * kBlocksAcross + x0;
    const uint8_t number = (uint8_t)i;
    if (wide <= 1 && tall <= 1) {
      // Most are this small. Without branches: what is not counted is overwritten by the next, and
      // behind the last of a full list there is room.
      const int right = first + wide, below = first + tall * kBlocksAcross, last = below + wide;
      uint32_t* count = lists->count;
      lists->list[first][count[first]] = number;
      count[first] += 1;
      lists->list[right][count[right]] = number;
      count[right] += (uint32_t)wide;
      lists->list[below][count[below]] = number;
      count[below] += (uint32_t)tall;
      lists->list[last][count[last]] = number;
      count[last] += (uint32_t)(wide & tall);
      continue;
    }
    for (int y = 0; y <= tall; ++y) {
      for (int x = 0; x <= wide; ++x) {
        const int block = first + y * kBlocksAcross + x;
        lists->list[block][lists->count[block]++] = number;
      }
    }
  }
}

// The layer that a point is in the samples of a block.
struct Layer {
  Mask hit;
  Floats transmittance, alpha, after;  // T before, alpha (0 where not hit), T behind the layer
  Ints count;                          // layers, with this one
};

// Gives every block the points it can see, nearest first: sink.open(block), then
// sink.add(block, splat, layer) for each that is a layer of some sample, then sink.close(block).
template <bool kMesh, class Sink>
static inline void walk(const Tile& tile, const MeshPlanes* mesh, Progress* p, Sink& sink) {
  const Floats least = splat(tile.min_transmittance), one = splat(1.0f), zero = splat(0.0f);
  const Ints layers = splat((int32_t)tile.layers);
  const Floats lane_x = load(kLaneX), lane_y = load(kLaneY);
  BlockLists lists;
  for (uint32_t begin = 0; begin < tile.count; begin += kChunkPoints) {
    const int n = (int)(tile.count - begin < kChunkPoints ? tile.count - begin : kChunkPoints);
    list_chunk(tile, begin, n, &lists);
    bool any_open = false;
    for (int block = 0; block < kBlocks; ++block) {
      const uint32_t listed = lists.count[block];
      if (!p->open[block] || listed == 0) {
        any_open |= p->open[block];
        continue;
      }
      const int at = block * kBlockSamples;
      const Floats x = lane_x + (float)(block % kBlocksAcross * kBlock);
      const Floats y = lane_y + (float)(block / kBlocksAcross * kBlock);
      Floats T = load(p->transmittance + at);
      Ints count = load(p->count + at);
      Floats mesh_z = zero;
      if (kMesh) mesh_z = load(mesh->z + at);
      Mask open = both(at_least(T, least), less(count, layers));
      sink.open(block);
      for (uint32_t i = 0; i < listed; ++i) {
        const LocalSplat& s = lists.splats[lists.list[block][i]];
        const Floats sx = (x + s.x) * s.inverse_a, sy = (y + s.y) * s.inverse_b;
        const Floats q = sx * sx + sy * sy;
        Layer layer;
        layer.hit = both(less(q, one), open);
        if (kMesh) layer.hit = both(layer.hit, less(splat(s.z), mesh_z));
        const Floats full = falloff(splat(s.weight), q);
        layer.alpha = keep(layer.hit, full);
        layer.transmittance = T;
        layer.after = select(layer.hit, transmit(T, full), T);
        layer.count = count = increment(layer.hit, count);
        T = layer.after;
        open = both(at_least(T, least), less(count, layers));
        sink.add(block, s, layer);
        if (!any(open)) break;
      }
      sink.close(block);
      store(p->transmittance + at, T);
      store(p->count + at, count);
      p->open[block] = any(open);
      any_open |= p->open[block];
    }
    if (!any_open) return;
  }
}

struct alignas(64) Planes {
  float r[kSamples], g[kSamples], b[kSamples], depth[kSamples];
  int32_t surface[kSamples];  // place in the list of the layer where alpha reaches 0.5, else -1
};

// Composites the layers of a block.
template <bool kDepth, bool kSurface, bool kLayerIds>
struct Compositor {
  const Tile& tile;
  const Image& image;
  Planes* planes;
  Floats r, g, b, depth;
  Ints surface;

  PEEL_MEMBER void open(int block) {
    const int at = block * kBlockSamples;
    r = load(planes->r + at);
    g = load(planes->g + at);
    b = load(planes->b + at);
    if (kDepth) depth = load(planes->depth + at);
    if (kSurface) surface = load(planes->surface + at);
  }

  PEEL_MEMBER void add(int block, const LocalSplat& s, const Layer& layer) {
    const Floats contribution = layer.transmittance * layer.alpha;
    r = r + contribution * s.rgb[0];
    g = g + contribution * s.rgb[1];
    b = b + contribution * s.rgb[2];
    if (kDepth) depth = depth + contribution * s.z;
    if (kSurface) {
      const Mask reached =
          both(less(splat(0.5f), layer.transmittance), at_least(splat(0.5f), layer.after));
      surface = select(reached, splat((int32_t)s.place), surface);
    }
    if (kLayerIds) record_layer_ids(block, s, layer);
  }

  PEEL_MEMBER void close(int block) {
    const int at = block * kBlockSamples;
    store(planes->r + at, r);
    store(planes->g + at, g);
    store(planes->b + at, b);
    if (kDepth) store(planes->depth + at, depth);
    if (kSurface) store(planes->surface + at, surface);
  }

  void record_layer_ids(int block, const LocalSplat& s, const Layer& layer) const {
    int32_t count[kLanes];
    store(count, layer.count);
    const unsigned hit = bits(layer.hit);
    const uint32_t index = tile.splats[tile.list[s.place]].index;
    for (int l = 0; l < kLanes; ++l) {
      if (!(hit >> l & 1)) continue;
      const int64_t y = tile.y + block / kBlocksAcross * kBlock + l / kBlock;
      const int64_t x = tile.x + block % kBlocksAcross * kBlock + l % kBlock;
      image.layer_ids[(y * tile.width + x) * tile.layers + count[l] - 1] = (int32_t)index;
    }
  }
};

template <bool kMesh, bool kDepth, bool kSurface, bool kLayerIds>
static inline void peel_tile(const Tile& tile, const Image& image, const MeshPlanes* mesh,
                             Progress* p, Planes* planes) {
  Compositor<kDepth, kSurface, kLayerIds> compositor = {tile, image, planes, {}, {}, {}, {}, {}};
  walk<kMesh>(tile, mesh, p, compositor);
}

template <bool kMesh>
static inline void peel_tile(const Tile& tile, const Image& image, const MeshPlanes* mesh,
                             Progress* p, Planes* planes) {
  const bool surface = image.surface != nullptr || image.surface_id != nullptr;
  if (image.layer_ids) {
    peel_tile<kMesh, true, true, true>(tile, image, mesh, p, planes);
  } else if (image.depth && surface) {
    peel_tile<kMesh, true, true, false>(tile, image, mesh, p, planes);
  } else if (image.depth) {
    peel_tile<kMesh, true, false, false>(tile, image, mesh, p, planes);
  } else if (surface) {
    peel_tile<kMesh, false, true, false>(tile, image, mesh, p, planes);
  } else {
    peel_tile<kMesh, false, false, false>(tile, image, mesh, p, planes);
  }
}

// Light that got through the points falls on the triangles.
static inline void add_mesh(const Tile& tile, const MeshPlanes& mesh, Progress* p,
                            Planes* planes) {
  for (int y = 0; y < kTileHeight; ++y) {
    for (int x = 0; x < kTileWidth; ++x) {
      const int at = sample_of(x, y);
      const int32_t triangle = mesh.triangle[at];
      const float T = p->transmittance[at];
      if (triangle < 0 || T < 0.0f || tile.mesh->holdout[triangle]) continue;
      float rgb[3];
      triangle_color(*tile.mesh, triangle, tile.triangles[triangle], tile.x + x + 0.5,
                     tile.y + y + 0.5, rgb);
      planes->r[at] += T * rgb[0];
      planes->g[at] += T * rgb[1];
      planes->b[at] += T * rgb[2];
      planes->depth[at] += T * mesh.z[at];
      if (planes->surface[at] < 0) planes->surface[at] = -2 - triangle;
      p->transmittance[at] = 0.0f;
    }
  }
}

static inline int32_t clip_id(const Tile& tile, uint32_t index) {
  int c = tile.clip_count - 1;
  while (c > 0 && index < tile.clips[c].first) --c;
  return tile.clips[c].id;
}

struct Surface {
  float z;
  int32_t id;
};

// surface: as Planes has it, a place in the list, -1, or -2 - triangle.
static inline Surface surface_of(const Tile& tile, const MeshPlanes* mesh, int32_t surface,
                                 int at) {
  if (surface == -1) return {INFINITY, -1};
  if (surface < -1) return {mesh->z[at], tile.mesh->id[-2 - surface]};
  const Splat& s = tile.splats[tile.list[surface]];
  return {s.z, clip_id(tile, s.index)};
}

// One sample per pixel.
static void write_tile(const Tile& tile, const Image& image, const MeshPlanes* mesh,
                       const Progress& p, const Planes& planes) {
  const int columns = min_int(kTileWidth, tile.width - tile.x);
  const int rows = min_int(kTileHeight, tile.height - tile.y);
  const bool stream = image.stream && ((uintptr_t)image.rgba & 15) == 0;
  for (int y = 0; y < rows; ++y) {
    const int64_t first = (int64_t)(tile.y + y) * tile.width + tile.x;
    float* rgba = image.rgba + 4 * first;
    for (int x = 0; x < columns; x += kBlock) {
      const int at = sample_of(x, y);
      Floats4 r, g, b, T;
      memcpy(&r, planes.r + at, sizeof r);
      memcpy(&g, planes.g + at, sizeof g);
      memcpy(&b, planes.b + at, sizeof b);
      memcpy(&T, p.transmittance + at, sizeof T);
      if (columns - x >= kBlock) {
        store_pixels(rgba + 4 * x, r, g, b, 1.0f - T, stream);
      } else {
        float last[4 * kBlock];
        store_pixels(last, r, g, b, 1.0f - T, false);
        memcpy(rgba + 4 * x, last, 4 * sizeof(float) * (columns - x));
      }
    }
    if (!image.depth && !image.surface && !image.surface_id) continue;
    float depth[kTileWidth], z[kTileWidth];
    int32_t id[kTileWidth];
    for (int x = 0; x < columns; ++x) {
      const int at = sample_of(x, y);
      depth[x] = planes.depth[at];
      if (image.surface || image.surface_id) {
        const Surface s = surface_of(tile, mesh, planes.surface[at], at);
        z[x] = s.z;
        id[x] = s.id;
      }
    }
    if (image.depth) memcpy(image.depth + first, depth, columns * sizeof(float));
    if (image.surface) memcpy(image.surface + first, z, columns * sizeof(float));
    if (image.surface_id) memcpy(image.surface_id + first, id, columns * sizeof(int32_t));
  }
}

// image.samples x image.samples samples per pixel, averaged; see peel4d_image for the surface.
static void resolve_tile(const Tile& tile, const Image& image, const MeshPlanes* mesh,
                         const Progress& p, const Planes& planes) {
  const int S = image.samples;
  const int width = tile.width / S;
  const int columns = min_int(kTileWidth, tile.width - tile.x) / S;
  const int rows = min_int(kTileHeight, tile.height - tile.y) / S;
  const float share = 1.0f / (float)(S * S);
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      float sum[5] = {};
      Surface nearest = {INFINITY, -1};
      int surfaces = 0;
      for (int j = 0; j < S; ++j) {
        for (int i = 0; i < S; ++i) {
          const int at = sample_of(x * S + i, y * S + j);
          sum[0] += planes.r[at];
          sum[1] += planes.g[at];
          sum[2] += planes.b[at];
          sum[3] += 1.0f - p.transmittance[at];
          sum[4] += planes.depth[at];
          const Surface s = surface_of(tile, mesh, planes.surface[at], at);
          surfaces += planes.surface[at] != -1;
          if (s.z < nearest.z) nearest = s;
        }
      }
      const int64_t pixel = (int64_t)(tile.y / S + y) * width + tile.x / S + x;
      for (int c = 0; c < 4; ++c) image.rgba[4 * pixel + c] = sum[c] * share;
      if (image.depth) image.depth[pixel] = sum[4] * share;
      if (2 * surfaces < S * S) nearest = {INFINITY, -1};
      if (image.surface) image.surface[pixel] = nearest.z;
      if (image.surface_id) image.surface_id[pixel] = nearest.id;
    }
  }
}

static inline void clear_layer_ids(const Tile& tile, const Image& image) {
  const int columns = min_int(kTileWidth, tile.width - tile.x);
  const int rows = min_int(kTileHeight, tile.height - tile.y);
  for (int y = 0; y < rows; ++y) {
    int32_t* ids = image.layer_ids + ((int64_t)(tile.y + y) * tile.width + tile.x) * tile.layers;
    for (int i = 0; i < columns * tile.layers; ++i) ids[i] = -1;
  }
}

static void forward_tile(const Tile& tile, const Image& image) {
  Progress progress;
  Planes planes;
  MeshPlanes mesh;
  start(tile, &progress);
  memset(planes.r, 0, sizeof planes.r + sizeof planes.g + sizeof planes.b + sizeof planes.depth);
  memset(planes.surface, 0xff, sizeof planes.surface);
  if (image.layer_ids) clear_layer_ids(tile, image);
  const bool meshed = tile.triangle_count > 0;
  if (meshed) {
    draw_triangles(tile, &mesh);
    peel_tile<true>(tile, image, &mesh, &progress, &planes);
    add_mesh(tile, mesh, &progress, &planes);
  } else {
    peel_tile<false>(tile, image, nullptr, &progress, &planes);
  }
  const MeshPlanes* const triangles = meshed ? &mesh : nullptr;
  if (image.samples == 1) {
    write_tile(tile, image, triangles, progress, planes);
  } else {
    resolve_tile(tile, image, triangles, progress, planes);
  }
}

static inline void fill(float* out, float value, int count, bool stream) {
  int i = 0;
  stream = stream && ((uintptr_t)out & 15) == 0;
  const Floats4 four = Floats4{} + value;
  for (; i + 4 <= count; i += 4) store4(out + i, four, stream);
  for (; i < count; ++i) out[i] = value;
}

// A tile that nothing reaches.
static void clear_tile(const Tile& tile, const Image& image) {
  const int S = image.samples;
  const int width = tile.width / S;
  const int columns = min_int(kTileWidth, tile.width - tile.x) / S;
  const int rows = min_int(kTileHeight, tile.height - tile.y) / S;
  if (image.layer_ids) clear_layer_ids(tile, image);
  for (int y = 0; y < rows; ++y) {
    const int64_t first = (int64_t)(tile.y / S + y) * width + tile.x / S;
    fill(image.rgba + 4 * first, 0.0f, 4 * columns, image.stream);
    if (image.depth) fill(image.depth + first, 0.0f, columns, image.stream);
    if (image.surface) fill(image.surface + first, INFINITY, columns, image.stream);
    if (image.surface_id) {
      for (int x = 0; x < columns; ++x) image.surface_id[first + x] = -1;
    }
  }
}

// dL/dpixel of a tile, one plane per channel: r, g, b, a, accumulated depth.
struct alignas(64) PixelGradients {
  float r[kSamples], g[kSamples], b[kSamples], a[kSamples], depth[kSamples];
};

static inline void load_gradients(const Tile& tile, const float* d_rgba, const float* d_depth,
                                  PixelGradients* out) {
  const int columns = min_int(kTileWidth, tile.width - tile.x);
  const int rows = min_int(kTileHeight, tile.height - tile.y);
  memset(out, 0, sizeof *out);
  for (int y = 0; y < rows; ++y) {
    const int64_t first = (int64_t)(tile.y + y) * tile.width + tile.x;
    for (int x = 0; x < columns; ++x) {
      const float* d = d_rgba + 4 * (first + x);
      const int at = sample_of(x, y);
      out->r[at] = d[0];
      out->g[at] = d[1];
      out->b[at] = d[2];
      out->a[at] = d[3];
      if (d_depth) out->depth[at] = d_depth[first + x];
    }
  }
}

// Remembers the layers of the blocks.
struct Tracer {
  const Trace& trace;
  int32_t records;
  int32_t last[kBlocks];  // record of every block, or -1

  PEEL_MEMBER void open(int) {}
  PEEL_MEMBER void add(int block, const LocalSplat& s, const Layer& layer) {
    store(trace.transmittance + (int64_t)records * kLanes, layer.transmittance);
    store(trace.alpha + (int64_t)records * kLanes, layer.alpha);
    trace.place[records] = s.place;
    trace.before[records] = last[block];
    const int32_t hit = any(layer.hit);  // without one the next record overwrites this one
    last[block] = hit ? records : last[block];
    records += hit;
  }
  PEEL_MEMBER void close(int) {}
};

static void backward_tile(const Tile& tile, const float* d_rgba, const float* d_depth,
                          const Trace& trace, const Partials& partials) {
  Progress progress;
  start(tile, &progress);
  Tracer tracer = {trace, 0, {}};
  for (int b = 0; b < kBlocks; ++b) tracer.last[b] = -1;
  walk<false>(tile, nullptr, &progress, tracer);
  if (tracer.records == 0) return;
  PixelGradients gradients;
  load_gradients(tile, d_rgba, d_depth, &gradients);
  memset(trace.row, 0xff, sizeof(uint32_t) * tile.count);
  const Floats one = splat(1.0f), zero = splat(0.0f);
  const Floats lane_x = load(kLaneX), lane_y = load(kLaneY);
  uint32_t rows = 0;
  for (int block = 0; block < kBlocks; ++block) {
    if (tracer.last[block] < 0) continue;
    const int at = block * kBlockSamples;
    const float column = (float)(block % kBlocksAcross * kBlock);
    const float line = (float)(block / kBlocksAcross * kBlock);
    const Floats x = lane_x + column, y = lane_y + line;
    const Floats gr = load(gradients.r + at), gg = load(gradients.g + at);
    const Floats gb = load(gradients.b + at), ga = load(gradients.a + at);
    const Floats gz = load(gradients.depth + at);
    Floats suffix = zero;
    for (int32_t record = tracer.last[block]; record >= 0; record = trace.before[record]) {
      const uint32_t place = trace.place[record];
      const Splat& s = tile.splats[tile.list[place]];
      const Floats sx = (x + (s.offset_x + (float)(tile.x - s.box.x0))) * s.inverse_a;
      const Floats sy = (y + (s.offset_y + (float)(tile.y - s.box.y0))) * s.inverse_b;
      const Floats qx = sx * sx, qy = sy * sy;
      const Floats T = load(trace.transmittance + (int64_t)record * kLanes);
      const Floats alpha = load(trace.alpha + (int64_t)record * kLanes);
      const Floats value = gr * s.rgb[0] + gg * s.rgb[1] + gb * s.rgb[2] + ga + gz * s.z;
      const Floats contribution = T * alpha;
      const Floats h = keep(less(zero, alpha), alpha_derivative(T, value, suffix));
      suffix = extend_suffix(alpha, value, suffix);
      const Floats total[8] = {contribution * gr, contribution * gg, contribution * gb,
                               contribution * gz, h * (one - (qx + qy)), h * sx, h * qx, h * sy};
      const Floats8 sums = sum_lanes(total);
      const Floats rest[8] = {h * qy, zero, zero, zero, zero, zero, zero, zero};
      const float last = sum_lanes(rest)[0];
      float* out = partials.sums + (int64_t)trace.row[place] * kPartials;
      if (trace.row[place] == ~0u) {
        trace.row[place] = rows;
        out = partials.sums + (int64_t)rows * kPartials;
        memset(out, 0, sizeof(float) * kPartials);
        const uint32_t slot = tile.list[place];
        const TileBox tiles = tiles_of(s.box);
        const int top = max_int(tiles.y0, partials.band_row);
        const uint32_t overlap =
            partials.first[slot] +
            (uint32_t)(tile.y / kTileHeight - top) * (tiles.x1 - tiles.x0 + 1u) +
            (uint32_t)(tile.x / kTileWidth - tiles.x0);
        partials.place[overlap] = partials.base + rows;
        ++rows;
      }
      float eight[8];
      memcpy(eight, &sums, sizeof eight);
      for (int j = 0; j < 8; ++j) out[j] += eight[j];
      out[8] += last;
    }
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
