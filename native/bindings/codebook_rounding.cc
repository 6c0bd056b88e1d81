// Rounding weights to the values of a code book: native/rounding/codebook.h.
#include "rounding/codebook.h"

#include <string>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"

namespace tsq {
namespace {

Napi::Value roundToCodebook(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1), groupSize = a.integer(a[3], "groupSize", 1);
  const int64_t count = product({n, k}, "w"), scaleCount = product({n, groupCount(k, groupSize)}, "scales");
  const float* w = a.view<float>(a[0], "w", count).data;
  const float* scales = a.view<float>(a[4], "scales", scaleCount).data;
  const auto codes = a.copy<uint8_t>(a.property(a[5], "codes", "steps"), "steps.codes");
  const auto limits = a.copy<float>(a.property(a[5], "limits", "steps"), "steps.limits");
  const bool reciprocal = a.boolean(a.property(a[5], "reciprocal", "steps"), "steps.reciprocal");
  if (codes.empty() || limits.size() + 1 != codes.size())
    refuse(Code::kShape, "roundCodebook: steps has " + std::to_string(codes.size()) + " codes and " +
                             std::to_string(limits.size()) + " limits, expected a limit between any two codes");
  uint8_t* out = a.view<uint8_t>(a[6], "codes", count).data;
  const AbortFlag abort = a.abortFlag(a[7]);
  return promise(a, [=]() -> Status {
    const CodebookSteps steps{codes.data(), limits.data(), static_cast<int64_t>(codes.size()), reciprocal};
    return roundCodebook(w, n, k, groupSize, scales, steps, out, abort);
  });
}

constexpr Export kExports[] = {{"roundCodebook", roundToCodebook, true}};

}  // namespace

std::span<const Export> codebookExports() {
  return kExports;
}

}  // namespace tsq
