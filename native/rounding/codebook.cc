// Codes of a code book: a branchless binary search through the limits between them.
#include "rounding/codebook.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "rounding/group_grid.h"

namespace tsq {
namespace {

// The place of a number in the total order.
int32_t orderOf(float x) {
  const auto bits = static_cast<int32_t>(floatToBits(x));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// Limits and codes, filled up to a power of two with limits that nothing is above.
struct SearchTree {
  std::array<int32_t, 256> limits;
  std::array<uint8_t, 256> codes;
  int64_t size = 1;

  uint8_t operator()(float x) const {
    const int32_t order = orderOf(x);
    int64_t index = 0;
    for (int64_t step = size / 2; step > 0; step /= 2)
      index += order > limits[static_cast<size_t>(index + step - 1)] ? step : 0;
    return codes[static_cast<size_t>(index)];
  }
};

Status buildTree(const CodebookSteps& steps, SearchTree* tree) {
  if (steps.count < 1 || steps.count > 256)
    return {Code::kOption,
            "rounding to a code book: it has " + std::to_string(steps.count) + " values, expected 1 to 256"};
  while (tree->size < steps.count) tree->size *= 2;
  tree->limits.fill(std::numeric_limits<int32_t>::max());
  tree->codes.fill(0);
  std::copy_n(steps.codes, steps.count, tree->codes.begin());
  for (int64_t i = 0; i + 1 < steps.count; ++i) {
    const float limit = steps.limits[i];
    tree->limits[static_cast<size_t>(i)] = orderOf(limit);
    if (std::isnan(limit) || (i > 0 && tree->limits[static_cast<size_t>(i - 1)] > orderOf(limit)))
      return {Code::kOption, "rounding to a code book: limit " + std::to_string(i) + " is " + std::to_string(limit) +
                                 ", expected limits in ascending order"};
  }
  return {};
}

}  // namespace

Status roundCodebook(const float* w, int64_t n, int64_t k, int64_t groupSize, const float* scales,
                     const CodebookSteps& steps, uint8_t* codes, AbortFlag abort) {
  SearchTree tree;
  TSQ_RETURN_IF_ERROR(buildTree(steps, &tree));
  TSQ_RETURN_IF_ERROR(rounding::checkFinite("rounding to a code book", w, n, k));
  const int64_t groups = (k + groupSize - 1) / groupSize;
  ThreadPool::instance().run(rounding::chunksOf(n), [&](int64_t chunk, int) {
    if (abort.raised()) return;
    const int64_t begin = chunk * rounding::kLanes, end = begin + rounding::rowsOfChunk(n, chunk);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < groups; ++g) {
        const float scale = scales[row * groups + g];
        const float inverse = 1.f / scale;
        const int64_t last = std::min(k, (g + 1) * groupSize);
        for (int64_t c = g * groupSize; c < last; ++c) {
          const float x = w[row * k + c];
          codes[row * k + c] = tree(scale == 0 ? std::copysign(0.f, x) : steps.reciprocal ? x * inverse : x / scale);
        }
      }
  });
  if (abort.raised()) return {Code::kAborted, "rounding to a code book: aborted"};
  return {};
}

}  // namespace tsq
