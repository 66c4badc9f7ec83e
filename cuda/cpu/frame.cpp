// SPDX-License-Identifier: GPL-3.0-or-later
#include "frame.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "buffer.h"
#include "depth_sort.h"
#include "thread_pool.h"
#include "tile_lists.h"

namespace peel {
namespace {

constexpr int64_t kChunk = 4096;  // points of one task
// (point, tile) overlaps that are binned at once; a frame with more is cut into bands of tile rows.
constexpr int64_t kBandOverlaps = int64_t{1} << 23;
// Most overlaps of a single tile row, which cannot be cut: 1 GiB of indices going forward, and
// going backward 2.5 GiB of sums beside them.
constexpr int64_t kMostForward = int64_t{1} << 28, kMostBackward = int64_t{1} << 26;
// Pictures beyond this would only push everything else out of the caches.
constexpr int64_t kStreamPixels = int64_t{1} << 19;
constexpr uint32_t kNoPartial = ~0u;

// The slots of points [begin, end) of a clip; the visible ones are packed at their front.
struct Chunk {
  int clip;
  int64_t begin, end;
  uint32_t slot;
  int64_t visible;
  KeyRange keys;
};

std::vector<Band> bands_of(const TileLists& lists, int rows, int64_t most) {
  std::vector<Band> bands;
  for (int y = 0; y < rows; ++y) {
    const int64_t here = lists.row_overlaps(y);
    if (here > most) throw std::length_error("overlaps");
    if (bands.empty() || bands.back().overlaps + here > kBandOverlaps) bands.push_back({y, y, 0});
    bands.back().end = y + 1;
    bands.back().overlaps += here;
  }
  return bands;
}

Trace trace_in(Buffer<char>& memory, const Tile& tile) {
  const int64_t capacity = trace_capacity(tile.layers);
  const int64_t floats = capacity * kBlockSamples * static_cast<int64_t>(sizeof(float));
  char* at = memory.reserve(2 * floats + capacity * 8 + int64_t{tile.count} * 4);
  Trace trace;
  trace.transmittance = reinterpret_cast<float*>(at);
  trace.alpha = reinterpret_cast<float*>(at + floats);
  trace.place = reinterpret_cast<uint32_t*>(at + 2 * floats);
  trace.before = reinterpret_cast<int32_t*>(at + 2 * floats + capacity * 4);
  trace.row = reinterpret_cast<uint32_t*>(at + 2 * floats + capacity * 8);
  return trace;
}

}  // namespace

// Memory that lives from call to call.
struct Scratch {
  TileGrid grid;
  std::vector<Chunk> chunks;
  Buffer<Splat> splats;
  Buffer<uint32_t> keys;
  Buffer<TileBox> boxes, sorted_boxes;
  SortMemory sort;
  TileLists lists;

  const Mesh* mesh = nullptr;
  Buffer<ScreenTriangle> triangles;
  Buffer<TileBox> triangle_boxes;
  TileLists triangle_lists;

  Buffer<uint32_t> first, place;
  Buffer<float> partials, sums;
  std::vector<std::unique_ptr<Buffer<char>>> traces;

