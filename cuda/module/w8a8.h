// W8A8: the entries of the table, what they refuse, and the compiled kernels.
#pragma once
#include "cuda/module/arguments.h"
#include "cuda/w8a8/variants_wide.cuh"

namespace tsq::cuda::w8a8 {

const Variants& variantsS8();
// For devices of compute capability 8.9 and later.
const Variants& variantsE4M3();
// For devices of compute capability 9.0 alone.
const Variants& wideVariantsS8();
const Variants& wideVariantsE4M3();

}  // namespace tsq::cuda::w8a8

namespace tsq::cuda::module {

// Allows the kernels their shared memory on the current device.
int w8a8Prepare(int capability, TsqCudaText reason);

int w8a8BlocksFor(const TsqCudaW8A8Shape* shape, int multiprocessors);
int w8a8Sizes(const TsqCudaW8A8Shape* shape, int32_t m, int blocks, TsqCudaW8A8Sizes* out, TsqCudaText reason);
int w8a8Pack(const TsqCudaW8A8Pack* pack, void* stream, TsqCudaText reason);
int w8a8Quantize(const TsqCudaW8A8Quantize* quantize, void* stream, TsqCudaText reason);
int w8a8Gemm(const TsqCudaW8A8* gemm, void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
