// Packed blocks have the values of decoded ones.
#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"
#include "gguf/pack.h"
#include "kernels/kernels.h"

namespace {

using tsq::gguf::Matrix;
using tsq::gguf::Type;

struct Encoded {
  Matrix matrix;
  std::vector<uint8_t> blocks;
  std::vector<float> values;
};

Encoded encoded(Type type, int64_t rows, int64_t k) {
  Encoded e{{type, rows, k}, {}, {}};
  std::mt19937 engine(static_cast<unsigned>(type) + 7);
  std::normal_distribution<float> normal(0.01f, 0.05f);
  std::vector<float> values(static_cast<size_t>(rows * k));
  for (float& value : values) value = normal(engine);
  e.blocks.resize(static_cast<size_t>(rows * tsq::gguf::rowBytes(type, k).value()));
  CHECK(tsq::gguf::encode(e.matrix, values.data(), nullptr, e.blocks.data(), {}).ok());
  e.values.resize(values.size());
  CHECK(tsq::gguf::decode(e.matrix, e.blocks.data(), e.values.data()).ok());
  return e;
}

constexpr Type kTypes[] = {Type::kF32,    Type::kF16,   Type::kBF16,  Type::kQ4_0, Type::kQ4_1,
                           Type::kQ5_0,   Type::kQ5_1,  Type::kQ8_0,  Type::kQ2_K, Type::kQ3_K,
                           Type::kQ4_K,   Type::kQ5_K,  Type::kQ6_K,  Type::kQ8_K, Type::kIQ4_NL,
                           Type::kIQ4_XS, Type::kTQ1_0, Type::kTQ2_0, Type::kMXFP4};

}  // namespace

TEST(gguf_packed_blocks_have_the_values_of_decoded_ones) {
  const int64_t n = 19, k = 512;
  std::vector<int32_t> reversed(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) reversed[static_cast<size_t>(i)] = static_cast<int32_t>(n - 1 - i);
  for (const Type type : kTypes) {
    const Encoded e = encoded(type, n, k);
    for (const std::vector<int32_t>& from : {std::vector<int32_t>(), reversed}) {
      const tsq::Result<tsq::PackedWeight> packed = tsq::gguf::pack(e.matrix, e.blocks.data(), from);
      CHECK_MSG(packed.ok(), packed.status().message());
      if (!packed.ok()) continue;
      std::vector<float> row(static_cast<size_t>(k));
      double most = 0, size = 0;
      for (int64_t i = 0; i < n; ++i) {
        tsq::unpackRow(packed.value(), i, row.data());
        const int64_t source = from.empty() ? i : from[static_cast<size_t>(i)];
        for (int64_t j = 0; j < k; ++j) {
          const double value = e.values[static_cast<size_t>(source * k + j)];
          most = std::max(most, std::fabs(row[static_cast<size_t>(j)] - value));
          size = std::max(size, std::fabs(value));
        }
      }
      // Exact but for the rounding of offsets.
      const bool offsets = packed.value().offsets != nullptr;
      CHECK_MSG(most <= (offsets ? 3e-7 * size : 0), "type " + std::to_string(static_cast<int>(type)) + ": " +
                                                         std::to_string(most) + " of " + std::to_string(size));
    }
  }
}

// In 4 bits where that is faster, and with the same values where it is not.
TEST(gguf_code_books_by_what_the_kernels_take) {
  int count = 0;
  const tsq::KernelTable* const* tables = tsq::supportedKernels(&count);
  for (const Type type : {Type::kIQ4_NL, Type::kIQ4_XS, Type::kMXFP4}) {
    const Encoded e = encoded(type, 19, 512);
    for (int i = 0; i < count; ++i) {
      CHECK(tsq::selectKernels(tables[i]->name).ok());
      const tsq::Result<tsq::PackedWeight> packed = tsq::gguf::pack(e.matrix, e.blocks.data(), {});
      CHECK(packed.ok());
      const bool takes = tables[i]->quads->pays(tsq::layout::WeightKind::kI4, tsq::Dtype::kF32, 1);
      CHECK((packed.value().shape.kind == tsq::layout::WeightKind::kI4) == takes);
      std::vector<float> row(512);
      for (int64_t n = 0; n < 19; ++n) {
        tsq::unpackRow(packed.value(), n, row.data());
        CHECK(std::equal(row.begin(), row.end(), e.values.begin() + n * 512));
      }
    }
  }
  CHECK(tsq::selectKernels(nullptr).ok());
}

TEST(gguf_pack_refusals) {
  const Encoded e = encoded(Type::kQ4_0, 3, 64);
  const auto code = [&](const Matrix& matrix, const std::vector<int32_t>& from) {
    return tsq::gguf::pack(matrix, e.blocks.data(), from).status().code();
  };
  CHECK(code({Type::kQ4_0, 3, 65}, {}) == tsq::Code::kShape);
  CHECK(code({Type::kQ4_0, 0, 64}, {}) == tsq::Code::kShape);
  CHECK(code({Type::kQ4_0, 3, 64}, {0, 1}) == tsq::Code::kShape);
  CHECK(code({Type::kQ4_0, 3, 64}, {0, 1, 3}) == tsq::Code::kFormat);
  CHECK(code({Type::kQ4_0, 3, 64}, {0, -1, 2}) == tsq::Code::kFormat);
  CHECK(code({static_cast<Type>(16), 3, 256}, {}) == tsq::Code::kUnsupported);
}
