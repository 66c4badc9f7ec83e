// SPDX-License-Identifier: GPL-3.0-or-later
// Runs the kernels on the CPU; see runtime.h. Built by the tests only:
//
//   g++ -std=c++17 -O2 -ffp-contract=off -fPIC -shared emulate.cpp -o libpeel4d_emulated.so
#include "runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace peel_emulator {

Index thread_index, block_index, block_dim, grid_dim;

namespace {

constexpr uint32_t kLanes = 32, kAllLanes = 0xffffffffu;
constexpr size_t kStackBytes = 128 << 10;
constexpr uint32_t kMaxThreads = 1024;

struct Entry {
  size_t argument_bytes;
  Kernel kernel;
};
std::map<std::string, Entry>& registry() {
  static std::map<std::string, Entry> entries;
  return entries;
}

std::string error;  // of the launch at work; the first one counts

void fail(const std::string& message) {
  if (error.empty()) error = message;
}

// Those who wait here. Two sets of values, because the first ones go on to the next meeting while
// the last ones have not yet read the answer of this one.
struct Group {
  uint32_t size = 0, arrived = 0, round = 0;
  Meeting meeting = kBlockBarrier;
  uint64_t values[2][kLanes] = {};
  uint32_t ors[2] = {};
};

enum Waiting { kNothing, kForWarp, kForBlock, kDone };

struct Thread {
  Fiber fiber;
  Waiting waiting;
  uint32_t round;  // of the group, when it began to wait
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Group> warps;
  Group all;
  Fiber scheduler;
  uint32_t current;
  Kernel kernel;
  const void* arguments;
  // Exactly as large as asked for, so that AddressSanitizer sees what lies outside.
  std::unique_ptr<unsigned char[]> shared, dynamic;
  size_t shared_bytes;
};
Block* block;

uint64_t random_state;
uint32_t random_below(uint32_t bound) {  // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (uint32_t)((random_state * 2685821657736338717ull >> 33) % bound);
}

bool ready(const Thread& t, uint32_t warp) {
  if (t.waiting == kDone) return false;
  if (t.waiting == kForWarp) return block->warps[warp].round != t.round;
  if (t.waiting == kForBlock) return block->all.round != t.round;
  return true;
}

void wait(Waiting waiting, uint32_t round) {
  Thread& t = block->threads[block->current];
  t.waiting = waiting;
  t.round = round;
  switch_fiber(&t.fiber, &block->scheduler);
}

// Registers the arrival; true: the last one.
bool arrive(Group& group, Meeting meeting) {
  if (group.arrived == 0) group.meeting = meeting;
  if (group.meeting != meeting) fail("threads meet at different intrinsics");
  if (++group.arrived < group.size) return false;
  group.arrived = 0;
  ++group.round;
  group.ors[group.round % 2] = 0;
  return true;
}

void run_fiber() {
  Block& b = *block;
  finish_switch(&b.threads[b.current].fiber);
  b.kernel(b.arguments);
  Thread& t = b.threads[b.current];
  t.waiting = kDone;
  leave_fiber(&t.fiber, &b.scheduler);
}

// One step of every lane of a warp that can go on. False: none could.
bool step_warp(uint32_t warp, uint32_t seed) {
  uint32_t order[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) order[i] = seed == 1 ? kLanes - 1 - i : i;
  if (seed > 1) {
    for (uint32_t i = kLanes - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1)]);
  }
  bool any = false;
  for (uint32_t lane : order) {
    Thread& t = block->threads[warp * kLanes + lane];
    if (!ready(t, warp)) continue;
    t.waiting = kNothing;
    block->current = warp * kLanes + lane;
    thread_index = {block->current, 0, 0};
    switch_fiber(&block->scheduler, &t.fiber);
    any = true;
    if (!error.empty()) return false;
  }
  return any;
}

// seed 0: the first warp as far as it gets, then the next; 1: from the last one; else at random.
void run_block(uint32_t seed) {
  const uint32_t warps = (uint32_t)block->warps.size();
  std::vector<uint32_t> order(warps);
  while (error.empty()) {
    for (uint32_t w = 0; w < warps; ++w) order[w] = seed == 1 ? warps - 1 - w : w;
    if (seed > 1) {
      for (uint32_t i = warps - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1)]);
    }
    bool any = false;
    for (uint32_t warp : order) {
      const uint32_t steps = seed > 1 ? 1 + random_below(6) : ~0u;
      for (uint32_t s = 0; s < steps && step_warp(warp, seed); ++s) any = true;
    }
    if (any) continue;
    for (const Thread& t : block->threads) {
      if (t.waiting != kDone) fail("threads wait for others that have left or wait elsewhere");
    }
    return;
  }
}

}  // namespace

uint32_t meet_block(Meeting meeting, uint32_t value) {
  Group& group = block->all;
  const uint32_t round = group.round;
  uint32_t& sum = group.ors[round % 2];
  sum |= value;
  if (!arrive(group, meeting)) wait(kForBlock, round);
  return group.ors[round % 2];
}

