// SPDX-License-Identifier: GPL-3.0-or-later
// The hot loops of a picture's loss: a band of rows, all columns of a row at once. Included by
// kernels.cpp only.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace peel {
namespace PEEL_ISA {

constexpr int kReach = kPictureWindow / 2;
// Rows of a band, with those its windows see, and with those that the windows of these see.
constexpr int kOwnRows = kPictureBand, kWindowRows = kOwnRows + 2 * kReach,
              kSeenRows = kWindowRows + 2 * kReach;
// Before and behind a row, so that windows may reach over its ends: zeros.
constexpr int kMargin = 16;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;  // of SSIM, for values in [0, 1]

static int64_t picture_stride(int width) { return (width + 15) / 16 * 16 + 2 * kMargin; }

// The rows of one band's work; a plane is an array of rows.
struct PictureRows {
  float *x[3], *y[3];            // (kSeenRows) picture and truth
  float *pull[3], *raw[4];       // (kOwnRows) dL/dpicture; the points' colour and alpha
  float* by[3];                  // (kWindowRows) of one channel: by the mean, the square, x y
  float *sums[5], *tone[12];     // single rows: running sums; columns of the tone's gradient
  float *interleaved;            // a row of four channels
  float *square, *share, *known, *error, *dissimilarity;  // single rows
  int64_t stride;

  PEEL_MEMBER PictureRows(float* memory, int width) : stride(picture_stride(width)) {
    const auto take = [&](int64_t rows) {
      float* at = memory + kMargin;
      memory += rows * stride;
      return at;
    };
    for (float*& plane : x) plane = take(kSeenRows);
    for (float*& plane : y) plane = take(kSeenRows);
    for (float*& plane : pull) plane = take(kOwnRows);
    for (float*& plane : raw) plane = take(kOwnRows);
    for (float*& plane : by) plane = take(kWindowRows);
    for (float*& row : sums) row = take(1);
    for (float*& row : tone) row = take(1);
    interleaved = take(4);
    square = take(1);
    share = take(1);
    known = take(1);
    error = take(1);
    dissimilarity = take(1);
  }
};

static int64_t picture_memory(int width) {
  return (6 * kSeenRows + 7 * kOwnRows + 3 * kWindowRows + 5 + 12 + 4 + 5) * picture_stride(width);
}

// The mean of a row's samples, (width, 4).
PEEL_INLINE const float* pooled(const PictureTask& t, int row, float* memory) {
  const int n = t.samples;
  const int64_t row_floats = int64_t{4} * n * t.width;
  const float* from = t.rgba + int64_t{row} * n * row_floats;
  if (n == 1) return from;
  const float share = 1.0f / (float)(n * n);
  for (int i = 0; i < t.width; ++i) {
    Floats4 sum = {0.0f, 0.0f, 0.0f, 0.0f}, value;
    for (int j = 0; j < n; ++j) {
      for (int k = 0; k < n; ++k) {
        memcpy(&value, from + j * row_floats + int64_t{4} * (i * n + k), sizeof value);
        sum += value;
      }
    }
    sum *= share;
    memcpy(memory + 4 * i, &sum, sizeof sum);
  }
  return memory;
}

static void mask_sums(const PictureTask& t, int y0, int y1, float* memory, MaskSums* out) {
  const PictureRows rows(memory, t.width);
  MaskSums total = {0.0, 0.0, 0.0};
  for (int y = y0; y < y1; ++y) {
    const float* rgba = pooled(t, y, rows.interleaved);
    const uint8_t* mask = t.mask + int64_t{y} * t.width;
    const uint8_t* known = t.known ? t.known + int64_t{y} * t.width : nullptr;
    float both = 0.0f, covered = 0.0f;
    int masked = 0;
    for (int i = 0; i < t.width; ++i) {
      const float alpha = known == nullptr || known[i] ? rgba[4 * i + 3] : 0.0f;
      const bool inside = mask[i] && (known == nullptr || known[i]);
      covered += alpha;
      both += inside ? alpha : 0.0f;
      masked += inside;
    }
    total.both += (double)both;
    total.covered += (double)covered;
    total.masked += (double)masked;
  }
  *out = total;
}

PEEL_INLINE float light_of(const PictureTask& t, int c, float square) {
  return 1.0f + square * (t.vignetting[0][c] + square * t.vignetting[1][c]);
}

// Fills a row of x, y and, where it is the band's own, of pull and raw.
PEEL_INLINE void see_row(const PictureTask& t, const PictureRows& rows, int y, int64_t seen,
                         int own) {
  const int width = t.width;
  const float* rgba = pooled(t, y, rows.interleaved);
  const int64_t first = int64_t{y} * width;
  const uint8_t *truth = t.truth + 3 * first, *background = t.background + 3 * first,
                *region = t.region + first;
  const float ty = t.y + t.dy * (float)y, ty2 = ty * ty;
  // A row that is not the band's own puts its raw values where the last own ones will come.
  const int64_t at = (own < 0 ? kOwnRows - 1 : own) * rows.stride;
  float *r = rows.raw[0] + at, *g = rows.raw[1] + at, *b = rows.raw[2] + at,
        *a = rows.raw[3] + at, *known = rows.known;
  PEEL_LANES for (int i = 0; i < width; ++i) {
    r[i] = rgba[4 * i];
    g[i] = rgba[4 * i + 1];
    b[i] = rgba[4 * i + 2];
    a[i] = rgba[4 * i + 3];
    known[i] = region[i] ? 1.0f : 0.0f;
  }
  for (int c = 0; c < 3; ++c) {
    const float gain = t.gain[c], offset = t.offset[c];
    const float* raw = rows.raw[c] + at;
    const float* square = rows.square;
    float *x = rows.x[c] + seen * rows.stride, *truth_row = rows.y[c] + seen * rows.stride;
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float true_value = (float)truth[3 * i + c] * (1.0f / 255.0f);
      const float behind = (float)background[3 * i + c] * (1.0f / 255.0f);
      const float toned = (gain * raw[i] + offset * a[i]) * light_of(t, c, square[i] + ty2);
      const float value = toned + (1.0f - a[i]) * behind;
      x[i] = known[i] > 0.0f ? value : true_value;
      truth_row[i] = true_value;
    }
    if (own < 0) continue;
    float *pull = rows.pull[c] + own * rows.stride, *error = rows.error;
    const float weight = 2.0f * t.color_weight;
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float difference = x[i] - truth_row[i];
      error[i] += difference * difference;
      pull[i] = weight * difference;
    }
  }
}

