// Integer codes, one a byte in rows, into panels of 32-bit words (layout/packed.h).
#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <numeric>
#include <string>

#include "kernels/packed_weight.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;
using layout::WeightKind;

constexpr uint64_t kEveryByte = 0x0101010101010101u;

std::string number(int64_t value) {
  return std::to_string(value);
}

// Columns in packed order: stable by group. Empty where the groups already lie in order.
Status orderColumns(const CodesSource& source, const Shape& shape, std::vector<int32_t>* order) {
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

// Eight codes below 16, a byte each, into eight nibbles, low first.
uint32_t nibbles(uint64_t bytes) {
  bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
  bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
  return static_cast<uint32_t>(bytes | bytes >> 16);
}

class CodePacker {
 public:
  CodePacker(const CodesSource& source, PackedWeight* weight)
      : source_(source), weight_(*weight), shape_(weight->shape) {}

  // Packs one panel; returns the bits that some code has and none may have.
  uint64_t panel(int64_t panel) const {
    const int64_t groups = layout::groups(shape_), stride = layout::groupStride(shape_);
    const uint64_t invalid = kEveryByte * (0xffu & ~((1u << source_.bits) - 1));
    uint64_t seen = 0;
    for (int64_t row = 0; row < kPanel; ++row) {
      const int64_t n = panel * kPanel + row;
      const bool real = n < shape_.n;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = group * shape_.groupSize, count = std::min(shape_.groupSize, shape_.k - begin);
        uint8_t zero = static_cast<uint8_t>(weight_.zero);
        if (real) {
          const int64_t at = layout::scaleIndex(shape_, n, group);
          weight_.scales.as<float>()[at] = source_.scales[n * groups + group];
          if (source_.zeros != nullptr) {
            zero = source_.zeros[n * groups + group];
            weight_.zeros.as<float>()[at] = zero;
          }
        }
        seen |= rowGroup(n, real, begin, count, group * stride, zero);
      }
    }
    return seen & invalid;
  }

 private:
  // Codes [begin, begin + count) of the ordered row n to packed columns from p on, padded with the zero point to whole
  // words.
  uint64_t rowGroup(int64_t n, bool real, int64_t begin, int64_t count, int64_t p, uint8_t zero) const {
    const uint8_t* codes = real ? source_.codes + n * shape_.k : nullptr;
    const int32_t* order = weight_.order.empty() ? nullptr : weight_.order.data();
    const bool wide = shape_.kind == WeightKind::kU8;
    uint32_t* out = weight_.data.as<uint32_t>() + layout::codeWord(shape_, n, p);
    uint64_t seen = 0;
    for (int64_t i = 0; i < count; i += 8) {
      const int64_t here = std::min<int64_t>(8, count - i);
      uint64_t bytes = kEveryByte * zero;
      if (real && order == nullptr && here == 8) {
        std::memcpy(&bytes, codes + begin + i, 8);
        seen |= bytes;
      } else if (real) {
        uint8_t eight[8];
        std::memset(eight, 0, 8);
        for (int64_t j = 0; j < here; ++j) eight[j] = codes[order != nullptr ? order[begin + i + j] : begin + i + j];
        uint64_t checked;
        std::memcpy(&checked, eight, 8);
        seen |= checked;
        std::memset(eight + here, zero, static_cast<size_t>(8 - here));
        std::memcpy(&bytes, eight, 8);
      }
      if (wide) {
        out[0] = static_cast<uint32_t>(bytes);
        out[kPanel] = static_cast<uint32_t>(bytes >> 32);
        out += 2 * kPanel;
      } else {
        *out = nibbles(bytes);
        out += kPanel;
      }
    }
    return seen;
  }

  const CodesSource& source_;
  const PackedWeight& weight_;
  const Shape& shape_;
};

// The message names the first offending code: found by a second, slow look.
Status invalidCode(const CodesSource& source) {
  for (int64_t i = 0; i < source.n * source.k; ++i) {
    if (source.codes[i] >> source.bits != 0) {
      return {Code::kFormat, "packCodes: code at [" + number(i / source.k) + ", " + number(i % source.k) + "] is " +
                                 number(source.codes[i]) + ", expected below " + number(1 << source.bits) + " for " +
                                 number(source.bits) + "-bit codes"};
    }
  }
  return {Code::kFormat,
          "packCodes: a code changed while it was being packed; do not write to the tensor during the call"};
}

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
  return {};
}

}  // namespace

Result<PackedWeight> packCodes(const CodesSource& source) try {
  TSQ_RETURN_IF_ERROR(checkSource(source));
  PackedWeight weight;
  const WeightKind kind = source.bits <= 4 ? WeightKind::kU4 : WeightKind::kU8;
  weight.shape = {kind, source.n, source.k, source.groupSize};
  weight.bits = source.bits;
  weight.zero = static_cast<float>(1 << (source.bits - 1));
  if (source.groupIndex != nullptr) TSQ_RETURN_IF_ERROR(orderColumns(source, weight.shape, &weight.order));
  if (source.inputScale != nullptr) weight.inputScale.assign(source.inputScale, source.inputScale + source.k);

  const int64_t panels = layout::panels(weight.shape);
  const size_t scaleBytes = static_cast<size_t>(panels * layout::groups(weight.shape) * kPanel) * sizeof(float);
  Result<AlignedBuffer> data = AlignedBuffer::allocate(static_cast<size_t>(panels * layout::panelBytes(weight.shape)));
  if (!data.ok()) return data.status();
  Result<AlignedBuffer> scales = AlignedBuffer::allocate(scaleBytes);
  if (!scales.ok()) return scales.status();
  Result<AlignedBuffer> zeros = AlignedBuffer::allocate(source.zeros != nullptr ? scaleBytes : 0);
  if (!zeros.ok()) return zeros.status();
  weight.data = std::move(data.value());
  weight.scales = std::move(scales.value());
  weight.zeros = std::move(zeros.value());

  std::atomic<bool> valid{true};
  const CodePacker packer(source, &weight);
  ThreadPool::instance().run(panels, [&](int64_t panel, int) {
    if (packer.panel(panel) != 0) valid.store(false, std::memory_order_relaxed);
  });
  if (!valid.load()) return invalidCode(source);
  return weight;
} catch (const std::bad_alloc&) {
  return Status(Code::kMemory,
                "packCodes: no memory to pack a weight of shape [" + number(source.n) + ", " + number(source.k) + "]");
}

}  // namespace tsq
