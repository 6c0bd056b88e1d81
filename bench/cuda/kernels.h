// Kernels that stand beside those that are measured: contents, the unfused product's first half, and probes.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace bench {

// Uniform in ±scale, as f16 or bf16.
void fillFloats(uint16_t* to, int64_t count, float scale, bool bf16, uint64_t seed, cudaStream_t stream);
// Like scales: from `scale` to twice as much.
void fillScales(uint16_t* to, int64_t count, float scale, bool bf16, uint64_t seed, cudaStream_t stream);
// 0 … 15.
void fillCodes(uint8_t* to, int64_t count, uint64_t seed, cudaStream_t stream);
// The same weights as codes of 8 bits, whose middle is 128 and not 8.
void widenCodes(const uint8_t* codes, uint8_t* to, int64_t count, cudaStream_t stream);
// Eight codes a word, the first lowest, in the order of rows.
void packNibbles(const uint8_t* codes, uint32_t* to, int64_t words, cudaStream_t stream);
// to[n][k] = scales[n][k / group] (code - 8) from words of packNibbles; k and group are multiples of 8.
void dequantize(const uint32_t* nibbles, const uint16_t* scales, uint16_t* to, int64_t n, int64_t k, int64_t group,
                bool bf16, cudaStream_t stream);
// bf16 to s8 or e4m3, with a scale for each row that makes its largest magnitude 127, or 448.
void quantizeRows(const uint16_t* from, uint8_t* to, float* scales, int64_t rows, int64_t width, bool e4m3,
                  cudaStream_t stream);
// Reads so many times 16 bytes and nothing else.
void readAll(const void* from, int64_t words, uint32_t* sink, int multiprocessors, cudaStream_t stream);
void doNothing(cudaStream_t stream);
// Keeps the stream busy for some 150 µs, in which the host can enqueue what follows.
void hold(cudaStream_t stream);

}  // namespace bench
