#include "kernels/probes.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<const PeakProbe*> available() {
  std::vector<const PeakProbe*> found;
  [[maybe_unused]] const CpuFeatures& cpu = cpuFeatures();
  [[maybe_unused]] const auto add = [&](bool runs, const PeakProbe& probe) {
    if (runs) found.push_back(&probe);
  };
#ifdef TSQ_HAVE_AVX2
  add(cpu.avx2, kFmaYmm);
  add(cpu.avx2, kMaddubsYmm);
  add(cpu.avxvnni, kVnniYmm);
#endif
#ifdef TSQ_HAVE_AVX512
  add(cpu.avx512, kFmaZmm);
  add(cpu.avx512, kMaddubsZmm);
  add(cpu.avx512vnni, kVnniZmm);
  add(cpu.avx512bf16, kBf16Zmm);
  add(cpu.amx, kAmxBf16);
  add(cpu.amx, kAmxInt8);
#endif
#ifdef TSQ_HAVE_NEON
  add(cpu.neon, kFmaNeon);
  add(cpu.neon, kMullNeon);
  add(cpu.dotprod, kDotNeon);
  add(cpu.i8mm, kMmlaNeon);
  add(cpu.armbf16, kBfmmlaNeon);
#endif
  return found;
}

// Steps between two looks at the clock: some ten microseconds.
constexpr int64_t kSteps = 2048;

// A task of a read: long enough that handing it out costs nothing, short enough that threads finish together.
constexpr size_t kReadTask = size_t{1} << 20;
constexpr size_t kReadStep = 256;

// For processors without one of the vector extensions.
void readWords(const uint8_t* begin, int64_t bytes) {
  const uint64_t* words = reinterpret_cast<const uint64_t*>(begin);
  uint64_t sums[4] = {};
  for (int64_t i = 0; i < bytes / 8; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += words[i + j];
  }
  // The sum is looked at, or the compiler would not read.
  __asm__ volatile("" : : "r"(sums[0] + sums[1] + sums[2] + sums[3]));
}
constexpr ReadProbe kReadWords = {{readWords, readWords, readWords, readWords}};

const ReadProbe& widestRead() {
  [[maybe_unused]] const CpuFeatures& cpu = cpuFeatures();
#ifdef TSQ_HAVE_AVX512
  if (cpu.avx512) return kReadZmm;
#endif
#ifdef TSQ_HAVE_AVX2
  if (cpu.avx2) return kReadYmm;
#endif
#ifdef TSQ_HAVE_NEON
  if (cpu.neon) return kReadNeon;
#endif
  return kReadWords;
}

}  // namespace

std::vector<std::string> peakProbes() {
  std::vector<std::string> names;
  for (const PeakProbe* probe : available()) names.emplace_back(probe->name);
  return names;
}

Result<double> measurePeak(const std::string& name, double milliseconds) {
  const PeakProbe* chosen = nullptr;
  std::string names;
  for (const PeakProbe* probe : available()) {
    if (name == probe->name) chosen = probe;
    names += (names.empty() ? "" : ", ") + std::string(probe->name);
  }
  if (chosen == nullptr) {
    return Status(Code::kUnsupported,
                  "peak: the instruction \"" + name +
                      "\" does not run on this machine; choose one of: " + (names.empty() ? "none" : names));
  }
  ThreadPool& pool = ThreadPool::instance();
  const int threads = pool.threads();
  // The first run wakes the threads up.
  pool.run(
      threads, [&](int64_t, int) { chosen->run(kSteps); }, threads);
  std::atomic<int64_t> steps{0};
  const double limit = milliseconds / 1e3;
  const Clock::time_point begin = Clock::now();
  // Every task runs until the same moment: one that a thread takes up late, after another, counts for next to nothing.
  pool.run(
      threads,
      [&](int64_t, int) {
        int64_t done = 0;
        do {
          chosen->run(kSteps);
          done += kSteps;
        } while (secondsSince(begin) < limit);
        steps.fetch_add(done, std::memory_order_relaxed);
      },
      threads);
  return static_cast<double>(steps.load()) * chosen->operations / secondsSince(begin) / 1e9;
}

Result<AlignedBuffer> readProbe(size_t bytes) {
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(bytes);
  if (memory.ok()) std::memset(memory.value().data(), 1, bytes);
  return memory;
}

double measureRead(const AlignedBuffer& memory, size_t offset, size_t bytes, ReadPattern pattern) {
  const uint8_t* data = memory.as<uint8_t>() + offset;
  const auto read = widestRead().run[static_cast<int>(pattern)];
  const size_t whole = bytes / kReadStep * kReadStep;
  const Clock::time_point begin = Clock::now();
  ThreadPool::instance().run(static_cast<int64_t>((whole + kReadTask - 1) / kReadTask), [&](int64_t task, int) {
    const size_t at = static_cast<size_t>(task) * kReadTask;
    read(data + at, static_cast<int64_t>(whole - at < kReadTask ? whole - at : kReadTask));
  });
  return static_cast<double>(whole) / secondsSince(begin) / 1e9;
}

}  // namespace tsq
