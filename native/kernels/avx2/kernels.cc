// The table of avx2 kernels. Everything here has internal linkage: see the note on weak symbols in docs/kernels.md.
#include "kernels/avx2/parts.h"

// The shared algorithms, over the lanes of this instruction set.
#include "kernels/generic/attention.h"
#include "kernels/generic/elementwise.h"
#include "kernels/generic/reductions.h"
#include "kernels/generic/tiled.h"

#include "kernels/tables.h"

namespace tsq {

const KernelTable kAvx2Kernels = {
    "avx2", nullptr,  nullptr, nullptr, linear, toFloat, fromFloat, rmsnorm, layernorm, rope,     attention,
    silu,   geluTanh, geluErf, add,     axpy,   dot,     maximum,   expSum,  gramTile,  gramPair, columnStats,
};

}  // namespace tsq
