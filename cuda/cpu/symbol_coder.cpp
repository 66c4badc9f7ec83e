// SPDX-License-Identifier: GPL-3.0-or-later
#include "symbol_coder.h"

#include <algorithm>

namespace peel {
namespace {

// The state lies in [kLow, kLow * 2^8) between symbols; what does not fit goes out byte by byte.
constexpr uint32_t kLow = 1u << 23;

}  // namespace

bool SymbolTables::set(const uint32_t* frequencies, const int32_t* sizes, int32_t count,
                       int bits) {
  if (count < 1 || count > kMostTables || bits < 1 || bits > kMostTableBits) return false;
  int64_t total = 0;
  for (int32_t t = 0; t < count; ++t) {
    if (sizes[t] < 1 || sizes[t] > kMostSymbols) return false;
    total += sizes[t];
  }
  if (total > kMostTableEntries) return false;
  bits_ = bits;
  entries_.clear();
  entries_.reserve(static_cast<size_t>(total));
  begin_.assign(1, 0);
  buckets_.assign(static_cast<size_t>(count) << kBucketBits, 0);
  const uint32_t whole = 1u << bits;
  const int shift = std::max(bits - kBucketBits, 0);
  for (int32_t t = 0; t < count; ++t) {
    uint32_t sum = 0;
    uint16_t* const buckets = &buckets_[static_cast<size_t>(t) << kBucketBits];
    uint32_t bucket = 0;
    for (int32_t s = 0; s < sizes[t]; ++s) {
      const uint32_t frequency = *frequencies++;
      if (frequency > whole - sum) return false;
      entries_.push_back({sum, frequency});
      sum += frequency;
      for (; bucket < (1u << kBucketBits) && bucket << shift < sum; ++bucket) {
        buckets[bucket] = static_cast<uint16_t>(s);
      }
    }
    if (sum != whole) return false;
    begin_.push_back(static_cast<int64_t>(entries_.size()));
  }
  return true;
}

bool SymbolTables::valid(const int32_t* table_of, int64_t count) const {
  const auto tables = static_cast<int32_t>(begin_.size()) - 1;
  if (table_of == nullptr) return true;
  return std::all_of(table_of, table_of + count,
                     [tables](int32_t table) { return table >= 0 && table < tables; });
}

bool SymbolTables::encode(const int32_t* symbols, const int32_t* table_of, int64_t count,
                          std::vector<uint8_t>* bytes) const {
  if (!valid(table_of, count)) return false;
  bytes->clear();
  uint32_t state = kLow;
  for (int64_t i = count - 1; i >= 0; --i) {  // the decoder gets them the other way round
    const int32_t table = table_of == nullptr ? 0 : table_of[i];
    const int64_t size = begin_[table + 1] - begin_[table];
    if (symbols[i] < 0 || symbols[i] >= size) return false;
    const Entry entry = entries_[begin_[table] + symbols[i]];
    if (entry.frequency == 0) return false;
    const uint64_t most = (static_cast<uint64_t>(kLow >> bits_) << 8) * entry.frequency;
    for (; state >= most; state >>= 8) bytes->push_back(static_cast<uint8_t>(state));
    state = ((state / entry.frequency) << bits_) + state % entry.frequency + entry.first;
  }
  for (int i = 0; i < 4; ++i, state >>= 8) bytes->push_back(static_cast<uint8_t>(state));
  std::reverse(bytes->begin(), bytes->end());
  return true;
}

bool SymbolTables::decode(const uint8_t* data, int64_t bytes, const int32_t* table_of,
                          int64_t count, int32_t* symbols) const {
  if (bytes < 4 || !valid(table_of, count)) return false;
  const uint8_t* const end = data + bytes;
  uint32_t state = 0;
  for (int i = 0; i < 4; ++i) state = state << 8 | *data++;
  if (state < kLow || state >= kLow << 8) return false;
  const uint32_t mask = (1u << bits_) - 1;
  const int shift = std::max(bits_ - kBucketBits, 0);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t table = table_of == nullptr ? 0 : table_of[i];
    const Entry* const entries = &entries_[begin_[table]];
    const uint32_t slot = state & mask;
    uint32_t symbol = buckets_[(static_cast<size_t>(table) << kBucketBits) + (slot >> shift)];
    while (slot - entries[symbol].first >= entries[symbol].frequency) ++symbol;
    symbols[i] = static_cast<int32_t>(symbol);
    state = entries[symbol].frequency * (state >> bits_) + slot - entries[symbol].first;
    while (state < kLow) {
      if (data == end) return false;
      state = state << 8 | *data++;
    }
  }
  // The encoder began with this state, and every byte is its own.
  return data == end && state == kLow;
}

}  // namespace peel
