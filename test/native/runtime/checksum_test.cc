#include "runtime/checksum.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"

namespace {

std::vector<uint8_t> bytes(size_t count, unsigned factor) {
  std::vector<uint8_t> data(count);
  for (size_t i = 0; i < count; ++i) data[i] = static_cast<uint8_t>(i * factor);
  return data;
}

uint64_t sumOf(const std::vector<uint8_t>& data) {
  return tsq::checksum(data.data(), data.size());
}

// The definition in checksum.h, word by word.
uint64_t defined(const std::vector<uint8_t>& data) {
  constexpr uint64_t factor = 0x9E3779B97F4A7C15u;
  const auto mix = [](uint64_t state, uint64_t word) {
    const uint64_t product = (state ^ word) * factor;
    return product << 29 | product >> 35;
  };
  uint64_t lanes[8];
  for (uint64_t i = 0; i < 8; ++i) lanes[i] = (i + 1) * factor;
  for (size_t at = 0; at < data.size(); at += 64) {
    uint64_t words[8] = {};
    std::memcpy(words, data.data() + at, std::min<size_t>(64, data.size() - at));
    for (int i = 0; i < 8; ++i) lanes[i] = mix(lanes[i], words[i]);
  }
  uint64_t value = data.size();
  for (const uint64_t lane : lanes) value = mix(value, lane);
  value ^= value >> 32;
  value *= factor;
  return value ^ value >> 29;
}

}  // namespace

// Computed apart from this code: files that exist depend on these values.
TEST(checksum_vectors) {
  CHECK(sumOf({}) == 0x5e9ef282af494659u);
  CHECK(sumOf({'a'}) == 0x25274ad6fcb53803u);
  CHECK(sumOf(bytes(64, 1)) == 0xa315be423c69ae70u);
  CHECK(sumOf(bytes(1000, 7)) == 0x303667dbcaffcc8bu);
}

TEST(checksum_follows_its_definition_at_every_length) {
  for (size_t length = 0; length < 300; ++length) {
    const std::vector<uint8_t> data = bytes(length, 37);
    CHECK_MSG(sumOf(data) == defined(data), std::to_string(length));
  }
}

TEST(checksum_of_pieces_is_that_of_the_whole) {
  const std::vector<uint8_t> data = bytes(5000, 13);
  for (const size_t first : {size_t{0}, size_t{64}, size_t{1024}, size_t{4992}}) {
    tsq::Checksum sum;
    sum.add(data.data(), first);
    sum.add(data.data() + first, data.size() - first);
    CHECK(sum.value() == sumOf(data));
  }
}

TEST(checksum_sees_every_bit_and_the_length) {
  std::vector<uint8_t> data = bytes(333, 11);
  const uint64_t whole = sumOf(data);
  for (size_t i = 0; i < data.size() * 8; ++i) {
    data[i / 8] ^= static_cast<uint8_t>(1 << i % 8);
    CHECK_MSG(sumOf(data) != whole, "bit " + std::to_string(i));
    data[i / 8] ^= static_cast<uint8_t>(1 << i % 8);
  }
  data.push_back(0);
  CHECK(sumOf(data) != whole);
}

// Multiplication alone would carry a change of the top bit on unchanged, and two of them would cancel.
TEST(checksum_sees_pairs_of_changes_in_one_lane) {
  std::vector<uint8_t> data = bytes(64 * 40, 5);
  const uint64_t whole = sumOf(data);
  for (size_t first = 7; first < data.size(); first += 64) {
    for (size_t second = first + 64; second < data.size(); second += 64) {
      data[first] ^= 0x80;
      data[second] ^= 0x80;
      CHECK(sumOf(data) != whole);
      data[first] ^= 0x80;
      data[second] ^= 0x80;
    }
  }
}

TEST(checksum_sees_exchanged_stripes) {
  std::vector<uint8_t> data = bytes(64 * 8, 3);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(data[i] + i / 64 * 17);
  const uint64_t whole = sumOf(data);
  std::swap_ranges(data.begin(), data.begin() + 64, data.begin() + 64 * 5);
  CHECK(sumOf(data) != whole);
}
