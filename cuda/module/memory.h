// Streams, and memory in their order: the entries of the table of the same names.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

int use(int index, TsqCudaText reason);
int openStream(void** stream, TsqCudaText reason);
int closeStream(void* stream, TsqCudaText reason);
int allocate(int64_t bytes, void* stream, void** out, TsqCudaText reason);
int release(void* memory, void* stream, TsqCudaText reason);
int clear(void* memory, int64_t bytes, void* stream, TsqCudaText reason);
int copy(void* to, const void* from, int64_t bytes, void* stream, TsqCudaText reason);
int wait(void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
