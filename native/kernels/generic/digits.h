// Exact products of few rows in fixed point. Include after an instruction set's words.h, kDigitRegisters (registers for
// sums, weights and digits) and a class DigitSum (generic/digit_sums.h), sixteen running int32.
//
// An activation becomes an integer of `limbs` balanced digits in base 256, times a power of two common to its block:
// exactly, or with its 21 leading bits where the block spans a wide range. Codes times digits are summed in int32,
// exactly; f32 rounds once a block. Products of bytes cost a quarter of f32 ones and codes need not be widened, so that
// four and more digits are cheaper than f32.
#pragma once

#include "kernels/generic/codes.h"
#include "kernels/generic/quad_codes.h"
#include "kernels/generic/split_quads.h"
#include "kernels/generic/stream.h"
#include "kernels/kernels.h"
#include "layout/activations.h"

namespace tsq {
namespace {

// --- activations -----------------------------------------------------------------------------------------------------

constexpr int kLeastDigits = 3, kMostDigits = 6;
// A sum for every digit of every row.
constexpr int kMostStreams = kDigitRows * kMostDigits;
// Leading bits that every activation keeps at least.
constexpr int kKeptBits = 21;
// Exponents of f32 activations that all powers of two below can be formed for.
constexpr int kLeastExponent = -70, kMostExponent = 70;

// Bits of the integer below its sign: the topmost digit must not overflow.
TSQ_INLINE constexpr int digitBits(int limbs) {
  return 8 * limbs - 2;
}
TSQ_INLINE int exponentOf(int32_t bits) {  // floor(log2 |x|) of a normal x
  return (bits >> 23) - 127;
}
TSQ_INLINE float powerOfTwo(int exponent) {  // -126 … 127
  return bitsToFloat(static_cast<uint32_t>(exponent + 127) << 23);
}

// Digits that a row needs; 0 where fixed point does not do: NaN, infinity, subnormal numbers, too wide a range.
// significand: bits of the activations' own type (8, 11 or 24).
int digitsNeeded(const layout::Shape& shape, const float* x, int significand) {
  const int kept = significand < kKeptBits ? significand : kKeptBits;
  int limbs = kLeastDigits;
  for (int64_t index = 0; index < layout::blocks(shape); ++index) {
    const layout::Block block = layout::blockAt(shape, index);
    Words peak = zeroWords(), least = everyWord(-kInfinityBits);  // negated: the least magnitude but zero
    for (int64_t i = 0; i < block.length; i += 16) {
      const Words bits = bitsOf(abs(loadColumns(x + block.p + i, block.length - i)));
      peak = maxWords(peak, bits);
      // Zero less one wraps below every other number, so that zeros never count as least.
      least = maxWords(least, ifZero(bits, everyWord(-kInfinityBits), subWords(zeroWords(), bits)));
    }
    const int32_t top = largestWord(peak), bottom = -largestWord(least);
    if (top == 0) continue;
    if (top >= kInfinityBits) return 0;
    if (exponentOf(top) > kMostExponent || exponentOf(bottom) < kLeastExponent) return 0;
    const int bits = exponentOf(top) - exponentOf(bottom) + kept;
    while (limbs <= kMostDigits && digitBits(limbs) < bits) ++limbs;
    if (limbs > kMostDigits) return 0;
  }
  return limbs;
}

// The lowest digit of sixteen integers, and what is left above it.
TSQ_INLINE Words upperDigits(Words value) {
  return shiftDownSigned<8>(addWords(value, everyWord(128)));
}

// Sixteen columns: their digits to `out`, limbs `apart` bytes apart, and added to `sums`.
template <layout::WeightKind kKind>
TSQ_INLINE void writeDigits(Lanes x, int limbs, float up, float upHigh, float downHigh, uint8_t* out, int64_t apart,
                            Words* sums) {
  // Up to four digits are one integer; more are two, the lower of three digits, exact in f32 each.
  Words low, high = zeroWords();
  if (limbs <= 4) {
    low = nearestWords(mul(x, set1(up)));
  } else {
    const Lanes whole = roundEven(mul(x, set1(upHigh)));
    high = nearestWords(whole);
    low = nearestWords(mul(fmaNegated(whole, set1(downHigh), x), set1(up)));
  }
  for (int limb = 0; limb < limbs; ++limb) {
    if (limb == 3 && limbs > 4) low = addWords(low, high);  // what the lower digits carry
    const Words rest = upperDigits(low);
    const Words digit = subWords(low, shiftDown<-8>(rest));
    storeCodes<kKind>(out + limb * apart, digit);
    sums[limb] = addWords(sums[limb], digit);
    low = rest;
  }
}

// sums: [block][limb], `step` apart.
template <layout::WeightKind kKind>
void splitDigitsOf(const SplitRow& row) {
  const layout::Shape& shape = *row.shape;
  uint8_t* chunk = row.chunks;
  for (int64_t index = 0; index < layout::blocks(shape); ++index) {
    const layout::Block block = layout::blockAt(shape, index);
    const float* x = row.x + block.p;
    const int32_t top = peakBits(x, block.length);
    // x 2^shift is the integer; a block of zeros may take any.
    const int shift = digitBits(row.limbs) - 1 - (top == 0 ? 0 : exponentOf(top));
    const float up = powerOfTwo(shift), upHigh = powerOfTwo(shift - 24), downHigh = powerOfTwo(24 - shift);
    Words sums[kMostDigits];
    for (int limb = 0; limb < row.limbs; ++limb) sums[limb] = zeroWords();
    for (int64_t begin = 0; begin < block.length; begin += layout::kQuadChunk, chunk += row.limbs * row.apart) {
      for (int64_t i = 0; i < layout::kQuadChunk; i += 16) {
        writeDigits<kKind>(loadColumns(x + begin + i, block.length - begin - i), row.limbs, up, upHigh, downHigh,
                           chunk + i, row.apart, sums);
      }
    }
    row.scales[index * row.step] = powerOfTwo(-shift);
    for (int limb = 0; limb < row.limbs; ++limb) {
      row.sums[(index * row.limbs + limb) * row.step] = sumWords(sums[limb]);
    }
  }
}

void splitDigits(const SplitRow& row) {
  switch (row.shape->kind) {
    case layout::WeightKind::kU8:
      return splitDigitsOf<layout::WeightKind::kU8>(row);
    case layout::WeightKind::kI4:
    case layout::WeightKind::kU4:
      return splitDigitsOf<layout::WeightKind::kU4>(row);
    default:
      return splitDigitsOf<layout::WeightKind::kU2>(row);  // U3 has the same order
  }
}

// --- products --------------------------------------------------------------------------------------------------------

// One step of kPanels panels against kStreams streams of digits. Terms add to kChains chains of sums in turn.
template <typename Codes, int kTerm, int kChains, int kStreams, int kPanels>
TSQ_INLINE void digitTerms(const Codes& codes, const Words (&lines)[kPanels][Codes::kLines], const uint8_t* x,
                           DigitSum (&sums)[kChains][kPanels][kStreams]) {
  Words terms[kPanels];
#pragma GCC unroll 4
  for (int q = 0; q < kPanels; ++q) terms[q] = codes.template term<kTerm>(lines[q]);
#pragma GCC unroll 12
  for (int s = 0; s < kStreams; ++s) {
    const Words quad = broadcastWord(x + s * layout::kChunkBytes + kTerm * 4);
#pragma GCC unroll 4
    for (int q = 0; q < kPanels; ++q) sums[kTerm % kChains][q][s].add(terms[q], quad);
  }
  if constexpr (kTerm + 1 < Codes::kTerms) digitTerms<Codes, kTerm + 1, kChains>(codes, lines, x, sums);
}

// Sums of one block less the zero points' share, to `out` as [panel][stream][16].
template <typename Codes, int kChains, int kStreams, int kPanels>
TSQ_INLINE void digitBlock(const Codes& codes, const uint8_t* line, int64_t apart, Ahead ahead, const uint8_t* x,
                           int64_t length, const int32_t* inputSums, const Words (&zeroPoints)[kPanels], int32_t* out) {
  constexpr int64_t kStepBytes = Codes::kLines * 64;
  constexpr int64_t kRun = DigitSum::kRunTerms / Codes::kTerms * Codes::kStep;  // packed columns between two flushes
  DigitSum sums[kChains][kPanels][kStreams];
#pragma GCC unroll 12
  for (int s = 0; s < kStreams; ++s) {
    const Words inputSum = broadcastWord(inputSums + s);
#pragma GCC unroll 4
    for (int q = 0; q < kPanels; ++q) {
      sums[0][q][s].start(halfProducts(zeroPoints[q], inputSum));
      if constexpr (kChains == 2) sums[1][q][s].start(zeroWords());
    }
  }
  for (int64_t begin = 0; begin < length; begin += layout::kQuadChunk, x += (kStreams - 1) * layout::kChunkBytes) {
    const int64_t here = length - begin < layout::kQuadChunk ? length - begin : layout::kQuadChunk;
    const uint8_t* end = x + here;
    do {
      const uint8_t* stop = end - x < kRun ? end : x + kRun;
      for (; x < stop; x += Codes::kStep, line += kStepBytes) {
        Words lines[kPanels][Codes::kLines];
#pragma GCC unroll 4
        for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 3
          for (int i = 0; i < Codes::kLines; ++i) {
            lines[q][i] = loadWords(line + q * apart + i * 64);
            ahead.fetch(line + q * apart + i * 64);
          }
        }
        digitTerms<Codes, 0>(codes, lines, x, sums);
      }
#pragma GCC unroll 2
      for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 4
        for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 12
          for (int s = 0; s < kStreams; ++s) sums[c][q][s].flush();
        }
      }
    } while (x < end);
    x += layout::kQuadChunk - here;
  }
