#include "kernels/pack_file.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>

#include "runtime/checksum.h"
#include "support.h"

namespace {

namespace fs = std::filesystem;
using support::Random;
using support::WeightOptions;
using tsq::AbortFlag;
using tsq::Code;
using tsq::PackedWeight;
using tsq::PackFile;
using tsq::Result;
using tsq::Status;
using tsq::layout::WeightKind;
using tsq::packfile::Entry;
using tsq::packfile::Header;

using Bytes = std::vector<uint8_t>;

class TemporaryFile {
 public:
  TemporaryFile() {
    std::random_device random;
    path_ = fs::temp_directory_path() / ("tsq-pack-" + std::to_string(random()) + std::to_string(random()));
  }
  ~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  std::string path() const { return path_.string(); }
  Bytes read() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  void write(const Bytes& content) const {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  }
  void remove() const { fs::remove(path_); }

 private:
  fs::path path_;
};

PackedWeight codes(Random& random, int64_t n, int64_t k, int64_t groupSize, const WeightOptions& options) {
  Result<PackedWeight> packed = tsq::packCodes(support::randomWeight(random, n, k, groupSize, options).source());
  CHECK_MSG(packed.ok(), packed.status().message());
  return std::move(packed.value());
}

// Codes of a code book, all below 8.
PackedWeight bookCodes(Random& random, int64_t n, int64_t k, int64_t groupSize, const std::vector<float>& book) {
  int bits = 3;
  while ((size_t{1} << bits) < book.size()) ++bits;
  support::Weight w = support::randomWeight(random, n, k, groupSize, {bits});
  for (uint8_t& code : w.codes) code &= 7;
  w.book = book;
  Result<PackedWeight> packed = tsq::packCodes(w.source());
  CHECK_MSG(packed.ok(), packed.status().message());
  return std::move(packed.value());
}

PackedWeight dense(Random& random, int64_t n, int64_t k, WeightKind kind) {
  const std::vector<float> values = random.normals(n * k);
  Result<PackedWeight> packed = tsq::packDense(values.data(), tsq::Dtype::kF32, n, k, kind);
  CHECK_MSG(packed.ok(), packed.status().message());
  return std::move(packed.value());
}

// One of every kind, small: files of some kilobytes.
std::vector<PackedWeight> smallWeights() {
  Random random(7);
  std::vector<PackedWeight> all;
  for (const WeightKind kind : {WeightKind::kF32, WeightKind::kF16, WeightKind::kBF16})
    all.push_back(dense(random, 5, 9, kind));
  for (int bits = 2; bits <= 8; ++bits) all.push_back(codes(random, 3, 20, 8, {bits}));
  all.push_back(codes(random, 17, 33, 16, {4, true, true, true}));
  all.push_back(codes(random, 1, 1, 1, {8, true, false, true}));
  all.push_back(codes(random, 17, 33, 16, {.bits = 4, .order = true, .offsets = true}));
  all.push_back(bookCodes(random, 17, 33, 16, random.normals(16)));
  all.push_back(bookCodes(random, 3, 20, 20, random.normals(8)));
  all.push_back(bookCodes(random, 7, 40, 16, {0, 0.5, 1, 1.5, -2, -3, -4, -6}));
  all.push_back(bookCodes(random, 3, 20, 8, random.normals(32)));
  for (auto* value : {tsq::e4m3ToFloat, tsq::e5m2ToFloat}) {
    std::vector<float> book(256);
    for (size_t i = 0; i < book.size(); ++i) book[i] = value(static_cast<uint8_t>(i));
    all.push_back(bookCodes(random, 5, 19, 16, book));
  }
  return all;
}

std::vector<const PackedWeight*> pointers(const std::vector<PackedWeight>& weights) {
  std::vector<const PackedWeight*> all;
  for (const PackedWeight& weight : weights) all.push_back(&weight);
  return all;
}

bool sameBytes(const tsq::AlignedBuffer& a, const tsq::AlignedBuffer& b) {
  return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

bool same(const PackedWeight& a, const PackedWeight& b) {
  return a.shape.kind == b.shape.kind && a.shape.n == b.shape.n && a.shape.k == b.shape.k &&
         a.shape.groupSize == b.shape.groupSize && a.bits == b.bits && a.zero == b.zero && a.scaleType == b.scaleType &&
         sameBytes(a.data, b.data) && sameBytes(a.scales, b.scales) && sameBytes(a.zeros, b.zeros) &&
         a.order == b.order && a.inputScale == b.inputScale && a.book == b.book &&
         (a.offsets == nullptr) == (b.offsets == nullptr) && (!a.offsets || same(*a.offsets, *b.offsets));
}

const std::string kMeta = "{\"weights\":[\"a\"]}";
const std::vector<float> kFloats = {1.5f, -2.0f, 3.25f};

Status write(const TemporaryFile& file, const std::vector<PackedWeight>& weights) {
  return tsq::writePackFile(file.path().c_str(), kMeta, kFloats, pointers(weights), AbortFlag());
}

// Reads everything; empty where it is refused, with the reason.
struct Contents {
  bool ok = false;
  Status reason;
  std::string meta;
  std::vector<float> floats;
  std::vector<PackedWeight> weights;
};

Contents readAll(const TemporaryFile& file) {
  Contents contents;
  const Result<PackFile> opened = PackFile::open(file.path().c_str());
  contents.reason = opened.status();
  if (!opened.ok()) return contents;
  contents.meta = opened.value().meta();
  contents.floats.resize(static_cast<size_t>(opened.value().floats()));
  contents.reason = opened.value().readFloats(contents.floats.data());
  if (!contents.reason.ok()) return contents;
  Result<std::vector<PackedWeight>> weights =
      opened.value().readWeights(0, static_cast<int64_t>(opened.value().weights().size()), AbortFlag());
  contents.reason = weights.status();
  contents.ok = weights.ok();
  contents.weights = std::move(weights.value());
  return contents;
}

bool sameContents(const Contents& contents, const std::vector<PackedWeight>& weights) {
  return contents.ok && contents.meta == kMeta && contents.floats == kFloats &&
         std::equal(contents.weights.begin(), contents.weights.end(), weights.begin(), weights.end(), same);
}

Header headerOf(const Bytes& content) {
  Header header;
  std::memcpy(&header, content.data(), sizeof header);
  return header;
}

Entry entryOf(const Bytes& content, size_t index) {
  Entry entry;
  std::memcpy(&entry, content.data() + sizeof(Header) + index * sizeof(Entry), sizeof entry);
  return entry;
}

// Puts header and entry back with checksums that fit: what a file that is hostile, not damaged, would hold.
void forge(Bytes& content, Header header, size_t index, const Entry& entry) {
  uint8_t* table = content.data() + sizeof header;
  std::memcpy(table + index * sizeof entry, &entry, sizeof entry);
  const size_t bytes = std::min<size_t>(tsq::packfile::tableBytes(header), content.size() - sizeof header);
  header.tableChecksum = tsq::checksum(table, bytes);
  header.checksum = tsq::checksum(&header, offsetof(Header, checksum));
  std::memcpy(content.data(), &header, sizeof header);
}

}  // namespace

TEST(pack_file_round_trip_of_every_kind) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Contents contents = readAll(file);
  CHECK_MSG(sameContents(contents, weights), contents.reason.message());

