#include "layout/bits.h"

#include <random>
#include <vector>

#include "check.h"
#include "runtime/thread_pool.h"

namespace {

using tsq::layout::BitStream;
using tsq::layout::rowWords;

std::vector<uint8_t> sequence(int64_t count, int modulus) {
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % static_cast<size_t>(modulus));
  return codes;
}

// One bit at a time: what the format says, nothing else.
std::vector<int32_t> packSlowly(const std::vector<uint8_t>& codes, const BitStream& s) {
  std::vector<int32_t> words(static_cast<size_t>(s.rows * rowWords(s.cols, s.bits)));
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t j = 0; j < s.cols; ++j)
      for (int bit = 0; bit < s.bits; ++bit) {
        const int code = codes[static_cast<size_t>(row * s.cols + j)] + s.add;
        const int64_t at = j * s.bits + bit;
        if ((code >> bit & 1) != 0)
          words[static_cast<size_t>(row * rowWords(s.cols, s.bits) + at / 32)] |= static_cast<int32_t>(1u << (at % 32));
      }
  return words;
}

}  // namespace

TEST(bits_known_words) {
  const std::vector<uint8_t> codes = sequence(8, 8);
  int32_t word = 0;
  CHECK(tsq::layout::packBits(codes.data(), {1, 8, 4, false, 0}, &word).ok());
  CHECK(static_cast<uint32_t>(word) == 0x76543210u);
  CHECK(tsq::layout::packBits(codes.data(), {1, 8, 4, true, 0}, &word).ok());
  CHECK(static_cast<uint32_t>(word) == 0x75316420u);
}

TEST(bits_every_width_and_length) {
  std::mt19937 random(5);
  for (int bits = 2; bits <= 8; ++bits)
    for (int64_t cols : {1, 3, 31, 32, 33, 64, 65, 127, 1000}) {
      const BitStream stream{7, cols, bits, false, static_cast<int>(random() % 4)};
      std::vector<uint8_t> codes(static_cast<size_t>(stream.rows * cols));
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
      std::vector<int32_t> words(static_cast<size_t>(stream.rows * rowWords(cols, bits)), -1);
      CHECK(tsq::layout::packBits(codes.data(), stream, words.data()).ok());
      CHECK(words == packSlowly(codes, stream));
      BitStream back = stream;
      back.add = -stream.add;
      std::vector<uint8_t> unpacked(codes.size());
      CHECK(tsq::layout::unpackBits(words.data(), back, unpacked.data()).ok());
      CHECK(unpacked == codes);
    }
}

TEST(bits_names_the_first_code_that_does_not_fit) {
  std::vector<uint8_t> codes(5000 * 40);
  codes[4000 * 40 + 7] = 8;
  codes[1234 * 40 + 39] = 9;
  std::vector<int32_t> words(5000 * 4);
  const tsq::Status status = tsq::layout::packBits(codes.data(), {5000, 40, 3, false, 0}, words.data());
  CHECK(status.code() == tsq::Code::kFormat);
  CHECK_MSG(status.message().find("code 9 at row 1234, column 39") != std::string::npos, status.message());
}

TEST(bits_refuses_streams_that_do_not_exist) {
  uint8_t code = 0;
  int32_t word = 0;
  CHECK(!tsq::layout::packBits(&code, {1, 1, 1, false, 0}, &word).ok());
  CHECK(!tsq::layout::packBits(&code, {1, 1, 9, false, 0}, &word).ok());
  CHECK(!tsq::layout::unpackBits(&word, {1, 1, 4, true, 0}, &code).ok());
  CHECK(!tsq::layout::transpose(&word, 1, 1, 3, &word).ok());
}

TEST(transpose_every_element_size) {
  for (int64_t rows : {1, 63, 64, 130})
    for (int64_t cols : {1, 64, 65}) {
      std::vector<uint32_t> source(static_cast<size_t>(rows * cols)), out(source.size());
      for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint32_t>(i);
      CHECK(tsq::layout::transpose(source.data(), rows, cols, 4, out.data()).ok());
      bool right = true;
      for (int64_t c = 0; c < cols; ++c)
        for (int64_t r = 0; r < rows; ++r)
          right = right && out[static_cast<size_t>(c * rows + r)] == static_cast<uint32_t>(r * cols + c);
      CHECK(right);
      std::vector<uint16_t> source2(source.begin(), source.end()), out2(source.size());
      CHECK(tsq::layout::transpose(source2.data(), rows, cols, 2, out2.data()).ok());
      CHECK(out2 == std::vector<uint16_t>(out.begin(), out.end()));
      std::vector<uint8_t> source1(source.begin(), source.end()), out1(source.size());
      CHECK(tsq::layout::transpose(source1.data(), rows, cols, 1, out1.data()).ok());
      CHECK(out1 == std::vector<uint8_t>(out.begin(), out.end()));
    }
}