#pragma GCC unroll 4
  for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 12
    for (int s = 0; s < kStreams; ++s) {
      const Words first = sums[0][q][s].total;
      const Words sum = kChains == 2 ? addWords(first, sums[kChains - 1][q][s].total) : first;
      storeWords(out + (q * kStreams + s) * layout::kPanel, sum);
    }
  }
}

// Adds the sums of one block and panel to the totals of every row.
TSQ_INLINE void addDigits(int64_t rows, int64_t limbs, const float* rowScales, Lanes scale, const int32_t* sums,
                          Lanes (&totals)[kDigitRows]) {
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sum = sums + ((limbs - 1) * rows + row) * layout::kPanel;
    Lanes value = floats(loadWords(sum));
    for (int64_t limb = limbs - 1; limb > 0; --limb) {
      sum -= rows * layout::kPanel;
      value = fma(value, set1(256), floats(loadWords(sum)));
    }
    totals[row] = fma(mul(scale, set1(rowScales[row])), value, totals[row]);
  }
}

template <typename Codes, int kChains, int kStreams, int kPanels>
TSQ_INLINE void digitPanels(const DotCall& call, int64_t panel) {
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  const int64_t bytes = layout::panelBytes(shape), groups = layout::groups(shape), blocks = layout::blocks(shape);
  const Codes codes(w);
  const uint8_t* begin = static_cast<const uint8_t*>(w.data) + panel * bytes;
  const uint8_t* line = begin;
  const uint8_t* x = call.chunks;
  alignas(64) int32_t sums[kPanels * kStreams * layout::kPanel];
  Lanes totals[kPanels][kDigitRows];
  for (int q = 0; q < kPanels; ++q) {
    for (int64_t row = 0; row < kDigitRows; ++row) totals[q][row] = zeros();
  }
  const int64_t rows = call.rows, limbs = call.limbs;
  const float* rowScales = call.scales;
  const int32_t* inputSums = call.sums;
  layout::BlockWalk walk(shape);
  for (int64_t index = 0; index < blocks; ++index, walk.next(), rowScales += rows, inputSums += kStreams) {
    const int64_t length = walk.length(), at = (panel * groups + walk.group) * layout::kPanel;
    Words zeroPoints[kPanels];
    for (int q = 0; q < kPanels; ++q) zeroPoints[q] = negatedZeros(w, at + q * groups * layout::kPanel);
    digitBlock<Codes, kChains, kStreams, kPanels>(codes, line, bytes, Ahead(line - begin, bytes, kPanels), x, length,
                                                  inputSums, zeroPoints, sums);
    line += length * layout::kPanel * layout::codeBits(Codes::kKind) / 8;
    x += layout::divideUp(length, layout::kQuadChunk) * kStreams * layout::kChunkBytes;
#pragma GCC unroll 4
    for (int q = 0; q < kPanels; ++q) {
      addDigits(rows, limbs, rowScales, loadScales(w, at + q * groups * layout::kPanel),
                sums + q * kStreams * layout::kPanel, totals[q]);
    }
  }
  for (int q = 0; q < kPanels; ++q) {
    for (int64_t row = 0; row < call.rows; ++row) {
      const int64_t column = (panel + q) * layout::kPanel, count = shape.n - column;
      float* y = call.y + row * call.ldy + column;
      const float* bias = call.bias;
      if (count >= layout::kPanel) {
        store(y, bias != nullptr ? add(totals[q][row], load(bias + column)) : totals[q][row]);
      } else {
        storePartial(y, bias != nullptr ? add(totals[q][row], loadPartial(bias + column, count)) : totals[q][row],
                     count);
      }
    }
  }
}

