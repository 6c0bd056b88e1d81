// y = x W^T + bias on the calling thread and the pool: activations are prepared once, outputs are cut into tasks.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "kernels/blocking.h"
#include "kernels/kernels.h"
#include "kernels/outliers.h"
#include "kernels/packed_weight.h"
#include "kernels/prepared.h"
#include "kernels/scratch.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;

// Below these the caller works alone: waking the pool costs some microseconds.
constexpr int64_t kInlineProducts = 1 << 17;
constexpr int64_t kInlineElements = 1 << 15;
// Products of one call at most: their bookkeeping lives on the stack.
constexpr int kMostProducts = 8;
// Rows of a task of the pair and quad kernels, which keep the totals of a task in the second-level cache.
constexpr int64_t kDotRows = 256, kDotRowAlign = 32;

bool isFloat(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
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

// One product with its activations ready, cut into tasks. Row blocks depend on m alone and a kernel's arithmetic does
// not depend on its panel range, so the result is the same for any number of threads.
struct Cut {
  const MatmulArgs* args;
  const Prepared* x;
  PackedView view;
  int64_t rowBlocks;
  int64_t panels, panelBlocks;  // panels of a task; tasks along n
  int64_t scratchFloats;
  // A product of f32 that is added to this one: of offsets with the groups' sums of x, or what a scheme leaves beside
  // its codes.
  PackedView extraView{};
  const float* extra = nullptr;  // [m], extraStride floats apart
  int64_t extraStride = 0;
  int64_t tasks() const { return rowBlocks * panelBlocks; }
  int64_t rowStart(int64_t block) const {
    if (x->dots == nullptr) return blocking::rowStart(args->m, block);
    return std::min(args->m, block * layout::roundUp(layout::divideUp(args->m, rowBlocks), kDotRowAlign));
  }
};

Cut cut(const MatmulArgs& args, const Prepared& x, int threads) {
  const Shape& shape = args.weight->shape;
  const bool dots = x.dots != nullptr;
  Cut c{&args, &x, args.weight->view(), dots ? layout::divideUp(args.m, kDotRows) : blocking::rowBlocks(args.m), 0,
        0,     0};
  const int64_t panels = layout::panels(shape);
  // About eight tasks a thread even out uneven threads; a task keeps whole groups of the panels that kernels take
  // together.
  const int64_t wanted = layout::divideUp(8 * threads, c.rowBlocks), step = dots ? 4 : 2;
  const int64_t most = 64, least = args.m <= 64 ? step : 8;
  c.panels = std::clamp(layout::roundUp(panels / wanted, step), least, most);
  c.panelBlocks = layout::divideUp(panels, c.panels);
  if (dots) {
    c.scratchFloats = layout::divideUp(x.dots->scratchBytes(shape, std::min(args.m, kDotRows), c.panels), 4);
  } else if (args.m > blocking::kFusedRows) {
    c.scratchFloats = linearScratch(shape);
  }
  return c;
}

// Floats between the group sums of two rows.
int64_t sumStride(const PackedWeight& weight) {
  return layout::roundUp(layout::packedK(weight.offsets->shape), 16);
}

// Memory of the product beside one: sums of groups, or outlier columns of the weight and their places.
int64_t extraFloats(const MatmulArgs& args, const Prepared& x) {
  if (args.weight->offsets) return args.m * sumStride(*args.weight);
  if (x.outlierCount == 0) return 0;
  const Shape shape = columnsShape(args.weight->shape.n, x.outlierCount);
  return layout::panels(shape) * layout::panelBytes(shape) / 4 + layout::roundUp(x.outlierCount, 16);
}

// Prepares it, where there is one. False: no memory.
bool setExtra(const KernelTable& table, Cut* cut, float* memory) {
  const PackedWeight& weight = *cut->args->weight;
  const Prepared& x = *cut->x;
  if (weight.offsets) {
    const int64_t stride = sumStride(weight);
    cut->extraView = weight.offsets->view();
    cut->extra = memory;
    cut->extraStride = stride;
    std::atomic<bool> enough{true};
    forTasks(cut->args->m * weight.shape.k < kInlineElements, cut->args->m, [&](int64_t row, int) {
      if (!x.groupSums(table, row, memory + row * stride, stride)) enough.store(false, std::memory_order_relaxed);
    });
    return enough.load();
  }
  if (x.extraColumns() == 0) return true;
  cut->extra = x.extra;
  cut->extraStride = x.extraStride();
  if (x.outlierCount == 0) {
    cut->extraView = weight.rowSums->view();
    return true;
  }
  const Shape shape = columnsShape(weight.shape.n, x.outlierCount);
  const int64_t panel = layout::panelBytes(shape) / 4;
  auto* places = reinterpret_cast<int32_t*>(memory + layout::panels(shape) * panel);
  packedPlaces(weight, x.outliers, x.outlierCount, places);
  cut->extraView = {shape, memory, nullptr, layout::ScaleType::kF32, nullptr, 0};
  forTasks(shape.n * x.outlierCount < kInlineElements, layout::panels(shape),
           [&](int64_t index, int) { gatherColumns(weight, places, x.outlierCount, index, memory + index * panel); });
  return true;
}

bool alignedFloats(const void* pointer, Dtype dtype) {
  return dtype == Dtype::kF32 && reinterpret_cast<uintptr_t>(pointer) % alignof(float) == 0;
}

// Adds the product beside this one to the task's part of y, where element [row][column] of the whole is at
// origin[(row - first) ldy + column].
bool addExtra(const KernelTable& table, const Cut& c, int64_t first, int64_t rows, float* origin, int64_t ldy,
              int64_t begin, int64_t end) {
  const Shape& shape = c.extraView.shape;
  const int64_t stride = c.extraStride, width = (end - begin) * kPanel, column = begin * kPanel;
  const int64_t columns = std::min(end * kPanel, shape.n) - column;
  for (int64_t done = 0; done < rows; done += blocking::kRows) {
    const int64_t count = std::min(blocking::kRows, rows - done);
    float* tile = threadScratch(ScratchUse::kOffsets, count * width + linearScratch(shape));
    if (tile == nullptr) return false;
    // As in multiply().
    float* shifted =
        reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(tile) - static_cast<uintptr_t>(column) * sizeof(float));
    table.linear(c.extraView, c.extra + (first + done) * stride, stride, count, shifted, width, nullptr, begin, end,
                 tile + count * width);
    for (int64_t i = 0; i < count; ++i) {
      float* y = origin + (done + i) * ldy + column;
      table.add(y, tile + i * width, y, columns);
    }
  }
  return true;
}

