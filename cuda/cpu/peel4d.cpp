// SPDX-License-Identifier: GPL-3.0-or-later
// The C interface: checks the arguments, picks the instruction set, keeps exceptions inside.
#include "../include/peel4d.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "frame.h"
#include "gaussians.h"
#include "kernels.h"
#include "picture_loss.h"
#include "point_codec.h"
#include "symbol_coder.h"
#include "thread_pool.h"

#if !defined(PEEL4D_VERSION)
#define PEEL4D_VERSION "0.0.0"
#endif

struct peel4d_frame {
  peel::Frame frame;
  int64_t count;  // points of its clip, to recognise a frame of something else
};

struct peel4d_stream {
  std::vector<uint8_t> bytes;
};

namespace {

using peel::Clip;
using peel::Kernels;
using peel::Mesh;
using peel::View;

constexpr int64_t kMostPoints = int64_t{1} << 30;
constexpr int kMostAcross = 32767;  // boxes of points are int16
constexpr int64_t kMostPixels = int64_t{1} << 28;
constexpr int kMostClips = 1 << 16;
constexpr int64_t kMostGaussians = int64_t{1} << 24;
constexpr int64_t kMostCodedPoints = int64_t{1} << 26;
constexpr int64_t kMostCodedSymbols = int64_t{1} << 32;

const Kernels& kernels() {
#if defined(PEEL_WITH_X86)
  static const Kernels* const best = [] {
    const char* wanted = std::getenv("PEEL4D_ISA");
    const auto allows = [&](const char* name) {
      return wanted == nullptr || *wanted == 0 || std::strcmp(wanted, name) == 0;
    };
    if (allows("avx512") && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma")) {
      return &peel::avx512::kernels;
    }
    if ((allows("avx2") || allows("avx512")) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
      return &peel::avx2::kernels;
    }
    return &peel::baseline::kernels;
  }();
  return *best;
#else
  return peel::baseline::kernels;
#endif
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
         s->layers <= peel::kMaxLayers && (s->samples == 1 || s->samples == 2 || s->samples == 4) &&
         std::isfinite(s->min_radius_px) && s->min_radius_px > 0.0f &&
         s->min_transmittance >= 0.0f && s->min_transmittance <= 1.0f;
}

enum class Role { position, scalar, color };

bool valid(const peel4d_array& a, Role role, int64_t count) {
  if (a.size != sizeof a || a.type < 0 || a.type > PEEL4D_UINT16 || a.table_size < 0) return false;
  if (count == 0) return true;
  if (a.data == nullptr) return false;
  if (role == Role::position) {
    if (a.type != PEEL4D_FLOAT32 && a.type != PEEL4D_UINT16) return false;
  }
  if (a.type == PEEL4D_FLOAT32 || a.type == PEEL4D_FLOAT16) return true;
  if (a.table_size > 0) return role == Role::scalar && a.table != nullptr;
  return a.step != nullptr && a.low != nullptr && a.high != nullptr;
}

bool valid(const peel4d_clip& c) {
  if (c.size != sizeof c || c.count < 0) return false;
  if (c.sh_count != 0 && c.sh_count != 1 && c.sh_count != 4 && c.sh_count != 9 &&
      c.sh_count != 16) {
    return false;
  }
  double all = c.radius_scale + c.opacity + c.eye[0] + c.eye[1] + c.eye[2];
  for (double value : c.matrix) all += value;
  return std::isfinite(all) && c.radius_scale >= 0.0 && c.opacity >= 0.0 && c.opacity <= 1.0 &&
         valid(c.position, Role::position, c.count) && valid(c.radius, Role::scalar, c.count) &&
         valid(c.density, Role::scalar, c.count) && valid(c.color, Role::color, c.count);
}

bool valid(const peel4d_clip* clips, int32_t count) {
  if (count < 0 || count > kMostClips || (count > 0 && clips == nullptr)) return false;
  for (int32_t i = 0; i < count; ++i) {
    if (!valid(clips[i])) return false;
  }
  return true;
}

bool valid(const peel4d_mesh* m) {
  if (m == nullptr) return true;
  if (m->size != sizeof *m || m->count < 0 || m->vertex_count < 0) return false;
  return m->count == 0 || (m->position && m->index && m->color && m->holdout && m->id);
}

bool indices_fit(const peel4d_mesh* m) {
  if (m == nullptr) return true;
  for (int64_t i = 0; i < 3 * m->count; ++i) {
    if (m->index[i] < 0 || m->index[i] >= m->vertex_count) return false;
  }
  return true;
}

bool too_large(const peel4d_camera& c, const peel4d_settings& s, const peel4d_clip* clips,
               int32_t count, const peel4d_mesh* mesh) {
  const int64_t width = int64_t{c.width} * s.samples, height = int64_t{c.height} * s.samples;
  int64_t points = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (clips[i].count > kMostPoints) return true;
    points += clips[i].count;
  }
  return points > kMostPoints || width > kMostAcross || height > kMostAcross ||
         width * height > kMostPixels || (mesh && mesh->count > kMostPoints);
}

