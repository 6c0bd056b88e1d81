// What products need beside themselves: entries of the table of the same names.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

int scaleColumns(const TsqCudaColumns* columns, void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
