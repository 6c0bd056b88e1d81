// Nearest codes and the scale search against the formulas written plainly.
#include "kernels/kernels.h"
#include "rounding_test.h"
#include "runtime/thread_pool.h"

using namespace rounding_test;

namespace {

float smallest(tsq::Dtype type) {
  return type == tsq::Dtype::kF16 ? 0x1p-24f : 0x1p-126f;
}
float largest(tsq::Dtype type) {
  return type == tsq::Dtype::kF16    ? 65504.f
         : type == tsq::Dtype::kBF16 ? tsq::bf16ToFloat(0x7f7f)
                                     : std::numeric_limits<float>::max();
}

float roundTo(float x, tsq::Dtype type) {
  x = std::min(std::max(x, smallest(type)), largest(type));
  if (type == tsq::Dtype::kF16) return tsq::f16ToFloat(tsq::floatToF16(x));
  if (type == tsq::Dtype::kBF16) return tsq::bf16ToFloat(tsq::floatToBf16(x));
  return x;
}

// Scale and zero of a range by the formulas of docs/rounding.md.
void fit(float lo, float hi, const GridSpec& grid, float* scale, int* zero) {
  const float maxCode = static_cast<float>((1 << grid.bits) - 1);
  if (grid.symmetric) {
    const float peak = std::max(-lo, hi);
    *scale = peak == 0 ? 1.f : roundTo(peak / (maxCode / 2), grid.scaleType);
    *zero = 1 << (grid.bits - 1);
    return;
  }
  *scale = hi == lo ? 1.f : roundTo((hi - lo) / maxCode, grid.scaleType);
  *zero = static_cast<int>(std::max(std::min(std::nearbyint(-lo / *scale), maxCode), static_cast<float>(grid.minZero)));
}

int nearest(float w, float scale, int zero, int bits) {
  const double code = std::nearbyint(static_cast<double>(w / scale)) + zero;
  return static_cast<int>(std::min(std::max(code, 0.0), static_cast<double>((1 << bits) - 1)));
}

void checkAgainstFormula(const std::vector<float>& w, int64_t n, int64_t k, const GridSpec& grid,
                         const std::vector<float>* clip = nullptr) {
  Rounded got(n, k, grid);
  const tsq::Status status = tsq::roundNearest(w.data(), n, k, grid, SearchSpec{},
                                               clip == nullptr ? nullptr : clip->data(), got.out(), AbortFlag());
  CHECK_MSG(status.ok(), status.message());
  int64_t wrong = 0;
  std::string first;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t g = 0; g < got.groups; ++g) {
      float lo = 0, hi = 0;
      for (int64_t row = grid.perTensor ? 0 : r; row < (grid.perTensor ? n : r + 1); ++row) {
        for (int64_t c = g * grid.groupSize; c < std::min(k, (g + 1) * grid.groupSize); ++c) {
          float value = w[static_cast<size_t>(row * k + c)];
          if (clip != nullptr) {
            const float limit = (*clip)[static_cast<size_t>(row * got.groups + g)];
            value = std::min(std::max(value, -limit), limit);
          }
          lo = std::min(lo, value);
          hi = std::max(hi, value);
        }
      }
      float scale;
      int zero;
      fit(lo, hi, grid, &scale, &zero);
      const size_t at = static_cast<size_t>(r * got.groups + g);
      bool same = got.scales[at] == scale && (grid.symmetric || got.zeros[at] == zero);
      for (int64_t c = g * grid.groupSize; c < std::min(k, (g + 1) * grid.groupSize); ++c) {
        same = same && got.codes[static_cast<size_t>(r * k + c)] ==
                           nearest(w[static_cast<size_t>(r * k + c)], scale, zero, grid.bits);
      }
      if (!same && wrong++ == 0) {
        first = "row " + std::to_string(r) + " group " + std::to_string(g) + " scale " +
                std::to_string(got.scales[at]) + " expected " + std::to_string(scale);
      }
    }
  }
  CHECK_MSG(wrong == 0, describe(n, k, grid) + ": " + std::to_string(wrong) + " groups differ, first " + first);
  CHECK_MSG(got.sane(grid), describe(n, k, grid));
}

}  // namespace