// Adds sign times what a row has to the five running sums.
PEEL_INLINE void run_on(const float* x, const float* y, float* const sums[5], int width,
                        float sign) {
  float *sx = sums[0], *sy = sums[1], *sxx = sums[2], *syy = sums[3], *sxy = sums[4];
  PEEL_LANES for (int i = 0; i < width; ++i) {
    const float u = sign * x[i], v = sign * y[i];
    sx[i] += u;
    sy[i] += v;
    sxx[i] += u * x[i];
    syy[i] += v * y[i];
    sxy[i] += u * y[i];
  }
}

PEEL_INLINE float across(const float* row, int i) {
  return ((row[i - 3] + row[i - 2]) + (row[i - 1] + row[i])) +
         ((row[i + 1] + row[i + 2]) + row[i + 3]);
}
static_assert(kReach == 3, "across() adds up seven columns");

// The dissimilarity of one channel and its derivative, added to pull.
PEEL_INLINE void compare_channel(const PictureTask& t, const PictureRows& rows, int c, int y0,
                                 int y1, int seen0, int window0, int window1) {
  const int width = t.width;
  const int64_t stride = rows.stride;
  const auto x = [&](int row) { return rows.x[c] + (row - seen0) * stride; };
  const auto y = [&](int row) { return rows.y[c] + (row - seen0) * stride; };
  for (float* row : rows.sums) memset(row - kMargin, 0, stride * sizeof *row);
  const int begin = window0 - kReach > 0 ? window0 - kReach : 0;
  for (int row = begin; row < window0 + kReach && row < t.height; ++row) {
    run_on(x(row), y(row), rows.sums, width, 1.0f);
  }
  const float *sx = rows.sums[0], *sy = rows.sums[1], *sxx = rows.sums[2], *syy = rows.sums[3],
              *sxy = rows.sums[4], *share = rows.share;
  for (int row = window0; row < window1; ++row) {
    const int enters = row + kReach, leaves = row - kReach - 1;
    if (enters < t.height) {
      run_on(x(enters), y(enters), rows.sums, width, 1.0f);
    }
    if (leaves >= begin) {
      run_on(x(leaves), y(leaves), rows.sums, width, -1.0f);
    }
    const int low = leaves + 1 > 0 ? leaves + 1 : 0;
    const int high = enters < t.height ? enters : t.height - 1;
    const float row_share = 1.0f / (float)(high - low + 1);
    const uint8_t* region = t.region + int64_t{row} * width;
    const int64_t at = (row - window0) * stride;
    float *by_mean = rows.by[0] + at, *by_square = rows.by[1] + at, *by_product = rows.by[2] + at,
          *dissimilarity = rows.dissimilarity;
    const float weight = t.dissimilarity_weight;
    const float counts = row >= y0 && row < y1 ? 1.0f : 0.0f;
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float window = share[i] * row_share;
      const float mx = across(sx, i) * window, my = across(sy, i) * window;
      const float xx = across(sxx, i) * window, yy = across(syy, i) * window,
                  xy = across(sxy, i) * window;
      const float product = mx * my, squares = mx * mx + my * my;
      const float a1 = 2.0f * product + kC1, a2 = 2.0f * (xy - product) + kC2;
      // What one very bright pixel leaves behind in the running sums may not make it negative.
      const float variance = xx + yy - squares;
      const float b1 = squares + kC1, b2 = (variance > 0.0f ? variance : 0.0f) + kC2;
      const float inverse1 = 1.0f / b1, inverse2 = 1.0f / b2;
      const float similarity = a1 * a2 * (inverse1 * inverse2);
      const float here = region[i] ? weight : 0.0f;
      const float pull = -here * window;
      const float scale = 2.0f * pull * (inverse1 * inverse2);
      const float pulled = similarity * pull;
      const float squared = pulled * inverse2;
      by_mean[i] = scale * my * (a2 - a1) + 2.0f * mx * (squared - pulled * inverse1);
      by_square[i] = squared;
      by_product[i] = scale * a1;
      dissimilarity[i] += counts * here * (1.0f - similarity);
    }
  }
  // The windows that see a pixel are those of its window.
  const auto add = [&](int row, float sign) {
    for (int j = 0; j < 3; ++j) {
      const float* from = rows.by[j] + (row - window0) * stride;
      float* to = rows.sums[j];
      PEEL_LANES for (int i = 0; i < width; ++i) to[i] += sign * from[i];
    }
  };
  for (int j = 0; j < 3; ++j) memset(rows.sums[j] - kMargin, 0, stride * sizeof(float));
  for (int row = window0; row < y0 + kReach && row < window1; ++row) add(row, 1.0f);
  for (int row = y0; row < y1; ++row) {
    if (row + kReach < window1) add(row + kReach, 1.0f);
    if (row - kReach - 1 >= window0) add(row - kReach - 1, -1.0f);
    float* pull = rows.pull[c] + (row - y0) * stride;
    const float *xr = x(row), *yr = y(row);
    const float *mean = rows.sums[0], *square = rows.sums[1], *both = rows.sums[2];
    const float weight = t.dssim_weight;
    const uint8_t* region = t.region + int64_t{row} * width;
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float gradient =
          across(mean, i) - 2.0f * xr[i] * across(square, i) + yr[i] * across(both, i);
      pull[i] += region[i] ? weight * gradient : 0.0f;
    }
  }
}

