// The C interface of the CUDA module, a library of its own that is opened at run time where a driver is present: it
// exports one function, which returns this table. Pointers of arguments are device memory unless said otherwise.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

constexpr uint32_t kTsqCudaVersion = 3;  // of everything below

enum TsqCudaOutcome {
  kTsqCudaOk = 0,
  kTsqCudaArgument = 1,  // refused before anything was done
  kTsqCudaDevice = 2,    // the device or its driver says no
  kTsqCudaMemory = 3,    // not enough memory of the device; nothing was done
};

struct TsqCudaDevice {
  char name[256];
  int major, minor;
  int multiprocessors;
  int64_t memoryBytes;
};

// A text of the caller for the reason of a failure.
struct TsqCudaText {
  char* text;
  size_t capacity;
};

struct TsqCudaShape {
  int64_t n, k, group;
  int32_t bits = 4;  // or 8; or 16: weights of the type of x, without scales, in one group
};

struct TsqCudaPack {
  TsqCudaShape shape;
  const void*
      source;  // codes: uint8 [n][k], weights of 16 bits likewise; scales or zero points: 16 bits [n][ceil(k / group)]
  const int32_t* order;  // codes: column of x for each k; may be null
  void* packed;
};

struct TsqCudaSizes {
  int64_t weightBytes, scaleBytes;     // of packed weights; zero points take scaleBytes too
  int64_t counterBytes, partialBytes;  // of the workspace for m tokens; the counters begin as zero
};

// W4A16, W8A16, and weights as they are, by the bits of the shape.
struct TsqCudaW4A16 {
  TsqCudaShape shape;
  const void *weights, *scales, *zeros;  // packed; zeros may be null: 8, or 128 of 8 bits
  const void* x;                         // f16 or bf16 [m], rows strideX elements apart
  const int32_t* order;                  // may be null
  const void* bias;                      // [n], may be null
  void* y;                               // [m], rows strideY elements apart
  void *counters, *partials;             // of one stream at a time
  int64_t strideX, strideY;
  int32_t m;
  int32_t blocks;  // from blocksFor
  int32_t isBF16, scalesAreBF16;
  int32_t zerosAreIntegers;  // of 0 to 15, for 4 bits: the faster kernels for many tokens hold no others exactly
};

// --- calibration: weights [n][k] and Hessians [k][k] of f32, in rows without gaps ---

// Of rounding::LaneGrid (native/rounding/grid_math.h), field by field.
struct TsqCudaGrid {
  float maxCode, symmetricZero, minZero, minScale, subnormalBelow, maxScale;
  uint32_t dropBits;
  int32_t symmetric;
};

struct TsqCudaHessian {
  const void* x;  // [rows], stride elements apart
  int64_t rows, stride, k;
  float* h;      // x^T x is added to its tiles on and above the diagonal
  int32_t type;  // 0: f32, 1: f16, 2: bf16
};

struct TsqCudaCalibrationSizes {
  int64_t factorBytes, factorSteps;  // workspace of the factor, and the steps that it takes
  int64_t mostColumns, errorBytes;   // of a block of GPTQ, and its workspace
  int64_t partialBytes;              // workspace of an objective
};

// Steps [begin, end) on the way to U, the factor of the inverse of the damped Hessian in visit order.
struct TsqCudaFactor {
  int64_t k, begin, end;
  const float* h;          // symmetric
  const int32_t* columns;  // [k] visit position -> column
  void* workspace;         // factorBytes, of all steps
  float* u;                // [k][k]
  int32_t* failed;         // two: the first row without a pivot or -1; elements of U's diagonal that are no numbers
  double unit, damp;       // 1 / mean of the diagonal; what is added to it in these units
};

// Scales of `count` groups of neighbouring columns of w, the first at column `begin`, with number `id`.
struct TsqCudaScales {
  TsqCudaGrid grid;
  const float* w;
  const uint8_t* dead;      // [k] or null: columns that count as 0
  const float* importance;  // [k] or null
  const float* clip;        // [n][groups] or null
  float* scales;            // [n][groups], groups = ceil(k / group)
  uint8_t* zeros;           // likewise, or null
  int64_t n, k, group, begin, end, id, count;
  double maxShrink, norm;
  int32_t steps;  // 0: from the range
};

