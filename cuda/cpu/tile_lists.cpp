// SPDX-License-Identifier: GPL-3.0-or-later
#include "tile_lists.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace peel {

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
  int64_t* cursors = cursors_.reserve(tiles + 1);
  int64_t total = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    offsets[tile] = cursors[tile] = total;
    total += totals_.data()[static_cast<int64_t>(begin) * grid_.x + tile];
  }
  offsets[tiles] = total;
  uint32_t* lists = lists_.reserve(total + 1);
  if (total == 0) return;

  // Every task owns a run of tile rows with about its share of the overlaps and reads all boxes: no
  // two write to the same list, and every list is in order.
  const int tasks = std::min(end - begin, std::max(1, threads));
  std::vector<int> first(tasks + 1, end);
  for (int task = 0, row = begin; task < tasks; ++task) {
    while (row < end && offsets[int64_t{row - begin} * grid_.x] < total * task / tasks) ++row;
    first[task] = row;
  }
  parallel_for(threads, tasks, [&](int64_t task, int) {
    const int top = first[task], bottom = first[task + 1];
    if (top >= bottom) return;
    for (int64_t i = 0; i < count; ++i) {
      const TileBox box = boxes[i];
      if (box.y1 < top || box.y0 >= bottom) continue;
      const uint32_t which = names ? names[i] : static_cast<uint32_t>(i);
      const int y0 = std::max<int>(box.y0, top), y1 = std::min<int>(box.y1, bottom - 1);
      for (int y = y0; y <= y1; ++y) {
        int64_t* cursor = cursors + int64_t{y - begin} * grid_.x;
        for (int x = box.x0; x <= box.x1; ++x) lists[cursor[x]++] = which;
      }
    }
  });
}

}  // namespace peel
