// Calibration: the entries of the table of the same names.
#pragma once
#include "cuda/module/module.h"

namespace tsq::cuda::module {

int calibrationSizes(int64_t n, int64_t k, TsqCudaCalibrationSizes* out, TsqCudaText reason);
int addToHessian(const TsqCudaHessian* hessian, void* stream, TsqCudaText reason);
int mirrorHessian(float* h, int64_t k, void* stream, TsqCudaText reason);
int factorInverse(const TsqCudaFactor* factor, void* stream, TsqCudaText reason);
int fitScales(const TsqCudaScales* scales, void* stream, TsqCudaText reason);
int encodeNearest(const TsqCudaCodes* on, const float* w, const uint8_t* dead, uint8_t* codes, void* stream,
                  TsqCudaText reason);
int gptqGather(const TsqCudaGptq* gptq, void* stream, TsqCudaText reason);
int gptqBlock(const TsqCudaGptq* gptq, void* stream, TsqCudaText reason);
int objective(const TsqCudaObjective* objective, void* stream, TsqCudaText reason);

}  // namespace tsq::cuda::module
