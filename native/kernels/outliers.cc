#include "kernels/outliers.h"

#include <algorithm>
#include <cstring>

#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;

// Columns of a task: some cache lines of every row.
constexpr int64_t kTaskColumns = 512;

int32_t magnitudeBits(float x) {
  return static_cast<int32_t>(floatToBits(x) & 0x7fffffffu);
}

float scaleAt(const PackedWeight& weight, int64_t index) {
  if (weight.scaleType == layout::ScaleType::kF16) return f16ToFloat(weight.scales.as<uint16_t>()[index]);
  if (weight.scaleType == layout::ScaleType::kBF16) return bf16ToFloat(weight.scales.as<uint16_t>()[index]);
  return weight.scales.as<float>()[index];
}

}  // namespace

void markOutliers(const KernelTable& table, const MatmulArgs& args, float threshold, uint8_t* marks) {
  const int64_t k = args.weight->shape.k;
  const float* inputScale = args.weight->inputScale.empty() ? nullptr : args.weight->inputScale.data();
  const int32_t limit = magnitudeBits(threshold);
  const auto task = [&](int64_t index, int) {
    const int64_t begin = index * kTaskColumns, count = std::min(kTaskColumns, k - begin);
    alignas(64) float row[kTaskColumns];
    alignas(64) int32_t peaks[kTaskColumns] = {};
    const char* x = static_cast<const char*>(args.x) + begin * dtypeBytes(args.xType);
    for (int64_t r = 0; r < args.m; ++r, x += args.ldx * dtypeBytes(args.xType)) {
      table.toFloat(x, args.xType, row, count);
      if (inputScale != nullptr) {
        for (int64_t i = 0; i < count; ++i) row[i] *= inputScale[begin + i];
      }
      for (int64_t i = 0; i < count; ++i) {
        const int32_t bits = magnitudeBits(row[i]);
        peaks[i] = bits > peaks[i] ? bits : peaks[i];
      }
    }
    for (int64_t i = 0; i < count; ++i) marks[begin + i] = peaks[i] >= limit ? 1 : 0;
  };
  const int64_t tasks = layout::divideUp(k, kTaskColumns);
  if (args.m * k < int64_t{1} << 15) {
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
  } else {
    ThreadPool::instance().run(tasks, task);
  }
}

Shape columnsShape(int64_t n, int64_t count) {
  return {layout::WeightKind::kF32, n, count, count};
}

void packedPlaces(const PackedWeight& weight, const int32_t* columns, int64_t count, int32_t* places) {
  const Shape& shape = weight.shape;
  if (weight.order.empty()) {
    for (int64_t i = 0; i < count; ++i) places[i] = static_cast<int32_t>(layout::packedColumn(shape, columns[i]));
    return;
  }
  // Both are walked by column of the activations; columns are sorted.
  for (int64_t place = 0; place < shape.k; ++place) {
    const int32_t* found = std::lower_bound(columns, columns + count, weight.order[static_cast<size_t>(place)]);
    if (found == columns + count || *found != weight.order[static_cast<size_t>(place)]) continue;
    places[found - columns] = static_cast<int32_t>(layout::packedColumn(shape, place));
  }
}

void gatherColumns(const PackedWeight& weight, const int32_t* places, int64_t count, int64_t panel, float* out) {
  const Shape& shape = weight.shape;
  const int64_t groups = layout::groups(shape), stride = layout::groupStride(shape);
  const uint8_t* codes = weight.data.as<uint8_t>() + panel * layout::panelBytes(shape);
  const uint8_t* zeros = weight.zeros.size() > 0 ? weight.zeros.as<uint8_t>() : nullptr;
  const int64_t columns = layout::packedK(columnsShape(shape.n, count));
  std::memset(out + count * kPanel, 0, static_cast<size_t>((columns - count) * kPanel) * sizeof(float));
  for (int64_t i = 0; i < count; ++i, out += kPanel) {
    const int64_t p = places[i], at = (panel * groups + p / stride) * kPanel;
    const uint8_t* word = codes + p / 4 * 64 + p % 4;
    for (int64_t j = 0; j < kPanel; ++j) {
      const int32_t zero = zeros != nullptr ? zeros[at + j] : weight.zero;
      out[j] = scaleAt(weight, at + j) * static_cast<float>(word[4 * j] - zero);
    }
  }
}

}  // namespace tsq
