// SPDX-License-Identifier: GPL-3.0-or-later
#include "depth_sort.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace peel {
namespace {

constexpr int64_t kSerial = 4096;  // fewer elements are not worth a second thread

struct Digit {
  int shift, bits;
};

// Every task counts the digits of its own part and later writes them behind those of the tasks
// before it, which keeps the sort stable and its result the same for any number of tasks.
class RadixPass {
 public:
  RadixPass(uint32_t* histogram, int tasks, Digit digit)
      : histogram_(histogram), tasks_(tasks), digit_(digit) {}

  uint32_t* counts(int64_t task) const { return histogram_ + (task << digit_.bits); }
  uint32_t bucket(uint32_t key) const {
    return key >> digit_.shift & ((1u << digit_.bits) - 1);
  }
  void clear(int64_t task) const {
    std::memset(counts(task), 0, sizeof(uint32_t) << digit_.bits);
  }
  void accumulate() const {
    uint32_t total = 0;
    for (uint32_t b = 0; b < 1u << digit_.bits; ++b) {
      for (int task = 0; task < tasks_; ++task) {
        uint32_t& count = counts(task)[b];
        const uint32_t here = count;
        count = total;
        total += here;
      }
    }
  }

 private:
  uint32_t* histogram_;
  int tasks_;
  Digit digit_;
};

int bit_length(uint32_t v) {
  int n = 0;
  for (; v != 0; v >>= 1) ++n;
  return n;
}

}  // namespace

const uint32_t* sort_by_depth(const std::vector<KeyRun>& runs, int64_t total, uint32_t low,
                              uint32_t high, int threads, SortMemory& memory) {
  uint32_t* order = memory.order.reserve(total + 1);
  const int bits = total > 0 ? bit_length(high - low) : 0;
  if (bits == 0) {
    int64_t at = 0;
    for (const KeyRun& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) order[at++] = run.first + static_cast<uint32_t>(i);
    }
    return order;
  }
  const int passes = (bits + 11) / 12;
  const int per_pass = (bits + passes - 1) / passes;
  const int tasks = total < kSerial ? 1 : std::min<int>(threads, 64);
  uint64_t* from = memory.a.reserve(total);
  uint64_t* to = memory.b.reserve(total);
  uint32_t* histogram = memory.histogram.reserve(static_cast<size_t>(tasks) << per_pass);

  // Tasks of the first pass own whole runs, those of the others equal parts.
  std::vector<size_t> first_run(tasks + 1, runs.size());
  {
    int64_t seen = 0;
    int task = 0;
    for (size_t r = 0; r < runs.size(); ++r) {
      while (task <= tasks - 1 && seen >= total * task / tasks) first_run[task++] = r;
      seen += runs[r].count;
    }
  }
  for (int pass = 0; pass < passes; ++pass) {
    const Digit digit = {pass * per_pass, per_pass};
    const RadixPass radix(histogram, tasks, digit);
    const bool last = pass == passes - 1;
    if (pass == 0) {
      parallel_for(threads, tasks, [&](int64_t task, int) {
        radix.clear(task);
        uint32_t* counts = radix.counts(task);
        for (size_t r = first_run[task]; r < first_run[task + 1]; ++r) {
          const KeyRun& run = runs[r];
          for (int64_t i = 0; i < run.count; ++i) ++counts[radix.bucket(run.keys[i] - low)];
        }
      });
      radix.accumulate();
      parallel_for(threads, tasks, [&](int64_t task, int) {
        uint32_t* at = radix.counts(task);
        for (size_t r = first_run[task]; r < first_run[task + 1]; ++r) {
          const KeyRun& run = runs[r];
          for (int64_t i = 0; i < run.count; ++i) {
            const uint32_t key = run.keys[i] - low, slot = run.first + static_cast<uint32_t>(i);
            const uint32_t place = at[radix.bucket(key)]++;
            if (last) {
              order[place] = slot;
            } else {
              to[place] = static_cast<uint64_t>(key) << 32 | slot;
            }
          }
        }
      });
    } else {
      parallel_for(threads, tasks, [&](int64_t task, int) {
        radix.clear(task);
        uint32_t* counts = radix.counts(task);
        const int64_t end = total * (task + 1) / tasks;
        for (int64_t i = total * task / tasks; i < end; ++i) {
          ++counts[radix.bucket(static_cast<uint32_t>(from[i] >> 32))];
        }
      });
      radix.accumulate();
      parallel_for(threads, tasks, [&](int64_t task, int) {
        uint32_t* at = radix.counts(task);
        const int64_t end = total * (task + 1) / tasks;
        for (int64_t i = total * task / tasks; i < end; ++i) {
          const uint64_t element = from[i];
          const uint32_t place = at[radix.bucket(static_cast<uint32_t>(element >> 32))]++;
          if (last) {
            order[place] = static_cast<uint32_t>(element);
          } else {
            to[place] = element;
          }
        }
      });
    }
    std::swap(from, to);
  }
  return order;
}

}  // namespace peel
