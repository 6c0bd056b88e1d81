// softmax(scale q K^T) V over the visible positions of each query, in plain passes with double accumulators.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"

namespace tsq::reference {
namespace {

double score(const AttentionTile& tile, const float* query, int64_t position) {
  const float* block = tile.keys[position / 16];
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
    std::vector<double> scores(static_cast<size_t>(last - first + 1));
    double best = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t p = first; p <= last; ++p) {
      scores[p - first] = score(tile, tile.queries[r], p);
      best = std::max(best, scores[p - first]);
    }
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t p = first; p <= last; ++p) {
      const double weight = std::exp(scores[p - first] - best);
      const float* value = tile.values[p / 16] + p % 16 * tile.vStride;
      total += weight;
      for (int64_t d = 0; d < tile.headDim; ++d) sums[d] += weight * value[d];
    }
    for (int64_t d = 0; d < tile.headDim; ++d) tile.outputs[r][d] = static_cast<float>(sums[d] / total);
  }
}

}  // namespace tsq::reference
