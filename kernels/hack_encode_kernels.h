// Kernels of the hack codec that make a tile's codes: check, widen, quantize, pack. docs/codecs.md
// has the formulas and layouts; the code of a value x of a column is near (x - minimum) / scale.
//
// Thread contract: pure functions, scratch on the stack. Outputs are equal on every instruction
// set: each function is a fixed sequence of IEEE f32 operations, which cpu/hack_column.h
// defines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hack_kernels.h"
#include "kernels/isa.h"

namespace kvferry::kernels {

// How the range of a column (its scale and minimum) is chosen.
enum class HackRange : std::uint8_t {
  kMinMax,        // the column's minimum and maximum: nothing is clipped
  kSearch,        // the least squared error of nine shrunk ranges
  kLeastSquares,  // search, then at most two rounds of nearest codes and the range that fits them
};

// Scales are at least 2^-126, the smallest normal f32, so that 2 / scale is finite (columns of
// equal values have it), and at most the largest finite bf16. As bf16: 0x0080 and 0x7f7f.
inline constexpr float kHackMinScale = 0x1p-126f;
inline constexpr float kHackMaxScale = 0x1.fep127f;

inline constexpr std::uint32_t kHackMaxRows = 128;

// What `balance` and blocks divide by, as bf16: 2^-126 to 2^126, so that its inverse is normal.
inline constexpr float kHackMinFactor = 0x1p-126f;
inline constexpr float kHackMaxFactor = 0x1p126f;

// A block of values to be quantized: `rows` x 64, row r and column c at x[r * stride + c], or at
// x[c * stride + r] where transposed. Finite bf16. A column's values share a scale and a minimum.
// K: rows are tokens, columns channels. V (transposed): rows are channels, columns tokens.
struct HackBlock {
  const std::uint16_t* x = nullptr;
  std::size_t stride = 0;   // values from one token to the next
  std::uint32_t rows = 64;  // 32, 64 or 128
  bool transposed = false;
  // bf16 [rows] from `balance`, or null for ones: the values are divided by their row's factor.
  const std::uint16_t* row_factor = nullptr;
};

struct HackEncodeKernels {
  // The index of the first bf16 value that is NaN or infinite, or n.
  std::size_t (*first_not_finite)(const std::uint16_t* x, std::size_t n);

  // Writes codes [rows][64], each below 2^bits, and the columns' scale and minimum, bf16 [64]. bits
  // is 1..8.
  void (*quantize_block)(const HackBlock& block, std::uint32_t bits, HackRange range,
                         std::uint8_t* codes, std::uint16_t* scale, std::uint16_t* min);

  // The factors of tokens (bf16 [tokens]) and of channels (bf16 [head_dim]) by which x [tokens]
  // [head_dim], finite bf16, is to be divided so that the deviations of all tokens and of all
  // channels are as equal as alternating divisions make them (docs/codecs.md). tokens is 64 or 128,
  // head_dim 64, 128 or 256. Factors lie in 2^-126 .. 2^126.
  void (*balance)(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                  std::uint16_t* token_factor, std::uint16_t* channel_factor);

  // Packs one sub-plane (kHackSubPlanes), the bits from `shift` up of codes [64][64], bits 1, 2, 4
  // or 8. out word (j, r), at byte 4 (j * lanes + r), j in 0..16/F: byte b, field f is the sub-code
  // of codes[r][4 (F j + f) + b]. K calls it with lanes = 64, V with lanes = head_dim.
  void (*pack_block)(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                     std::size_t lanes, std::byte* out);
};

// The table of one instruction set, and the active one.
const HackEncodeKernels& hack_encode_kernels(Isa isa);
const HackEncodeKernels& hack_encode_kernels();

}  // namespace kvferry::kernels
