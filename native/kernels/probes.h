// What the machine can do at most: bytes read from memory, and operations of one instruction. Benchmarks say how near
// the kernels come to it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq {

// One instruction, again and again, on registers alone and with enough independent sums to hide its latency.
struct PeakProbe {
  const char* name;
  double operations;  // of a step; a multiply-add counts two
  void (*run)(int64_t steps);
};

// Ways of asking for memory before it is needed. Which is the fastest depends on how the processor's own prefetching
// takes it; on some, asking for the second line of a 128-byte pair right after the first costs a sixth of the
// bandwidth.
enum class ReadPattern : int {
  kPlain = 0,
  kNear = 1,
  kStaggered = 2,
  kFar = 3
};  // none; 1 KiB; 1 KiB and 512 B; 4 KiB
constexpr int kReadPatterns = 4;

// Reads a run of memory, a multiple of 256 bytes, in one of the ways above.
struct ReadProbe {
  void (*run[kReadPatterns])(const uint8_t* begin, int64_t bytes);
};

// Written in assembly, so that no compiler moves the sums through memory. By the flags that the file is compiled with;
// instructions of extensions beyond those are run only where the processor has them.
#ifdef TSQ_HAVE_AVX2
extern const PeakProbe kFmaYmm, kMaddubsYmm, kVnniYmm;
extern const ReadProbe kReadYmm;
#endif
#ifdef TSQ_HAVE_AVX512
extern const PeakProbe kFmaZmm, kMaddubsZmm, kVnniZmm, kBf16Zmm, kAmxBf16, kAmxInt8;
extern const ReadProbe kReadZmm;
#endif
#ifdef TSQ_HAVE_NEON
extern const PeakProbe kFmaNeon, kMullNeon, kDotNeon, kMmlaNeon, kBfmmlaNeon;
extern const ReadProbe kReadNeon;
#endif

// The names of the instructions that run here.
std::vector<std::string> peakProbes();

// 1e9 operations a second of all threads of the pool together, over `milliseconds`. kUnsupported, with the names
// that there are, for an instruction that does not run here.
Result<double> measurePeak(const std::string& name, double milliseconds);

// Memory that holds something, so that every page of it is there.
Result<AlignedBuffer> readProbe(size_t bytes);

// 1e9 bytes a second that all threads of the pool together read of [offset, offset + bytes) of `memory`. The caller
// checks the range.
double measureRead(const AlignedBuffer& memory, size_t offset, size_t bytes, ReadPattern pattern);

}  // namespace tsq