TEST(nearest_matches_the_formula_on_every_grid) {
  uint32_t seed = 1;
  const int64_t shapes[][3] = {{1, 1, 1},    {3, 7, 7},      {5, 37, 16},     {33, 129, 32},
                               {64, 64, 64}, {70, 300, 128}, {2, 1000, 1000}, {31, 172, 20}};
  for (const auto& shape : shapes) {
    const std::vector<float> w = gaussian(shape[0] * shape[1], seed++, 0.05f);
    for (int bits = 2; bits <= 8; ++bits) {
      for (bool symmetric : {true, false}) {
        for (tsq::Dtype type : {tsq::Dtype::kF32, tsq::Dtype::kF16, tsq::Dtype::kBF16}) {
          GridSpec grid{bits, symmetric, shape[2], false, type, symmetric ? 0 : bits % 2};
          checkAgainstFormula(w, shape[0], shape[1], grid);
          grid.groupSize = shape[1];
          grid.perTensor = true;
          checkAgainstFormula(w, shape[0], shape[1], grid);
        }
      }
    }
  }
}

TEST(nearest_on_every_instruction_set_gives_the_same_bytes) {
  const int64_t n = 45, k = 211;
  const std::vector<float> w = gaussian(n * k, 99);
  const std::vector<float> importance = [&] {
    std::vector<float> values = gaussian(k, 98);
    for (float& value : values) value *= value;
    return values;
  }();
  int count = 0;
  const tsq::KernelTable* const* tables = tsq::supportedKernels(&count);
  for (bool symmetric : {true, false}) {
    for (double norm : {2.0, 2.4}) {
      const GridSpec grid{3, symmetric, 32, false, tsq::Dtype::kF16, 0};
      const SearchSpec search{true, 50, 0.8, norm, importance.data()};
      Rounded first(n, k, grid);
      for (int i = 0; i < count; ++i) {
        CHECK(tsq::selectKernels(tables[i]->name).ok());
        Rounded other(n, k, grid);
        CHECK(tsq::roundNearest(w.data(), n, k, grid, search, nullptr, other.out(), AbortFlag()).ok());
        if (i == 0) first = other;
        CHECK_MSG(first == other, tables[i]->name);
      }
    }
  }
  CHECK(tsq::selectKernels(nullptr).ok());
}

TEST(nearest_of_constant_zero_tiny_huge_and_one_sided_rows) {
  const int64_t n = 9, k = 40;
  std::vector<float> w(static_cast<size_t>(n * k), 0.f);
  for (int64_t c = 0; c < k; ++c) {
    const float wave = static_cast<float>((c * 7) % 11 - 5);
    w[static_cast<size_t>(k + c)] = 0.25f;                // constant
    w[static_cast<size_t>(2 * k + c)] = wave * 1e-42f;    // subnormal
    w[static_cast<size_t>(3 * k + c)] = wave * 6e37f;     // the width overflows f32
    w[static_cast<size_t>(4 * k + c)] = std::abs(wave);   // nonnegative
    w[static_cast<size_t>(5 * k + c)] = -std::abs(wave);  // nonpositive
    w[static_cast<size_t>(6 * k + c)] = c == 3 ? 1e30f : 1e-30f;
    w[static_cast<size_t>(7 * k + c)] = -0.f;
    w[static_cast<size_t>(8 * k + c)] = wave * 1e-7f;  // the scale is a subnormal half
  }
  for (bool symmetric : {true, false}) {
    for (tsq::Dtype type : {tsq::Dtype::kF32, tsq::Dtype::kF16, tsq::Dtype::kBF16}) {
      for (int minZero : {0, 1}) {
        const GridSpec grid{4, symmetric, 16, false, type, minZero};
        for (double norm : {2.0, 2.4}) {
          for (bool enabled : {false, true}) {
            const SearchSpec search{enabled, 20, 0.8, norm, nullptr};
            Rounded got(n, k, grid);
            CHECK(tsq::roundNearest(w.data(), n, k, grid, search, nullptr, got.out(), AbortFlag()).ok());
            CHECK_MSG(got.sane(grid), describe(n, k, grid));
            // The rows of zeros: scale 1, the code of 0.
            for (int64_t row : {int64_t{0}, int64_t{7}}) {
              CHECK(got.scales[static_cast<size_t>(row * got.groups)] == 1.f);
              CHECK(got.dequantize(n, k, grid)[static_cast<size_t>(row * k)] == 0.f);
            }
          }
        }
        // Not the overflowing width: the formula in f32 gives infinity there.
        if (symmetric) checkAgainstFormula(w, n, k, grid);
      }
    }
  }
  // A row whose width overflows still comes back close.
  GridSpec wide{8, false, k, false, tsq::Dtype::kF32, 0};
  Rounded got(n, k, wide);
  CHECK(tsq::roundNearest(w.data(), n, k, wide, SearchSpec{}, nullptr, got.out(), AbortFlag()).ok());
  const std::vector<float> back = got.dequantize(n, k, wide);
  for (int64_t c = 0; c < k; ++c) {
    const size_t at = static_cast<size_t>(3 * k + c);
    CHECK_MSG(std::abs(back[at] / 1e37f - w[at] / 1e37f) < 0.2f,
              std::to_string(back[at]) + " for " + std::to_string(w[at]));
  }
}

