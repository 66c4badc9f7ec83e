// SPDX-License-Identifier: GPL-3.0-or-later
#include "picture_loss.h"

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "thread_pool.h"

namespace peel {
namespace {

constexpr int64_t kMostScratch = int64_t{64} << 20;  // floats

}  // namespace

PictureLoss picture_loss(const Kernels& kernels, PictureTask task, double pixels,
                         double mask_weight, int threads) {
  const int bands = (task.height + kPictureBand - 1) / kPictureBand;
  const int64_t floats = kernels.picture_memory(task.width);
  // Many threads before a wide picture would hold more than all the rest.
  const auto most = static_cast<int>(std::max<int64_t>(1, kMostScratch / floats));
  threads = std::min({resolve_threads(threads), bands, most});
  thread_local Buffer<float> memory;  // of the thread that trains, from step to step
  float* scratch = memory.reserve(static_cast<size_t>(floats) * threads);
  const auto each_band = [&](auto&& work) {
    parallel_for(threads, bands, [&](int64_t band, int worker) {
      const int y0 = static_cast<int>(band) * kPictureBand;
      work(band, y0, std::min(y0 + kPictureBand, task.height), scratch + worker * floats);
    });
  };
  task.color_weight = static_cast<float>(1.0 / (3.0 * pixels));
  task.dissimilarity_weight = static_cast<float>(1.0 / (6.0 * pixels));
  PictureLoss result = {};
  if (task.mask != nullptr) {
    std::vector<MaskSums> parts(bands);
    each_band([&](int64_t band, int y0, int y1, float* at) {
      kernels.mask_sums(task, y0, y1, at, &parts[band]);
    });
    MaskSums sums = {};
    for (const MaskSums& part : parts) {
      sums.both += part.both;
      sums.covered += part.covered;
      sums.masked += part.masked;
    }
    // 1 - soft intersection over union.
    const double all = sums.covered + sums.masked - sums.both, united = std::max(all, 1e-6);
    result.loss += mask_weight * (1.0 - sums.both / united);
    task.mask_inside = static_cast<float>(-mask_weight / united);
    task.mask_outside =
        all > 1e-6 ? static_cast<float>(mask_weight * sums.both / (united * united)) : 0.0f;
  }
  std::vector<PictureSums> parts(bands);
  each_band([&](int64_t band, int y0, int y1, float* at) {
    kernels.picture_band(task, y0, y1, at, &parts[band]);
  });
  double squares = 0.0, dissimilarity = 0.0;
  for (const PictureSums& part : parts) {
    squares += part.error;
    dissimilarity += part.dissimilarity;
    for (int j = 0; j < 12; ++j) result.tone[j] += part.tone[j];
  }
  result.error = squares / (3.0 * pixels);
  result.loss += result.error + static_cast<double>(task.dssim_weight) * dissimilarity;
  return result;
}

}  // namespace peel
