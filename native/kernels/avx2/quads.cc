// Activations of 8 bits on AVX2: maddubs.
#include "kernels/avx2/words.h"

#include "kernels/generic/quads_maddubs.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

using Quads = MaddubsQuads<6, 1, 2, 1>;

}  // namespace

const DotKernel kAvx2Quads = {quadsPay<Quads>, splitQuads, multiplyQuads<Quads>, dotScratchBytes<Quads>};

}  // namespace tsq
