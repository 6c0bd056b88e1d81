#include "layout/tiles.h"

#include <random>
#include <vector>

#include "check.h"

namespace {

using tsq::layout::TiledCodes;
using tsq::layout::TileOrder;

std::vector<uint8_t> randomCodes(int64_t count) {
  std::mt19937 random(7);
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (uint8_t& code : codes) code = random() & 15;
  return codes;
}

}  // namespace

TEST(tiles_marlin_begins_as_its_permutation) {
  // IST-DASLab/marlin: of 1024 codes, four squares of 16 inputs by 16 outputs, these come first.
  constexpr int kFirst[] = {0, 128, 8, 136, 16, 144, 24, 152, 256, 384, 264, 392, 272, 400, 280, 408};
  for (int i = 0; i < 16; ++i) {
    const tsq::layout::TilePlace place = tsq::layout::marlinPlace(i);
    CHECK(256 * (place.n / 16) + 16 * place.k + place.n % 16 == kFirst[i]);
  }
  constexpr int kGrouped[] = {0, 8, 16, 24, 32, 40, 48, 56, 1, 9}, kSingle[] = {0, 1, 8, 9, 16, 17, 24, 25, 2, 3};
  for (int i = 0; i < 10; ++i) {
    CHECK(tsq::layout::marlinScalePlace(i, true) == kGrouped[i]);
    CHECK(tsq::layout::marlinScalePlace(i, false) == kSingle[i]);
  }
}

TEST(tiles_hold_every_code_once) {
  for (const TileOrder order : {TileOrder::kMarlin, TileOrder::kGemvFast})
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{64, 64}, {128, 192}, {448, 128}}) {
      const TiledCodes tiled{order, n, k};
      CHECK(tsq::layout::checkTiles(tiled).ok());
      const std::vector<uint8_t> codes = randomCodes(n * k);
      std::vector<uint8_t> packed(codes.size() / 2), back(codes.size(), 255);
      tsq::layout::packTiles(codes.data(), tiled, packed.data());
      tsq::layout::unpackTiles(packed.data(), tiled, back.data());
      CHECK(back == codes);
    }
  CHECK(!tsq::layout::checkTiles({TileOrder::kMarlin, 32, 64}).ok());
  CHECK(!tsq::layout::checkTiles({TileOrder::kGemvFast, 4, 32}).ok());
}

TEST(tiles_marlin_scales_come_back) {
  for (const int64_t groups : {1, 3}) {
    std::vector<float> scales(static_cast<size_t>(groups * 128)), packed(scales.size()), back(scales.size());
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i);
    tsq::layout::orderMarlinScales(scales.data(), groups, 128, true, packed.data());
    tsq::layout::orderMarlinScales(packed.data(), groups, 128, false, back.data());
    CHECK(back == scales);
    CHECK(packed[1] == (groups == 1 ? 1.0f : 8.0f));
  }
}
