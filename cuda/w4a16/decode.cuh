// Packed codes as packed weights of 16 bits: what a product without fused kernels does first.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kDecodeThreads = 256;

struct DecodeCodes {
  Shape shape;                                    // of 4 or 8 bits, no book
  Global<const uint32_t> weights, scales, zeros;  // packed; zeros may be null
  Global<Words> to;                               // weightWords() of the same shape in 16 bits
  bool isBF16, scalesAreBF16;
};

// The shape of what comes out.
TSQ_BOTH constexpr Shape decodedShape(const Shape& shape) {
  return {shape.n, shape.k, shape.k, 16};
}

// The fragment of operand A with this index among those of the weight: 16 outputs by 16 k of a warp, a lane's part.
template <Type kType, Kind kKind>
TSQ_DEVICE Words decodeFragment(const DecodeCodes& p, int64_t index) {
  using Weight = Format<kKind>;
  const int lane = static_cast<int>(index % 32), slab = static_cast<int>(index / 32 % 4);
  const int64_t unit = index / 128, units = p.shape.tiles() * kUnits;
  const int64_t group = unit % units * kUnitK / p.shape.groupK();
  // Words of four bytes are loaded one by one: a register that is chosen at run time would lie in memory.
  const int64_t pair = ((unit / units * p.shape.groups() + group) * kScaleWords + lane / 4) * 4 + slab;
  const int64_t first =
      ((unit * Weight::kPieces + slab / Weight::kSlices) * 32 + lane) * 4 + slab % Weight::kSlices * Weight::kPieces;
  Words words = {};
  TSQ_UNROLL for (int i = 0; i < Weight::kPieces; ++i) words.v[i] = load(p.weights + (first + i));
  uint32_t a[4];
  Weight::template fragment<kType>(a, words, 0, {});
  const uint32_t scales = load(p.scales + pair), zeros = p.zeros ? load(p.zeros + pair) : 0;
  Words out;
  TSQ_UNROLL for (int r = 0; r < 4; ++r) {
    const auto of = [&](uint32_t pair) { return static_cast<uint16_t>(pair >> r % 2 * 16); };
    const float scale = p.scalesAreBF16 ? toFloat<Type::kBF16>(of(scales)) : toFloat<Type::kF16>(of(scales));
    const float bias = Weight::bias(p.zeros ? toFloat<Type::kF16>(of(zeros)) : Weight::kZero);
    const auto value = [&](uint32_t bits) {
      return uint32_t{
          fromFloat<kType>(scale * (Weight::factor({}) * (toFloat<kType>(static_cast<uint16_t>(bits)) + bias)))};
    };
    out.v[r] = value(a[r]) | value(a[r] >> 16) << 16;
  }
  return out;
}

TSQ_KERNEL(kDecodeThreads) decodeCodes(DecodeCodes p) {
  const int64_t stride = int64_t{blockCount()} * kDecodeThreads, words = decodedShape(p.shape).weightWords();
  for (int64_t i = int64_t{blockIndex()} * kDecodeThreads + threadIndex(); i < words; i += stride) {
    const bool four = p.shape.bits == 4;
    store(p.to + i,
          p.isBF16
              ? (four ? decodeFragment<Type::kBF16, Kind::kInt4>(p, i) : decodeFragment<Type::kBF16, Kind::kInt8>(p, i))
              : (four ? decodeFragment<Type::kF16, Kind::kInt4>(p, i) : decodeFragment<Type::kF16, Kind::kInt8>(p, i)));
  }
}

}  // namespace tsq::cuda::w4a16