TEST(clip_limits_the_range) {
  const int64_t n = 35, k = 100;
  const std::vector<float> w = gaussian(n * k, 5);
  for (bool symmetric : {true, false}) {
    GridSpec grid{4, symmetric, 32, false, tsq::Dtype::kF16, 0};
    std::vector<float> clip(static_cast<size_t>(n * 4));
    for (size_t i = 0; i < clip.size(); ++i) clip[i] = 0.5f + static_cast<float>(i % 7) * 0.3f;
    checkAgainstFormula(w, n, k, grid, &clip);
    grid.groupSize = k;
    grid.perTensor = true;
    clip.resize(static_cast<size_t>(n));
    checkAgainstFormula(w, n, k, grid, &clip);
  }
}

// The search must find what an exhaustive search in float64 finds, to the accuracy of the error sums.
TEST(mse_search_finds_the_best_candidate) {
  const int64_t n = 37, k = 150;
  std::vector<float> w = gaussian(n * k, 11);
  for (int64_t r = 0; r < n; ++r) w[static_cast<size_t>(r * k + r)] *= 6.f;  // outliers, so that shrinking pays
  std::vector<float> importance = gaussian(k, 12);
  for (float& value : importance) value = value * value + 0.01f;
  for (int bits : {2, 3, 4, 8}) {
    for (bool symmetric : {true, false}) {
      for (double norm : {2.0, 2.4, 3.0}) {
        for (bool weighted : {false, true}) {
          for (bool perTensor : {false, true}) {
            const GridSpec grid{bits, symmetric, perTensor ? k : 64, perTensor, tsq::Dtype::kBF16, 0};
            const SearchSpec search{true, 40, 0.8, norm, weighted ? importance.data() : nullptr};
            Rounded got(n, k, grid);
            CHECK(tsq::roundNearest(w.data(), n, k, grid, search, nullptr, got.out(), AbortFlag()).ok());
            const auto errorOf = [&](int64_t r, int64_t g, float scale, int zero) {
              double sum = 0;
              for (int64_t row = perTensor ? 0 : r; row < (perTensor ? n : r + 1); ++row) {
                for (int64_t c = g * grid.groupSize; c < std::min(k, (g + 1) * grid.groupSize); ++c) {
                  const float value = w[static_cast<size_t>(row * k + c)];
                  const double d = std::abs(static_cast<double>(value) -
                                            static_cast<double>(scale) * (nearest(value, scale, zero, bits) - zero));
                  sum += (weighted ? static_cast<double>(importance[static_cast<size_t>(c)]) : 1.0) * std::pow(d, norm);
                }
              }
              return sum;
            };
            double worst = 0;
            bool shrunk = false;
            for (int64_t r = 0; r < (perTensor ? 1 : n); ++r) {
              for (int64_t g = 0; g < got.groups; ++g) {
                float lo = 0, hi = 0;
                for (int64_t row = perTensor ? 0 : r; row < (perTensor ? n : r + 1); ++row) {
                  for (int64_t c = g * grid.groupSize; c < std::min(k, (g + 1) * grid.groupSize); ++c) {
                    lo = std::min(lo, w[static_cast<size_t>(row * k + c)]);
                    hi = std::max(hi, w[static_cast<size_t>(row * k + c)]);
                  }
                }
                double best = std::numeric_limits<double>::infinity();
                float widest = 0;
                for (int i = 0; i < search.steps; ++i) {
                  const float shrink = static_cast<float>(1.0 - search.maxShrink * i / search.steps);
                  float scale;
                  int zero;
                  fit(lo * shrink, hi * shrink, grid, &scale, &zero);
                  if (i == 0) widest = scale;
                  best = std::min(best, errorOf(r, g, scale, zero));
                }
                const size_t at = static_cast<size_t>(r * got.groups + g);
                const double own = errorOf(r, g, got.scales[at], symmetric ? 1 << (bits - 1) : got.zeros[at]);
                worst = std::max(worst, own / best - 1);
                shrunk = shrunk || got.scales[at] < widest;
              }
            }
            CHECK_MSG(worst < 2e-5,
                      describe(n, k, grid) + " norm=" + std::to_string(norm) + " worse by " + std::to_string(worst));
            CHECK_MSG(shrunk || bits == 8, describe(n, k, grid));
          }
        }
      }
    }
  }
}