constexpr double kIdentity[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};

View view_of(const peel4d_camera& c, const peel4d_settings& s, const double matrix[12]) {
  View view = {};
  view.fx = c.fx * s.samples;
  view.fy = c.fy * s.samples;
  view.skew = c.skew * s.samples;
  view.cx = c.cx * s.samples;
  view.cy = c.cy * s.samples;
  for (int i = 0; i < 3; ++i) {
    const double* R = c.rotation + 3 * i;
    for (int j = 0; j < 3; ++j) {
      view.linear[3 * i + j] = R[0] * matrix[j] + R[1] * matrix[4 + j] + R[2] * matrix[8 + j];
    }
    view.shift[i] =
        R[0] * matrix[3] + R[1] * matrix[7] + R[2] * matrix[11] + c.translation[i];
  }
  for (int j = 0; j < 3; ++j) view.key_row[j] = static_cast<float>(view.linear[6 + j]);
  view.key_row[3] = static_cast<float>(view.shift[2]);
  view.radius_scale = view.opacity = 1.0f;
  view.near_z = static_cast<float>(c.near_z);
  view.far_z = static_cast<float>(c.far_z);
  view.min_radius = s.min_radius_px;
  view.width = c.width * s.samples;
  view.height = c.height * s.samples;
  view.orthographic = c.orthographic != 0;
  return view;
}

peel::Array array_of(const peel4d_array& a) {
  return {a.data, a.point_stride, a.component_stride, a.type, a.table_size, a.table};
}

peel::Ramp ramp_of(const peel4d_array& a, int c) {
  if (a.step == nullptr || a.low == nullptr || a.high == nullptr) return {0.0f, 0.0f, 0.0f};
  return {static_cast<float>(a.step[c]), static_cast<float>(a.low[c]),
          static_cast<float>(a.high[c])};
}

void prepare(const peel4d_camera& camera, const peel4d_settings& settings,
             const peel4d_clip* clips, int32_t count, Clip* out) {
  uint32_t first = 0;
  for (int32_t i = 0; i < count; ++i) {
    const peel4d_clip& c = clips[i];
    Clip clip = {};
    clip.view = view_of(camera, settings, c.matrix);
    for (int j = 0; j < 3; ++j) clip.view.eye[j] = c.eye[j];
    clip.view.radius_scale = c.radius_scale;
    clip.view.opacity = static_cast<float>(c.opacity);
    clip.position = array_of(c.position);
    clip.radius = array_of(c.radius);
    clip.density = array_of(c.density);
    clip.color = array_of(c.color);
    if (c.position.type == PEEL4D_UINT16 && c.count > 0) {
      for (int j = 0; j < 3; ++j) {
        clip.position_ramp.step[j] = c.position.step[j];
        clip.position_ramp.low[j] = c.position.low[j];
        clip.position_ramp.high[j] = c.position.high[j];
      }
    }
    clip.radius_ramp = ramp_of(c.radius, 0);
    clip.density_ramp = ramp_of(c.density, 0);
    const int components = c.sh_count == 0 ? 3 : 3 * c.sh_count;
    for (int j = 0; j < components; ++j) clip.color_ramp[j] = ramp_of(c.color, j);
    clip.count = c.count;
    clip.first = first;
    clip.sh_count = c.sh_count;
    clip.id = c.id;
    first += static_cast<uint32_t>(c.count);
    std::memcpy(out + i, &clip, sizeof clip);  // the caller's memory may not be aligned
  }
}

