#include "program/observers.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "kernels/kernels.h"
#include "program/message.h"
#include "program/parallel.h"
#include "program/random.h"

namespace tsq {

namespace {

constexpr int64_t kColumns = 256;  // of a task
constexpr int64_t kRows = 64;      // summed in f32 before they are added to the double accumulator
constexpr int64_t kMaxCapacity = int64_t{1} << 30;

// Calls fn(begin, end) for blocks of columns; no block is shared by two tasks, so every column is summed in the order
// of rows.
template <typename F>
void forColumns(int64_t width, int64_t rows, F&& fn) {
  const int64_t block = rows * width <= kTaskElements ? width : kColumns;
  parallelBlocks(width, block, AbortFlag(), fn);
}

void addSquares(double* values, const float* x, int64_t width, int64_t rows) {
  forColumns(width, rows, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; column += kColumns) {
      const int64_t columns = std::min(kColumns, end - column);
      for (int64_t row = 0; row < rows; row += kRows) {
        float sums[kColumns] = {};
        kernels().columnStats(x + row * width + column, width, std::min(kRows, rows - row), columns, sums, nullptr);
        for (int64_t i = 0; i < columns; ++i) values[column + i] += sums[i];
      }
    }
  });
}

void raisePeaks(double* values, const float* x, int64_t width, int64_t rows) {
  forColumns(width, rows, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; column += kColumns) {
      const int64_t columns = std::min(kColumns, end - column);
      float peaks[kColumns] = {};
      kernels().columnStats(x + column, width, rows, columns, nullptr, peaks);
      for (int64_t i = 0; i < columns; ++i) values[column + i] = std::max<double>(values[column + i], peaks[i]);
    }
  });
}

void countNonZero(double* values, const float* x, int64_t width, int64_t rows) {
  forColumns(width, rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = begin; column < end; ++column) values[column] += x[row * width + column] != 0 ? 1 : 0;
    }
  });
}

void addProducts(double* values, const float* x, const float* reference, int64_t width, int64_t rows) {
  forColumns(width, rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = row * width + begin; i < row * width + end; ++i)
        values[i - row * width] += static_cast<double>(x[i]) * static_cast<double>(reference[i]);
    }
  });
}

void updateMean(double* values, double seen, const float* x, int64_t width, int64_t rows) {
  forColumns(width, rows, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      values[column] *= seen;
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = begin; column < end; ++column) values[column] += x[row * width + column];
    }
    for (int64_t column = begin; column < end; ++column) values[column] /= seen + static_cast<double>(rows);
  });
}

void addSquaredError(double* values, const float* x, const float* reference, int64_t count) {
  const int64_t blocks = layout::divideUp(count, kTaskElements);
  std::vector<double> partial(static_cast<size_t>(2 * blocks));
  parallelBlocks(blocks, 1, AbortFlag(), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      double error = 0, total = 0;
      for (int64_t i = block * kTaskElements; i < std::min(count, (block + 1) * kTaskElements); ++i) {
        const double expected = reference[i], difference = x[i] - expected;
        error += difference * difference;
        total += expected * expected;
      }
      partial[static_cast<size_t>(2 * block)] = error;
      partial[static_cast<size_t>(2 * block + 1)] = total;
    }
  });
  for (size_t i = 0; i < partial.size(); ++i) values[i % 2] += partial[i];
}

// Every row seen so far is kept with the same probability (Vitter, "Random sampling with a reservoir", 1985, algorithm
// R).
void sampleRows(Accumulator* a, const float* x, int64_t rows) {
  const uint64_t seen = static_cast<uint64_t>(a->rows), capacity = static_cast<uint64_t>(a->capacity);
  for (int64_t row = 0; row < rows; ++row) {
    const uint64_t index = seen + static_cast<uint64_t>(row);
    const uint64_t place = index < capacity ? index : randomBits(a->seed, index) % (index + 1);
    if (place >= capacity) continue;
    std::copy(x + row * a->width, x + (row + 1) * a->width,
              a->samples.begin() + static_cast<int64_t>(place) * a->width);
  }
}

int64_t valueCount(const Accumulator& a) {
  switch (a.kind) {
    case Reduction::kSumSquares:
    case Reduction::kAbsMax:
    case Reduction::kMean:
    case Reduction::kNonZero:
    case Reduction::kProducts:
      return a.width;
    case Reduction::kSquaredError:
      return 2;
    default:
      return 0;
  }
}

