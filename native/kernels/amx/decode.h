// Packed weights to tiles: 16 rows of 16 outputs, a row holding a pair (bf16) or a quad (u8) of k of every output, in
// the order of layout/activations.h. Codes go in without their scale.
#pragma once

#include "kernels/amx/tiles.h"
#include "kernels/avx512/words.h"
#include "kernels/generic/pair_codes.h"
#include "kernels/generic/quad_codes.h"
#include "kernels/generic/stream.h"
#include "layout/activations.h"

namespace tsq {
namespace {

// Bytes of `columns` packed columns of a panel.
template <layout::WeightKind kKind>
TSQ_INLINE int64_t lineBytes(int64_t columns) {
  return columns * layout::kPanel * (kKind == layout::WeightKind::kBF16 ? 16 : layout::codeBits(kKind)) / 8;
}

template <typename Codes, int kTerm>
TSQ_INLINE void storeTerms(const Codes& codes, const Words (&lines)[Codes::kLines], uint8_t* out) {
  storeWords(out + kTerm * kTileRowBytes, codes.template term<kTerm>(lines));
  if constexpr (kTerm + 1 < Codes::kTerms) storeTerms<Codes, kTerm + 1>(codes, lines, out);
}

// One step of packed lines.
template <typename Codes, typename Fetch>
TSQ_INLINE void decodeStep(const Codes& codes, const uint8_t* at, Fetch ahead, uint8_t* out) {
  Words lines[Codes::kLines];
#pragma GCC unroll 4
  for (int i = 0; i < Codes::kLines; ++i) {
    lines[i] = loadWords(at + i * 64);
    ahead.fetch(at + i * 64);
  }
  storeTerms<Codes, 0>(codes, lines, out);
}

// The first `length` columns of a chunk, and zeros behind: rare, and long where it is repeated for every panel.
template <typename Codes, typename Fetch>
__attribute__((noinline)) void decodePart(const Codes& codes, const uint8_t* at, int64_t length, Fetch ahead,
                                          uint8_t* out) {
  const int64_t stepBytes = lineBytes<Codes::kKind>(Codes::kStep);
  const uint8_t* end = out + kTileBytes;
  for (; length > 0; length -= Codes::kStep, at += stepBytes, out += Codes::kTerms * kTileRowBytes) {
    decodeStep(codes, at, ahead, out);
  }
  for (; out < end; out += kTileRowBytes) storeWords(out, zeroWords());
}

// Panels lie far apart and only a piece of each is read: the same piece of the next but one is fetched.
struct NextPanels {
  int64_t bytes;
  TSQ_METHOD void fetch(const uint8_t* line) const { prefetch(line + bytes); }
};

// A chunk of kChunk packed columns, of which the first `length` exist, to one tile.
template <typename Codes, int64_t kChunk, typename Fetch>
TSQ_INLINE void decodeChunk(const Codes& codes, const uint8_t* at, int64_t length, Fetch ahead, uint8_t* out) {
  if (length < kChunk) return decodePart(codes, at, length, ahead, out);
  const int64_t stepBytes = lineBytes<Codes::kKind>(Codes::kStep);
#pragma GCC unroll 8
  for (int64_t i = 0; i < kChunk / Codes::kStep; ++i) {
    decodeStep(codes, at + i * stepBytes, ahead, out + i * Codes::kTerms * kTileRowBytes);
  }
}

}  // namespace
}  // namespace tsq
