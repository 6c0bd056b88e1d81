#include "kernels/prepared.h"

#include <algorithm>

#include "kernels/scratch.h"

namespace tsq {
namespace {

using layout::kBundle;
using layout::kChunkBytes;
using layout::Shape;

// Kernels may read this much behind the chunks of a bundle of fewer than 16 rows.
constexpr int64_t kSlackFloats = 256;

// How many bf16 numbers hold one activation exactly: 8, 11 and 24 bits of significand.
int limbsOf(Dtype dtype) {
  return dtype == Dtype::kBF16 ? 1 : dtype == Dtype::kF16 ? 2 : 3;
}

int64_t wholeLines(int64_t floats) {
  return layout::roundUp(floats, 16);
}

}  // namespace

Prepared::Prepared(const KernelTable& table, const MatmulArgs& args) : args_(&args) {
  const layout::WeightKind kind = args.weight->shape.kind;
  if (args.activations == Activations::kScheme && !args.weight->activations.exact()) scheme = &args.weight->activations;
  // An input scale turns 16-bit activations into f32 ones, and so does a scheme.
  const bool asTheyAre = args.weight->inputScale.empty() && scheme == nullptr;
  const Dtype type = asTheyAre ? args.xType : Dtype::kF32;
  if (scheme != nullptr && codesFit(table)) {
    form_ = Form::kCodes;
    dots = table.quads;
    quads = true;
  } else if (scheme != nullptr && floatsFit(table)) {
    form_ = Form::kFloats;
    dots = table.pairs;
  } else if (args.activations == Activations::kInt8 && table.quads != nullptr &&
             table.quads->pays(kind, type, args.m)) {
    dots = table.quads;
    quads = true;
  } else if (scheme == nullptr && fixedPoint(table, type)) {
    dots = table.digits;
    quads = true;
  } else if (table.pairs != nullptr && table.pairs->pays(kind, type, args.m)) {
    dots = table.pairs;
    limbs = limbsOf(type);
  } else if (scheme == nullptr && args.xType == Dtype::kF32 &&
             reinterpret_cast<uintptr_t>(args.x) % alignof(float) == 0 && plain() &&
             layout::packedK(args.weight->shape) == args.weight->shape.k) {
    direct = true;
    rows = static_cast<const float*>(args.x);
    stride = args.ldx;
  }
}

// Whether the fixed-point kernel takes all rows; sets the limbs of the row that needs most.
bool Prepared::fixedPoint(const KernelTable& table, Dtype type) {
  if (table.digits == nullptr || !table.digits->pays(shape().kind, type, args_->m)) return false;
  const int significand = type == Dtype::kBF16 ? 8 : type == Dtype::kF16 ? 11 : 24;
  const int64_t width = layout::packedK(shape());
  float* room = threadScratch(ScratchUse::kRow, width + shape().k);
  if (room == nullptr) return false;
  int most = 0;
  for (int64_t index = 0; index < args_->m; ++index) {
    const int needed = table.digits->limbs(shape(), ordered(table, index, room), significand);
    if (needed == 0) return false;
    most = std::max(most, needed);
  }
  limbs = most;
  return true;
}

// Packed order is the order of x, but for padding behind the last column.
bool Prepared::plain() const {
  const PackedWeight& weight = *args_->weight;
  const bool gaps = layout::groupStride(shape()) != shape().groupSize && layout::groups(shape()) > 1;
  return weight.order.empty() && weight.inputScale.empty() && !gaps;
}

bool Prepared::sameAs(const Prepared& other) const {
  if (args_->x != other.args_->x || args_->ldx != other.args_->ldx || args_->m != other.args_->m) return false;
  if (dots != other.dots || quads != other.quads || limbs != other.limbs || form_ != other.form_) return false;
  if ((scheme == nullptr) != (other.scheme == nullptr)) return false;
  if (scheme != nullptr && !(*scheme == *other.scheme)) return false;
  const Shape &a = shape(), &b = other.shape();
  // The order of k within a chunk follows the kind; `linear` only sees where groups are padded.
  const bool sameKind = dots == nullptr ? layout::groupAlign(a.kind) == layout::groupAlign(b.kind) : a.kind == b.kind;
  if (!sameKind || a.k != b.k || a.groupSize != b.groupSize) return false;
  return args_->weight->order == other.args_->weight->order &&
         args_->weight->inputScale == other.args_->weight->inputScale;
}

int64_t Prepared::floats() const {
  const int64_t m = args_->m, extras = m * extraStride();
  if (direct) return 0;
  if (dots == nullptr) return m * layout::roundUp(layout::packedK(shape()), 16);
  const int64_t chunks = m * layout::rowBytes(shape(), chunkSize(), limbs) / 4 + kSlackFloats;
  return chunks + wholeLines(m * scaled()) + (quads ? wholeLines(m * scaled() * limbs) : 0) + extras;
}

float* Prepared::place(float* memory) {
  if (direct) return memory;
  float* end = memory + floats();
  if (dots == nullptr) {
    rowMemory_ = memory;
    rows = memory;
    stride = layout::roundUp(layout::packedK(shape()), 16);
    return end;
  }
  chunks_ = reinterpret_cast<uint8_t*>(memory);
  const int64_t count = args_->m * scaled(), sums = quads ? wholeLines(count * limbs) : 0;
  extraMemory_ = end - args_->m * extraStride();
  extra = extraMemory_;
  scales_ = extraMemory_ - sums - wholeLines(count);
  sums_ = quads ? reinterpret_cast<int32_t*>(extraMemory_ - sums) : nullptr;
  return end;
}

void Prepared::convert(const KernelTable& table, int64_t index, float* out) const {
  const PackedWeight& weight = *args_->weight;
  const char* source = static_cast<const char*>(args_->x) + index * args_->ldx * dtypeBytes(args_->xType);
  table.toFloat(source, args_->xType, out, shape().k);
  if (weight.inputScale.empty()) return;
  for (int64_t i = 0; i < shape().k; ++i) out[i] *= weight.inputScale[i];
}

// Row `index` as f32 in packed column order, scaled, with zeros in padding columns. flat: room for k floats.
void Prepared::gather(const KernelTable& table, int64_t index, float* out, float* flat, ActivationGrid* grid) const {
  const PackedWeight& weight = *args_->weight;
  const Shape& s = shape();
  float* values = plain() ? out : flat;
  convert(table, index, values);
  if (scheme != nullptr) {
    const ActivationGrid own = apply(index, values);
    if (grid != nullptr) *grid = own;
  }
  if (values == out) {
    std::fill(out + s.k, out + layout::packedK(s), 0.0f);
    return;
  }
  const int32_t* order = weight.order.empty() ? nullptr : weight.order.data();
  for (int64_t begin = 0, p = 0; begin < s.k; begin += s.groupSize) {
    const int64_t end = std::min(begin + s.groupSize, s.k);
    for (int64_t i = begin; i < end; ++i) out[p++] = flat[order != nullptr ? order[i] : i];
    while (p % layout::groupAlign(s.kind) != 0) out[p++] = 0;
  }
}

// In place where nothing changes, or in `room`, packedK + k floats.
const float* Prepared::ordered(const KernelTable& table, int64_t index, float* room, ActivationGrid* grid) const {
  const int64_t width = layout::packedK(shape());
  const bool stays = scheme == nullptr || (form_ == Form::kCodes && outlierCount == 0);
  if (stays && args_->xType == Dtype::kF32 && plain() && width == shape().k &&
      reinterpret_cast<uintptr_t>(args_->x) % alignof(float) == 0) {
    const float* x = static_cast<const float*>(args_->x) + index * args_->ldx;
    if (scheme != nullptr) {
      const ActivationGrid own = gridFor(x);
      setExtra(index, x, own);
      if (grid != nullptr) *grid = own;
    }
    return x;
  }
  gather(table, index, room, room + width, grid);
  return room;
}

bool Prepared::row(const KernelTable& table, int64_t index) const {
  if (direct) return true;
  const int64_t width = layout::packedK(shape());
  float* room = threadScratch(ScratchUse::kRow, width + shape().k);
  if (room == nullptr) return false;
  if (dots == nullptr) {
    gather(table, index, rowMemory_ + index * stride, room, nullptr);
    return true;
  }
  const int64_t bundle = index / kBundle, bundleRows = std::min(kBundle, args_->m - bundle * kBundle);
  const int64_t blocks = scaled(), at = bundle * kBundle * blocks + index % kBundle;
  SplitRow split{};
  split.shape = &shape();
  ActivationGrid grid{};
  split.x = ordered(table, index, room, &grid);
  split.limbs = limbs;
  split.chunks =
      chunks_ + bundle * kBundle * layout::rowBytes(shape(), chunkSize(), limbs) + index % kBundle * kChunkBytes;
  split.apart = bundleRows * kChunkBytes;
  split.scales = scales_ + at;
  split.step = bundleRows;
  if (quads) split.sums = sums_ + bundle * kBundle * blocks * limbs + index % kBundle;
  if (form_ == Form::kCodes) {
    split.scale = grid.scale;
    split.zero = grid.zero;
    split.byRow = byRow();
  } else if (form_ == Form::kFloats) {
    roundFloats(room, grid, split);
  } else if (!quads) {
    for (int64_t block = 0; block < blocks; ++block) split.scales[block * split.step] = 1;
  }
  dots->split(split);
  return true;
}

bool Prepared::groupSums(const KernelTable& table, int64_t index, float* sums, int64_t count) const {
  float* room = threadScratch(ScratchUse::kRow, layout::packedK(shape()) + shape().k);
  if (room == nullptr) return false;
  const float* x = ordered(table, index, room);
  const int64_t stride = layout::groupStride(shape()), width = layout::packedK(shape());
  for (int64_t group = 0; group < layout::groups(shape()); ++group) {
    constexpr int64_t kLanes = 8;  // every group begins and ends at a multiple of these
    float lanes[kLanes] = {};
    const int64_t end = std::min(width, (group + 1) * stride);
    for (int64_t p = group * stride; p < end; p += kLanes) {
      for (int64_t i = 0; i < kLanes; ++i) lanes[i] += x[p + i];
    }
    sums[group] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
  std::fill(sums + layout::groups(shape()), sums + count, 0.0f);
  return true;
}

DotCall Prepared::call(const PackedView& w, int64_t row, int64_t rowCount, float* y, int64_t ldy, const float* bias,
                       int64_t panelBegin, int64_t panelEnd, float* scratch) const {
  // Row blocks begin at whole bundles.
  const int64_t blocks = scaled();
  return {&w,
          chunks_ + row * layout::rowBytes(shape(), chunkSize(), limbs),
          scales_ + row * blocks,
          quads ? sums_ + row * blocks * limbs : nullptr,
          limbs,
          rowCount,
          y,
          ldy,
          bias,
          panelBegin,
          panelEnd,
          reinterpret_cast<uint8_t*>(scratch),
          byRow()};
}

}  // namespace tsq
