// Activations of 8 bits on AVX-512 VNNI: vpdpbusd of 16 lanes.
#include "kernels/avx512/words.h"

namespace tsq {
namespace {

TSQ_INLINE Words dotQuads(Words sum, Words codes, Words x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
  return sum;
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/quads_direct.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

using Quads = DirectQuads<8, 3, 2, 2, 4, 4, 4, 2, 2, 2>;

}  // namespace

const DotKernel kAvx512VnniQuads = {quadsPay<Quads>, splitQuads, multiplyQuads<Quads>, dotScratchBytes<Quads>};

}  // namespace tsq
