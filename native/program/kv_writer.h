// Writes keys and values to pages of the cache.
#pragma once
#include "program/kv_cache.h"

namespace tsq {

// Rows [count][…] of one head, `stride` floats apart.
struct KvRows {
  const float* keys;
  const float* values;
  int64_t stride, count;
};

// Where one page of one head is kept.
struct KvTargets {
  uint8_t* page;      // in the cache's own format
  uint8_t* exact[2];  // in f16; null: not there. Where the format keeps a window, one at least holds the whole page
};

// Writes the rows to positions `at` and on of the page (at + count <= KvCache::kPage), rotated and quantized as the
// cache's format says. Row 0 clears what the page's former owner left: kernels read whole blocks, and hidden positions
// must not hold its NaNs. Keys with a scale for every channel are quantized when the page's last position is written,
// from the f16 page. A row with a number that is not finite has a scale of NaN.
void writeKv(const KvCache& cache, int64_t layer, const KvTargets& targets, int64_t at, const KvRows& rows);

}  // namespace tsq
