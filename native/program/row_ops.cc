#include "program/row_ops.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "program/parallel.h"
#include "program/signature.h"

namespace tsq {

void layerNorm(const StepContext& step, const SectionRun& run, const Op& op) {
  const float* weight = step.vector(run, op.weight[0]).data();
  const float* bias = op.weight[1] < 0 ? nullptr : step.vector(run, op.weight[1]).data();
  const int64_t width = step.width(op.out);
  const float eps = static_cast<float>(op.p[0]);
  const float* x = step.slot(op.in[0]);
  float* y = step.slot(op.out);
  const KernelTable& table = kernels();
  parallelBlocks(step.rows(), unitsPerTask(width), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) table.layernorm(x + i * width, weight, bias, y + i * width, width, eps);
  });
}

void columns(const StepContext& step, const Op& op) {
  const ColumnsParameters p = columnsParameters(op);
  const int64_t from = step.width(op.in[0]), to = step.width(op.out);
  const float* x = step.slot(op.in[0]) + p.begin;
  float* y = step.slot(op.out);
  parallelBlocks(step.rows(), unitsPerTask(to), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t piece = 0; piece < p.pieces; ++piece) {
        std::copy_n(x + row * from + piece * p.stride, p.length, y + row * to + piece * p.length);
      }
    }
  });
}

void positions(const StepContext& step, const SectionRun& run, const Op& op) {
  const PackedWeight& weight = step.matrix(run, op.weight[0]);
  const int64_t width = step.width(op.out);
  float* y = step.slot(op.out);
  parallelBlocks(step.rows(), unitsPerTask(width), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      unpackRow(weight, step.plan.positions[static_cast<size_t>(row)], y + row * width);
    }
  });
}

ActivationKernel activationKernel(const Op& op) {
  const KernelTable& table = kernels();
  return op.p[0] == 0 ? table.silu : op.p[0] == 1 ? table.geluTanh : table.geluErf;
}

void activate(const StepContext& step, const Op& op) {
  const ActivationKernel kernel = activationKernel(op);
  const float* x = step.slot(op.in[0]);
  float* y = step.slot(op.out);
  parallelBlocks(step.rows() * step.width(op.out), kTaskElements, step.abort(),
                 [&](int64_t begin, int64_t end) { kernel(x + begin, nullptr, y + begin, end - begin); });
}

}  // namespace tsq
