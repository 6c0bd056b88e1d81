// How packed weights lie in a file, so that a model packed once starts without packing again.
//
//   header    64 bytes
//   table     one entry of 120 bytes a weight
//   meta      UTF-8 text that means nothing here
//   floats    f32, at the next multiple of 4096, as all that follows
//   weights   data, scales, zero points, order, input scale, code book, offsets, sums of rows of the first weight, then
//             those of the second …
//
// Little-endian. Where a section lies follows from the sizes of those before it, and those from the shapes: there is no
// offset or length that could be wrong. The file ends with the last byte of the last section.
//
// Checksums are those of runtime/checksum.h: of the first 56 bytes of the header, of table and meta together, and of
// sections. A section is cut into blocks of 2 MiB, and the checksum of the sequence of their checksums (eight bytes
// each) is that of the section, so that several threads can compute it. An empty section has none: 0.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/packed_weight.h"
#include "runtime/status.h"

namespace tsq::packfile {

constexpr char kMagic[8] = {'T', 'S', 'Q', 'C', 'A', 'C', 'H', 'E'};
constexpr uint32_t kFormatVersion = 3;  // of what this header describes; layout::kVersion is that of the weights
constexpr uint64_t kAlign = 4096;
constexpr uint64_t kBlock = uint64_t{2} << 20;  // a huge page: no two threads write to the same one
constexpr uint32_t kMaxWeights = 1u << 20;
constexpr uint32_t kMaxMeta = 64u << 20;

struct Header {
  char magic[8];
  uint32_t format, layout;
  uint64_t fileBytes;
  uint32_t weights, metaBytes;
  uint64_t floats;  // elements
  uint64_t floatsChecksum, tableChecksum;
  uint64_t checksum;  // of all that precedes it
};
static_assert(sizeof(Header) == 64);

enum Part : int { kData, kScales, kZeros, kOrder, kInputScale, kBook, kOffsets, kRowSums, kParts };

struct Entry {
  uint8_t kind, bits, scaleType;
  uint8_t optional;   // bit 0: zero points, 1: order, 2: input scale, 3: offsets, 4: sums of rows
  uint32_t reserved;  // 0
  int64_t n, k, groupSize;
  // ActivationScheme.
  uint8_t activationType, activationGrain, symmetric, dynamic;
  int32_t activationZero;
  float activationScale, threshold;
  int64_t activationGroup;
  uint64_t checksums[kParts];
};
static_assert(sizeof(Entry) == 120);

struct Sizes {
  uint64_t bytes[kParts];
};

inline uint64_t tableBytes(const Header& header) {
  return uint64_t{header.weights} * sizeof(Entry) + header.metaBytes;
}
// The next section that may begin at or after `position`.
constexpr uint64_t aligned(uint64_t position) {
  return (position + kAlign - 1) / kAlign * kAlign;
}

// Versions, checksum and the limits of every number of a header. kFormat: made by another version; kCorrupt: damaged.
Status checkHeader(const Header& header);

// The sizes of an entry's sections; kCorrupt where no weight has such an entry.
Result<Sizes> sectionSizes(const Entry& entry);

// The entry of a weight, without checksums; kUnsupported where a file cannot hold the weight as it is.
Result<Entry> describe(const PackedWeight& weight);

// Where a section's bytes are in memory.
const void* section(const PackedWeight& weight, Part part);

// Memory that a weight takes of a block that several share.
uint64_t blockBytes(const Sizes& sizes);
// A weight of this entry whose contents are still to be read, in `block` from `offset` on.
PackedWeight place(const Entry& entry, const Sizes& sizes, const std::shared_ptr<const AlignedBuffer>& block,
                   uint64_t offset);

// What the kernels rely on, once it was read: the order names every column once, and a code book has the numbers of its
// kind.
Status checkContents(const PackedWeight& weight);

}  // namespace tsq::packfile
