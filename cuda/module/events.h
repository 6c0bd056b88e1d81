// Times of the device: entries of the table of the same names.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

int openEvent(void** event, TsqCudaText reason);
int closeEvent(void* event, TsqCudaText reason);
int record(void* event, void* stream, TsqCudaText reason);
int elapsed(void* begin, void* end, double* microseconds, TsqCudaText reason);

}  // namespace tsq::cuda::module
