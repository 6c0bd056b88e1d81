// The products of tensor cores, from the fragment tables of the PTX ISA (sections mma.m16n8k16 and mma.m16n8k32).
// Sums are float32, in the order of k; real tensor cores round differently, so results agree to a tolerance only.
#pragma once
#include <cstdint>

#include "cuda/emulation/machine.h"
#include "cuda/types.cuh"

namespace tsq::emulation {

float e4m3ToFloat(uint8_t bits);
// Element `index` of a register that holds two of f16 or bf16, or four of e4m3 or s8.
float element(cuda::Type type, uint32_t word, int index);

// d += a b; a is 16 x k, b is k x 8; k is 16 for f16 and bf16, 32 for e4m3.
void multiply(cuda::Type type, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Place& at);
void multiplyS8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Place& at);

}  // namespace tsq::emulation
