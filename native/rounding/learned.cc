// The course of learned rounding: checks, starts, signed gradients, exact descent. 16 rows are a set, and sets of a
// task share each pass over H.
#include "rounding/learned.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include "rounding/gptq_machine.h"
#include "rounding/group_grid.h"
#include "rounding/row_set.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

constexpr const char* kOperation = "learned rounding";

Status refused(Code code, const std::string& what) {
  return {code, std::string(kOperation) + ": " + what};
}

Status checkArguments(int64_t n, int64_t k, const Hessian& hessian, const LearnSpec& spec,
                      const std::vector<RoundedWeight>& starts, const RoundedWeight& out) {
  TSQ_RETURN_IF_ERROR(checkGrid(kOperation, n, k, spec.grid, nullptr));
  if (hessian.k() != k) {
    return refused(Code::kShape, "the Hessian is of " + std::to_string(hessian.k()) +
                                     " input features, the weight has k = " + std::to_string(k));
  }
  if (spec.steps < 0 || spec.steps > 100000)
    return refused(Code::kOption, "steps is " + std::to_string(spec.steps) + ", expected 0 to 100000");
  if (spec.sweeps < 0 || spec.sweeps > 100000)
    return refused(Code::kOption, "sweeps is " + std::to_string(spec.sweeps) + ", expected 0 to 100000");
  if (starts.empty() || starts.size() > 8)
    return refused(Code::kOption, std::to_string(starts.size()) + " starts, expected 1 to 8");
  if (spec.grid.perTensor && starts.size() > 1)
    return refused(Code::kOption, "rows choose among starts, which one scale per tensor does not allow: expected one");
  if (!spec.grid.symmetric && out.zeros == nullptr)
    return refused(Code::kOption, "asymmetric codes need an array of zeros");
  return {};
}

// That a start lies on the grid: no code, scale or zero point that the arithmetic does not expect.
Status checkStart(int64_t n, int64_t k, const GridSpec& grid, const RoundedWeight& start) {
  if (!grid.symmetric && start.zeros == nullptr)
    return refused(Code::kOption, "a start of asymmetric codes has no zeros");
  const int64_t groups = groupsOf(k, grid);
  const int most = (1 << grid.bits) - 1;
  std::atomic<bool> good{true};
  ThreadPool::instance().run(n, [&](int64_t row, int) {
    bool fine = true;
    for (int64_t c = 0; c < k; ++c) fine = fine && start.codes[row * k + c] <= most;
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = start.scales[row * groups + g];
      fine = fine && scale > 0 && std::isfinite(scale);
      if (start.zeros != nullptr) fine = fine && start.zeros[row * groups + g] <= most;
    }
    if (!fine) good.store(false, std::memory_order_relaxed);
  });
  if (good.load()) return {};
  return refused(Code::kNumeric, "a start holds a code or zero point above " + std::to_string(most) +
                                     " or a scale that is not a positive finite number");
}

// Columns by group, so that groups are consecutive.
Status orderColumns(const int32_t* groupIndex, LearnJob* job) {
  const int64_t k = job->k;
  std::vector<int32_t> groupOfColumn(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) {
    const int64_t g = groupIndex == nullptr ? c / job->spec.grid.groupSize : groupIndex[c];
    if (g < 0 || g >= job->groups) {
      return refused(Code::kOption, "groupIndex[" + std::to_string(c) + "] is " + std::to_string(g) +
                                        ", expected 0 to " + std::to_string(job->groups - 1));
    }
    groupOfColumn[static_cast<size_t>(c)] = static_cast<int32_t>(g);
  }
  job->columns.resize(static_cast<size_t>(k));
  std::iota(job->columns.begin(), job->columns.end(), 0);
  std::stable_sort(job->columns.begin(), job->columns.end(), [&](int32_t a, int32_t b) {
    return groupOfColumn[static_cast<size_t>(a)] < groupOfColumn[static_cast<size_t>(b)];
  });
  job->groupOf.resize(static_cast<size_t>(k));
  job->groupBegin.assign(static_cast<size_t>(job->groups) + 1, 0);
  for (int64_t j = 0; j < k; ++j) {
    const int32_t g = groupOfColumn[static_cast<size_t>(job->columns[static_cast<size_t>(j)])];
    job->groupOf[static_cast<size_t>(j)] = g;
    job->groupBegin[static_cast<size_t>(g) + 1] = j + 1;
  }
  job->longest = 0;
  for (size_t g = 0; g < static_cast<size_t>(job->groups); ++g) {
    job->groupBegin[g + 1] = std::max(job->groupBegin[g + 1], job->groupBegin[g]);  // a group without columns
    job->longest = std::max(job->longest, job->groupBegin[g + 1] - job->groupBegin[g]);
  }
  return {};
}

