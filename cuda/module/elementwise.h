// What products need beside themselves.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

// Once for each device.
int loadElementwise(TsqCudaText reason);
// Entries of the table of the same names.
int scaleColumns(const TsqCudaColumns* columns, void* stream, TsqCudaText reason);
int decodeCodes(const TsqCudaDecode* decode, void* stream, TsqCudaText reason);
int readAll(const void* memory, int64_t bytes, void* sink, int multiprocessors, void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
