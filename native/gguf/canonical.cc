#include "gguf/canonical.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "gguf/codes.h"
#include "gguf/put.h"
#include "gguf/rows.h"

namespace tsq::gguf {
namespace {

constexpr int64_t kTaskElements = 1 << 16;

template <typename Block>
constexpr bool kBook = std::is_same_v<Block, IQ4_NL> || std::is_same_v<Block, IQ4_XS> || std::is_same_v<Block, MXFP4>;

template <typename Block>
bool readBlock(const Block& block, uint8_t* codes, float* scales, float* offsets) {
  Codes<Block>::groups(block, scales, offsets);
  if constexpr (kBook<Block>) {
    for (int i = 0; i < Block::kSize; i += kSmall)
      for (int j = 0; j < 16; ++j) {
        const uint8_t byte = block.qs[i / 2 + j];
        codes[i + j] = byte & 15;
        codes[i + j + 16] = byte >> 4;
      }
  } else {
    Codes<Block>::codes(block, codes);
  }
  // The table there has E2M1's values doubled.
  if constexpr (std::is_same_v<Block, MXFP4>) {
    if (block.e == 255) return false;
    *scales *= 2;
  }
  return true;
}

// What the codes of a canonical tensor become in a block, at columns `column` …; false where one does not fit.
template <typename Block>
bool takeCodes(const CanonicalCodes& source, int64_t row, int64_t k, int64_t column, uint8_t* out) {
  using Grid = Codes<Block>;
  const int64_t groups = (k + source.groupSize - 1) / source.groupSize;
  const uint8_t* codes = source.codes + row * k + column;
  if (kBook<Block> || Grid::kOffset) {
    constexpr int kTop = kBook<Block> ? 16 : 1 << Grid::kBits;
    bool fits = true;
    for (int i = 0; i < Block::kSize; ++i) fits &= (out[i] = codes[i]) < kTop;
    return fits;
  }
  // Three values.
  constexpr int kLow = std::is_same_v<Block, TQ2_0> ? 1 : 0;
  bool fits = true;
  for (int i = 0; i < Block::kSize; i += Grid::kGroup) {
    const int64_t group = row * groups + (column + i) / source.groupSize;
    const int shift = Grid::kZero - (source.zeros == nullptr ? 1 << (source.bits - 1) : source.zeros[group]);
    for (int j = i; j < i + Grid::kGroup; ++j) {
      const int code = codes[j] + shift;
      fits &= code >= kLow && code < 1 << Grid::kBits;
      out[j] = static_cast<uint8_t>(code);
    }
  }
  return fits;
}

template <typename Block>
bool takeGroups(const CanonicalCodes& source, int64_t row, int64_t k, int64_t column, Block& block) {
  using Grid = Codes<Block>;
  constexpr int kGroups = Block::kSize / Grid::kGroup;
  const int64_t groups = (k + source.groupSize - 1) / source.groupSize;
  float scales[kGroups], offsets[kGroups];
  for (int i = 0; i < kGroups; ++i) {
    const int64_t group = row * groups + (column + i * Grid::kGroup) / source.groupSize;
    scales[i] = source.scales[group];
    // Exact: at most 24 bits of a product of 16-bit scales, and putHalf looks at the result. Scales of more bits do not
    // pass.
    offsets[i] = source.offsets != nullptr ? source.offsets[group]
                 : source.zeros != nullptr ? -(scales[i] * static_cast<float>(source.zeros[group]))
                                           : -(scales[i] * static_cast<float>(1 << (source.bits - 1)));
  }
  return putGroups(scales, offsets, block);
}

enum class Fault : int { kNone, kCode, kScale };

struct Converter {
  int64_t blockSize, blockBytes, group;
  bool hasOffsets;
  bool (*read)(const uint8_t* blocks, int64_t k, uint8_t* codes, float* scales, float* offsets);
  // The column of the first block that does not fit, and why; -1.
  int64_t (*write)(const CanonicalCodes& source, int64_t row, int64_t k, uint8_t* blocks, Fault& fault);
};

template <typename Block>
bool readRow(const uint8_t* blocks, int64_t k, uint8_t* codes, float* scales, float* offsets) {
  constexpr int kGroups = Block::kSize / Codes<Block>::kGroup;
  for (int64_t i = 0; i < k; i += Block::kSize, blocks += sizeof(Block)) {
    if (!readBlock(*reinterpret_cast<const Block*>(blocks), codes + i, scales, offsets)) return false;
    scales += kGroups;
    if (offsets != nullptr) offsets += kGroups;
  }
  return true;
}

template <typename Block>
int64_t writeRow(const CanonicalCodes& source, int64_t row, int64_t k, uint8_t* blocks, Fault& fault) {
  uint8_t codes[Block::kSize];
  for (int64_t i = 0; i < k; i += Block::kSize) {
    Block block{};
    if (!takeGroups(source, row, k, i, block)) {
      fault = Fault::kScale;
      return i;
    }
    if (!takeCodes<Block>(source, row, k, i, codes)) {
      fault = Fault::kCode;
      return i;
    }
    if (blocks == nullptr) continue;
    put(codes, block);
    std::memcpy(blocks, &block, sizeof block);
    blocks += sizeof block;
  }
  return -1;
}

template <typename Block>
constexpr Converter kReader{Block::kSize,          sizeof(Block),  Codes<Block>::kGroup,
                            Codes<Block>::kOffset, readRow<Block>, nullptr};
template <typename Block>
constexpr Converter kBoth{Block::kSize,          sizeof(Block),  Codes<Block>::kGroup,
                          Codes<Block>::kOffset, readRow<Block>, writeRow<Block>};

const Converter* converterOf(Type type) {
  switch (type) {
    case Type::kQ4_0:
      return &kBoth<Q4_0>;
    case Type::kQ4_1:
      return &kBoth<Q4_1>;
    case Type::kQ5_0:
      return &kBoth<Q5_0>;
    case Type::kQ5_1:
      return &kBoth<Q5_1>;
    case Type::kQ8_0:
      return &kBoth<Q8_0>;
    case Type::kQ2_K:
      return &kBoth<Q2_K>;
    case Type::kQ3_K:
      return &kBoth<Q3_K>;
    case Type::kQ4_K:
      return &kBoth<Q4_K>;
    case Type::kQ5_K:
      return &kBoth<Q5_K>;
    case Type::kQ6_K:
      return &kBoth<Q6_K>;
    case Type::kIQ4_NL:
      return &kBoth<IQ4_NL>;
    case Type::kIQ4_XS:
      return &kBoth<IQ4_XS>;
    case Type::kMXFP4:
      return &kBoth<MXFP4>;
    case Type::kTQ2_0:
      return &kBoth<TQ2_0>;
    // TQ2_0 holds the same; the Q8 types are activations'.
    case Type::kTQ1_0:
      return &kReader<TQ1_0>;
    case Type::kQ8_1:
      return &kReader<Q8_1>;
    case Type::kQ8_K:
      return &kReader<Q8_K>;
    default:
      return nullptr;
  }
}

Status noConverter(Type type, const char* what) {
  return Status(Code::kUnsupported,
                "GGUF type " + std::to_string(static_cast<int>(type)) + " is not " + what + " codes");
}

// The least row noted, and its note.
class First {
 public:
  explicit First(int64_t rows) : row_(rows) {}
  void note(int64_t row) {
    int64_t known = row_.load(std::memory_order_relaxed);
    while (row < known && !row_.compare_exchange_weak(known, row, std::memory_order_relaxed)) continue;
  }
  bool before(int64_t row) const { return row_.load(std::memory_order_relaxed) < row; }
  int64_t row() const { return row_.load(); }

