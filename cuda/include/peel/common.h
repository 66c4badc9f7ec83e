// SPDX-License-Identifier: GPL-3.0-or-later
// What every header of the splat core shares: the host/device marker and the camera.
//
// The headers of this folder hold the arithmetic of the peel, each function beside its derivative.
// They compile under nvcc and under any C++17 compiler, so the CPU core and the CUDA kernels run
// the same lines. Compile with contraction off (-ffp-contract=off, nvcc -fmad=false) wherever two
// back ends shall agree bit by bit.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define PEEL_HD __host__ __device__ inline
#else
// Internal linkage on purpose: the CPU core compiles its hot files once per instruction set, and
// the linker must never pick the AVX2 copy of a function for a machine without AVX2.
#define PEEL_HD static inline
#endif

namespace peel {

constexpr int kMaxLayers = 64;
constexpr int kMaxShCount = 16;

// A distortion-free pinhole or orthographic camera; OpenCV axes (x right, y down, z forward).
// Pixel (i, j) is sampled at (i + 0.5, j + 0.5); (0, 0) is the image's top-left corner.
struct View {
  double fx, fy, skew, cx, cy;  // pixels (orthographic: pixels per world unit)
  double rotation[9], translation[3];  // x_camera = R x_world + t, row major
  double eye[3];  // camera centre in the world; orthographic: the unit viewing direction
  float key_row[4];  // (R20, R21, R22, t2) rounded to float32, see depth_key
  float near_z, far_z;
  float min_radius;  // pixels, see footprint.h
  int width, height;
  int orthographic;
};

// True for everything but NaN and the infinities, on the host and the device alike.
PEEL_HD bool is_finite(double value) { return value - value == 0.0; }
PEEL_HD bool is_finite(float value) { return value - value == 0.0f; }

}  // namespace peel
