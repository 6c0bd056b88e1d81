#include "program/selection.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "kernels/kernels.h"
#include "runtime/scalar.h"

namespace tsq {

namespace {

// Elements are counted in bins by the leading bits of a key that orders like the floats, then those of the bin that
// holds the cut by its next bits, and by its last ones.
constexpr size_t kBins = 2048;

uint32_t keyOf(float x) {
  const uint32_t bits = floatToBits(x);
  return bits ^ ((bits >> 31) != 0 ? ~uint32_t{0} : uint32_t{1} << 31);
}

// The bin in which what is in the bins, from the last one down, reaches the goal; else the lowest one with anything in
// it. `above` grows by what lies in higher bins.
size_t edgeBin(const double* bins, double goal, double* above) {
  size_t edge = 0;
  double inEdge = 0;
  for (size_t bin = kBins; bin-- > 0;) {
    if (bins[bin] == 0) continue;
    *above += inEdge;
    edge = bin;
    inEdge = bins[bin];
    if (*above + inEdge >= goal) break;
  }
  return edge;
}

// `mass`: what an element counts, 0 or more.
template <typename Mass>
Cut cut(const float* x, int64_t count, double goal, float floor, const std::vector<float>& peaks, Mass mass,
        SelectionScratch* scratch) {
  std::vector<double>& bins = scratch->bins;
  std::vector<float>& values = scratch->values;
  const auto forActive = [&](auto&& visit) {
    for (size_t b = 0; b < peaks.size(); ++b) {
      if (peaks[b] < floor) continue;
      const int64_t begin = static_cast<int64_t>(b) * kSelectionBlock;
      for (int64_t i = begin, end = std::min(begin + kSelectionBlock, count); i < end; ++i) visit(x[i], i);
    }
  };
  Cut found{0, 0};
  // Two sets of bins, in turn: neighbours are often alike, and one addition would wait for the other.
  bins.assign(2 * kBins, 0.0);
  forActive(
      [&](float value, int64_t i) { bins[static_cast<size_t>(i & 1) * kBins + (keyOf(value) >> 21)] += mass(value); });
  for (size_t bin = 0; bin < kBins; ++bin) bins[bin] += bins[kBins + bin];
  size_t edge = edgeBin(bins.data(), goal, &found.above);
  values.clear();
  forActive([&](float value, int64_t) {
    if (keyOf(value) >> 21 == edge) values.push_back(value);
  });
  for (const int shift : {10, 0}) {
    const auto binOf = [shift](float value) { return (keyOf(value) >> shift) % kBins; };
    std::fill(bins.begin(), bins.begin() + kBins, 0.0);
    for (const float value : values) bins[binOf(value)] += mass(value);
    edge = edgeBin(bins.data(), goal, &found.above);
    values.erase(std::remove_if(values.begin(), values.end(), [&](float value) { return binOf(value) != edge; }),
                 values.end());
  }
  // Zeros of either sign differ as keys; they count as one value.
  found.value = values.empty() ? 0.0f : values.front();
  return found;
}

}  // namespace

void blockPeaks(const float* x, int64_t count, std::vector<float>* peaks) {
  peaks->clear();
  for (int64_t begin = 0; begin < count; begin += kSelectionBlock) {
    peaks->push_back(kernels().maximum(x + begin, std::min(kSelectionBlock, count - begin)));
  }
}

float kthLargest(const float* x, int64_t count, int64_t k, const std::vector<float>& peaks, SelectionScratch* scratch) {
  // The k-th largest peak has k elements that are not below it.
  float floor = -std::numeric_limits<float>::infinity();
  if (k <= static_cast<int64_t>(peaks.size())) {
    std::vector<float>& copy = scratch->values;
    copy.assign(peaks.begin(), peaks.end());
    std::nth_element(copy.begin(), copy.begin() + (k - 1), copy.end(), std::greater<float>());
    floor = copy[static_cast<size_t>(k - 1)];
  }
  return cut(
             x, count, static_cast<double>(k), floor, peaks, [](float) { return 1.0; }, scratch)
      .value;
}

Cut cutBySum(const float* x, int64_t count, double goal, float floor, const std::vector<float>& peaks,
             SelectionScratch* scratch) {
  return cut(
      x, count, goal, floor, peaks, [](float value) { return static_cast<double>(value); }, scratch);
}

}  // namespace tsq
