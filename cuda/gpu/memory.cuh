// SPDX-License-Identifier: GPL-3.0-or-later
// Splats and records in device memory: words of 16 bytes, so that every access is a full one.
#pragma once

#include "arguments.h"

namespace peel {

constexpr int kSplatWords = 3;
static_assert(sizeof(Splat) == 16 * kSplatWords, "a splat fills its words");

__device__ __forceinline__ uint32_t pack_pair(int16_t low, int16_t high) {
  return (uint32_t)(uint16_t)low | (uint32_t)(uint16_t)high << 16;
}
__device__ __forceinline__ int16_t low_of(uint32_t pair) { return (int16_t)(pair & 0xffffu); }
__device__ __forceinline__ int16_t high_of(uint32_t pair) { return (int16_t)(pair >> 16); }

// Word 0: offsets and inverse semi-axes; 1: weight, z, red, green; 2: blue, box, index.
__device__ __forceinline__ void store_splat(uint4* splats, uint32_t slot, const Splat& s) {
  uint4* words = splats + (uint64_t)slot * kSplatWords;
  words[0] = make_uint4(bits_of(s.offset_x), bits_of(s.offset_y), bits_of(s.inverse_a),
                        bits_of(s.inverse_b));
  words[1] = make_uint4(bits_of(s.weight), bits_of(s.z), bits_of(s.rgb[0]), bits_of(s.rgb[1]));
  words[2] = make_uint4(bits_of(s.rgb[2]), pack_pair(s.box.x0, s.box.x1),
                        pack_pair(s.box.y0, s.box.y1), s.index);
}

__device__ __forceinline__ Box load_box(const uint4* splats, uint32_t slot) {
  const uint4 word = splats[(uint64_t)slot * kSplatWords + 2];
  return {low_of(word.y), high_of(word.y), low_of(word.z), high_of(word.z)};
}

__device__ __forceinline__ Splat load_splat(const uint4* splats, uint32_t slot) {
  const uint4* words = splats + (uint64_t)slot * kSplatWords;
  const uint4 a = words[0], b = words[1], c = words[2];
  Splat s;
  s.offset_x = float_of(a.x);
  s.offset_y = float_of(a.y);
  s.inverse_a = float_of(a.z);
  s.inverse_b = float_of(a.w);
  s.weight = float_of(b.x);
  s.z = float_of(b.y);
  s.rgb[0] = float_of(b.z);
  s.rgb[1] = float_of(b.w);
  s.rgb[2] = float_of(c.x);
  s.box = {low_of(c.y), high_of(c.y), low_of(c.z), high_of(c.z)};
  s.index = c.w;
  return s;
}

// What binning needs to know of a point or triangle; x0 > x1: it is not drawn.
struct Record {
  uint32_t key;             // sortable depth
  uint32_t x0, x1, y0, y1;  // tiles, inclusive
};

__device__ __forceinline__ Record no_record() { return {0, 1, 0, 1, 0}; }

__device__ __forceinline__ Record record_of(const Box& box, uint32_t key) {
  return {key, (uint32_t)box.x0 / kTile, (uint32_t)box.x1 / kTile, (uint32_t)box.y0 / kTile,
          (uint32_t)box.y1 / kTile};
}

__device__ __forceinline__ uint4 pack(const Record& r) {
  return make_uint4(r.key, r.x0 | r.x1 << 16, r.y0 | r.y1 << 16, 0);
}

__device__ __forceinline__ Record unpack(const uint4& word) {
  return {word.x, word.y & 0xffffu, word.y >> 16, word.z & 0xffffu, word.z >> 16};
}

}  // namespace peel
