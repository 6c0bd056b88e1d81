// Random data, exact-size buffers and float64 references for the kernel tests.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/kernels.h"
#include "kernels/packed_weight.h"

namespace support {

using tsq::Dtype;
using tsq::KernelTable;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  float normal() { return std::normal_distribution<float>()(engine_); }
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine_); }
  std::vector<float> normals(int64_t count) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& x : out) x = normal();
    return out;
  }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[static_cast<size_t>(integer(0, static_cast<int64_t>(i) - 1))]);
  }

 private:
  std::mt19937_64 engine_;
};

inline std::vector<const KernelTable*> tables() {
  int count = 0;
  const KernelTable* const* all = tsq::supportedKernels(&count);
  return {all, all + count};
}

// Runs the body with every table selected, then returns to the default.
template <typename F>
void forEachTable(F body) {
  for (const KernelTable* table : tables()) {
    CHECK(tsq::selectKernels(table->name).ok());
    body(*table);
  }
  CHECK(tsq::selectKernels(nullptr).ok());
}

// A quantized weight with its exact dequantized values.
struct Weight {
  int64_t n, k, groupSize, groups;
  int bits;
  std::vector<uint8_t> codes, zeros;
  std::vector<float> scales, inputScale;
  std::vector<int32_t> groupIndex;
  std::vector<float> offsets;
  std::vector<float> book;
  tsq::CodesSource source() const {
    return {codes.data(),
            n,
            k,
            bits,
            groupSize,
            scales.data(),
            zeros.empty() ? nullptr : zeros.data(),
            groupIndex.empty() ? nullptr : groupIndex.data(),
            inputScale.empty() ? nullptr : inputScale.data(),
            tsq::layout::CodeLayout::kBytes,
            offsets.empty() ? nullptr : offsets.data(),
            book.empty() ? nullptr : book.data()};
  }
  double value(int64_t row, int64_t column) const {
    const size_t at = groupAt(row, column);
    const uint8_t code = codes[static_cast<size_t>(row * k + column)];
    const double zero = !offsets.empty() ? 0 : zeros.empty() ? 1 << (bits - 1) : zeros[at];
    const double plain =
        scales[at] * (book.empty() ? code - zero : double{book[code]}) + (offsets.empty() ? 0 : double{offsets[at]});
    return inputScale.empty() ? plain : plain * inputScale[static_cast<size_t>(column)];
  }
  // Of what the value is the sum or difference.
  double magnitude(int64_t row, int64_t column) const {
    if (offsets.empty()) return std::fabs(value(row, column));
    const size_t at = groupAt(row, column);
    const double plain = std::fabs(scales[at]) * (1 << bits) + std::fabs(double{offsets[at]});
    return inputScale.empty() ? plain : plain * std::fabs(inputScale[static_cast<size_t>(column)]);
  }
  size_t groupAt(int64_t row, int64_t column) const {
    const int64_t group = groupIndex.empty() ? column / groupSize : groupIndex[static_cast<size_t>(column)];
    return static_cast<size_t>(row * groups + group);
  }
};

struct WeightOptions {
  int bits = 4;
  bool zeros = false, order = false, inputScale = false;
  float scale = 0.02f;
  bool offsets = false;  // in place of zero points
};

// How groups are centred, at random.
inline void randomCentre(Random& random, WeightOptions& options) {
  const int64_t choice = random.integer(0, 3);
  options.zeros = choice >= 2;
  options.offsets = choice == 1;
}