// Whether there are registers for so many sums, and lines, weights and digits beside them.
template <typename Codes, int kStreams>
constexpr bool fitsDigits(int panels, int chains) {
  return panels * (chains * kStreams + 1 + Codes::kLines) + 2 <= kDigitRegisters;
}

// Two panels share the digits, and two chains of sums hide the latency of each other. (Four panels would too, but
// memory serves two streams a thread faster than four.)
template <typename Codes, int kStreams>
__attribute__((noinline)) void digitStreams(const DotCall& call) {
  constexpr int kPanels = fitsDigits<Codes, kStreams>(2, 1) ? 2 : 1;
  constexpr int kChains = fitsDigits<Codes, kStreams>(kPanels, 2) ? 2 : 1;
  int64_t panel = call.panelBegin;
  for (; panel + kPanels <= call.panelEnd; panel += kPanels) {
    digitPanels<Codes, kChains, kStreams, kPanels>(call, panel);
  }
  for (; panel < call.panelEnd; ++panel) digitPanels<Codes, kChains, kStreams, 1>(call, panel);
}

template <typename Codes, int kStreams = kLeastDigits>
TSQ_INLINE void digitsOf(const DotCall& call) {
  if constexpr (kStreams < kMostStreams) {
    if (call.rows * call.limbs > kStreams) return digitsOf<Codes, kStreams + 1>(call);
  }
  digitStreams<Codes, kStreams>(call);
}

