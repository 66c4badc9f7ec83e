// SPDX-License-Identifier: GPL-3.0-or-later
#include "point_codec.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>

#include "range_coder.h"

namespace peel {
namespace {

// Points before this one in Morton order that predict its codes.
constexpr int kWindow = 16;
// Points before this one whose differences tell how large the next will be.
constexpr int kRecent = 4;
// What is not predicted from near points is compared with the mean of about so many before it.
constexpr int kMeanMemory = 1024, kMeanBits = 12;

// Both directions are one text: a Writer codes the value that it is given, a Reader ignores it and
// returns the one in the stream.
class Writer {
 public:
  static constexpr bool kReads = false;
  bool bit(Probability& p, bool value) {
    coder.bit(p, value);
    return value;
  }
  uint64_t raw(uint64_t value, int count) {
    coder.raw(value, count);
    return value;
  }
  bool broken() const { return false; }
  RangeEncoder coder;
};

class Reader {
 public:
  static constexpr bool kReads = true;
  Reader(const uint8_t* data, size_t size) : coder(data, size) {}
  bool bit(Probability& p, bool) { return coder.bit(p); }
  uint64_t raw(uint64_t, int count) { return coder.raw(count); }
  bool broken() const { return coder.beyond_end(); }
  RangeDecoder coder;
};

int bit_length(uint64_t value) { return value == 0 ? 0 : 64 - __builtin_clzll(value); }

// A number >= 0: its length in bits, then the bits below the first, the highest two of them learned.
struct Number {
  static constexpr int kLengths = 27;
  Probability length[kLengths];
  Probability detail[kLengths][3];

  template <class Coder>
  uint32_t code(Coder& coder, uint32_t value) {
    const int wanted = bit_length(value);
    int bits = 0;
    while (bits < kLengths - 1 && coder.bit(length[bits], bits < wanted)) ++bits;
    if (bits <= 1) return static_cast<uint32_t>(bits);
    uint32_t result = 1;
    int left = bits - 1;
    for (int node = 0; left > 0 && node < 3;) {
      const bool one = coder.bit(detail[bits][node], (value >> --left) & 1);
      result = result << 1 | one;
      node = 2 * node + 1 + one;
    }
    const auto rest = static_cast<uint32_t>(coder.raw(value & ((1u << left) - 1), left));
    return result << left | rest;
  }
};

// ---- cells --------------------------------------------------------------------------------------

uint32_t compact(uint64_t code) {  // every third bit
  code &= 0x1249249249249249ull;
  code = (code ^ (code >> 2)) & 0x10c30c30c30c30c3ull;
  code = (code ^ (code >> 4)) & 0x100f00f00f00f00full;
  code = (code ^ (code >> 8)) & 0x1f0000ff0000ffull;
  code = (code ^ (code >> 16)) & 0x1f00000000ffffull;
  code = (code ^ (code >> 32)) & 0x1fffffull;
  return static_cast<uint32_t>(code);
}

// The Morton code one cell further along an axis, or one back: arithmetic on every third bit.
uint64_t neighbour(uint64_t code, int axis, bool forward, uint64_t* outside, int bits) {
  const uint64_t all = bits == 21 ? 0x7fffffffffffffffull : (1ull << (3 * bits)) - 1;
  const uint64_t mask = (0x1249249249249249ull << axis) & all;
  const uint64_t own = code & mask;
  *outside = forward ? own == mask : own == 0;
  const uint64_t moved = forward ? ((own | ~mask) + 1) & mask : (own - 1) & mask;
  return (code & ~mask) | moved;
}

// Different in every process: nobody can make a file whose nodes all fall into one place. What is in
// a set does not depend on it.
uint64_t set_seed() {
  static const uint64_t seed = [] {
    std::random_device device;
    return static_cast<uint64_t>(device()) << 32 | device();
  }();
  return seed;
}

// The nodes of one level, to be asked for.
class NodeSet {
 public:
  void fill(const std::vector<uint64_t>& nodes, int shift) {
    size_t size = 16;
    while (size < 2 * nodes.size()) size *= 2;
    mask_ = size - 1;
    table_.assign(size, kNone);
    for (const uint64_t node : nodes) {
      const uint64_t key = node >> shift;
      size_t place = hash(key);
      while (table_[place] != kNone) place = (place + 1) & mask_;
      table_[place] = key;
    }
  }

  bool has(uint64_t key) const {
    size_t place = hash(key);
    while (table_[place] != kNone) {
      if (table_[place] == key) return true;
      place = (place + 1) & mask_;
    }
    return false;
  }