// Codes on scales.
struct TsqCudaCodes {
  TsqCudaGrid grid;
  const float* scales;        // [n][groups]
  const uint8_t* zeros;       // or null
  const int32_t* groupIndex;  // [k] or null: groups of neighbours
  int64_t n, k, group;
};

struct TsqCudaGptq {
  TsqCudaCodes on;         // groupIndex: by visit position
  const float* source;     // columns as they are
  const uint8_t* dead;     // [k] by column
  const int32_t* columns;  // [k] visit position -> column
  const float* u;
  float *w, *errors;   // by visit position, like the source; errorBytes
  uint8_t* codes;      // columns as they are
  int64_t begin, end;  // a block of at most mostColumns visit positions
};

// sum = tr(D H D^T), D = w less approx, or, where that is null, less what codes stand for.
struct TsqCudaObjective {
  TsqCudaCodes on;
  const float *w, *approx;
  const uint8_t* codes;
  const float* scale;  // [k]; in place of approx and codes: nearest codes on w diag(scale), times diag(1 / scale)
  float* d;            // [k][n], workspace
  const float* h;      // symmetric
  double *partials, *sum;
};

struct TsqCuda {
  uint32_t version;
  // The number of devices. Where it is 0, the reason says why.
  int (*devices)(TsqCudaText reason);
  int (*device)(int index, TsqCudaDevice* out, TsqCudaText reason);
  // Once for each device, before its first launch and outside captures; it becomes the current one.
  int (*prepare)(int index, TsqCudaText reason);
  // The current device of the calling thread. Every function below works on that one.
  int (*use)(int index, TsqCudaText reason);
  int (*openStream)(void** stream, TsqCudaText reason);
  // Once the work on it is done; does not wait for that.
  int (*closeStream)(void* stream, TsqCudaText reason);
  // In the stream's order: memory is there for what is enqueued later, and goes once all that was enqueued before is
  // done.
  int (*allocate)(int64_t bytes, void* stream, void** out, TsqCudaText reason);
  int (*release)(void* memory, void* stream, TsqCudaText reason);
  // Writes zeros.
  int (*clear)(void* memory, int64_t bytes, void* stream, TsqCudaText reason);
  // Between the device and the host, either way. The host's memory must stay until a wait.
  int (*copy)(void* to, const void* from, int64_t bytes, void* stream, TsqCudaText reason);
  // Until all that was enqueued is done; tells of what failed meanwhile. Blocks the calling thread.
  int (*wait)(void* stream, TsqCudaText reason);
  // How many blocks share a slab of tokens on a device with this many multiprocessors. Results depend on it.
  int (*blocksFor)(const TsqCudaShape* shape, int multiprocessors);
  int (*sizes)(const TsqCudaShape* shape, int32_t m, int blocks, TsqCudaSizes* out, TsqCudaText reason);
  // These only enqueue on the stream.
  int (*packCodes)(const TsqCudaPack* pack, void* stream, TsqCudaText reason);
  int (*packScales)(const TsqCudaPack* pack, void* stream, TsqCudaText reason);
  int (*w4a16)(const TsqCudaW4A16* gemm, void* stream, TsqCudaText reason);
  int (*calibrationSizes)(int64_t n, int64_t k, TsqCudaCalibrationSizes* out, TsqCudaText reason);
  // Calibration, enqueued likewise.
  int (*addToHessian)(const TsqCudaHessian* hessian, void* stream, TsqCudaText reason);
  // Below the diagonal what lies above it.
  int (*mirrorHessian)(float* h, int64_t k, void* stream, TsqCudaText reason);
  int (*factorInverse)(const TsqCudaFactor* factor, void* stream, TsqCudaText reason);
  int (*fitScales)(const TsqCudaScales* scales, void* stream, TsqCudaText reason);
  // Nearest codes of w; dead may be null.
  int (*encodeNearest)(const TsqCudaCodes* on, const float* w, const uint8_t* dead, uint8_t* codes, void* stream,
                       TsqCudaText reason);
  // Writes w of a weight that is about to be rounded; then its blocks, in order.
  int (*gptqGather)(const TsqCudaGptq* gptq, void* stream, TsqCudaText reason);
  int (*gptqBlock)(const TsqCudaGptq* gptq, void* stream, TsqCudaText reason);
  int (*objective)(const TsqCudaObjective* objective, void* stream, TsqCudaText reason);
};

typedef const TsqCuda* (*TsqCudaEntry)();  // exported as "tsqCuda"
}
