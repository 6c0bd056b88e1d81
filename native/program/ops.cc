#include "program/ops.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "program/low_rank.h"
#include "program/parallel.h"
#include "program/row_ops.h"

namespace tsq {

namespace {

constexpr int32_t kMostTogether = 8;  // more than any architecture has of one input

void embed(const StepContext& step, const SectionRun& run, const Op& op) {
  const PackedWeight& weight = step.matrix(run, op.weight[0]);
  const float scale = op.p[0] == 0 ? 1.0f : static_cast<float>(op.p[0]);
  const int64_t width = step.width(op.out);
  float* out = step.slot(op.out);
  parallelBlocks(step.rows(), unitsPerTask(width), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = out + row * width;
      unpackRow(weight, step.plan.tokens[static_cast<size_t>(row)], y);
      if (scale == 1.0f) continue;
      for (int64_t i = 0; i < width; ++i) y[i] *= scale;
    }
  });
}

void rmsNorm(const StepContext& step, const SectionRun& run, const Op& op) {
  const float* weight = step.vector(run, op.weight[0]).data();
  const int64_t segments = static_cast<int64_t>(op.p[1]), width = step.width(op.out) / segments;
  const float eps = static_cast<float>(op.p[0]), offset = static_cast<float>(op.p[2]);
  const float* x = step.slot(op.in[0]);
  float* y = step.slot(op.out);
  const KernelTable& table = kernels();
  // Rows are dense, so the segments of all rows follow each other.
  parallelBlocks(step.rows() * segments, unitsPerTask(width), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) table.rmsnorm(x + i * width, weight, y + i * width, width, eps, offset);
  });
}

// Linears of one input.
Status linears(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count) {
  const int64_t k = step.width(ops->in[0]);
  double outputs = 0;
  for (int32_t i = 0; i < count; ++i) outputs += static_cast<double>(step.width(ops[i].out));
  const int64_t block = rowsBetweenAborts(k, outputs);
  for (int64_t row = 0; row < step.rows(); row += block) {
    if (step.abort().raised()) return aborted();
    MatmulArgs products[kMostTogether];
    for (int32_t i = 0; i < count; ++i) {
      const Op& op = ops[i];
      const int64_t n = step.width(op.out);
      const float* bias = op.weight[1] < 0 ? nullptr : step.vector(run, op.weight[1]).data();
      products[i] = {&step.matrix(run, op.weight[0]),
                     step.slot(op.in[0]) + row * k,
                     Dtype::kF32,
                     k,
                     std::min(block, step.rows() - row),
                     step.slot(op.out) + row * n,
                     Dtype::kF32,
                     n,
                     bias,
                     step.request.activations};
    }
    TSQ_RETURN_IF_ERROR(matmulGroup(products, count));
    for (int32_t i = 0; i < count; ++i) TSQ_RETURN_IF_ERROR(addLowRank(step, run, ops[i], row, products[i].m));
  }
  return Status();
}

Status rope(const StepContext& step, const SectionRun& run, const Op& op) {
  const int64_t heads = static_cast<int64_t>(op.p[0]), headDim = static_cast<int64_t>(op.p[1]);
  const int64_t rotaryDim = static_cast<int64_t>(op.p[2]), half = rotaryDim / 2;
  const Result<const float*> angles =
      step.work.ropes.lookup(step.vector(run, op.weight[0]), op.p[3], step.plan.positions, step.abort());
  if (!angles.ok()) return angles.status();
  const float* x = step.slot(op.in[0]);
  float* y = step.slot(op.out);
  const KernelTable& table = kernels();
  parallelBlocks(step.rows(), unitsPerTask(heads * headDim), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * heads; i < end * heads; ++i) {
      const float* cosine = angles.value() + i / heads * rotaryDim;
      table.rope(x + i * headDim, y + i * headDim, headDim, rotaryDim, cosine, cosine + half);
    }
  });
  return Status();
}

// Elementwise over the whole slots: rows are dense.
void elementwise(const StepContext& step, const Op& op, void (*kernel)(const float*, const float*, float*, int64_t)) {
  const float* a = step.slot(op.in[0]);
  const float* b = step.slot(op.in[1]);
  float* y = step.slot(op.out);
  parallelBlocks(step.rows() * step.width(op.out), kTaskElements, step.abort(),
                 [&](int64_t begin, int64_t end) { kernel(a + begin, b + begin, y + begin, end - begin); });
}

}  // namespace

int64_t rowsBetweenAborts(int64_t k, double outputs) {
  constexpr double kProducts = 4e10;
  const int64_t fitting = static_cast<int64_t>(kProducts / (static_cast<double>(k) * outputs));
  return std::max<int64_t>(256, fitting / 256 * 256);
}

int32_t opsTogether(const Op* ops, int32_t count) {
  if (ops->kind != OpKind::kLinear && ops->kind != OpKind::kExperts) return 1;
  int32_t together = 1;
  for (; together < std::min(count, kMostTogether); ++together) {
    const Op& op = ops[together];
    const auto sameOutput = [&](const Op& other) { return other.out == op.out; };
    if (op.kind != ops->kind || op.in[0] != ops->in[0] || op.in[1] != ops->in[1]) break;
    // Experts' rows are as wide as topK says.
    if (op.kind == OpKind::kExperts && op.p[0] != ops->p[0]) break;
    if (std::any_of(ops, ops + together, sameOutput)) break;
  }
  return together;
}

Status runOps(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count) {
  const Op& op = *ops;
  switch (op.kind) {
    case OpKind::kEmbed:
      embed(step, run, op);
      break;
    case OpKind::kRmsNorm:
      rmsNorm(step, run, op);
      break;
    case OpKind::kLinear:
      TSQ_RETURN_IF_ERROR(linears(step, run, ops, count));
      break;
    case OpKind::kRope:
      TSQ_RETURN_IF_ERROR(rope(step, run, op));
      break;
    case OpKind::kAttention:
      TSQ_RETURN_IF_ERROR(runAttention(step, run, op));
      break;
    case OpKind::kGated:
      elementwise(step, op, activationKernel(op));
      break;
    case OpKind::kAdd:
      elementwise(step, op, kernels().add);
      break;
    case OpKind::kLogits:
      TSQ_RETURN_IF_ERROR(runEpilogue(step, run, op));
      break;
    case OpKind::kLayerNorm:
      layerNorm(step, run, op);
      break;
    case OpKind::kColumns:
      columns(step, op);
      break;
    case OpKind::kPositions:
      positions(step, run, op);
      break;
    case OpKind::kActivate:
      activate(step, op);
      break;
    case OpKind::kRoute:
      route(step, op);
      break;
    case OpKind::kGather:
      TSQ_RETURN_IF_ERROR(gatherRows(step, op));
      break;
    case OpKind::kExperts:
      TSQ_RETURN_IF_ERROR(runExperts(step, run, ops, count));
      break;
    case OpKind::kCombine:
      TSQ_RETURN_IF_ERROR(combineRows(step, op));
      break;
  }
  for (int32_t i = 0; i < count; ++i) step.work.experts.written(ops[i].out);
  return step.abort().raised() ? aborted() : Status();
}

}  // namespace tsq
