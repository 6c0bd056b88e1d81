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

// Kernels of k in pairs and quads, by the extension that they need beside a table's own.
#ifdef TSQ_HAVE_AVX2
extern const DotKernel kAvx2Quads, kAvx2Digits;
#endif
#ifdef TSQ_HAVE_AVXVNNI
extern const DotKernel kAvxVnniQuads, kAvxVnniDigits;
#endif
#ifdef TSQ_HAVE_AVX512
extern const DotKernel kAvx512Quads;
#endif
#ifdef TSQ_HAVE_AVX512VNNI
extern const DotKernel kAvx512VnniQuads, kAvx512VnniDigits;
#endif
#ifdef TSQ_HAVE_AVX512BF16
extern const DotKernel kAvx512Bf16Pairs;
#endif
#ifdef TSQ_HAVE_AMX
extern const DotKernel kAmxPairs, kAmxQuads;
#endif
#ifdef TSQ_HAVE_NEON
extern const DotKernel kNeonQuads;
#endif
#ifdef TSQ_HAVE_NEON_DOTPROD
extern const DotKernel kNeonDotprodQuads, kNeonDotprodDigits;
#endif
#ifdef TSQ_HAVE_NEON_I8MM
extern const DotKernel kNeonI8mmQuads;
#endif
#ifdef TSQ_HAVE_NEON_BF16
extern const DotKernel kNeonBf16Pairs;
#endif

}  // namespace tsq
