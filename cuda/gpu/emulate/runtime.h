// SPDX-License-Identifier: GPL-3.0-or-later
// CUDA's language for an ordinary C++17 compiler, so that the kernels run in every test.
//
// The threads of a block are fibers of one CPU thread. Each runs until it meets a barrier or a warp
// intrinsic and goes on when all it waits for have arrived. Which fiber is next depends on a seed:
// a kernel whose result changes with the seed lacks a barrier. Stricter than the hardware, on
// purpose: all 32 lanes must take part in a warp intrinsic, none may have left before a barrier,
// shared memory holds garbage at first, and blocks run one after the other, so a block that waits
// for another one never ends.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace peel_emulator {

struct Index {
  uint32_t x, y, z;
};
extern Index thread_index, block_index, block_dim, grid_dim;

// What a fiber can wait for together with the others of its warp or block.
enum Meeting {
  kBlockBarrier, kBlockOr, kWarpBarrier, kBallot, kAny, kShuffle, kShuffleUp, kShuffleXor, kMatch,
  kReduceMax,
};

uint32_t meet_block(Meeting meeting, uint32_t value);
// Returns the answer to this lane. detail: lane, distance or mask of a shuffle.
uint64_t meet_warp(Meeting meeting, uint32_t lanes, uint64_t value, uint32_t detail);

void* shared_memory(size_t bytes);  // the block's one struct
void* dynamic_shared_memory();

template <class T>
T shuffle(Meeting meeting, uint32_t lanes, T value, uint32_t detail) {
  static_assert(sizeof(T) <= 8, "at most 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = meet_warp(meeting, lanes, bits, detail);
  memcpy(&value, &bits, sizeof value);
  return value;
}

typedef void (*Kernel)(const void* arguments);
struct Registration {
  Registration(const char* name, size_t argument_bytes, Kernel kernel);
};

}  // namespace peel_emulator

#define threadIdx (peel_emulator::thread_index)
#define blockIdx (peel_emulator::block_index)
#define blockDim (peel_emulator::block_dim)
#define gridDim (peel_emulator::grid_dim)

#define PEEL_SHARED(type, name) \
  type& name = *static_cast<type*>(peel_emulator::shared_memory(sizeof(type)))
#define PEEL_DYNAMIC_SHARED(name) \
  uint4* const name = static_cast<uint4*>(peel_emulator::dynamic_shared_memory())

#define PEEL_KERNEL(name, Arguments, threads, blocks)                                       \
  static void name(const Arguments& a);                                                     \
  static void name##_launched(const void* arguments) { name(*(const Arguments*)arguments); } \
  static const peel_emulator::Registration name##_registered(#name, sizeof(Arguments),      \
                                                             name##_launched);              \
  static void name(const Arguments& a)

inline void __syncthreads() { peel_emulator::meet_block(peel_emulator::kBlockBarrier, 0); }
inline int __syncthreads_or(int value) {
  return (int)peel_emulator::meet_block(peel_emulator::kBlockOr, value != 0);
}
inline void __syncwarp(uint32_t lanes = 0xffffffffu) {
  peel_emulator::meet_warp(peel_emulator::kWarpBarrier, lanes, 0, 0);
}
inline uint32_t __ballot_sync(uint32_t lanes, int value) {
  return (uint32_t)peel_emulator::meet_warp(peel_emulator::kBallot, lanes, value != 0, 0);
}
inline int __any_sync(uint32_t lanes, int value) {
  return (int)peel_emulator::meet_warp(peel_emulator::kAny, lanes, value != 0, 0);
}
inline uint32_t __match_any_sync(uint32_t lanes, uint32_t value) {
  return (uint32_t)peel_emulator::meet_warp(peel_emulator::kMatch, lanes, value, 0);
}
inline uint32_t __reduce_max_sync(uint32_t lanes, uint32_t value) {
  return (uint32_t)peel_emulator::meet_warp(peel_emulator::kReduceMax, lanes, value, 0);
}
template <class T>
T __shfl_sync(uint32_t lanes, T value, int from) {
  return peel_emulator::shuffle(peel_emulator::kShuffle, lanes, value, (uint32_t)from);
}
template <class T>
T __shfl_up_sync(uint32_t lanes, T value, int distance) {
  return peel_emulator::shuffle(peel_emulator::kShuffleUp, lanes, value, (uint32_t)distance);
}
template <class T>
T __shfl_xor_sync(uint32_t lanes, T value, int mask) {
  return peel_emulator::shuffle(peel_emulator::kShuffleXor, lanes, value, (uint32_t)mask);
}

// No two fibers run at once, so the plain operation is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(uint32_t value) { return __builtin_popcount(value); }
