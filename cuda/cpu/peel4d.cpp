// SPDX-License-Identifier: GPL-3.0-or-later
// The C interface: checks the arguments, picks the instruction set, keeps exceptions inside.
#include "../include/peel4d.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "frame.h"
#include "kernels.h"
#include "thread_pool.h"

#if !defined(PEEL4D_VERSION)
#define PEEL4D_VERSION "0.0.0"
#endif

namespace {

using peel::Kernels;
using peel::View;

constexpr int64_t kMostPoints = int64_t{1} << 30;
constexpr int kMostAcross = 32767;  // boxes of points are int16
constexpr int64_t kMostPixels = int64_t{1} << 28;

const Kernels& kernels() {
#if defined(PEEL_WITH_AVX2)
  static const bool avx2 = [] {
    const char* wanted = std::getenv("PEEL4D_ISA");
    if (wanted != nullptr && std::strcmp(wanted, "baseline") == 0) return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }();
  if (avx2) return peel::avx2::kernels;
#endif
  return peel::baseline::kernels;
}

bool valid(const peel4d_camera* c) {
  if (c == nullptr || c->size != sizeof *c) return false;
  if (c->width < 1 || c->height < 1 || c->width > kMostAcross || c->height > kMostAcross) {
    return false;
  }
  double all = c->fx + c->fy + c->skew + c->cx + c->cy + c->near_z + c->far_z;
  for (double value : c->rotation) all += value;
  for (double value : c->translation) all += value;
  return std::isfinite(all) && c->near_z < c->far_z;
}

bool valid(const peel4d_settings* s) {
  return s != nullptr && s->size == sizeof *s && s->layers >= 1 &&
         s->layers <= peel::kMaxLayers && std::isfinite(s->min_radius_px) &&
         s->min_radius_px > 0.0f && s->min_transmittance >= 0.0f && s->min_transmittance <= 1.0f;
}

bool valid_sh_count(int count) { return count == 1 || count == 4 || count == 9 || count == 16; }

bool valid(const peel4d_points* p) {
  if (p == nullptr || p->size != sizeof *p || p->count < 0) return false;
  if (p->sh_count != 0 && !valid_sh_count(p->sh_count)) return false;
  return p->count == 0 || (p->position && p->radius && p->density && p->color);
}

bool too_large(const peel4d_camera& c, const peel4d_points& p) {
  return p.count > kMostPoints || int64_t{c.width} * c.height > kMostPixels;
}

View view_of(const peel4d_camera& c, const peel4d_settings& s) {
  View view;
  view.fx = c.fx;
  view.fy = c.fy;
  view.skew = c.skew;
  view.cx = c.cx;
  view.cy = c.cy;
  for (int i = 0; i < 9; ++i) view.rotation[i] = c.rotation[i];
  for (int i = 0; i < 3; ++i) view.translation[i] = c.translation[i];
  for (int i = 0; i < 3; ++i) {
    const double* R = c.rotation;
    const double* t = c.translation;
    view.eye[i] = c.orthographic ? R[6 + i] : -(R[i] * t[0] + R[3 + i] * t[1] + R[6 + i] * t[2]);
    view.key_row[i] = static_cast<float>(R[6 + i]);
  }
  view.key_row[3] = static_cast<float>(c.translation[2]);
  view.near_z = static_cast<float>(c.near_z);
  view.far_z = static_cast<float>(c.far_z);
  view.min_radius = s.min_radius_px;
  view.width = c.width;
  view.height = c.height;
  view.orthographic = c.orthographic != 0;
  return view;
}

template <class Function>
int32_t guarded(Function&& function) noexcept {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return PEEL4D_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    return PEEL4D_TOO_LARGE;
  } catch (...) {
    return PEEL4D_INTERNAL;
  }
}

peel::Points points_of(const peel4d_points& p) {
  return {p.count, p.sh_count, p.position, p.radius, p.density, p.color};
}

peel::Settings settings_of(const peel4d_settings& s) {
  return {s.layers, peel::resolve_threads(s.threads), s.min_transmittance};
}

}  // namespace

extern "C" {

int32_t peel4d_abi_version(void) { return PEEL4D_ABI_VERSION; }

const char* peel4d_build_info(void) {
#if defined(PEEL_WITH_AVX2)
  if (&kernels() == &peel::avx2::kernels) return PEEL4D_VERSION " avx2";
#endif
  return PEEL4D_VERSION " baseline";
}

const char* peel4d_error_message(int32_t code) {
  switch (code) {
    case PEEL4D_OK:
      return "no error";
    case PEEL4D_INVALID_ARGUMENT:
      return "an argument is missing or out of range";
    case PEEL4D_OUT_OF_MEMORY:
      return "not enough memory";
    case PEEL4D_TOO_LARGE:
      return "more pixels, points or overlaps between them than fit into one picture";
    default:
      return "internal error of the splat core";
  }
}

int32_t peel4d_forward(const peel4d_camera* camera, const peel4d_settings* settings,
                       const peel4d_points* points, const peel4d_image* image) {
  if (!valid(camera) || !valid(settings) || !valid(points) || image == nullptr ||
      image->size != sizeof *image || image->rgba == nullptr) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*camera, *points)) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    const peel::Image out = {image->rgba, image->depth, image->surface, image->layer_ids};
    peel::render_forward(kernels(), view_of(*camera, *settings), settings_of(*settings),
                         points_of(*points), out);
    return PEEL4D_OK;
  });
}

int32_t peel4d_backward(const peel4d_camera* camera, const peel4d_settings* settings,
                        const peel4d_points* points, const float* d_rgba, const float* d_depth,
                        const peel4d_gradients* gradients) {
  if (!valid(camera) || !valid(settings) || !valid(points) || d_rgba == nullptr ||
      gradients == nullptr || gradients->size != sizeof *gradients) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*camera, *points)) return PEEL4D_TOO_LARGE;
  if (points->count == 0) return PEEL4D_OK;
  if (!gradients->position || !gradients->radius || !gradients->density || !gradients->color) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    const peel::Gradients out = {gradients->position, gradients->radius, gradients->density,
                                 gradients->color};
    peel::render_backward(kernels(), view_of(*camera, *settings), settings_of(*settings),
                          points_of(*points), d_rgba, d_depth, out);
    return PEEL4D_OK;
  });
}

int32_t peel4d_sh_forward(int64_t count, int32_t sh_count, const float* position, const float* sh,
                          const double eye[3], int32_t orthographic, int32_t threads, float* rgb) {
  if (count < 0 || !valid_sh_count(sh_count) || eye == nullptr) return PEEL4D_INVALID_ARGUMENT;
  if (count == 0) return PEEL4D_OK;
  if (position == nullptr || sh == nullptr || rgb == nullptr) return PEEL4D_INVALID_ARGUMENT;
  if (count > kMostPoints) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    constexpr int64_t kChunk = 8192;
    peel::parallel_for(peel::resolve_threads(threads), (count + kChunk - 1) / kChunk,
                       [&](int64_t chunk, int) {
                         const int64_t begin = chunk * kChunk;
                         const int64_t end = begin + kChunk < count ? begin + kChunk : count;
                         kernels().sh_colors(eye, orthographic, sh_count, begin, end, position, sh,
                                             rgb);
                       });
    return PEEL4D_OK;
  });
}

}  // extern "C"
