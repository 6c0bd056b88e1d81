// Attention over quantized pages: every instruction set against the scalar reference.
#include "layout/kv_page.h"
#include "support.h"

using namespace support;  // NOLINT: a test
using tsq::AttentionTile;
using tsq::layout::KvCoding;
using tsq::layout::KvPage;
using tsq::layout::KvPart;
using tsq::layout::KvScales;
using tsq::layout::KvType;

namespace {

struct Named {
  const char* name;
  KvCoding coding;
};

// group 0: the head dimension.
const Named kKeys[] = {
    {"f32", {}},
    {"f16", {KvType::kF16}},
    {"int8", {KvType::kI8, KvScales::kToken}},
    {"int8 in groups", {KvType::kI8, KvScales::kToken, false, 32}},
    {"int8 by channel", {KvType::kI8, KvScales::kChannel}},
    {"fp8", {KvType::kE4M3, KvScales::kToken}},
    {"fp8 by tensor", {KvType::kE4M3, KvScales::kTensor}},
    {"int4", {KvType::kI4, KvScales::kToken}},
    {"int4 with offsets in groups", {KvType::kI4, KvScales::kToken, true, 32}},
    {"int4 by channel", {KvType::kI4, KvScales::kChannel}},
    {"int4 with offsets by channel", {KvType::kI4, KvScales::kChannel, true}},
};

void putHalf(uint8_t* at, float value) {
  const uint16_t bits = tsq::floatToF16(value);
  std::memcpy(at, &bits, 2);
}

void fillPart(Random& random, const KvPart& part, uint8_t* page, int64_t end, int64_t headDim) {
  for (int64_t i = part.codes; i < end; ++i) {
    page[i] = static_cast<uint8_t>(random.integer(0, 255));
    if (part.type == KvType::kE4M3 && (page[i] & 0x7f) == 0x7f) page[i] = 0;
  }
  const int64_t size = part.type == KvType::kF32 ? 4 : 2;
  if (part.type == KvType::kF32 || part.type == KvType::kF16) {
    for (int64_t i = part.codes; i + size <= end; i += size) {
      const float value = random.normal();
      if (size == 4) std::memcpy(page + i, &value, 4);
      if (size == 2) putHalf(page + i, value);
    }
  }
  const float most = part.type == KvType::kI8 ? 127 : part.type == KvType::kE4M3 ? 448 : 8;
  for (int64_t i = 0; i < tsq::layout::kvScales(part, headDim); ++i) {
    putHalf(page + part.scaleAt + 2 * i, random.uniform(1, 3) / most * (random.integer(0, 1) == 0 ? 1.0f : -1.0f));
    if (part.offsets) putHalf(page + part.offsetAt + 2 * i, random.normal());
  }
}

struct QuantizedCache {
  QuantizedCache(Random& random, int64_t headDim, int64_t used, KvCoding keys, KvCoding values) {
    if (keys.group == 0 || keys.group > headDim) keys.group = headDim;
    if (values.group == 0 || values.group > headDim) values.group = headDim;
    page = tsq::layout::kvPage(headDim, keys, values);
    pages.resize(static_cast<size_t>((used + 15) / 16));
    std::iota(pages.begin(), pages.end(), 0);
    random.shuffle(pages);
    room.resize(pages.size() * static_cast<size_t>(page.bytes));
    for (size_t i = 0; i < pages.size(); ++i) {
      uint8_t* at = room.data() + i * static_cast<size_t>(page.bytes);
      const int64_t keyRows = keys.type == KvType::kI4 ? (headDim + 1) / 2 : headDim;
      fillPart(random, page.keys, at, page.keys.codes + keyRows * page.keys.rowBytes, headDim);
      fillPart(random, page.values, at, page.values.codes + 16 * page.values.rowBytes, headDim);
    }
  }
  KvPage page;
  std::vector<int32_t> pages;
  std::vector<uint8_t> room;
};

std::vector<float> attend(const KernelTable& table, const QuantizedCache& cache, const std::vector<float>& queries,
                          const std::vector<int64_t>& first, const std::vector<int64_t>& last, float softcap) {
  const int64_t headDim = cache.page.headDim;
  const int count = static_cast<int>(first.size());
  std::vector<float> outputs(queries.size(), 99.0f);
  std::vector<const float*> in;
  std::vector<float*> out;
  for (int r = 0; r < count; ++r) {
    in.push_back(queries.data() + r * headDim);
    out.push_back(outputs.data() + r * headDim);
  }
  tsq::Result<tsq::AlignedBuffer> scratch =
      tsq::AlignedBuffer::allocate(static_cast<size_t>(tsq::attentionScratch(headDim)) * 4);
  table.attention(
      {in.data(), out.data(), first.data(), last.data(), count, 1 / std::sqrt(static_cast<float>(headDim)), &cache.page,
       cache.room.data(), cache.pages.data(), cache.page.bytes, 0.004f, 0.003f, softcap, nullptr, nullptr},
      scratch.value().as<float>());
  return outputs;
}

void checkFormat(const std::vector<const KernelTable*>& all, Random& random, const Named& keys, const Named& values,
                 int64_t headDim, int64_t used, int count) {
  const QuantizedCache cache(random, headDim, used, keys.coding, values.coding);
  const std::vector<float> queries = random.normals(count * headDim);
  std::vector<int64_t> first, last;
  for (int r = 0; r < count; ++r) {
    last.push_back(r == 0 ? used - 1 : random.integer(0, used - 1));
    first.push_back(random.integer(0, 2) == 0 ? random.integer(0, last.back()) : 0);
  }
  const float softcap = random.integer(0, 3) == 0 ? 4.0f : 0.0f;
  std::vector<float> expected;
  for (const KernelTable* table : all) {
    const std::vector<float> found = attend(*table, cache, queries, first, last, softcap);
    if (expected.empty()) expected = found;  // the reference comes first
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double error = std::fabs(static_cast<double>(found[i]) - expected[i]);
      worst = std::isnan(error) ? 1e30 : std::max(worst, error);
    }
    CHECK_MSG(worst <= 2e-5, std::string(table->name) + ": keys " + keys.name + ", values " + values.name + ": error " +
                                 std::to_string(worst) + " headDim " + std::to_string(headDim) + " positions " +
                                 std::to_string(used) + " queries " + std::to_string(count));
  }
}

}  // namespace

TEST(attention_over_quantized_pages) {
  Random random(61);
  const std::vector<const KernelTable*> all = tables();
  for (const Named& keys : kKeys) {
    for (const Named& values : kKeys) {
      if (values.coding.scales == KvScales::kChannel) continue;
      const int64_t headDims[] = {8, 32, 64, 80, 96, 128, 256, 20, 33};
      const int64_t lengths[] = {1, 16, 17, 70, 260, 400};
      const int64_t headDim = headDims[random.integer(0, 8)], used = lengths[random.integer(0, 5)];
      checkFormat(all, random, keys, values, headDim, used,
                  static_cast<int>(random.integer(1, AttentionTile::kMaxTile)));
      checkFormat(all, random, keys, values, 128, 300, 1);
    }
  }
}

TEST(attention_over_quantized_pages_of_every_head_dimension) {
  Random random(62);
  const std::vector<const KernelTable*> all = tables();
  for (const int64_t headDim : {1, 2, 16, 31, 32, 48, 64, 80, 96, 112, 128, 160, 256}) {
    for (const Named& coding : kKeys) {
      const bool channel = coding.coding.scales == KvScales::kChannel;
      checkFormat(all, random, coding, channel ? kKeys[7] : coding, headDim, 100, 5);
    }
  }
}
