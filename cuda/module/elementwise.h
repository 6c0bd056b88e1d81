// What products need beside themselves.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

// Once for each device.
int loadElementwise(TsqCudaText reason);
// The entry of the table.
int scaleColumns(const TsqCudaColumns* columns, void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
