// SPDX-License-Identifier: GPL-3.0-or-later
#include "frame.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "buffer.h"
#include "thread_pool.h"

namespace peel {
namespace {

constexpr int64_t kChunk = 4096;  // points of one task
// (point, tile) overlaps that are binned at once; a frame with more is cut into bands of tile rows.
constexpr int64_t kBandOverlaps = int64_t{1} << 23;
// Most overlaps of a single tile row, which cannot be cut: 1 GiB of indices going forward, and
// going backward 2.3 GiB of partial sums beside them.
constexpr int64_t kMostForward = int64_t{1} << 28, kMostBackward = int64_t{1} << 26;

// What binning needs of a visible point, in depth order: its splat and its box in tiles.
struct Box {
  uint32_t slot;
  int16_t x0, x1, y0, y1;
};

struct Band {
  int begin, end;  // tile rows
  int64_t overlaps;
};

// Memory that lives from call to call.
struct Scratch {
  Buffer<Splat> splats;
  Buffer<uint64_t> keys, sorted, swap;
  Buffer<Box> boxes;
  Buffer<int64_t> offsets;
  Buffer<uint32_t> lists;
  Buffer<float> partials, sums;
  std::vector<std::unique_ptr<Buffer<char>>> traces;

  size_t bytes() const {
    size_t total = splats.bytes() * sizeof(Splat) + boxes.bytes() * sizeof(Box) +
                   (keys.bytes() + sorted.bytes() + swap.bytes() + offsets.bytes()) * 8 +
                   (lists.bytes() + partials.bytes() + sums.bytes()) * 4;
    for (const auto& trace : traces) total += trace->bytes();
    return total;
  }
};

// Calls may overlap (a render thread, a prefetch thread), so each takes a scratch of its own.
class ScratchPool {
 public:
  std::unique_ptr<Scratch> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }
  void give(std::unique_ptr<Scratch> scratch) {
    constexpr size_t kKeptBytes = size_t{512} << 20;  // a huge frame must not hold memory for ever
    if (scratch->bytes() > kKeptBytes) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < 4) free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

ScratchPool& scratch_pool() {
  static ScratchPool* pool = new ScratchPool;  // never destroyed: threads may outlive main
  return *pool;
}

class Lease {
 public:
  Lease() : scratch_(scratch_pool().take()) {}
  ~Lease() { scratch_pool().give(std::move(scratch_)); }
  Scratch& operator*() const { return *scratch_; }

 private:
  std::unique_ptr<Scratch> scratch_;
};

// Stable radix sort by the upper 32 bits; the input is in order of the lower ones.
uint64_t* sort_by_depth(uint64_t* keys, uint64_t* swap, int64_t count) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  if (count < 2048) {
    std::sort(keys, keys + count);
    return keys;
  }
  std::vector<int64_t> histogram(3 * kBuckets, 0);
  for (int64_t i = 0; i < count; ++i) {
    for (int pass = 0; pass < 3; ++pass) {
      ++histogram[pass * kBuckets + (keys[i] >> (32 + kBits * pass) & (kBuckets - 1))];
    }
  }
  for (int pass = 0; pass < 3; ++pass) {
    int64_t* start = histogram.data() + pass * kBuckets;
    int64_t total = 0, largest = 0;
    for (int b = 0; b < kBuckets; ++b) {
      largest = std::max(largest, start[b]);
      const int64_t here = start[b];
      start[b] = total;
      total += here;
    }
    if (largest == count) continue;  // all alike in these bits
    for (int64_t i = 0; i < count; ++i) {
      swap[start[keys[i] >> (32 + kBits * pass) & (kBuckets - 1)]++] = keys[i];
    }
    std::swap(keys, swap);
  }
  return keys;
}

// The visible points in depth order.
class Frame {
 public:
  Frame(const Kernels& kernels, const View& view, const Settings& settings, const Points& points,
        Scratch& scratch)
      : kernels_(kernels), view_(view), settings_(settings), scratch_(scratch) {
    tiles_x_ = (view.width + kTile - 1) / kTile;
    tiles_y_ = (view.height + kTile - 1) / kTile;
    project(points);
  }

  // Calls walk(tile, worker) for every tile, band by band; between(band) runs before the tiles of a
  // band and after(band) behind them. needs_first: fill Splat::first.
  template <class Between, class Walk, class After>
  void for_each_tile(bool needs_first, Between&& between, Walk&& walk, After&& after) {
    for (const Band& band : bands(needs_first ? kMostBackward : kMostForward)) {
      bin(band);
      if (needs_first) number_overlaps(band);
      between(band);
      const int64_t tiles = int64_t{band.end - band.begin} * tiles_x_;
      const int64_t* offsets = scratch_.offsets.data();
      parallel_for(settings_.threads, tiles, [&](int64_t task, int worker) {
        Tile tile;
        tile.splats = scratch_.splats.data();
        tile.list = scratch_.lists.data() + offsets[task];
        tile.count = static_cast<uint32_t>(offsets[task + 1] - offsets[task]);
        tile.x = static_cast<int>(task % tiles_x_) * kTile;
        tile.y = (band.begin + static_cast<int>(task / tiles_x_)) * kTile;
        tile.width = view_.width;
        tile.height = view_.height;
        tile.band_row = band.begin;
        tile.layers = settings_.layers;
        tile.min_transmittance = settings_.min_transmittance;
        walk(tile, worker);
      });
      after(band);
    }
  }

