// The AMX kernels leave the tile configuration of a thread as they found it: other libraries set theirs once.
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"
#include "support.h"

using namespace support;  // NOLINT: a test

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
namespace {

struct alignas(64) TileConfiguration {
  uint8_t bytes[64] = {};
};

TileConfiguration current() {
  TileConfiguration found;
  __asm__ volatile("sttilecfg %0" : "=m"(found) : : "memory");
  return found;
}

void configure(const TileConfiguration& wanted) {
  __asm__ volatile("ldtilecfg %0" : : "m"(wanted) : "memory");
}

}  // namespace

TEST(tiles_keep_the_configuration_of_others) {
  if (!tsq::cpuFeatures().amx) {
    std::printf("not checked: this machine has no AMX\n");
    return;
  }
  const int threads = tsq::ThreadPool::instance().threads();
  tsq::ThreadPool::instance().setThreads(1);  // all on this thread
  Random random(31);
  const int64_t n = 70, k = 384;
  const Weight w = randomWeight(random, n, k, 128, {});
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  TileConfiguration theirs;
  theirs.bytes[0] = 1;                                                                  // palette
  for (int i = 0; i < 4; ++i) theirs.bytes[16 + 2 * i] = 32, theirs.bytes[48 + i] = 5;  // bytes and rows
  for (const TileConfiguration& before : {TileConfiguration{}, theirs}) {
    for (const int64_t m : {3, 20, 70}) {
      for (const auto activations : {tsq::Activations::kExact, tsq::Activations::kInt8}) {
        std::vector<float> x = random.normals(m * k), y(static_cast<size_t>(m * n));
        configure(before);
        CHECK(
            tsq::matmul({&packed.value(), x.data(), Dtype::kF32, k, m, y.data(), Dtype::kF32, n, nullptr, activations})
                .ok());
        const TileConfiguration after = current();
        CHECK(std::memcmp(&after, &before, sizeof(after)) == 0);
      }
    }
  }
  configure({});
  tsq::ThreadPool::instance().setThreads(threads);
}
#endif
