// What files of this folder include: they are compiled for sm_90a alone.
#pragma once
#include "cuda/module/variants.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "Compile this file for sm_90a: for sm_90, the compiler knows no wgmma."
#endif
