// Encoding, and the scalar kernels: their order of words is the definition of a stream, and the
// vector ones leave the last words and symbols of a run to them.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/rans_tables.h"

namespace kvferry::kernels {
namespace {

std::uint32_t load_word(const std::byte* p) {
  std::uint16_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// Decodes one symbol; the new state may still be in want of a word.
std::uint32_t step(const RansDecodeTable& table, std::uint32_t state, std::byte* out) {
  const std::uint32_t entry = table.slot[state % kRansTotal];
  *out = static_cast<std::byte>(entry);
  return (entry >> 8) % kRansTotal * (state >> kRansBits) + (entry >> 20);
}

// Up to 64 symbols, word by word.
bool decode_careful(const RansDecodeTable& table, RansDecoder& decoder, std::byte* out,
                    std::size_t n) {
  for (std::size_t lane = 0; lane < n; ++lane) {
    std::uint32_t state = step(table, decoder.state[lane], out + lane);
    if (state < kRansLow) {
      if (decoder.end - decoder.next < 2) return false;
      state = state << 16 | load_word(decoder.next);
      decoder.next += 2;
    }
    decoder.state[lane] = state;
  }
  return true;
}

bool decode(const RansDecodeTable& table, RansDecoder& decoder, std::byte* out, std::size_t n) {
  while (n >= kRansLanes && decoder.end - decoder.next >= std::ptrdiff_t{2 * kRansLanes}) {
    // Enough words for any 64 symbols, so a word is read whether it is wanted or not: a branch
    // would be guessed wrong every fourth time.
    const std::byte* next = decoder.next;
    for (std::size_t lane = 0; lane < kRansLanes; ++lane) {
      const std::uint32_t state = step(table, decoder.state[lane], out + lane);
      const bool wants = state < kRansLow;
      const std::uint32_t refilled = state << 16 | load_word(next);
      decoder.state[lane] = wants ? refilled : state;
      next += wants ? 2 : 0;
    }
    decoder.next = next;
    out += kRansLanes;
    n -= kRansLanes;
  }
  while (n > 0) {
    const std::size_t lanes = std::min<std::size_t>(n, kRansLanes);
    if (!decode_careful(table, decoder, out, lanes)) return false;
    out += lanes;
    n -= lanes;
  }
  return true;
}

void split_bf16(const std::byte* in, std::size_t n, std::byte* exponent, std::byte* rest) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t value = load_word(in + 2 * i);
    exponent[i] = static_cast<std::byte>(value >> 7);
    rest[i] = static_cast<std::byte>((value >> 8 & 0x80u) | (value & 0x7fu));
  }
}

void join_bf16(const std::byte* exponent, const std::byte* rest, std::size_t n, std::byte* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto low = static_cast<std::uint32_t>(rest[i]);
    const auto value = static_cast<std::uint16_t>(
        (low & 0x80u) << 8 | static_cast<std::uint32_t>(exponent[i]) << 7 | (low & 0x7fu));
    std::memcpy(out + 2 * i, &value, sizeof(value));
  }
}

}  // namespace

bool rans_encode(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
                 std::size_t n) {
  std::byte* next = encoder.next;
  while (n > 0) {
    const std::size_t lanes = (n - 1) % kRansLanes + 1;
    if (next - encoder.begin < static_cast<std::ptrdiff_t>(2 * lanes)) return false;
    n -= lanes;
    for (std::size_t lane = lanes; lane-- > 0;) {
      const auto& symbol = table.symbol[static_cast<std::uint8_t>(in[n + lane])];
      std::uint32_t state = encoder.state[lane];
      const auto word = static_cast<std::uint16_t>(state);
      std::memcpy(next - 2, &word, sizeof(word));
      const bool full = state >> 20 >= symbol.freq;
      next -= full ? 2 : 0;
      state = full ? state >> 16 : state;
      const auto quotient = static_cast<std::uint32_t>((state + 0.5) * symbol.inverse);
      encoder.state[lane] = state + quotient * (kRansTotal - symbol.freq) + symbol.start;
    }
  }
  encoder.next = next;
  return true;
}

const RansKernels kRansScalar = {decode, split_bf16, join_bf16};

}  // namespace kvferry::kernels
