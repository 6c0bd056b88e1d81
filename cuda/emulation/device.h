// cuda/device.cuh for the host. Every call remembers the line of the kernel that it stands on.
#pragma once
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda/emulation/collective.h"
#include "cuda/emulation/copies.h"
#include "cuda/emulation/machine.h"
#include "cuda/emulation/tensor_core.h"
#include "runtime/scalar.h"

#define TSQ_DEVICE inline
#define TSQ_BOTH inline
#define TSQ_KERNEL(threads) inline void
#define TSQ_UNROLL
#define TSQ_UNROLL_BY(count)
#define TSQ_HERE ::tsq::emulation::Place at = ::tsq::emulation::Place::current()

namespace tsq::cuda {

using emulation::kAllLanes;

// Memory of the device. A pointer that only load, store and the like can follow.
template <typename T>
struct Global {
  T* pointer = nullptr;
  Global operator+(int64_t elements) const { return {pointer + elements}; }
  explicit operator bool() const { return pointer != nullptr; }
  operator Global<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {pointer};
  }
};

// Shared memory of the block, by byte offset.
template <typename T>
struct Shared {
  uint32_t offset = 0;
  Shared operator+(int elements) const { return {offset + static_cast<uint32_t>(elements) * uint32_t{sizeof(T)}}; }
};

inline int threadIndex() {
  return emulation::self().index;
}
inline int blockIndex() {
  return emulation::self().block->index;
}
inline int blockCount() {
  return emulation::machine().launch().blocks;
}
template <typename T>
Shared<T> sharedMemory(uint32_t byteOffset) {
  return {byteOffset};
}

template <typename T>
std::remove_const_t<T> load(Global<T> from, TSQ_HERE) {
  size_t offset;
  emulation::Memory& memory = emulation::findBuffer(from.pointer, &offset, at);
  memory.access(emulation::Access::kRead, offset, sizeof(T), emulation::actor(at));
  std::remove_const_t<T> value;
  std::memcpy(&value, from.pointer, sizeof(T));
  return value;
}
template <typename T>
void store(Global<T> to, std::type_identity_t<T> value, TSQ_HERE) {
  size_t offset;
  emulation::Memory& memory = emulation::findBuffer(to.pointer, &offset, at);
  memory.access(emulation::Access::kWrite, offset, sizeof(T), emulation::actor(at));
  std::memcpy(to.pointer, &value, sizeof(T));
}
template <typename T>
T load(Shared<T> from, TSQ_HERE) {
  emulation::Memory& memory = emulation::self().block->shared;
  memory.access(emulation::Access::kRead, from.offset, sizeof(T), emulation::actor(at));
  T value;
  std::memcpy(&value, memory.bytes() + from.offset, sizeof(T));
  return value;
}
template <typename T>
void store(Shared<T> to, std::type_identity_t<T> value, TSQ_HERE) {
  emulation::Memory& memory = emulation::self().block->shared;
  memory.access(emulation::Access::kWrite, to.offset, sizeof(T), emulation::actor(at));
  std::memcpy(memory.bytes() + to.offset, &value, sizeof(T));
}

template <typename T>
void hideOrigin(Global<T>&) {}

inline void syncThreads(TSQ_HERE) {
  emulation::syncBlock(0, emulation::machine().launch().threads, at);
}
inline void syncSome(int barrier, int threads, TSQ_HERE) {
  emulation::syncBlock(barrier, threads, at);
}
inline void syncWarp(uint32_t mask = kAllLanes, TSQ_HERE) {
  emulation::syncLanes(mask, at);
}
template <typename T>
T shuffleFrom(T value, int lane, uint32_t mask = kAllLanes, TSQ_HERE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint32_t words[sizeof(T) / 4];  // as the device moves them
  std::memcpy(words, &value, sizeof(T));
  for (uint32_t& word : words) word = emulation::shuffle(word, lane, mask, at);
  std::memcpy(&value, words, sizeof(T));
  return value;
}
template <typename T>
T shuffleXor(T value, int laneBits, uint32_t mask = kAllLanes, TSQ_HERE) {
  return shuffleFrom(value, (threadIndex() % emulation::kWarp) ^ laneBits, mask, at);
}
inline uint32_t ballot(bool predicate, uint32_t mask = kAllLanes, TSQ_HERE) {
  return emulation::vote(predicate, mask, at);
}

inline void copyAsync(Shared<Words> to, Global<const Words> from, int bytes = 16, TSQ_HERE) {
  emulation::issueCopy(to.offset, from.pointer, bytes, at);
}
inline void copyAsyncOnce(Shared<Words> to, Global<const Words> from, int bytes = 16, TSQ_HERE) {
  emulation::issueCopy(to.offset, from.pointer, bytes, at);
}
inline void commitCopies() {
  emulation::commitCopies();
}
template <int kLeft>
void waitCopies(TSQ_HERE) {
  emulation::waitCopies(kLeft, at);
}