uint64_t meet_warp(Meeting meeting, uint32_t lanes, uint64_t value, uint32_t detail) {
  if (lanes != kAllLanes) fail("a warp intrinsic without all 32 lanes");
  Group& group = block->warps[block->current / kLanes];
  const uint32_t lane = block->current % kLanes, round = group.round;
  uint64_t* values = group.values[round % 2];
  values[lane] = value;
  if (!arrive(group, meeting)) wait(kForWarp, round);
  uint64_t result = 0;
  switch (meeting) {
    case kBallot:
      for (uint32_t i = 0; i < kLanes; ++i) result |= values[i] << i;
      return result;
    case kAny:
      for (uint32_t i = 0; i < kLanes; ++i) result |= values[i];
      return result;
    case kMatch:
      for (uint32_t i = 0; i < kLanes; ++i) result |= (uint64_t)(values[i] == value) << i;
      return result;
    case kReduceMax:
      return *std::max_element(values, values + kLanes);
    case kShuffle:
      return values[detail % kLanes];
    case kShuffleUp:
      return lane >= detail ? values[lane - detail] : value;
    case kShuffleXor:
      return values[(lane ^ detail) % kLanes];
    default:
      return 0;
  }
}

void* shared_memory(size_t bytes) {
  Block& b = *block;
  if (!b.shared) {
    b.shared.reset(new unsigned char[bytes]);
    b.shared_bytes = bytes;
    memset(b.shared.get(), 0xcd, bytes);
  }
  if (bytes != b.shared_bytes) fail("two shared structs in one kernel");
  return b.shared.get();
}

void* dynamic_shared_memory() { return block->dynamic.get(); }

Registration::Registration(const char* name, size_t argument_bytes, Kernel kernel) {
  registry()[name] = {argument_bytes, kernel};
}

}  // namespace peel_emulator

using namespace peel_emulator;

extern "C" {

__attribute__((visibility("default"))) const char* peel4d_emulate_error() { return error.c_str(); }

// Launches a kernel over `grid` blocks of `threads` threads; `arguments` is its one struct, of
// `bytes` bytes. seed: order of threads and blocks, see run_block. 0: it ran to the end.
__attribute__((visibility("default"))) int32_t peel4d_emulate_launch(
    const char* name, uint32_t grid, uint32_t threads, uint32_t dynamic_bytes,
    const void* arguments, uint64_t bytes, uint32_t seed) {
  error.clear();
  const auto found = registry().find(name);
  if (found == registry().end()) {
    fail(std::string("no kernel ") + name);
  } else if (found->second.argument_bytes != bytes) {
    fail(std::string(name) + " takes " + std::to_string(found->second.argument_bytes) +
         " bytes of arguments, not " + std::to_string(bytes));
  } else if (threads == 0 || threads % kLanes || threads > kMaxThreads || grid == 0) {
    fail("a launch of " + std::to_string(grid) + " blocks of " + std::to_string(threads));
  }
  if (!error.empty()) return 1;
  static Stacks stacks(kMaxThreads, kStackBytes);
  Block b;
  block = &b;
  b.kernel = found->second.kernel;
  b.arguments = arguments;
  random_state = 0x9e3779b97f4a7c15ull * (seed + 1);
  block_dim = {threads, 1, 1};
  grid_dim = {grid, 1, 1};
  std::vector<uint32_t> order(grid);
  for (uint32_t i = 0; i < grid; ++i) order[i] = seed == 1 ? grid - 1 - i : i;
  if (seed > 1) {
    for (uint32_t i = grid - 1; i > 0; --i) std::swap(order[i], order[random_below(i + 1)]);
  }
  for (uint32_t index : order) {
    block_index = {index, 0, 0};
    b.threads.assign(threads, Thread{});
    b.warps.assign(threads / kLanes, Group{});
    for (Group& warp : b.warps) warp.size = kLanes;
    b.all = Group{};
    b.all.size = threads;
    b.shared.reset();
    b.dynamic.reset(new unsigned char[dynamic_bytes]);
    memset(b.dynamic.get(), 0xcd, dynamic_bytes);
    for (uint32_t t = 0; t < threads; ++t) {
      start_fiber(&b.threads[t].fiber, stacks.at(t), kStackBytes, run_fiber);
    }
    run_block(seed);
    if (!error.empty()) {
      error = std::string(name) + ", block " + std::to_string(index) + ": " + error;
      return 1;
    }
  }
  return 0;
}
}

#include "../kernels.cu"

// Bytes of a struct that the host allocates or fills; -1: an unknown name.
extern "C" __attribute__((visibility("default"))) int64_t peel4d_emulate_sizeof(const char* name) {
  static const std::map<std::string, int64_t> sizes = {
      {"State", sizeof(State)},
      {"Splat", sizeof(Splat)},
      {"ScreenTriangle", sizeof(ScreenTriangle)},
      {"ClipId", sizeof(ClipId)},
      {"Layer", sizeof(Layer)},
      {"Frame", sizeof(Frame)},
      {"ProjectArguments", sizeof(ProjectArguments)},
      {"MeshArguments", sizeof(MeshArguments)},
      {"BackwardTilesArguments", sizeof(BackwardTilesArguments)},
      {"BackwardPointsArguments", sizeof(BackwardPointsArguments)},
      {"GaussianArguments", sizeof(GaussianArguments)},
      {"GopArguments", sizeof(GopArguments)},
  };
  const auto found = sizes.find(name);
  return found == sizes.end() ? -1 : found->second;
}
