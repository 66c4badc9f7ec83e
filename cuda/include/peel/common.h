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
#include <string.h>

#if defined(__CUDACC__)
#define PEEL_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define PEEL_HD static inline __attribute__((always_inline))
#else
#define PEEL_HD static inline
#endif
// Internal linkage on purpose: the CPU core compiles its hot files once per instruction set, and
// the linker must never pick the AVX2 copy of a function for a machine without AVX2.

namespace peel {

constexpr int kMaxLayers = 64;
constexpr int kMaxShCount = 16;
// A footprint is measured from the first sample of an anchor tile of this size, in float32; back ends
// that do so round alike and agree bit by bit.
constexpr int kAnchorWidth = 32, kAnchorHeight = 16;

// One clip seen by one camera. The camera is a distortion-free pinhole or orthographic; OpenCV axes
// (x right, y down, z forward). Pixel (i, j) is sampled at (i + 0.5, j + 0.5); (0, 0) is the image's
// top-left corner. With S x S samples per pixel, everything here counts samples, not pixels.
struct View {
  double fx, fy, skew, cx, cy;    // pixels (orthographic: pixels per world unit)
  double linear[9], shift[3];     // x_camera = linear x_clip + shift, row major
  double eye[3];                  // camera centre in the clip; orthographic: unit viewing direction
  double radius_scale;            // clip units -> world units
  float key_row[4];               // (linear20, linear21, linear22, shift2) in float32, see depth_key
  float near_z, far_z;
  float min_radius;               // pixels, see footprint.h
  float opacity;                  // multiplies the density, 0 .. 1
  int width, height;
  int orthographic;
};

// True for everything but NaN and the infinities, on the host and the device alike.
PEEL_HD bool is_finite(double value) { return value - value == 0.0; }
PEEL_HD bool is_finite(float value) { return value - value == 0.0f; }

PEEL_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

PEEL_HD float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace peel
