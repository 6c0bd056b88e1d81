#include "gguf/codec.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <concepts>
#include <limits>
#include <string>

#include "gguf/codes.h"
#include "gguf/encode.h"
#include "gguf/rows.h"
#include "kernels/kernels.h"

namespace tsq::gguf {
namespace {

// Elements of a task: some ten microseconds of decoding, some milliseconds of the slowest search.
constexpr int64_t kTaskElements = 16384;

// Largest number that a block with 16-bit scales is tried for: far more than any can hold, small enough for its square
// and sums of squares. What is too large for the type at hand shows in an infinite scale.
constexpr float kLargestBlockValue = 0x1p28f;

struct Codec {
  int64_t blockSize, blockBytes;
  float largest;
  void (*decode)(const uint8_t* blocks, int64_t k, float* y);
  // False where a number is not finite or not representable. Null: the type is only decoded.
  bool (*encode)(const float* x, const float* importance, int64_t k, uint8_t* blocks);
  const Grid* grid;  // null for floats
};

template <typename Block>
void decodeBlocks(const uint8_t* blocks, int64_t k, float* y) {
  for (int64_t i = 0; i < k; i += Block::kSize, blocks += sizeof(Block), y += Block::kSize)
    decodeBlock(*reinterpret_cast<const Block*>(blocks), y);
}

template <typename Block>
bool finiteScales(const Block& block) {
  bool finite = true;
  if constexpr (requires { block.d; }) finite = finite && std::isfinite(block.d.get());
  if constexpr (requires { block.m; }) finite = finite && std::isfinite(block.m.get());
  if constexpr (requires { block.dmin; }) finite = finite && std::isfinite(block.dmin.get());
  return finite;
}

// Whether all are at most `largest`; false for NaN.
bool within(const float* x, int64_t k, float largest) {
  bool all = true;
  for (int64_t i = 0; i < k; ++i) all &= std::fabs(x[i]) <= largest;
  return all;
}

template <typename Block>
constexpr float largestOf() {
  return requires(Block block) {
           { block.d } -> std::same_as<Half&>;
         } ? kLargestBlockValue : std::numeric_limits<float>::max();
}

template <typename Block>
bool encodeRow(const float* x, const float* importance, int64_t k, uint8_t* blocks) {
  if (!within(x, k, largestOf<Block>())) return false;
  float meanSquare = 0;
  if (importance != nullptr) {
    for (int64_t i = 0; i < k; ++i) meanSquare += x[i] * x[i];
    meanSquare /= static_cast<float>(k);
  }
  bool finite = true;
  for (int64_t i = 0; i < k; i += Block::kSize, blocks += sizeof(Block)) {
    auto& block = *reinterpret_cast<Block*>(blocks);
    encodeBlock(x + i, {importance == nullptr ? nullptr : importance + i, meanSquare}, block);
    finite = finite && finiteScales(block);
  }
  return finite;
}

template <Dtype kDtype>
void decodeFloats(const uint8_t* source, int64_t k, float* y) {
  if constexpr (kDtype == Dtype::kF32) {
    std::memcpy(y, source, static_cast<size_t>(k) * sizeof(float));
  } else {
    kernels().toFloat(source, kDtype, y, k);
  }
}

// The largest number that does not round to infinity.
template <Dtype kDtype>
constexpr float largestFloat() {
  return kDtype == Dtype::kF32   ? std::numeric_limits<float>::max()
         : kDtype == Dtype::kF16 ? 65519.996f
                                 : 0x1.fefffep127f;
}

template <Dtype kDtype>
bool encodeFloats(const float* x, const float*, int64_t k, uint8_t* out) {
  if (!within(x, k, largestFloat<kDtype>())) return false;
  if constexpr (kDtype == Dtype::kF32) {
    std::memcpy(out, x, static_cast<size_t>(k) * sizeof(float));
  } else {
    kernels().fromFloat(x, out, kDtype, k);
  }
  return true;
}

// Packed codes of three bits take 32 to a group, codes of four 8.
template <typename Block>
constexpr int kPackedBits = Codes<Block>::kBits == 3 ? 4 : Codes<Block>::kBits;

template <typename Block>
void gridRow(const uint8_t* blocks, int64_t k, uint8_t* codes, float* scales, float* offsets) {
  using Grid = Codes<Block>;
  constexpr int kGroups = Block::kSize / Grid::kGroup;
  constexpr int kRaise = Grid::kOffset ? 0 : (1 << (kPackedBits<Block> - 1)) - Grid::kZero;
  for (int64_t i = 0; i < k; i += Block::kSize, blocks += sizeof(Block), codes += Block::kSize) {
    const auto& block = *reinterpret_cast<const Block*>(blocks);
    Grid::codes(block, codes);
    for (int e = 0; kRaise != 0 && e < Block::kSize; ++e) codes[e] = static_cast<uint8_t>(codes[e] + kRaise);
    Grid::groups(block, scales, offsets);
    scales += kGroups;
    if (Grid::kOffset) offsets += kGroups;
  }
}

template <typename Block>
constexpr Grid kGrid{kPackedBits<Block>, Codes<Block>::kGroup, Codes<Block>::kOffset, gridRow<Block>, kBook<Block>};

template <typename Block>
constexpr Codec kCodec{Block::kSize,        sizeof(Block),    largestOf<Block>(),
                       decodeBlocks<Block>, encodeRow<Block>, &kGrid<Block>};

template <Dtype kDtype>
constexpr Codec kFloatCodec{
    1, kDtype == Dtype::kF32 ? 4 : 2, largestFloat<kDtype>(), decodeFloats<kDtype>, encodeFloats<kDtype>, nullptr};

const Codec* codecOf(Type type) {
  static constexpr Codec kQ8_1Codec{kSmall, sizeof(Q8_1), 0, decodeBlocks<Q8_1>, nullptr, &kGrid<Q8_1>};
  switch (type) {
    case Type::kF32:
      return &kFloatCodec<Dtype::kF32>;
    case Type::kF16:
      return &kFloatCodec<Dtype::kF16>;
    case Type::kBF16:
      return &kFloatCodec<Dtype::kBF16>;
    case Type::kQ4_0:
      return &kCodec<Q4_0>;
    case Type::kQ4_1:
      return &kCodec<Q4_1>;
    case Type::kQ5_0:
      return &kCodec<Q5_0>;
    case Type::kQ5_1:
      return &kCodec<Q5_1>;
    case Type::kQ8_0:
      return &kCodec<Q8_0>;
    case Type::kQ8_1:
      return &kQ8_1Codec;
    case Type::kQ2_K:
      return &kCodec<Q2_K>;
    case Type::kQ3_K:
      return &kCodec<Q3_K>;
    case Type::kQ4_K:
      return &kCodec<Q4_K>;
    case Type::kQ5_K:
      return &kCodec<Q5_K>;
    case Type::kQ6_K:
      return &kCodec<Q6_K>;
    case Type::kQ8_K:
      return &kCodec<Q8_K>;
    case Type::kIQ4_NL:
      return &kCodec<IQ4_NL>;
    case Type::kIQ4_XS:
      return &kCodec<IQ4_XS>;
    case Type::kTQ1_0:
      return &kCodec<TQ1_0>;
    case Type::kTQ2_0:
      return &kCodec<TQ2_0>;
    case Type::kMXFP4:
      return &kCodec<MXFP4>;
  }
  return nullptr;
}

std::string typeText(Type type) {
  return "GGUF type " + std::to_string(static_cast<int>(type));
}

// Why a row was refused.
Status badRow(const Matrix& matrix, const float* x, int64_t row, float largest) {
  const std::string place = "row " + std::to_string(row);
  for (int64_t i = 0; i < matrix.k; ++i) {
    if (std::fabs(x[i]) <= largest) continue;
    const bool finite = std::isfinite(x[i]);
    const std::string found = std::isnan(x[i]) ? "NaN" : finite ? std::to_string(x[i]) : "infinite";
    return Status(Code::kNumeric, place + ", column " + std::to_string(i) + " is " + found +
                                      (finite ? ", too large for the type" : ", expected a finite number"));
  }
  return Status(Code::kNumeric, place + " holds numbers too large for the 16-bit scale of a block");
}

}  // namespace

Result<int64_t> rowBytes(Type type, int64_t k) {
  const Codec* codec = codecOf(type);
  if (codec == nullptr) return Status(Code::kUnsupported, typeText(type) + " has no codec here");
  if (k % codec->blockSize != 0)
    return Status(Code::kShape, "rows have " + std::to_string(k) + " elements, " + typeText(type) +
                                    " needs a multiple of " + std::to_string(codec->blockSize));
  return k / codec->blockSize * codec->blockBytes;
}

const Grid* gridOf(Type type) {
  return codecOf(type)->grid;
}

void decodeRow(const Matrix& matrix, const uint8_t* blocks, float* out) {
  codecOf(matrix.type)->decode(blocks, matrix.k, out);
}

Status decode(const Matrix& matrix, const uint8_t* blocks, float* out) {
  Result<int64_t> stride = rowBytes(matrix.type, matrix.k);
  if (!stride.ok()) return stride.status();
  const Codec* codec = codecOf(matrix.type);
  eachRow(matrix, kTaskElements,
          [&](int64_t row) { codec->decode(blocks + row * stride.value(), matrix.k, out + row * matrix.k); });
  return {};
}

Status encode(const Matrix& matrix, const float* x, const float* importance, uint8_t* blocks, AbortFlag abort) {
  Result<int64_t> stride = rowBytes(matrix.type, matrix.k);
  if (!stride.ok()) return stride.status();
  const Codec* codec = codecOf(matrix.type);
  if (codec->encode == nullptr)
    return Status(Code::kUnsupported, typeText(matrix.type) + " is only decoded: it is a type of activations");
  if (importance != nullptr && !within(importance, matrix.k, std::numeric_limits<float>::max()))
    return Status(Code::kNumeric, "the importance of a column is not a finite number");
  std::atomic<int64_t> firstBad{matrix.rows};
  eachRow(matrix, kTaskElements, [&](int64_t row) {
    if (abort.raised()) return;
    if (codec->encode(x + row * matrix.k, importance, matrix.k, blocks + row * stride.value())) return;
    int64_t known = firstBad.load(std::memory_order_relaxed);
    while (row < known && !firstBad.compare_exchange_weak(known, row, std::memory_order_relaxed)) continue;
  });
  if (abort.raised()) return Status(Code::kAborted, "aborted");
  const int64_t row = firstBad.load();
  return row == matrix.rows ? Status() : badRow(matrix, x + row * matrix.k, row, codec->largest);
}

}  // namespace tsq::gguf
