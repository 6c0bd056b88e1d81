// Captures of a stream, and graphs of them: entries of the table of the same names.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

int beginCapture(void* stream, TsqCudaText reason);
int endCapture(void* stream, void** graph, TsqCudaText reason);
int launchGraph(void* graph, void* stream, TsqCudaText reason);
int closeGraph(void* graph, TsqCudaText reason);

}  // namespace tsq::cuda::module
