#include "kernels/reference/reference.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

// Exact products through pairs are there to be compared with; `linear` is the reference itself.
bool pairsPay(layout::WeightKind, Dtype, int64_t) {
  return false;
}
bool quadsPay(layout::WeightKind kind, Dtype, int64_t) {
  return layout::isInteger(kind) || kind == layout::WeightKind::kI4;
}
int64_t noScratch(const layout::Shape&, int64_t, int64_t) {
  return 0;
}

const DotKernel kPairs = {pairsPay, reference::splitPairs, reference::multiplyPairs, noScratch};
const DotKernel kQuads = {quadsPay, reference::splitQuads, reference::multiplyQuads, noScratch};

}  // namespace

const KernelTable kReferenceKernels = {
    "reference",
    &kPairs,
    &kQuads,
    nullptr,
    reference::linear,
    reference::toFloat,
    reference::fromFloat,
    reference::rmsnorm,
    reference::layernorm,
    reference::rope,
    reference::attention,
    reference::silu,
    reference::geluTanh,
    reference::geluErf,
    reference::add,
    reference::axpy,
    reference::dot,
    reference::maximum,
    reference::expSum,
    reference::gramTile,
    reference::gramPair,
    reference::columnStats,
};

}  // namespace tsq
