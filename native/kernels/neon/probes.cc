// Peaks of NEON instructions: see kernels/probes.h. Sources v0 and v1, sums in v8 to v31.
#include "kernels/probes.h"

#define TSQ_EIGHT(I) I(8) I(9) I(10) I(11) I(12) I(13) I(14) I(15)
#define TSQ_SIXTEEN(I) I(16) I(17) I(18) I(19) I(20) I(21) I(22) I(23) I(24) I(25) I(26) I(27) I(28) I(29) I(30) I(31)
#define TSQ_SUMS(I) TSQ_EIGHT(I) TSQ_SIXTEEN(I)
#define TSQ_STEPS(EXTENSION, BODY)                                                                               \
  __asm__ volatile(EXTENSION                                                                                     \
                   "movi v0.16b, #0\n movi v1.16b, #0\n"                                                         \
                   "1:\n" BODY "subs %0, %0, #1\n b.ne 1b\n"                                                     \
                   : "+r"(steps)                                                                                 \
                   :                                                                                             \
                   : "cc", "v0", "v1", "v2", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", \
                     "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31")

#define TSQ_FMA(i) "fmla v" #i ".4s, v0.4s, v1.4s\n"
#define TSQ_MULL(i) "smull v2.8h, v0.8b, v1.8b\n smlal2 v2.8h, v0.16b, v1.16b\n sadalp v" #i ".4s, v2.8h\n"
#define TSQ_DOT(i) "sdot v" #i ".4s, v0.16b, v1.16b\n"
#define TSQ_MMLA(i) "smmla v" #i ".4s, v0.16b, v1.16b\n"
#define TSQ_BFMMLA(i) "bfmmla v" #i ".4s, v0.8h, v1.8h\n"

#define TSQ_LINE(at, more) "ldp q0, q1, [%0, #" #at "]\n ldp q2, q3, [%0, #" #more "]\n"
#define TSQ_AHEAD(at) "prfm pldl1keep, [%0, #" #at "]\n"
#define TSQ_READ(A, B, C, D)                                                            \
  __asm__ volatile("1:\n" A TSQ_LINE(0, 32) B TSQ_LINE(64, 96) C TSQ_LINE(128, 160)     \
                       D TSQ_LINE(192, 224) "add %0, %0, #256\n cmp %0, %1\n b.lo 1b\n" \
                   : "+&r"(begin)                                                       \
                   : "r"(begin + bytes)                                                 \
                   : "cc", "memory", "v0", "v1", "v2", "v3")

namespace tsq {
namespace {

void fma(int64_t steps) {
  TSQ_STEPS("", TSQ_SUMS(TSQ_FMA));
}

void mull(int64_t steps) {
  TSQ_STEPS("", TSQ_SUMS(TSQ_MULL));
}

void dot(int64_t steps) {
  TSQ_STEPS(".arch armv8.2-a+dotprod\n", TSQ_SUMS(TSQ_DOT));
}

void mmla(int64_t steps) {
  TSQ_STEPS(".arch armv8.2-a+i8mm\n", TSQ_SUMS(TSQ_MMLA));
}

void bfmmla(int64_t steps) {
  TSQ_STEPS(".arch armv8.2-a+bf16\n", TSQ_SUMS(TSQ_BFMMLA));
}

void readPlain(const uint8_t* begin, int64_t bytes) {
  TSQ_READ("", "", "", "");
}

void readNear(const uint8_t* begin, int64_t bytes) {
  TSQ_READ(TSQ_AHEAD(1024), TSQ_AHEAD(1088), TSQ_AHEAD(1152), TSQ_AHEAD(1216));
}

void readStaggered(const uint8_t* begin, int64_t bytes) {
  TSQ_READ(TSQ_AHEAD(1024), TSQ_AHEAD(576), TSQ_AHEAD(1152), TSQ_AHEAD(704));
}

void readFar(const uint8_t* begin, int64_t bytes) {
  TSQ_READ(TSQ_AHEAD(4096), TSQ_AHEAD(4160), TSQ_AHEAD(4224), TSQ_AHEAD(4288));
}

}  // namespace

const PeakProbe kFmaNeon = {"fma-neon", 24 * 4 * 2, fma};
const PeakProbe kMullNeon = {"mull-neon", 24 * 16 * 2, mull};
const PeakProbe kDotNeon = {"dot-neon", 24 * 16 * 2, dot};
const PeakProbe kMmlaNeon = {"mmla-neon", 24 * 32 * 2, mmla};
const PeakProbe kBfmmlaNeon = {"bfmmla-neon", 24 * 16 * 2, bfmmla};
const ReadProbe kReadNeon = {{readPlain, readNear, readStaggered, readFar}};

}  // namespace tsq
