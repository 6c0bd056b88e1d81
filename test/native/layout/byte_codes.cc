#include "layout/byte_codes.h"

#include <random>
#include <string>
#include <vector>

#include "check.h"

using namespace tsq::layout;  // NOLINT: what is tested

namespace {

std::vector<uint8_t> randomCodes(int64_t count, int bits) {
  std::mt19937 random(static_cast<uint32_t>(count * 8 + bits));
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  return codes;
}

}  // namespace

TEST(byte_codes_nibbles_of_any_part) {
  for (int64_t count : {0, 1, 2, 3, 31, 1000, 1 << 18, (1 << 18) + 1, 600001})
    for (bool highFirst : {false, true}) {
      const std::vector<uint8_t> codes = randomCodes(count, 4);
      std::vector<uint8_t> packed(static_cast<size_t>((count + 1) / 2 + 1), 0xa5);
      CHECK(packNibbles(codes.data(), count, highFirst, packed.data()).ok());
      CHECK(packed.back() == 0xa5);
      bool same = true;
      for (size_t i = 0; i + 1 < packed.size(); ++i) {
        const int even = codes[2 * i], odd = 2 * i + 1 < codes.size() ? codes[2 * i + 1] : 0;
        same = same && packed[i] == (highFirst ? even << 4 | odd : odd << 4 | even);
      }
      CHECK(same);
      for (int64_t first : {int64_t{0}, count / 3, count / 2, count}) {
        for (int64_t some : {count - first, (count - first) / 2}) {
          std::vector<uint8_t> back(static_cast<size_t>(some));
          unpackNibbles(packed.data(), first, some, highFirst, back.data());
          CHECK(back == std::vector<uint8_t>(codes.begin() + first, codes.begin() + first + some));
        }
      }
    }
}

TEST(byte_codes_signed_bytes) {
  for (int bits = 2; bits <= 8; ++bits)
    for (int64_t count : {1, 33, 300000}) {
      const std::vector<uint8_t> codes = randomCodes(count, bits);
      std::vector<uint8_t> bytes(codes.size()), back(codes.size());
      CHECK(toSigned(codes.data(), count, bits, bytes.data()).ok());
      bool same = true;
      for (size_t i = 0; i < codes.size(); ++i)
        same = same && static_cast<int8_t>(bytes[i]) == codes[i] - (1 << (bits - 1));
      CHECK(same);
      fromSigned(bytes.data(), count, bits, back.data());
      CHECK(back == codes);
    }
}

TEST(byte_codes_refuses_codes_that_are_too_large) {
  std::vector<uint8_t> codes(300000), out(codes.size());
  codes[280001] = 16;
  codes[290000] = 200;
  for (const tsq::Status& status :
       {packNibbles(codes.data(), 300000, true, out.data()), toSigned(codes.data(), 300000, 4, out.data())}) {
    CHECK(status.code() == tsq::Code::kFormat);
    CHECK_MSG(status.message() == "code 16 at element 280001 does not fit 4 bits", status.message());
  }
}
