// SPDX-License-Identifier: GPL-3.0-or-later
// Adaptive binary range coding: integers only, so every machine writes and reads the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace peel {

// Weight of the newest bit when n came before it, as 16-bit fractions.
constexpr int kMemory = 200;
struct Weights {
  uint32_t of[kMemory + 1];
  constexpr Weights() : of{} {
    for (int n = 0; n <= kMemory; ++n) of[n] = 2 * 65536 / (2 * n + 3);
  }
};
inline constexpr Weights kWeights{};

// The probability that a bit is zero, learned while coding: the share so far at first, later a mean
// over the last kMemory bits or so.
class Probability {
 public:
  uint32_t zero() const { return zero_; }

  void learn(bool bit) {
    const uint32_t weight = kWeights.of[count_];
    if (bit) {
      zero_ = static_cast<uint16_t>(zero_ - ((zero_ * weight) >> 16));
    } else {
      zero_ = static_cast<uint16_t>(zero_ + (((65536u - zero_) * weight) >> 16));
    }
    // Neither value may become impossible.
    if (zero_ < kLeast) zero_ = kLeast;
    if (zero_ > 65536 - kLeast) zero_ = 65536 - kLeast;
    if (count_ < kMemory) ++count_;
  }

 private:
  static constexpr uint32_t kLeast = 48;
  uint16_t zero_ = 32768;
  uint8_t count_ = 0;
};

class RangeEncoder {
 public:
  void bit(Probability& probability, bool value) {
    split((range_ >> 16) * probability.zero(), value);
    probability.learn(value);
  }

  // The lowest `count` bits of `value`, the highest first, equally probable.
  void raw(uint64_t value, int count) {
    while (count-- > 0) split(range_ >> 1, (value >> count) & 1);
  }

  // Ends the stream. A decoder reads exactly these bytes.
  std::vector<uint8_t> finish() {
    for (int i = 0; i < 5; ++i) shift();
    bytes_.erase(bytes_.begin());  // zero: what is coded stays below one
    return std::move(bytes_);
  }

 private:
  void split(uint32_t bound, bool value) {
    if (value) {
      low_ += bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    while (range_ < (1u << 24)) {
      range_ <<= 8;
      shift();
    }
  }

  // Moves the highest byte out; bytes of 255 wait, because a carry may still change them.
  void shift() {
    if (low_ < 0xff000000ull || low_ >> 32) {
      const auto carry = static_cast<uint8_t>(low_ >> 32);
      bytes_.push_back(static_cast<uint8_t>(cache_ + carry));
      for (; waiting_ > 0; --waiting_) bytes_.push_back(static_cast<uint8_t>(0xff + carry));
      cache_ = static_cast<uint8_t>(low_ >> 24);
    } else {
      ++waiting_;
    }
    low_ = (low_ & 0x00ffffffull) << 8;
  }

  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  uint8_t cache_ = 0;
  int64_t waiting_ = 0;
  std::vector<uint8_t> bytes_;
};

class RangeDecoder {
 public:
  RangeDecoder(const uint8_t* data, size_t size) : data_(data), end_(data + size) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
  }

  bool bit(Probability& probability) {
    const bool value = split((range_ >> 16) * probability.zero());
    probability.learn(value);
    return value;
  }

  uint64_t raw(int count) {
    uint64_t value = 0;
    while (count-- > 0) value = value << 1 | split(range_ >> 1);
    return value;
  }

  // Whether all has been read; a damaged stream may ask for bits for ever.
  bool at_end() const { return data_ == end_; }
  bool beyond_end() const { return beyond_; }

 private:
  bool split(uint32_t bound) {
    const bool value = code_ >= bound;
    if (value) {
      code_ -= bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    while (range_ < (1u << 24)) {
      range_ <<= 8;
      code_ = code_ << 8 | next();
    }
    return value;
  }

  uint8_t next() {
    if (data_ != end_) return *data_++;
    beyond_ = true;
    return 0;
  }

  const uint8_t* data_;
  const uint8_t* end_;
  uint32_t code_ = 0;
  uint32_t range_ = 0xffffffffu;
  bool beyond_ = false;
};

}  // namespace peel
