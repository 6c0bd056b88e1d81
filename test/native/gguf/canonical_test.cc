// Blocks as canonical codes: the values of decoded blocks, and back the same bytes.
#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "gguf/canonical.h"

namespace {

using tsq::gguf::BlockGrid;
using tsq::gguf::CanonicalCodes;
using tsq::gguf::Matrix;
using tsq::gguf::Type;

struct Case {
  Type type;
  int bits;
  const float* book;
};

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kE2M1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

constexpr Case kCases[] = {
    {Type::kQ4_0, 4, nullptr}, {Type::kQ4_1, 4, nullptr}, {Type::kQ5_0, 5, nullptr},  {Type::kQ5_1, 5, nullptr},
    {Type::kQ8_0, 8, nullptr}, {Type::kQ2_K, 2, nullptr}, {Type::kQ3_K, 3, nullptr},  {Type::kQ4_K, 4, nullptr},
    {Type::kQ5_K, 5, nullptr}, {Type::kQ6_K, 6, nullptr}, {Type::kTQ2_0, 2, nullptr}, {Type::kIQ4_NL, 4, kIq4},
    {Type::kIQ4_XS, 4, kIq4},  {Type::kMXFP4, 4, kE2M1},  {Type::kQ8_K, 8, nullptr},  {Type::kTQ1_0, 2, nullptr},
};
bool writable(Type type) {
  return type != Type::kQ8_K && type != Type::kTQ1_0;
}

struct Canonical {
  std::vector<uint8_t> codes;
  std::vector<float> scales, offsets;
  CanonicalCodes source(int bits, int64_t group) const {
    return {codes.data(), scales.data(), nullptr, offsets.empty() ? nullptr : offsets.data(), bits, group};
  }
};

std::vector<uint8_t> blocksOf(const Matrix& matrix, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.01f, 0.05f);
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.k));
  for (float& value : values) value = normal(engine);
  // Groups of zeros have scales of zero.
  std::fill(values.begin(), values.begin() + 300, 0.f);
  std::vector<uint8_t> blocks(static_cast<size_t>(matrix.rows * tsq::gguf::rowBytes(matrix.type, matrix.k).value()));
  CHECK(tsq::gguf::encode(matrix, values.data(), nullptr, blocks.data(), {}).ok());
  return blocks;
}

}  // namespace

TEST(gguf_codes_have_the_values_of_decoded_blocks_and_give_them_back) {
  const int64_t n = 7, k = 512;
  std::vector<int32_t> reversed(n);
  for (int64_t i = 0; i < n; ++i) reversed[static_cast<size_t>(i)] = static_cast<int32_t>(n - 1 - i);
  for (const Case& each : kCases) {
    const Matrix matrix{each.type, n, k};
    const std::vector<uint8_t> blocks = blocksOf(matrix, static_cast<unsigned>(each.type));
    std::vector<float> values(n * k);
    CHECK(tsq::gguf::decode(matrix, blocks.data(), values.data()).ok());
    const BlockGrid grid = tsq::gguf::blockGridOf(each.type);
    const auto groups = static_cast<size_t>(n * k / grid.group);
    for (const std::vector<int32_t>& from : {std::vector<int32_t>(), reversed}) {
      Canonical c{std::vector<uint8_t>(n * k), std::vector<float>(groups),
                  std::vector<float>(grid.hasOffsets ? groups : 0)};
      CHECK(tsq::gguf::readCodes(matrix, blocks.data(), from,
                                 {c.codes.data(), c.scales.data(), grid.hasOffsets ? c.offsets.data() : nullptr})
                .ok());
      int wrong = 0;
      for (int64_t row = 0; row < n; ++row)
        for (int64_t i = 0; i < k; ++i) {
          const auto at = static_cast<size_t>(row * k + i);
          const auto group = at / static_cast<size_t>(grid.group);
          const float number = each.book != nullptr
                                   ? each.book[c.codes[at]]
                                   : static_cast<float>(c.codes[at] - (grid.hasOffsets ? 0 : 1 << (each.bits - 1)));
          const float value = c.scales[group] * number + (grid.hasOffsets ? c.offsets[group] : 0);
          const int64_t source = from.empty() ? row : from[static_cast<size_t>(row)];
          wrong += value != values[static_cast<size_t>(source * k + i)];
        }
      CHECK_MSG(wrong == 0, "type " + std::to_string(static_cast<int>(each.type)) + ": " + std::to_string(wrong));
      if (!writable(each.type)) continue;
      std::vector<uint8_t> again(blocks.size());
      const tsq::Status status = tsq::gguf::writeCodes(matrix, c.source(each.bits, grid.group), from, again.data());
      CHECK_MSG(status.ok(), status.message());
      // K types have several ways to say the same: then the codes are the same.
      Canonical back = c;
      CHECK(
          tsq::gguf::readCodes(matrix, again.data(), from,
                               {back.codes.data(), back.scales.data(), grid.hasOffsets ? back.offsets.data() : nullptr})
              .ok());
      CHECK(back.codes == c.codes);
      CHECK(std::memcmp(back.scales.data(), c.scales.data(), groups * 4) == 0);
      CHECK(c.offsets.empty() || std::memcmp(back.offsets.data(), c.offsets.data(), c.offsets.size() * 4) == 0);
      const bool small = k / (tsq::gguf::rowBytes(each.type, k).value()) >= 0 && grid.group == 32 &&
                         each.type != Type::kQ4_K && each.type != Type::kQ5_K && each.type != Type::kIQ4_XS;
      if (small) CHECK(again == blocks);
    }
  }
}