  int64_t visible() const { return visible_; }
  const Box* boxes() const { return scratch_.boxes.data(); }

 private:
  void project(const Points& points) {
    const int64_t count = points.count, chunks = (count + kChunk - 1) / kChunk;
    Splat* splats = scratch_.splats.reserve(count + 1);
    uint64_t* keys = scratch_.keys.reserve(count + 1);
    std::vector<int64_t> starts(chunks + 1, 0);
    parallel_for(settings_.threads, chunks, [&](int64_t chunk, int) {
      const int64_t begin = chunk * kChunk, end = std::min(count, begin + kChunk);
      starts[chunk + 1] = kernels_.project_points(view_, points, begin, end, splats, keys);
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) starts[chunk + 1] += starts[chunk];
    visible_ = starts[chunks];
    uint64_t* packed = scratch_.sorted.reserve(visible_ + 1);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      std::copy_n(keys + chunk * kChunk, starts[chunk + 1] - starts[chunk],
                  packed + starts[chunk]);
    }
    const uint64_t* sorted = sort_by_depth(packed, scratch_.swap.reserve(visible_ + 1), visible_);
    Box* boxes = scratch_.boxes.reserve(visible_ + 1);
    parallel_for(settings_.threads, (visible_ + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
      const int64_t end = std::min(visible_, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < end; ++i) {
        const auto slot = static_cast<uint32_t>(sorted[i]);
        const Splat& s = splats[slot];
        boxes[i] = {slot, static_cast<int16_t>(s.x0 / kTile), static_cast<int16_t>(s.x1 / kTile),
                    static_cast<int16_t>(s.y0 / kTile), static_cast<int16_t>(s.y1 / kTile)};
      }
    });
  }

  std::vector<Band> bands(int64_t most) const {
    std::vector<int64_t> row(tiles_y_ + 1, 0);
    const Box* boxes = scratch_.boxes.data();
    for (int64_t i = 0; i < visible_; ++i) {
      const int64_t across = boxes[i].x1 - boxes[i].x0 + 1;
      row[boxes[i].y0] += across;
      row[boxes[i].y1 + 1] -= across;
    }
    std::vector<Band> result;
    int64_t here = 0;
    for (int y = 0; y < tiles_y_; ++y) {
      here += row[y];
      if (here > most) throw std::length_error("overlaps");
      if (result.empty() || result.back().overlaps + here > kBandOverlaps) {
        result.push_back({y, y, 0});
      }
      result.back().end = y + 1;
      result.back().overlaps += here;
    }
    return result;
  }

  // Fills the lists of a band's tiles; the points come in depth order, so every list is sorted.
  void bin(const Band& band) {
    const int rows = band.end - band.begin;
    const int64_t tiles = int64_t{rows} * tiles_x_;
    int64_t* offsets = scratch_.offsets.reserve(tiles + 1 + tiles);
    int64_t* cursor = offsets + tiles + 1;
    const Box* boxes = scratch_.boxes.data();

    // Counts by a two-dimensional difference array: four additions per point, whatever its size.
    const int stride = tiles_x_ + 1;
    std::vector<int64_t> difference(static_cast<size_t>(rows + 1) * stride, 0);
    for (int64_t i = 0; i < visible_; ++i) {
      const int top = std::max<int>(boxes[i].y0, band.begin) - band.begin;
      const int bottom = std::min<int>(boxes[i].y1, band.end - 1) - band.begin;
      if (top > bottom) continue;
      ++difference[top * stride + boxes[i].x0];
      --difference[top * stride + boxes[i].x1 + 1];
      --difference[(bottom + 1) * stride + boxes[i].x0];
      ++difference[(bottom + 1) * stride + boxes[i].x1 + 1];
    }
    offsets[0] = 0;
    for (int y = 0; y < rows; ++y) {
      int64_t across = 0;
      for (int x = 0; x < tiles_x_; ++x) {
        across += difference[y * stride + x];
        const int64_t above = y > 0 ? cursor[(y - 1) * tiles_x_ + x] : 0;
        cursor[y * tiles_x_ + x] = across + above;
      }
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t here = cursor[tile];
      cursor[tile] = offsets[tile];
      offsets[tile + 1] = offsets[tile] + here;
    }
    uint32_t* lists = scratch_.lists.reserve(offsets[tiles] + 1);

    // Every task owns a run of tile rows and reads all boxes: no two write to the same list.
    const int64_t tasks = std::min<int64_t>(rows, std::max(1, settings_.threads));
    parallel_for(settings_.threads, tasks, [&](int64_t task, int) {
      // Runs of about equal work, not of equal height.
      const int first = row_at(offsets, rows, task, tasks);
      const int last = row_at(offsets, rows, task + 1, tasks);
      if (first >= last) return;
      for (int64_t i = 0; i < visible_; ++i) {
        const Box& box = boxes[i];
        const int top = std::max<int>(box.y0 - band.begin, first);
        const int bottom = std::min<int>(box.y1 - band.begin, last - 1);
        for (int y = top; y <= bottom; ++y) {
          for (int x = box.x0; x <= box.x1; ++x) lists[cursor[y * tiles_x_ + x]++] = box.slot;
        }
      }
    });
  }

