// Who does the heavy work of gptq(): the thread pool, or a device. What needs no speed is the same for both: checks,
// order, dead columns, what happens to a bad Hessian, and the choice between the result and nearest codes.
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/gptq_chunk.h"
#include "rounding/inverse_factor.h"
#include "rounding/rounding.h"

namespace tsq::rounding {

class GptqMachine {
 public:
  virtual ~GptqMachine() = default;

  // The most columns of a lazy update, at most those asked for.
  virtual int64_t blockLimit(int64_t asked) const = 0;
  // The factor of the inverse Hessian in the order of job.visit, damped as far as it takes; kept for round().
  virtual Result<FactorOutcome> factor(const GptqJob& job, const Hessian& hessian, const std::vector<double>& diagonal,
                                       AbortFlag abort) = 0;
  // Fills job.out.
  virtual Status round(const GptqJob& job, AbortFlag abort) = 0;
  // totals[0] = sum of d^T H d over rows, d = job.w less the codes in job.out; where `withNearest`, totals[1] = the
  // same of nearest codes on the same scales.
  virtual Status objectives(const GptqJob& job, const Hessian& hessian, bool withNearest, double* totals,
                            AbortFlag abort) = 0;
};

// Whether every element is a finite number.
bool isFinite(const Hessian& hessian);

// gptq() of rounding.h on this machine.
Result<GptqReport> gptqOn(GptqMachine* machine, const float* w, int64_t n, int64_t k, const Hessian& hessian,
                          const GptqSpec& spec, RoundedWeight out, int32_t* groupIndex, AbortFlag abort);

}  // namespace tsq::rounding
