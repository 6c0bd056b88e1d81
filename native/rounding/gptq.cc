// The course of GPTQ: checks, order, inverse factor, the rounding itself (gptq_chunk.cc), comparison with nearest
// codes, and the ways out for a Hessian that is of no use.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "rounding/gptq_machine.h"
#include "rounding/gptq_sweep.h"
#include "rounding/objective.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Nearest codes of one row on the scales in job.out.
void nearestRow(const GptqJob& job, int64_t row, uint8_t* codes) {
  const float* scales = job.out.scales + row * job.groups;
  const uint8_t* zeros = job.out.zeros == nullptr ? nullptr : job.out.zeros + row * job.groups;
  for (int64_t c = 0; c < job.k; ++c) {
    const int64_t g = job.groupIndex == nullptr ? c / job.spec.grid.groupSize : job.groupIndex[c];
    const float weight = job.dead[static_cast<size_t>(c)] ? 0.f : job.w[row * job.k + c];
    codes[c] = nearestCode(weight, scales[g], zeros == nullptr ? job.grid.symmetricZero : zeros[g], job.grid.maxCode);
  }
}

// The CPU's thread pool.
class PoolMachine final : public GptqMachine {
 public:
  int64_t blockLimit(int64_t asked) const override { return asked; }

  Result<FactorOutcome> factor(const GptqJob& job, const Hessian& hessian, const std::vector<double>& diagonal,
                               AbortFlag abort) override {
    Result<InverseFactor> made =
        factorInverse(hessian, diagonal, job.visit.columns, job.spec.damp, job.spec.dampStep, abort);
    if (!made.ok()) return made.status();
    u_ = std::move(made.value().u);
    return FactorOutcome(std::move(made.value()));
  }

  Status round(const GptqJob& job, AbortFlag abort) override {
    const int64_t chunks = chunksOf(job.n), together = chunksTogether(job.n);
    WorkerScratch scratch(chunkScratchBytes(job) * static_cast<uint64_t>(together));
    ThreadPool::instance().run((chunks + together - 1) / together, [&](int64_t task, int worker) {
      if (abort.raised() || scratch.failed()) return;
      void* memory = scratch.get(worker);
      if (memory == nullptr) return;
      roundChunks(job, u_, task * together, std::min(chunks, (task + 1) * together), memory, abort);
    });
    u_ = PackedUpper<float>();  // its memory is what the comparison needs
    return scratch.status("gptq");
  }

  Status objectives(const GptqJob& job, const Hessian& hessian, bool withNearest, double* totals,
                    AbortFlag abort) override {
    Result<PackedUpper<float>> packed = packQuadratic(hessian.data(), job.k, 0, job.k, true);
    if (!packed.ok()) return packed.status();
    const auto fill = [&](int64_t chunk, int variant, float* d, int64_t stride) {
      std::vector<uint8_t> nearest(variant == 0 ? 0 : static_cast<size_t>(job.k));
      for (int64_t lane = 0; lane < rowsOfChunk(job.n, chunk); ++lane) {
        const int64_t row = chunk * kLanes + lane;
        const uint8_t* codes = job.out.codes + row * job.k;
        if (variant == 1) {
          nearestRow(job, row, nearest.data());
          codes = nearest.data();
        }
        const float* scales = job.out.scales + row * job.groups;
        const uint8_t* zeros = job.out.zeros == nullptr ? nullptr : job.out.zeros + row * job.groups;
        float* to = d + lane / kPanel * stride + lane % kPanel;
        for (int64_t c = 0; c < job.k; ++c) {
          const int64_t g = job.groupIndex == nullptr ? c / job.spec.grid.groupSize : job.groupIndex[c];
          const float zero = zeros == nullptr ? job.grid.symmetricZero : zeros[g];
          to[c * kPanel] = job.w[row * job.k + c] - scales[g] * (static_cast<float>(codes[c]) - zero);
        }
      }
    };
    return sumQuadraticForms(packed.value(), job.n, withNearest ? 2 : 1, fill, totals, abort);
  }

 private:
  PackedUpper<float> u_;
};

