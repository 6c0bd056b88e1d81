// The C interface of the CUDA module, a library of its own that is opened at run time where a driver is present: it
// exports one function, which returns this table. Pointers of arguments are device memory unless said otherwise.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

constexpr uint32_t kTsqCudaVersion = 4;  // of everything below

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
  int64_t cacheBytes;  // of the second level
};

// A text of the caller for the reason of a failure.
struct TsqCudaText {
  char* text;
  size_t capacity;
};

struct TsqCudaShape {
  int64_t n, k, group;
  int32_t bits = 4;  // or 8; or 16: weights of the type of x, without scales, in one group
  int32_t book = 0;  // 1: codes of 4 bits are numbers of values in a code book, in groups that divide k
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

// A code book of 16 values (NF4, FP4) in 16 bits, from makeBook.
struct TsqCudaBook {
  uint32_t low[4], high[4];
  float scale;
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
  // What the faster kernels for many tokens need: zero points are integers that codes can be; scales in bf16 are 0, or
  // 2^-40 to 2^40 in magnitude.
  int32_t zerosAreIntegers, scalesAreModerate;
  TsqCudaBook book;  // of the type of x, where the shape has one
  // One kernel and one split along k for every m: a row of y has the same bits whatever the other rows are, and however
  // many, for the same `blocks`.
  int32_t batchInvariant;
};

// W8A8: weights and activations of 8 bits.
enum TsqCudaEight {
  kTsqCudaS8 = 0,    // sums in int32, exact
  kTsqCudaE4M3 = 1,  // compute capability 8.9 and later
};
enum TsqCudaFloat { kTsqCudaF32 = 0, kTsqCudaF16 = 1, kTsqCudaBF16 = 2 };

struct TsqCudaW8A8Shape {
  int64_t n, k;
  int32_t type;         // TsqCudaEight
  int32_t blockScales;  // e4m3: 1 where a weight has scales of blocks of 128 by 128, and tokens of 128 k each
};

struct TsqCudaW8A8Sizes {
  int64_t weightBytes, scaleBytes, sumBytes;  // of a packed weight
  // Of m quantized tokens; padding included.
  int64_t activationBytes, activationScaleBytes, zeroBytes;
  int64_t counterBytes, partialBytes;  // of the workspace for m tokens; the counters begin as zero
};

struct TsqCudaW8A8Pack {
  TsqCudaW8A8Shape shape;
  const void* codes;   // s8 or e4m3 [n][k]
  int32_t isUnsigned;  // s8: codes are uint8, of which 128 stands for 0
  int32_t scaleType;   // TsqCudaFloat
  const void* scales;  // [n]; with blockScales [ceil(n / 128)][ceil(k / 128)]
  int32_t oneScale;    // scales is a single one, for all
  void *weights, *packedScales;
  void* sums;  // of the codes of each output: for activations with zero points; or else may be null
};

struct TsqCudaW8A8Quantize {
  TsqCudaW8A8Shape shape;
  const void* x;         // f16 or bf16 [m], rows strideX elements apart
  const void* given;     // one float32 for all tokens; null: each has its own. Not with blockScales
  void *codes, *scales;  // activationBytes, activationScaleBytes
  void* zeros;           // s8: zeroBytes, for codes with a zero point; or else null. Not with a given scale
  int64_t strideX;
  int32_t m;
  int32_t isBF16;
};

struct TsqCudaW8A8 {
  TsqCudaW8A8Shape shape;
  const void *weights, *scales, *sums;           // packed; sums may be null where zeros is
  const void *codes, *activationScales, *zeros;  // quantized, for the same m; zeros may be null
  const void* bias;                              // [n] of the type of y, may be null
  void* y;                                       // f16 or bf16 [m], rows strideY apart
  void *counters, *partials;                     // of one stream at a time
  int64_t strideY;
  int32_t m;
  int32_t blocks;  // from w8a8BlocksFor
  int32_t isBF16;  // y and the bias
};

// y = x with column j times factors[j], rounded once.
struct TsqCudaColumns {
  const void* x;         // f16 or bf16 [m][k]
  const float* factors;  // [k]
  void* y;               // of x's type, [m][k]
  int64_t m, k;
  int32_t isBF16;
};

// Codes as 16-bit weights, both packed.
struct TsqCudaDecode {
  TsqCudaShape shape;                    // of the codes
  const void *weights, *scales, *zeros;  // zeros may be null
  void* decoded;                         // weightBytes of the shape in 16 bits
  int32_t isBF16, scalesAreBF16;
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
  // How many blocks share the work on a device with this many multiprocessors, at most. Results depend on it.
  int (*blocksFor)(const TsqCudaShape* shape, int multiprocessors);
  int (*sizes)(const TsqCudaShape* shape, int32_t m, int blocks, TsqCudaSizes* out, TsqCudaText reason);
  // These only enqueue on the stream.
  int (*packCodes)(const TsqCudaPack* pack, void* stream, TsqCudaText reason);
  int (*packScales)(const TsqCudaPack* pack, void* stream, TsqCudaText reason);
  int (*w4a16)(const TsqCudaW4A16* gemm, void* stream, TsqCudaText reason);
  // Of values in the host's memory: value = scale of the group times values[code]. In 16 bits they become what comes
  // closest to them but for one factor (cuda/w4a16/book.h).
  int (*makeBook)(const float* values, int32_t isBF16, TsqCudaBook* out, TsqCudaText reason);
  // As blocksFor and sizes. Of e4m3, results depend on the number of blocks.
  int (*w8a8BlocksFor)(const TsqCudaW8A8Shape* shape, int multiprocessors);
  int (*w8a8Sizes)(const TsqCudaW8A8Shape* shape, int32_t m, int blocks, TsqCudaW8A8Sizes* out, TsqCudaText reason);
  // These only enqueue on the stream.
  int (*w8a8Pack)(const TsqCudaW8A8Pack* pack, void* stream, TsqCudaText reason);
  // A token with an infinity or NaN gets the scale NaN, and so do all its outputs.
  int (*w8a8Quantize)(const TsqCudaW8A8Quantize* quantize, void* stream, TsqCudaText reason);
  int (*w8a8)(const TsqCudaW8A8* gemm, void* stream, TsqCudaText reason);
  int (*scaleColumns)(const TsqCudaColumns* columns, void* stream, TsqCudaText reason);
  // From here to endCapture what is enqueued on the stream is recorded. Of the functions above, those that enqueue
  // may be called for it, but not allocate, copy or wait.
  int (*beginCapture)(void* stream, TsqCudaText reason);
  // The graph of what was recorded; where graph is null, it is forgotten. In either case the capture is over.
  int (*endCapture)(void* stream, void** graph, TsqCudaText reason);
  int (*launchGraph)(void* graph, void* stream, TsqCudaText reason);
  // May still be on a stream, and is then done all the same.
  int (*closeGraph)(void* graph, TsqCudaText reason);
  // For benchmarks.
  int (*decodeCodes)(const TsqCudaDecode* decode, void* stream, TsqCudaText reason);
  int (*readAll)(const void* memory, int64_t bytes, void* sink, int multiprocessors, void* stream, TsqCudaText reason);
  int (*openEvent)(void** event, TsqCudaText reason);
  int (*closeEvent)(void* event, TsqCudaText reason);
  // Outside of captures.
  int (*record)(void* event, void* stream, TsqCudaText reason);
  // Time of the device between two events; waits for the second.
  int (*elapsed)(void* begin, void* end, double* microseconds, TsqCudaText reason);
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
