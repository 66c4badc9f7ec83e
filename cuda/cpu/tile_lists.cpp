// SPDX-License-Identifier: GPL-3.0-or-later
#include "tile_lists.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace peel {
namespace {

constexpr int64_t kSerial = 4096;  // fewer boxes are not worth a second thread
constexpr int kMostTasks = 16;     // each needs a count per tile

}  // namespace

void TileLists::start_counts(TileGrid grid, int workers) {
  grid_ = grid;
  workers_ = workers;
  const size_t size = static_cast<size_t>(grid.x + 1) * (grid.y + 1);
  std::memset(differences_.reserve(size * workers), 0, size * workers * sizeof(int32_t));
}

TileCounts TileLists::counts(int worker) {
  const size_t size = static_cast<size_t>(grid_.x + 1) * (grid_.y + 1);
  return {differences_.data() + size * worker, grid_.x + 1};
}

void TileLists::finish_counts() {
  uint32_t* totals = totals_.reserve(static_cast<size_t>(grid_.x) * grid_.y);
  const int stride = grid_.x + 1;
  const size_t size = static_cast<size_t>(stride) * (grid_.y + 1);
  rows_.assign(grid_.y, 0);
  for (int y = 0; y < grid_.y; ++y) {
    uint32_t across = 0;
    for (int x = 0; x < grid_.x; ++x) {
      for (int worker = 0; worker < workers_; ++worker) {
        across += static_cast<uint32_t>(differences_.data()[size * worker + y * stride + x]);
      }
      const uint32_t above = y > 0 ? totals[(y - 1) * grid_.x + x] : 0;
      totals[y * grid_.x + x] = across + above;
      rows_[y] += totals[y * grid_.x + x];
    }
  }
}

void TileLists::fill(int begin, int end, const TileBox* boxes, const uint32_t* names,
                     int64_t count, int threads) {
  const int64_t tiles = static_cast<int64_t>(end - begin) * grid_.x;
  int64_t* offsets = offsets_.reserve(tiles + 1);
  int64_t* cursors = cursors_.reserve((tiles + 1) * kMostTasks);
  int64_t total = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    offsets[tile] = cursors[tile] = total;
    total += totals_.data()[static_cast<int64_t>(begin) * grid_.x + tile];
  }
  offsets[tiles] = total;
  uint32_t* lists = lists_.reserve(total + 1);
  if (total == 0) return;

  // Every task owns a part of the boxes; in a list those of the parts before it come first. The parts
  // of the first half fill every list from its beginning on, the others from its end back, each
  // behind what the parts nearer to that end have counted. So two tasks need no counting at all.
  const int tasks = count < kSerial ? 1 : std::min(std::max(1, threads), kMostTasks);
  const int half = (tasks + 1) / 2;  // parts of the first half
  const auto part = [&](int task) { return count * task / tasks; };
  const auto each = [&](int64_t i, auto&& visit) {
    const TileBox box = boxes[i];
    const int y0 = std::max<int>(box.y0, begin), y1 = std::min<int>(box.y1, end - 1);
    for (int y = y0; y <= y1; ++y) {
      const int64_t row = int64_t{y - begin} * grid_.x;
      for (int x = box.x0; x <= box.x1; ++x) visit(row + x);
    }
  };
  if (tasks > 2) {
    uint32_t* counts = counts_.reserve(tiles * tasks);
    parallel_for(threads, tasks, [&](int64_t task, int) {
      if (task == half - 1 || task == half) return;  // nobody comes behind them
      uint32_t* own = counts + tiles * task;
      std::memset(own, 0, sizeof(uint32_t) * tiles);
      const int64_t last = part(static_cast<int>(task) + 1);
      for (int64_t i = part(static_cast<int>(task)); i < last; ++i) {
        each(i, [&](int64_t tile) { ++own[tile]; });
      }
    });
  }
  const auto place = [&](int task, int neighbour, int64_t sign) {
    int64_t* to = cursors + tiles * task;
    const int64_t* from = cursors + tiles * neighbour;
    const uint32_t* before = counts_.data() + tiles * neighbour;
    for (int64_t tile = 0; tile < tiles; ++tile) to[tile] = from[tile] + sign * before[tile];
  };
  for (int task = 1; task < half; ++task) place(task, task - 1, 1);
  if (tasks > half) {
    std::copy_n(offsets + 1, tiles, cursors + tiles * (tasks - 1));
    for (int task = tasks - 2; task >= half; --task) place(task, task + 1, -1);
  }
  parallel_for(threads, tasks, [&](int64_t task, int) {
    int64_t* cursor = cursors + tiles * task;
    const int64_t first = part(static_cast<int>(task)), last = part(static_cast<int>(task) + 1);
    const auto name = [&](int64_t i) { return names ? names[i] : static_cast<uint32_t>(i); };
    if (task < half) {
      for (int64_t i = first; i < last; ++i) {
        each(i, [&](int64_t tile) { lists[cursor[tile]++] = name(i); });
      }
    } else {
      for (int64_t i = last; i-- > first;) {
        each(i, [&](int64_t tile) { lists[--cursor[tile]] = name(i); });
      }
    }
  });
}

}  // namespace peel