// The parts that the kind needs, zero-filled by the first call.
Status makeRoom(Accumulator* a) {
  constexpr int64_t kMaxFloats = int64_t{1} << 38;  // 1 TiB: refused without asking the system, which may promise it
  const int64_t samples = a->kind == Reduction::kReservoir ? a->capacity * a->width : 0;
  const Status noMemory(Code::kMemory,
                        text("no memory for an accumulator of width ", a->width, " and capacity ", a->capacity));
  if (samples > kMaxFloats) return noMemory;
  try {
    a->values.resize(static_cast<size_t>(valueCount(*a)));
    a->samples.resize(static_cast<size_t>(samples));
  } catch (const std::bad_alloc&) {
    return noMemory;
  }
  return Status();
}

}  // namespace

Status checkAccumulator(const Accumulator& a) {
  if (a.width < 1 || a.width > kMaxCapacity) {
    return Status(Code::kShape, text("the accumulator is ", a.width, " wide, expected 1 to ", kMaxCapacity));
  }
  if (a.kind == Reduction::kHessian && a.hessian != nullptr && a.hessian->k() != a.width) {
    return Status(Code::kShape, text("the Hessian is of ", a.hessian->k(), " columns, expected ", a.width));
  }
  if (a.kind == Reduction::kCross) {
    if (a.capacity < 0 || a.capacity > kMaxCapacity) {
      return Status(Code::kOption, text("the reference rows are ", a.capacity, " wide, expected 1 to ", kMaxCapacity,
                                        ", or 0 for those of the accumulator"));
    }
    if (a.cross != nullptr && (a.cross->k() != a.width || a.cross->width() != referenceWidth(a))) {
      return Status(Code::kShape, text("the cross Gram matrix is [", a.cross->width(), ", ", a.cross->k(),
                                       "], expected [", referenceWidth(a), ", ", a.width, "]"));
    }
  }
  const int64_t values = static_cast<int64_t>(a.values.size());
  if (values != 0 && values != valueCount(a)) {
    return Status(Code::kShape, text("the accumulator holds ", values, " values, expected ", valueCount(a)));
  }
  if (a.kind != Reduction::kReservoir) return Status();
  if (a.capacity < 1 || a.capacity > kMaxCapacity) {
    return Status(Code::kOption, text("the reservoir's capacity is ", a.capacity, ", expected 1 to ", kMaxCapacity));
  }
  const int64_t samples = static_cast<int64_t>(a.samples.size());
  if (samples == 0 || samples == a.capacity * a.width) return Status();
  return Status(Code::kShape, text("the reservoir holds ", samples, " floats, expected ", a.capacity * a.width));
}

Status accumulate(Accumulator* a, const float* x, int64_t rows, const float* reference, const float* compared) {
  if (needsReference(a->kind) && reference == nullptr) {
    return Status(Code::kOption,
                  "the squared error, products and the cross Gram matrix need reference values to compare with");
  }
  TSQ_RETURN_IF_ERROR(makeRoom(a));
  switch (a->kind) {
    case Reduction::kHessian:
      if (a->hessian == nullptr) {
        Result<std::unique_ptr<Hessian>> hessian = Hessian::create(a->width);
        if (!hessian.ok()) return hessian.status();
        a->hessian = std::move(hessian.value());
      }
      TSQ_RETURN_IF_ERROR(a->hessian->accumulate(x, a->width, rows));
      break;
    case Reduction::kCross:
      if (a->cross == nullptr) {
        Result<std::unique_ptr<CrossGram>> cross = CrossGram::create(referenceWidth(*a), a->width);
        if (!cross.ok()) return cross.status();
        a->cross = std::move(cross.value());
      }
      TSQ_RETURN_IF_ERROR(a->cross->accumulate(reference, a->capacity > 0 ? compared : x, x, rows));
      break;
    case Reduction::kSumSquares:
      addSquares(a->values.data(), x, a->width, rows);
      break;
    case Reduction::kAbsMax:
      raisePeaks(a->values.data(), x, a->width, rows);
      break;
    case Reduction::kMean:
      updateMean(a->values.data(), a->rows, x, a->width, rows);
      break;
    case Reduction::kSquaredError:
      addSquaredError(a->values.data(), x, reference, rows * a->width);
      break;
    case Reduction::kReservoir:
      sampleRows(a, x, rows);
      break;
    case Reduction::kNonZero:
      countNonZero(a->values.data(), x, a->width, rows);
      break;
    case Reduction::kProducts:
      addProducts(a->values.data(), x, reference, a->width, rows);
      break;
    case Reduction::kCopy:
      return Status(Code::kOption, "a copy needs no accumulator");
  }
  a->rows += static_cast<double>(rows);
  return Status();
}

}  // namespace tsq
