// Peaks of instructions on ymm registers: see kernels/probes.h. Sources ymm0 and ymm1, sums in ymm4 to ymm15.
#include "kernels/probes.h"

#define TSQ_TWELVE(I) I(4) I(5) I(6) I(7) I(8) I(9) I(10) I(11) I(12) I(13) I(14) I(15)
#define TSQ_STEPS(BODY)                                                                                         \
  __asm__ volatile(                                                                                             \
      "vpxor %%xmm0, %%xmm0, %%xmm0\n vmovdqa %%ymm0, %%ymm1\n"                                                 \
      "1:\n" BODY "dec %0\n jnz 1b\n vzeroupper\n"                                                              \
      : "+r"(steps)                                                                                             \
      :                                                                                                         \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
        "xmm12", "xmm13", "xmm14", "xmm15")

#define TSQ_FMA(i) "vfmadd231ps %%ymm0, %%ymm1, %%ymm" #i "\n"
#define TSQ_MADDUBS(i) \
  "vpmaddubsw %%ymm0, %%ymm1, %%ymm2\n vpmaddwd %%ymm2, %%ymm1, %%ymm3\n vpaddd %%ymm3, %%ymm" #i ", %%ymm" #i "\n"
#define TSQ_VNNI(i) "%{vex%} vpdpbusd %%ymm0, %%ymm1, %%ymm" #i "\n"

#define TSQ_LINE(at) "vpxor " #at "(%0), %%ymm0, %%ymm0\n vpxor 32+" #at "(%0), %%ymm1, %%ymm1\n"
#define TSQ_AHEAD(at) "prefetcht0 " #at "(%0)\n"
#define TSQ_READ(A, B, C, D)                                                              \
  __asm__ volatile("1:\n" A TSQ_LINE(0) B TSQ_LINE(64) C TSQ_LINE(128)                    \
                       D TSQ_LINE(192) "add $256, %0\n cmp %1, %0\n jb 1b\n vzeroupper\n" \
                   : "+&r"(begin)                                                         \
                   : "r"(begin + bytes)                                                   \
                   : "cc", "memory", "xmm0", "xmm1")

namespace tsq {
namespace {

void fma(int64_t steps) {
  TSQ_STEPS(TSQ_TWELVE(TSQ_FMA));
}

void maddubs(int64_t steps) {
  TSQ_STEPS(TSQ_TWELVE(TSQ_MADDUBS));
}

__attribute__((target("avxvnni"))) void vnni(int64_t steps) {
  TSQ_STEPS(TSQ_TWELVE(TSQ_VNNI));
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

const PeakProbe kFmaYmm = {"fma-ymm", 12 * 8 * 2, fma};
const PeakProbe kMaddubsYmm = {"maddubs-ymm", 12 * 32 * 2, maddubs};
const PeakProbe kVnniYmm = {"vnni-ymm", 12 * 32 * 2, vnni};
const ReadProbe kReadYmm = {{readPlain, readNear, readStaggered, readFar}};

}  // namespace tsq
