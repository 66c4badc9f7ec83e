// SPDX-License-Identifier: GPL-3.0-or-later
// The order of the points along the viewing axis.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"

namespace peel {

// Keys of the slots first .. first + count - 1; the slots of all runs ascend.
struct KeyRun {
  const uint32_t* keys;
  uint32_t first;
  int64_t count;
};

struct SortMemory {
  Buffer<uint64_t> a, b;
  Buffer<uint32_t> order, histogram;
  size_t bytes() const {
    return a.bytes() + b.bytes() + order.bytes() + histogram.bytes();
  }
};

// Slots by ascending (key, slot), `total` of them; low and high bound the keys. The result lives in
// `memory`. A radix sort that looks at no more bits than the range of the keys has.
const uint32_t* sort_by_depth(const std::vector<KeyRun>& runs, int64_t total, uint32_t low,
                              uint32_t high, int threads, SortMemory& memory);

}  // namespace peel
