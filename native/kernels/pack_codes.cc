// Integer codes into panels of 32-bit words (layout/packed.h).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include "kernels/code_words.h"
#include "kernels/interleave.h"
#include "kernels/kernels.h"
#include "kernels/pack_source.h"
#include "kernels/packed_weight.h"
#include "kernels/panel_words.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;
using layout::WeightKind;

// Panels that a task packs: they take whole cache lines of the columns of every layout that runs across rows.
constexpr int64_t kTaskPanels = 8;

// Of E4M3.
bool hasNan(const uint8_t* codes, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= (codes[i] & 0x7f) == 0x7f;
  return found;
}

class CodePacker {
 public:
  CodePacker(const CodesSource& source, PackedWeight* weight)
      : source_(source),
        stored_{source.codes, source.layout, source.n, source.k, source.bits},
        weight_(*weight),
        shape_(weight->shape),
        table_(kernels()),
        moves_(weight->order.empty() && hasPanelWords(stored_, shape_)) {}

  // Room that every thread needs for panels(): for the codes of a panel, where they are not a byte each already and not
  // all panels can be moved.
  int64_t roomBytes() const {
    const bool whole = shape_.n % kPanel == 0;
    return stored_.layout == layout::CodeLayout::kBytes || (moves_ && whole) ? 0 : kPanel * shape_.k;
  }

  // What panels() returns where an E4M3 is no number, which is no code that could be wrong.
  static constexpr uint8_t kNan = 1;
  // Packs panels [first, end); returns the bits that some code has and none may have.
  uint8_t panels(int64_t first, int64_t end, uint8_t* room) const {
    for (int64_t panel = first; panel < end; ++panel) scalesAndZeros(panel);
    const int64_t moved = moves_ ? std::clamp(shape_.n / kPanel, first, end) : first;
    if (moved > first) movePanelWords(stored_, shape_, first, moved - first, panelData(first));
    uint8_t seen = 0;
    bool nan = false;
    for (int64_t panel = moved; panel < end; ++panel) seen |= codes(panel, room, &nan);
    if (nan) return kNan;
    return static_cast<uint8_t>(seen & ~((1u << source_.bits) - 1));
  }

 private:
  uint8_t* panelData(int64_t panel) const { return weight_.data.as<uint8_t>() + panel * layout::panelBytes(shape_); }

  void scalesAndZeros(int64_t panel) const {
    switch (weight_.scaleType) {
      case layout::ScaleType::kF16:
        panelScales(panel, Dtype::kF16, weight_.scales.as<uint16_t>());
        break;
      case layout::ScaleType::kBF16:
        panelScales(panel, Dtype::kBF16, weight_.scales.as<uint16_t>());
        break;
      default:
        panelScales(panel, Dtype::kF32, weight_.scales.as<uint32_t>());
    }
    if (source_.zeros != nullptr) panelZeros(panel);
  }

  // Packs the codes of a panel; returns the bits that they have. *nan: set where an E4M3 is no number.
  uint8_t codes(int64_t panel, uint8_t* room, bool* nan) const {
    // Rows apart by more than a power of two, so that they fall into different cache sets. Rows that pad the last
    // panel stay zero: they have no scale.
    constexpr int64_t kStride = kCodeChunk / 4 + 16;
    alignas(64) uint32_t words[kPanel * kStride];
    const int64_t rows = std::min(kPanel, shape_.n - panel * kPanel), width = layout::packedK(shape_);
    if (rows < kPanel) std::memset(words, 0, sizeof words);
    const uint8_t* first = stored_.data + panel * kPanel * shape_.k;
    if (stored_.layout != layout::CodeLayout::kBytes) {
      unpackRows(stored_, panel * kPanel, rows, room);
      first = room;
    }
    uint32_t* out = reinterpret_cast<uint32_t*>(panelData(panel));
    uint8_t seen = 0;
    for (int64_t p = 0; p < width; p += kCodeChunk) {
      const int64_t count = std::min(kCodeChunk, width - p), perRow = count * layout::codeBits(shape_.kind) / 32;
      for (int64_t row = 0; row < rows; ++row) {
        alignas(64) uint8_t gathered[kCodeChunk];
        fetchAhead(first, rows, p, row);
        const uint8_t* codes = rowCodes(first + row * shape_.k, panel * kPanel + row, p, count, gathered, &seen);
        if (shape_.kind == WeightKind::kE4M3 && hasNan(codes, count)) *nan = true;
        codeWords(shape_.kind, codes, count, words + row * kStride);
      }
      if (layout::isSmallFloat(shape_.kind)) {
        byteColumns(words, kStride * 4, count, out);
      } else {
        interleave(words, kStride * 4, perRow, out);
      }
      out += perRow * kPanel;
    }
    return seen;
  }

