// SPDX-License-Identifier: GPL-3.0-or-later
// Sixteen floats that are worked on together, on any machine: the vector extensions of GCC and clang
// over as many registers as it takes, and intrinsics only for what those cannot say. Included by
// kernels.cpp only.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace peel {
namespace PEEL_ISA {

#if defined(__AVX512F__)
constexpr int kNative = 16;  // floats in a register
#elif defined(__AVX__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kNative;

#if defined(__clang__)
#define PEEL_LANES _Pragma("clang loop vectorize(assume_safety) unroll(disable)")
#define PEEL_UNROLL _Pragma("clang loop unroll(full)")
#else
// Before a loop over lanes: the iterations are independent, and the loop stays whole for the
// vectoriser (which would find nothing left after complete unrolling).
#define PEEL_LANES _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#define PEEL_UNROLL _Pragma("GCC unroll 16")
#endif
#define PEEL_INLINE static inline __attribute__((always_inline))
#define PEEL_MEMBER inline __attribute__((always_inline))

typedef float NativeFloats __attribute__((vector_size(4 * kNative)));
typedef int32_t NativeInts __attribute__((vector_size(4 * kNative)));

struct Floats {
  NativeFloats part[kParts];
};
struct Ints {
  NativeInts part[kParts];
};

#define PEEL_EACH PEEL_UNROLL for (int i = 0; i < kParts; ++i)

PEEL_INLINE Floats splat(float v) {
  Floats r;
  PEEL_EACH r.part[i] = NativeFloats{} + v;
  return r;
}
PEEL_INLINE Ints splat(int32_t v) {
  Ints r;
  PEEL_EACH r.part[i] = NativeInts{} + v;
  return r;
}

#define PEEL_OPERATOR(op)                                      \
  PEEL_INLINE Floats operator op(Floats a, Floats b) {         \
    PEEL_EACH a.part[i] = a.part[i] op b.part[i];              \
    return a;                                                  \
  }                                                            \
  PEEL_INLINE Floats operator op(float a, Floats b) {          \
    PEEL_EACH b.part[i] = a op b.part[i];                      \
    return b;                                                  \
  }                                                            \
  PEEL_INLINE Floats operator op(Floats a, float b) {          \
    PEEL_EACH a.part[i] = a.part[i] op b;                      \
    return a;                                                  \
  }
PEEL_OPERATOR(+)
PEEL_OPERATOR(-)
PEEL_OPERATOR(*)
#undef PEEL_OPERATOR

PEEL_INLINE Floats load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
PEEL_INLINE Ints load(const int32_t* p) {
  Ints v;
  memcpy(&v, p, sizeof v);
  return v;
}
PEEL_INLINE void store(float* p, Floats v) { memcpy(p, &v, sizeof v); }
PEEL_INLINE void store(int32_t* p, Ints v) { memcpy(p, &v, sizeof v); }

#if defined(__AVX512F__)

typedef __mmask16 Mask;
PEEL_INLINE Mask less(Floats a, Floats b) {
  return _mm512_cmp_ps_mask((__m512)a.part[0], (__m512)b.part[0], _CMP_LT_OQ);
}
PEEL_INLINE Mask at_least(Floats a, Floats b) {
  return _mm512_cmp_ps_mask((__m512)a.part[0], (__m512)b.part[0], _CMP_GE_OQ);
}
PEEL_INLINE Mask less(Ints a, Ints b) {
  return _mm512_cmplt_epi32_mask((__m512i)a.part[0], (__m512i)b.part[0]);
}
PEEL_INLINE Mask both(Mask a, Mask b) { return (Mask)(a & b); }
PEEL_INLINE bool any(Mask m) { return m != 0; }
PEEL_INLINE unsigned bits(Mask m) { return m; }
PEEL_INLINE Floats keep(Mask m, Floats a) {
  return {{(NativeFloats)_mm512_maskz_mov_ps(m, (__m512)a.part[0])}};
}
PEEL_INLINE Floats select(Mask m, Floats a, Floats b) {
  return {{(NativeFloats)_mm512_mask_mov_ps((__m512)b.part[0], m, (__m512)a.part[0])}};
}
PEEL_INLINE Ints select(Mask m, Ints a, Ints b) {
  return {{(NativeInts)_mm512_mask_mov_epi32((__m512i)b.part[0], m, (__m512i)a.part[0])}};
}
PEEL_INLINE Ints increment(Mask m, Ints a) {
  return {{(NativeInts)_mm512_mask_add_epi32((__m512i)a.part[0], m, (__m512i)a.part[0],
                                             _mm512_set1_epi32(1))}};
}

#else

typedef Ints Mask;  // 0 or -1
PEEL_INLINE Mask less(Floats a, Floats b) {
  Mask m;
  PEEL_EACH m.part[i] = a.part[i] < b.part[i];
  return m;
}
PEEL_INLINE Mask at_least(Floats a, Floats b) {
  Mask m;
  PEEL_EACH m.part[i] = a.part[i] >= b.part[i];
  return m;
}
PEEL_INLINE Mask less(Ints a, Ints b) {
  Mask m;
  PEEL_EACH m.part[i] = a.part[i] < b.part[i];
  return m;
}
PEEL_INLINE Mask both(Mask a, Mask b) {
  PEEL_EACH a.part[i] &= b.part[i];
  return a;
}
PEEL_INLINE unsigned bits(Mask m) {
#if defined(__AVX__)
  return (unsigned)_mm256_movemask_ps((__m256)m.part[0]) |
         (unsigned)_mm256_movemask_ps((__m256)m.part[1]) << 8;
#elif defined(__SSE2__)
  return (unsigned)_mm_movemask_ps((__m128)m.part[0]) |
         (unsigned)_mm_movemask_ps((__m128)m.part[1]) << 4 |
         (unsigned)_mm_movemask_ps((__m128)m.part[2]) << 8 |
         (unsigned)_mm_movemask_ps((__m128)m.part[3]) << 12;
#else
  const NativeInts weights = {1, 2, 4, 8};
  unsigned all = 0;
  for (int i = 0; i < kParts; ++i) {
    const NativeInts v = m.part[i] & weights;
    all |= (unsigned)(v[0] | v[1] | v[2] | v[3]) << 4 * i;
  }
  return all;
#endif
}
PEEL_INLINE bool any(Mask m) { return bits(m) != 0; }
PEEL_INLINE Floats keep(Mask m, Floats a) {
  PEEL_EACH a.part[i] = (NativeFloats)(m.part[i] & (NativeInts)a.part[i]);
  return a;
}
PEEL_INLINE Floats select(Mask m, Floats a, Floats b) {
  PEEL_EACH a.part[i] = (NativeFloats)((m.part[i] & (NativeInts)a.part[i]) |
                                       (~m.part[i] & (NativeInts)b.part[i]));
  return a;
}
PEEL_INLINE Ints select(Mask m, Ints a, Ints b) {
  PEEL_EACH a.part[i] = (m.part[i] & a.part[i]) | (~m.part[i] & b.part[i]);
  return a;
}
PEEL_INLINE Ints increment(Mask m, Ints a) {
  PEEL_EACH a.part[i] -= m.part[i];
  return a;
}

#endif

typedef float Floats4 __attribute__((vector_size(16)));
typedef float Floats8 __attribute__((vector_size(32)));

// Rows become columns.
PEEL_INLINE void transpose(Floats8 r[8]) {
  Floats8 a[8], b[8];
  PEEL_UNROLL for (int i = 0; i < 4; ++i) {
    a[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    a[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  PEEL_UNROLL for (int k = 0; k < 4; ++k) {
    const int i = k / 2, j = k % 2;
    const Floats8 low = a[4 * i + j], high = a[4 * i + 2 + j];
    b[4 * i + j] = __builtin_shufflevector(low, high, 0, 1, 8, 9, 4, 5, 12, 13);
    b[4 * i + 2 + j] = __builtin_shufflevector(low, high, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  PEEL_UNROLL for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(b[i], b[4 + i], 0, 1, 2, 3, 8, 9, 10, 11);
    r[4 + i] = __builtin_shufflevector(b[i], b[4 + i], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Sums of the lanes of eight vectors, always added in the same order (a tree: lanes 8 apart, 4, 2,
// 1), so that every instruction set gives the same bits.
PEEL_INLINE Floats8 sum_lanes(const Floats v[8]) {
  Floats8 r[8];
  PEEL_UNROLL for (int i = 0; i < 8; ++i) {
    Floats8 half[2];
    memcpy(half, v + i, sizeof half);
    r[i] = half[0] + half[1];
  }
  transpose(r);
  return ((r[0] + r[4]) + (r[2] + r[6])) + ((r[1] + r[5]) + (r[3] + r[7]));
}

// stream: past the caches, for pictures that would only push everything else out of them; the
// address must then be a multiple of 16.
PEEL_INLINE void store4(float* out, Floats4 v, bool stream) {
#if defined(__SSE2__)
  if (stream) {
    _mm_stream_ps(out, (__m128)v);
    return;
  }
#else
  (void)stream;
#endif
  memcpy(out, &v, sizeof v);
}

// Writes four planes of four pixels interleaved, 16 floats.
PEEL_INLINE void store_pixels(float* out, Floats4 r, Floats4 g, Floats4 b, Floats4 a,
                              bool stream) {
  const Floats4 rg0 = __builtin_shufflevector(r, g, 0, 4, 1, 5);
  const Floats4 rg1 = __builtin_shufflevector(r, g, 2, 6, 3, 7);
  const Floats4 ba0 = __builtin_shufflevector(b, a, 0, 4, 1, 5);
  const Floats4 ba1 = __builtin_shufflevector(b, a, 2, 6, 3, 7);
  store4(out, __builtin_shufflevector(rg0, ba0, 0, 1, 4, 5), stream);
  store4(out + 4, __builtin_shufflevector(rg0, ba0, 2, 3, 6, 7), stream);
  store4(out + 8, __builtin_shufflevector(rg1, ba1, 0, 1, 4, 5), stream);
  store4(out + 12, __builtin_shufflevector(rg1, ba1, 2, 3, 6, 7), stream);
}

// Streamed stores become visible to other threads.
static inline void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace PEEL_ISA
}  // namespace peel
