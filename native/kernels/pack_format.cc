#include "kernels/pack_format.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/checksum.h"

namespace tsq::packfile {
namespace {

using layout::ScaleType;
using layout::WeightKind;

static_assert(std::endian::native == std::endian::little);

// Far above any weight, and small enough that sums of sizes cannot overflow.
constexpr int64_t kMaxSection = int64_t{1} << 50;

constexpr uint8_t kHasZeros = 1, kHasOrder = 2, kHasInputScale = 4, kHasOffsets = 8, kHasRowSums = 16, kAllParts = 31;

std::string number(int64_t value) {
  return std::to_string(value);
}

bool bitsFit(WeightKind kind, int bits) {
  switch (kind) {
    case WeightKind::kF32:
      return bits == 32 || (bits >= 2 && bits <= 8);  // floats, or what codes stand for
    case WeightKind::kF16:
    case WeightKind::kBF16:
      return bits == 16;
    case WeightKind::kE4M3:
    case WeightKind::kE5M2:
      return bits == 8;
    default:
      return bits >= 2 && bits <= layout::codeBits(kind);
  }
}

layout::Shape shapeOf(const Entry& entry) {
  return {static_cast<WeightKind>(entry.kind), entry.n, entry.k, entry.groupSize};
}

Status damaged(const Entry& entry, const std::string& expected) {
  return {Code::kCorrupt, "a weight [" + number(entry.n) + ", " + number(entry.k) + "] of kind " + number(entry.kind) +
                              ", " + number(entry.bits) + " bits and groups of " + number(entry.groupSize) +
                              ", expected " + expected};
}

ActivationScheme schemeOf(const Entry& entry) {
  return {static_cast<ActivationType>(entry.activationType),
          static_cast<ActivationGrain>(entry.activationGrain),
          entry.symmetric != 0,
          entry.dynamic != 0,
          entry.activationGroup,
          entry.activationScale,
          entry.activationZero,
          entry.threshold};
}

// Of the pack that the sums of a weight's rows are.
layout::Shape rowSumsShape(const layout::Shape& shape) {
  return {WeightKind::kF32, shape.n, 1, 1};
}

// Of the pack that a weight's offsets are.
layout::Shape offsetsShape(const layout::Shape& shape) {
  const int64_t groups = layout::groups(shape);
  return {WeightKind::kF32, shape.n, groups, groups};
}

}  // namespace

Status checkHeader(const Header& header) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    return {Code::kFormat, "this is no file of packed weights: it begins otherwise"};
  if (header.format != kFormatVersion || header.layout != layout::kVersion) {
    return {Code::kFormat, "format " + number(header.format) + " with layout " + number(header.layout) +
                               ", expected format " + number(kFormatVersion) + " with layout " +
                               number(layout::kVersion) + ": another version made it"};
  }
  if (header.checksum != checksum(&header, offsetof(Header, checksum)))
    return {Code::kCorrupt, "the header does not match its checksum: the file is damaged"};
  if (header.weights > kMaxWeights || header.metaBytes > kMaxMeta ||
      header.floats > static_cast<uint64_t>(kMaxSection) / 4 || header.fileBytes > INT64_MAX) {
    return {Code::kCorrupt, "the header claims " + number(header.weights) + " weights, " + number(header.metaBytes) +
                                " bytes of text and " + std::to_string(header.floats) + " floats in " +
                                std::to_string(header.fileBytes) + " bytes: more than any model has"};
  }
  return {};
}