TEST(gguf_codes_of_other_widths_and_zero_points_keep_their_values) {
  const int64_t n = 3, k = 256, group = 64;
  std::mt19937 engine(5);
  Canonical c{std::vector<uint8_t>(n * k), std::vector<float>(n * k / group), {}};
  std::vector<uint8_t> zeros(c.scales.size());
  for (float& scale : c.scales) scale = static_cast<float>(1 + engine() % 100) * 0x1p-12f;
  for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(engine() % 16);
  for (uint8_t& code : c.codes) code = static_cast<uint8_t>(engine() % 16);
  CanonicalCodes source = c.source(4, group);
  source.zeros = zeros.data();
  for (const Type type : {Type::kQ4_1, Type::kQ5_0, Type::kQ8_0, Type::kQ5_1}) {
    const Matrix matrix{type, n, k};
    std::vector<uint8_t> blocks(static_cast<size_t>(n * tsq::gguf::rowBytes(type, k).value()));
    const tsq::Status status = tsq::gguf::writeCodes(matrix, source, {}, blocks.data());
    CHECK_MSG(status.ok(), status.message());
    std::vector<float> values(n * k);
    CHECK(tsq::gguf::decode(matrix, blocks.data(), values.data()).ok());
    int wrong = 0;
    for (size_t i = 0; i < values.size(); ++i)
      wrong += values[i] != c.scales[i / group] * static_cast<float>(c.codes[i] - zeros[i / group]);
    CHECK(wrong == 0);
  }
  CHECK(tsq::gguf::writeCodes({Type::kQ4_0, n, k}, source, {}, nullptr).code() == tsq::Code::kUnsupported);
  c.scales[5] = 0.1f;
  CHECK(tsq::gguf::writeCodes({Type::kQ8_0, n, k}, source, {}, nullptr).message() ==
        "scales or offsets that are no 16-bit floats from row 1, column 64 on");
}

TEST(gguf_code_conversions_refuse_what_does_not_fit) {
  std::vector<uint8_t> codes(64 * 2, 3);
  std::vector<float> scales(4, 1.f);
  CanonicalCodes source{codes.data(), scales.data(), nullptr, nullptr, 4, 32};
  const auto code = [&](Type type, int64_t k, const std::vector<int32_t>& from = {}) {
    return tsq::gguf::writeCodes({type, 2, k}, source, from, nullptr).code();
  };
  CHECK(code(Type::kQ4_0, 64) == tsq::Code::kOk);
  CHECK(code(Type::kF16, 64) == tsq::Code::kUnsupported);
  CHECK(code(Type::kQ8_K, 64) == tsq::Code::kUnsupported);
  CHECK(code(Type::kQ6_K, 64) == tsq::Code::kUnsupported);
  CHECK(code(Type::kQ4_0, 64, {0}) == tsq::Code::kShape);
  CHECK(code(Type::kQ4_0, 64, {0, 2}) == tsq::Code::kFormat);
  source.groupSize = 48;
  CHECK(code(Type::kQ4_0, 64) == tsq::Code::kUnsupported);
  source.groupSize = 32;
  source.offsets = scales.data();
  CHECK(code(Type::kQ4_0, 64) == tsq::Code::kUnsupported);
  CHECK(code(Type::kQ4_1, 64) == tsq::Code::kOk);
  std::vector<uint8_t> block(17, 255), out(32);
  float scale;
  CHECK(tsq::gguf::readCodes({Type::kMXFP4, 1, 32}, block.data(), {}, {out.data(), &scale, nullptr}).code() ==
        tsq::Code::kNumeric);
}
