// What this processor and its operating system can run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tsq {

struct CpuFeatures {
  bool avx2 = false;    // AVX2, FMA and F16C, and the system saves the registers (xgetbv)
  bool avx512 = false;  // AVX-512 F, BW, DQ, VL, and the system saves the registers
  bool avx512vnni = false, avx512bf16 = false, avx512vbmi = false, avxvnni = false;
  bool amx = false;          // AMX tiles with int8 and bf16, and the system lets this process use them
  bool slowDotBf16 = false;  // vdpbf16ps takes more time than the two fused multiply-adds it replaces (Intel)
  bool neon = false, dotprod = false, i8mm = false, armbf16 = false, fp16 = false;
  std::vector<std::string> names() const;  // those present, for people
};

const CpuFeatures& cpuFeatures();

// The words that an x86 processor and its operating system describe themselves by (Intel SDM volume 2, CPUID).
struct X86Words {
  uint32_t leaf0Ebx = 0;  // first four letters of the vendor's name
  uint32_t leaf1Ecx = 0, leaf7Ebx = 0, leaf7Ecx = 0, leaf7Edx = 0;
  uint32_t leaf71Eax = 0;  // leaf 7, subleaf 1
  uint64_t xcr0 = 0;       // register states that the system saves; 0 where it does not use xsave
};
CpuFeatures x86Features(const X86Words& words);

}  // namespace tsq