inline void loadMatrices(uint32_t (&out)[4], Shared<Words> row, TSQ_HERE) {
  emulation::loadMatrices(out, row.offset, false, at);
}
inline void loadMatricesTransposed(uint32_t (&out)[4], Shared<Words> row, TSQ_HERE) {
  emulation::loadMatrices(out, row.offset, true, at);
}
template <Type kType>
void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, TSQ_HERE) {
  emulation::multiply(kType, d, a, b0, b1, at);
}
inline void multiplyS8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, TSQ_HERE) {
  emulation::multiplyS8(d, a, b0, b1, at);
}

inline void initBarrier(Shared<Arrivals> barrier, int arrivals, TSQ_HERE) {
  emulation::initBarrier(barrier.offset, arrivals, at);
}
inline void arrive(Shared<Arrivals> barrier, TSQ_HERE) {
  emulation::arriveAt(barrier.offset, 0, at);
}
inline void arriveExpecting(Shared<Arrivals> barrier, int bytes, TSQ_HERE) {
  emulation::arriveAt(barrier.offset, bytes, at);
}
inline void waitPhase(Shared<Arrivals> barrier, uint32_t parity, TSQ_HERE) {
  emulation::waitForPhase(barrier.offset, parity, at);
}
inline void copyBulk(Shared<Words> to, Global<const Words> from, int bytes, Shared<Arrivals> barrier, TSQ_HERE) {
  emulation::issueBulkCopy(to.offset, from.pointer, bytes, barrier.offset, at);
}
inline void proxyFence() {
  emulation::proxyFence();
}
template <typename T>
uint32_t sharedAddress(Shared<T> memory) {
  return memory.offset;
}
inline void fenceProducts() {
  emulation::fenceProducts();
}
template <Type kType, int kColumns>
void multiplyAsync(float (&sums)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, TSQ_HERE) {
  static_assert(kColumns % 8 == 0 && kColumns <= 256);
  emulation::issueProduct({kType, kColumns, sums, a, b, true, {}, at});
}
template <Type kType, int kColumns, typename Sum>
void multiplyAsync(Sum (&sums)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool adds, TSQ_HERE) {
  static_assert(kColumns % 16 == 0 && kColumns <= 256);
  static_assert(std::is_same_v<Sum, float> ? kType == Type::kE4M3 : kType == Type::kS8);
  emulation::issueProduct({kType, kColumns, sums, a, b, adds, {}, at});
}
inline void commitProducts() {
  emulation::commitProducts();
}
template <int kCount>
void takeRegisters() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
}
template <int kCount>
void leaveRegisters() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
}
template <typename Sum, int kCount>
void settle(Sum (&)[kCount]) {}
template <int kLeft>
void waitProducts(TSQ_HERE) {
  emulation::waitProducts(kLeft, at);
}

int atomicAdd(Global<int> to, int value, TSQ_HERE);
int atomicAddSync(Global<int> to, int value, TSQ_HERE);
int loadAcquire(Global<const int> from, TSQ_HERE);
void storeRelease(Global<int> to, int value, TSQ_HERE);

// (a & b) | c, and the rotation: single instructions on the device.
inline constexpr uint32_t andOr(uint32_t a, uint32_t b, uint32_t c) {
  return (a & b) | c;
}
inline constexpr uint32_t rotateRight(uint32_t value, int bits) {
  return std::rotr(value, bits);
}
// PTX ISA, prmt: nibble i of the selector chooses byte i of the result among the eight of a and b; where its top bit is
// set, the byte becomes eight times the sign of that one.
inline constexpr uint32_t permuteBytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    const auto byte = static_cast<uint32_t>((uint64_t{b} << 32 | a) >> 8 * (nibble & 7) & 0xff);
    word |= (nibble < 8 ? byte : byte >> 7 != 0 ? 0xffu : 0u) << 8 * i;
  }
  return word;
}
inline float fusedMultiplyAdd(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double fusedMultiplyAdd(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline double squareRoot(double value) {
  return std::sqrt(value);
}
inline float reciprocal(float a) {
  return 1 / a;
}
inline uint32_t bitsOf(float value) {
  return std::bit_cast<uint32_t>(value);
}
inline float floatOf(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline int toNearest(float value) {
  return static_cast<int>(std::nearbyint(value));
}
template <Type kType>
float toFloat(uint16_t bits) {
  return kType == Type::kF16 ? f16ToFloat(bits) : bf16ToFloat(bits);
}
template <Type kType>
uint16_t fromFloat(float value) {
  return kType == Type::kF16 ? floatToF16(value) : floatToBf16(value);
}

// Of two values in a word each, rounded once.
template <Type kType>
uint32_t fusedMultiplyAdd2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t word = 0;
  for (int i = 0; i < 2; ++i) {
    // The product is exact in float64, and so is the sum of values that 16 bits can hold next to each other.
    const double sum =
        double{emulation::element(kType, a, i)} * emulation::element(kType, b, i) + emulation::element(kType, c, i);
    word |= uint32_t{fromFloat<kType>(static_cast<float>(sum))} << 16 * i;
  }
  return word;
}

}  // namespace tsq::cuda
