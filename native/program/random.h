// Random numbers as a function of counters: no state to carry, the same for any order of evaluation.
#pragma once
#include <cstdint>

namespace tsq {

// Finalizer of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// 64 random bits of (seed, counter): SplitMix64's stream `counter` steps after a start chosen by the seed.
inline uint64_t randomBits(uint64_t seed, uint64_t counter) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;
  return mix64(mix64(seed + kGolden) + (counter + 1) * kGolden);
}

// Uniform in [0, 1), 53 bits.
inline double randomUnit(uint64_t seed, uint64_t counter) {
  return static_cast<double>(randomBits(seed, counter) >> 11) * 0x1.0p-53;
}

}  // namespace tsq