  // Asks for the codes used four rows later, since the hardware stops at the end of every page: a row is one or more.
  void fetchAhead(const uint8_t* first, int64_t rows, int64_t p, int64_t row) const {
    constexpr int64_t kAhead = 4;
    row += kAhead;
    if (row >= rows) {
      row -= rows;
      p += kCodeChunk;
    }
    if (row >= rows) return;
    const uint8_t* codes = first + row * shape_.k;
    const int64_t end = std::min(p + kCodeChunk, shape_.k);
    for (int64_t i = p; i < end; i += 64) __builtin_prefetch(codes + i);
  }
  // Codes of packed columns [p, p + count) of row n, whose k codes are given: where they lie, or gathered in `room` and
  // padded. Adds their bits to *seen.
  const uint8_t* rowCodes(const uint8_t* codes, int64_t n, int64_t p, int64_t count, uint8_t* room,
                          uint8_t* seen) const {
    const int64_t stride = layout::groupStride(shape_);
    const bool gaps = stride != shape_.groupSize && layout::groups(shape_) > 1;
    if (weight_.order.empty() && !gaps && p + count <= shape_.k) {
      *seen |= bitsIn(codes + p, count);
      return codes + p;
    }
    const int32_t* order = weight_.order.empty() ? nullptr : weight_.order.data();
    for (int64_t done = 0; done < count;) {
      const int64_t group = (p + done) / stride, inGroup = (p + done) % stride;
      const int64_t begin = group * shape_.groupSize + inGroup;
      const int64_t end = std::min((group + 1) * shape_.groupSize, shape_.k);
      const int64_t here = std::min(count - done, stride - inGroup);
      const int64_t real = std::clamp<int64_t>(end - begin, 0, here);
      if (order == nullptr) {
        std::memcpy(room + done, codes + begin, static_cast<size_t>(real));
      } else {
        for (int64_t i = 0; i < real; ++i) room[done + i] = codes[order[begin + i]];
      }
      *seen |= bitsIn(room + done, real);
      std::memset(room + done + real, padding(n, group), static_cast<size_t>(here - real));
      done += here;
    }
    return room;
  }
  // A column of padding counts nothing whatever its code is; the zero point where it is a code.
  int padding(int64_t n, int64_t group) const {
    const int zero = source_.zeros != nullptr ? source_.zeros[n * layout::groups(shape_) + group] : weight_.zero;
    return zero & ((1 << source_.bits) - 1);
  }

  // Scales of a panel, exact in their type.
  template <typename T>
  void panelScales(int64_t panel, Dtype type, T* scales) const {
    constexpr int64_t kChunk = 128;
    alignas(64) T block[kPanel][kChunk];
    const int64_t groups = layout::groups(shape_), rows = std::min(kPanel, shape_.n - panel * kPanel);
    if (rows < kPanel) std::memset(block, 0, sizeof block);
    for (int64_t group = 0; group < groups; group += kChunk) {
      const int64_t count = std::min(kChunk, groups - group);
      for (int64_t row = 0; row < rows; ++row) {
        const float* source = source_.scales + (panel * kPanel + row) * groups + group;
        if constexpr (sizeof(T) == sizeof(float)) {
          std::memcpy(block[row], source, static_cast<size_t>(count) * sizeof(T));
        } else {
          table_.fromFloat(source, block[row], type, count);
        }
      }
      interleave(block, sizeof block[0], count, scales + layout::scaleIndex(shape_, panel * kPanel, group));
    }
  }
  void panelZeros(int64_t panel) const {
    const int64_t groups = layout::groups(shape_), rows = std::min(kPanel, shape_.n - panel * kPanel);
    uint8_t* out = weight_.zeros.as<uint8_t>() + layout::scaleIndex(shape_, panel * kPanel, 0);
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* source = source_.zeros + (panel * kPanel + row) * groups;
      for (int64_t group = 0; group < groups; ++group) out[group * kPanel + row] = source[group];
    }
  }

  const CodesSource& source_;
  const layout::StoredCodes stored_;
  const PackedWeight& weight_;
  const Shape& shape_;
  const KernelTable& table_;
  const bool moves_;  // panels of 16 rows hold the words that are stored
};

// Codes are multiplied less the common zero point; scale * zero goes to the offsets.
Result<PackedWeight> packOffsets(const CodesSource& source, const PackedWeight& weight) {
  const int64_t groups = layout::groups(weight.shape), count = source.n * groups;
  Result<AlignedBuffer> whole = AlignedBuffer::allocate(static_cast<size_t>(count) * sizeof(float));
  if (!whole.ok()) return whole.status();
  float* offsets = whole.value().as<float>();
  const auto zero = static_cast<float>(weight.zero);
  for (int64_t i = 0; i < count; ++i) offsets[i] = source.offsets[i] + zero * source.scales[i];
  return packDense(offsets, Dtype::kF32, source.n, groups, WeightKind::kF32);
}