  const Result<PackFile> opened = PackFile::open(file.path().c_str());
  CHECK(opened.ok() && opened.value().weights().size() == weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto one = opened.value().readWeights(static_cast<int64_t>(i), 1, AbortFlag());
    CHECK(one.ok() && one.value().size() == 1 && same(one.value()[0], weights[i]));
    CHECK(opened.value().bytes(static_cast<int64_t>(i)) == weights[i].bytes());
  }
}

// Sections of several blocks, and one that ends on a block's boundary; the same file for any number of threads.
TEST(pack_file_of_several_blocks_is_the_same_for_any_number_of_threads) {
  Random random(3);
  std::vector<PackedWeight> weights;
  weights.push_back(codes(random, 1024, 8192, 64, {4, true, true}));
  weights.push_back(dense(random, 1000, 1100, WeightKind::kBF16));
  tsq::ThreadPool& pool = tsq::ThreadPool::instance();
  const int before = pool.threads();
  Bytes first;
  for (const int threads : {1, 2, 5}) {
    pool.setThreads(threads);
    const TemporaryFile file;
    CHECK(write(file, weights).ok());
    const Contents contents = readAll(file);
    CHECK_MSG(sameContents(contents, weights), contents.reason.message());
    if (first.empty()) first = file.read();
    CHECK(file.read() == first);
  }
  pool.setThreads(before);
}

