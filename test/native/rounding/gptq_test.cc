// What GPTQ promises: never worse than nearest, never stopped by a bad Hessian, the same bytes for any number of
// threads.
#include <algorithm>

#include "gptq_run.h"
#include "runtime/thread_pool.h"

using namespace rounding_test;

TEST(gptq_is_below_nearest_in_every_order) {
  const int64_t n = 100, k = 260, rows = 800;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 41), rows, k);
  const std::vector<float> w = gaussian(n * k, 42, 0.05f);
  for (int bits : {2, 3, 4, 8}) {
    for (bool search : {false, true}) {
      for (int64_t size : {int64_t{32}, int64_t{128}, k}) {
        for (ActOrder kind : kOrders) {
          for (bool tensor : {false, true}) {
            if (tensor && size != k) continue;
            GptqSpec spec = specOf(bits, bits != 3, size, kind, 128);
            spec.grid.scaleType = tsq::Dtype::kF16;
            spec.grid.perTensor = tensor;
            spec.search.enabled = search;
            spec.search.norm = 2;
            spec.search.steps = 20;
            const Run done = run(w, n, k, *h, spec);
            const std::string what = describe(n, k, spec.grid) + " order " + kOrderNames[static_cast<int>(kind)];
            CHECK_MSG(done.status.ok(), done.status.message());
            CHECK_MSG(done.rounded.sane(spec.grid), what);
            CHECK_MSG(!done.report.keptNearest && done.report.error < 0.95 * done.report.nearestError,
                      what + ": " + std::to_string(done.report.error) + " nearest " +
                          std::to_string(done.report.nearestError));
            // The figure of the report is the objective of what was returned.
            const std::vector<float> back = dequantized(done, n, k, spec);
            const double own = tsq::layerError(w.data(), back.data(), n, k, *h).value();
            CHECK_MSG(std::abs(done.report.error / own - 1) < 1e-5, what);
            if (kind == ActOrder::kDynamic) {
              std::vector<int64_t> members(static_cast<size_t>(done.rounded.groups), 0);
              for (int32_t g : done.index) ++members[static_cast<size_t>(g)];
              for (size_t g = 0; g + 1 < members.size(); ++g) CHECK(members[g] == size);
              CHECK(members.back() == k - size * (done.rounded.groups - 1));
            }
            if (tensor)
              CHECK_MSG(std::all_of(done.rounded.scales.begin(), done.rounded.scales.end(),
                                    [&](float s) { return s == done.rounded.scales[0]; }),
                        what);
          }
        }
      }
    }
  }
}

TEST(gptq_search_and_clip_lower_the_error) {
  const int64_t n = 64, k = 256, rows = 600;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 43), rows, k);
  std::vector<float> w = gaussian(n * k, 44, 0.05f);
  for (int64_t r = 0; r < n; ++r) w[static_cast<size_t>(r * k + 3 * r)] *= 8.f;
  GptqSpec spec = specOf(3, true, 128, ActOrder::kStatic, 128);
  const double plain = run(w, n, k, *h, spec).report.error;
  spec.search.enabled = true;
  spec.search.norm = 2;
  const double searched = run(w, n, k, *h, spec).report.error;
  CHECK_MSG(searched < plain, std::to_string(searched) + " against " + std::to_string(plain));
  spec.search.enabled = false;
  std::vector<float> clip(static_cast<size_t>(n * 2));
  CHECK(tsq::searchClip(w.data(), n, k, *h, spec.grid, 20, 0.5, clip.data(), AbortFlag()).ok());
  spec.clip = clip.data();
  const double clipped = run(w, n, k, *h, spec).report.error;
  CHECK_MSG(clipped < plain, std::to_string(clipped) + " against " + std::to_string(plain));
}