// Chains pull to the points' colour and alpha, and to the camera's tone.
PEEL_INLINE void chain_row(const PictureTask& t, const PictureRows& rows, int y, int own) {
  const int width = t.width, n = t.samples;
  const int64_t first = int64_t{y} * width, at = own * rows.stride;
  const uint8_t* background = t.background + 3 * first;
  const float ty = t.y + t.dy * (float)y, ty2 = ty * ty;
  const float *square = rows.square, *alpha = rows.raw[3] + at;
  float* out = rows.interleaved;
  float* d_alpha = rows.known;
  if (t.mask != nullptr) {
    const uint8_t *mask = t.mask + first, *known = t.known ? t.known + first : nullptr;
    for (int i = 0; i < width; ++i) {
      const float pull = mask[i] ? t.mask_inside : t.mask_outside;
      d_alpha[i] = known == nullptr || known[i] ? pull : 0.0f;
    }
  } else {
    memset(d_alpha, 0, width * sizeof *d_alpha);
  }
  const float share = 1.0f / (float)(n * n);
  for (int c = 0; c < 3; ++c) {
    const float gain = t.gain[c], offset = t.offset[c];
    const float *pull = rows.pull[c] + at, *raw = rows.raw[c] + at;
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float behind = (float)background[3 * i + c] * (1.0f / 255.0f);
      const float lit = pull[i] * light_of(t, c, square[i] + ty2);
      d_alpha[i] += offset * lit - pull[i] * behind;
      out[4 * i + c] = share * gain * lit;
    }
    if (!t.tone) continue;
    float *by_gain = rows.tone[c], *by_offset = rows.tone[3 + c], *by_square = rows.tone[6 + c],
          *by_fourth = rows.tone[9 + c];
    PEEL_LANES for (int i = 0; i < width; ++i) {
      const float r2 = square[i] + ty2;
      const float lit = pull[i] * light_of(t, c, r2);
      const float toned = pull[i] * (gain * raw[i] + offset * alpha[i]) * r2;
      by_gain[i] += lit * raw[i];
      by_offset[i] += lit * alpha[i];
      by_square[i] += toned;
      by_fourth[i] += toned * r2;
    }
  }
  PEEL_LANES for (int i = 0; i < width; ++i) out[4 * i + 3] = share * d_alpha[i];
  const int64_t across_samples = int64_t{4} * n * width;
  float* to = t.d_rgba + int64_t{y} * n * across_samples;
  if (n == 1) {
    memcpy(to, out, across_samples * sizeof *out);
    return;
  }
  for (int i = 0; i < width; ++i) {
    for (int k = 0; k < n; ++k) memcpy(to + int64_t{4} * (i * n + k), out + 4 * i, 4 * sizeof *out);
  }
  for (int j = 1; j < n; ++j) memcpy(to + j * across_samples, to, across_samples * sizeof *to);
}

