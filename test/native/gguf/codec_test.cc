// Codecs on bytes and numbers that nobody would choose, for the sanitizers above all: whatever they are, no code leaves
// its range.
#include "gguf/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "gguf/blocks.h"

namespace {

using tsq::gguf::Matrix;
using tsq::gguf::Type;

constexpr Type kTypes[] = {Type::kF32,    Type::kF16,    Type::kBF16,  Type::kQ4_0,  Type::kQ4_1,
                           Type::kQ5_0,   Type::kQ5_1,   Type::kQ8_0,  Type::kQ8_1,  Type::kQ2_K,
                           Type::kQ3_K,   Type::kQ4_K,   Type::kQ5_K,  Type::kQ6_K,  Type::kQ8_K,
                           Type::kIQ4_NL, Type::kIQ4_XS, Type::kTQ1_0, Type::kTQ2_0, Type::kMXFP4};

std::vector<uint8_t> blocksOf(const Matrix& matrix) {
  return std::vector<uint8_t>(static_cast<size_t>(matrix.rows * tsq::gguf::rowBytes(matrix.type, matrix.k).value()));
}

std::string typeText(Type type) {
  return "type " + std::to_string(static_cast<int>(type));
}

}  // namespace

TEST(gguf_any_bytes_are_decoded) {
  std::mt19937 random(1);
  for (const Type type : kTypes) {
    const Matrix matrix{type, 9, 512};
    std::vector<uint8_t> blocks = blocksOf(matrix);
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
    std::vector<float> out(9 * 512, 1e30f);
    // At an odd address: the rows after the first byte.
    std::vector<uint8_t> shifted(blocks.size() + 1);
    std::copy(blocks.begin(), blocks.end(), shifted.begin() + 1);
    CHECK(tsq::gguf::decode(matrix, shifted.data() + 1, out.data()).ok());
    std::vector<float> again(9 * 512);
    CHECK(tsq::gguf::decode(matrix, blocks.data(), again.data()).ok());
    CHECK_MSG(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)) == 0, typeText(type));
  }
}

TEST(gguf_any_finite_numbers_are_encoded_or_refused) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> exponent(-149, 127);
  for (const Type type : kTypes) {
    if (type == Type::kQ8_1) continue;
    for (int round = 0; round < 200; ++round) {
      const Matrix matrix{type, 1, 256};
      // Numbers of one size, of all sizes, or few beside zeros.
      const int common = exponent(random);
      std::vector<float> x(256), importance(256);
      for (float& value : x) {
        const int power = round % 3 == 1 ? exponent(random) : common;
        const float digits = static_cast<float>(random() % 2001) / 1000 - 1;
        value = round % 3 == 2 && random() % 8 != 0 ? 0.f : std::ldexp(digits, power);
      }
      for (float& value : importance) value = static_cast<float>(random() % 4) * std::ldexp(1.f, common / 4);
      std::vector<uint8_t> blocks = blocksOf(matrix);
      std::vector<float> back(256);
      for (const float* weights : {static_cast<const float*>(nullptr), static_cast<const float*>(importance.data())}) {
        const tsq::Status status = tsq::gguf::encode(matrix, x.data(), weights, blocks.data(), {});
        CHECK_MSG(status.ok() || status.code() == tsq::Code::kNumeric, status.message());
        if (!status.ok()) continue;
        CHECK(tsq::gguf::decode(matrix, blocks.data(), back.data()).ok());
        for (const float value : back)
          if (!std::isfinite(value)) CHECK_MSG(false, typeText(type) + " decodes to what is not finite");
      }
    }
  }
}

TEST(gguf_scale_bytes_both_ways) {
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    uint8_t pairs[12] = {}, signs[12] = {};
    int scales[8], mins[8], signedScales[16];
    // In an order that is not the bytes': setting one may not disturb the others.
    for (int group = 7; group >= 0; --group) {
      scales[group] = static_cast<int>(random() % 64);
      mins[group] = static_cast<int>(random() % 64);
      tsq::gguf::setScaleMin(pairs, group, {scales[group], mins[group]});
    }
    for (int group = 0; group < 8; ++group) {
      const tsq::gguf::ScaleMin found = tsq::gguf::scaleMin(pairs, group);
      CHECK(found.scale == scales[group] && found.min == mins[group]);
    }
    for (int group = 0; group < 16; ++group) {
      signedScales[group] = static_cast<int>(random() % 64) - 32;
      tsq::gguf::setQ3Scale(signs, group, signedScales[group]);
    }
    for (int group = 0; group < 16; ++group) CHECK(tsq::gguf::q3Scale(signs, group) == signedScales[group]);
  }
}

TEST(gguf_exponents_of_mxfp4) {
  for (int e = 0; e < 256; ++e) CHECK(tsq::gguf::halfOfExponent(static_cast<uint8_t>(e)) == std::ldexp(1.f, e - 128));
}

TEST(gguf_refusals) {
  std::vector<float> x(256, 1.f);
  std::vector<uint8_t> blocks(4096);
  CHECK(tsq::gguf::rowBytes(static_cast<Type>(16), 256).status().code() == tsq::Code::kUnsupported);
  CHECK(tsq::gguf::rowBytes(Type::kQ4_K, 255).status().code() == tsq::Code::kShape);
  CHECK(tsq::gguf::encode({Type::kQ8_1, 1, 32}, x.data(), nullptr, blocks.data(), {}).code() ==
        tsq::Code::kUnsupported);
  x[200] = std::numeric_limits<float>::quiet_NaN();
  const tsq::Status status = tsq::gguf::encode({Type::kQ4_0, 8, 32}, x.data(), nullptr, blocks.data(), {});
  CHECK_MSG(status.message() == "row 6, column 8 is NaN, expected a finite number", status.message());
}