  size_t bytes() const {
    size_t total = splats.bytes() + keys.bytes() + boxes.bytes() + sorted_boxes.bytes() +
                   sort.bytes() + lists.bytes() + triangles.bytes() + triangle_boxes.bytes() + triangle_lists.bytes() +
                   first.bytes() + place.bytes() + partials.bytes() + sums.bytes();
    for (const auto& trace : traces) total += trace->bytes();
    return total;
  }
};

namespace {

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

}  // namespace

Frame::Frame(const Kernels& kernels, const Settings& settings, const Clip* clips, int clip_count)
    : kernels_(kernels), settings_(settings), scratch_(scratch_pool().take()) {
  scratch_->grid = {(settings.width + kTileWidth - 1) / kTileWidth,
                    (settings.height + kTileHeight - 1) / kTileHeight};
  scratch_->mesh = nullptr;
  project(clips, clip_count);
}

Frame::~Frame() { scratch_pool().give(std::move(scratch_)); }

void Frame::project(const Clip* clips, int clip_count) {
  Scratch& scratch = *scratch_;
  scratch.chunks.clear();
  for (int c = 0; c < clip_count; ++c) {
    for (int64_t begin = 0; begin < clips[c].count; begin += kChunk) {
      scratch.chunks.push_back({c, begin, std::min(clips[c].count, begin + kChunk),
                                clips[c].first + static_cast<uint32_t>(begin), 0, {~0u, 0}});
    }
    total_ += clips[c].count;
  }
  Splat* splats = scratch.splats.reserve(total_ + 1);
  uint32_t* keys = scratch.keys.reserve(total_ + 1);
  TileBox* boxes = scratch.boxes.reserve(total_ + 1);
  const auto chunks = static_cast<int64_t>(scratch.chunks.size());
  const int workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(settings_.threads, chunks)));
  scratch.lists.start_counts(scratch.grid, workers);
  parallel_for(settings_.threads, chunks, [&](int64_t index, int worker) {
    Chunk& chunk = scratch.chunks[index];
    const Projected out = {splats + chunk.slot, keys + chunk.slot, boxes + chunk.slot,
                           scratch.lists.counts(worker)};
    chunk.visible = kernels_.project_points(clips[chunk.clip], chunk.begin, chunk.end, out,
                                            &chunk.keys);
  });
  scratch.lists.finish_counts();
  KeyRange range = {~0u, 0};
  std::vector<KeyRun> runs;
  runs.reserve(scratch.chunks.size());
  for (const Chunk& chunk : scratch.chunks) {
    if (chunk.visible == 0) continue;
    range = {std::min(range.low, chunk.keys.low), std::max(range.high, chunk.keys.high)};
    runs.push_back({keys + chunk.slot, chunk.slot, chunk.visible});
    visible_ += chunk.visible;
  }
  order_ = sort_by_depth(runs, visible_, range.low, range.high, settings_.threads, scratch.sort);
  // Every binning thread reads all of them, so they are brought into their order only once.
  TileBox* sorted = scratch.sorted_boxes.reserve(visible_ + 1);
  parallel_for(settings_.threads, (visible_ + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    constexpr int64_t kAhead = 16;
    const int64_t end = std::min(visible_, (chunk + 1) * kChunk);
    for (int64_t i = chunk * kChunk; i < end; ++i) {
      if (i + kAhead < end) __builtin_prefetch(boxes + order_[i + kAhead]);
      sorted[i] = boxes[order_[i]];
    }
  });
}

void Frame::bin_triangles(const Mesh& mesh) {
  Scratch& scratch = *scratch_;
  scratch.mesh = &mesh;
  ScreenTriangle* triangles = scratch.triangles.reserve(mesh.count + 1);
  TileBox* boxes = scratch.triangle_boxes.reserve(mesh.count + 1);
  const int64_t chunks = (mesh.count + kChunk - 1) / kChunk;
  const int workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(settings_.threads, chunks)));
  scratch.triangle_lists.start_counts(scratch.grid, workers);
  parallel_for(settings_.threads, chunks, [&](int64_t chunk, int worker) {
    const TileCounts counts = scratch.triangle_lists.counts(worker);
    const int64_t end = std::min(mesh.count, (chunk + 1) * kChunk);
    for (int64_t i = chunk * kChunk; i < end; ++i) {
      if (setup_triangle(mesh, i, triangles + i)) {
        boxes[i] = tiles_of(triangles[i].box);
        counts.add(boxes[i]);
      } else {
        boxes[i] = {1, 0, 1, 0};
      }
    }
  });
  scratch.triangle_lists.finish_counts();
}

