// SPDX-License-Identifier: GPL-3.0-or-later
// What the kernels need of their platform: nvcc, or the emulator under an ordinary compiler.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

// The shared memory of a block, one struct per kernel.
#define PEEL_SHARED(type, name) __shared__ type name
// The part that the launch asked for.
#define PEEL_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
// A kernel, its one argument, its largest block, and how many of those shall fit into a
// multiprocessor at least, which bounds the registers.
#define PEEL_KERNEL(name, Arguments, threads, blocks)              \
  extern "C" __global__ void __launch_bounds__(threads, blocks) \
  name(const __grid_constant__ Arguments a)

#else

#include "emulate/runtime.h"

#endif
