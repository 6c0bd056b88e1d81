// y = x W^T + bias on the calling thread and the pool: activations are prepared once, outputs are cut into tasks.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "kernels/blocking.h"
#include "kernels/kernels.h"
#include "kernels/packed_weight.h"
#include "kernels/scratch.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;

// Below these the caller works alone: waking the pool costs some microseconds.
constexpr int64_t kInlineProducts = 1 << 17;
constexpr int64_t kInlineElements = 1 << 14;

bool isFloat(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}
bool alignedFloats(const void* pointer, Dtype dtype) {
  return dtype == Dtype::kF32 && reinterpret_cast<uintptr_t>(pointer) % alignof(float) == 0;
}

template <typename F>
void forTasks(bool alone, int64_t tasks, F&& task) {
  if (!alone && tasks > 1) return ThreadPool::instance().run(tasks, task);
  for (int64_t i = 0; i < tasks; ++i) task(i, 0);
}

Status check(const MatmulArgs& args) {
  const Shape& shape = args.weight->shape;
  if (!isFloat(args.xType)) return {Code::kDtype, "matmul: x is an integer tensor, expected f32, f16 or bf16"};
  if (!isFloat(args.yType)) return {Code::kDtype, "matmul: y is an integer tensor, expected f32, f16 or bf16"};
  if (args.m < 0) return {Code::kShape, "matmul: x has " + std::to_string(args.m) + " rows, expected 0 or more"};
  if (args.m > 1 && (args.ldx < shape.k || args.ldy < shape.n)) {
    return {Code::kShape, "matmul: row strides are " + std::to_string(args.ldx) + " (x) and " +
                              std::to_string(args.ldy) + " (y), expected at least k = " + std::to_string(shape.k) +
                              " and n = " + std::to_string(shape.n)};
  }
  return {};
}

// One row of activations as f32 in packed column order, scaled, with zeros in padding columns.
void prepareRow(const KernelTable& table, const MatmulArgs& args, int64_t row, float* out) {
  const PackedWeight& weight = *args.weight;
  const Shape& shape = weight.shape;
  const char* source = static_cast<const char*>(args.x) + row * args.ldx * dtypeBytes(args.xType);
  const int64_t stride = layout::groupStride(shape), width = layout::packedK(shape);
  const bool gaps = stride != shape.groupSize && layout::groups(shape) > 1;
  const bool plain = weight.order.empty() && !gaps;
  float* flat = plain ? out : out + width;  // behind the row is room for k floats: see matmul()
  table.toFloat(source, args.xType, flat, shape.k);
  if (!weight.inputScale.empty()) {
    for (int64_t i = 0; i < shape.k; ++i) flat[i] *= weight.inputScale[i];
  }
  if (plain) {
    std::fill(out + shape.k, out + width, 0.0f);
    return;
  }
  const int32_t* order = weight.order.empty() ? nullptr : weight.order.data();
  for (int64_t begin = 0, p = 0; begin < shape.k; begin += shape.groupSize) {
    const int64_t end = std::min(begin + shape.groupSize, shape.k);
    for (int64_t i = begin; i < end; ++i) out[p++] = flat[order != nullptr ? order[i] : i];
    while (p % layout::kGroupAlign != 0) out[p++] = 0;
  }
}

// The cut of one call into tasks. Row blocks depend on m alone and a kernel's arithmetic does not depend on its panel
// range, so the result is the same for any number of threads.
struct Split {
  int64_t rowBlocks;
  int64_t panels, panelBlocks;  // per task; tasks along n
};

Split split(const Shape& shape, int64_t m, int threads) {
  Split cut{};
  cut.rowBlocks = blocking::rowBlocks(m);
  const int64_t panels = layout::panels(shape);
  // About eight tasks a thread even out uneven threads; a task keeps an even number of panels, since wide kernels take
  // pairs.
  const int64_t wanted = layout::divideUp(8 * threads, cut.rowBlocks);
  const int64_t most = 64, least = m <= 64 ? 2 : 8;
  cut.panels = std::clamp(layout::roundUp(panels / wanted, 2), least, most);
  cut.panelBlocks = layout::divideUp(panels, cut.panels);
  return cut;
}

}  // namespace

