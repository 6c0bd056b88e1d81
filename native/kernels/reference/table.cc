#include "kernels/reference/reference.h"
#include "kernels/tables.h"

namespace tsq {

const KernelTable kReferenceKernels = {
    "reference",         reference::linear, reference::toFloat,   reference::fromFloat,
    reference::rmsnorm,  reference::rope,   reference::attention, reference::silu,
    reference::geluTanh, reference::add,    reference::axpy,      reference::dot,
    reference::maximum,  reference::expSum, reference::gramTile,  reference::columnStats,
};

}  // namespace tsq
