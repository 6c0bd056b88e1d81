// What the scheme of a weight says that happens to activations before they are multiplied: ActivationScheme and
// ActivationParameters of lib/core.
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq {

// kExact: as they are.
enum class ActivationType : uint8_t { kExact = 0, kInt8 = 1, kE4M3 = 2, kE5M2 = 3 };
// What shares a scale: all rows of a call, a row, or `groupSize` columns of a row.
enum class ActivationGrain : uint8_t { kTensor = 0, kToken = 1, kGroup = 2 };

struct ActivationScheme {
  ActivationType type = ActivationType::kExact;
  ActivationGrain grain = ActivationGrain::kToken;
  bool symmetric = true;  // no zero points; always so of floats
  bool dynamic = true;    // scales follow from the activations; otherwise there is one for all, as below
  int64_t groupSize = 0;  // kGroup
  float scale = 1;
  int32_t zero = 0;
  // int8, above 0: columns in which some row of a call has this magnitude or more are multiplied as they are
  // (LLM.int8(), arXiv 2208.07339 section 3.2).
  float threshold = 0;

  bool exact() const { return type == ActivationType::kExact; }
  bool operator==(const ActivationScheme&) const = default;
};

// kFormat for values that no scheme has, whatever a file or a caller says.
Status check(const ActivationScheme& scheme);

}  // namespace tsq
