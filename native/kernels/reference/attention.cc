// softmax(scale q K^T) V over the visible positions of each query, in plain passes with double accumulators.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/reference/reference.h"

namespace tsq::reference {
namespace {

double score(const AttentionTile& tile, const float* query, int64_t position) {
  const float* block = tile.keys + tile.pages[position / 16] * tile.pageStride;
  double sum = 0;
  for (int64_t d = 0; d < tile.headDim; ++d) sum += static_cast<double>(query[d]) * block[d * 16 + position % 16];
  sum *= tile.scale;
  return tile.softcap > 0 ? tile.softcap * std::tanh(sum / tile.softcap) : sum;
}

}  // namespace

void attention(const AttentionTile& tile, float*) {
  std::vector<double> sums(static_cast<size_t>(tile.headDim));
  for (int r = 0; r < tile.count; ++r) {
    const int64_t first = tile.first[r], last = tile.last[r];
    std::vector<double> scores(static_cast<size_t>(std::max<int64_t>(0, last - first + 1)));
    double best = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t p = first; p <= last; ++p) {
      scores[p - first] = score(tile, tile.queries[r], p);
      best = std::max(best, scores[p - first]);
    }
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t p = first; p <= last; ++p) {
      const double weight = std::exp(scores[p - first] - best);
      const float* value = tile.values + tile.pages[p / 16] * tile.pageStride + p % 16 * tile.vStride;
      total += weight;
      for (int64_t d = 0; d < tile.headDim; ++d) sums[d] += weight * value[d];
    }
    for (int64_t d = 0; d < tile.headDim; ++d) {
      tile.outputs[r][d] = total > 0 ? static_cast<float>(sums[d] / total) : 0.0f;
    }
    if (tile.peaks == nullptr) continue;
    tile.peaks[r] = total > 0 ? static_cast<float>(best * std::numbers::log2e) : AttentionTile::kNoPeak;
    tile.sums[r] = static_cast<float>(total);
  }
}

}  // namespace tsq::reference