 private:
  std::atomic<int64_t> row_;
};

}  // namespace

BlockGrid blockGridOf(Type type) {
  const Converter* converter = converterOf(type);
  return converter == nullptr ? BlockGrid{} : BlockGrid{converter->group, converter->hasOffsets};
}

Status checkOrder(const std::vector<int32_t>& from, int64_t n) {
  if (!from.empty() && static_cast<int64_t>(from.size()) != n)
    return Status(Code::kShape,
                  "the order names " + std::to_string(from.size()) + " rows, expected " + std::to_string(n));
  for (const int32_t row : from) {
    if (row < 0 || row >= n)
      return Status(Code::kFormat,
                    "the order names row " + std::to_string(row) + ", expected 0 … " + std::to_string(n - 1));
  }
  return {};
}

Status readCodes(const Matrix& matrix, const uint8_t* blocks, const std::vector<int32_t>& from, const BlockCodes& out) {
  const Converter* converter = converterOf(matrix.type);
  if (converter == nullptr) return noConverter(matrix.type, "read as");
  TSQ_RETURN_IF_ERROR(checkOrder(from, matrix.rows));
  const int64_t stride = matrix.k / converter->blockSize * converter->blockBytes;
  const int64_t groups = matrix.k / converter->group;
  First bad(matrix.rows);
  eachRow(matrix, kTaskElements, [&](int64_t row) {
    const int64_t source = from.empty() ? row : from[static_cast<size_t>(row)];
    float* offsets = out.offsets == nullptr ? nullptr : out.offsets + row * groups;
    if (!converter->read(blocks + source * stride, matrix.k, out.codes + row * matrix.k, out.scales + row * groups,
                         offsets))
      bad.note(source);
  });
  if (bad.row() == matrix.rows) return {};
  return Status(Code::kNumeric,
                "row " + std::to_string(bad.row()) + " has a block whose exponent is 255, which stands for no number");
}

Status writeCodes(const Matrix& matrix, const CanonicalCodes& source, const std::vector<int32_t>& from,
                  uint8_t* blocks) {
  const Converter* converter = converterOf(matrix.type);
  if (converter == nullptr || converter->write == nullptr) return noConverter(matrix.type, "written from");
  TSQ_RETURN_IF_ERROR(checkOrder(from, matrix.rows));
  if (matrix.k % converter->blockSize != 0)
    return Status(Code::kUnsupported, "rows of " + std::to_string(matrix.k) + " are no whole blocks of " +
                                          std::to_string(converter->blockSize));
  if (source.offsets != nullptr && !converter->hasOffsets)
    return Status(Code::kUnsupported, "its blocks add no float to a group");
  if (source.groupSize < matrix.k && source.groupSize % converter->group != 0)
    return Status(Code::kUnsupported, "groups of " + std::to_string(source.groupSize) +
                                          " columns are no multiple of its " + std::to_string(converter->group));
  const int64_t stride = matrix.k / converter->blockSize * converter->blockBytes;
  First bad(matrix.rows);
  eachRow(matrix, kTaskElements, [&](int64_t row) {
    if (bad.before(row)) return;
    const int64_t from_ = from.empty() ? row : from[static_cast<size_t>(row)];
    Fault fault = Fault::kNone;
    if (converter->write(source, from_, matrix.k, blocks == nullptr ? nullptr : blocks + row * stride, fault) >= 0)
      bad.note(row);
  });
  if (bad.row() == matrix.rows) return {};
  const int64_t row = from.empty() ? bad.row() : from[static_cast<size_t>(bad.row())];
  Fault fault = Fault::kNone;
  const int64_t column = converter->write(source, row, matrix.k, nullptr, fault);
  const std::string place = " from row " + std::to_string(row) + ", column " + std::to_string(column) + " on";
  if (fault == Fault::kCode) return Status(Code::kUnsupported, "codes" + place + " are outside its range");
  return Status(Code::kUnsupported,
                std::string(matrix.type == Type::kMXFP4 ? "scales that are no powers of two"
                            : converter->blockSize == kSmall
                                ? "scales or offsets that are no 16-bit floats"
                                : "scales or offsets that are no whole multiples of a 16-bit float") +
                    place);
}

}  // namespace tsq::gguf
