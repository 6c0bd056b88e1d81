// Attention tiles against float64: masks, windows, soft caps, tile sizes, garbage in hidden positions.
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

// A cache of one KV head, pages in shuffled order. Positions from `used` on hold NaN.
struct Cache {
  Cache(Random& random, int64_t headDim, int64_t used) : headDim(headDim), vStride(tsq::layout::roundUp(headDim, 16)) {
    const int64_t pages = (used + 15) / 16;
    keyRoom.assign(static_cast<size_t>(pages * headDim * 16), std::nanf(""));
    valueRoom.assign(static_cast<size_t>(pages * 16 * vStride), std::nanf(""));
    std::vector<int64_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    random.shuffle(order);
    for (int64_t page : order) {
      keys.push_back(keyRoom.data() + page * headDim * 16);
      values.push_back(valueRoom.data() + page * 16 * vStride);
    }
    for (int64_t p = 0; p < used; ++p) {
      for (int64_t d = 0; d < headDim; ++d) {
        const_cast<float*>(keys[static_cast<size_t>(p / 16)])[d * 16 + p % 16] = random.normal();
        const_cast<float*>(values[static_cast<size_t>(p / 16)])[p % 16 * vStride + d] = random.normal();
      }
      for (int64_t d = headDim; d < vStride; ++d)
        const_cast<float*>(values[static_cast<size_t>(p / 16)])[p % 16 * vStride + d] = 0;
    }
  }
  double key(int64_t p, int64_t d) const { return keys[static_cast<size_t>(p / 16)][d * 16 + p % 16]; }
  double value(int64_t p, int64_t d) const { return values[static_cast<size_t>(p / 16)][p % 16 * vStride + d]; }

  int64_t headDim, vStride;
  std::vector<float> keyRoom, valueRoom;
  std::vector<const float*> keys, values;
};

std::vector<double> exactAttention(const Cache& cache, const float* query, int64_t first, int64_t last, float scale,
                                   float softcap) {
  std::vector<double> weights, out(static_cast<size_t>(cache.headDim));
  double peak = -1e300, total = 0;
  for (int64_t p = first; p <= last; ++p) {
    double score = 0;
    for (int64_t d = 0; d < cache.headDim; ++d) score += query[d] * cache.key(p, d);
    score *= scale;
    if (softcap > 0) score = softcap * std::tanh(score / softcap);
    weights.push_back(score);
    peak = std::max(peak, score);
  }
  for (double& weight : weights) total += weight = std::exp(weight - peak);
  for (int64_t p = first; p <= last; ++p) {
    for (int64_t d = 0; d < cache.headDim; ++d) {
      out[static_cast<size_t>(d)] += weights[static_cast<size_t>(p - first)] / total * cache.value(p, d);
    }
  }
  return out;
}

struct Tile {
  std::vector<float> queries, outputs, scratch;
  std::vector<int64_t> first, last;
};

void attend(const KernelTable& table, const Cache& cache, Tile& tile, float scale, float softcap) {
  const int count = static_cast<int>(tile.first.size());
  tile.outputs.assign(static_cast<size_t>(count * cache.headDim), 99.0f);
  tsq::Result<tsq::AlignedBuffer> scratch =
      tsq::AlignedBuffer::allocate(static_cast<size_t>(tsq::attentionScratch(cache.headDim)) * 4);
  std::vector<const float*> queries;
  std::vector<float*> outputs;
  for (int r = 0; r < count; ++r) {
    queries.push_back(tile.queries.data() + r * cache.headDim);
    outputs.push_back(tile.outputs.data() + r * cache.headDim);
  }
  table.attention({queries.data(), outputs.data(), tile.first.data(), tile.last.data(), count, cache.headDim, scale,
                   cache.keys.data(), cache.values.data(), cache.vStride, softcap},
                  scratch.value().as<float>());
}

void checkTile(Random& random, int64_t headDim, int64_t used, int count, bool window, float softcap) {
  const Cache cache(random, headDim, used);
  const float scale = 1 / std::sqrt(static_cast<float>(headDim)) * (softcap > 0 ? 20 : 2);
  Tile tile;
  tile.queries = random.normals(count * headDim);
  for (int r = 0; r < count; ++r) {
    const int64_t last = r == 0 ? used - 1 : random.integer(std::max<int64_t>(0, used - 40), used - 1);
    tile.last.push_back(last);
    tile.first.push_back(window ? random.integer(0, last) : 0);
  }
  for (const KernelTable* table : tables()) {
    attend(*table, cache, tile, scale, softcap);
    const std::vector<float> together = tile.outputs;
    double worst = 0;
    for (int r = 0; r < count; ++r) {
      const size_t at = static_cast<size_t>(r);
      const std::vector<double> exact =
          exactAttention(cache, tile.queries.data() + r * headDim, tile.first[at], tile.last[at], scale, softcap);
      for (int64_t d = 0; d < headDim; ++d) {
        const double error = std::fabs(together[static_cast<size_t>(r * headDim + d)] - exact[static_cast<size_t>(d)]);
        worst = std::isnan(error) ? 1e30 : std::max(worst, error);
      }
      // Alone in its tile a query gives the same bytes.
      Tile single{{tile.queries.begin() + r * headDim, tile.queries.begin() + (r + 1) * headDim},
                  {},
                  {},
                  {tile.first[at]},
                  {tile.last[at]}};
      attend(*table, cache, single, scale, softcap);
      CHECK(sameBytes(single.outputs, {together.begin() + r * headDim, together.begin() + (r + 1) * headDim}));
    }
    CHECK_MSG(worst <= 1e-5, std::string(table->name) + ": error " + std::to_string(worst) + " headDim " +
                                 std::to_string(headDim) + " positions " + std::to_string(used) + " queries " +
                                 std::to_string(count));
  }
}

}  // namespace

TEST(attention_causal) {
  Random random(51);
  for (int64_t headDim : {1, 8, 16, 20, 64, 80, 128, 256}) {
    for (int64_t used : {1, 2, 15, 16, 17, 100, 255, 256, 257, 700}) {
      checkTile(random, headDim, used, static_cast<int>(random.integer(1, 8)), false, 0);
    }
  }
}

TEST(attention_every_tile_size) {
  Random random(52);
  for (int count = 1; count <= 8; ++count) checkTile(random, 48, 333, count, true, 0);
}

TEST(attention_sliding_window) {
  Random random(53);
  for (int trial = 0; trial < 40; ++trial) {
    checkTile(random, 32, random.integer(1, 1200), static_cast<int>(random.integer(1, 8)), true, 0);
  }
}

TEST(attention_softcap) {
  Random random(54);
  for (float softcap : {0.5f, 5.0f, 50.0f}) checkTile(random, 64, 300, 6, false, softcap);
}

TEST(attention_large_scores_do_not_overflow) {
  Random random(55);
  const Cache cache(random, 64, 600);
  Tile tile;
  tile.queries = random.normals(2 * 64);
  for (float& q : tile.queries) q *= 1e4f;
  tile.first = {0, 500};
  tile.last = {599, 500};
  for (const KernelTable* table : tables()) {
    attend(*table, cache, tile, 1, 0);
    for (float value : tile.outputs) CHECK(std::isfinite(value));
    for (int64_t d = 0; d < 64; ++d)
      CHECK(std::fabs(tile.outputs[static_cast<size_t>(64 + d)] - cache.value(500, d)) < 1e-6);
  }
}
