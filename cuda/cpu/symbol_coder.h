// SPDX-License-Identifier: GPL-3.0-or-later
// Symbols of small alphabets in as many bits as integer frequency tables say: static-table rANS
// (Duda 2013, asymmetric numeral systems). Integers only, the same on every machine.
#pragma once

#include <cstdint>
#include <vector>

namespace peel {

constexpr int kMostTableBits = 16;
constexpr int32_t kMostSymbols = 1 << kMostTableBits;  // of one table
constexpr int32_t kMostTables = 1 << 16;
constexpr int64_t kMostTableEntries = int64_t{1} << 22;  // of all tables together

// How often the symbols 0, 1, ... of every table come in 2^bits: tables one after the other.
class SymbolTables {
 public:
  // False where sizes or frequencies are not those of tables; each must sum to 2^bits.
  bool set(const uint32_t* frequencies, const int32_t* sizes, int32_t count, int bits);

  // table_of: (count) table of every symbol; null for the first. False for a symbol that its table
  // does not have.
  bool encode(const int32_t* symbols, const int32_t* table_of, int64_t count,
              std::vector<uint8_t>* bytes) const;
  // False for a stream that `encode` has not written; the symbols are then anything, but of their
  // tables.
  bool decode(const uint8_t* data, int64_t bytes, const int32_t* table_of, int64_t count,
              int32_t* symbols) const;

 private:
  static constexpr int kBucketBits = 8;
  struct Entry {
    uint32_t first, frequency;  // slots of a symbol
  };
  bool valid(const int32_t* table_of, int64_t count) const;

  int bits_ = 0;
  std::vector<Entry> entries_;
  std::vector<int64_t> begin_;     // of every table in entries_, and the end
  std::vector<uint16_t> buckets_;  // first symbol of every 2^-8 of a table
};

}  // namespace peel