TEST(pack_file_without_contents) {
  const TemporaryFile file;
  CHECK(tsq::writePackFile(file.path().c_str(), "", {}, {}, AbortFlag()).ok());
  const Contents contents = readAll(file);
  CHECK_MSG(contents.ok, contents.reason.message());
  CHECK(contents.meta.empty() && contents.floats.empty() && contents.weights.empty());
}

// A change anywhere is found, but between the sections, where nothing is read.
TEST(pack_file_finds_every_changed_byte) {
  Random random(11);
  std::vector<PackedWeight> weights;
  weights.push_back(codes(random, 3, 20, 8, {4, true, true, true}));
  weights.push_back(dense(random, 2, 5, WeightKind::kF16));
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Bytes original = file.read();
  size_t unused = original.size() - sizeof(Header) - 2 * sizeof(Entry) - kMeta.size() - kFloats.size() * 4;
  for (const PackedWeight& weight : weights) unused -= weight.bytes();
  size_t unseen = 0;
  for (size_t at = 0; at < original.size(); ++at) {
    Bytes changed = original;
    changed[at] ^= static_cast<uint8_t>(1 << at % 8);
    file.write(changed);
    const Contents contents = readAll(file);
    if (contents.ok) {
      ++unseen;
      CHECK_MSG(sameContents(contents, weights), "byte " + std::to_string(at));
    } else {
      CHECK_MSG(contents.reason.code() == Code::kCorrupt || contents.reason.code() == Code::kFormat,
                contents.reason.message());
    }
  }
  CHECK_MSG(unseen == unused, std::to_string(unseen) + " of " + std::to_string(unused));
}

TEST(pack_file_finds_every_length_that_is_wrong) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Bytes original = file.read();
  for (size_t length = 0; length < original.size(); length += length < 2048 ? 1 : 509) {
    file.write(Bytes(original.begin(), original.begin() + static_cast<ptrdiff_t>(length)));
    const Contents contents = readAll(file);
    CHECK_MSG(!contents.ok && contents.reason.code() == Code::kCorrupt, std::to_string(length));
  }
  Bytes longer = original;
  longer.push_back(0);
  file.write(longer);
  CHECK(readAll(file).reason.code() == Code::kCorrupt);
}

TEST(pack_file_cut_off_while_it_is_open) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Result<PackFile> opened = PackFile::open(file.path().c_str());
  CHECK(opened.ok());
  fs::resize_file(file.path(), 5000);
  const auto read = opened.value().readWeights(0, static_cast<int64_t>(weights.size()), AbortFlag());
  CHECK(read.status().code() == Code::kCorrupt);
}

TEST(pack_file_of_another_version_or_kind) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Bytes original = file.read();
  for (const auto change : {+[](Header& header) { ++header.format; }, +[](Header& header) { ++header.layout; },
                            +[](Header& header) { header.magic[0] = 't'; }}) {
    Bytes content = original;
    Header header = headerOf(original);
    change(header);
    forge(content, header, 0, entryOf(original, 0));
    file.write(content);
    const Contents contents = readAll(file);
    CHECK_MSG(contents.reason.code() == Code::kFormat, contents.reason.message());
  }
}

