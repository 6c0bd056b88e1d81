#include "program/rope_tables.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "program/parallel.h"

namespace tsq {

namespace {

constexpr size_t kMaxTables = 8;  // models use one or two; the least recently used makes room

void fill(const Vector& frequencies, double factor, int64_t position, float* row) {
  const size_t count = frequencies.size();
  for (size_t i = 0; i < count; ++i) {
    const double angle = static_cast<double>(position) * static_cast<double>(frequencies[i]);
    row[i] = static_cast<float>(std::cos(angle) * factor);
    row[count + i] = static_cast<float>(std::sin(angle) * factor);
  }
}

}  // namespace

void RopeTables::beginStep() {
  for (Table& table : tables_) table.filled = false;
}

RopeTables::Table& RopeTables::find(const Vector& frequencies, double factor) {
  const size_t bytes = frequencies.size() * sizeof(float);
  for (Table& table : tables_) {
    if (table.factor == factor && table.frequencies.size() == frequencies.size() &&
        std::memcmp(table.frequencies.data(), frequencies.data(), bytes) == 0) {
      return table;
    }
  }
  if (tables_.size() == kMaxTables) {
    tables_.erase(std::min_element(tables_.begin(), tables_.end(),
                                   [](const Table& a, const Table& b) { return a.lastUse < b.lastUse; }));
  }
  tables_.push_back({frequencies, factor, {}});
  return tables_.back();
}

Result<const float*> RopeTables::lookup(const Vector& frequencies, double factor, const std::vector<int64_t>& positions,
                                        AbortFlag abort) {
  Table& table = find(frequencies, factor);
  table.lastUse = ++uses_;
  const int64_t stride = static_cast<int64_t>(frequencies.size()) * 2;
  if (!table.filled) {
    const int64_t count = static_cast<int64_t>(positions.size());
    const size_t needed = positions.size() * static_cast<size_t>(stride) * sizeof(float);
    if (table.memory.size() < needed) {
      Result<AlignedBuffer> memory = AlignedBuffer::allocate(std::bit_ceil(needed));
      if (!memory.ok()) return memory.status();
      table.memory = std::move(memory.value());
    }
    float* rows = table.memory.as<float>();
    parallelBlocks(count, unitsPerTask(stride * 16), abort, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        fill(table.frequencies, factor, positions[static_cast<size_t>(i)], rows + i * stride);
    });
    if (abort.raised()) return Status(Code::kAborted, "the step was aborted");
    table.filled = true;
  }
  return table.memory.as<const float>();
}

}  // namespace tsq