// A template, so that nothing is compiled where bytes are not taken.
template <typename Sum>
TSQ_INLINE void digitsOfBook(const DotCall& call) {
  if constexpr (Sum::kTakesBytes) digitsOf<QuadCodes<layout::WeightKind::kI4, 1>>(call);
}

void multiplyDigits(const DotCall& call) {
  switch (call.w->shape.kind) {
    case layout::WeightKind::kU8:
      return digitsOf<QuadCodes<layout::WeightKind::kU8, 1>>(call);
    case layout::WeightKind::kU4:
      return digitsOf<QuadCodes<layout::WeightKind::kU4, 1>>(call);
    case layout::WeightKind::kU3:
      return digitsOf<QuadCodes<layout::WeightKind::kU3, 1>>(call);
    case layout::WeightKind::kI4:
      return digitsOfBook<DigitSum>(call);
    default:
      return digitsOf<QuadCodes<layout::WeightKind::kU2, 1>>(call);
  }
}

bool digitsPay(layout::WeightKind kind, Dtype, int64_t rows) {
  const bool takes = layout::isInteger(kind) || (kind == layout::WeightKind::kI4 && DigitSum::kTakesBytes);
  return takes && rows <= kDigitRows;
}
int64_t digitScratch(const layout::Shape&, int64_t, int64_t) {
  return 0;
}

}  // namespace
}  // namespace tsq