Status matmul(const MatmulArgs& args) {
  TSQ_RETURN_IF_ERROR(check(args));
  if (args.m == 0) return {};
  const KernelTable& table = kernels();
  const PackedWeight& weight = *args.weight;
  const PackedView view = weight.view();
  const Shape& shape = weight.shape;
  const int64_t width = layout::packedK(shape), m = args.m;

  const float* x = static_cast<const float*>(args.x);
  int64_t ldx = args.ldx;
  const bool direct =
      alignedFloats(args.x, args.xType) && width == shape.k && weight.order.empty() && weight.inputScale.empty();
  if (!direct) {
    // Rows lie behind each other; the last one has k more floats, where a row is converted before it is put in order.
    // Threads that prepare rows at the same time each need their own, so every row keeps that room when order or gaps
    // ask for it.
    const bool inPlace =
        weight.order.empty() && (layout::groupStride(shape) == shape.groupSize || layout::groups(shape) == 1);
    ldx = layout::roundUp(inPlace ? width : width + shape.k, kPanel);
    float* prepared = threadScratch(ScratchUse::kActivations, m * ldx);
    if (prepared == nullptr) {
      return {Code::kMemory,
              "matmul: no memory for " + std::to_string(m) + " rows of " + std::to_string(shape.k) + " activations"};
    }
    forTasks(m * width < kInlineElements, m,
             [&](int64_t row, int) { prepareRow(table, args, row, prepared + row * ldx); });
    x = prepared;
  }

  const bool alone = m * width * shape.n < kInlineProducts;
  const Split cut = split(shape, m, alone ? 1 : ThreadPool::instance().threads());
  const bool directOut = alignedFloats(args.y, args.yType);
  const int64_t kernelFloats = m > blocking::kFusedRows ? linearScratch(shape) : 0;
  std::atomic<bool> outOfMemory{false};
  forTasks(alone, cut.rowBlocks * cut.panelBlocks, [&](int64_t task, int) {
    const int64_t block = task % cut.rowBlocks, row = blocking::rowStart(m, block);
    const int64_t rows = blocking::rowStart(m, block + 1) - row;
    const int64_t begin = task / cut.rowBlocks * cut.panels, end = std::min(begin + cut.panels, layout::panels(shape));
    const int64_t column = begin * kPanel, columns = std::min(end * kPanel, shape.n) - column;
    float* scratch = threadScratch(ScratchUse::kKernel, kernelFloats);
    float* y = static_cast<float*>(args.y);
    int64_t ldy = args.ldy;
    if (!directOut) {
      ldy = (end - begin) * kPanel;
      y = threadScratch(ScratchUse::kOutput, rows * ldy);
    }
    if (scratch == nullptr || y == nullptr) {
      outOfMemory.store(true, std::memory_order_relaxed);
      return;
    }
    if (directOut) {
      table.linear(view, x + row * ldx, ldx, rows, y + row * ldy, ldy, args.bias, begin, end, scratch);
      return;
    }
    // The kernel addresses columns of the whole output: shift the tile's origin (as an integer, to stay within the
    // language).
    float* origin =
        reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(y) - static_cast<uintptr_t>(column) * sizeof(float));
    table.linear(view, x + row * ldx, ldx, rows, origin, ldy, args.bias, begin, end, scratch);
    char* out = static_cast<char*>(args.y);
    for (int64_t i = 0; i < rows; ++i) {
      table.fromFloat(y + i * ldy, out + ((row + i) * args.ldy + column) * dtypeBytes(args.yType), args.yType, columns);
    }
  });
  if (outOfMemory.load()) return {Code::kMemory, "matmul: no memory for the working space of a thread"};
  return {};
}

}  // namespace tsq
