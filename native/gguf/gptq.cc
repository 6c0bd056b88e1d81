#include "gguf/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "gguf/codes.h"
#include "gguf/encode.h"
#include "gguf/iq4.h"
#include "gguf/search.h"
#include "gguf/store_codes.h"
#include "rounding/gptq_machine.h"
#include "rounding/gptq_sweep.h"
#include "rounding/objective.h"

namespace tsq::gguf {
namespace {

using namespace rounding;  // NOLINT: the pieces of GPTQ

// What every chunk of 32 rows reads, and where its blocks go.
struct Job {
  const Matrix& matrix;
  const float* w;
  const GptqSpec& spec;
  const VisitOrder& visit;
  const PackedUpper<float>& u;
  int64_t longest;
  int64_t rowBytes;
  uint8_t* blocks;
};

// Codes less their zero point, as a number: the nearest that the type has.
template <typename Block>
TSQ_INLINE float nearestStep(float x) {
  if constexpr (std::is_same_v<Block, IQ4_NL> || std::is_same_v<Block, IQ4_XS>) {
    return iq4Value(x);
  } else {
    constexpr auto kLow = static_cast<float>(-Codes<Block>::kZero);
    constexpr auto kHigh = static_cast<float>((1 << Codes<Block>::kBits) - 1 - Codes<Block>::kZero);
    // A number that is none becomes a limit, too.
    const float inside = x > kLow ? x < kHigh ? x : kHigh : kLow;
    return (inside + 12582912.f) - 12582912.f;
  }
}

// A group of every row of a chunk: value = scale * step + offset.
struct alignas(64) GroupLanes {
  float scale[kLanes], inverse[kLanes], offset[kLanes];
};

// A worker's memory.
struct Scratch {
  float* weights;      // [padded k][32], by visit position
  float* errors;       // two panels [longest][16]
  GroupLanes* groups;  // [k / group], in the order of columns
  uint8_t* codes;      // [k][32], by column
  static uint64_t bytes(int64_t k, int64_t group, int64_t longest) {
    return static_cast<uint64_t>(roundUpToPanel(k) * kLanes + sweepErrors(longest)) * sizeof(float) +
           static_cast<uint64_t>(k / group) * sizeof(GroupLanes) + static_cast<uint64_t>(k) * kLanes;
  }
  Scratch(void* memory, int64_t k, int64_t group, int64_t longest) {
    weights = static_cast<float*>(memory);
    errors = weights + roundUpToPanel(k) * kLanes;
    groups = reinterpret_cast<GroupLanes*>(errors + sweepErrors(longest));
    codes = reinterpret_cast<uint8_t*>(groups + k / group);
  }
};

template <typename Block>
class Chunk {
 public:
  Chunk(const Job& job, int64_t chunk, const Scratch& scratch)
      : job_(job), scratch_(scratch), first_(chunk * kLanes), rows_(rowsOfChunk(job.matrix.rows, chunk)) {}

  void run(AbortFlag abort) {
    load();
    if (job_.visit.groups.empty()) {
      for (int64_t b = 0; b < job_.matrix.k / Block::kSize; ++b) fitGiven(b);
    }
    const auto fit = [&](size_t, const VisitOrder::Group& group) { fitVisited(group); };
    const auto round = [&](size_t, int64_t j, const float* weights, float inversePivot, float* error, int64_t stride) {
      roundColumn(job_.visit.columns[static_cast<size_t>(j)], weights, inversePivot, error, stride);
    };
    const std::vector<SweepChunk> alone{{scratch_.weights, scratch_.errors}};
    if (sweepColumns(job_.visit, job_.u, job_.longest, alone, abort, fit, round)) store();
  }

 private:
  using Grid = Codes<Block>;
  static constexpr int kGroups = Block::kSize / Grid::kGroup;

  Block& block(int64_t lane, int64_t index) const {
    return reinterpret_cast<Block*>(job_.blocks + (first_ + lane) * job_.rowBytes)[index];
  }

  void load() const {
    const int64_t k = job_.matrix.k;
    std::memset(scratch_.weights, 0, static_cast<size_t>(roundUpToPanel(k)) * kLanes * sizeof(float));
    for (int64_t lane = 0; lane < rows_; ++lane) {
      const float* row = job_.w + (first_ + lane) * k;
      for (int64_t j = 0; j < k; ++j)
        scratch_.weights[j * kLanes + lane] = row[job_.visit.columns[static_cast<size_t>(j)]];
    }
    // Lanes beyond the rows: zeros on a grid of zeros.
    std::memset(scratch_.groups, 0, static_cast<size_t>(k / Grid::kGroup) * sizeof(GroupLanes));
  }

  void fitGiven(int64_t index) const {
    for (int64_t lane = 0; lane < rows_; ++lane)
      fitBlock(lane, index, job_.w + (first_ + lane) * job_.matrix.k + index * Block::kSize);
  }

