// 4-bit codes of a weight [n, k] that lie in tiles: Marlin's checkpoints, and the files of AWQ's GEMV_FAST and llm-awq.
// A tile is a run of nibbles, low ones first; where in the tile each of them belongs is one function, for both
// directions.
#pragma once
#include <array>
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

enum class TileOrder : uint8_t { kMarlin = 0, kGemvFast = 1 };

// Row and column, counted from the tile's own.
struct TilePlace {
  uint8_t n, k;
};

// Of every eight, first those at even places: 0 2 4 6 1 3 5 7.
constexpr int evenFirst(int place) {
  return place < 4 ? 2 * place : 2 * place - 7;
}

// Marlin (IST-DASLab/marlin marlin/__init__.py, _get_perms): 64 outputs by 16 inputs, as the lanes of a warp hold them
// for the tensor cores: four squares of 16, of each two columns of four inputs a lane.
constexpr TilePlace marlinPlace(int nibble) {
  const int lane = nibble / 32, square = nibble / 8 % 4, each = evenFirst(nibble % 8);
  constexpr int kInputs[] = {0, 1, 8, 9};
  return {static_cast<uint8_t>(16 * square + lane / 4 + 8 * (each / 4)),
          static_cast<uint8_t>(2 * (lane % 4) + kInputs[each % 4])};
}

// GEMV_FAST (casper-hansen/AutoAWQ awq/modules/linear/gemv_fast.py, pack_intweight): 4 outputs by 64 inputs, row after
// row; of every 32 inputs two of each octet in turn, and in the eight that result the even places first.
constexpr TilePlace gemvFastPlace(int nibble) {
  const int column = nibble % 64, eight = column % 32 / 8, each = evenFirst(column % 8);
  return {static_cast<uint8_t>(nibble / 64),
          static_cast<uint8_t>(column / 32 * 32 + 8 * (each / 2) + 2 * eight + each % 2)};
}

// Marlin permutes the scales of a row of 64 outputs (32 where there is one group) as its threads read them: the output
// whose scale lies at `place`.
constexpr int marlinScalePlace(int place, bool grouped) {
  if (grouped) return place / 8 + place % 8 * 8;
  return 2 * (place / 8) + place % 8 / 2 * 8 + place % 2;
}

struct TiledCodes {
  TileOrder order;
  int64_t n, k;
};

// kOption where the shape does not consist of tiles.
Status checkTiles(const TiledCodes& tiled);

// [n * k / 2] bytes from codes [n, k] below 16, and back. Marlin's tiles lie along n first, GEMV_FAST's along k.
// Threaded over tiles.
void packTiles(const uint8_t* codes, const TiledCodes& tiled, uint8_t* out);
void unpackTiles(const uint8_t* tiles, const TiledCodes& tiled, uint8_t* codes);

// out [groups, n] of scales [groups, n] as Marlin orders them (`pack`), or back. n a multiple of 64, or of 32 for one
// group.
void orderMarlinScales(const float* scales, int64_t groups, int64_t n, bool pack, float* out);

}  // namespace tsq::layout
