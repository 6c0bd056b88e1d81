// Codes, scales and zero points in rows, as checkpoints have them, into the packed layout, on the device.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kPackThreads = 256;

struct PackCodes {
  Shape shape;
  Global<const uint8_t> codes;  // [n][k], or uint16_t for weights of 16 bits
  Global<const int32_t> order;  // packed column p is column order[p]; null: p itself
  Global<Words> packed;         // weightWords()
};

TSQ_KERNEL(kPackThreads) packCodes(PackCodes p) {
  const auto code = [&](int64_t n, int64_t k) {
    if (n >= p.shape.n || k >= p.shape.k) return 0u;
    const int64_t column = p.order ? load(p.order + k) : k;
    const int64_t at = n * p.shape.k + column;
    if (p.shape.bits < 16) return static_cast<uint32_t>(load(p.codes + at));
    return static_cast<uint32_t>(load(Global<const uint16_t>{reinterpret_cast<const uint16_t*>(p.codes.pointer)} + at));
  };
  const int64_t stride = int64_t{blockCount()} * kPackThreads;
  for (int64_t i = int64_t{blockIndex()} * kPackThreads + threadIndex(); i < p.shape.weightWords(); i += stride) {
    Words words;
    for (int j = 0; j < 4; ++j) words.v[j] = packWord(p.shape, i, j, code);
    store(p.packed + i, words);
  }
}

struct PackScales {
  Shape shape;
  Global<const uint16_t> values;  // [n][ceil(k / group)], scales or zero points
  Global<uint16_t> packed;        // 8 scaleWords()
};

TSQ_KERNEL(kPackThreads) packScales(PackScales p) {
  const int64_t groups = (p.shape.k + p.shape.groupK() - 1) / p.shape.groupK();  // in rows: without padding
  const int64_t stride = int64_t{blockCount()} * kPackThreads;
  for (int64_t i = int64_t{blockIndex()} * kPackThreads + threadIndex(); i < p.shape.scaleWords() * 8; i += stride) {
    const ScalePlace place = scalePlace(p.shape, i);
    const bool padding = place.n >= p.shape.n || place.group >= groups;
    store(p.packed + i, padding ? uint16_t{0} : load(p.values + (place.n * groups + place.group)));
  }
}

}  // namespace tsq::cuda::w4a16
