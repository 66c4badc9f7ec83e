// SPDX-License-Identifier: GPL-3.0-or-later
// Per-point loops; included by kernels.cpp only.
//
// Points are worked on in batches whose attributes lie lane by lane, whatever form they come in, so
// that the shared arithmetic, called in a plain loop over lanes, becomes vector code.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace peel {
namespace PEEL_ISA {

constexpr int kBatch = kLanes;

// One component of kBatch points.
struct alignas(64) Lane {
  float v[kBatch];
};

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

// Component c of the points [i, i + n), n <= kBatch, by type; the other lanes are left alone.
static inline void load_lane(const Array& array, const Ramp& ramp, int64_t i, int c, int n,
                             Lane* out) {
  const int64_t step = array.point_stride;
  const int64_t at = i * step + c * array.component_stride;
  if (array.type == kFloat32) {
    const float* from = (const float*)array.data + at;
    for (int l = 0; l < n; ++l) out->v[l] = from[l * step];
    return;
  }
  if (array.type == kFloat16) {
    const uint16_t* from = (const uint16_t*)array.data + at;
    uint16_t half[kBatch] = {};
    for (int l = 0; l < n; ++l) half[l] = from[l * step];
    PEEL_LANES
    for (int l = 0; l < kBatch; ++l) out->v[l] = half_to_float(half[l]);
    return;
  }
  int32_t code[kBatch] = {};
  if (array.type == kUint8) {
    const uint8_t* from = (const uint8_t*)array.data + at;
    if (step == 1) {
      for (int l = 0; l < n; ++l) code[l] = from[l];
    } else {
      for (int l = 0; l < n; ++l) code[l] = from[l * step];
    }
  } else {
    const uint16_t* from = (const uint16_t*)array.data + at;
    if (step == 1) {
      for (int l = 0; l < n; ++l) code[l] = from[l];
    } else {
      for (int l = 0; l < n; ++l) code[l] = from[l * step];
    }
  }
  if (array.table_size > 0) {
    const int last = array.table_size - 1;
    for (int l = 0; l < n; ++l) out->v[l] = array.table[code[l] < last ? code[l] : last];
    return;
  }
  PEEL_LANES
  for (int l = 0; l < kBatch; ++l) {
    const float value = (float)code[l] * ramp.step + ramp.low;
    out->v[l] = value < ramp.high ? value : ramp.high;
  }
}

// All components of contiguous float32 points: rows become lanes.
static inline void load_rows(const float* from, int components, int n, Lane* out) {
  int c = 0;
  if (n == kBatch) {
    for (; c + 8 <= components; c += 8) {
      for (int half = 0; half < kBatch; half += 8) {
        Floats8 rows[8];
        for (int l = 0; l < 8; ++l) memcpy(rows + l, from + (half + l) * components + c, 32);
        transpose(rows);
        for (int k = 0; k < 8; ++k) memcpy(out[c + k].v + half, rows + k, 32);
      }
    }
  }
  for (; c < components; ++c) {
    for (int l = 0; l < n; ++l) out[c].v[l] = from[(int64_t)l * components + c];
  }
}

static inline void load_positions(const Clip& clip, int64_t i, int n, Lane p[3]) {
  const Array& array = clip.position;
  if (array.type == kFloat32 && array.point_stride == 3 && array.component_stride == 1) {
    const float* from = (const float*)array.data + 3 * i;
    for (int l = 0; l < n; ++l) {
      for (int c = 0; c < 3; ++c) p[c].v[l] = from[3 * l + c];
    }
    return;
  }
  for (int c = 0; c < 3; ++c) {
    for (int l = 0; l < n; ++l) p[c].v[l] = load_position(array, clip.position_ramp, i + l, c);
  }
}

static inline void load_colors(const Clip& clip, int64_t i, int n, Lane color[kMaxComponents]) {
  const int components = clip.sh_count == 0 ? 3 : 3 * clip.sh_count;
  const Array& array = clip.color;
  if (array.type == kFloat32 && array.point_stride == components && array.component_stride == 1) {
    load_rows((const float*)array.data + i * components, components, n, color);
    return;
  }
  for (int c = 0; c < components; ++c) load_lane(array, clip.color_ramp[c], i, c, n, color + c);
}

struct alignas(64) BatchSplats {
  Lane offset_x, offset_y, inverse_a, inverse_b, weight, z;
  uint32_t key[kBatch];
  int32_t x0[kBatch], x1[kBatch], y0[kBatch], y1[kBatch];
  int32_t visible[kBatch];
};

static inline void project_batch(const View& view, const Lane p[3], const Lane& radius,
                                 const Lane& density, BatchSplats* __restrict out) {
  PEEL_LANES
  for (int l = 0; l < kBatch; ++l) {
    Drawn drawn;
    Splat s;
    const bool inside =
        draw(view, p[0].v[l], p[1].v[l], p[2].v[l], radius.v[l], density.v[l], &drawn);
    const bool covers = make_splat(view, drawn, &s);
    out->offset_x.v[l] = s.offset_x;
    out->offset_y.v[l] = s.offset_y;
    out->inverse_a.v[l] = s.inverse_a;
    out->inverse_b.v[l] = s.inverse_b;
    out->weight.v[l] = s.weight;
    out->z.v[l] = s.z;
    out->key[l] = sortable(drawn.key);
    out->x0[l] = s.box.x0;
    out->x1[l] = s.box.x1;
    out->y0[l] = s.box.y0;
    out->y1[l] = s.box.y1;
    out->visible[l] = inside & covers;
  }
}

// Colours of a batch in [0, 1], and visible only where they are finite.
template <int kCount>
static inline void shade_batch(const View& view, const Lane p[3],
                               const Lane color[kMaxComponents], Lane rgb[3],
                               int32_t* __restrict visible) {
  PEEL_LANES
  for (int l = 0; l < kBatch; ++l) {
    float c[3];
    if (kCount == 0) {
      for (int i = 0; i < 3; ++i) c[i] = color[i].v[l];
    } else {
      const float at[3] = {p[0].v[l], p[1].v[l], p[2].v[l]};
      double d[3];
      view_direction(view.eye, view.orthographic, at, d);
      float Y[kMaxShCount];
      sh_basis(kCount, (float)d[0], (float)d[1], (float)d[2], Y);
      for (int i = 0; i < 3; ++i) {
        c[i] = 0.0f;
PEEL_UNROLL
        for (int b = 0; b < kCount; ++b) c[i] += Y[b] * color[3 * b + i].v[l];
      }
    }
    visible[l] &= is_finite(c[0]) & is_finite(c[1]) & is_finite(c[2]);
    for (int i = 0; i < 3; ++i) rgb[i].v[l] = clip_color(c[i]);
  }
}

static inline void shade(const Clip& clip, const Lane p[3], const Lane color[kMaxComponents],
                         Lane rgb[3], int32_t* visible) {
  switch (clip.sh_count) {
    case 0:
      return shade_batch<0>(clip.view, p, color, rgb, visible);
    case 1:
      return shade_batch<1>(clip.view, p, color, rgb, visible);
    case 4:
      return shade_batch<4>(clip.view, p, color, rgb, visible);
    case 9:
      return shade_batch<9>(clip.view, p, color, rgb, visible);
    default:
      return shade_batch<16>(clip.view, p, color, rgb, visible);
  }
}

static int64_t project_points(const Clip& clip, int64_t begin, int64_t end, const Projected& out,
                              KeyRange* range) {
  int64_t visible = 0;
  uint32_t low = ~0u, high = 0;
  Lane p[3] = {}, radius, density, rgb[3], color[kMaxComponents];
  for (int c = 0; c < kMaxComponents; ++c) color[c] = Lane{};
  BatchSplats batch;
  for (int64_t i = begin; i < end; i += kBatch) {
    const int n = end - i < kBatch ? (int)(end - i) : kBatch;
    radius = density = Lane{};  // lanes without a point are not drawn
    load_positions(clip, i, n, p);
    load_lane(clip.radius, clip.radius_ramp, i, 0, n, &radius);
    load_lane(clip.density, clip.density_ramp, i, 0, n, &density);
    for (int l = n; l < kBatch; ++l) radius.v[l] = 0.0f;
    project_batch(clip.view, p, radius, density, &batch);
    int seen = 0;
    for (int l = 0; l < kBatch; ++l) seen |= batch.visible[l];
    if (!seen) continue;
    load_colors(clip, i, n, color);
    shade(clip, p, color, rgb, batch.visible);
    for (int l = 0; l < n; ++l) {
      if (!batch.visible[l]) continue;
      Splat& s = out.splats[visible];
      s.offset_x = batch.offset_x.v[l];
      s.offset_y = batch.offset_y.v[l];
      s.inverse_a = batch.inverse_a.v[l];
      s.inverse_b = batch.inverse_b.v[l];
      s.weight = batch.weight.v[l];
      s.z = batch.z.v[l];
      for (int c = 0; c < 3; ++c) s.rgb[c] = rgb[c].v[l];
      s.box = {(int16_t)batch.x0[l], (int16_t)batch.x1[l], (int16_t)batch.y0[l],
               (int16_t)batch.y1[l]};
      s.index = clip.first + (uint32_t)(i + l);
      const uint32_t key = batch.key[l];
      out.keys[visible] = key;
      low = key < low ? key : low;
      high = key > high ? key : high;
      const TileBox tiles = tiles_of(s.box);
      out.boxes[visible] = tiles;
      out.counts.add(tiles);
      ++visible;
    }
  }
  *range = {low, high};
  return visible;
}

static void backward_points(const Clip& clip, const Splat* splats, int64_t count,
                            const float* sums, const Gradients& out) {
  const int components = clip.sh_count == 0 ? 3 : 3 * clip.sh_count;
  PointGradient g;
  for (int64_t k = 0; k < count; ++k, sums += kPartials) {
    bool touched = false;
    for (int j = 0; j < kPartials; ++j) touched |= sums[j] != 0.0f;  // NaN counts as touched
    const int64_t i = splats[k].index - clip.first;
    if (!touched || !point_backward(clip, i, sums, &g)) continue;
    for (int c = 0; c < 3; ++c) out.position[3 * i + c] = g.position[c];
    out.radius[i] = g.radius;
    out.density[i] = g.density;
    for (int c = 0; c < components; ++c) out.color[components * i + c] = g.color[c];
  }
}

}  // namespace PEEL_ISA
}  // namespace peel