// Row 1 of what users of such tools suffer: the run that dies at layer 43.
TEST(gptq_never_aborts_on_a_bad_hessian) {
  const int64_t n = 35, k = 72;
  const std::vector<float> w = gaussian(n * k, 51);
  struct Case {
    const char* name;
    bool degraded;
    void (*fill)(float* h, int64_t k);
  };
  const Case cases[] = {
      {"zero", true, [](float*, int64_t) {}},
      {"rank 1", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = static_cast<float>((i / size % 5 + 1) * (i % size % 5 + 1));
       }},
      {"duplicate columns", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = i / size / 2 == i % size / 2 ? 4.f : 0.f;
       }},
      {"dead columns", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i % 3 == 0 ? 0.f : 2.f;
       }},
      {"one NaN", true,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1.f;
         h[7] = std::numeric_limits<float>::quiet_NaN();
       }},
      {"all infinite", true,
       [](float* h, int64_t size) { std::fill(h, h + size * size, std::numeric_limits<float>::infinity()); }},
      {"indefinite", true,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i)
           h[i] = i / size == i % size ? 1.f : 30.f * static_cast<float>((i / size * 7 + i % size * 7) % 5 - 2);
       }},
      {"negative diagonal", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i % 2 == 0 ? 1.f : -1.f;
       }},
      {"huge", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1e36f * static_cast<float>(i + 1);
       }},
      {"tiny", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1e-40f * static_cast<float>(i + 1);
       }},
      {"one huge outlier", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i == 3 ? 1e30f : 1e-6f;
       }},
      {"asymmetric", false,
       [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i)
           h[i] = i / size == i % size ? 5.f : i / size < i % size ? 0.05f : 0.f;
       }},
  };
  for (const Case& one : cases) {
    for (double damp : {0.0, 0.01}) {
      for (ActOrder kind : kOrders) {
        for (bool search : {false, true}) {
          std::unique_ptr<Hessian> h = std::move(Hessian::create(k).value());
          h->setRows(std::strcmp(one.name, "zero") == 0 ? 0 : 10);
          one.fill(h->mutableData(), k);
          GptqSpec spec = specOf(4, kind != ActOrder::kNone, 32, kind, 32);
          spec.grid.scaleType = tsq::Dtype::kF16;
          spec.damp = damp;
          spec.search.enabled = search;
          const Run done = run(w, n, k, *h, spec);
          const std::string what =
              std::string(one.name) + " order " + kOrderNames[static_cast<int>(kind)] + ": " + done.report.note;
          CHECK_MSG(done.status.ok(), what + done.status.message());
          CHECK_MSG(done.rounded.sane(spec.grid), what);
          CHECK_MSG(done.report.degraded == one.degraded, what);
          CHECK_MSG(done.report.degraded == false || !done.report.note.empty(), what);
          if (kind == ActOrder::kDynamic) {
            for (int32_t g : done.index) CHECK(g >= 0 && g < 3);
          }
          // Not degraded means as good as nearest on the weight itself where no column is dead.
          if (std::strcmp(one.name, "dead columns") == 0) {
            CHECK(done.report.deadColumns == k / 3);
            const std::vector<float> back = dequantized(done, n, k, spec);
            for (int64_t c = 0; c < k; c += 3) CHECK_MSG(back[static_cast<size_t>(c)] == 0.f, what);
          } else if (std::strcmp(one.name, "negative diagonal") != 0) {
            double norm = 0, error = 0;
            const std::vector<float> back = dequantized(done, n, k, spec);
            for (size_t i = 0; i < back.size(); ++i) {
              norm += static_cast<double>(w[i]) * static_cast<double>(w[i]);
              error += (static_cast<double>(w[i]) - static_cast<double>(back[i])) *
                       (static_cast<double>(w[i]) - static_cast<double>(back[i]));
            }
            CHECK_MSG(error < 0.3 * norm, what + " relative weight error " + std::to_string(error / norm));
          }
        }
      }
    }
  }
}

TEST(gptq_keeps_nearest_where_it_is_better) {
  // GPTQ is greedy: on a single short row with weak correlations luck decides, and nearest wins now and then.
  const int64_t n = 33, k = 64, rows = 40;
  const std::vector<float> w = gaussian(n * k, 61);
  int64_t kept = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const std::unique_ptr<Hessian> h = hessianOf(gaussian(rows * 8, seed), rows, 8);
    const std::vector<float> row = gaussian(8, 1000 + seed);
    const GptqSpec spec = specOf(3, true, 8, ActOrder::kStatic, 128);
    const Run done = run(row, 1, 8, *h, spec);
    CHECK(done.status.ok());
    Rounded nearest(1, 8, spec.grid);
    CHECK(tsq::roundNearest(row.data(), 1, 8, spec.grid, SearchSpec{}, nullptr, nearest.out(), AbortFlag()).ok());
    const double nearestError = referenceError(row, nearest.dequantize(1, 8, spec.grid), 1, 8, *h);
    const double own = referenceError(row, dequantized(done, 1, 8, spec), 1, 8, *h);
    CHECK(own <= nearestError * (1 + 1e-5) && std::abs(done.report.nearestError / nearestError - 1) < 1e-4);
    if (!done.report.keptNearest) continue;
    ++kept;
    CHECK(nearest == done.rounded);
    CHECK(done.report.error == done.report.nearestError);
  }
  CHECK_MSG(kept > 0 && kept < 30, std::to_string(kept) + " of 60 kept nearest");
  // With a diagonal Hessian there is nothing to spread: both are the same codes.
  std::unique_ptr<Hessian> diagonal = std::move(Hessian::create(k).value());
  diagonal->setRows(1);
  for (int64_t i = 0; i < k; ++i) diagonal->mutableData()[i * k + i] = static_cast<float>(1 + i % 7);
  const GptqSpec spec = specOf(4, false, 16, ActOrder::kGroupAware, 128);
  const Run done = run(w, n, k, *diagonal, spec);
  Rounded nearest(n, k, spec.grid);
  CHECK(tsq::roundNearest(w.data(), n, k, spec.grid, SearchSpec{}, nullptr, nearest.out(), AbortFlag()).ok());
  CHECK(nearest == done.rounded);
}