Mesh prepare(const peel4d_camera& camera, const peel4d_settings& settings, const peel4d_mesh& m) {
  return {view_of(camera, settings, kIdentity), m.position, m.index, m.color, m.holdout, m.id,
          m.count};
}

bool valid(const peel4d_truth* t) {
  return t != nullptr && t->size == sizeof *t && t->width > 0 && t->height > 0 &&
         t->samples >= 1 && t->samples <= 8 && t->pixels > 0 && t->mask_weight >= 0 &&
         t->dssim_weight >= 0 && t->rgb != nullptr && t->background != nullptr &&
         t->region != nullptr;
}

bool too_large(const peel4d_truth& t) {
  const int64_t width = int64_t{t.width} * t.samples, height = int64_t{t.height} * t.samples;
  return width > kMostAcross || height > kMostAcross || width * height > kMostPixels;
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

bool valid_codec(int64_t count, int32_t bits, const peel4d_component* components,
                 int32_t component_count) {
  if (count < 0 || count > kMostCodedPoints || bits < 1 || bits > peel::kMostCellBits ||
      component_count < 0 || component_count > peel::kMostComponents ||
      (component_count > 0 && components == nullptr)) {
    return false;
  }
  for (int c = 0; c < component_count; ++c) {
    const peel4d_component& one = components[c];
    if (one.set < 0 || one.set >= peel::kMostSets || one.follows < -1 || one.follows >= c) {
      return false;
    }
  }
  return true;
}

bool valid_points(const uint64_t* morton, int64_t count, int32_t bits, const int32_t* codes,
                  int32_t component_count) {
  for (int64_t i = 0; i < count; ++i) {
    if (morton[i] >> (3 * bits) != 0 || (i > 0 && morton[i] < morton[i - 1])) return false;
  }
  for (int64_t i = 0; i < count * component_count; ++i) {
    if (codes[i] < 0 || codes[i] > peel::kMostCode) return false;
  }
  return true;
}

std::vector<peel::Component> components_of(const peel4d_component* components, int32_t count) {
  std::vector<peel::Component> result;
  for (int c = 0; c < count; ++c) {
    result.push_back({components[c].spatial, components[c].follows, components[c].set});
  }
  return result;
}

peel::Settings settings_of(const peel4d_camera& c, const peel4d_settings& s) {
  return {s.layers, peel::resolve_threads(s.threads), s.samples, s.min_transmittance,
          c.width * s.samples, c.height * s.samples};
}

bool valid(const peel4d_window* w, int64_t count, const float* position, const float* cholesky,
           const float* color) {
  return w != nullptr && w->size == sizeof *w && w->width >= 1 && w->height >= 1 &&
         w->width <= kMostAcross && w->height <= kMostAcross && std::abs(w->x) <= 1 << 20 &&
         std::abs(w->y) <= 1 << 20 && count >= 0 &&
         (count == 0 || (position != nullptr && cholesky != nullptr && color != nullptr));
}

bool too_large(const peel4d_window& w, int64_t count) {
  return count > kMostGaussians || int64_t{w.width} * w.height > kMostPixels;
}

peel::Window window_of(const peel4d_window& w) {
  return {w.x, w.y, w.width, w.height, peel::resolve_threads(w.threads)};
}

}  // namespace

