// SPDX-License-Identifier: GPL-3.0-or-later
#include "gaussians.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "buffer.h"
#include "thread_pool.h"
#include "tile_lists.h"

namespace peel {
namespace {

constexpr int64_t kPart = 4096;  // Gaussians that one task prepares

// The Gaussians of a window, prepared and binned into tiles.
class Binned {
 public:
  Binned(const Kernels& kernels, const Window& window, const GaussianArrays& arrays)
      : kernels_(kernels), window_(window), count_(arrays.count) {
    grid_ = {(window.width + kGaussianTile - 1) / kGaussianTile,
             (window.height + kGaussianTile - 1) / kGaussianTile};
    Gaussian2D* gaussians = gaussians_.reserve(count_ + 1);
    TileBox* boxes = boxes_.reserve(count_ + 1);
    lists_.start_counts(grid_, window.threads);
    const int64_t parts = (count_ + kPart - 1) / kPart;
    parallel_for(window.threads, parts, [&](int64_t part, int worker) {
      const TileCounts counts = lists_.counts(worker);
      for (int64_t i = part * kPart; i < std::min(count_, (part + 1) * kPart); ++i) {
        boxes[i] = {1, 0, 1, 0};
        Gaussian2D& g = gaussians[i];
        if (!prepare_gaussian(arrays.position + 2 * i, arrays.cholesky + 3 * i,
                              arrays.color + 3 * i, static_cast<float>(window.x),
                              static_cast<float>(window.y), window.width, window.height, &g)) {
          continue;
        }
        boxes[i] = {tile(g.x0), tile(g.x1), tile(g.y0), tile(g.y1)};
        counts.add(boxes[i]);
      }
    });
    lists_.finish_counts();
    int64_t overlaps = 0;
    for (int y = 0; y < grid_.y; ++y) overlaps += lists_.row_overlaps(y);
    if (overlaps > kMostGaussianOverlaps) throw std::length_error("overlaps");
    lists_.fill(0, grid_.y, boxes, nullptr, count_, window.threads);
  }

  int64_t tiles() const { return int64_t{grid_.x} * grid_.y; }
  int64_t overlaps() const { return lists_.offset(tiles()); }
  int64_t first_overlap(int64_t index) const { return lists_.offset(index); }
  const uint32_t* list(int64_t index) const { return lists_.list(index); }

  GaussianTile at(int64_t index) const {
    return {gaussians_.data(), lists_.list(index), lists_.tile_overlaps(index),
            static_cast<int>(index % grid_.x) * kGaussianTile,
            static_cast<int>(index / grid_.x) * kGaussianTile};
  }
  int width(const GaussianTile& t) const { return std::min(kGaussianTile, window_.width - t.x); }
  int height(const GaussianTile& t) const { return std::min(kGaussianTile, window_.height - t.y); }

  // Adds up what the tiles have summed, in their order, and chains it to the inputs.
  void chain(const GaussianArrays& arrays, const GaussianSums* partials,
             const GaussianGradients& out) const {
    std::vector<GaussianSums> totals(count_, GaussianSums{});
    const uint32_t* list = lists_.list(0);
    for (int64_t i = 0; i < overlaps(); ++i) {
      float* total = reinterpret_cast<float*>(&totals[list[i]]);
      const float* partial = reinterpret_cast<const float*>(partials + i);
      for (int j = 0; j < 8; ++j) total[j] += partial[j];
    }
    parallel_for(window_.threads, (count_ + kPart - 1) / kPart, [&](int64_t part, int) {
      for (int64_t i = part * kPart; i < std::min(count_, (part + 1) * kPart); ++i) {
        float *position = out.position + 2 * i, *cholesky = out.cholesky + 3 * i,
              *color = out.color + 3 * i;
        if (boxes_.data()[i].x0 > boxes_.data()[i].x1) {
          std::fill_n(position, 2, 0.0f);
          std::fill_n(cholesky, 3, 0.0f);
          std::fill_n(color, 3, 0.0f);
        } else {
          chain_gaussian(arrays.cholesky + 3 * i, totals[i], position, cholesky, color);
        }
      }
    });
  }

 private:
  static uint16_t tile(int pixel) { return static_cast<uint16_t>(pixel / kGaussianTile); }

  const Kernels& kernels_;
  Window window_;
  int64_t count_;
  TileGrid grid_;
  Buffer<Gaussian2D> gaussians_;
  Buffer<TileBox> boxes_;
  TileLists lists_;
};

static_assert(sizeof(GaussianSums) == 8 * sizeof(float), "sums are added as eight floats");

}  // namespace

void draw(const Kernels& kernels, const Window& window, const GaussianArrays& arrays, float* rgb,
          uint8_t* bytes) {
  const Binned binned(kernels, window, arrays);
  const int64_t stride = int64_t{3} * window.width;
  parallel_for(window.threads, binned.tiles(), [&](int64_t index, int) {
    const GaussianTile tile = binned.at(index);
    GaussianPlanes sums;
    kernels.draw_gaussians(tile, sums);
    const int64_t first = tile.y * stride + int64_t{3} * tile.x;
    const int width = binned.width(tile), height = binned.height(tile);
    if (rgb != nullptr) kernels.gaussian_floats(sums, width, height, rgb + first, stride);
    if (bytes != nullptr) kernels.gaussian_bytes(sums, width, height, bytes + first, stride);
  });
}

void differentiate(const Kernels& kernels, const Window& window, const GaussianArrays& arrays,
                   const float* d_rgb, const GaussianGradients& out) {
  const Binned binned(kernels, window, arrays);
  const int64_t stride = int64_t{3} * window.width;
  Buffer<GaussianSums> partials;
  partials.reserve(binned.overlaps() + 1);
  parallel_for(window.threads, binned.tiles(), [&](int64_t index, int) {
    const GaussianTile tile = binned.at(index);
    GaussianPlanes gradient;
    kernels.read_gaussian_gradient(d_rgb + tile.y * stride + int64_t{3} * tile.x, stride,
                                   binned.width(tile), binned.height(tile), gradient);
    kernels.differentiate_gaussians(tile, gradient,
                                    partials.data() + binned.first_overlap(index));
  });
  binned.chain(arrays, partials.data(), out);
}

double fit(const Kernels& kernels, const Window& window, const GaussianArrays& arrays,
           const uint8_t* target, int64_t stride, const GaussianGradients& out) {
  const Binned binned(kernels, window, arrays);
  Buffer<GaussianSums> partials;
  partials.reserve(binned.overlaps() + 1);
  std::vector<double> errors(binned.tiles());
  const double samples = 3.0 * window.width * window.height;
  // The picture of a tile and its derivative share the tile's lists and never leave the cache.
  parallel_for(window.threads, binned.tiles(), [&](int64_t index, int) {
    const GaussianTile tile = binned.at(index);
    GaussianPlanes sums;
    kernels.draw_gaussians(tile, sums);
    errors[index] = kernels.gaussian_residual(
        sums, target + tile.y * stride + int64_t{3} * tile.x, stride, binned.width(tile),
        binned.height(tile), static_cast<float>(2.0 / samples));
    kernels.differentiate_gaussians(tile, sums, partials.data() + binned.first_overlap(index));
  });
  binned.chain(arrays, partials.data(), out);
  double total = 0.0;
  for (double error : errors) total += error;
  return total / samples;
}

}  // namespace peel
