// SPDX-License-Identifier: GPL-3.0-or-later
// Memory that only grows and is not initialised.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace peel {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(memory_); }

  // At least `count` elements, aligned to 64 bytes; what they held before is lost.
  T* reserve(size_t count) {
    if (count > capacity_) {
      const size_t wanted = count + count / 4;  // avoids a new block for every frame of a clip
      if (wanted > (static_cast<size_t>(-1) - 64) / sizeof(T)) throw std::bad_alloc();
      std::free(memory_);
      capacity_ = 0;
      memory_ = std::malloc(wanted * sizeof(T) + 64);
      if (memory_ == nullptr) throw std::bad_alloc();
      capacity_ = wanted;
    }
    const auto address = reinterpret_cast<size_t>(memory_);
    data_ = reinterpret_cast<T*>((address + 63) & ~static_cast<size_t>(63));
    return data_;
  }

  T* data() const { return data_; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  void* memory_ = nullptr;
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace peel
