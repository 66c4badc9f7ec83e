// SPDX-License-Identifier: GPL-3.0-or-later
// Memory that only grows and is not initialised.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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
      const size_t bytes = wanted * sizeof(T);
      // The points of a frame are read in no order: with small pages every read misses the TLB, too.
      const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
      memory_ = std::malloc(bytes + alignment);
      if (memory_ == nullptr) throw std::bad_alloc();
      const auto address = reinterpret_cast<size_t>(memory_);
      data_ = reinterpret_cast<T*>((address + alignment - 1) & ~(alignment - 1));
#if defined(__linux__)
      if (bytes >= kHugePage) madvise(data_, bytes & ~(kHugePage - 1), MADV_HUGEPAGE);
#endif
      capacity_ = wanted;
    }
    return data_;
  }

  T* data() const { return data_; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;

  void* memory_ = nullptr;
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace peel