  int row_at(const int64_t* offsets, int rows, int64_t task, int64_t tasks) const {
    if (task >= tasks) return rows;
    const int64_t wanted = offsets[int64_t{rows} * tiles_x_] * task / tasks;
    int row = 0;
    while (row < rows && offsets[int64_t{row} * tiles_x_] < wanted) ++row;
    return row;
  }

  void number_overlaps(const Band& band) {
    const Box* boxes = scratch_.boxes.data();
    Splat* splats = scratch_.splats.data();
    int64_t next = 0;
    for (int64_t i = 0; i < visible_; ++i) {
      const Box& box = boxes[i];
      splats[box.slot].first = static_cast<uint32_t>(next);
      const int down = std::min<int>(box.y1, band.end - 1) - std::max<int>(box.y0, band.begin) + 1;
      if (down > 0) next += int64_t{down} * (box.x1 - box.x0 + 1);
    }
  }

  const Kernels& kernels_;
  const View& view_;
  const Settings& settings_;
  Scratch& scratch_;
  int tiles_x_, tiles_y_;
  int64_t visible_ = 0;
};

Trace trace_in(Buffer<char>& memory, int layers) {
  const int64_t capacity = trace_capacity(layers);
  const int64_t floats = capacity * kLanes * static_cast<int64_t>(sizeof(float));
  char* at = memory.reserve(2 * floats + capacity * 5);
  Trace trace;
  trace.transmittance = reinterpret_cast<float*>(at);
  trace.alpha = reinterpret_cast<float*>(at + floats);
  trace.place = reinterpret_cast<uint32_t*>(at + 2 * floats);
  trace.block = reinterpret_cast<uint8_t*>(at + 2 * floats + capacity * 4);
  return trace;
}

}  // namespace

void render_forward(const Kernels& kernels, const View& view, const Settings& settings,
                    const Points& points, const Image& image) {
  Lease scratch;
  Frame frame(kernels, view, settings, points, *scratch);
  const auto nothing = [](const Band&) {};
  frame.for_each_tile(
      false, nothing, [&](const Tile& tile, int) { kernels.forward_tile(tile, image); }, nothing);
}

void render_backward(const Kernels& kernels, const View& view, const Settings& settings,
                     const Points& points, const float* d_rgba, const float* d_depth,
                     const Gradients& gradients) {
  Lease lease;
  Scratch& scratch = *lease;
  Frame frame(kernels, view, settings, points, scratch);
  float* sums = scratch.sums.reserve(points.count * kPartials + 1);
  std::memset(sums, 0, sizeof(float) * points.count * kPartials);
  while (scratch.traces.size() < static_cast<size_t>(settings.threads)) {
    scratch.traces.push_back(std::make_unique<Buffer<char>>());
  }
  float* partials = nullptr;
  frame.for_each_tile(
      true,
      [&](const Band& band) {
        partials = scratch.partials.reserve(band.overlaps * kPartials + 1);
        std::memset(partials, 0, sizeof(float) * band.overlaps * kPartials);
      },
      [&](const Tile& tile, int worker) {
        if (tile.count == 0) return;
        const Trace trace = trace_in(*scratch.traces[worker], settings.layers);
        kernels.backward_tile(tile, d_rgba, d_depth, trace, partials);
      },
      [&](const Band& band) {
        // A point's overlaps lie together and are added in their order, whichever thread does it.
        const Splat* splats = scratch.splats.data();
        const Box* boxes = frame.boxes();
        const int64_t visible = frame.visible();
        parallel_for(settings.threads, (visible + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
          const int64_t end = std::min(visible, (chunk + 1) * kChunk);
          for (int64_t i = chunk * kChunk; i < end; ++i) {
            const Box& box = boxes[i];
            const int down =
                std::min<int>(box.y1, band.end - 1) - std::max<int>(box.y0, band.begin) + 1;
            if (down <= 0) continue;
            const Splat& s = splats[box.slot];
            const int64_t overlaps = int64_t{down} * (box.x1 - box.x0 + 1);
            float* sum = sums + int64_t{kPartials} * s.index;
            for (int64_t o = 0; o < overlaps; ++o) {
              const float* part = partials + (s.first + o) * kPartials;
              for (int k = 0; k < kPartials; ++k) sum[k] += part[k];
            }
          }
        });
      });
  parallel_for(settings.threads, (points.count + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk, end = std::min(points.count, begin + kChunk);
    kernels.backward_points(view, points, begin, end, sums, gradients);
  });
}

}  // namespace peel
