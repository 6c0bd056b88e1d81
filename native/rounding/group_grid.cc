#include "rounding/group_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace tsq::rounding {
namespace {

Status optionError(const char* operation, const std::string& what) {
  return {Code::kOption, std::string(operation) + ": " + what};
}

}  // namespace

Status checkGrid(const char* operation, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec* search) {
  if (n < 1 || k < 1) {
    return {Code::kShape, std::string(operation) + ": weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                              "], expected at least one row and one column"};
  }
  if (grid.bits < 2 || grid.bits > 8)
    return optionError(operation, "bits is " + std::to_string(grid.bits) + ", expected 2 to 8");
  if (grid.groupSize < 1 || grid.groupSize > k) {
    return optionError(operation,
                       "groupSize is " + std::to_string(grid.groupSize) + ", expected 1 to k = " + std::to_string(k));
  }
  if (grid.perTensor && grid.groupSize != k) {
    return optionError(operation, "groupSize is " + std::to_string(grid.groupSize) +
                                      " for one scale per tensor, expected k = " + std::to_string(k));
  }
  if (grid.scaleType != Dtype::kF32 && grid.scaleType != Dtype::kF16 && grid.scaleType != Dtype::kBF16) {
    return {Code::kDtype, std::string(operation) + ": scaleType must be f32, f16 or bf16"};
  }
  if (grid.minZero < 0 || grid.minZero >= 1 << grid.bits) {
    return optionError(operation, "minZero is " + std::to_string(grid.minZero) + ", expected 0 to " +
                                      std::to_string((1 << grid.bits) - 1));
  }
  if (search == nullptr || !search->enabled) return {};
  if (search->steps < 1)
    return optionError(operation, "search steps is " + std::to_string(search->steps) + ", expected at least 1");
  if (!(search->maxShrink >= 0 && search->maxShrink < 1)) {
    return optionError(operation,
                       "maxShrink is " + std::to_string(search->maxShrink) + ", expected 0 or more, below 1");
  }
  if (!(search->norm > 0 && search->norm <= 16)) {
    return optionError(operation, "norm is " + std::to_string(search->norm) + ", expected above 0, at most 16");
  }
  return {};
}

Status checkFinite(const char* operation, const float* w, int64_t n, int64_t k) {
  std::atomic<int64_t> firstRow{std::numeric_limits<int64_t>::max()};
  ThreadPool::instance().run(chunksOf(n), [&](int64_t chunk, int) {
    for (int64_t row = chunk * kLanes; row < chunk * kLanes + rowsOfChunk(n, chunk); ++row) {
      uint32_t bad = 0;
      for (int64_t c = 0; c < k; ++c) bad |= (floatToBits(w[row * k + c]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
      if (bad == 0) continue;
      int64_t seen = firstRow.load();
      while (row < seen && !firstRow.compare_exchange_weak(seen, row)) continue;
      return;
    }
  });
  const int64_t row = firstRow.load();
  if (row == std::numeric_limits<int64_t>::max()) return {};
  int64_t column = 0;
  while (std::isfinite(w[row * k + column])) ++column;
  return {Code::kNumeric, std::string(operation) + ": weight[" + std::to_string(row) + ", " + std::to_string(column) +
                              "] is " + (std::isnan(w[row * k + column]) ? "NaN" : "infinite") +
                              ", expected finite values; repair the checkpoint or leave this tensor unquantized"};
}

Status WorkerScratch::status(const char* operation) const {
  if (!failed()) return {};
  return {Code::kMemory, std::string(operation) + ": could not allocate " + std::to_string(bytes_) +
                             " bytes of scratch for a thread; use fewer threads or free memory"};
}

Status chooseTensorScale(const float* w, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec& search,
                         const float* importance, const float* clip, LaneScales* out, AbortFlag abort) {
  const LaneGrid lanes = makeLaneGrid(grid);
  const int64_t chunks = chunksOf(n);
  constexpr int64_t kColumns = 512;
  const int64_t bytes = std::min(k, kColumns) * kLanes * static_cast<int64_t>(sizeof(float));
  WorkerScratch scratch(static_cast<uint64_t>(bytes));
  std::vector<float> lows(static_cast<size_t>(chunks), 0.f), highs(static_cast<size_t>(chunks), 0.f);
  ThreadPool::instance().run(chunks, [&](int64_t chunk, int worker) {
    if (abort.raised()) return;
    float* group = static_cast<float*>(scratch.get(worker));
    if (group == nullptr) return;
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(n, chunk);
    alignas(64) float low[kLanes] = {}, high[kLanes] = {};
    for (int64_t c = 0; c < k; c += kColumns) {
      const int64_t count = std::min(kColumns, k - c);
      loadLanes(w + first * k + c, k, rows, count, group);
      laneKernels().range(group, count, low, high);
    }
    for (int64_t lane = 0; lane < rows; ++lane) {
      const float limit = clip == nullptr ? std::numeric_limits<float>::max() : std::max(clip[first + lane], 0.f);
      lows[static_cast<size_t>(chunk)] = std::min(lows[static_cast<size_t>(chunk)], std::max(low[lane], -limit));
      highs[static_cast<size_t>(chunk)] = std::max(highs[static_cast<size_t>(chunk)], std::min(high[lane], limit));
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status("scale of a tensor"));
  if (abort.raised()) return {Code::kAborted, "scale of a tensor: aborted"};
  alignas(64) float low[kLanes], high[kLanes];
  std::fill(low, low + kLanes, *std::min_element(lows.begin(), lows.end()));
  std::fill(high, high + kLanes, *std::max_element(highs.begin(), highs.end()));
  laneKernels().fit(lanes, low, high, 1.f, out);
  if (!search.enabled) return {};

  const LaneScales widest = *out;
  std::vector<LaneScales> candidates(static_cast<size_t>(search.steps));
  for (int i = 0; i < search.steps; ++i) {
    laneKernels().fit(lanes, low, high, candidateShrink(search, i), &candidates[static_cast<size_t>(i)]);
  }
  std::vector<double> errors(static_cast<size_t>(chunks * search.steps), 0.0);
  ThreadPool::instance().run(chunks, [&](int64_t chunk, int worker) {
    if (abort.raised()) return;
    float* group = static_cast<float*>(scratch.get(worker));
    if (group == nullptr) return;
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(n, chunk);
    for (int64_t c = 0; c < k; c += kColumns) {
      const int64_t count = std::min(kColumns, k - c);
      loadLanes(w + first * k + c, k, rows, count, group);
      for (int i = 0; i < search.steps; ++i) {
        double sums[kLanes] = {};
        laneKernels().error(group, importance == nullptr ? nullptr : importance + c, count,
                            candidates[static_cast<size_t>(i)], lanes.maxCode, static_cast<float>(search.norm),
                            widest.scale, sums);
        double& total = errors[static_cast<size_t>(chunk * search.steps + i)];
        for (int64_t lane = 0; lane < rows; ++lane) total += sums[lane];
      }
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status("scale of a tensor"));
  if (abort.raised()) return {Code::kAborted, "scale of a tensor: aborted"};
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < search.steps; ++i) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += errors[static_cast<size_t>(chunk * search.steps + i)];
    if (total < best) {
      best = total;
      *out = candidates[static_cast<size_t>(i)];
    }
  }
  return {};
}

}  // namespace tsq::rounding
