// The tables that the build contains, one for each instruction set. Only the dispatcher and the table's own file
// include this.
#pragma once
#include "kernels/kernels.h"

namespace tsq {

extern const KernelTable kReferenceKernels;
#ifdef TSQ_HAVE_AVX2
extern const KernelTable kAvx2Kernels;
#endif
#ifdef TSQ_HAVE_AVX512
extern const KernelTable kAvx512Kernels;
#endif
#ifdef TSQ_HAVE_NEON
extern const KernelTable kNeonKernels;
#endif

}  // namespace tsq