 private:
  static constexpr uint64_t kNone = ~0ull;
  size_t hash(uint64_t key) const {
    key = (key ^ seed_) * 0x9e3779b97f4a7c15ull;
    key = (key ^ (key >> 32)) * 0xd6e8feb86659fd93ull;
    return (key ^ (key >> 32)) & mask_;
  }
  const uint64_t seed_ = set_seed();
  std::vector<uint64_t> table_;
  size_t mask_ = 0;
};

// An octree, level by level. A node with one point ends at once with the rest of its code, because
// nothing predicts it; the children of others are told by the node's neighbours, which a surface
// connects.
struct OctreeModel {
  Probability child[8][4][4];  // neighbours on its side, children before it, those that touch it
  Probability single[9][8];    // children of its parent, neighbours of the parent
  Number count;
};

struct Node {
  uint64_t code;         // all its bits, zero below its level
  int64_t begin, end;    // its points, known to the writer only
  bool single;
};

template <class Coder>
bool code_cells(Coder& coder, uint64_t* morton, int64_t count, int bits) {
  const auto model = std::make_unique<OctreeModel>();
  std::vector<Node> nodes, children;
  std::vector<uint64_t> codes;
  NodeSet known;
  const auto add = [&](uint64_t code, int64_t begin, int64_t end, bool single, int below) {
    if (single) {
      const uint64_t mask = (1ull << below) - 1;
      code |= coder.raw(Coder::kReads ? 0 : morton[begin] & mask, below);
    }
    children.push_back({code, begin, end, single});
  };
  add(0, 0, count, count == 1, 3 * bits);
  nodes.swap(children);
  for (int level = 0; level < bits; ++level) {
    const int below = 3 * (bits - level), inside = below - 3;
    codes.clear();
    bool open = false;
    for (const Node& node : nodes) {
      codes.push_back(node.code);
      open = open || !node.single;
    }
    if (!open) break;
    known.fill(codes, below);
    children.clear();
    for (const Node& node : nodes) {
      if (node.single) {
        children.push_back(node);
        continue;
      }
      bool beside[3][2];
      int sides = 0;
      for (int axis = 0; axis < 3; ++axis) {
        for (int forward = 0; forward < 2; ++forward) {
          uint64_t outside = 1, key = 0;
          if (level > 0) key = neighbour(node.code >> below, axis, forward, &outside, level);
          beside[axis][forward] = !outside && known.has(key);
          sides += beside[axis][forward];
        }
      }
      int64_t edges[9];  // where the points of each child begin
      if (!Coder::kReads) {
        edges[0] = node.begin;
        for (int c = 0; c < 8; ++c) {
          int64_t end = edges[c];
          while (end < node.end && ((morton[end] >> inside) & 7) == static_cast<uint64_t>(c)) ++end;
          edges[c + 1] = end;
        }
      }
      int present = 0, before = 0;
      for (int c = 0; c < 8; ++c) {
        const int near =
            beside[0][c & 1] | (beside[1][(c >> 1) & 1] << 1) | (beside[2][c >> 2] << 2);
        int touching = 0;
        for (int axis = 0; axis < 3; ++axis) {
          touching += (c >> axis & 1) && (present >> (c ^ (1 << axis)) & 1);
        }
        bool there = true;
        if (c < 7 || before > 0) {
          const bool value = !Coder::kReads && edges[c + 1] > edges[c];
          there = coder.bit(model->child[near][std::min(before, 3)][touching], value);
        }
        present |= there << c;
        before += there;
      }
      for (int c = 0; c < 8; ++c) {
        if (!(present >> c & 1)) continue;
        const int64_t begin = Coder::kReads ? 0 : edges[c], end = Coder::kReads ? 0 : edges[c + 1];
        bool single = false;
        if (before > 1) {
          single = coder.bit(model->single[before][std::min(sides, 7)], end - begin == 1);
        }
        add(node.code | static_cast<uint64_t>(c) << inside, begin, end, single, inside);
      }
      if (static_cast<int64_t>(children.size()) > count || coder.broken()) return false;
    }
    nodes.swap(children);
  }
  int64_t written = 0;
  for (const Node& node : nodes) {
    int64_t points = 1;
    if (!node.single) {
      const int64_t more = node.end - node.begin - 2;
      points = 2 + static_cast<int64_t>(model->count.code(coder, static_cast<uint32_t>(more)));
    }
    if (points > count - written) return false;
    if (Coder::kReads) std::fill_n(morton + written, points, node.code);
    written += points;
  }
  return written == count;
}

// ---- codes --------------------------------------------------------------------------------------

struct CodeModel {
  // Recent differences, differences of this point in the same set.
  struct Context {
    Number magnitude;
    Probability sign;
  };
  Context context[10][5];
};

// Differences of all components as they are, components side by side, and the predicted ones.
template <class Coder>
bool code_codes(Coder& coder, const uint64_t* morton, int64_t count, int32_t* codes,
                const Component* components, int component_count) {
  int sets = 0;
  bool spatial = false;
  for (int c = 0; c < component_count; ++c) {
    sets = std::max(sets, components[c].set + 1);
    spatial = spatial || components[c].spatial;
  }
  const auto models = std::make_unique<CodeModel[]>(sets);
  // A ring of the last points: their cells, codes and sizes of differences.
  struct Place {
    int64_t x, y, z;
  };
  std::vector<Place> places(kWindow);
  std::vector<int32_t> recent(static_cast<size_t>(kWindow) * component_count);
  std::vector<int32_t> sizes(static_cast<size_t>(kRecent) * component_count);
  std::vector<int32_t> own(component_count);
  std::vector<uint32_t> in_set(sets);
  std::vector<int64_t> means(component_count);  // slowly running, in 1 / 2^kMeanBits
  uint64_t weights[kWindow];
  for (int64_t i = 0; i < count; ++i) {
    const int window = static_cast<int>(std::min<int64_t>(i, kWindow));
    const Place place = {compact(morton[i]), compact(morton[i] >> 1), compact(morton[i] >> 2)};
    uint64_t total = 0;
    if (spatial) {
      for (int k = 0; k < window; ++k) {
        const Place& other = places[k];
        const int64_t dx = place.x - other.x, dy = place.y - other.y, dz = place.z - other.z;
        const auto square = static_cast<uint64_t>(dx * dx + dy * dy + dz * dz);
        const uint64_t d = 1 + std::min<uint64_t>(square, 65534);
        weights[k] = (1ull << 32) / (d * d);
        total += weights[k];
      }
    }
    const int slot = static_cast<int>(i % kWindow);
    std::fill(in_set.begin(), in_set.end(), 0u);
    for (int c = 0; c < component_count; ++c) {
      const Component& component = components[c];
      int64_t predicted = 0;
      if (i > 0) {
        if (component.spatial) {
          uint64_t sum = total / 2;
          for (int k = 0; k < window; ++k) {
            const int32_t there = recent[static_cast<size_t>(k) * component_count + c];
            sum += weights[k] * static_cast<uint64_t>(there);
          }
          predicted = static_cast<int64_t>(sum / total);
        } else {
          predicted = (means[c] + (1 << (kMeanBits - 1))) >> kMeanBits;
        }
      }
      const int64_t leader = component.follows >= 0 ? own[component.follows] : 0;
      uint64_t near = 0;
      for (int k = 0; k < kRecent; ++k) near += sizes[static_cast<size_t>(k) * component_count + c];
      CodeModel::Context& context =
          models[component.set].context[std::min(bit_length(near), 9)]
                                       [std::min(bit_length(in_set[component.set]), 4)];
      const int64_t code = Coder::kReads ? 0 : codes[c * count + i];
      const int64_t wanted = code - predicted - leader;
      const auto size = static_cast<int64_t>(
          context.magnitude.code(coder, static_cast<uint32_t>(std::llabs(wanted))));
      const bool negative = size != 0 && coder.bit(context.sign, wanted < 0);
      const int64_t difference = negative ? -size : size;
      const int64_t value = predicted + leader + difference;
      if (value < 0 || value > kMostCode) return false;
      if (Coder::kReads) codes[c * count + i] = static_cast<int32_t>(value);
      const int64_t exact = value * (1 << kMeanBits);
      means[c] += (exact - means[c]) / std::min<int64_t>(i + 1, kMeanMemory);
      own[c] = static_cast<int32_t>(value - predicted);
      recent[static_cast<size_t>(slot) * component_count + c] = static_cast<int32_t>(value);
      sizes[static_cast<size_t>(i % kRecent) * component_count + c] = static_cast<int32_t>(size);
      in_set[component.set] += static_cast<uint32_t>(size);
    }
    places[slot] = place;
    if ((i & 1023) == 0 && coder.broken()) return false;
  }
  return true;
}

}  // namespace

std::vector<uint8_t> encode_points(const uint64_t* morton, int64_t count, int bits,
                                   const int32_t* codes, const Component* components,
                                   int component_count) {
  Writer writer;
  if (count > 0) {
    code_cells(writer, const_cast<uint64_t*>(morton), count, bits);
    code_codes(writer, morton, count, const_cast<int32_t*>(codes), components, component_count);
  }
  return writer.coder.finish();
}

bool decode_points(const uint8_t* data, int64_t bytes, uint64_t* morton, int64_t count, int bits,
                   int32_t* codes, const Component* components, int component_count) {
  Reader reader(data, static_cast<size_t>(bytes));
  if (count > 0 && (!code_cells(reader, morton, count, bits) ||
                    !code_codes(reader, morton, count, codes, components, component_count))) {
    return false;
  }
  return reader.coder.at_end() && !reader.broken();
}

}  // namespace peel
