// Cholesky factor and the factor of the inverse that GPTQ needs, blocked and threaded.
#pragma once
#include <cstdint>

#include "rounding/packed_upper.h"
#include "runtime/thread_pool.h"

namespace tsq::rounding {

// In place: the upper triangle of A (rows and columns beyond k are ignored) becomes R with A = R^T R.
// Returns -1, or the first row whose pivot is not above the rounding error of its own diagonal element (A is then
// partly overwritten), or -2 when aborted. The same bytes for any number of threads.
template <typename T>
int64_t choleskyUpper(PackedUpper<T>* matrix, AbortFlag abort);

// U = J R^-T J with J the reversal of the k indices: where R^T R = J A J, U is upper triangular and A^-1 = U^T U, the
// factor of the inverse in the order of A without forming the inverse. Returns false when aborted or out of memory
// (*outOfMemory tells which).
template <typename T>
bool invertReversed(const PackedUpper<T>& factor, PackedUpper<float>* inverse, AbortFlag abort, bool* outOfMemory);

extern template int64_t choleskyUpper<float>(PackedUpper<float>*, AbortFlag);
extern template int64_t choleskyUpper<double>(PackedUpper<double>*, AbortFlag);
extern template bool invertReversed<float>(const PackedUpper<float>&, PackedUpper<float>*, AbortFlag, bool*);
extern template bool invertReversed<double>(const PackedUpper<double>&, PackedUpper<float>*, AbortFlag, bool*);

}  // namespace tsq::rounding
