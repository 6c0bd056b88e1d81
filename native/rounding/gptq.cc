// GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1): columns are rounded one after the other, and the error of each is
// spread over the columns still to come through the factor U of the inverse Hessian, H^-1 = U^T U.
//
// Rows of the weight are independent, so a task takes 32 rows through all columns, held as [visit position][32 rows]. Within
// a block of columns every error is applied at once; to the columns behind the block as one product at its end.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "rounding/group_grid.h"
#include "rounding/inverse_factor.h"
#include "rounding/objective.h"
#include "rounding/tile.h"
#include "rounding/visit_order.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

const Status kAbortedStatus(Code::kAborted, "gptq: aborted");

// What every chunk of rows reads.
struct Job {
  const float* w;
  int64_t n, k;
  const GptqSpec& spec;
  LaneGrid grid;
  int64_t groups;
  VisitOrder visit;
  std::vector<uint8_t> dead;       // [k]
  std::vector<float> importance;   // [k] by visit position where groups are fitted on the way, by column otherwise; empty: ones
  LaneScales tensorScale;          // perTensor
  RoundedWeight out;
  int32_t* groupIndex;             // null unless groups are dynamic
  int64_t longestBlock = 0;

  bool fixedScales() const { return visit.groups.empty(); }
  const float* importanceFrom(int64_t position) const { return importance.empty() ? nullptr : importance.data() + position; }
};

// A worker's memory.
struct ChunkScratch {
  float* weights;     // [padded k][32], by visit position
  float* errors;      // two panels [longestBlock][16]
  LaneScales* scales; // [groups]
  uint8_t* codes;     // [k][32], by visit position
  static uint64_t bytes(const Job& job) {
    return static_cast<uint64_t>(roundUpToPanel(job.k) + job.longestBlock) * kLanes * sizeof(float) +
           static_cast<uint64_t>(job.groups) * sizeof(LaneScales) + static_cast<uint64_t>(job.k) * kLanes;
  }
  ChunkScratch(void* memory, const Job& job) {
    weights = static_cast<float*>(memory);
    errors = weights + roundUpToPanel(job.k) * kLanes;
    scales = reinterpret_cast<LaneScales*>(errors + job.longestBlock * kLanes);
    codes = reinterpret_cast<uint8_t*>(scales + job.groups);
  }
};