// One task. False: no memory.
bool multiply(const KernelTable& table, const Cut& c, int64_t task) {
  const MatmulArgs& args = *c.args;
  const Shape& shape = c.view.shape;
  const int64_t block = task % c.rowBlocks, row = c.rowStart(block), rows = c.rowStart(block + 1) - row;
  const int64_t begin = task / c.rowBlocks * c.panels, end = std::min(begin + c.panels, layout::panels(shape));
  const int64_t column = begin * kPanel, columns = std::min(end * kPanel, shape.n) - column;
  if (rows <= 0) return true;
  float* scratch = threadScratch(ScratchUse::kKernel, c.scratchFloats);
  const bool direct = alignedFloats(args.y, args.yType);
  float* y = static_cast<float*>(args.y) + (direct ? row * args.ldy : 0);
  int64_t ldy = args.ldy;
  float* origin = y;
  if (!direct) {
    ldy = (end - begin) * kPanel;
    y = threadScratch(ScratchUse::kOutput, rows * ldy);
    // Kernels address columns of the whole output: shift the tile's origin (as an integer, to stay within the
    // language).
    origin = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(y) - static_cast<uintptr_t>(column) * sizeof(float));
  }
  if (scratch == nullptr || y == nullptr) return false;
  if (c.x->dots == nullptr) {
    table.linear(c.view, c.x->rows + row * c.x->stride, c.x->stride, rows, origin, ldy, args.bias, begin, end, scratch);
  } else {
    c.x->dots->multiply(c.x->call(c.view, row, rows, origin, ldy, args.bias, begin, end, scratch));
  }
  if (c.extra != nullptr && !addExtra(table, c, row, rows, origin, ldy, begin, end)) return false;
  if (direct) return true;
  char* out = static_cast<char*>(args.y);
  for (int64_t i = 0; i < rows; ++i) {
    table.fromFloat(y + i * ldy, out + ((row + i) * args.ldy + column) * dtypeBytes(args.yType), args.yType, columns);
  }
  return true;
}

}  // namespace