// Checksums fit, numbers do not: each is refused before memory is asked for.
TEST(pack_file_refuses_forged_numbers) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Bytes original = file.read();
  const size_t integer = 5;  // an entry of codes
  const auto refused = [&](const char* what, const Header& header, size_t index, const Entry& entry) {
    Bytes content = original;
    forge(content, header, index, entry);
    file.write(content);
    const Contents contents = readAll(file);
    CHECK_MSG(!contents.ok && contents.reason.code() == Code::kCorrupt, what);
  };
  const Header header = headerOf(original);
  using Change = void (*)(Entry&);
  const std::pair<const char*, Change> entries[] = {
      {"kind", [](Entry& e) { e.kind = 11; }},
      {"bits above the kind", [](Entry& e) { e.bits = 9; }},
      {"bits below 2", [](Entry& e) { e.bits = 1; }},
      {"scale type", [](Entry& e) { e.scaleType = 3; }},
      {"unknown parts", [](Entry& e) { e.optional = 32; }},
      {"zero points and offsets", [](Entry& e) { e.optional |= 9; }},
      {"reserved", [](Entry& e) { e.reserved = 1; }},
      {"no rows", [](Entry& e) { e.n = 0; }},
      {"negative rows", [](Entry& e) { e.n = -1; }},
      {"many rows", [](Entry& e) { e.n = int64_t{1} << 40; }},
      {"no columns", [](Entry& e) { e.k = 0; }},
      {"many columns", [](Entry& e) { e.k = INT64_MAX; }},
      {"all rows and columns", [](Entry& e) { e.n = e.k = INT32_MAX; }},
      {"all rows and columns in groups of one", [](Entry& e) { e.n = e.k = INT32_MAX, e.groupSize = 1; }},
      {"no group", [](Entry& e) { e.groupSize = 0; }},
      {"group above k", [](Entry& e) { e.groupSize = e.k + 1; }},
      {"one row more than its sections hold", [](Entry& e) { e.n += 16; }},
      {"zero points that are not there", [](Entry& e) { e.optional |= 1; }},
      {"an order that is not there", [](Entry& e) { e.optional |= 2; }},
  };
  for (const auto& [what, change] : entries) {
    Entry entry = entryOf(original, integer);
    change(entry);
    refused(what, header, integer, entry);
  }
  const std::pair<const char*, Change> floats[] = {
      {"two groups of floats", [](Entry& e) { e.groupSize = 4; }},
      {"zero points of floats", [](Entry& e) { e.optional = 1; }},
      {"bits of floats", [](Entry& e) { e.bits = 9; }},
  };
  for (const auto& [what, change] : floats) {
    Entry entry = entryOf(original, 0);
    change(entry);
    refused(what, header, 0, entry);
  }
  using HeaderChange = void (*)(Header&);
  const std::pair<const char*, HeaderChange> headers[] = {
      {"weights", [](Header& h) { h.weights = UINT32_MAX; }},
      {"one weight more", [](Header& h) { ++h.weights; }},
      {"one weight less", [](Header& h) { --h.weights; }},
      {"text", [](Header& h) { h.metaBytes = UINT32_MAX; }},
      {"floats", [](Header& h) { h.floats = UINT64_MAX; }},
      {"floats beyond the file", [](Header& h) { h.floats = uint64_t{1} << 40; }},
      {"file", [](Header& h) { h.fileBytes = UINT64_MAX; }},
      {"file by one", [](Header& h) { ++h.fileBytes; }},
  };
  for (const auto& [what, change] : headers) {
    Header changed = header;
    change(changed);
    refused(what, changed, 0, entryOf(original, 0));
  }
}

TEST(pack_file_survives_random_forgeries) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  CHECK(write(file, weights).ok());
  const Bytes original = file.read();
  Random random(23);
  for (int round = 0; round < 3000; ++round) {
    Bytes content = original;
    const size_t index = static_cast<size_t>(random.integer(0, static_cast<int64_t>(weights.size()) - 1));
    Entry entry = entryOf(original, index);
    Header header = headerOf(original);
    uint8_t* bytes = round % 8 == 0 ? reinterpret_cast<uint8_t*>(&header) + 16 : reinterpret_cast<uint8_t*>(&entry);
    const int64_t limit = round % 8 == 0 ? 24 : 32;  // sizes and shapes; checksums are the other test's
    for (int64_t count = random.integer(1, 3); count > 0; --count)
      bytes[random.integer(0, limit - 1)] = static_cast<uint8_t>(random.integer(0, 255));
    forge(content, header, index, entry);
    file.write(content);
    const Contents contents = readAll(file);
    CHECK(contents.ok || contents.reason.code() == Code::kCorrupt);
  }
}

