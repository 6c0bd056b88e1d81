// Chooses the table of kernels. This file is compiled for the baseline processor: it must run before anything is known.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/blocking.h"
#include "kernels/tables.h"
#include "runtime/cpu_features.h"

namespace tsq {
namespace {

struct Supported {
  const KernelTable* tables[4];
  int count = 0;
  Supported() {
    [[maybe_unused]] const CpuFeatures& cpu = cpuFeatures();
    tables[count++] = &kReferenceKernels;
#ifdef TSQ_HAVE_NEON
    if (cpu.neon) tables[count++] = &kNeonKernels;
#endif
#ifdef TSQ_HAVE_AVX2
    if (cpu.avx2) tables[count++] = &kAvx2Kernels;
#endif
#ifdef TSQ_HAVE_AVX512
    if (cpu.avx2 && cpu.avx512) tables[count++] = &kAvx512Kernels;
#endif
  }
  const KernelTable* find(const char* name) const {
    for (int i = 0; i < count; ++i) {
      if (std::strcmp(tables[i]->name, name) == 0) return tables[i];
    }
    return nullptr;
  }
  std::string names() const {
    std::string all;
    for (int i = 0; i < count; ++i) all += (i == 0 ? "" : ", ") + std::string(tables[i]->name);
    return all;
  }
};

const Supported& supported() {
  static const Supported instance;
  return instance;
}

const KernelTable* chooseDefault() {
  const Supported& all = supported();
  const KernelTable* best = all.tables[all.count - 1];
  const char* wanted = std::getenv("TSQ_CPU");
  if (wanted == nullptr || *wanted == '\0') return best;
  const KernelTable* chosen = all.find(wanted);
  if (chosen != nullptr) return chosen;
  std::fprintf(stderr, "tsq-native: TSQ_CPU=%s cannot run on this machine, using %s; set one of: %s\n", wanted,
               best->name, all.names().c_str());
  return best;
}

const KernelTable* defaultTable() {
  static const KernelTable* const table = chooseDefault();
  return table;
}

std::atomic<const KernelTable*> selected{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = selected.load(std::memory_order_acquire);
  return table != nullptr ? *table : *defaultTable();
}

const KernelTable* const* supportedKernels(int* count) {
  *count = supported().count;
  return supported().tables;
}

Status selectKernels(const char* name) {
  if (name == nullptr) {
    selected.store(nullptr, std::memory_order_release);
    return {};
  }
  const KernelTable* table = supported().find(name);
  if (table == nullptr) {
    return {Code::kUnsupported,
            "kernels: \"" + std::string(name) + "\" cannot run on this machine; choose one of: " + supported().names()};
  }
  selected.store(table, std::memory_order_release);
  return {};
}

int64_t linearScratch(const layout::Shape&) {
  return blocking::kWeightFloats + blocking::kActivationFloats;
}

int64_t attentionScratch(int64_t headDim) {
  // Per query: the scores of a chunk, an accumulator and a zero-padded copy of the query.
  return AttentionTile::kMaxTile * (AttentionTile::kChunk + 2 * layout::roundUp(headDim, 16));
}

}  // namespace tsq