PEEL_INLINE double total_of(const float* row, int width) {
  double total = 0.0;
  for (int i = 0; i < width; ++i) total += (double)row[i];
  return total;
}

static void picture_band(const PictureTask& t, int y0, int y1, float* memory, PictureSums* out) {
  const PictureRows rows(memory, t.width);
  const int width = t.width;
  const int64_t row_bytes = rows.stride * (int64_t)sizeof(float);
  for (float* row : rows.tone) memset(row - kMargin, 0, row_bytes);
  memset(rows.error - kMargin, 0, row_bytes);
  memset(rows.dissimilarity - kMargin, 0, row_bytes);
  for (int i = 0; i < width; ++i) {
    const float tx = t.x + t.dx * (float)i;
    rows.square[i] = tx * tx;
    const int low = i > kReach ? i - kReach : 0;
    const int high = i + kReach < width ? i + kReach : width - 1;
    rows.share[i] = 1.0f / (float)(high - low + 1);
  }
  const int reach = t.dssim_weight > 0.0f ? kReach : 0;
  const int window0 = y0 > reach ? y0 - reach : 0;
  const int window1 = y1 + reach < t.height ? y1 + reach : t.height;
  const int seen0 = window0 > reach ? window0 - reach : 0;
  const int seen1 = window1 + reach < t.height ? window1 + reach : t.height;
  // The rows before and behind the band first: they leave their raw values in the band's last row.
  for (int y = seen0; y < seen1; ++y) {
    if (y < y0 || y >= y1) see_row(t, rows, y, y - seen0, -1);
  }
  for (int y = y0; y < y1; ++y) see_row(t, rows, y, y - seen0, y - y0);
  if (reach > 0) {
    for (int c = 0; c < 3; ++c) compare_channel(t, rows, c, y0, y1, seen0, window0, window1);
  }
  for (int y = y0; y < y1; ++y) chain_row(t, rows, y, y - y0);
  out->error = total_of(rows.error, width);
  out->dissimilarity = total_of(rows.dissimilarity, width);
  for (int j = 0; j < 12; ++j) out->tone[j] = t.tone ? total_of(rows.tone[j], width) : 0.0;
}

}  // namespace PEEL_ISA
}  // namespace peel