bool isFinite(const Hessian& hessian) {
  const int64_t k = hessian.k();
  std::atomic<bool> finite{true};
  ThreadPool::instance().run(k, [&](int64_t row, int) {
    const float* h = hessian.data() + row * k;
    uint32_t bad = 0;
    for (int64_t c = 0; c < k; ++c) bad |= (floatToBits(h[c]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    if (bad != 0) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

// Scales of all groups from the weights as given, dead columns as 0. Uses scratch.weights for a group at a time.
void fitFixedScales(const Job& job, int64_t first, int64_t rows, const ChunkScratch& scratch) {
  if (job.spec.grid.perTensor) {
    scratch.scales[0] = job.tensorScale;
    return;
  }
  const int64_t size = job.spec.grid.groupSize;
  for (int64_t g = 0; g < job.groups; ++g) {
    const int64_t begin = g * size, columns = std::min(size, job.k - begin);
    loadLanes(job.w + first * job.k + begin, job.k, rows, columns, scratch.weights);
    for (int64_t c = 0; c < columns; ++c) {
      if (job.dead[static_cast<size_t>(begin + c)]) std::memset(scratch.weights + c * kLanes, 0, kLanes * sizeof(float));
    }
    alignas(64) float limits[kLanes];
    chooseScales(job.grid, job.spec.search, scratch.weights, job.importanceFrom(begin), columns,
                 loadClip(job.spec.clip, first, rows, job.groups, g, limits), &scratch.scales[g]);
  }
}

void loadVisited(const Job& job, int64_t first, int64_t rows, float* weights) {
  std::memset(weights, 0, static_cast<size_t>(roundUpToPanel(job.k)) * kLanes * sizeof(float));
  for (int64_t lane = 0; lane < rows; ++lane) {
    const float* row = job.w + (first + lane) * job.k;
    for (int64_t j = 0; j < job.k; ++j) {
      const int32_t column = job.visit.columns[static_cast<size_t>(j)];
      if (!job.dead[static_cast<size_t>(column)]) weights[j * kLanes + lane] = row[column];
    }
  }
}

// Rounds the columns of one block and applies their errors to the rest of it.
void roundBlock(const Job& job, const PackedUpper<float>& u, const VisitOrder::Block& block, int64_t first, int64_t rows,
                const ChunkScratch& scratch, size_t* nextGroup) {
  const LaneKernels& loops = laneKernels();
  const int64_t stride = job.longestBlock * kPanel;
  for (int64_t j = block.begin; j < block.end; ++j) {
    if (*nextGroup < job.visit.groups.size() && job.visit.groups[*nextGroup].begin == j) {
      const VisitOrder::Group& group = job.visit.groups[(*nextGroup)++];
      alignas(64) float limits[kLanes];
      chooseScales(job.grid, job.spec.search, scratch.weights + j * kLanes, job.importanceFrom(j), group.size,
                   loadClip(job.spec.clip, first, rows, job.groups, group.id, limits), &scratch.scales[group.id]);
    }
    float* error = scratch.errors + (j - block.begin) * kPanel;
    loops.encodeColumn(scratch.weights + j * kLanes, scratch.scales[job.visit.groupOf[static_cast<size_t>(j)]], job.grid.maxCode,
                       1.f / u.at(j, j), scratch.codes + j * kLanes, error, stride);
    for (int64_t p = (j + 1) / kPanel; p * kPanel < block.end; ++p) {
      const int64_t from = std::max(j + 1, p * kPanel), to = std::min(block.end, (p + 1) * kPanel);
      loops.addOuter(scratch.weights + from * kLanes, u.panel(p) + j * kPanel + from % kPanel, to - from, error, stride);
    }
  }
}

void roundChunk(const Job& job, const PackedUpper<float>& u, int64_t chunk, const ChunkScratch& scratch, AbortFlag abort) {
  const int64_t first = chunk * kLanes, rows = rowsOfChunk(job.n, chunk), stride = job.longestBlock * kPanel;
  const TileKernel<float> tile = tileKernel<float>();
  if (job.fixedScales()) fitFixedScales(job, first, rows, scratch);
  loadVisited(job, first, rows, scratch.weights);
  size_t nextGroup = 0;
  for (const VisitOrder::Block& block : job.visit.blocks) {
    if (abort.raised()) return;
    roundBlock(job, u, block, first, rows, scratch, &nextGroup);
    // The panel in which the block ends holds visited columns too: nothing reads those again.
    for (int64_t p = block.end / kPanel; p < u.panels(); ++p) {
      for (int64_t half = 0; half < kLanes / kPanel; ++half) {
        chainedTile(tile, u.panel(p) + block.begin * kPanel, scratch.errors + half * stride, block.end - block.begin,
                    scratch.weights + p * kPanel * kLanes + half * kPanel, kLanes);
      }
    }
  }
  for (int64_t lane = 0; lane < rows; ++lane) {
    uint8_t* codes = job.out.codes + (first + lane) * job.k;
    for (int64_t j = 0; j < job.k; ++j) codes[job.visit.columns[static_cast<size_t>(j)]] = scratch.codes[j * kLanes + lane];
  }
  for (int64_t g = 0; g < job.groups; ++g) storeScales(scratch.scales[g], first, rows, job.groups, g, job.out);
}

// Nearest codes of one row on the scales in job.out.
void nearestRow(const Job& job, int64_t row, uint8_t* codes) {
  const float* scales = job.out.scales + row * job.groups;
  const uint8_t* zeros = job.out.zeros == nullptr ? nullptr : job.out.zeros + row * job.groups;
  for (int64_t c = 0; c < job.k; ++c) {
    const int64_t g = job.groupIndex == nullptr ? c / job.spec.grid.groupSize : job.groupIndex[c];
    const float weight = job.dead[static_cast<size_t>(c)] ? 0.f : job.w[row * job.k + c];
    codes[c] = nearestCode(weight, scales[g], zeros == nullptr ? job.grid.symmetricZero : zeros[g], job.grid.maxCode);
  }
}

// Fills report.error with the objective of job.out and, where wanted, report.nearestError; nearest's codes replace worse ones.
Status compare(const Job& job, const Hessian& hessian, bool withNearest, AbortFlag abort, GptqReport* report) {
  Result<PackedUpper<float>> packed = packQuadratic(hessian.data(), job.k, 0, job.k, true);
  if (!packed.ok()) return packed.status();
  const auto fill = [&](int64_t chunk, int variant, float* d, int64_t stride) {
    std::vector<uint8_t> nearest(variant == 0 ? 0 : static_cast<size_t>(job.k));
    for (int64_t lane = 0; lane < rowsOfChunk(job.n, chunk); ++lane) {
      const int64_t row = chunk * kLanes + lane;
      const uint8_t* codes = job.out.codes + row * job.k;
      if (variant == 1) {
        nearestRow(job, row, nearest.data());
        codes = nearest.data();
      }
      const float* scales = job.out.scales + row * job.groups;
      const uint8_t* zeros = job.out.zeros == nullptr ? nullptr : job.out.zeros + row * job.groups;
      float* to = d + lane / kPanel * stride + lane % kPanel;
      for (int64_t c = 0; c < job.k; ++c) {
        const int64_t g = job.groupIndex == nullptr ? c / job.spec.grid.groupSize : job.groupIndex[c];
        const float zero = zeros == nullptr ? job.grid.symmetricZero : zeros[g];
        to[c * kPanel] = job.w[row * job.k + c] - scales[g] * (static_cast<float>(codes[c]) - zero);
      }
    }
  };
  double totals[2] = {0, 0};
  TSQ_RETURN_IF_ERROR(sumQuadraticForms(packed.value(), job.n, withNearest ? 2 : 1, fill, totals, abort));
  const double rows = hessian.rows() > 0 ? hessian.rows() : 1;
  report->error = totals[0] / rows;
  report->nearestError = withNearest ? totals[1] / rows : report->error;
  if (!withNearest || report->error <= report->nearestError) return {};
  ThreadPool::instance().run(chunksOf(job.n), [&](int64_t chunk, int) {
    for (int64_t lane = 0; lane < rowsOfChunk(job.n, chunk); ++lane) {
      nearestRow(job, chunk * kLanes + lane, job.out.codes + (chunk * kLanes + lane) * job.k);
    }
  });
  report->keptNearest = true;
  report->error = report->nearestError;
  return {};
}

// The way out where no factor is to be had: nearest codes, on scales of least weighted error where importance is given.
Status fallBack(const Job& job, const float* importance, AbortFlag abort) {
  SearchSpec search = job.spec.search;
  search.importance = importance;
  if (importance != nullptr && !search.enabled) {
    search = SearchSpec{};
    search.enabled = true;
    search.norm = 2;
    search.importance = importance;
  }
  if (job.groupIndex != nullptr) {
    for (int64_t c = 0; c < job.k; ++c) job.groupIndex[c] = static_cast<int32_t>(c / job.spec.grid.groupSize);
  }
  return roundNearest(job.w, job.n, job.k, job.spec.grid, search, job.spec.clip, job.out, abort);
}

Status checkArguments(int64_t n, int64_t k, const Hessian& hessian, const GptqSpec& spec, const RoundedWeight& out,
                      const int32_t* groupIndex) {
  TSQ_RETURN_IF_ERROR(checkGrid("gptq", n, k, spec.grid, &spec.search));
  if (hessian.k() != k) {
    return {Code::kShape, "gptq: the Hessian is of " + std::to_string(hessian.k()) + " input features, the weight has k = " + std::to_string(k)};
  }
  if (!spec.grid.symmetric && out.zeros == nullptr) return {Code::kOption, "gptq: asymmetric codes need an array of zeros"};
  if (spec.block < 1) return {Code::kOption, "gptq: block is " + std::to_string(spec.block) + ", expected 1 or more"};
  if (!(spec.damp >= 0 && spec.damp <= 10)) return {Code::kOption, "gptq: damp is " + std::to_string(spec.damp) + ", expected 0 to 10"};
  if (!(spec.dampStep > 0 && spec.dampStep <= 1)) {
    return {Code::kOption, "gptq: dampStep is " + std::to_string(spec.dampStep) + ", expected above 0, at most 1"};
  }
  if (spec.order != ActOrder::kDynamic) return {};
  if (groupIndex == nullptr) return {Code::kOption, "gptq: dynamic order needs an array for the group index"};
  if (spec.clip != nullptr && !spec.grid.perTensor) {
    return {Code::kUnsupported, "gptq: clipping limits belong to groups of neighbouring columns, which dynamic order does not keep; "
                                "use static or group-aware order"};
  }
  return {};
}

}  // namespace

Result<GptqReport> gptq(const float* w, int64_t n, int64_t k, const Hessian& hessian, const GptqSpec& spec, RoundedWeight out,
                        int32_t* groupIndex, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkArguments(n, k, hessian, spec, out, groupIndex));
  TSQ_RETURN_IF_ERROR(checkFinite("gptq", w, n, k));
  GptqReport report;
  Job job{.w = w, .n = n, .k = k, .spec = spec, .grid = makeLaneGrid(spec.grid), .groups = groupsOf(k, spec.grid), .visit = {},
          .dead = std::vector<uint8_t>(static_cast<size_t>(k), 0), .importance = {}, .tensorScale = {}, .out = out,
          .groupIndex = spec.order == ActOrder::kDynamic ? groupIndex : nullptr};
  std::vector<double> diagonal(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) diagonal[static_cast<size_t>(c)] = hessian.data()[c * k + c];
  if (!isFinite(hessian)) {
    report.degraded = true;
    report.note = "the Hessian holds NaN or infinite values (activations overflowed in calibration): nearest codes, no calibration used";
    report.error = report.nearestError = std::numeric_limits<double>::quiet_NaN();
    TSQ_RETURN_IF_ERROR(fallBack(job, nullptr, abort));
    return report;
  }
  for (int64_t c = 0; c < k; ++c) {
    job.dead[static_cast<size_t>(c)] = diagonal[static_cast<size_t>(c)] > 0 ? 0 : 1;
    report.deadColumns += job.dead[static_cast<size_t>(c)];
  }
  if (report.deadColumns == k) {
    // Rounding every weight to 0 would be exact on no input at all.
    report.degraded = true;
    report.note = "every input of the layer was 0 in calibration: nearest codes, no calibration used";
    std::fill(job.dead.begin(), job.dead.end(), uint8_t{0});
    TSQ_RETURN_IF_ERROR(fallBack(job, nullptr, abort));
    TSQ_RETURN_IF_ERROR(compare(job, hessian, false, abort, &report));
    return report;
  }
  job.visit = makeVisitOrder(spec.order, diagonal, spec.grid, std::min<int64_t>(spec.block, k));
  for (const VisitOrder::Block& block : job.visit.blocks) job.longestBlock = std::max(job.longestBlock, block.end - block.begin);
  std::vector<float> byColumn(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) {
    byColumn[static_cast<size_t>(c)] = spec.search.importance != nullptr ? spec.search.importance[c]
                                                                         : std::max(0.f, static_cast<float>(diagonal[static_cast<size_t>(c)]));
  }

  Result<InverseFactor> made = factorInverse(hessian, diagonal, job.visit.columns, spec.damp, spec.dampStep, abort);
  if (!made.ok()) return made.status();
  InverseFactor& factor = made.value();
  report.damp = factor.damp;
  report.degraded = factor.degraded;
  report.note = factor.note;
  if (!factor.usable) {
    report.note += ": nearest codes weighted by its diagonal";
    std::fill(job.dead.begin(), job.dead.end(), uint8_t{0});
    TSQ_RETURN_IF_ERROR(fallBack(job, byColumn.data(), abort));
    TSQ_RETURN_IF_ERROR(compare(job, hessian, false, abort, &report));
    return report;
  }

  if (spec.search.enabled) {
    job.importance.resize(static_cast<size_t>(k));
    for (int64_t j = 0; j < k; ++j) {
      const int64_t column = job.fixedScales() ? j : job.visit.columns[static_cast<size_t>(j)];
      job.importance[static_cast<size_t>(j)] = byColumn[static_cast<size_t>(column)];
    }
  }
  if (spec.grid.perTensor) {
    TSQ_RETURN_IF_ERROR(chooseTensorScale(w, n, k, spec.grid, spec.search, job.importanceFrom(0), spec.clip, &job.tensorScale, abort));
  }
  if (job.groupIndex != nullptr) {
    for (int64_t j = 0; j < k; ++j) groupIndex[job.visit.columns[static_cast<size_t>(j)]] = job.visit.groupOf[static_cast<size_t>(j)];
  }
  WorkerScratch scratch(ChunkScratch::bytes(job));
  ThreadPool::instance().run(chunksOf(n), [&](int64_t chunk, int worker) {
    if (abort.raised() || scratch.failed()) return;
    void* memory = scratch.get(worker);
    if (memory != nullptr) roundChunk(job, factor.u, chunk, ChunkScratch(memory, job), abort);
  });
  TSQ_RETURN_IF_ERROR(scratch.status("gptq"));
  if (abort.raised()) return kAbortedStatus;
  factor.u = PackedUpper<float>();  // its memory is what the comparison needs
  TSQ_RETURN_IF_ERROR(compare(job, hessian, true, abort, &report));
  return report;
}

}  // namespace tsq