extern "C" {

int32_t peel4d_abi_version(void) { return PEEL4D_ABI_VERSION; }

const char* peel4d_build_info(void) {
#if defined(PEEL_WITH_X86)
  if (&kernels() == &peel::avx512::kernels) return PEEL4D_VERSION " avx512";
  if (&kernels() == &peel::avx2::kernels) return PEEL4D_VERSION " avx2";
#elif defined(__ARM_NEON)
  return PEEL4D_VERSION " neon";
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
    case PEEL4D_DAMAGED:
      return "the coded points are damaged";
    default:
      return "internal error of the splat core";
  }
}

int32_t peel4d_forward(const peel4d_camera* camera, const peel4d_settings* settings,
                       const peel4d_clip* clips, int32_t clip_count, const peel4d_mesh* mesh,
                       const peel4d_image* image, peel4d_frame** frame) {
  if (frame != nullptr) *frame = nullptr;
  if (!valid(camera) || !valid(settings) || !valid(clips, clip_count) || !valid(mesh) ||
      image == nullptr || image->size != sizeof *image || image->rgba == nullptr ||
      (image->layer_ids != nullptr && settings->samples != 1)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*camera, *settings, clips, clip_count, mesh)) return PEEL4D_TOO_LARGE;
  if (!indices_fit(mesh)) return PEEL4D_INVALID_ARGUMENT;
  return guarded([&] {
    std::vector<Clip> prepared(clip_count);
    prepare(*camera, *settings, clips, clip_count, prepared.data());
    const peel::Image out = {image->rgba,       image->depth,     image->surface,
                             image->surface_id, image->layer_ids, settings->samples,
                             false};
    const Mesh triangles = mesh ? prepare(*camera, *settings, *mesh) : Mesh{};
    std::unique_ptr<peel4d_frame> made(new peel4d_frame{
        {kernels(), settings_of(*camera, *settings), prepared.data(), clip_count},
        clip_count == 1 ? clips[0].count : -1});
    made->frame.forward(prepared.data(), clip_count, mesh ? &triangles : nullptr, out);
    if (frame != nullptr) *frame = made.release();
    return PEEL4D_OK;
  });
}

int32_t peel4d_backward(const peel4d_camera* camera, const peel4d_settings* settings,
                        const peel4d_clip* clip, peel4d_frame* frame, const float* d_rgba,
                        const float* d_depth, const peel4d_gradients* gradients) {
  if (!valid(camera) || !valid(settings) || !valid(clip, 1) || settings->samples != 1 ||
      d_rgba == nullptr || gradients == nullptr || gradients->size != sizeof *gradients ||
      (frame != nullptr && frame->count != clip->count)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*camera, *settings, clip, 1, nullptr)) return PEEL4D_TOO_LARGE;
  if (clip->count == 0) return PEEL4D_OK;
  if (!gradients->position || !gradients->radius || !gradients->density || !gradients->color) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    Clip prepared;
    prepare(*camera, *settings, clip, 1, &prepared);
    const peel::Gradients out = {gradients->position, gradients->radius, gradients->density,
                                 gradients->color};
    std::unique_ptr<peel::Frame> made;
    if (frame == nullptr) {
      made = std::make_unique<peel::Frame>(kernels(), settings_of(*camera, *settings), &prepared, 1);
    }
    (made ? *made : frame->frame).backward(prepared, d_rgba, d_depth, out);
    return PEEL4D_OK;
  });
}

void peel4d_frame_free(peel4d_frame* frame) { delete frame; }

int64_t peel4d_clip_bytes(void) { return sizeof(Clip); }

int64_t peel4d_mesh_bytes(void) { return sizeof(Mesh); }