Result<Sizes> sectionSizes(const Entry& entry) {
  if (entry.kind > static_cast<uint8_t>(layout::kLastKind)) return damaged(entry, "a kind of 0 to 10");
  const layout::Shape shape = shapeOf(entry);
  const bool integer = layout::isInteger(shape.kind), scaled = layout::hasScales(shape.kind);
  if (!bitsFit(shape.kind, entry.bits)) return damaged(entry, "bits that fit the kind");
  if (entry.scaleType > static_cast<uint8_t>(ScaleType::kBF16) || entry.optional > kAllParts || entry.reserved != 0)
    return damaged(entry, "scales of type 0 to 2 and no unknown parts");
  if (entry.n < 1 || entry.k < 1 || entry.n > INT32_MAX || entry.k > INT32_MAX)
    return damaged(entry, "1 to 2^31 - 1 rows and columns");
  if (entry.groupSize < 1 || entry.groupSize > entry.k || (!scaled && entry.groupSize != entry.k))
    return damaged(entry, scaled ? "groups of 1 to k" : "one group of k");
  if (!integer && (entry.optional & kHasZeros) != 0) return damaged(entry, "no zero points with floats and code books");
  if (!integer && (entry.optional & kHasOffsets) != 0) return damaged(entry, "no offsets with floats and code books");
  if ((entry.optional & (kHasZeros | kHasOffsets)) == (kHasZeros | kHasOffsets))
    return damaged(entry, "zero points or offsets");
  const ActivationScheme scheme = schemeOf(entry);
  if (entry.symmetric > 1 || entry.dynamic > 1 || (!scheme.exact() && !check(scheme).ok()))
    return damaged(entry, "activations as some scheme has them");
  if (((entry.optional & kHasRowSums) != 0) != (!scheme.exact() && !scheme.symmetric))
    return damaged(entry, "sums of rows where activations have zero points");
  // Neither factor exceeds 2^42, so only their product has to be watched.
  const int64_t panels = layout::panels(shape), groups = layout::groups(shape);
  if (layout::panelBytes(shape) > kMaxSection / panels || groups > kMaxSection / (panels * layout::kPanel * 4))
    return damaged(entry, "sections of at most 2^50 bytes");
  const uint64_t scales = scaled ? static_cast<uint64_t>(panels * groups * layout::kPanel) : 0;
  const uint64_t columns = static_cast<uint64_t>(entry.k) * 4;
  return Sizes{
      {static_cast<uint64_t>(panels * layout::panelBytes(shape)),
       scales * (static_cast<ScaleType>(entry.scaleType) == ScaleType::kF32 ? 4 : 2),
       (entry.optional & kHasZeros) != 0 ? scales : 0, (entry.optional & kHasOrder) != 0 ? columns : 0,
       (entry.optional & kHasInputScale) != 0 ? columns : 0,
       layout::hasBook(shape.kind) ? layout::kBookSize * sizeof(float) : 0,
       (entry.optional & kHasOffsets) != 0 ? static_cast<uint64_t>(panels * layout::panelBytes(offsetsShape(shape)))
                                           : 0,
       (entry.optional & kHasRowSums) != 0 ? static_cast<uint64_t>(panels * layout::panelBytes(rowSumsShape(shape)))
                                           : 0}};
}

const void* section(const PackedWeight& weight, Part part) {
  switch (part) {
    case kData:
      return weight.data.data();
    case kScales:
      return weight.scales.data();
    case kZeros:
      return weight.zeros.data();
    case kOrder:
      return weight.order.data();
    case kBook:
      return weight.book.data();
    case kOffsets:
      return weight.offsets ? weight.offsets->data.data() : nullptr;
    case kRowSums:
      return weight.rowSums ? weight.rowSums->data.data() : nullptr;
    default:
      return weight.inputScale.data();
  }
}

Result<Entry> describe(const PackedWeight& weight) {
  Entry entry{};
  entry.kind = static_cast<uint8_t>(weight.shape.kind);
  entry.bits = static_cast<uint8_t>(weight.bits);
  entry.scaleType = static_cast<uint8_t>(weight.scaleType);
  entry.optional =
      static_cast<uint8_t>((weight.zeros.size() > 0 ? kHasZeros : 0) | (weight.order.empty() ? 0 : kHasOrder) |
                           (weight.inputScale.empty() ? 0 : kHasInputScale) | (weight.offsets ? kHasOffsets : 0) |
                           (weight.rowSums ? kHasRowSums : 0));
  const ActivationScheme& scheme = weight.activations;
  entry.activationType = static_cast<uint8_t>(scheme.type);
  entry.activationGrain = static_cast<uint8_t>(scheme.grain);
  entry.symmetric = scheme.symmetric ? 1 : 0;
  entry.dynamic = scheme.dynamic ? 1 : 0;
  entry.activationZero = scheme.zero;
  entry.activationScale = scheme.scale;
  entry.threshold = scheme.threshold;
  entry.activationGroup = scheme.groupSize;
  entry.n = weight.shape.n;
  entry.k = weight.shape.k;
  entry.groupSize = weight.shape.groupSize;
  const Result<Sizes> sizes = sectionSizes(entry);
  if (!sizes.ok()) return Status(Code::kUnsupported, sizes.status().message());
  const uint64_t held[kParts] = {weight.data.size(),
                                 weight.scales.size(),
                                 weight.zeros.size(),
                                 weight.order.size() * 4,
                                 weight.inputScale.size() * 4,
                                 weight.book.size() * 4,
                                 weight.offsets ? weight.offsets->data.size() : 0,
                                 weight.rowSums ? weight.rowSums->data.size() : 0};
  const int32_t zero = commonZero(weight.shape.kind, weight.bits);
  if (std::memcmp(held, sizes.value().bytes, sizeof held) != 0 || weight.zero != zero)
    return Status(Code::kUnsupported, damaged(entry, "sections of the sizes that its shape has").message());
  return entry;
}