TEST(rounding_gives_the_same_bytes_for_any_number_of_threads) {
  const int64_t n = 280, k = 300, rows = 900;  // one thread takes two chunks of rows at a time
  tsq::ThreadPool& pool = tsq::ThreadPool::instance();
  const int before = pool.threads();
  const std::vector<float> x = activations(rows, k, 71), w = gaussian(n * k, 72);
  std::vector<float> firstHessian, firstClip;
  std::vector<Rounded> firstRounded;
  std::vector<double> firstErrors;
  for (int threads : {1, 2, 3}) {
    pool.setThreads(threads);
    const std::unique_ptr<Hessian> h = hessianOf(x, rows, k);
    const std::vector<float> hessian(h->data(), h->data() + k * k);
    std::vector<Rounded> rounded;
    std::vector<double> errors;
    for (ActOrder kind : kOrders) {
      GptqSpec spec = specOf(3, false, 64, kind, 48);
      spec.search.enabled = kind == ActOrder::kStatic;
      spec.search.steps = 20;
      const Run done = run(w, n, k, *h, spec);
      rounded.push_back(done.rounded);
      errors.push_back(done.report.error);
      errors.push_back(done.report.nearestError);
    }
    GridSpec tensor{4, false, k, true, tsq::Dtype::kF32, 0};
    rounded.emplace_back(n, k, tensor);
    CHECK(tsq::roundNearest(w.data(), n, k, tensor, {true, 30, 0.8, 2.4, nullptr}, nullptr, rounded.back().out(),
                            AbortFlag())
              .ok());
    std::vector<float> clip(static_cast<size_t>(n * 5));
    CHECK(tsq::searchClip(w.data(), n, k, *h, {4, true, 64, false, tsq::Dtype::kF32, 0}, 20, 0.5, clip.data(),
                          AbortFlag())
              .ok());
    if (threads == 1) {
      firstHessian = hessian;
      firstClip = clip;
      firstRounded = rounded;
      firstErrors = errors;
    }
    CHECK(hessian == firstHessian);
    CHECK(clip == firstClip);
    CHECK(errors == firstErrors);
    for (size_t i = 0; i < rounded.size(); ++i)
      CHECK_MSG(rounded[i] == firstRounded[i], std::to_string(threads) + " threads, case " + std::to_string(i));
  }
  pool.setThreads(before);
}

TEST(rounding_stops_on_abort) {
  const int64_t n = 40, k = 160, rows = 300;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 81), rows, k);
  const std::vector<float> w = gaussian(n * k, 82);
  const int32_t raised = 1;
  const GptqSpec spec = specOf(4, true, 32, ActOrder::kStatic, 128);
  CHECK(run(w, n, k, *h, spec, AbortFlag(&raised)).status.code() == tsq::Code::kAborted);
  Rounded out(n, k, spec.grid);
  CHECK(tsq::roundNearest(w.data(), n, k, spec.grid, SearchSpec{}, nullptr, out.out(), AbortFlag(&raised)).code() ==
        tsq::Code::kAborted);
  std::vector<float> clip(static_cast<size_t>(n * 5));
  CHECK(tsq::searchClip(w.data(), n, k, *h, spec.grid, 20, 0.5, clip.data(), AbortFlag(&raised)).code() ==
        tsq::Code::kAborted);
  GridSpec tensor{4, true, k, true, tsq::Dtype::kF32, 0};
  CHECK(tsq::roundNearest(w.data(), n, k, tensor, {true, 30, 0.8, 2, nullptr}, nullptr, out.out(), AbortFlag(&raised))
            .code() == tsq::Code::kAborted);
  CHECK(tsq::searchClip(w.data(), n, k, *h, tensor, 20, 0.5, clip.data(), AbortFlag(&raised)).code() ==
        tsq::Code::kAborted);
}

TEST(gptq_refuses_bad_arguments) {
  const int64_t n = 4, k = 32, rows = 64;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 91), rows, k);
  std::vector<float> w = gaussian(n * k, 92);
  const GptqSpec good = specOf(4, true, 8, ActOrder::kStatic, 128);
  Rounded out(n, k, good.grid);
  const auto codeOf = [&](const GptqSpec& spec, int64_t columns) {
    return tsq::gptq(w.data(), n, columns, *h, spec, out.out(), nullptr, AbortFlag()).status().code();
  };
  CHECK(codeOf(good, k) == tsq::Code::kOk);
  CHECK(codeOf(good, k - 8) == tsq::Code::kShape);
  GptqSpec spec = good;
  spec.block = 0;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.damp = -1;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.dampStep = 0;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.order = ActOrder::kDynamic;  // without an array for the group index
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.grid.symmetric = false;  // without an array of zeros
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  std::vector<float> clip(static_cast<size_t>(n * 4), 1.f);
  std::vector<int32_t> index(static_cast<size_t>(k));
  spec = good;
  spec.order = ActOrder::kDynamic;
  spec.clip = clip.data();
  CHECK(tsq::gptq(w.data(), n, k, *h, spec, out.out(), index.data(), AbortFlag()).status().code() ==
        tsq::Code::kUnsupported);
  w[40] = std::numeric_limits<float>::quiet_NaN();
  const tsq::Status status = tsq::gptq(w.data(), n, k, *h, good, out.out(), nullptr, AbortFlag()).status();
  CHECK(status.code() == tsq::Code::kNumeric);
  CHECK_MSG(status.message().find("weight[1, 8]") != std::string::npos, status.message());
}
