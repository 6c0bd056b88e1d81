// What both ways of splitting activations share. Include after an instruction set's words.h.
#pragma once

#include "kernels/kernels.h"
#include "layout/activations.h"

namespace tsq {
namespace {

constexpr int32_t kInfinityBits = 0x7f800000;

// Sixteen floats of which `count` exist (none where it is negative); zeros behind.
TSQ_INLINE Lanes loadColumns(const float* x, int64_t count) {
  return count >= 16 ? load(x) : count > 0 ? loadPartial(x, count) : zeros();
}

}  // namespace
}  // namespace tsq