uint64_t blockBytes(const Sizes& sizes) {
  return aligned(sizes.bytes[kData]) + aligned(sizes.bytes[kScales]) + aligned(sizes.bytes[kZeros]) +
         aligned(sizes.bytes[kOffsets]) + aligned(sizes.bytes[kRowSums]);
}

PackedWeight place(const Entry& entry, const Sizes& sizes, const std::shared_ptr<const AlignedBuffer>& block,
                   uint64_t offset) {
  PackedWeight weight;
  weight.shape = shapeOf(entry);
  weight.bits = entry.bits;
  weight.scaleType = static_cast<ScaleType>(entry.scaleType);
  weight.zero = commonZero(weight.shape.kind, weight.bits);
  const auto next = [&](Part part) {
    const uint64_t begin = offset;
    offset += aligned(sizes.bytes[part]);
    return AlignedBuffer::part(block, static_cast<size_t>(begin), static_cast<size_t>(sizes.bytes[part]));
  };
  weight.data = next(kData);
  weight.scales = next(kScales);
  weight.zeros = next(kZeros);
  if (sizes.bytes[kOffsets] > 0) {
    PackedWeight offsets;
    offsets.shape = offsetsShape(weight.shape);
    offsets.bits = 32;
    offsets.data = next(kOffsets);
    weight.offsets = std::make_shared<const PackedWeight>(std::move(offsets));
  }
  weight.activations = schemeOf(entry);
  if (sizes.bytes[kRowSums] > 0) {
    PackedWeight sums;
    sums.shape = rowSumsShape(weight.shape);
    sums.bits = 32;
    sums.data = next(kRowSums);
    weight.rowSums = std::make_shared<const PackedWeight>(std::move(sums));
  }
  weight.order.resize(static_cast<size_t>(sizes.bytes[kOrder] / sizeof(int32_t)));
  weight.inputScale.resize(static_cast<size_t>(sizes.bytes[kInputScale] / sizeof(float)));
  weight.book.resize(static_cast<size_t>(sizes.bytes[kBook] / sizeof(float)));
  return weight;
}

Status checkContents(const PackedWeight& weight) {
  for (const float value : weight.book) {
    const bool whole = value == std::nearbyint(value) && value >= -128 && value < 128;
    if (!std::isfinite(value) || (weight.shape.kind == WeightKind::kI4 && !whole))
      return {Code::kCorrupt, "a weight [" + number(weight.shape.n) + ", " + number(weight.shape.k) +
                                  "] whose code book has the value " + std::to_string(value) +
                                  ", expected finite numbers, and whole ones of 8 bits for kind 10"};
  }
  std::vector<bool> seen(weight.order.size());
  for (const int32_t column : weight.order) {
    if (column < 0 || column >= weight.shape.k || seen[static_cast<size_t>(column)])
      return {Code::kCorrupt, "a weight [" + number(weight.shape.n) + ", " + number(weight.shape.k) +
                                  "] whose order has column " + number(column) +
                                  " out of range or twice, expected every column once"};
    seen[static_cast<size_t>(column)] = true;
  }
  return {};
}

}  // namespace tsq::packfile
