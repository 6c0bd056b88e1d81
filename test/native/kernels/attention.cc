// Attention tiles against float64: masks, windows, soft caps, tile sizes, garbage in hidden positions.
#include "layout/kv_page.h"
#include "support.h"

using namespace support;  // NOLINT: a test
using tsq::AttentionTile;

namespace {

// A cache of one KV head, pages in shuffled order. Positions from `used` on hold NaN.
struct Cache {
  Cache(Random& random, int64_t headDim, int64_t used)
      : headDim(headDim), vStride(tsq::layout::roundUp(headDim, 16)), page(tsq::layout::kvPage(headDim, {}, {})) {
    pages.resize(static_cast<size_t>((used + 15) / 16));
    std::iota(pages.begin(), pages.end(), 0);
    random.shuffle(pages);
    room.assign(pages.size() * static_cast<size_t>(stride()), std::nanf(""));
    for (int64_t p = 0; p < used; ++p) {
      for (int64_t d = 0; d < headDim; ++d) {
        room[keyAt(p, d)] = random.normal();
        room[valueAt(p, d)] = random.normal();
      }
      for (int64_t d = headDim; d < vStride; ++d) room[valueAt(p, d)] = 0;
    }
  }
  int64_t stride() const { return (headDim + vStride) * 16; }
  size_t keyAt(int64_t p, int64_t d) const {
    return static_cast<size_t>(pages[static_cast<size_t>(p / 16)] * stride() + d * 16 + p % 16);
  }
  size_t valueAt(int64_t p, int64_t d) const {
    return static_cast<size_t>(pages[static_cast<size_t>(p / 16)] * stride() + headDim * 16 + p % 16 * vStride + d);
  }
  double key(int64_t p, int64_t d) const { return room[keyAt(p, d)]; }
  double value(int64_t p, int64_t d) const { return room[valueAt(p, d)]; }

  int64_t headDim, vStride;
  tsq::layout::KvPage page;
  std::vector<int32_t> pages;
  std::vector<float> room;
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
  std::vector<float> queries, outputs;
  std::vector<int64_t> first, last;
  std::vector<float> peaks, sums;
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
  tile.peaks.assign(static_cast<size_t>(count), 99.0f);
  tile.sums.assign(static_cast<size_t>(count), 99.0f);
  table.attention({queries.data(), outputs.data(), tile.first.data(), tile.last.data(), count, scale, &cache.page,
                   reinterpret_cast<const uint8_t*>(cache.room.data()), cache.pages.data(), cache.page.bytes, 1, 1,
                   softcap, tile.peaks.data(), tile.sums.data()},
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
                  {tile.first[at]},
                  {tile.last[at]},
                  {},
                  {}};
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
      checkTile(random, headDim, used, static_cast<int>(random.integer(1, AttentionTile::kMaxTile)), false, 0);
    }
  }
}

TEST(attention_every_tile_size) {
  Random random(52);
  for (int count = 1; count <= AttentionTile::kMaxTile; ++count) checkTile(random, 48, 333, count, true, 0);
}

TEST(attention_sliding_window) {
  Random random(53);
  for (int trial = 0; trial < 40; ++trial) {
    checkTile(random, 32, random.integer(1, 1200), static_cast<int>(random.integer(1, AttentionTile::kMaxTile)), true,
              0);
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

// Ranges of positions, each attended to alone, combine to the whole.
TEST(attention_ranges_combine) {
  Random random(56);
  for (const bool window : {false, true}) {
    for (const int64_t headDim : {24, 64}) {
      constexpr int kQueries = 7;
      const int64_t used = 900;
      const Cache cache(random, headDim, used);
      Tile whole;
      whole.queries = random.normals(kQueries * headDim);
      for (int r = 0; r < kQueries; ++r) {
        whole.last.push_back(used - kQueries + r);
        whole.first.push_back(window ? used - 300 + r : 0);
      }
      for (const KernelTable* table : tables()) {
        attend(*table, cache, whole, 0.3f, 0);
        std::vector<double> sums(static_cast<size_t>(kQueries)), totals(static_cast<size_t>(kQueries * headDim));
        for (int64_t begin = 0; begin < used; begin += 256) {
          Tile part{whole.queries, {}, whole.first, whole.last, {}, {}};
          for (int64_t& first : part.first) first = std::max(first, begin);
          for (int64_t& last : part.last) last = std::min(last, begin + 255);
          attend(*table, cache, part, 0.3f, 0);
          for (size_t r = 0; r < static_cast<size_t>(kQueries); ++r) {
            const bool empty = part.last[r] < part.first[r];
            CHECK(empty == (part.sums[r] == 0) && empty == (part.peaks[r] == AttentionTile::kNoPeak));
            const double weight = part.sums[r] * std::exp2(static_cast<double>(part.peaks[r]) - whole.peaks[r]);
            sums[r] += weight;
            for (size_t d = 0; d < static_cast<size_t>(headDim); ++d) {
              const size_t at = r * static_cast<size_t>(headDim) + d;
              CHECK(!empty || part.outputs[at] == 0);
              totals[at] += weight * part.outputs[at];
            }
          }
        }
        for (size_t i = 0; i < totals.size(); ++i) {
          const double combined = totals[i] / sums[i / static_cast<size_t>(headDim)];
          CHECK_MSG(std::fabs(combined - whole.outputs[i]) < 1e-5, table->name);
        }
      }
    }
  }
}
