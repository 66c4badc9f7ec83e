// SPDX-License-Identifier: GPL-3.0-or-later
// Which boxes reach which tile.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace peel {

struct TileGrid {
  int x, y;  // tiles
};

// Rows of tiles that are binned together, so that the lists stay within bounds.
struct Band {
  int begin, end;
  int64_t overlaps;
};

class TileLists {
 public:
  // Counting: every worker counts into an array of its own; finish_counts adds them up.
  void start_counts(TileGrid grid, int workers);
  TileCounts counts(int worker);
  void finish_counts();

  int64_t row_overlaps(int row) const { return rows_[row]; }
  uint32_t tile_overlaps(int64_t tile) const { return totals_.data()[tile]; }

  // Fills the lists of the rows [begin, end) with the `count` boxes in their order; names[i] (null:
  // i) is what the lists say for box i. Boxes with x0 > x1 are in no tile.
  void fill(int begin, int end, const TileBox* boxes, const uint32_t* names, int64_t count,
            int threads);

  // Of the tile-th tile of the rows last filled.
  const uint32_t* list(int64_t tile) const { return lists_.data() + offsets_.data()[tile]; }
  int64_t offset(int64_t tile) const { return offsets_.data()[tile]; }

  size_t bytes() const {
    return differences_.bytes() + totals_.bytes() + lists_.bytes() + offsets_.bytes() +
           cursors_.bytes() + counts_.bytes();
  }

 private:
  TileGrid grid_ = {0, 0};
  int workers_ = 0;
  Buffer<int32_t> differences_;
  Buffer<uint32_t> totals_, lists_, counts_;
  Buffer<int64_t> offsets_, cursors_;
  std::vector<int64_t> rows_;
};

}  // namespace peel
