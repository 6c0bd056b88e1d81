// Thresholds in linear time against sorting.
#include "program/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "tiny_model.h"

using namespace tsq;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> sortedDown(std::vector<float> values) {
  std::sort(values.begin(), values.end(), std::greater<float>());
  return values;
}

float kth(const std::vector<float>& x, int64_t k) {
  std::vector<float> peaks;
  SelectionScratch scratch;
  const int64_t count = static_cast<int64_t>(x.size());
  blockPeaks(x.data(), count, &peaks);
  return kthLargest(x.data(), count, k, peaks, &scratch);
}

}  // namespace

TEST(kth_largest_equals_sorting) {
  for (const int64_t count : {1, 2, 63, 64, 65, 1000, 5000}) {
    for (const bool ties : {false, true}) {
      std::vector<float> x = tiny::randomFloats(count, 11 + static_cast<uint64_t>(count), 10);
      // Few different values, of either sign, zeros of both signs among them.
      if (ties) std::transform(x.begin(), x.end(), x.begin(), [](float v) { return std::trunc(v / 5) * 5; });
      if (count > 60) {
        x[3] = -kInfinity;
        x[40] = -0.0f;
        x[50] = 1e-42f;
        x[51] = -3e38f;
      }
      const std::vector<float> sorted = sortedDown(x);
      for (const int64_t k : {int64_t{1}, int64_t{2}, count / 3, count / 2, count - 1, count}) {
        if (k < 1 || k > count) continue;
        const float found = kth(x, k), expected = sorted[static_cast<size_t>(k - 1)];
        CHECK_MSG(found == expected, std::to_string(k) + " of " + std::to_string(count) + ": " + std::to_string(found));
      }
    }
  }
}

TEST(cut_by_sum_equals_sorting) {
  for (const int64_t count : {1, 7, 64, 900}) {
    for (const bool ties : {false, true}) {
      std::vector<float> x = tiny::randomFloats(count, 21 + static_cast<uint64_t>(count), 8);
      std::transform(x.begin(), x.end(), x.begin(),
                     [&](float v) { return ties ? std::ldexp(1.0f, static_cast<int>(v) % 4) : std::exp(v); });
      const std::vector<float> sorted = sortedDown(x);
      double total = 0;
      for (const float value : sorted) total += value;
      std::vector<float> peaks;
      SelectionScratch scratch;
      blockPeaks(x.data(), count, &peaks);
      for (const double share : {1e-9, 0.1, 0.5, 0.9, 0.999}) {
        const Cut cut = cutBySum(x.data(), count, share * total, 0, peaks, &scratch);
        double sum = 0, above = 0;
        size_t last = 0;
        for (size_t i = 0; i < sorted.size() && (i == 0 || sum < share * total); ++i) {
          sum += sorted[i];
          last = i;
        }
        for (const float value : sorted) above += value > sorted[last] ? value : 0;
        CHECK_MSG(cut.value == sorted[last], std::to_string(share) + " of " + std::to_string(count));
        CHECK(std::fabs(cut.above - above) <= 1e-9 * total);
      }
      // A goal beyond the sum is reached by everything.
      CHECK(cutBySum(x.data(), count, 2 * total, 0, peaks, &scratch).value == sorted.back());
    }
  }
}
