#include "layout/tiles.h"

#include <algorithm>
#include <string>

#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

// A kind of tile: its sizes and the places of its nibbles.
template <int kRows, int kColumns>
struct Tile {
  static constexpr int kSize = kRows * kColumns;
  std::array<TilePlace, kSize> places{};

  constexpr explicit Tile(TilePlace (*place)(int)) {
    for (int i = 0; i < kSize; ++i) places[static_cast<size_t>(i)] = place(i);
  }
};
constexpr Tile<64, 16> kMarlinTile(marlinPlace);
constexpr Tile<4, 64> kGemvFastTile(gemvFastPlace);

// Tiles that one task handles.
constexpr int64_t kTaskTiles = 64;

// Calls fn(first element of the tile in [n, k], first byte of its nibbles) for every tile.
template <int kRows, int kColumns, typename F>
void forTiles(const TiledCodes& tiled, F&& fn) {
  const int64_t down = tiled.n / kRows, across = tiled.k / kColumns, count = down * across;
  const bool rowsFirst = tiled.order == TileOrder::kMarlin;
  auto task = [&](int64_t index, int) {
    for (int64_t tile = index * kTaskTiles; tile < std::min(count, (index + 1) * kTaskTiles); ++tile) {
      const int64_t row = rowsFirst ? tile % down : tile / across, column = rowsFirst ? tile / down : tile % across;
      fn(row * kRows * tiled.k + column * kColumns, tile * kRows * kColumns / 2);
    }
  };
  ThreadPool::instance().run((count + kTaskTiles - 1) / kTaskTiles, task);
}

template <int kRows, int kColumns>
void pack(const uint8_t* codes, const TiledCodes& tiled, const Tile<kRows, kColumns>& tile, uint8_t* out) {
  forTiles<kRows, kColumns>(tiled, [&](int64_t element, int64_t byte) {
    const auto code = [&](TilePlace place) { return codes[element + place.n * tiled.k + place.k] & 15; };
    for (size_t i = 0; i < tile.places.size(); i += 2)
      out[byte + static_cast<int64_t>(i / 2)] =
          static_cast<uint8_t>(code(tile.places[i]) | code(tile.places[i + 1]) << 4);
  });
}

template <int kRows, int kColumns>
void unpack(const uint8_t* tiles, const TiledCodes& tiled, const Tile<kRows, kColumns>& tile, uint8_t* codes) {
  forTiles<kRows, kColumns>(tiled, [&](int64_t element, int64_t byte) {
    const auto code = [&](TilePlace place) -> uint8_t& { return codes[element + place.n * tiled.k + place.k]; };
    for (size_t i = 0; i < tile.places.size(); i += 2) {
      const uint8_t both = tiles[byte + static_cast<int64_t>(i / 2)];
      code(tile.places[i]) = both & 15;
      code(tile.places[i + 1]) = both >> 4;
    }
  });
}

}  // namespace

Status checkTiles(const TiledCodes& tiled) {
  const bool marlin = tiled.order == TileOrder::kMarlin;
  const int rows = marlin ? 64 : 4, columns = marlin ? 16 : 64;
  if (tiled.n % rows == 0 && tiled.k % columns == 0) return {};
  return {Code::kOption, std::string("codes [") + std::to_string(tiled.n) + ", " + std::to_string(tiled.k) +
                             "] do not consist of tiles of " + std::to_string(rows) + " by " + std::to_string(columns)};
}

void packTiles(const uint8_t* codes, const TiledCodes& tiled, uint8_t* out) {
  if (tiled.order == TileOrder::kMarlin) return pack(codes, tiled, kMarlinTile, out);
  pack(codes, tiled, kGemvFastTile, out);
}

void unpackTiles(const uint8_t* tiles, const TiledCodes& tiled, uint8_t* codes) {
  if (tiled.order == TileOrder::kMarlin) return unpack(tiles, tiled, kMarlinTile, codes);
  unpack(tiles, tiled, kGemvFastTile, codes);
}

void orderMarlinScales(const float* scales, int64_t groups, int64_t n, bool pack, float* out) {
  const bool grouped = groups > 1;
  const int run = grouped ? 64 : 32;
  for (int64_t first = 0; first < groups * n; first += run)
    for (int place = 0; place < run; ++place) {
      const int64_t packed = first + place, plain = first + marlinScalePlace(place, grouped);
      out[pack ? packed : plain] = scales[pack ? plain : packed];
    }
}

}  // namespace tsq::layout
