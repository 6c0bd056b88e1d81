#include "layout/planes.h"

#include <random>
#include <vector>

#include "check.h"
#include "layout/bits.h"

namespace {

// A plane at a time, a code at a time, as GPTQModel's planar_packing.py describes them.
std::vector<int32_t> packSlowly(const std::vector<uint8_t>& codes, int bits) {
  std::vector<uint32_t> words(codes.size() / 32 * static_cast<size_t>(bits));
  for (size_t i = 0; i < codes.size(); ++i)
    for (int offset = 0; offset < bits; offset += tsq::layout::planeWidth(bits, offset)) {
      const int width = tsq::layout::planeWidth(bits, offset), each = 32 / width, at = static_cast<int>(i % 32);
      const uint32_t part = codes[i] >> offset & ((1u << width) - 1);
      words[i / 32 * static_cast<size_t>(bits) + static_cast<size_t>(offset + at / each)] |= part
                                                                                             << (at % each * width);
    }
  return {words.begin(), words.end()};
}

}  // namespace

TEST(planes_every_width) {
  std::mt19937 random(3);
  for (int bits = 2; bits <= 8; ++bits) {
    constexpr int64_t kRows = 300, kCols = 288;
    std::vector<uint8_t> codes(kRows * kCols);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
    std::vector<int32_t> words(codes.size() / 32 * static_cast<size_t>(bits), -1);
    CHECK(tsq::layout::packPlanes(codes.data(), kRows, kCols, bits, words.data()).ok());
    CHECK(words == packSlowly(codes, bits));
    std::vector<uint8_t> back(codes.size(), 255);
    tsq::layout::unpackPlanes(words.data(), kRows, kCols, bits, back.data());
    CHECK(back == codes);
    // One plane is the plain stream.
    std::vector<int32_t> plain(words.size());
    CHECK(tsq::layout::packBits(codes.data(), {kRows, kCols, bits, false, 0}, plain.data()).ok());
    CHECK((plain == words) == (bits == 2 || bits == 4 || bits == 8));
    codes[12345] = static_cast<uint8_t>(1 << bits);
    CHECK(tsq::layout::packPlanes(codes.data(), kRows, kCols, bits, words.data()).ok() == (bits == 8));
  }
}
