// What nearest rounding, GPTQ and the clip search share: argument checks, chunks of rows, per-worker scratch, scales of
// a whole tensor.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>

#include "rounding/lanes.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

namespace tsq::rounding {

// kShape, kOption or kDtype with what was found and what is expected.
Status checkGrid(const char* operation, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec* search);
// kNumeric naming the first non-finite weight. Threaded.
Status checkFinite(const char* operation, const float* w, int64_t n, int64_t k);

inline int64_t groupsOf(int64_t k, const GridSpec& grid) {
  return (k + grid.groupSize - 1) / grid.groupSize;
}
inline int64_t chunksOf(int64_t n) {
  return (n + kLanes - 1) / kLanes;
}
inline int64_t rowsOfChunk(int64_t n, int64_t chunk) {
  return n - chunk * kLanes < kLanes ? n - chunk * kLanes : static_cast<int64_t>(kLanes);
}

// Memory of the tasks of one run, allocated by each worker when it first needs it.
class WorkerScratch {
 public:
  explicit WorkerScratch(uint64_t bytes) : bytes_(bytes) {}
  // Null, and failed() from then on, when the system refuses.
  void* get(int worker) {
    AlignedBuffer& buffer = buffers_[static_cast<size_t>(worker)];
    if (buffer.size() == 0) {
      Result<AlignedBuffer> made = AlignedBuffer::allocate(bytes_);
      if (!made.ok()) {
        failed_.store(true, std::memory_order_relaxed);
        return nullptr;
      }
      buffer = std::move(made.value());
    }
    return buffer.data();
  }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  Status status(const char* operation) const;

 private:
  uint64_t bytes_;
  std::atomic<bool> failed_{false};
  std::array<AlignedBuffer, ThreadPool::kMaxThreads> buffers_;
};

// The one scale and zero of a tensor (perTensor), in every lane of *out. importance [k] or null; clip [n] or null.
Status chooseTensorScale(const float* w, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec& search,
                         const float* importance, const float* clip, LaneScales* out, AbortFlag abort);

// Writes the scales and zeros of group `group` for the rows of a chunk into out.
inline void storeScales(const LaneScales& from, int64_t firstRow, int64_t rows, int64_t groups, int64_t group,
                        RoundedWeight out) {
  for (int64_t lane = 0; lane < rows; ++lane) {
    out.scales[(firstRow + lane) * groups + group] = from.scale[lane];
    if (out.zeros != nullptr) out.zeros[(firstRow + lane) * groups + group] = static_cast<uint8_t>(from.zero[lane]);
  }
}

// Gathers clip[(firstRow + lane) * groups + group] into lanes; null stays null.
inline const float* loadClip(const float* clip, int64_t firstRow, int64_t rows, int64_t groups, int64_t group,
                             float* lanes) {
  if (clip == nullptr) return nullptr;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    lanes[lane] = lane < rows ? clip[(firstRow + lane) * groups + group] : 0.f;
  return lanes;
}

}  // namespace tsq::rounding
