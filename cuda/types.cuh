// Types that kernels, their host side and the emulation share.
#pragma once
#include <cstdint>

namespace tsq::cuda {

enum class Type { kF16, kBF16, kE4M3, kS8 };

// 16 bytes, moved as one.
struct alignas(16) Words {
  uint32_t v[4];
};
struct alignas(16) Floats {
  float v[4];
};
struct alignas(16) Integers {
  int32_t v[4];
};
// An mbarrier, in shared memory.
struct alignas(8) Arrivals {
  uint64_t opaque;
};

}  // namespace tsq::cuda
