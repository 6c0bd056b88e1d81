// Peaks of instructions on zmm and tile registers: see kernels/probes.h. Sources zmm0 and zmm1, sums in zmm16 to zmm31.
#include "kernels/probes.h"

#define TSQ_SIXTEEN(I) I(16) I(17) I(18) I(19) I(20) I(21) I(22) I(23) I(24) I(25) I(26) I(27) I(28) I(29) I(30) I(31)
#define TSQ_STEPS(BODY)                                                                                               \
  __asm__ volatile(                                                                                                   \
      "vpxor %%xmm0, %%xmm0, %%xmm0\n vmovdqa64 %%zmm0, %%zmm1\n"                                                     \
      "1:\n" BODY "dec %0\n jnz 1b\n vzeroupper\n"                                                                    \
      : "+r"(steps)                                                                                                   \
      :                                                                                                               \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", \
        "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31")

#define TSQ_FMA(i) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #i "\n"
#define TSQ_MADDUBS(i) \
  "vpmaddubsw %%zmm0, %%zmm1, %%zmm2\n vpmaddwd %%zmm2, %%zmm1, %%zmm3\n vpaddd %%zmm3, %%zmm" #i ", %%zmm" #i "\n"
#define TSQ_VNNI(i) "vpdpbusd %%zmm0, %%zmm1, %%zmm" #i "\n"
#define TSQ_BF16(i) "vdpbf16ps %%zmm0, %%zmm1, %%zmm" #i "\n"

#define TSQ_LINE(at, i) "vpxord " #at "(%0), %%zmm" #i ", %%zmm" #i "\n"
#define TSQ_AHEAD(at) "prefetcht0 " #at "(%0)\n"
#define TSQ_READ(A, B, C, D)                                                                 \
  __asm__ volatile("1:\n" A TSQ_LINE(0, 0) B TSQ_LINE(64, 1) C TSQ_LINE(128, 2)              \
                       D TSQ_LINE(192, 3) "add $256, %0\n cmp %1, %0\n jb 1b\n vzeroupper\n" \
                   : "+&r"(begin)                                                            \
                   : "r"(begin + bytes)                                                      \
                   : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3")

namespace tsq {
namespace {

void fma(int64_t steps) {
  TSQ_STEPS(TSQ_SIXTEEN(TSQ_FMA));
}

void maddubs(int64_t steps) {
  TSQ_STEPS(TSQ_SIXTEEN(TSQ_MADDUBS));
}

__attribute__((target("avx512vnni"))) void vnni(int64_t steps) {
  TSQ_STEPS(TSQ_SIXTEEN(TSQ_VNNI));
}

__attribute__((target("avx512bf16"))) void bf16(int64_t steps) {
  TSQ_STEPS(TSQ_SIXTEEN(TSQ_BF16));
}

// Eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t rowBytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A 2 x 2 block of sums, as matrix kernels use it: tiles 0 to 3 += {4, 5} x {6, 7}.
#define TSQ_TILE_STEPS(PRODUCT)                                                                       \
  const TileConfig config;                                                                            \
  __asm__ volatile(                                                                                   \
      "ldtilecfg %1\n"                                                                                \
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"                       \
      "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n"                       \
      "1:\n" PRODUCT " %%tmm6, %%tmm4, %%tmm0\n" PRODUCT " %%tmm7, %%tmm4, %%tmm1\n" PRODUCT          \
      " %%tmm6, %%tmm5, %%tmm2\n" PRODUCT " %%tmm7, %%tmm5, %%tmm3\n dec %0\n jnz 1b\n tilerelease\n" \
      : "+r"(steps)                                                                                   \
      : "m"(config)                                                                                   \
      : "cc")

__attribute__((target("amx-tile,amx-bf16"))) void tileBf16(int64_t steps) {
  TSQ_TILE_STEPS("tdpbf16ps");
}

__attribute__((target("amx-tile,amx-int8"))) void tileInt8(int64_t steps) {
  TSQ_TILE_STEPS("tdpbusd");
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

const PeakProbe kFmaZmm = {"fma-zmm", 16 * 16 * 2, fma};
const PeakProbe kMaddubsZmm = {"maddubs-zmm", 16 * 64 * 2, maddubs};
const PeakProbe kVnniZmm = {"vnni-zmm", 16 * 64 * 2, vnni};
const PeakProbe kBf16Zmm = {"bf16-zmm", 16 * 32 * 2, bf16};
const PeakProbe kAmxBf16 = {"amx-bf16", 4 * 16 * 16 * 32 * 2, tileBf16};
const PeakProbe kAmxInt8 = {"amx-int8", 4 * 16 * 16 * 64 * 2, tileInt8};
const ReadProbe kReadZmm = {{readPlain, readNear, readStaggered, readFar}};

}  // namespace tsq
