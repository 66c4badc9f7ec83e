// SPDX-License-Identifier: GPL-3.0-or-later
// Points of a clip -> splats, depth records and the number of splats of every tile.
#pragma once

#include "bin.cuh"

namespace peel {

// raw_color of points.h for harmonics known at compile time, so that they stay in registers.
template <int kCount>
__device__ __forceinline__ bool splat_color(const Clip& clip, int64_t i, const float p[3],
                                            float rgb[3]) {
  constexpr int kComponents = kCount == 0 ? 3 : 3 * kCount;
  const Array& color = clip.color;
  float sh[kComponents];
  const bool packed = color.type == kFloat32 && color.component_stride == 1 &&
                      color.point_stride == kComponents && kComponents % 4 == 0 &&
                      (uintptr_t)color.data % 16 == 0;
  if (packed) {
    const float4* words = (const float4*)color.data + i * (kComponents / 4);
#pragma unroll
    for (int w = 0; w < kComponents / 4; ++w) {
      const float4 word = words[w];
      sh[4 * w] = word.x;
      sh[4 * w + 1] = word.y;
      sh[4 * w + 2] = word.z;
      sh[4 * w + 3] = word.w;
    }
  } else {
#pragma unroll
    for (int c = 0; c < kComponents; ++c) sh[c] = load(color, clip.color_ramp[c], i, c);
  }
  if (kCount == 0) {
    for (int c = 0; c < 3; ++c) rgb[c] = sh[c];
  } else {
    double direction[3];
    view_direction(clip.view.eye, clip.view.orthographic, p, direction);
    sh_color(kCount, direction, sh, rgb);
  }
  return is_finite(rgb[0]) & is_finite(rgb[1]) & is_finite(rgb[2]);
}

template <int kCount>
__device__ __forceinline__ void project_points(const ProjectArguments& a) {
  const Clip& clip = a.clip;
  const Frame& f = a.frame;
  const int64_t i = (int64_t)blockIdx.x * kTileThreads + threadIdx.x;
  if (i == 0) f.clip_ids[a.clip_number] = {clip.first, clip.id};
  Record record = no_record();
  if (i < clip.count) {
    float p[3];
    for (int c = 0; c < 3; ++c) p[c] = load_position(clip.position, clip.position_ramp, i, c);
    const float radius = load(clip.radius, clip.radius_ramp, i, 0);
    const float density = load(clip.density, clip.density_ramp, i, 0);
    const uint32_t slot = clip.first + (uint32_t)i;
    Drawn drawn;
    Splat splat;
    float rgb[3];
    if (draw(clip.view, p[0], p[1], p[2], radius, density, &drawn) &&
        make_splat(clip.view, drawn, &splat) && splat_color<kCount>(clip, i, p, rgb)) {
      for (int c = 0; c < 3; ++c) splat.rgb[c] = clip_color(rgb[c]);
      splat.index = slot;
      store_splat(f.splats, slot, splat);
      record = record_of(splat.box, sortable(drawn.key));
    }
    f.records[slot] = pack(record);
  }
  count_tiles(f, f.lists, record);
}

}  // namespace peel
