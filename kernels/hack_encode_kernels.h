// Kernels of the hack codec that make a tile's codes: check, widen, quantize, pack. docs/codecs.md
// has the formulas and layouts; the code of a value x of a column is near (x - minimum) / scale.
//
// Thread contract: pure functions, scratch on the stack. Outputs are equal on every instruction
// set: each function is a fixed sequence of IEEE f32 operations, which hack_encode_scalar.cpp
// defines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/hack_kernels.h"
#include "kernels/isa.h"

namespace kvferry::kernels {

enum class HackRange : std::uint8_t {
  kMinMax,  // the column's minimum and maximum: nothing is clipped
  kSearch,  // the least squared error of nine shrunk ranges
};

// The smallest scale, which columns of equal values have: 2^-126, the smallest normal f32, so that
// 2 / scale is finite. As bf16: 0x0080.
inline constexpr float kHackMinScale = 0x1p-126f;

struct HackEncodeKernels {
  // The index of the first bf16 value that is NaN or infinite, or n.
  std::size_t (*first_not_finite)(const std::uint16_t* x, std::size_t n);

  // out[r][c] = x[r * stride + c] (widen) or x[c * stride + r] (transpose), for r, c in 0..63.
  void (*widen_block)(const std::uint16_t* x, std::size_t stride, float* out);
  void (*transpose_block)(const std::uint16_t* x, std::size_t stride, float* out);

  // x: [64][64], finite bf16 values. Writes codes [64][64] and the columns' scale and min, bf16
  // [64].
  void (*quantize_block)(const float* x, std::uint32_t bits, HackRange range, std::uint8_t* codes,
                         std::uint16_t* scale, std::uint16_t* min);

  // Packs one sub-plane (kHackSubPlanes), the bits from `shift` up of codes [64][64], bits 1, 2, 4
  // or 8. out word (j, r), at byte 4 (j * lanes + r), j in 0..16/F: byte b, field f is the sub-code
  // of codes[r][4 (F j + f) + b]. K calls it with lanes = 64, V with lanes = head_dim.
  void (*pack_block)(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                     std::size_t lanes, std::byte* out);
};

// The table of one instruction set, and the active one. AVX2 has none of its own and runs the
// scalar functions.
const HackEncodeKernels& hack_encode_kernels(Isa isa);
const HackEncodeKernels& hack_encode_kernels();

}  // namespace kvferry::kernels
