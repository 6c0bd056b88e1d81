// The whole module, its kernels included, for the host.
#include "cuda/module/module.cu"             // NOLINT
#include "cuda/module/memory.cu"             // NOLINT
#include "cuda/module/sm_90a/w4a16_wide.cu"  // NOLINT
#include "cuda/module/w4a16_bf16.cu"         // NOLINT
#include "cuda/module/w4a16_f16.cu"          // NOLINT
