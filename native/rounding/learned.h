// Learned rounding: codes, scales and zero points chosen by descent on the output error tr(D H D^T), D = target -
// dequantized, from codes that another rounding chose. Two descents: signed gradient steps over offsets of the rounding
// and factors of the range (SignRound, arXiv 2309.05516; step sizes alone: LSQ, arXiv 1902.08153), and exact
// minimisation over one code, one scale or one zero point at a time (docs/rounding.md, "Learned rounding").
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/rounding.h"

namespace tsq {

struct LearnSpec {
  GridSpec grid;
  int steps = 0;        // of signed gradients; 0: none
  bool offsets = true;  // they move the offsets of the rounding as well as the ends of the range
  int sweeps = 0;       // of exact descent, at most
  bool codes = true;    // it moves codes; scales and zero points in any case (but for perTensor)
};

struct LearnReport {
  double error = 0;                 // tr(D H D^T) / rows of the result
  std::vector<double> startErrors;  // the same of each start
};

// Learns from `starts` (1 to 8, on the same grid and groupIndex; 1 where the tensor has one scale) and writes the best
// found for each row to `out`, which may be one of them: no row is worse than in any start. target [n, k]: what is to
// be approximated. groupIndex [k] or null. The same bytes for any number of threads. Errors: kShape, kOption, kNumeric
// (target or Hessian not finite, a start's scale not positive and finite, its code or groupIndex out of range),
// kMemory, kAborted.
Result<LearnReport> learnRounding(const float* target, int64_t n, int64_t k, const Hessian& hessian,
                                  const LearnSpec& spec, const std::vector<RoundedWeight>& starts,
                                  const int32_t* groupIndex, RoundedWeight out, AbortFlag abort);

}  // namespace tsq
