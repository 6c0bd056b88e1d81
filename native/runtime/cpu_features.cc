#include "runtime/cpu_features.h"

#include <cstdint>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#include <sys/types.h>
#elif defined(__aarch64__) && defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace tsq {

namespace {

constexpr bool bit(uint64_t word, int index) {
  return ((word >> index) & 1) != 0;
}

#if defined(__x86_64__) || defined(__i386__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero when the processor does not know the leaf.
Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

// XCR0, the register states that the operating system saves at a task switch. Written as bytes: the mnemonic needs
// -mxsave. Only valid where cpuid says OSXSAVE.
uint64_t savedStates() {
  uint32_t low, high;
  __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux gives tile registers only to processes that ask (Documentation/arch/x86/xstate.rst), since they make every
// signal frame larger. Refused where an alternate signal stack is too small for that.
bool allowTiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  const Registers leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0);
  X86Words words;
  words.leaf0Ebx = cpuid(0, 0).ebx;
  words.leaf1Ecx = leaf1.ecx;
  words.leaf7Ebx = leaf7.ebx;
  words.leaf7Ecx = leaf7.ecx;
  words.leaf7Edx = leaf7.edx;
  if (leaf7.eax >= 1) words.leaf71Eax = cpuid(7, 1).eax;
  if (bit(leaf1.ecx, 27)) words.xcr0 = savedStates();  // OSXSAVE
  CpuFeatures features = x86Features(words);
  features.amx = features.amx && allowTiles();
  return features;
}

#elif defined(__aarch64__) && defined(__linux__)

CpuFeatures detect() {
  // Bit numbers of the kernel's arm64 ABI (elf_hwcaps): fixed, and older headers lack the names.
  const uint64_t hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  CpuFeatures f;
  f.neon = bit(hwcap, 1);                // ASIMD
  f.fp16 = f.neon && bit(hwcap, 10);     // ASIMDHP
  f.dotprod = f.neon && bit(hwcap, 20);  // ASIMDDP
  f.i8mm = f.neon && bit(hwcap2, 13);
  f.armbf16 = f.neon && bit(hwcap2, 14);
  return f;
}

#elif defined(__aarch64__) && defined(__APPLE__)

bool sysctlFlag(const char* name) {
  int value = 0;
  size_t bytes = sizeof value;
  return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value != 0;
}

CpuFeatures detect() {
  CpuFeatures f;
  f.neon = true;  // part of every arm64 Mac
  f.fp16 = sysctlFlag("hw.optional.arm.FEAT_FP16");
  f.dotprod = sysctlFlag("hw.optional.arm.FEAT_DotProd");
  f.i8mm = sysctlFlag("hw.optional.arm.FEAT_I8MM");
  f.armbf16 = sysctlFlag("hw.optional.arm.FEAT_BF16");
  return f;
}

#elif defined(__aarch64__)

CpuFeatures detect() {
  CpuFeatures f;
  f.neon = true;                                   // part of the base architecture
#if defined(_WIN32)
  f.dotprod = IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#endif
  return f;
}

#else

CpuFeatures detect() {
  return {};
}

#endif

}  // namespace

CpuFeatures x86Features(const X86Words& words) {
  CpuFeatures f;
  const bool savesAvx = (words.xcr0 & 0x06) == 0x06;     // XMM, YMM
  const bool savesAvx512 = (words.xcr0 & 0xe6) == 0xe6;  // and the mask registers, upper ZMM, ZMM16-31
  const bool avx = savesAvx && bit(words.leaf1Ecx, 28);
  f.avx2 = avx && bit(words.leaf7Ebx, 5) && bit(words.leaf1Ecx, 12) && bit(words.leaf1Ecx, 29);  // AVX2, FMA, F16C
  f.avxvnni = f.avx2 && bit(words.leaf71Eax, 4);
  // The AVX-512 kernels are compiled with AVX2, FMA and F16C too. F, DQ, BW, VL:
  f.avx512 = f.avx2 && savesAvx512 && bit(words.leaf7Ebx, 16) && bit(words.leaf7Ebx, 17) && bit(words.leaf7Ebx, 30) &&
             bit(words.leaf7Ebx, 31);
  f.avx512vbmi = f.avx512 && bit(words.leaf7Ecx, 1);
  f.avx512vnni = f.avx512 && bit(words.leaf7Ecx, 11);
  f.avx512bf16 = f.avx512 && bit(words.leaf71Eax, 5);
  const bool savesTiles = (words.xcr0 & 0x60000) == 0x60000;  // XTILECFG, XTILEDATA
  f.amx = f.avx512vnni && savesTiles && bit(words.leaf7Edx, 22) && bit(words.leaf7Edx, 24) && bit(words.leaf7Edx, 25);
  f.slowDotBf16 = words.leaf0Ebx == 0x756e6547;  // "Genu"
  return f;
}

std::vector<std::string> CpuFeatures::names() const {
  const std::pair<bool, const char*> all[] = {
      {avx2, "avx2"},
      {avxvnni, "avxvnni"},
      {avx512, "avx512"},
      {avx512vnni, "avx512vnni"},
      {avx512bf16, "avx512bf16"},
      {avx512vbmi, "avx512vbmi"},
      {amx, "amx"},
      {neon, "neon"},
      {fp16, "fp16"},
      {dotprod, "dotprod"},
      {i8mm, "i8mm"},
      {armbf16, "bf16"},
  };
  std::vector<std::string> present;
  for (const auto& [has, name] : all) {
    if (has) present.emplace_back(name);
  }
  return present;
}

const CpuFeatures& cpuFeatures() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace tsq