// The order is an index into activations: a file whose checksums fit must not get past it either.
TEST(pack_file_refuses_an_order_that_is_none) {
  Random random(5);
  std::vector<PackedWeight> weights;
  weights.push_back(codes(random, 16, 24, 8, {4, false, true}));
  for (const int32_t bad : {-1, 24, INT32_MAX, weights[0].order[1]}) {
    weights[0].order[0] = bad;
    const TemporaryFile file;
    CHECK(write(file, weights).ok());
    const Contents contents = readAll(file);
    CHECK_MSG(!contents.ok && contents.reason.code() == Code::kCorrupt, std::to_string(bad));
  }
}

TEST(pack_file_aborts_and_refuses) {
  const std::vector<PackedWeight> weights = smallWeights();
  const TemporaryFile file;
  const int32_t raised = 1;
  CHECK(tsq::writePackFile(file.path().c_str(), kMeta, kFloats, pointers(weights), AbortFlag(&raised)).code() ==
        Code::kAborted);
  CHECK(readAll(file).reason.code() != Code::kOk);
  CHECK(write(file, weights).code() == Code::kIo);  // exists already
  file.remove();
  CHECK(PackFile::open(file.path().c_str()).status().code() == Code::kIo);
  CHECK(PackFile::open(fs::temp_directory_path().string().c_str()).status().code() == Code::kIo);
  CHECK(write(file, weights).ok());
  const Result<PackFile> opened = PackFile::open(file.path().c_str());
  CHECK(opened.value().readWeights(0, 2, AbortFlag(&raised)).status().code() == Code::kAborted);
  const int64_t count = static_cast<int64_t>(weights.size());
  CHECK(opened.value().readWeights(0, count + 1, AbortFlag()).status().code() == Code::kOption);
  CHECK(opened.value().readWeights(count, 1, AbortFlag()).status().code() == Code::kOption);
  CHECK(opened.value().readWeights(-1, 1, AbortFlag()).status().code() == Code::kOption);
}

// Files on disk are in layout::kVersion. Where this fails, a code or scale lies elsewhere than it did: raise the
// version and write the new value here.
TEST(pack_file_layout_is_that_of_its_version) {
  std::vector<int64_t> places;
  for (int kind = 0; kind <= static_cast<int>(tsq::layout::kLastKind); ++kind) {
    const bool scaled = tsq::layout::hasScales(static_cast<WeightKind>(kind));
    const tsq::layout::Shape shape{static_cast<WeightKind>(kind), 37, 100, scaled ? 24 : 100};
    places.insert(places.end(), {tsq::layout::packedK(shape), tsq::layout::panelBytes(shape)});
    for (const int64_t n : {0, 1, 15, 16, 36}) {
      for (int64_t k = 0; k < shape.k; ++k) {
        const int64_t p = tsq::layout::packedColumn(shape, k);
        places.push_back(p);
        if (!scaled || tsq::layout::isSmallFloat(shape.kind)) {
          places.push_back(tsq::layout::element(shape, n, p));
        } else {
          places.insert(places.end(), {tsq::layout::codeWord(shape, n, p), tsq::layout::codeShift(shape, p)});
        }
        if (shape.kind == WeightKind::kU3)
          places.insert(places.end(), {tsq::layout::topWord(shape, n, p), tsq::layout::topShift(p)});
        if (scaled) places.push_back(tsq::layout::scaleIndex(shape, n, k / shape.groupSize));
      }
    }
  }
  const uint64_t found = tsq::checksum(places.data(), places.size() * sizeof(int64_t));
  CHECK(tsq::layout::kVersion == 2);
  CHECK_MSG(found == 16600662920276437485u, std::to_string(found));
}
