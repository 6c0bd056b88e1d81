// Activations of 8 bits on AVX-VNNI: vpdpbusd of 8 lanes.
#include "kernels/avx2/words.h"

namespace tsq {
namespace {

TSQ_INLINE Words dotQuads(Words sum, Words codes, Words x) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.lo) : "x"(codes.lo), "x"(x.lo));
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.hi) : "x"(codes.hi), "x"(x.hi));
  return sum;
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/quads_direct.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

using Quads = DirectQuads<6, 1, 2, 2, 1, 1>;

}  // namespace

const DotKernel kAvxVnniQuads = {quadsPay<Quads>, splitQuads, multiplyQuads<Quads>, dotScratchBytes<Quads>};

}  // namespace tsq