int32_t peel4d_prepare(const peel4d_camera* camera, const peel4d_settings* settings,
                       const peel4d_clip* clips, int32_t clip_count, const peel4d_mesh* mesh,
                       void* out_clips, void* out_mesh) {
  if (!valid(camera) || !valid(settings) || !valid(clips, clip_count) || !valid(mesh) ||
      (clip_count > 0 && out_clips == nullptr) || (mesh != nullptr && out_mesh == nullptr)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*camera, *settings, clips, clip_count, mesh)) return PEEL4D_TOO_LARGE;
  prepare(*camera, *settings, clips, clip_count, static_cast<Clip*>(out_clips));
  if (mesh != nullptr) {
    const Mesh prepared = prepare(*camera, *settings, *mesh);
    std::memcpy(out_mesh, &prepared, sizeof prepared);
  }
  return PEEL4D_OK;
}

int32_t peel4d_encode_points(const uint64_t* morton, int64_t count, int32_t bits,
                             const int32_t* codes, const peel4d_component* components,
                             int32_t component_count, peel4d_stream** stream) {
  if (stream == nullptr || !valid_codec(count, bits, components, component_count) ||
      (count > 0 && (morton == nullptr || (component_count > 0 && codes == nullptr))) ||
      !valid_points(morton, count, bits, codes, component_count)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    *stream = new peel4d_stream{peel::encode_points(morton, count, bits, codes,
                                                    components_of(components, component_count).data(),
                                                    component_count)};
    return PEEL4D_OK;
  });
}

const uint8_t* peel4d_stream_data(const peel4d_stream* stream) { return stream->bytes.data(); }

int64_t peel4d_stream_bytes(const peel4d_stream* stream) {
  return static_cast<int64_t>(stream->bytes.size());
}

void peel4d_stream_free(peel4d_stream* stream) { delete stream; }

int32_t peel4d_decode_points(const uint8_t* data, int64_t bytes, int64_t count, int32_t bits,
                             const peel4d_component* components, int32_t component_count,
                             uint64_t* morton, int32_t* codes) {
  if (data == nullptr || bytes < 0 || !valid_codec(count, bits, components, component_count) ||
      (count > 0 && (morton == nullptr || (component_count > 0 && codes == nullptr)))) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    return peel::decode_points(data, bytes, morton, count, bits, codes,
                               components_of(components, component_count).data(), component_count)
               ? PEEL4D_OK
               : PEEL4D_DAMAGED;
  });
}

int32_t peel4d_encode_symbols(const int32_t* symbols, const int32_t* table_of, int64_t count,
                              const uint32_t* frequencies, const int32_t* sizes,
                              int32_t table_count, int32_t bits, peel4d_stream** stream) {
  if (stream == nullptr || count < 0 || count > kMostCodedSymbols || frequencies == nullptr ||
      sizes == nullptr || (count > 0 && symbols == nullptr)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    peel::SymbolTables tables;
    std::vector<uint8_t> bytes;
    if (!tables.set(frequencies, sizes, table_count, bits) ||
        !tables.encode(symbols, table_of, count, &bytes)) {
      return PEEL4D_INVALID_ARGUMENT;
    }
    *stream = new peel4d_stream{std::move(bytes)};
    return PEEL4D_OK;
  });
}

int32_t peel4d_decode_symbols(const uint8_t* data, int64_t bytes, const int32_t* table_of,
                              int64_t count, const uint32_t* frequencies, const int32_t* sizes,
                              int32_t table_count, int32_t bits, int32_t* symbols) {
  if (data == nullptr || bytes < 0 || count < 0 || count > kMostCodedSymbols ||
      frequencies == nullptr || sizes == nullptr || (count > 0 && symbols == nullptr)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  return guarded([&] {
    peel::SymbolTables tables;
    const bool good = tables.set(frequencies, sizes, table_count, bits) &&
                      tables.decode(data, bytes, table_of, count, symbols);
    return good ? PEEL4D_OK : PEEL4D_DAMAGED;
  });
}

int32_t peel4d_gaussians_draw(const peel4d_window* window, int64_t count, const float* position,
                              const float* cholesky, const float* color, float* rgb,
                              uint8_t* bytes) {
  if (!valid(window, count, position, cholesky, color) || (rgb == nullptr && bytes == nullptr)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*window, count)) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    peel::draw(kernels(), window_of(*window), {position, cholesky, color, count}, rgb, bytes);
    return PEEL4D_OK;
  });
}

