// The scalar kernels of rANS: their order of words is the definition of a stream, and the vector
// ones leave the last words and symbols of a run to them.
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

// As many symbols as there are states or fewer, word by word.
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
  const std::size_t lanes = decoder.lanes;
  while (n >= lanes && decoder.end - decoder.next >= static_cast<std::ptrdiff_t>(2 * lanes)) {
    // Enough words for a whole round, so a word is read whether it is wanted or not, and put to use
    // in arithmetic: a branch would be guessed wrong every other time.
    const std::byte* next = decoder.next;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::uint32_t state = step(table, decoder.state[lane], out + lane);
      const std::uint32_t wants = state < kRansLow ? 1 : 0;
      decoder.state[lane] = state << (16 * wants) | (load_word(next) & (0 - wants));
      next += 2 * wants;
    }
    decoder.next = next;
    out += lanes;
    n -= lanes;
  }
  while (n > 0) {
    const std::size_t some = std::min(n, lanes);
    if (!decode_careful(table, decoder, out, some)) return false;
    out += some;
    n -= some;
  }
  return true;
}

// One round, as many symbols as there are states or fewer, the last first; there is room for its
// words.
void encode_round(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
                  std::size_t n) {
  std::byte* next = encoder.next;
  for (std::size_t lane = n; lane-- > 0;) {
    const auto symbol = static_cast<std::uint8_t>(in[lane]);
    const std::uint32_t freq = table.interval[symbol] & 0xffff;
    std::uint32_t state = encoder.state[lane];
    const auto word = static_cast<std::uint16_t>(state);
    std::memcpy(next - 2, &word, sizeof(word));
    // In arithmetic: a branch here is guessed wrong every other time.
    const std::uint32_t full = state >> 20 >= freq ? 1 : 0;
    next -= 2 * full;
    state >>= 16 * full;
    const auto quotient = static_cast<std::uint32_t>((state + 0.5) * table.inverse[symbol]);
    encoder.state[lane] = state + quotient * (kRansTotal - freq) + (table.interval[symbol] >> 16);
  }
  encoder.next = next;
}

bool encode(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
            std::size_t n) {
  while (n > 0) {
    const std::size_t lanes = (n - 1) % encoder.lanes + 1;
    if (encoder.next - encoder.begin < static_cast<std::ptrdiff_t>(2 * lanes)) return false;
    n -= lanes;
    encode_round(table, encoder, in + n, lanes);
  }
  return true;
}

// Always 32 slots at a time, so that most symbols take one round and the CPU can guess it; what is
// too many is overwritten by the next symbol.
void decode_table(const RansModel& model, RansDecodeTable& table) {
  constexpr std::uint32_t kStep = RansDecodeTable::kSpill;
  std::uint32_t* slot = table.slot;
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    const std::uint32_t freq = model.freq[s];
    const std::uint32_t entry = s | freq << 8;
    for (std::uint32_t i = 0; i < freq; i += kStep) {
      for (std::uint32_t j = 0; j < kStep; ++j) slot[i + j] = entry + ((i + j) << 20);
    }
    slot += freq;
  }
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

const RansKernels kRansScalar = {encode, decode_table, decode, split_bf16, join_bf16};

}  // namespace kvferry::kernels
