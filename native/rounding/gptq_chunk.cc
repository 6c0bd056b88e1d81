// Rows of the weight are independent, so a task takes 32 or 64 through all columns, held as [visit position][32 rows].
#include "rounding/gptq_chunk.h"

#include <algorithm>
#include <cstring>

#include "rounding/gptq_sweep.h"

namespace tsq::rounding {
namespace {

// A worker's memory.
struct ChunkScratch {
  float* weights;      // [padded k][32], by visit position
  float* errors;       // two panels [longestBlock][16]
  LaneScales* scales;  // [groups]
  uint8_t* codes;      // [k][32], by visit position
  static uint64_t bytes(const GptqJob& job) {
    return static_cast<uint64_t>(roundUpToPanel(job.k) + job.longestBlock) * kLanes * sizeof(float) +
           static_cast<uint64_t>(job.groups) * sizeof(LaneScales) + static_cast<uint64_t>(job.k) * kLanes;
  }
  ChunkScratch(void* memory, const GptqJob& job) {
    weights = static_cast<float*>(memory);
    errors = weights + roundUpToPanel(job.k) * kLanes;
    scales = reinterpret_cast<LaneScales*>(errors + job.longestBlock * kLanes);
    codes = reinterpret_cast<uint8_t*>(scales + job.groups);
  }
};

// Scales of all groups from the weights as given, dead columns as 0. Uses scratch.weights for a group at a time.
void fitFixedScales(const GptqJob& job, int64_t first, int64_t rows, const ChunkScratch& scratch) {
  if (job.spec.grid.perTensor) {
    scratch.scales[0] = job.tensorScale;
    return;
  }
  const int64_t size = job.spec.grid.groupSize;
  for (int64_t g = 0; g < job.groups; ++g) {
    const int64_t begin = g * size, columns = std::min(size, job.k - begin);
    loadLanes(job.w + first * job.k + begin, job.k, rows, columns, scratch.weights);
    for (int64_t c = 0; c < columns; ++c) {
      if (job.dead[static_cast<size_t>(begin + c)])
        std::memset(scratch.weights + c * kLanes, 0, kLanes * sizeof(float));
    }
    alignas(64) float limits[kLanes];
    chooseScales(job.grid, job.spec.search, scratch.weights, job.importanceFrom(begin), columns,
                 loadClip(job.spec.clip, first, rows, job.groups, g, limits), &scratch.scales[g]);
  }
}

void loadVisited(const GptqJob& job, int64_t first, int64_t rows, float* weights) {
  std::memset(weights, 0, static_cast<size_t>(roundUpToPanel(job.k)) * kLanes * sizeof(float));
  for (int64_t lane = 0; lane < rows; ++lane) {
    const float* row = job.w + (first + lane) * job.k;
    for (int64_t j = 0; j < job.k; ++j) {
      const int32_t column = job.visit.columns[static_cast<size_t>(j)];
      if (!job.dead[static_cast<size_t>(column)]) weights[j * kLanes + lane] = row[column];
    }
  }
}

void storeVisited(const GptqJob& job, int64_t first, int64_t rows, const ChunkScratch& scratch) {
  for (int64_t lane = 0; lane < rows; ++lane) {
    uint8_t* codes = job.out.codes + (first + lane) * job.k;
    for (int64_t j = 0; j < job.k; ++j)
      codes[job.visit.columns[static_cast<size_t>(j)]] = scratch.codes[j * kLanes + lane];
  }
}

}  // namespace

int64_t chunksTogether(int64_t n) {
  // Two, if that leaves every thread a few tasks.
  return chunksOf(n) >= 8 * ThreadPool::instance().threads() ? 2 : 1;
}

uint64_t chunkScratchBytes(const GptqJob& job) {
  return (ChunkScratch::bytes(job) + 63) / 64 * 64;
}

void roundChunks(const GptqJob& job, const PackedUpper<float>& u, int64_t begin, int64_t end, void* memory,
                 AbortFlag abort) {
  const LaneKernels& loops = laneKernels();
  std::vector<ChunkScratch> scratches;
  std::vector<SweepChunk> sweep;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const ChunkScratch& scratch = scratches.emplace_back(
        static_cast<char*>(memory) + (chunk - begin) * static_cast<int64_t>(chunkScratchBytes(job)), job);
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(job.n, chunk);
    if (job.fixedScales()) fitFixedScales(job, first, rows, scratch);
    loadVisited(job, first, rows, scratch.weights);
    sweep.push_back({scratch.weights, scratch.errors});
  }
  const auto fit = [&](size_t c, const VisitOrder::Group& group) {
    const int64_t chunk = begin + static_cast<int64_t>(c);
    alignas(64) float limits[kLanes];
    chooseScales(job.grid, job.spec.search, scratches[c].weights + group.begin * kLanes,
                 job.importanceFrom(group.begin), group.size,
                 loadClip(job.spec.clip, chunk * kLanes, rowsOfChunk(job.n, chunk), job.groups, group.id, limits),
                 &scratches[c].scales[group.id]);
  };
  const auto round = [&](size_t c, int64_t j, const float* weights, float inversePivot, float* error, int64_t stride) {
    loops.encodeColumn(weights, scratches[c].scales[job.visit.groupOf[static_cast<size_t>(j)]], job.grid.maxCode,
                       inversePivot, scratches[c].codes + j * kLanes, error, stride);
  };
  if (!sweepColumns(job.visit, u, job.longestBlock, sweep, abort, fit, round)) return;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const ChunkScratch& scratch = scratches[static_cast<size_t>(chunk - begin)];
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(job.n, chunk);
    storeVisited(job, first, rows, scratch);
    for (int64_t g = 0; g < job.groups; ++g) storeScales(scratch.scales[g], first, rows, job.groups, g, job.out);
  }
}

}  // namespace tsq::rounding