int32_t peel4d_gaussians_backward(const peel4d_window* window, int64_t count,
                                  const float* position, const float* cholesky,
                                  const float* color, const float* d_rgb, float* d_position,
                                  float* d_cholesky, float* d_color) {
  if (!valid(window, count, position, cholesky, color) || d_rgb == nullptr ||
      (count > 0 && (d_position == nullptr || d_cholesky == nullptr || d_color == nullptr))) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*window, count)) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    peel::differentiate(kernels(), window_of(*window), {position, cholesky, color, count}, d_rgb,
                        {d_position, d_cholesky, d_color});
    return PEEL4D_OK;
  });
}

int32_t peel4d_gaussians_fit(const peel4d_window* window, int64_t count, const float* position,
                             const float* cholesky, const float* color, const uint8_t* target,
                             int64_t stride, float* d_position, float* d_cholesky,
                             float* d_color, double* error) {
  if (!valid(window, count, position, cholesky, color) || target == nullptr || error == nullptr ||
      stride < int64_t{3} * window->width ||
      (count > 0 && (d_position == nullptr || d_cholesky == nullptr || d_color == nullptr))) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*window, count)) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    *error = peel::fit(kernels(), window_of(*window), {position, cholesky, color, count}, target,
                       stride, {d_position, d_cholesky, d_color});
    return PEEL4D_OK;
  });
}

int32_t peel4d_picture_loss(const peel4d_truth* truth, const float* rgba, const peel4d_tone* tone,
                            float* d_rgba, peel4d_tone* d_tone, double* loss, double* error) {
  if (!valid(truth) || rgba == nullptr || d_rgba == nullptr || loss == nullptr ||
      error == nullptr || tone == nullptr || tone->size != sizeof *tone ||
      (d_tone != nullptr && d_tone->size != sizeof *d_tone)) {
    return PEEL4D_INVALID_ARGUMENT;
  }
  if (too_large(*truth)) return PEEL4D_TOO_LARGE;
  return guarded([&] {
    peel::PictureTask task = {};
    task.width = truth->width;
    task.height = truth->height;
    task.samples = truth->samples;
    task.rgba = rgba;
    task.d_rgba = d_rgba;
    task.truth = truth->rgb;
    task.background = truth->background;
    task.region = truth->region;
    task.mask = truth->mask_weight > 0 ? truth->mask : nullptr;
    task.known = truth->known;
    task.x = static_cast<float>(truth->x);
    task.dx = static_cast<float>(truth->dx);
    task.y = static_cast<float>(truth->y);
    task.dy = static_cast<float>(truth->dy);
    std::memcpy(task.gain, tone->gain, sizeof task.gain);
    std::memcpy(task.offset, tone->offset, sizeof task.offset);
    std::memcpy(task.vignetting, tone->vignetting, sizeof task.vignetting);
    task.dssim_weight = truth->dssim_weight;
    task.tone = d_tone != nullptr;
    const peel::PictureLoss result = peel::picture_loss(
        kernels(), task, truth->pixels, static_cast<double>(truth->mask_weight), truth->threads);
    *loss = result.loss;
    *error = result.error;
    if (d_tone != nullptr) {
      float gradient[12];
      for (int j = 0; j < 12; ++j) gradient[j] = static_cast<float>(result.tone[j]);
      std::memcpy(d_tone->gain, gradient, sizeof d_tone->gain);
      std::memcpy(d_tone->offset, gradient + 3, sizeof d_tone->offset);
      std::memcpy(d_tone->vignetting, gradient + 6, sizeof d_tone->vignetting);
    }
    return PEEL4D_OK;
  });
}

}  // extern "C"