  void fitVisited(const VisitOrder::Group& group) const {
    float x[Block::kSize];
    for (int64_t lane = 0; lane < rows_; ++lane) {
      for (int64_t i = 0; i < Block::kSize; ++i) {
        const int64_t j = group.begin + i;
        x[job_.visit.columns[static_cast<size_t>(j)] % Block::kSize] = scratch_.weights[j * kLanes + lane];
      }
      fitBlock(lane, group.id, x);
    }
  }

  void fitBlock(int64_t lane, int64_t index, const float* x) const {
    const float* columns = job_.spec.importance == nullptr ? nullptr : job_.spec.importance + index * Block::kSize;
    Block& made = block(lane, index);
    encodeBlock(x, {columns, columns == nullptr ? 0.f : meanSquare(lane)}, made);
    float scales[kGroups], offsets[kGroups] = {};
    Grid::groups(made, scales, offsets);
    for (int g = 0; g < kGroups; ++g) {
      GroupLanes& lanes = scratch_.groups[index * kGroups + g];
      lanes.scale[lane] = scales[g];
      const float inverse = 1 / scales[g];
      lanes.inverse[lane] = std::isfinite(inverse) ? inverse : 0.f;
      lanes.offset[lane] = offsets[g];
    }
  }

  float meanSquare(int64_t lane) const {
    const float* row = job_.w + (first_ + lane) * job_.matrix.k;
    float sum = 0;
    for (int64_t i = 0; i < job_.matrix.k; ++i) sum += row[i] * row[i];
    return sum / static_cast<float>(job_.matrix.k);
  }

  void roundColumn(int64_t column, const float* weights, float inversePivot, float* error, int64_t stride) const {
    const GroupLanes& group = scratch_.groups[column / Grid::kGroup];
    uint8_t* codes = scratch_.codes + column * kLanes;
    for (int panel = 0; panel < kLanes / kPanel; ++panel) {
      for (int i = 0; i < kPanel; ++i) {
        const int lane = panel * static_cast<int>(kPanel) + i;
        const float step = nearestStep<Block>((weights[lane] - group.offset[lane]) * group.inverse[lane]);
        codes[lane] = static_cast<uint8_t>(static_cast<int32_t>(step) + Grid::kZero);
        error[panel * stride + i] = (group.scale[lane] * step + group.offset[lane] - weights[lane]) * inversePivot;
      }
    }
  }

  void store() const {
    uint8_t codes[Block::kSize];
    for (int64_t lane = 0; lane < rows_; ++lane) {
      for (int64_t b = 0; b < job_.matrix.k / Block::kSize; ++b) {
        for (int64_t e = 0; e < Block::kSize; ++e) codes[e] = scratch_.codes[(b * Block::kSize + e) * kLanes + lane];
        storeCodes(codes, block(lane, b));
      }
    }
  }

