// What exports that round weights read from their arguments, on the CPU and on devices.
#pragma once
#include <memory>

#include "bindings/arguments.h"
#include "rounding/rounding.h"

namespace tsq {

GridSpec readGrid(Arguments& a, Napi::Value grid, int64_t k);
// Null: no search.
SearchSpec readSearch(Arguments& a, Napi::Value search, int64_t k);
RoundedWeight readOutputs(Arguments& a, Napi::Value out, int64_t n, int64_t k, const GridSpec& grid);
const float* readClip(Arguments& a, Napi::Value clip, int64_t n, int64_t k, const GridSpec& grid);
GptqSpec readGptqOptions(Arguments& a, Napi::Value options, int64_t n, int64_t k);
// Where gptq writes the group of each column: [k], or null where the order needs none.
int32_t* readGroupIndex(Arguments& a, Napi::Value value, int64_t k, const GptqSpec& spec);
Napi::Value reportObject(Napi::Env env, const GptqReport& report);

// The accumulator of kind hessian and width k.
std::shared_ptr<SharedAccumulator> readHessian(Arguments& a, Napi::Value value, int64_t k);
// That it has seen none.
Status noRows();

}  // namespace tsq
