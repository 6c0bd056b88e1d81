#include "program/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "program/parallel.h"

namespace tsq {

namespace {

constexpr int64_t kBlock = 64;    // positions computed together
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
  tables_.push_back({frequencies, factor, {}, 0});
  return tables_.back();
}

Status RopeTables::lookup(const Vector& frequencies, double factor, const std::vector<int64_t>& positions,
                          AbortFlag abort, std::vector<const float*>* rows) {
  Table& table = find(frequencies, factor);
  table.lastUse = ++uses_;
  const int64_t stride = static_cast<int64_t>(frequencies.size()) * 2;
  missing_.clear();
  rows->clear();
  int64_t current = -1;
  const float* data = nullptr;
  for (const int64_t position : positions) {
    if (position / kBlock != current) {
      current = position / kBlock;
      Block& block = table.blocks[current];
      if (block.memory.size() == 0) {
        Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(kBlock * stride) * sizeof(float));
        if (!memory.ok()) return memory.status();
        block.memory = std::move(memory.value());
      }
      if (!block.filled) missing_.emplace_back(current, &block);
      data = block.memory.as<float>();
    }
    rows->push_back(data + position % kBlock * stride);
  }
  // Several sequences may be at the same positions: a block is filled once.
  std::sort(missing_.begin(), missing_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  missing_.erase(std::unique(missing_.begin(), missing_.end()), missing_.end());
  const int64_t count = static_cast<int64_t>(missing_.size()) * kBlock;
  parallelBlocks(count, unitsPerTask(stride * 16), abort, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [block, target] = missing_[static_cast<size_t>(i / kBlock)];
      fill(table.frequencies, factor, block * kBlock + i % kBlock, target->memory.as<float>() + i % kBlock * stride);
    }
  });
  if (abort.raised()) return Status(Code::kAborted, "the step was aborted");
  for (const auto& missing : missing_) missing.second->filled = true;
  return Status();
}

}  // namespace tsq
