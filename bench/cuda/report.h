// What a sweep found: a line for each cell as it is measured, and all of it as JSON.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "bench/cuda/timing.h"

namespace bench {

// What the device gave in this run.
struct Ceilings {
  std::string device;
  int major = 0, minor = 0, multiprocessors = 0;
  int64_t cacheBytes = 0;
  double bytesPerSecond = 0;           // reading, the median
  double flopsF16 = 0, flopsBF16 = 0;  // cuBLAS at 8192³; 0 without it
  double emptyMicroseconds = 0;        // a launch of nothing, within a graph
  std::string blas;                    // version and path of cuBLAS, or why there is none
};

struct Cell {
  std::string backend, type;
  int64_t n, k, group, m;
  int64_t bytes;  // of weight, x and y, read or written once
  int copies;
  Timing timing;
  double difference;  // ||y - reference|| / ||reference|| of the first rows; negative where there is no reference
  double rate = 1;    // of tensor cores for these operands, in units of that for 16 bits
};

class Report {
 public:
  Report(std::string path, const Ceilings& ceilings);
  void add(const Cell& cell);   // prints a line
  void skip(std::string what);  // prints a line; told in the JSON too
  void write() const;           // the JSON, as far as it is known

 private:
  double roof(const Cell& cell) const;  // microseconds; 0 where the peak is unknown and matters
  const Cell* peer(const Cell& cell, const char* backend) const;
  std::string path_;
  Ceilings ceilings_;
  std::vector<Cell> cells_;
  std::vector<std::string> skipped_;
};

}  // namespace bench