  const Job& job_;
  const Scratch& scratch_;
  int64_t first_, rows_;
};

// A type's part.
struct Rounder {
  int64_t blockSize, group;
  void (*chunk)(const Job& job, int64_t chunk, const Scratch& scratch, AbortFlag abort);
};

template <typename Block>
constexpr Rounder kRounder{Block::kSize, Codes<Block>::kGroup,
                           [](const Job& job, int64_t chunk, const Scratch& scratch, AbortFlag abort) {
                             Chunk<Block>(job, chunk, scratch).run(abort);
                           }};

const Rounder* rounderOf(Type type) {
  switch (type) {
    case Type::kQ4_0:
      return &kRounder<Q4_0>;
    case Type::kQ4_1:
      return &kRounder<Q4_1>;
    case Type::kQ5_0:
      return &kRounder<Q5_0>;
    case Type::kQ5_1:
      return &kRounder<Q5_1>;
    case Type::kQ8_0:
      return &kRounder<Q8_0>;
    case Type::kQ2_K:
      return &kRounder<Q2_K>;
    case Type::kQ3_K:
      return &kRounder<Q3_K>;
    case Type::kQ4_K:
      return &kRounder<Q4_K>;
    case Type::kQ5_K:
      return &kRounder<Q5_K>;
    case Type::kQ6_K:
      return &kRounder<Q6_K>;
    case Type::kIQ4_NL:
      return &kRounder<IQ4_NL>;
    case Type::kIQ4_XS:
      return &kRounder<IQ4_XS>;
    default:
      return nullptr;
  }
}

// sum of d^T H d over rows, d = w less what blocks[i] say, for each of two.
Status objectives(const Matrix& matrix, const float* w, const Hessian& hessian, const uint8_t* const (&blocks)[2],
                  int64_t stride, double (&totals)[2], AbortFlag abort) {
  Result<PackedUpper<float>> packed = packQuadratic(hessian.data(), matrix.k, 0, matrix.k, true);
  if (!packed.ok()) return packed.status();
  const auto fill = [&](int64_t chunk, int variant, float* d, int64_t panelStride) {
    std::vector<float> row(static_cast<size_t>(matrix.k));
    for (int64_t lane = 0; lane < rowsOfChunk(matrix.rows, chunk); ++lane) {
      const int64_t index = chunk * kLanes + lane;
      decodeRow(matrix, blocks[variant] + index * stride, row.data());
      const float* from = w + index * matrix.k;
      float* to = d + lane / kPanel * panelStride + lane % kPanel;
      for (int64_t c = 0; c < matrix.k; ++c) to[c * kPanel] = from[c] - row[static_cast<size_t>(c)];
    }
  };
  return sumQuadraticForms(packed.value(), matrix.rows, 2, fill, totals, abort);
}

Status checkArguments(const Matrix& matrix, const Hessian& hessian, const GptqSpec& spec) {
  if (rounderOf(matrix.type) == nullptr)
    return Status(Code::kUnsupported,
                  "GGUF type " + std::to_string(static_cast<int>(matrix.type)) + " has no grid that GPTQ can round on");
  if (hessian.k() != matrix.k)
    return Status(Code::kShape, "the Hessian is of " + std::to_string(hessian.k()) +
                                    " input features, the weight has k = " + std::to_string(matrix.k));
  if (spec.order == ActOrder::kDynamic)
    return Status(Code::kUnsupported, "blocks hold neighbouring columns, which dynamic order does not keep together");
  return {};
}

}  // namespace

Result<GptqReport> gptqEncode(const Matrix& matrix, const float* w, const Hessian& hessian, const GptqSpec& spec,
                              uint8_t* blocks, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkArguments(matrix, hessian, spec));
  Result<int64_t> stride = rowBytes(matrix.type, matrix.k);
  if (!stride.ok()) return stride.status();
  TSQ_RETURN_IF_ERROR(encode(matrix, w, spec.importance, blocks, abort));
  GptqReport report;
  report.error = report.nearestError = std::numeric_limits<double>::quiet_NaN();
  const auto give = [&](const char* why) {
    report.degraded = report.keptNearest = true;
    report.note += why;
    return report;
  };
  if (!isFinite(hessian)) return give("the Hessian holds NaN or infinite values: no calibration used");
  std::vector<double> diagonal(static_cast<size_t>(matrix.k));
  for (int64_t c = 0; c < matrix.k; ++c) {
    diagonal[static_cast<size_t>(c)] = static_cast<double>(hessian.data()[c * matrix.k + c]);
    report.deadColumns += diagonal[static_cast<size_t>(c)] > 0 ? 0 : 1;
  }
  if (report.deadColumns == matrix.k) return give("every input was 0 in calibration: no calibration used");
  const Rounder* rounder = rounderOf(matrix.type);
  GridSpec grid;
  grid.groupSize = rounder->blockSize;
  const VisitOrder visit = makeVisitOrder(spec.order, diagonal, grid, std::min<int64_t>(spec.block, matrix.k));
  const Result<InverseFactor> factor = factorInverse(hessian, diagonal, visit.columns, spec.damp, spec.dampStep, abort);
  if (!factor.ok()) return factor.status();
  report.damp = factor.value().damp;
  report.degraded = factor.value().degraded;
  report.note = factor.value().note;
  if (!factor.value().usable) return give(": no errors were spread");

  const uint64_t bytes = static_cast<uint64_t>(matrix.rows * stride.value());
  Result<AlignedBuffer> made = AlignedBuffer::allocate(bytes);
  if (!made.ok()) return made.status();
  const int64_t longest = longestBlockOf(visit);
  const Job job{matrix, w, spec, visit, factor.value().u, longest, stride.value(), made.value().as<uint8_t>()};
  WorkerScratch scratch(Scratch::bytes(matrix.k, rounder->group, longest));
  ThreadPool::instance().run(chunksOf(matrix.rows), [&](int64_t chunk, int worker) {
    if (abort.raised() || scratch.failed()) return;
    void* memory = scratch.get(worker);
    if (memory != nullptr) rounder->chunk(job, chunk, Scratch(memory, matrix.k, rounder->group, longest), abort);
  });
  TSQ_RETURN_IF_ERROR(scratch.status("gptq"));
  if (abort.raised()) return Status(Code::kAborted, "gptq: aborted");
  double totals[2] = {};
  TSQ_RETURN_IF_ERROR(
      objectives(matrix, w, hessian, {made.value().as<uint8_t>(), blocks}, stride.value(), totals, abort));
  const double rows = hessian.rows() > 0 ? hessian.rows() : 1;
  report.nearestError = totals[1] / rows;
  // Not so for NaN, which scales beyond 16 bits lead to.
  if (totals[0] < totals[1]) {
    std::memcpy(blocks, made.value().data(), bytes);
    report.error = totals[0] / rows;
  } else {
    report.keptNearest = true;
    report.error = report.nearestError;
  }
  return report;
}

}  // namespace tsq::gguf
