// From a Hessian to the factor of its damped inverse, whatever the Hessian is.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "rounding/packed_upper.h"
#include "rounding/rounding.h"

namespace tsq::rounding {

struct FactorOutcome {
  bool usable = false;    // false: nothing factored, and note says why
  bool degraded = false;  // the damping asked for did not suffice and the ladder ran past 1
  double damp = 0;        // share of the mean diagonal that was added
  std::string note;
};

struct InverseFactor : FactorOutcome {
  PackedUpper<float> u;  // (H + damp mean I)^-1 = U^T U in visit order, H in units of its mean live diagonal
};

// Tries to factor with `damp` of the mean diagonal added, then with more (docs/rounding.md, "A bad Hessian never stops
// a run"), until `attempt` gives true: a factor whose diagonal is positive and finite.
Result<FactorOutcome> dampUntilDefinite(double damp, double dampStep,
                                        const std::function<Result<bool>(double share)>& attempt);

// Mean of the diagonal over live columns; 1 where there are none.
double meanDiagonal(const std::vector<double>& diagonal);

// diagonal: diag(H) [k]; columns: visit position -> column. A column whose diagonal is 0 (or negative) is dead: its row
// and column count as those of the identity. f64 up to k = 4096, f32 above. Errors: kMemory, kAborted only.
Result<InverseFactor> factorInverse(const Hessian& hessian, const std::vector<double>& diagonal,
                                    const std::vector<int32_t>& columns, double damp, double dampStep, AbortFlag abort);

}  // namespace tsq::rounding
