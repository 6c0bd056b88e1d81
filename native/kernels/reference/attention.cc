// softmax(scale q K^T) V over the visible positions of each query, in plain passes with double accumulators.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/reference/reference.h"
#include "layout/kv_page.h"

namespace tsq::reference {
namespace {

const uint8_t* pageOf(const AttentionTile& tile, int64_t position) {
  return tile.cache + tile.pages[position / 16] * tile.pageStride;
}

double halfAt(const uint8_t* scales, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, scales + 2 * index, 2);
  return f16ToFloat(bits);
}

// scale * code + offset. `scale`: index among the part's scales.
double decode(const layout::KvPart& part, const uint8_t* page, int64_t byte, int nibble, int64_t scale, float layer) {
  float whole;
  uint8_t code = page[byte];
  double number = 0;
  switch (part.type) {
    case layout::KvType::kF32:
      std::memcpy(&whole, page + byte, 4);
      return whole;
    case layout::KvType::kF16:
      return halfAt(page + byte, 0);
    case layout::KvType::kI8:
      number = static_cast<int8_t>(code);
      break;
    case layout::KvType::kE4M3:
      number = e4m3ToFloat(code);
      break;
    case layout::KvType::kI4:
      number = nibble == 0 ? code & 15 : code >> 4;
      break;
  }
  if (part.scales == layout::KvScales::kTensor) return number * layer;
  const double step = halfAt(page + part.scaleAt, scale);
  if (part.type != layout::KvType::kI4) return number * step;
  return part.offsets ? number * step + halfAt(page + part.offsetAt, scale) : (number - 8) * step;
}

double keyAt(const AttentionTile& tile, int64_t position, int64_t d) {
  const layout::KvPart& keys = tile.page->keys;
  const int64_t p = position % 16;
  const bool scaled = keys.scales == layout::KvScales::kToken || keys.scales == layout::KvScales::kChannel;
  return decode(keys, pageOf(tile, position), layout::kvKeyByte(keys, d, p), layout::kvKeyNibble(d),
                scaled ? layout::kvKeyScale(keys, d, p) : 0, tile.keyScale);
}

double valueAt(const AttentionTile& tile, int64_t position, int64_t d) {
  const layout::KvPart& values = tile.page->values;
  const int64_t p = position % 16;
  return decode(values, pageOf(tile, position), layout::kvValueByte(values, d, p), layout::kvValueNibble(d),
                values.scales == layout::KvScales::kToken ? layout::kvValueScale(values, d, p) : 0, tile.valueScale);
}

double score(const AttentionTile& tile, const float* query, int64_t position) {
  double sum = 0;
  for (int64_t d = 0; d < tile.page->headDim; ++d) sum += static_cast<double>(query[d]) * keyAt(tile, position, d);
  sum *= tile.scale;
  return tile.softcap > 0 ? tile.softcap * std::tanh(sum / tile.softcap) : sum;
}

}  // namespace

void attention(const AttentionTile& tile, float*) {
  const int64_t headDim = tile.page->headDim;
  std::vector<double> sums(static_cast<size_t>(headDim));
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
      total += weight;
      for (int64_t d = 0; d < headDim; ++d) sums[d] += weight * valueAt(tile, p, d);
    }
    for (int64_t d = 0; d < headDim; ++d) {
      tile.outputs[r][d] = total > 0 ? static_cast<float>(sums[d] / total) : 0.0f;
    }
    if (tile.peaks == nullptr) continue;
    tile.peaks[r] = total > 0 ? static_cast<float>(best * std::numbers::log2e) : AttentionTile::kNoPeak;
    tile.sums[r] = static_cast<float>(total);
  }
}

}  // namespace tsq::reference
