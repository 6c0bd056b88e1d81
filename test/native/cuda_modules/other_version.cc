// A module of another version of the interface, of which nothing but the version may be read.
#include "cuda/module/module.h"

extern "C" __attribute__((visibility("default"))) const uint32_t* tsqCuda() {
  static constexpr uint32_t version = kTsqCudaVersion + 1;
  return &version;
}
