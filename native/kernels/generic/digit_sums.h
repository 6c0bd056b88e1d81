// Sums of products of codes with digits by one instruction. Include after an instruction set's words.h and a function
//
//   dotQuads(sum, codes, x)   adds to sixteen int32 the products of four unsigned and four signed bytes each
//   kByteCodes                whether the unsigned ones may have all eight bits
#pragma once

namespace tsq {
namespace {

struct DigitSum {
  static constexpr int64_t kRunTerms = layout::kQuadChunk;  // between two flushes: more than there are
  static constexpr bool kTakesBytes = kByteCodes;
  Words total;

  TSQ_METHOD void start(Words first) { total = first; }
  TSQ_METHOD void add(Words codes, Words x) { total = dotQuads(total, codes, x); }
  TSQ_METHOD void flush() {}
};

}  // namespace
}  // namespace tsq
