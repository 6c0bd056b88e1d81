// Codes as bytes that mean more than a code: two's complement, two codes each.
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

// The bits that some of `count` codes has.
uint8_t seenBits(const uint8_t* codes, int64_t count);

// codes [count] = bytes + 2^(bits-1), modulo 256: not below 2^bits where a byte stands for no code. On the calling
// thread.
void fromSigned(const uint8_t* bytes, int64_t count, int bits, uint8_t* codes);

// codes [count]: elements [first, first + count) of a sequence of nibbles. On the calling thread.
void unpackNibbles(const uint8_t* bytes, int64_t first, int64_t count, bool highFirst, uint8_t* codes);

// The inverses, threaded. kFormat, naming the first, for a code that is not below 2^bits.
// out [count].
Status toSigned(const uint8_t* codes, int64_t count, int bits, uint8_t* out);
// out [ceil(count / 2)]; the half that is left over is 0.
Status packNibbles(const uint8_t* codes, int64_t count, bool highFirst, uint8_t* out);

}  // namespace tsq::layout