// What the codes stand for, in f32: no kernel takes them.
Result<PackedWeight> packValues(const CodesSource& source) {
  if (source.groupIndex != nullptr) {
    std::vector<int32_t> order;
    TSQ_RETURN_IF_ERROR(orderColumns(source, {WeightKind::kU8, source.n, source.k, source.groupSize}, &order));
  }
  Result<AlignedBuffer> values = AlignedBuffer::allocate(static_cast<size_t>(source.n * source.k) * sizeof(float));
  if (!values.ok()) return values.status();
  CodesSource plain = source;
  plain.inputScale = nullptr;
  TSQ_RETURN_IF_ERROR(dequantize(plain, values.value().as<float>()));
  Result<PackedWeight> weight = packDense(values.value().data(), Dtype::kF32, source.n, source.k, WeightKind::kF32);
  if (!weight.ok()) return weight.status();
  weight.value().bits = source.bits;
  TSQ_RETURN_IF_ERROR(setActivations(&weight.value(), source.activations));
  if (source.inputScale != nullptr) weight.value().inputScale.assign(source.inputScale, source.inputScale + source.k);
  return weight;
}

// A code book whose values are whole numbers once they are doubled some times, and the scales halved.
Result<PackedWeight> packHalves(const CodesSource& source) {
  const int exponent = wholeExponent(source);
  const int64_t count = source.n * layout::divideUp(source.k, source.groupSize);
  Result<AlignedBuffer> halves = AlignedBuffer::allocate(static_cast<size_t>(count) * sizeof(float));
  if (!halves.ok()) return halves.status();
  float* scales = halves.value().as<float>();
  const float down = std::ldexp(1.0f, -exponent);
  for (int64_t i = 0; i < count; ++i) scales[i] = source.scales[i] * down;
  float book[layout::kBookSize];
  for (int i = 0; i < 1 << source.bits; ++i) book[i] = std::ldexp(source.codebook[i], exponent);
  CodesSource whole = source;
  whole.scales = scales;
  whole.codebook = book;
  return packCodes(whole);
}

}  // namespace

Result<PackedWeight> packCodes(const CodesSource& source) try {
  TSQ_RETURN_IF_ERROR(checkSource(source));
  if (source.codebook != nullptr && source.bits <= 4 && wholeExponent(source) > 0) return packHalves(source);
  PackedWeight weight;
  const WeightKind kind = kindOf(source);
  if (kind == WeightKind::kF32) return packValues(source);
  weight.shape = {kind, source.n, source.k, source.groupSize};
  weight.bits = source.bits;
  weight.zero = commonZero(kind, source.bits);
  if (layout::hasBook(kind)) {
    weight.book.assign(source.codebook, source.codebook + (size_t{1} << source.bits));
    weight.book.resize(layout::kBookSize);
  }
  if (source.groupIndex != nullptr) TSQ_RETURN_IF_ERROR(orderColumns(source, weight.shape, &weight.order));
  if (source.inputScale != nullptr) weight.inputScale.assign(source.inputScale, source.inputScale + source.k);

  const int64_t panels = layout::panels(weight.shape);
  const size_t scaleCount = static_cast<size_t>(panels * layout::groups(weight.shape) * kPanel);
  weight.scaleType = narrowestScales(source.scales, source.n * layout::groups(weight.shape));
  Result<AlignedBuffer> data = AlignedBuffer::allocate(static_cast<size_t>(panels * layout::panelBytes(weight.shape)));
  if (!data.ok()) return data.status();
  Result<AlignedBuffer> scales =
      AlignedBuffer::allocate(scaleCount * (weight.scaleType == layout::ScaleType::kF32 ? 4 : 2));
  if (!scales.ok()) return scales.status();
  Result<AlignedBuffer> zeros = AlignedBuffer::allocate(source.zeros != nullptr ? scaleCount : 0);
  if (!zeros.ok()) return zeros.status();
  weight.data = std::move(data.value());
  weight.scales = std::move(scales.value());
  weight.zeros = std::move(zeros.value());

  std::atomic<bool> valid{true};
  const CodePacker packer(source, &weight);
  ThreadPool& pool = ThreadPool::instance();
  const int threads = pool.threads();
  const int64_t roomBytes = packer.roomBytes();
  Result<AlignedBuffer> room = AlignedBuffer::allocate(static_cast<size_t>(threads * roomBytes));
  if (!room.ok()) return room.status();
  const auto pack = [&](int64_t task, int worker) {
    const int64_t first = task * kTaskPanels, end = std::min(panels, first + kTaskPanels);
    const uint8_t wrong = packer.panels(first, end, room.value().as<uint8_t>() + worker * roomBytes);
    if (wrong != 0) valid.store(false, std::memory_order_relaxed);
  };
  pool.run(layout::divideUp(panels, kTaskPanels), pack, threads);
  // The bits of a NaN are those of a number to the kernels.
  if (!valid.load() && kind == WeightKind::kE4M3) return packValues(source);
  if (!valid.load()) return layout::invalidCode({source.codes, source.layout, source.n, source.k, source.bits});
  if (source.offsets != nullptr) {
    Result<PackedWeight> offsets = packOffsets(source, weight);
    if (!offsets.ok()) return offsets.status();
    weight.offsets = std::make_shared<const PackedWeight>(std::move(offsets.value()));
  }
  TSQ_RETURN_IF_ERROR(setActivations(&weight, source.activations));
  return weight;
} catch (const std::bad_alloc&) {
  return Status(Code::kMemory, "packCodes: no memory to pack a weight of shape [" + std::to_string(source.n) + ", " +
                                   std::to_string(source.k) + "]");
}

}  // namespace tsq
