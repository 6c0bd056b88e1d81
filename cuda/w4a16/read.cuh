// Reads memory and does nothing else: the bandwidth that products are measured by.
#pragma once
#include "cuda/device.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kReadThreads = 256;

struct ReadAll {
  Global<const Words> from;
  int64_t words;
  Global<uint32_t> sink;  // written where the words happen to add up to a number
};

TSQ_KERNEL(kReadThreads) readAll(ReadAll p) {
  const int64_t stride = int64_t{blockCount()} * kReadThreads;
  uint32_t sum = 0;
  const auto add = [&](const Words& w) { sum ^= w.v[0] ^ w.v[1] ^ w.v[2] ^ w.v[3]; };
  int64_t i = int64_t{blockIndex()} * kReadThreads + threadIndex();
  // Four independent loads a turn, to have enough on the way.
  for (; i + 3 * stride < p.words; i += 4 * stride) {
    Words words[4];
    TSQ_UNROLL for (int j = 0; j < 4; ++j) words[j] = load(p.from + (i + j * stride));
    TSQ_UNROLL for (int j = 0; j < 4; ++j) add(words[j]);
  }
  for (; i < p.words; i += stride) add(load(p.from + i));
  if (sum == 0x12345678u) store(p.sink, sum);
}

}  // namespace tsq::cuda::w4a16
