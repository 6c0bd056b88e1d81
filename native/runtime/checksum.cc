#include "runtime/checksum.h"

#include <bit>
#include <cstring>

namespace tsq {

namespace {

constexpr uint64_t kFactor = 0x9E3779B97F4A7C15u;
constexpr size_t kStripe = 64;

inline uint64_t mix(uint64_t state, uint64_t word) {
  return std::rotl((state ^ word) * kFactor, 29);
}

}  // namespace

Checksum::Checksum() {
  for (int i = 0; i < kLanes; ++i) lanes_[i] = static_cast<uint64_t>(i + 1) * kFactor;
}

void Checksum::add(const void* data, size_t bytes) {
  const uint8_t* at = static_cast<const uint8_t*>(data);
  // Locals, so that the lanes stay in registers whatever `data` points to.
  uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];
  uint64_t e = lanes_[4], f = lanes_[5], g = lanes_[6], h = lanes_[7];
  const auto stripe = [&](const uint8_t* from) {
    uint64_t words[kLanes];
    std::memcpy(words, from, kStripe);
    a = mix(a, words[0]);
    b = mix(b, words[1]);
    c = mix(c, words[2]);
    d = mix(d, words[3]);
    e = mix(e, words[4]);
    f = mix(f, words[5]);
    g = mix(g, words[6]);
    h = mix(h, words[7]);
  };
  size_t left = bytes;
  for (; left >= kStripe; left -= kStripe, at += kStripe) stripe(at);
  if (left > 0) {
    uint8_t last[kStripe] = {};
    std::memcpy(last, at, left);
    stripe(last);
  }
  const uint64_t lanes[kLanes] = {a, b, c, d, e, f, g, h};
  std::memcpy(lanes_, lanes, sizeof lanes);
  bytes_ += bytes;
}

uint64_t Checksum::value() const {
  uint64_t value = bytes_;
  for (const uint64_t lane : lanes_) value = mix(value, lane);
  value ^= value >> 32;
  value *= kFactor;
  return value ^ value >> 29;
}

}  // namespace tsq
