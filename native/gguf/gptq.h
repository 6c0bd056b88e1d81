// GPTQ on the grids of GGUF's blocks.
#pragma once
#include <cstdint>

#include "gguf/codec.h"
#include "rounding/rounding.h"
#include "runtime/status.h"

namespace tsq::gguf {

struct GptqSpec {
  const float* importance = nullptr;       // [k] weight of a column's error in the search for scales; or null
  double damp = 0.01, dampStep = 0.01;     // as tsq::GptqSpec has them
  int block = 128;                         // columns of a lazy update
  ActOrder order = ActOrder::kGroupAware;  // kGroupAware: blocks by descending sum of diag(H), columns within by
                                           // descending diag(H). kNone: columns in order. Both: scales and minima of a
                                           // block are searched when it is reached, on what its weights have become.
                                           // kStatic: columns by descending diag(H), scales of the weights as given
};

// Blocks of w [rows, k] whose codes are chosen column by column, each error being spread over the columns to come
// through the inverse Hessian. Scales and minima are those that encode() finds. The result is never worse by H than
// that of encode(), which stays where GPTQ does not improve on it (report.keptNearest) or the Hessian is of no use
// (report.degraded); report.nearestError is its objective.
//
// ERR_UNSUPPORTED for types without a grid to round on, and for kDynamic; otherwise the errors of encode().
// hessian.finish() must have been called.
Result<GptqReport> gptqEncode(const Matrix& matrix, const float* w, const Hessian& hessian, const GptqSpec& spec,
                              uint8_t* blocks, AbortFlag abort);

}  // namespace tsq::gguf