inline Weight randomWeight(Random& random, int64_t n, int64_t k, int64_t groupSize, const WeightOptions& options) {
  Weight w{n, k, groupSize, (k + groupSize - 1) / groupSize, options.bits, {}, {}, {}, {}, {}, {}, {}};
  w.codes.resize(static_cast<size_t>(n * k));
  for (uint8_t& code : w.codes) code = static_cast<uint8_t>(random.integer(0, (1 << options.bits) - 1));
  w.scales.resize(static_cast<size_t>(n * w.groups));
  for (float& scale : w.scales) scale = options.scale * random.uniform(0.5f, 2.0f);
  if (options.zeros) {
    w.zeros.resize(w.scales.size());
    for (uint8_t& zero : w.zeros) zero = static_cast<uint8_t>(random.integer(0, (1 << options.bits) - 1));
  }
  if (options.offsets) {
    w.offsets.resize(w.scales.size());
    for (size_t i = 0; i < w.offsets.size(); ++i)
      w.offsets[i] = -w.scales[i] * random.uniform(0, static_cast<float>((1 << options.bits) - 1));
  }
  if (options.inputScale) {
    w.inputScale.resize(static_cast<size_t>(k));
    for (float& scale : w.inputScale) scale = random.uniform(0.25f, 4.0f);
  }
  if (options.order) {
    w.groupIndex.resize(static_cast<size_t>(k));
    for (int64_t i = 0; i < k; ++i) w.groupIndex[static_cast<size_t>(i)] = static_cast<int32_t>(i / groupSize);
    random.shuffle(w.groupIndex);
  }
  return w;
}

// Float64 product, and the product of absolute values that rounding errors are measured against.
struct Product {
  std::vector<double> y, magnitude;
};

template <typename Value>
Product product(const std::vector<float>& x, int64_t m, int64_t n, int64_t k, const float* bias, Value value) {
  std::vector<double> weights(static_cast<size_t>(n * k));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) weights[static_cast<size_t>(j * k + i)] = value(j, i);
  }
  Product result{std::vector<double>(static_cast<size_t>(m * n)), std::vector<double>(static_cast<size_t>(m * n))};
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias != nullptr ? bias[j] : 0, size = std::fabs(sum);
      for (int64_t i = 0; i < k; ++i) {
        const double term =
            static_cast<double>(x[static_cast<size_t>(r * k + i)]) * weights[static_cast<size_t>(j * k + i)];
        sum += term;
        size += std::fabs(term);
      }
      result.y[static_cast<size_t>(r * n + j)] = sum;
      result.magnitude[static_cast<size_t>(r * n + j)] = size;
    }
  }
  return result;
}

// ||y - exact||_2 / ||scale||_2
inline double relativeError(const std::vector<float>& y, const std::vector<double>& exact,
                            const std::vector<double>& scale) {
  double error = 0, size = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    error += (y[i] - exact[i]) * (y[i] - exact[i]);
    size += scale[i] * scale[i];
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

// Distance in units in the last place of the exact value rounded to f32 (subnormals included).
inline double ulps(float value, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isinf(nearest) || std::isnan(nearest)) {
    return value == nearest || (std::isnan(nearest) && std::isnan(value)) ? 0 : std::numeric_limits<double>::infinity();
  }
  const float magnitude = std::fabs(nearest);
  const double unit =
      static_cast<double>(std::nextafter(magnitude, std::numeric_limits<float>::infinity())) - magnitude;
  return std::fabs(value - exact) / unit;
}

inline std::vector<uint8_t> toBytes(const std::vector<float>& values, Dtype dtype) {
  std::vector<uint8_t> out(values.size() * static_cast<size_t>(tsq::dtypeBytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::kF32) {
      std::memcpy(&out[i * 4], &values[i], 4);
    } else {
      const uint16_t bits = dtype == Dtype::kF16 ? tsq::floatToF16(values[i]) : tsq::floatToBf16(values[i]);
      std::memcpy(&out[i * 2], &bits, 2);
    }
  }
  return out;
}

inline std::vector<float> fromBytes(const std::vector<uint8_t>& bytes, Dtype dtype) {
  std::vector<float> out(bytes.size() / static_cast<size_t>(tsq::dtypeBytes(dtype)));
  for (size_t i = 0; i < out.size(); ++i) {
    if (dtype == Dtype::kF32) {
      std::memcpy(&out[i], &bytes[i * 4], 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[i * 2], 2);
      out[i] = dtype == Dtype::kF16 ? tsq::f16ToFloat(bits) : tsq::bf16ToFloat(bits);
    }
  }
  return out;
}

inline bool sameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace support
