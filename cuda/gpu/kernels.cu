// SPDX-License-Identifier: GPL-3.0-or-later
// The entry points. arguments.h says in which order they run.
#include "backward.cuh"
#include "composite.cuh"
#include "gaussians.cuh"
#include "gop.cuh"
#include "project.cuh"

using namespace peel;

PEEL_KERNEL(project_rgb, ProjectArguments, kTileThreads, 4) {
  project_points<0>(a);
}
PEEL_KERNEL(project_sh1, ProjectArguments, kTileThreads, 4) {
  project_points<1>(a);
}
PEEL_KERNEL(project_sh4, ProjectArguments, kTileThreads, 4) {
  project_points<4>(a);
}
PEEL_KERNEL(project_sh9, ProjectArguments, kTileThreads, 2) {
  project_points<9>(a);
}
PEEL_KERNEL(project_sh16, ProjectArguments, kTileThreads, 2) {
  project_points<16>(a);
}

PEEL_KERNEL(triangles_project, MeshArguments, kTileThreads, 2) {
  project_triangles(a);
}

PEEL_KERNEL(allocate, FrameArguments, kTileThreads, 4) {
  PEEL_SHARED(AllocateShared, shared);
  State* state = a.frame.state;
  allocate_segments(a.frame, a.frame.lists, &state->overlaps, &state->large_tiles, shared);
}

PEEL_KERNEL(triangles_allocate, MeshArguments, kTileThreads, 4) {
  PEEL_SHARED(AllocateShared, shared);
  allocate_segments(a.frame, a.triangles.lists, &a.frame.state->triangle_overlaps, nullptr, shared);
}

PEEL_KERNEL(scatter_points, FrameArguments, kTileThreads, 4) {
  const Frame& f = a.frame;
  const uint64_t i = (uint64_t)blockIdx.x * kTileThreads + threadIdx.x;
  const Record record = i < f.point_count ? unpack(f.records[i]) : no_record();
  scatter(f, f.lists, f.entries, record, (uint32_t)i,
          [](uint32_t key, uint32_t slot) { return (uint64_t)key << 32 | slot; });
}

PEEL_KERNEL(triangles_scatter, MeshArguments, kTileThreads, 4) {
  const Triangles& t = a.triangles;
  const int64_t i = (int64_t)blockIdx.x * kTileThreads + threadIdx.x;
  const Record record = i < t.mesh.count ? unpack(t.records[i]) : no_record();
  scatter(a.frame, t.lists, t.entries, record, (uint32_t)i,
          [](uint32_t, uint32_t triangle) { return triangle; });
}

PEEL_KERNEL(sort_large, FrameArguments, kLargeThreads, 1) {
  PEEL_SHARED(LargeShared, shared);
  const Frame& f = a.frame;
  for (uint32_t i = blockIdx.x; i < f.state->large_tiles; i += gridDim.x) {
    const uint32_t tile = f.large_tiles[i], start = f.lists.starts[tile];
    sort_large_tile(shared, f.entries + start, f.spare + start, f.lists.counts[tile]);
  }
}

PEEL_KERNEL(composite, FrameArguments, kTileThreads, 4) {
  PEEL_SHARED(CompositeShared, shared);
  composite_tile<false>(a.frame, nullptr, shared);
}

PEEL_KERNEL(composite_mesh, MeshArguments, kTileThreads, 4) {
  PEEL_SHARED(CompositeShared, shared);
  composite_tile<true>(a.frame, &a.triangles, shared);
}

// Warps work on their own. Shared memory: 32 f.layers Layers per warp of the block.
PEEL_KERNEL(backward_tiles, BackwardTilesArguments, 4 * kWarp, 8) {
  PEEL_DYNAMIC_SHARED(layers);
  const Frame& f = a.frame;
  const uint32_t warp = threadIdx.x / kWarp;
  const uint32_t unit = blockIdx.x * (blockDim.x / kWarp) + warp;
  const uint32_t tile = f.tile_begin + unit / kWarps;
  if (tile >= f.tile_end) return;
  backward_patch(a, tile, unit % kWarps, (Layer*)layers + (uint64_t)warp * kWarp * f.layers);
}

PEEL_KERNEL(backward_points, BackwardPointsArguments, kTileThreads, 2) {
  backward_point(a);
}

PEEL_KERNEL(gaussians_at, GopArguments, kTileThreads, 2) {
  gaussian_at(a);
}

PEEL_KERNEL(gaussians_at_backward, GopArguments, kTileThreads, 2) {
  gaussian_at_backward(a);
}

PEEL_KERNEL(gaussians_prepare, GaussianArguments, kTileThreads, 4) {
  prepare_gaussians(a);
}

PEEL_KERNEL(gaussians_draw, GaussianArguments, kTileThreads, 4) {
  PEEL_SHARED(GaussianList, list);
  draw_gaussians(a, list);
}

PEEL_KERNEL(gaussians_backward, GaussianArguments, kTileThreads, 4) {
  PEEL_SHARED(GaussianFitShared, shared);
  backward_gaussians(a, shared);
}

PEEL_KERNEL(gaussians_fit, GaussianArguments, kTileThreads, 4) {
  PEEL_SHARED(GaussianFitShared, shared);
  fit_gaussians(a, shared);
}

// A warp for each Gaussian, and one block more for the error.
PEEL_KERNEL(gaussians_chain, GaussianArguments, kTileThreads, 4) {
  PEEL_SHARED(ErrorShared, shared);
  if (blockIdx.x + 1 < gridDim.x) {
    chain_sums(a);
  } else if (a.error) {
    add_errors(a, shared);
  }
}
