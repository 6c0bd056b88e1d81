#include "layout/stored_codes.h"

#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "stored.h"

using tsq::layout::CodeLayout;

TEST(stored_codes_of_every_layout_and_width) {
  std::mt19937 random(6);
  for (int bits = 2; bits <= 8; ++bits)
    for (int64_t n : {1, 8, 24, 37})
      for (int64_t k : {1, 7, 32, 65, 512, 1031}) {
        std::vector<uint8_t> codes(static_cast<size_t>(n * k));
        for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
        for (CodeLayout layout : stored::kLayouts) {
          if (!stored::holds(layout, bits, n)) continue;
          const std::vector<uint8_t> bytes = stored::store(codes, layout, n, k, bits);
          const tsq::layout::StoredCodes source{bytes.data() + 1, layout, n, k, bits};
          std::vector<uint8_t> all(codes.size());
          CHECK(tsq::layout::unpackCodes(source, all.data()).ok());
          CHECK(all == codes);
          // Rows from anywhere, also from within a word of AWQ's.
          const int64_t first = n / 3, rows = (n - first + 1) / 2;
          std::vector<uint8_t> some(static_cast<size_t>(rows * k));
          tsq::layout::unpackRows(source, first, rows, some.data());
          CHECK(some == std::vector<uint8_t>(codes.begin() + first * k, codes.begin() + (first + rows) * k));
        }
      }
}

TEST(stored_codes_refuses_layouts_that_do_not_exist) {
  uint8_t code = 0;
  CHECK(!tsq::layout::unpackCodes({&code, CodeLayout::kRows, 1, 1, 1}, &code).ok());
  CHECK(!tsq::layout::unpackCodes({&code, CodeLayout::kAwq, 8, 1, 3}, &code).ok());
  CHECK(!tsq::layout::unpackCodes({&code, CodeLayout::kAwq, 9, 1, 4}, &code).ok());
  CHECK(!tsq::layout::unpackCodes({&code, CodeLayout::kNibbles, 1, 1, 8}, &code).ok());
  CHECK(!tsq::layout::unpackCodes({&code, CodeLayout::kNibblesHigh, 1, 1, 3}, &code).ok());
}

TEST(stored_codes_refuses_signed_bytes_that_are_none) {
  std::vector<uint8_t> bytes(40 * 3, 0xf8), codes(bytes.size());  // -8
  const tsq::layout::StoredCodes stored{bytes.data(), CodeLayout::kSigned, 40, 3, 4};
  CHECK(tsq::layout::unpackCodes(stored, codes.data()).ok());
  CHECK(codes == std::vector<uint8_t>(bytes.size(), 0));
  for (const int wrong : {8, -9, 127, -128}) {
    bytes[37 * 3 + 2] = static_cast<uint8_t>(wrong);
    const tsq::Status status = tsq::layout::unpackCodes(stored, codes.data());
    CHECK(status.code() == tsq::Code::kFormat);
    CHECK_MSG(status.message() == "code at [37, 2] is " + std::to_string(wrong) + ", expected -8 to 7 for 4-bit codes",
              status.message());
  }
}
