// Which of the instruction sets that rounding's own loops are compiled for the table of kernels() stands for.
#pragma once
#include <cstring>

#include "kernels/kernels.h"

namespace tsq::rounding {

enum class LoopIsa { kBaseline, kAvx2, kAvx512 };

// By the name of the table, so that TSQ_CPU holds here too.
inline LoopIsa loopIsa() {
#if defined(__x86_64__)
  const char* name = kernels().name;
  if (std::strncmp(name, "avx512", 6) == 0 || std::strcmp(name, "amx") == 0) return LoopIsa::kAvx512;
  if (std::strncmp(name, "avx", 3) == 0) return LoopIsa::kAvx2;
#endif
  return LoopIsa::kBaseline;
}

}  // namespace tsq::rounding
