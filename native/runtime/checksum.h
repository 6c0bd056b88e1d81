// A checksum that finds damage in stored data at memory speed. It is no defence against forgery.
//
// Data is taken in stripes of 64 bytes, eight little-endian 64-bit words w_0 … w_7; the last stripe is padded with zero
// bytes. With all arithmetic modulo 2^64, K = 0x9E3779B97F4A7C15 and rotl a rotation to the left:
//
//   lanes begin as    a_i = (i + 1) K                             i = 0 … 7
//   every stripe      a_i = rotl((a_i ^ w_i) K, 29)
//   the value         h = bytes; h = rotl((h ^ a_i) K, 29) for i = 0 … 7; h ^= h >> 32; h *= K; h ^= h >> 29
//
// Every step can be undone, so data that differ in one word never have the same checksum. The eight lanes do not wait
// for each other: one multiplication a cycle, eight bytes, on any 64-bit processor. Files depend on this definition.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tsq {

class Checksum {
 public:
  Checksum();
  // Every call but the last takes a multiple of 64 bytes.
  void add(const void* data, size_t bytes);
  uint64_t value() const;

 private:
  static constexpr int kLanes = 8;
  uint64_t lanes_[kLanes];
  uint64_t bytes_ = 0;
};

inline uint64_t checksum(const void* data, size_t bytes) {
  Checksum sum;
  sum.add(data, bytes);
  return sum.value();
}

}  // namespace tsq
