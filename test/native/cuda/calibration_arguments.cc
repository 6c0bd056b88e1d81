// What the module's calls of calibration refuse before anything is launched.
#include "cuda/module/calibration_arguments.h"

#include <string>

#include "check.h"

namespace {

using namespace tsq::cuda::module;  // NOLINT

struct Reason {
  char text[512] = "";
  operator TsqCudaText() { return {text, sizeof(text)}; }
};

alignas(16) char memory[64];
template <typename T>
T* place() {
  return reinterpret_cast<T*>(memory);
}

template <typename Check>
void refuses(Check check, const char* words) {
  Reason reason;
  CHECK(check(reason) == kTsqCudaArgument);
  CHECK_MSG(std::string(reason.text).find(words) != std::string::npos, std::string(reason.text) + " for " + words);
}

TsqCudaScales scales() {
  TsqCudaScales p{};
  p.grid.symmetric = 1;
  p.w = place<float>();
  p.scales = place<float>();
  p.n = 4;
  p.k = p.end = 100;
  p.group = 32;
  p.count = 4;
  p.norm = 2;
  return p;
}

}  // namespace

TEST(calibration_arguments_are_checked_before_a_launch) {
  Reason reason;
  TsqCudaHessian hessian{memory, 3, 100, 100, place<float>(), 0};
  CHECK_MSG(checkHessian(hessian, reason) == kTsqCudaOk, reason.text);
  const auto asked = [&](TsqCudaText text) { return checkHessian(hessian, text); };
  hessian.type = 3;
  refuses(asked, "rows of type 3, expected 0 (f32), 1 (f16) or 2 (bf16)");
  hessian.type = 1;
  hessian.stride = 99;
  refuses(asked, "3 rows lie 99 apart, expected 1 or more of 100 or more");
  hessian.stride = 100;
  hessian.rows = 0;
  refuses(asked, "0 rows lie 100 apart");
  hessian.rows = 1;
  hessian.k = int64_t{1} << 21;
  refuses(asked, "weight [1, 2097152]");
  refuses([](TsqCudaText text) { return checkSizes(1 << 24, 1 << 20, text); }, "and 2^40 weights");
  CHECK(checkSizes(1 << 20, 1 << 20, reason) == kTsqCudaOk);
  hessian.k = 100;
  hessian.h = nullptr;
  refuses(asked, "the Hessian is null");
  hessian.h = reinterpret_cast<float*>(memory + 4);
  refuses(asked, "is not aligned to 16 bytes");

  TsqCudaFactor factor{100, 0, 2, place<float>(), place<int32_t>(), memory, place<float>(), place<int32_t>(), 1, 0.01};
  CHECK_MSG(checkFactor(factor, 2, reason) == kTsqCudaOk, reason.text);
  const auto askFactor = [&](TsqCudaText text) { return checkFactor(factor, 2, text); };
  factor.end = 3;
  refuses(askFactor, "steps 0 to 3 are not among 2");
  factor.end = 2;
  factor.unit = 0;
  refuses(askFactor, "a unit of 0");
  factor.unit = 1;
  factor.columns = nullptr;
  refuses(askFactor, "the columns is null");
}

TEST(calibration_arguments_of_scales_and_codes_are_checked) {
  Reason reason;
  TsqCudaScales p = scales();
  CHECK_MSG(checkScales(p, reason) == kTsqCudaOk, reason.text);
  const auto asked = [&](TsqCudaText text) { return checkScales(p, text); };
  p.group = 101;
  refuses(asked, "groups of 101 columns, expected 1 to k = 100");
  p = scales();
  p.count = 5;
  refuses(asked, "groups 0 to 5 are not among 4");
  p = scales();
  p.end = 97;
  CHECK_MSG(checkScales(p, reason) == kTsqCudaOk, reason.text);
  p.end = 96;
  refuses(asked, "4 groups of 32 do not begin within 96 columns");
  p = scales();
  p.begin = p.end;
  refuses(asked, "columns 100 to 100 are not among 100");
  p = scales();
  p.steps = 1;
  p.maxShrink = 1;
  refuses(asked, "a search of 1 steps");
  p = scales();
  p.grid.symmetric = 0;
  refuses(asked, "the zero points is null");

  TsqCudaGptq gptq{};
  gptq.on = {p.grid, p.scales, place<uint8_t>(), place<int32_t>(), 4, 100, 32};
  gptq.source = gptq.u = place<float>();
  gptq.dead = place<uint8_t>();
  gptq.columns = place<int32_t>();
  gptq.w = gptq.errors = place<float>();
  gptq.codes = place<uint8_t>();
  CHECK_MSG(checkGptq(gptq, reason) == kTsqCudaOk, reason.text);
  gptq.on.groupIndex = nullptr;
  refuses([&](TsqCudaText text) { return checkGptq(gptq, text); }, "the groups is null");

  TsqCudaObjective objective{};
  objective.on = {p.grid, nullptr, nullptr, nullptr, 4, 100, 32};
  objective.w = objective.approx = objective.h = place<float>();
  objective.d = place<float>();
  objective.partials = objective.sum = place<double>();
  CHECK_MSG(checkObjective(objective, reason) == kTsqCudaOk, reason.text);
  objective.approx = nullptr;
  refuses([&](TsqCudaText text) { return checkObjective(objective, text); }, "the scales is null");
}
