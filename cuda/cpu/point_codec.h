// SPDX-License-Identifier: GPL-3.0-or-later
// Points without loss in few bits: an octree of their cells, and codes predicted from near points.
#pragma once

#include <cstdint>
#include <vector>

namespace peel {

// How the codes of one component are stored. spatial: as the difference from what near points have,
// else from a running mean. follows: -1, or an earlier component whose difference is subtracted,
// too (red and blue follow green). set: components of one set share their statistics.
struct Component {
  int32_t spatial, follows, set;
};

constexpr int kMostComponents = 64;
constexpr int kMostSets = 64;
constexpr int kMostCellBits = 21;
constexpr int32_t kMostCode = (1 << 24) - 1;

// codes: (components, count), 0..kMostCode. morton: (count) ascending, of `bits` bits per axis.
std::vector<uint8_t> encode_points(const uint64_t* morton, int64_t count, int bits,
                                   const int32_t* codes, const Component* components,
                                   int component_count);

// False for a stream that no encoder has written; the arrays then hold anything.
bool decode_points(const uint8_t* data, int64_t bytes, uint64_t* morton, int64_t count, int bits,
                   int32_t* codes, const Component* components, int component_count);

}  // namespace peel