// Fills report.error with the objective of job.out and, where wanted, report.nearestError; nearest's codes replace
// worse ones.
Status compare(GptqMachine* machine, const GptqJob& job, const Hessian& hessian, bool withNearest, AbortFlag abort,
               GptqReport* report) {
  double totals[2] = {0, 0};
  TSQ_RETURN_IF_ERROR(machine->objectives(job, hessian, withNearest, totals, abort));
  const double rows = hessian.rows() > 0 ? hessian.rows() : 1;
  report->error = totals[0] / rows;
  report->nearestError = withNearest ? totals[1] / rows : report->error;
  if (!withNearest || report->error <= report->nearestError) return {};
  ThreadPool::instance().run(chunksOf(job.n), [&](int64_t chunk, int) {
    for (int64_t lane = 0; lane < rowsOfChunk(job.n, chunk); ++lane) {
      nearestRow(job, chunk * kLanes + lane, job.out.codes + (chunk * kLanes + lane) * job.k);
    }
  });
  report->keptNearest = true;
  report->error = report->nearestError;
  return {};
}

// The way out where no factor is to be had: nearest codes, on scales of least weighted error where importance is given.
Status fallBack(const GptqJob& job, const float* importance, AbortFlag abort) {
  SearchSpec search = job.spec.search;
  search.importance = importance;
  if (importance != nullptr && !search.enabled) {
    search = SearchSpec{};
    search.enabled = true;
    search.norm = 2;
    search.importance = importance;
  }
  if (job.groupIndex != nullptr) {
    for (int64_t c = 0; c < job.k; ++c) job.groupIndex[c] = static_cast<int32_t>(c / job.spec.grid.groupSize);
  }
  return roundNearest(job.w, job.n, job.k, job.spec.grid, search, job.spec.clip, job.out, abort);
}

Status checkArguments(int64_t n, int64_t k, const Hessian& hessian, const GptqSpec& spec, const RoundedWeight& out,
                      const int32_t* groupIndex) {
  TSQ_RETURN_IF_ERROR(checkGrid("gptq", n, k, spec.grid, &spec.search));
  if (hessian.k() != k) {
    return {Code::kShape, "gptq: the Hessian is of " + std::to_string(hessian.k()) +
                              " input features, the weight has k = " + std::to_string(k)};
  }
  if (!spec.grid.symmetric && out.zeros == nullptr)
    return {Code::kOption, "gptq: asymmetric codes need an array of zeros"};
  if (spec.block < 1) return {Code::kOption, "gptq: block is " + std::to_string(spec.block) + ", expected 1 or more"};
  if (!(spec.damp >= 0 && spec.damp <= 10))
    return {Code::kOption, "gptq: damp is " + std::to_string(spec.damp) + ", expected 0 to 10"};
  if (!(spec.dampStep > 0 && spec.dampStep <= 1)) {
    return {Code::kOption, "gptq: dampStep is " + std::to_string(spec.dampStep) + ", expected above 0, at most 1"};
  }
  if (spec.order != ActOrder::kDynamic) return {};
  if (groupIndex == nullptr) return {Code::kOption, "gptq: dynamic order needs an array for the group index"};
  if (spec.clip != nullptr && !spec.grid.perTensor) {
    return {Code::kUnsupported,
            "gptq: clipping limits belong to groups of neighbouring columns, which dynamic order does not keep; "
            "use static or group-aware order"};
  }
  return {};
}

}  // namespace

Result<GptqReport> gptq(const float* w, int64_t n, int64_t k, const Hessian& hessian, const GptqSpec& spec,
                        RoundedWeight out, int32_t* groupIndex, AbortFlag abort) {
  PoolMachine machine;
  return gptqOn(&machine, w, n, k, hessian, spec, out, groupIndex, abort);
}

