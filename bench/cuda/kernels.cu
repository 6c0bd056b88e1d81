#include "bench/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

namespace bench {
namespace {

constexpr int kThreads = 256;
unsigned blocksFor(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 65536 ? blocks : 65536);
}
__device__ int64_t first() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ int64_t stride() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

// SplitMix64 (Steele, Lea, Flood, 2014): number `index` of the sequence of a seed.
__device__ uint64_t randomBits(uint64_t seed, int64_t index) {
  uint64_t z = (seed << 32) + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(index + 1);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

__device__ uint16_t encode(float value, bool bf16) {
  return bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value)) : __half_as_ushort(__float2half_rn(value));
}
__device__ float decode(uint16_t bits, bool bf16) {
  return bf16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

__global__ void floatsKernel(uint16_t* to, int64_t count, float low, float width, bool bf16, uint64_t seed) {
  for (int64_t i = first(); i < count; i += stride()) {
    to[i] = encode(low + width * static_cast<float>(randomBits(seed, i) >> 40) * 0x1p-24f, bf16);
  }
}

__global__ void codesKernel(uint8_t* to, int64_t count, uint64_t seed) {
  for (int64_t i = first(); i < count; i += stride()) to[i] = static_cast<uint8_t>(randomBits(seed, i) >> 60);
}

__global__ void widenKernel(const uint8_t* codes, uint8_t* to, int64_t count) {
  for (int64_t i = first(); i < count; i += stride()) to[i] = static_cast<uint8_t>(codes[i] + 120);
}

__global__ void nibblesKernel(const uint8_t* codes, uint32_t* to, int64_t words) {
  for (int64_t i = first(); i < words; i += stride()) {
    uint32_t word = 0;
    for (int j = 0; j < 8; ++j) word |= static_cast<uint32_t>(codes[i * 8 + j]) << 4 * j;
    to[i] = word;
  }
}

// A thread reads 4 bytes and writes 16, a warp 128 and 512 next to each other.
__global__ void dequantizeKernel(const uint32_t* nibbles, const uint16_t* scales, uint4* to, int64_t words,
                                 int64_t groupWords, bool bf16) {
  for (int64_t i = first(); i < words; i += stride()) {
    const uint32_t word = nibbles[i];
    const float scale = decode(scales[i / groupWords], bf16);
    uint32_t out[4];
    for (int j = 0; j < 4; ++j) {
      const auto value = [&](int code) {
        return scale * static_cast<float>(static_cast<int>(word >> 4 * code & 15) - 8);
      };
      out[j] = encode(value(2 * j), bf16) | static_cast<uint32_t>(encode(value(2 * j + 1), bf16)) << 16;
    }
    to[i] = make_uint4(out[0], out[1], out[2], out[3]);
  }
}

// Four independent loads a turn: enough on the way to fill the memory's pipes.
__global__ void readKernel(const uint4* from, int64_t words, uint32_t* sink) {
  uint32_t sum = 0;
  const auto add = [&](const uint4& v) { sum ^= v.x ^ v.y ^ v.z ^ v.w; };
  int64_t i = first();
  for (; i + 3 * stride() < words; i += 4 * stride()) {
    const uint4 a = __ldcs(from + i), b = __ldcs(from + i + stride());
    const uint4 c = __ldcs(from + i + 2 * stride()), d = __ldcs(from + i + 3 * stride());
    add(a);
    add(b);
    add(c);
    add(d);
  }
  for (; i < words; i += stride()) add(from[i]);
  if (sum == 0x12345678u) *sink = sum;  // so that the loads are needed
}

// A block for a row.
__global__ void quantizeRowsKernel(const uint16_t* from, uint8_t* to, float* scales, int64_t width, bool e4m3) {
  __shared__ float peaks[kThreads];
  const uint16_t* row = from + blockIdx.x * width;
  float peak = 0;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) peak = fmaxf(peak, fabsf(decode(row[i], true)));
  peaks[threadIdx.x] = peak;
  __syncthreads();
  for (int i = 0; i < kThreads; ++i) peak = fmaxf(peak, peaks[i]);
  const float scale = peak / (e4m3 ? 448.0f : 127.0f);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float steps = peak > 0 ? decode(row[i], true) / scale : 0;
    to[blockIdx.x * width + i] = e4m3 ? __nv_cvt_float_to_fp8(steps, __NV_SATFINITE, __NV_E4M3)
                                      : static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(steps)));
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

__global__ void emptyKernel() {}

__global__ void holdKernel(int64_t cycles) {
  const int64_t begin = clock64();
  while (clock64() - begin < cycles) {
  }
}

}  // namespace

void fillFloats(uint16_t* to, int64_t count, float scale, bool bf16, uint64_t seed, cudaStream_t stream) {
  floatsKernel<<<blocksFor(count), kThreads, 0, stream>>>(to, count, -scale, 2 * scale, bf16, seed);
}
void fillScales(uint16_t* to, int64_t count, float scale, bool bf16, uint64_t seed, cudaStream_t stream) {
  floatsKernel<<<blocksFor(count), kThreads, 0, stream>>>(to, count, scale, scale, bf16, seed);
}
void fillCodes(uint8_t* to, int64_t count, uint64_t seed, cudaStream_t stream) {
  codesKernel<<<blocksFor(count), kThreads, 0, stream>>>(to, count, seed);
}
void widenCodes(const uint8_t* codes, uint8_t* to, int64_t count, cudaStream_t stream) {
  widenKernel<<<blocksFor(count), kThreads, 0, stream>>>(codes, to, count);
}
void packNibbles(const uint8_t* codes, uint32_t* to, int64_t words, cudaStream_t stream) {
  nibblesKernel<<<blocksFor(words), kThreads, 0, stream>>>(codes, to, words);
}
void dequantize(const uint32_t* nibbles, const uint16_t* scales, uint16_t* to, int64_t n, int64_t k, int64_t group,
                bool bf16, cudaStream_t stream) {
  const int64_t words = n * k / 8;
  dequantizeKernel<<<blocksFor(words), kThreads, 0, stream>>>(nibbles, scales, reinterpret_cast<uint4*>(to), words,
                                                              group / 8, bf16);
}
void quantizeRows(const uint16_t* from, uint8_t* to, float* scales, int64_t rows, int64_t width, bool e4m3,
                  cudaStream_t stream) {
  quantizeRowsKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(from, to, scales, width, e4m3);
}
void readAll(const void* from, int64_t words, uint32_t* sink, int multiprocessors, cudaStream_t stream) {
  readKernel<<<static_cast<unsigned>(multiprocessors) * 8, kThreads, 0, stream>>>(static_cast<const uint4*>(from),
                                                                                  words, sink);
}
void doNothing(cudaStream_t stream) {
  emptyKernel<<<1, 32, 0, stream>>>();
}
void hold(cudaStream_t stream) {
  holdKernel<<<1, 1, 0, stream>>>(300000);
}

}  // namespace bench
