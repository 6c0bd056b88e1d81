#include "bench/cuda/report.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

namespace bench {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

double flops(const Cell& cell) {
  return 2.0 * static_cast<double>(cell.m) * static_cast<double>(cell.n) * static_cast<double>(cell.k);
}

}  // namespace

Report::Report(std::string path, const Ceilings& ceilings) : path_(std::move(path)), ceilings_(ceilings) {
  const Ceilings& c = ceilings_;
  std::printf("%s, compute capability %d.%d, %d multiprocessors, L2 %.0f MiB\n", c.device.c_str(), c.major, c.minor,
              c.multiprocessors, static_cast<double>(c.cacheBytes) / 0x1p20);
  std::printf("reads %.2f TB/s; an empty launch takes %.2f µs in a graph\n", c.bytesPerSecond / 1e12,
              c.emptyMicroseconds);
  std::printf("cuBLAS: %s", c.blas.c_str());
  if (c.flopsF16 > 0)
    std::printf("; 8192³ at %.0f TFLOP/s in f16, %.0f in bf16", c.flopsF16 / 1e12, c.flopsBF16 / 1e12);
  std::printf("\n\n%7s %7s %6s  %-10s %-4s %10s %10s %10s %8s %9s %6s %9s %11s\n", "k", "n", "m", "backend", "type",
              "median µs", "least", "most", "GB/s", "TFLOP/s", "roof", "x cuBLAS", "difference");
}

double Report::roof(const Cell& cell) const {
  const double peak = cell.type == "bf16" ? ceilings_.flopsBF16 : ceilings_.flopsF16;
  const double memory = static_cast<double>(cell.bytes) / ceilings_.bytesPerSecond;
  if (peak > 0) return 1e6 * std::max(memory, flops(cell) / (peak * cell.rate));
  // Tensor cores of every device that the kernels run on do more than so many operations while a byte arrives.
  constexpr double kSurely = 64;
  return flops(cell) < kSurely * static_cast<double>(cell.bytes) ? 1e6 * memory : 0;
}

const Cell* Report::peer(const Cell& cell, const char* backend) const {
  for (const Cell& other : cells_) {
    if (other.backend == backend && other.type == cell.type && other.m == cell.m && other.n == cell.n &&
        other.k == cell.k) {
      return &other;
    }
  }
  return nullptr;
}

void Report::add(const Cell& cell) {
  cells_.push_back(cell);
  const Cell* blas = peer(cell, "cublas");
  const double us = cell.timing.median, roofTime = roof(cell);
  std::printf("%7lld %7lld %6lld  %-10s %-4s %10.2f %10.2f %10.2f %8.0f %9.1f", static_cast<long long>(cell.k),
              static_cast<long long>(cell.n), static_cast<long long>(cell.m), cell.backend.c_str(), cell.type.c_str(),
              us, cell.timing.least, cell.timing.most, static_cast<double>(cell.bytes) / us / 1e3,
              flops(cell) / us / 1e6);
  const auto column = [](bool known, int width, const char* format, double value) {
    char text[32] = "-";
    if (known) std::snprintf(text, sizeof(text), format, value);
    std::printf(" %*s", width, text);
  };
  column(roofTime > 0, 6, "%.0f%%", 100 * roofTime / us);
  column(blas != nullptr, 9, "%.2f", blas != nullptr ? blas->timing.median / us : 0);
  column(cell.difference >= 0, 11, "%.1e", cell.difference);
  std::printf("\n");
  std::fflush(stdout);
}

void Report::skip(std::string what) {
  std::printf("not measured: %s\n", what.c_str());
  skipped_.push_back(std::move(what));
}

void Report::write() const {
  std::FILE* file = std::fopen(path_.c_str(), "w");
  if (file == nullptr) throw std::runtime_error("cannot write " + path_);
  const Ceilings& c = ceilings_;
  std::fprintf(file,
               "{\n  \"device\": {\"name\": %s, \"computeCapability\": \"%d.%d\", \"multiprocessors\": %d, "
               "\"cacheBytes\": %lld},\n  \"bytesPerSecond\": %.6g, \"emptyMicroseconds\": %.4g,\n"
               "  \"cublas\": {\"library\": %s, \"flopsF16\": %.6g, \"flopsBF16\": %.6g},\n  \"cells\": [",
               quoted(c.device).c_str(), c.major, c.minor, c.multiprocessors, static_cast<long long>(c.cacheBytes),
               c.bytesPerSecond, c.emptyMicroseconds, quoted(c.blas).c_str(), c.flopsF16, c.flopsBF16);
  const char* separator = "\n    ";
  for (const Cell& cell : cells_) {
    std::fprintf(file,
                 "%s{\"backend\": %s, \"type\": %s, \"k\": %lld, \"n\": %lld, \"m\": %lld, \"group\": %lld, "
                 "\"microseconds\": %.5g, \"least\": %.5g, \"most\": %.5g, \"samples\": %d, \"launches\": %d, "
                 "\"copies\": %d, \"bytes\": %lld, \"roofMicroseconds\": %.5g",
                 separator, quoted(cell.backend).c_str(), quoted(cell.type).c_str(), static_cast<long long>(cell.k),
                 static_cast<long long>(cell.n), static_cast<long long>(cell.m), static_cast<long long>(cell.group),
                 cell.timing.median, cell.timing.least, cell.timing.most, cell.timing.samples, cell.timing.launches,
                 cell.copies, static_cast<long long>(cell.bytes), roof(cell));
    if (cell.difference >= 0) std::fprintf(file, ", \"difference\": %.4g", cell.difference);
    std::fprintf(file, "}");
    separator = ",\n    ";
  }
  std::fprintf(file, "\n  ],\n  \"notMeasured\": [");
  separator = "\n    ";
  for (const std::string& what : skipped_) {
    std::fprintf(file, "%s%s", separator, quoted(what).c_str());
    separator = ",\n    ";
  }
  std::fprintf(file, "\n  ]\n}\n");
  if (std::fclose(file) != 0) throw std::runtime_error("cannot write " + path_);
}

}  // namespace bench
