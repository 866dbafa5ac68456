// Order-0 entropy coding of bytes: rANS (Duda, arXiv:1311.2540) with 16 or 64 interleaved states,
// 12-bit frequencies and renormalisation by words of 16 bits. Also the split of bf16 values into
// what is worth coding and what is not.
//
// A state x lies in [2^16, 2^32). Decoding a symbol: slot = x mod 4096 lies in the interval
// [start(s), start(s) + freq(s)) of one symbol s; x := freq(s) * (x / 4096) + slot - start(s); if
// x < 2^16 then x := x * 2^16 + the next word. One word is always enough, since x / 4096 >= 2^4.
// Encoding is the exact reverse, so it runs over the symbols from the last to the first.
//
// Symbols are coded in runs: symbol i of a run belongs to state i mod 64 (or 16), so a run may have
// any length, and each may have another model. A stream is the states, then the words in the order
// in which decoding takes them. A state costs 4 bytes, of which its symbols fill about half: 64 are
// for speed, 16 for short streams. Equal input gives equal bytes on every instruction set.
//
// Thread contract: pure functions on the caller's memory. Byte pointers may be unaligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/isa.h"

namespace kvferry::kernels {

inline constexpr std::uint32_t kRansSymbols = 256;
inline constexpr std::uint32_t kRansBits = 12;
inline constexpr std::uint32_t kRansTotal = 1u << kRansBits;  // sum of a model's frequencies
inline constexpr std::uint32_t kRansFewLanes = 16;            // states of a stream:
inline constexpr std::uint32_t kRansLanes = 64;               // one of these two
inline constexpr std::uint32_t kRansLow = 1u << 16;           // least state, and the first one
inline constexpr std::size_t rans_state_bytes(std::uint32_t lanes) { return 4 * lanes; }

// How often each byte is expected out of 4096. 0: it must not occur. None is 4096: an entry of the
// decoder's table has 12 bits for a frequency, and a certain symbol costs 1/3000 of a bit as it is.
struct RansModel {
  std::uint16_t freq[kRansSymbols];
};

// Whether the frequencies add up to 4096 and none is 4096 itself.
bool rans_model_valid(const RansModel& model);

// Frequencies out of weights (counts, say), in proportion but for rounding: at least 1 where the
// weight is not 0. A fixed sequence of integer operations. weights.size() <= 256; their sum is in
// [1, 2^32]. Where one symbol has all the weight, its neighbour gets 1 of 4096.
void rans_fit(std::span<const std::uint64_t> weights, std::uint16_t* freq);

// The model of bytes that hold 8 / bits independent codes, each with the frequencies `code_freq`
// (2^bits of them, which add up to 4096; bits 1, 2, 4 or 8). False when those are not such.
bool rans_product_model(std::span<const std::uint16_t> code_freq, RansModel& model);

// Bits that coding the counted symbols takes under the model, rounded up; far more than 8 a symbol
// when one occurs that the model excludes. A fixed sequence of integer operations.
std::uint64_t rans_cost_bits(const RansModel& model, const std::uint32_t* counts);

// counts[256] += occurrences in in[0..n), n < 2^32.
void rans_count(const std::byte* in, std::size_t n, std::uint32_t* counts);

struct RansDecodeTable {
  static constexpr std::uint32_t kSpill = 32;  // written behind the last slot, read by nobody
  // Of each slot: symbol, frequency << 8, (slot - start) << 20.
  alignas(64) std::uint32_t slot[kRansTotal + kSpill];
};
struct RansEncodeTable {
  // x / freq is the integer part of (x + 0.5) * inverse, exactly: x < freq * 2^20 when it is
  // divided, so the product is below 2^20 + 1 and errs by less than 2^-31, and x + 0.5 is at least
  // half a freq-th, 2^-13, away from a multiple.
  double inverse[kRansSymbols];
  std::uint32_t interval[kRansSymbols];  // frequency, start << 16
};
void rans_encode_table(const RansModel& model, RansEncodeTable& table);

struct RansDecoder {
  alignas(64) std::uint32_t state[kRansLanes];
  std::uint32_t lanes;
  const std::byte* next;  // words not yet taken: [next, end)
  const std::byte* end;
};
struct RansEncoder {
  alignas(64) std::uint32_t state[kRansLanes];
  std::uint32_t lanes;
  std::byte* begin;  // words are written downwards to [begin, next)
  std::byte* next;
};

// Room for words in [begin, end).
void rans_start(RansEncoder& encoder, std::uint32_t lanes, std::byte* begin, std::byte* end);
// The states and words of a stream. False when it is shorter than the states.
bool rans_open(RansDecoder& decoder, std::uint32_t lanes, std::span<const std::byte> stream);
// Whether all words were taken and every state is back where the encoder began: what a damaged
// stream has no better chance to pass than 2^-32 a changed state.
bool rans_closed(const RansDecoder& decoder);

struct RansKernels {
  // One run, the last of the stream first. False when the words may not fit (as many words of room
  // as there are states are enough for as many symbols); the encoder is then of no more use.
  // Symbols of frequency 0 must not occur.
  bool (*encode)(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
                 std::size_t n);
  void (*decode_table)(const RansModel& model, RansDecodeTable& table);
  // One run, the first of the stream first. False when words are missing; what was written to
  // out[0..n) is then unspecified. Any states and words are safe.
  bool (*decode)(const RansDecodeTable& table, RansDecoder& decoder, std::byte* out, std::size_t n);

  // A bf16 value in two bytes: the 8 bits of its exponent, and its sign (bit 7) with the 7 bits of
  // its mantissa. in, out: n bf16 values; exponent, rest: n bytes.
  void (*split_bf16)(const std::byte* in, std::size_t n, std::byte* exponent, std::byte* rest);
  void (*join_bf16)(const std::byte* exponent, const std::byte* rest, std::size_t n,
                    std::byte* out);
};

const RansKernels& rans_kernels(Isa isa);
const RansKernels& rans_kernels();

}  // namespace kvferry::kernels