Status matmul(const MatmulArgs& args) {
  return matmulGroup(&args, 1);
}

Status matmulGroup(const MatmulArgs* args, int count) {
  for (; count > kMostProducts; args += kMostProducts, count -= kMostProducts) {
    TSQ_RETURN_IF_ERROR(matmulGroup(args, kMostProducts));
  }
  for (int i = 0; i < count; ++i) TSQ_RETURN_IF_ERROR(check(args[i]));
  const KernelTable& table = kernels();

  // Each product's activations; those that need the same share them.
  Prepared prepared[kMostProducts];
  int of[kMostProducts], distinct = 0;
  int64_t surveys = 0, floats = 0, elements = 0, products = 0, rows = 0;
  for (int i = 0; i < count; ++i) {
    if (args[i].m == 0) continue;
    Prepared wanted(table, args[i]);
    int found = 0;
    while (found < distinct && !prepared[found].sameAs(wanted)) ++found;
    of[i] = found;
    products += args[i].m * layout::packedK(args[i].weight->shape) * args[i].weight->shape.n;
    if (found < distinct) continue;
    elements += wanted.direct ? 0 : args[i].m * args[i].weight->shape.k;
    surveys += wanted.surveyFloats();
    rows += args[i].m;
    prepared[distinct++] = wanted;
  }
  if (distinct == 0) return {};
  if (surveys > 0) {
    float* survey = threadScratch(ScratchUse::kSurvey, surveys);
    for (int i = 0; i < distinct; ++i) {
      if (survey == nullptr || !prepared[i].survey(table, survey))
        return {Code::kMemory, "matmul: no memory to look through " + std::to_string(rows) + " rows of activations"};
      survey += prepared[i].surveyFloats();
    }
  }
  for (int i = 0; i < distinct; ++i) floats += prepared[i].floats();
  for (int i = 0; i < count; ++i) {
    if (args[i].m > 0) floats += extraFloats(args[i], prepared[of[i]]);
  }
  float* memory = threadScratch(ScratchUse::kActivations, floats);
  if (memory == nullptr) {
    return {Code::kMemory, "matmul: no memory for " + std::to_string(rows) + " rows of " +
                               std::to_string(args[0].weight->shape.k) + " activations"};
  }
  for (int i = 0; i < distinct; ++i) memory = prepared[i].place(memory);
  std::atomic<bool> outOfMemory{false};
  if (elements > 0) {
    forTasks(elements < kInlineElements, rows, [&](int64_t task, int) {
      int i = 0;
      for (; task >= prepared[i].count(); ++i) task -= prepared[i].count();
      if (!prepared[i].row(table, task)) outOfMemory.store(true, std::memory_order_relaxed);
    });
  }

  const bool alone = products < kInlineProducts;
  const int threads = alone ? 1 : ThreadPool::instance().threads();
  Cut cuts[kMostProducts]{};
  int64_t tasks = 0;
  for (int i = 0; i < count; ++i) {
    if (args[i].m == 0) continue;
    cuts[i] = cut(args[i], prepared[of[i]], threads);
    tasks += cuts[i].tasks();
    if (!setExtra(table, &cuts[i], memory)) outOfMemory.store(true, std::memory_order_relaxed);
    memory += extraFloats(args[i], prepared[of[i]]);
  }
  forTasks(alone, tasks, [&](int64_t task, int) {
    int i = 0;
    for (; task >= cuts[i].tasks(); ++i) task -= cuts[i].tasks();
    if (!multiply(table, cuts[i], task)) outOfMemory.store(true, std::memory_order_relaxed);
  });
  if (outOfMemory.load()) return {Code::kMemory, "matmul: no memory for the working space of a thread"};
  return {};
}

}  // namespace tsq