void Frame::bin(const Band& band) {
  if (binned_ == band.begin) return;
  Scratch& scratch = *scratch_;
  scratch.lists.fill(band.begin, band.end, scratch.sorted_boxes.data(), order_, visible_,
                     settings_.threads);
  if (scratch.mesh) {
    int64_t overlaps = 0;
    for (int y = band.begin; y < band.end; ++y) overlaps += scratch.triangle_lists.row_overlaps(y);
    if (overlaps > kMostForward) throw std::length_error("overlaps");
    scratch.triangle_lists.fill(band.begin, band.end, scratch.triangle_boxes.data(), nullptr,
                                scratch.mesh->count, settings_.threads);
  }
  binned_ = band.begin;
}

Tile Frame::tile_at(const Band& band, int64_t task) const {
  const Scratch& scratch = *scratch_;
  const int64_t number = static_cast<int64_t>(band.begin) * scratch.grid.x + task;
  Tile tile = {};
  tile.splats = scratch.splats.data();
  tile.list = scratch.lists.list(task);
  tile.count = scratch.lists.tile_overlaps(number);
  tile.x = static_cast<int>(number % scratch.grid.x) * kTileWidth;
  tile.y = static_cast<int>(number / scratch.grid.x) * kTileHeight;
  tile.width = settings_.width;
  tile.height = settings_.height;
  tile.layers = settings_.layers;
  tile.min_transmittance = settings_.min_transmittance;
  return tile;
}

void Frame::forward(const Clip* clips, int clip_count, const Mesh* mesh, const Image& image) {
  Scratch& scratch = *scratch_;
  if (mesh && mesh->count > 0) bin_triangles(*mesh);
  Image out = image;
  out.stream = int64_t{settings_.width} * settings_.height >= kStreamPixels;
  for (const Band& band : bands_of(scratch.lists, scratch.grid.y, kMostForward)) {
    bin(band);
    const int64_t tiles = int64_t{band.end - band.begin} * scratch.grid.x;
    parallel_for(settings_.threads, tiles, [&](int64_t task, int) {
      Tile tile = tile_at(band, task);
      tile.clips = clips;
      tile.clip_count = clip_count;
      if (scratch.mesh) {
        const int64_t number = int64_t{band.begin} * scratch.grid.x + task;
        tile.mesh = scratch.mesh;
        tile.triangles = scratch.triangles.data();
        tile.triangle_list = scratch.triangle_lists.list(task);
        tile.triangle_count = scratch.triangle_lists.tile_overlaps(number);
      }
      if (tile.count == 0 && tile.triangle_count == 0) {
        kernels_.clear_tile(tile, out);
      } else {
        kernels_.forward_tile(tile, out);
      }
      if (out.stream) kernels_.finish_streaming();
    });
  }
  scratch.mesh = nullptr;
}

void Frame::number_overlaps(const Band& band) {
  Scratch& scratch = *scratch_;
  uint32_t* first = scratch.first.reserve(total_ + 1);
  const TileBox* boxes = scratch.boxes.data();
  const auto chunks = static_cast<int64_t>(scratch.chunks.size());
  std::vector<uint32_t> start(chunks + 1, 0);
  parallel_for(settings_.threads, chunks, [&](int64_t index, int) {
    const Chunk& chunk = scratch.chunks[index];
    uint32_t next = 0;
    for (uint32_t slot = chunk.slot; slot < chunk.slot + chunk.visible; ++slot) {
      first[slot] = next;
      const TileBox& box = boxes[slot];
      const int down = std::min<int>(box.y1, band.end - 1) - std::max<int>(box.y0, band.begin) + 1;
      if (down > 0) next += static_cast<uint32_t>(down) * (box.x1 - box.x0 + 1u);
    }
    start[index + 1] = next;
  });
  for (int64_t i = 0; i < chunks; ++i) start[i + 1] += start[i];
  parallel_for(settings_.threads, chunks, [&](int64_t index, int) {
    const Chunk& chunk = scratch.chunks[index];
    for (uint32_t slot = chunk.slot; slot < chunk.slot + chunk.visible; ++slot) {
      first[slot] += start[index];
    }
  });
}

