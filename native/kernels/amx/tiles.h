// AMX tile registers (Intel Architecture Instruction Set Extensions, chapter "AMX"): 16 rows of 64 bytes each. The
// wrappers are assembly because the compiler's own do not say that they read and write memory.
#pragma once

#include <cstdint>

#include "runtime/scalar.h"

namespace tsq {
namespace {

constexpr int64_t kTileRowBytes = 64, kTileBytes = 1024;
constexpr int kTileHeight = 16;

// Palette 1: rows and bytes of a row for each of the eight registers.
struct alignas(64) TileShapes {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t rowBytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 … 3: sums; 4 and 5: activations; 6 and 7: weights. Activations in tile 4 go with sums in even tiles, those in
// tile 5 with odd ones, or both with any where they have as many rows.
class TileSession {
 public:
  __attribute__((always_inline)) TileSession(int rows4, int rows5) {
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) {
      shapes.rowBytes[i] = static_cast<uint16_t>(kTileRowBytes);
      shapes.rows[i] = static_cast<uint8_t>(i >= 6 ? kTileHeight : i % 2 == 0 ? rows4 : rows5);
    }
    __asm__ volatile("sttilecfg %0" : "=m"(before_) : : "memory");
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
  }
  // Puts back what the thread had: a library may configure the tiles of a thread once, and llama.cpp's does. Where
  // there was nothing, this releases the tiles; in use, they would be saved at every task switch.
  __attribute__((always_inline)) ~TileSession() { __asm__ volatile("ldtilecfg %0" : : "m"(before_) : "memory"); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;

 private:
  alignas(64) uint8_t before_[64];
};

template <int kTile>
TSQ_INLINE void tileZero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Tiles 0 … kTiles - 1.
template <int kTiles, int kTile = 0>
TSQ_INLINE void clearTiles() {
  tileZero<kTile>();
  if constexpr (kTile + 1 < kTiles) clearTiles<kTiles, kTile + 1>();
}
// Rows of 64 bytes behind each other.
template <int kTile>
TSQ_INLINE void tileLoad(const void* p) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(kTileRowBytes), "i"(kTile) : "memory");
}
template <int kTile>
TSQ_INLINE void tileStore(void* p) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(kTileRowBytes), "i"(kTile) : "memory");
}
// sums[r][j] += sum over 16 pairs of activations[r][i] * weights[i][j], bf16 in, f32 out.
template <int kSums, int kActivations, int kWeights>
TSQ_INLINE void tilePairs() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kActivations), "i"(kWeights));
}
// The same over 16 quads of int8 (signed activations, unsigned weights), int32 out.
template <int kSums, int kActivations, int kWeights>
TSQ_INLINE void tileQuads() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kActivations), "i"(kWeights));
}

}  // namespace
}  // namespace tsq
