// Activations of 8 bits on AVX-512 without VNNI: maddubs.
#include "kernels/avx512/words.h"

#include "kernels/generic/quads_maddubs.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

using Quads = MaddubsQuads<6, 4, 2, 2>;

}  // namespace

const DotKernel kAvx512Quads = {quadsPay<Quads>, splitQuads, multiplyQuads<Quads>, dotScratchBytes<Quads>};

}  // namespace tsq