TEST(nearest_refuses_bad_arguments_and_weights) {
  std::vector<float> w = gaussian(64, 3);
  const GridSpec good{4, true, 8, false, tsq::Dtype::kF32, 0};
  Rounded got(4, 16, good);
  const auto codeOf = [&](const GridSpec& grid, const SearchSpec& search) {
    return tsq::roundNearest(w.data(), 4, 16, grid, search, nullptr, got.out(), AbortFlag()).code();
  };
  CHECK(codeOf(good, SearchSpec{}) == tsq::Code::kOk);
  for (int bits : {-1, 1, 9})
    CHECK(codeOf({bits, true, 8, false, tsq::Dtype::kF32, 0}, SearchSpec{}) == tsq::Code::kOption);
  for (int64_t size : {int64_t{0}, int64_t{-8}, int64_t{17}}) {
    CHECK(codeOf({4, true, size, false, tsq::Dtype::kF32, 0}, SearchSpec{}) == tsq::Code::kOption);
  }
  CHECK(codeOf({4, true, 8, true, tsq::Dtype::kF32, 0}, SearchSpec{}) == tsq::Code::kOption);
  CHECK(codeOf({4, true, 8, false, tsq::Dtype::kI8, 0}, SearchSpec{}) == tsq::Code::kDtype);
  CHECK(codeOf({4, true, 8, false, tsq::Dtype::kF32, 16}, SearchSpec{}) == tsq::Code::kOption);
  CHECK(codeOf({4, false, 8, false, tsq::Dtype::kF32, 0}, SearchSpec{}) == tsq::Code::kOption);  // no array of zeros
  CHECK(codeOf(good, {true, 0, 0.8, 2, nullptr}) == tsq::Code::kOption);
  CHECK(codeOf(good, {true, 10, 1.0, 2, nullptr}) == tsq::Code::kOption);
  CHECK(codeOf(good, {true, 10, 0.8, 0, nullptr}) == tsq::Code::kOption);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    w[37] = bad;
    const tsq::Status status = tsq::roundNearest(w.data(), 4, 16, good, SearchSpec{}, nullptr, got.out(), AbortFlag());
    CHECK(status.code() == tsq::Code::kNumeric);
    CHECK_MSG(status.message().find("weight[2, 5]") != std::string::npos, status.message());
  }
}

TEST(dequantize_follows_the_group_index) {
  const int64_t n = 3, k = 10;
  const GridSpec grid{4, false, 4, false, tsq::Dtype::kF32, 0};
  Rounded got(n, k, grid);
  for (size_t i = 0; i < got.codes.size(); ++i) got.codes[i] = static_cast<uint8_t>(i * 5 % 16);
  for (size_t i = 0; i < got.scales.size(); ++i) got.scales[i] = 0.5f + static_cast<float>(i);
  for (size_t i = 0; i < got.zeros.size(); ++i) got.zeros[i] = static_cast<uint8_t>(i % 16);
  const std::vector<int32_t> index = {2, 0, 1, 1, 0, 2, 0, 1, 0, 1};
  const std::vector<float> w = got.dequantize(n, k, grid, index.data());
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const size_t at = static_cast<size_t>(r * 3 + index[static_cast<size_t>(c)]);
      const float expected =
          got.scales[at] * static_cast<float>(got.codes[static_cast<size_t>(r * k + c)] - got.zeros[at]);
      CHECK(w[static_cast<size_t>(r * k + c)] == expected);
    }
  }
}