std::vector<double> sumGroups(const LearnJob& job) {
  std::vector<double> sums(static_cast<size_t>(job.groups), 0.0);
  ThreadPool::instance().run(job.groups, [&](int64_t g, int) {
    double total = 0;
    const int64_t begin = job.groupBegin[static_cast<size_t>(g)], end = job.groupBegin[static_cast<size_t>(g) + 1];
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t row = begin; row < end; ++row) total += static_cast<double>(job.h.at(row, c));
    }
    sums[static_cast<size_t>(g)] = total;
  });
  return sums;
}

// Sets that share a task, by the rows there are alone: the result does not depend on the number of threads.
int64_t setsPerTask(int64_t n) {
  return n >= 1024 ? 4 : n >= 256 ? 2 : 1;
}

struct TaskErrors {
  double kept = 0;
  std::vector<double> starts;
};

void learnTask(const LearnJob& job, const std::vector<RoundedWeight>& starts, int64_t firstRow, int64_t count,
               float* memory, RoundedWeight out, TaskErrors* errors, AbortFlag abort) {
  std::vector<RowSet> sets;
  sets.reserve(static_cast<size_t>(count));
  std::memset(memory, 0, static_cast<size_t>(count) * RowSet::floats(job) * sizeof(float));
  for (int64_t s = 0; s < count && firstRow + s * kRows < job.n; ++s)
    sets.emplace_back(memory + s * static_cast<int64_t>(RowSet::floats(job)), job, firstRow + s * kRows);
  for (const RoundedWeight& start : starts) {
    for (RowSet& set : sets) {
      set.load(start);
      set.subtract();
    }
    computeGradients(job, sets);
    double total = 0;
    for (RowSet& set : sets) {
      double error[kRows];
      set.objective(error);
      set.keepBetter(error);
      for (int64_t i = 0; i < set.rows(); ++i) total += error[i];
    }
    errors->starts.push_back(total);
  }
  // The one scale of a tensor stays as it is.
  const bool moves = job.spec.offsets || !job.spec.grid.perTensor;
  if (job.spec.steps > 0 && moves) followSigns(job, sets, abort);
  if (job.spec.sweeps > 0) descend(job, sets, abort);
  if (abort.raised()) return;
  for (const RowSet& set : sets) {
    set.store(out);
    for (int64_t i = 0; i < set.rows(); ++i) errors->kept += set.keptError[i];
  }
}

}  // namespace

Result<LearnReport> learnRounding(const float* target, int64_t n, int64_t k, const Hessian& hessian,
                                  const LearnSpec& spec, const std::vector<RoundedWeight>& starts,
                                  const int32_t* groupIndex, RoundedWeight out, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkArguments(n, k, hessian, spec, starts, out));
  TSQ_RETURN_IF_ERROR(checkFinite(kOperation, target, n, k));
  if (!isFinite(hessian))
    return refused(Code::kNumeric, "the Hessian holds NaN or infinite values: activations overflowed in calibration");
  for (const RoundedWeight& start : starts) TSQ_RETURN_IF_ERROR(checkStart(n, k, spec.grid, start));
  PackedSquare h;
  LearnJob job{.target = target,
               .n = n,
               .k = k,
               .spec = spec,
               .grid = makeLaneGrid(spec.grid),
               .groups = groupsOf(k, spec.grid),
               .h = h,
               .columns = {},
               .groupOf = {},
               .groupBegin = {},
               .longest = 0,
               .groupSums = {}};
  TSQ_RETURN_IF_ERROR(orderColumns(groupIndex, &job));
  Result<PackedSquare> packed = packSquare(hessian.data(), k, job.columns);
  if (!packed.ok()) return packed.status();
  h = std::move(packed.value());
  if (!spec.grid.symmetric) job.groupSums = sumGroups(job);

  const int64_t perTask = setsPerTask(n), rowsPerTask = perTask * kRows;
  const int64_t tasks = (n + rowsPerTask - 1) / rowsPerTask;
  WorkerScratch scratch(static_cast<uint64_t>(perTask) * RowSet::floats(job) * sizeof(float));
  std::vector<TaskErrors> errors(static_cast<size_t>(tasks));
  ThreadPool::instance().run(tasks, [&](int64_t task, int worker) {
    if (abort.raised() || scratch.failed()) return;
    float* memory = static_cast<float*>(scratch.get(worker));
    if (memory == nullptr) return;
    learnTask(job, starts, task * rowsPerTask, perTask, memory, out, &errors[static_cast<size_t>(task)], abort);
  });
  TSQ_RETURN_IF_ERROR(scratch.status(kOperation));
  if (abort.raised()) return refused(Code::kAborted, "aborted");
  LearnReport report;
  report.startErrors.assign(starts.size(), 0.0);
  const double rows = hessian.rows() > 0 ? hessian.rows() : 1;
  for (const TaskErrors& task : errors) {
    report.error += task.kept / rows;
    for (size_t s = 0; s < starts.size(); ++s) report.startErrors[s] += task.starts[s] / rows;
  }
  return report;
}

}  // namespace tsq
