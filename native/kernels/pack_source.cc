#include "kernels/pack_source.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "runtime/thread_pool.h"

namespace tsq {
namespace {

std::string number(int64_t value) {
  return std::to_string(value);
}

}  // namespace

Status checkSource(const CodesSource& source) {
  if (source.n < 1 || source.k < 1) {
    return {Code::kShape, "packCodes: weight has shape [" + number(source.n) + ", " + number(source.k) +
                              "], expected at least [1, 1]"};
  }
  if (source.bits < 2 || source.bits > 8) {
    return {Code::kUnsupported, "packCodes: codes of " + number(source.bits) + " bits, expected 2 … 8"};
  }
  if (source.groupSize < 1 || source.groupSize > source.k) {
    return {Code::kShape,
            "packCodes: group size is " + number(source.groupSize) + ", expected 1 … k = " + number(source.k)};
  }
  if (source.k > INT32_MAX)
    return {Code::kUnsupported, "packCodes: k is " + number(source.k) + ", expected below 2^31"};
  if (source.zeros != nullptr && source.offsets != nullptr)
    return {Code::kFormat, "packCodes: there are both zero points and offsets, expected one of them"};
  if (source.codebook != nullptr && (source.zeros != nullptr || source.offsets != nullptr))
    return {Code::kFormat, "packCodes: there are a code book and zero points or offsets, expected one of them"};
  return layout::checkStoredCodes({source.codes, source.layout, source.n, source.k, source.bits});
}

int wholeExponent(const CodesSource& source) {
  constexpr int kMost = 6;
  const int values = 1 << source.bits;
  for (int exponent = 0; exponent <= kMost; ++exponent) {
    const auto whole = [exponent](float x) {
      const float scaled = std::ldexp(x, exponent);
      return std::fabs(scaled) < layout::kBookZero && scaled == std::nearbyint(scaled);
    };
    if (!std::all_of(source.codebook, source.codebook + values, whole)) continue;
    // A scale that loses bits takes the book with it.
    const int64_t count = source.n * layout::divideUp(source.k, source.groupSize);
    const float up = std::ldexp(1.0f, exponent), down = 1 / up;
    const auto exact = [up, down](float scale) { return scale * down * up == scale || std::isnan(scale); };
    return exponent == 0 || std::all_of(source.scales, source.scales + count, exact) ? exponent : -1;
  }
  return -1;
}

layout::WeightKind kindOf(const CodesSource& source) {
  using layout::WeightKind;
  const int values = 1 << source.bits;
  const float* book = source.codebook;
  if (book == nullptr) {
    return source.bits == 2   ? WeightKind::kU2
           : source.bits == 3 ? WeightKind::kU3
           : source.bits == 4 ? WeightKind::kU4
                              : WeightKind::kU8;
  }
  if (values <= layout::kBookSize) {
    // A column of padding counts nothing only where values are finite.
    if (!std::all_of(book, book + values, [](float x) { return std::isfinite(x); })) return WeightKind::kF32;
    return wholeExponent(source) >= 0 ? WeightKind::kI4 : WeightKind::kB4;
  }
  if (source.bits != 8) return WeightKind::kF32;
  const auto holds = [book](float (*value)(uint8_t)) {
    for (int i = 0; i < 256; ++i) {
      const float own = value(static_cast<uint8_t>(i));
      if (!(own == book[i] || (std::isnan(own) && std::isnan(book[i])))) return false;
    }
    return true;
  };
  if (holds([](uint8_t bits) { return e4m3ToFloat(bits); })) return WeightKind::kE4M3;
  return holds([](uint8_t bits) { return e5m2ToFloat(bits); }) ? WeightKind::kE5M2 : WeightKind::kF32;
}

Status orderColumns(const CodesSource& source, const layout::Shape& shape, std::vector<int32_t>* order) {
  const int64_t groups = layout::groups(shape);
  std::vector<int64_t> next(static_cast<size_t>(groups));
  bool identity = true;
  for (int64_t column = 0; column < shape.k; ++column) {
    const int64_t group = source.groupIndex[column];
    if (group < 0 || group >= groups) {
      return {Code::kFormat, "packCodes: group index of column " + number(column) + " is " + number(group) +
                                 ", expected 0 … " + number(groups - 1) + " for k = " + number(shape.k) +
                                 " and group size " + number(shape.groupSize)};
    }
    ++next[group];
    identity = identity && group == column / shape.groupSize;
  }
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t size = std::min(shape.groupSize, shape.k - group * shape.groupSize);
    if (next[group] != size) {
      return {Code::kFormat, "packCodes: group " + number(group) + " has " + number(next[group]) +
                                 " columns in the group index, expected " + number(size) +
                                 " for k = " + number(shape.k) + " and group size " + number(shape.groupSize)};
    }
    next[group] = group * shape.groupSize;
  }
  if (identity) return {};
  order->resize(static_cast<size_t>(shape.k));
  for (int64_t column = 0; column < shape.k; ++column) {
    (*order)[next[source.groupIndex[column]]++] = static_cast<int32_t>(column);
  }
  return {};
}

layout::ScaleType narrowestScales(const float* scales, int64_t count) {
  constexpr int64_t kBlock = 1024, kTask = 64 * kBlock;
  std::atomic<bool> half{true}, bfloat{true};
  const auto scan = [&](int64_t begin, int64_t end) {
    uint32_t seen = 0, unusual = 0;
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t bits = floatToBits(scales[i]), magnitude = bits & 0x7fffffffu;
      seen |= bits;
      // Neither zero nor in the range of normal halves.
      unusual |= static_cast<uint32_t>(magnitude - 0x38800000u >= 0x47800000u - 0x38800000u && magnitude != 0);
    }
    if ((seen & 0xffff) != 0) bfloat.store(false, std::memory_order_relaxed);
    if ((seen & 0x1fff) == 0 && unusual == 0) return;
    for (int64_t i = begin; i < end; ++i) {
      if (floatToBits(f16ToFloat(floatToF16(scales[i]))) != floatToBits(scales[i])) {
        return half.store(false, std::memory_order_relaxed);
      }
    }
  };
  const auto undecided = [&] { return half.load(std::memory_order_relaxed) || bfloat.load(std::memory_order_relaxed); };
  ThreadPool::instance().run((count + kTask - 1) / kTask, [&](int64_t task, int) {
    const int64_t end = std::min(count, (task + 1) * kTask);
    for (int64_t i = task * kTask; i < end && undecided(); i += kBlock) scan(i, std::min(end, i + kBlock));
  });
  return half.load() ? layout::ScaleType::kF16 : bfloat.load() ? layout::ScaleType::kBF16 : layout::ScaleType::kF32;
}

}  // namespace tsq
