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

// A step of the ladder of instruction sets: a table, and the kernels that an extension adds to it.
KernelTable extended(const KernelTable& base, const char* name, const DotKernel* pairs, const DotKernel* quads,
                     const DotKernel* digits = nullptr) {
  KernelTable table = base;
  table.name = name;
  if (pairs != nullptr) table.pairs = pairs;
  if (quads != nullptr) table.quads = quads;
  if (digits != nullptr) table.digits = digits;
  return table;
}

struct Supported {
  static constexpr int kMost = 8;
  KernelTable storage[kMost];
  const KernelTable* tables[kMost];
  int count = 0;
  const KernelTable* best = nullptr;

  // `preferred`: better than those before it. The others are there to be asked for.
  void add(const KernelTable& table, bool preferred = true) {
    storage[count] = table;
    tables[count] = &storage[count];
    if (preferred) best = tables[count];
    ++count;
  }
  Supported() {
    [[maybe_unused]] const CpuFeatures& cpu = cpuFeatures();
    add(kReferenceKernels);
#ifdef TSQ_HAVE_NEON
    if (cpu.neon) add(extended(kNeonKernels, "neon", nullptr, &kNeonQuads));
#endif
#ifdef TSQ_HAVE_NEON_DOTPROD
    if (cpu.dotprod) {
      add(extended(storage[count - 1], "neon-dotprod", nullptr, &kNeonDotprodQuads, &kNeonDotprodDigits));
    }
#endif
#ifdef TSQ_HAVE_NEON_I8MM
    if (cpu.dotprod && cpu.i8mm) add(extended(storage[count - 1], "neon-i8mm", nullptr, &kNeonI8mmQuads));
#endif
#ifdef TSQ_HAVE_NEON_BF16
    if (cpu.neon && cpu.armbf16) add(extended(storage[count - 1], "neon-bf16", &kNeonBf16Pairs, nullptr));
#endif
#ifdef TSQ_HAVE_AVX2
    if (cpu.avx2) add(extended(kAvx2Kernels, "avx2", nullptr, &kAvx2Quads, &kAvx2Digits));
#endif
#ifdef TSQ_HAVE_AVXVNNI
    if (cpu.avxvnni) add(extended(kAvx2Kernels, "avxvnni", nullptr, &kAvxVnniQuads, &kAvxVnniDigits));
#endif
#ifdef TSQ_HAVE_AVX512
    if (cpu.avx512) add(extended(kAvx512Kernels, "avx512", nullptr, &kAvx512Quads));
#endif
#ifdef TSQ_HAVE_AVX512VNNI
    if (cpu.avx512vnni) add(extended(kAvx512Kernels, "avx512vnni", nullptr, &kAvx512VnniQuads, &kAvx512VnniDigits));
#endif
#ifdef TSQ_HAVE_AVX512BF16
    if (cpu.avx512vnni && cpu.avx512bf16) {
      add(extended(storage[count - 1], "avx512bf16", &kAvx512Bf16Pairs, nullptr), !cpu.slowDotBf16);
    }
#endif
#ifdef TSQ_HAVE_AMX
    if (cpu.amx) add(extended(kAvx512Kernels, "amx", &kAmxPairs, &kAmxQuads, &kAvx512VnniDigits));
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
  const KernelTable* best = all.best;
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
  return blocking::kWeightFloats + blocking::kActivationFloats + blocking::kTotalFloats;
}

int64_t attentionScratch(int64_t headDim) {
  // Per query: the scores of a chunk, an accumulator and a zero-padded copy of the query. Then four unpacked pages, and
  // scales and offsets of one.
  const int64_t width = layout::roundUp(headDim, 16);
  return AttentionTile::kMaxTile * (AttentionTile::kChunk + 2 * width) + 4 * 16 * width + 2 * (width + 16);
}

}  // namespace tsq
