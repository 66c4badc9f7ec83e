// SPDX-License-Identifier: GPL-3.0-or-later
// One frame on the CPU: projection, depth order, binning into tiles, and the walk over the tiles.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels.h"

namespace peel {

struct Settings {
  int layers, threads, samples;
  float min_transmittance;
  int width, height;  // samples
};

struct Scratch;
struct Band;

// The projected points of a picture in their order, in memory that goes back to a pool with it.
// Constructing throws std::bad_alloc, std::length_error (too many overlaps), std::runtime_error.
class Frame {
 public:
  Frame(const Kernels&, const Settings&, const Clip* clips, int clip_count);
  ~Frame();

  void forward(const Clip* clips, int clip_count, const Mesh* mesh, const Image&);
  void backward(const Clip&, const float* d_rgba, const float* d_depth, const Gradients&);

 private:
  void project(const Clip* clips, int clip_count);
  void bin_triangles(const Mesh&);
  void bin(const Band&);
  Tile tile_at(const Band&, int64_t task) const;
  void number_overlaps(const Band&);
  void collect(const Band&, bool first_band, bool last_band, const Clip&, const Gradients&);

  const Kernels& kernels_;
  Settings settings_;
  std::unique_ptr<Scratch> scratch_;
  int64_t total_ = 0, visible_ = 0;
  const uint32_t* order_ = nullptr;
  int binned_ = -1;  // first row of the band whose lists are there
};

}  // namespace peel