// Adds up what the tiles of a band found for every point, in the order of the tiles, whichever
// thread does it; behind the last band the sums are chained to the points' inputs.
void Frame::collect(const Band& band, bool first_band, bool last_band, const Clip& clip,
                    const Gradients& gradients) {
  Scratch& scratch = *scratch_;
  const bool single = first_band && last_band;
  float* kept = single ? nullptr : scratch.sums.reserve(total_ * kPartials + 1);
  const auto chunks = static_cast<int64_t>(scratch.chunks.size());
  parallel_for(settings_.threads, chunks, [&](int64_t index, int) {
    constexpr int kGroup = 256;
    float group[kGroup * kPartials];
    const Chunk& chunk = scratch.chunks[index];
    for (int64_t begin = 0; begin < chunk.visible; begin += kGroup) {
      const int64_t count = std::min<int64_t>(kGroup, chunk.visible - begin);
      const int64_t slot = chunk.slot + begin;
      float* sums = single ? group : kept + slot * kPartials;
      if (first_band) std::memset(sums, 0, sizeof(float) * count * kPartials);
      for (int64_t i = 0; i < count; ++i) {
        const TileBox& box = scratch.boxes.data()[slot + i];
        const int down =
            std::min<int>(box.y1, band.end - 1) - std::max<int>(box.y0, band.begin) + 1;
        if (down <= 0) continue;
        const uint32_t overlaps = static_cast<uint32_t>(down) * (box.x1 - box.x0 + 1u);
        const uint32_t* place = scratch.place.data() + scratch.first.data()[slot + i];
        for (uint32_t o = 0; o < overlaps; ++o) {
          if (place[o] == kNoPartial) continue;
          const float* part = scratch.partials.data() + int64_t{kPartials} * place[o];
          for (int k = 0; k < kPartials; ++k) sums[i * kPartials + k] += part[k];
        }
      }
      if (last_band) {
        kernels_.backward_points(clip, scratch.splats.data() + slot, count, sums, gradients);
      }
    }
  });
}

void Frame::backward(const Clip& clip, const float* d_rgba, const float* d_depth,
                     const Gradients& gradients) {
  Scratch& scratch = *scratch_;
  const int64_t colors = clip.sh_count == 0 ? 3 : 3 * clip.sh_count;
  parallel_for(settings_.threads, (clip.count + kChunk - 1) / kChunk, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk, count = std::min(clip.count - begin, kChunk);
    std::memset(gradients.position + 3 * begin, 0, sizeof(float) * 3 * count);
    std::memset(gradients.radius + begin, 0, sizeof(float) * count);
    std::memset(gradients.density + begin, 0, sizeof(float) * count);
    std::memset(gradients.color + colors * begin, 0, sizeof(float) * colors * count);
  });
  while (scratch.traces.size() < static_cast<size_t>(settings_.threads)) {
    scratch.traces.push_back(std::make_unique<Buffer<char>>());
  }
  const std::vector<Band> bands = bands_of(scratch.lists, scratch.grid.y, kMostBackward);
  for (const Band& band : bands) {
    bin(band);
    number_overlaps(band);
    float* partials = scratch.partials.reserve(band.overlaps * kPartials + 1);
    uint32_t* place = scratch.place.reserve(band.overlaps + 1);
    std::memset(place, 0xff, sizeof(uint32_t) * band.overlaps);
    const int64_t tiles = int64_t{band.end - band.begin} * scratch.grid.x;
    parallel_for(settings_.threads, tiles, [&](int64_t task, int worker) {
      const Tile tile = tile_at(band, task);
      if (tile.count == 0) return;
      const int64_t base = scratch.lists.offset(task);
      kernels_.backward_tile(tile, d_rgba, d_depth,
                             trace_in(*scratch.traces[worker], tile),
                             {partials + base * kPartials, place, static_cast<uint32_t>(base),
                              scratch.first.data(), band.begin});
    });
    collect(band, band.begin == bands.front().begin, band.begin == bands.back().begin, clip,
            gradients);
  }
}

}  // namespace peel