namespace rounding {

bool isFinite(const Hessian& hessian) {
  const int64_t k = hessian.k();
  std::atomic<bool> finite{true};
  ThreadPool::instance().run(k, [&](int64_t row, int) {
    const float* h = hessian.data() + row * k;
    uint32_t bad = 0;
    for (int64_t c = 0; c < k; ++c) bad |= (floatToBits(h[c]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    if (bad != 0) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

Result<GptqReport> gptqOn(GptqMachine* machine, const float* w, int64_t n, int64_t k, const Hessian& hessian,
                          const GptqSpec& spec, RoundedWeight out, int32_t* groupIndex, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkArguments(n, k, hessian, spec, out, groupIndex));
  TSQ_RETURN_IF_ERROR(checkFinite("gptq", w, n, k));
  GptqReport report;
  GptqJob job{.w = w,
              .n = n,
              .k = k,
              .spec = spec,
              .grid = makeLaneGrid(spec.grid),
              .groups = groupsOf(k, spec.grid),
              .visit = {},
              .dead = std::vector<uint8_t>(static_cast<size_t>(k), 0),
              .importance = {},
              .tensorScale = {},
              .out = out,
              .groupIndex = spec.order == ActOrder::kDynamic ? groupIndex : nullptr};
  std::vector<double> diagonal(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) diagonal[static_cast<size_t>(c)] = hessian.data()[c * k + c];
  if (!isFinite(hessian)) {
    report.degraded = true;
    report.note =
        "the Hessian holds NaN or infinite values (activations overflowed in calibration): nearest codes, no "
        "calibration used";
    report.error = report.nearestError = std::numeric_limits<double>::quiet_NaN();
    TSQ_RETURN_IF_ERROR(fallBack(job, nullptr, abort));
    return report;
  }
  for (int64_t c = 0; c < k; ++c) {
    job.dead[static_cast<size_t>(c)] = diagonal[static_cast<size_t>(c)] > 0 ? 0 : 1;
    report.deadColumns += job.dead[static_cast<size_t>(c)];
  }
  if (report.deadColumns == k) {
    // Rounding every weight to 0 would be exact on no input at all.
    report.degraded = true;
    report.note = "every input of the layer was 0 in calibration: nearest codes, no calibration used";
    std::fill(job.dead.begin(), job.dead.end(), uint8_t{0});
    TSQ_RETURN_IF_ERROR(fallBack(job, nullptr, abort));
    TSQ_RETURN_IF_ERROR(compare(machine, job, hessian, false, abort, &report));
    return report;
  }
  job.visit = makeVisitOrder(spec.order, diagonal, spec.grid, machine->blockLimit(std::min<int64_t>(spec.block, k)));
  job.longestBlock = longestBlockOf(job.visit);
  std::vector<float> byColumn(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) {
    byColumn[static_cast<size_t>(c)] = spec.search.importance != nullptr
                                           ? spec.search.importance[c]
                                           : std::max(0.f, static_cast<float>(diagonal[static_cast<size_t>(c)]));
  }

  const Stopwatch factoring;
  const Result<FactorOutcome> made = machine->factor(job, hessian, diagonal, abort);
  report.factorSeconds = factoring.seconds();
  if (!made.ok()) return made.status();
  const FactorOutcome& factor = made.value();
  report.damp = factor.damp;
  report.degraded = factor.degraded;
  report.note = factor.note;
  if (!factor.usable) {
    report.note += ": nearest codes weighted by its diagonal";
    std::fill(job.dead.begin(), job.dead.end(), uint8_t{0});
    TSQ_RETURN_IF_ERROR(fallBack(job, byColumn.data(), abort));
    TSQ_RETURN_IF_ERROR(compare(machine, job, hessian, false, abort, &report));
    return report;
  }

  if (spec.search.enabled) {
    job.importance.resize(static_cast<size_t>(k));
    for (int64_t j = 0; j < k; ++j) {
      const int64_t column = job.fixedScales() ? j : job.visit.columns[static_cast<size_t>(j)];
      job.importance[static_cast<size_t>(j)] = byColumn[static_cast<size_t>(column)];
    }
  }
  if (spec.grid.perTensor) {
    TSQ_RETURN_IF_ERROR(
        chooseTensorScale(w, n, k, spec.grid, spec.search, job.importanceFrom(0), spec.clip, &job.tensorScale, abort));
  }
  if (job.groupIndex != nullptr) {
    for (int64_t j = 0; j < k; ++j)
      groupIndex[job.visit.columns[static_cast<size_t>(j)]] = job.visit.groupOf[static_cast<size_t>(j)];
  }
  const Stopwatch rounding;
  TSQ_RETURN_IF_ERROR(machine->round(job, abort));
  report.columnSeconds = rounding.seconds();
  if (abort.raised()) return Status(Code::kAborted, "gptq: aborted");
  const Stopwatch comparing;
  TSQ_RETURN_IF_ERROR(compare(machine, job, hessian, true, abort, &report));
  report.compareSeconds = comparing.seconds();
  return report;
}

}  // namespace rounding
}  // namespace tsq
