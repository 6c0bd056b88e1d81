// Rounding by descent on the output error (native/rounding/learned.h), its target (cross.h), and HQQ (hqq.h).
#include "rounding/learned.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/rounding_arguments.h"
#include "bindings/work.h"
#include "program/observers.h"
#include "rounding/hqq.h"

namespace tsq {
namespace {

LearnSpec readOptions(Arguments& a, Napi::Value options, int64_t k) {
  constexpr int64_t kMost = 100000;
  const auto read = [&](const char* key) { return a.property(options, key, "options"); };
  LearnSpec spec;
  spec.grid = readGrid(a, read("grid"), k);
  spec.steps = static_cast<int>(a.integer(read("steps"), "options.steps", 0, kMost));
  spec.offsets = a.boolean(read("offsets"), "options.offsets");
  spec.sweeps = static_cast<int>(a.integer(read("sweeps"), "options.sweeps", 0, kMost));
  spec.codes = a.boolean(read("codes"), "options.codes");
  return spec;
}

std::vector<RoundedWeight> readStarts(Arguments& a, Napi::Value value, int64_t n, int64_t k, const GridSpec& grid) {
  if (!value.IsArray()) refuse(Code::kOption, "learnRounding: starts is no array of rounded arrays");
  const auto list = value.As<Napi::Array>();
  if (list.Length() < 1 || list.Length() > 8)
    refuse(Code::kOption, "learnRounding: " + std::to_string(list.Length()) + " starts, expected 1 to 8");
  std::vector<RoundedWeight> starts;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value entry = list.Get(i);
    starts.push_back(readOutputs(a, entry, n, k, grid));
  }
  return starts;
}

Napi::Value learn(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  const auto hessian = readHessian(a, a[3], k);
  const LearnSpec spec = readOptions(a, a[4], k);
  const float* w = a.view<float>(a[0], "target", product({n, k}, "target")).data;
  std::vector<RoundedWeight> starts = readStarts(a, a[5], n, k, spec.grid);
  std::vector<int32_t> groupIndex;
  if (!a.isNull(a[6])) {
    groupIndex = a.copy<int32_t>(a[6], "groupIndex");
    if (static_cast<int64_t>(groupIndex.size()) != k)
      refuse(Code::kShape, "learnRounding: groupIndex has " + std::to_string(groupIndex.size()) +
                               " elements, expected k = " + std::to_string(k));
  }
  const RoundedWeight out = readOutputs(a, a[7], n, k, spec.grid);
  const AbortFlag abort = a.abortFlag(a[8]);
  return promise(
      a,
      [=, starts = std::move(starts), groupIndex = std::move(groupIndex)]() -> Result<LearnReport> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return learnRounding(w, n, k, *hessian->accumulator.hessian, spec, starts,
                             groupIndex.empty() ? nullptr : groupIndex.data(), out, abort);
      },
      [](Napi::Env env, LearnReport& report) {
        auto object = Napi::Object::New(env);
        object.Set("error", report.error);
        auto errors = Napi::Array::New(env, report.startErrors.size());
        for (uint32_t i = 0; i < report.startErrors.size(); ++i) errors.Set(i, report.startErrors[i]);
        object.Set("startErrors", errors);
        return object;
      });
}

void requireCross(const Accumulator& accumulator, const char* name, int64_t width, int64_t k) {
  if (accumulator.kind == Reduction::kCross && accumulator.width == k && referenceWidth(accumulator) == width) return;
  refuse(Code::kOption, std::string("correctTarget: ") + name + " is no accumulator of kind 8 (cross) that compares " +
                            std::to_string(width) + " columns, of width " + std::to_string(k));
}

Napi::Value correct(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1), count = product({n, k}, "w");
  const float* w = a.view<float>(a[0], "w", count).data;
  const auto hessian = readHessian(a, a[3], k);
  const auto cross = a.object<SharedAccumulator>(a[4], "cross");
  requireCross(cross->accumulator, "cross", k, k);
  std::shared_ptr<SharedAccumulator> residual;
  if (!a.isNull(a[5])) {
    residual = a.object<SharedAccumulator>(a[5], "residual");
    requireCross(residual->accumulator, "residual", n, k);
  }
  const double damp = a.number(a[6], "damp", 0, 1);
  float* target = a.view<float>(a[7], "target", count).data;
  const AbortFlag abort = a.abortFlag(a[8]);
  return promise(
      a,
      [=]() -> Result<TargetReport> {
        // In the order of addresses, as steps lock theirs: neither waits for the other.
        std::vector<SharedAccumulator*> order{hessian.get(), cross.get()};
        if (residual) order.push_back(residual.get());
        std::sort(order.begin(), order.end());
        order.erase(std::unique(order.begin(), order.end()), order.end());
        std::vector<std::shared_lock<std::shared_mutex>> locks;
        for (SharedAccumulator* each : order) {
          locks.push_back(each == hessian.get() ? each->lockFinished()
                                                : std::shared_lock<std::shared_mutex>(each->mutex));
        }
        if (!hessian->accumulator.hessian || !cross->accumulator.cross) return noRows();
        if (residual && !residual->accumulator.cross) return noRows();
        return correctTarget(w, n, k, *hessian->accumulator.hessian, *cross->accumulator.cross,
                             residual ? residual->accumulator.cross.get() : nullptr, damp, target, abort);
      },
      [](Napi::Env env, TargetReport& report) {
        auto object = Napi::Object::New(env);
        object.Set("damp", report.damp);
        object.Set("kept", report.kept);
        object.Set("note", report.note);
        return object;
      });
}

Napi::Value roundHqqCodes(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  HqqSpec spec;
  spec.grid = readGrid(a, a[3], k);
  spec.steps = static_cast<int>(a.integer(a.property(a[4], "steps", "options"), "options.steps", 0, 100000));
  spec.norm = a.number(a.property(a[4], "norm", "options"), "options.norm", 0, 1);
  spec.beta = a.number(a.property(a[4], "beta", "options"), "options.beta", 0, 1e9);
  spec.kappa = a.number(a.property(a[4], "kappa", "options"), "options.kappa", 1, 10);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  const float* clip = readClip(a, a[5], n, k, spec.grid);
  const RoundedWeight out = readOutputs(a, a[6], n, k, spec.grid);
  const AbortFlag abort = a.abortFlag(a[7]);
  return promise(a, [=]() -> Status { return roundHqq(w, n, k, spec, clip, out, abort); });
}

constexpr Export kExports[] = {
    {"learnRounding", learn, true},
    {"correctTarget", correct, true},
    {"roundHqq", roundHqqCodes, true},
};

}  // namespace

std::span<const Export> learnedRoundingExports() {
  return kExports;
}

}  // namespace tsq
