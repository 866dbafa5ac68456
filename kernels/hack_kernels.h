// Kernels of the hack codec that attend on the codes of a tile, which those of
// hack_encode_kernels.h make. They know planes (arrays of codes, scales and minima of one KV head),
// never segments. docs/codecs.md has the formulas and layouts; the code of a value x of a column is
// near (x - minimum) / scale.
//
// Thread contract: pure functions, scratch on the stack. Instruction sets agree within the bound of
// docs/codecs.md, and a row's result depends on that row alone (row determinism).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_state.h"
#include "kernels/isa.h"

namespace kvferry::kernels {

// Quantization works on blocks of 64 x 64 values: 64 rows, along which a column's scale and
// minimum are shared, and 64 columns. K: rows are tokens and columns channels. V: rows are the 64
// channels of a group and columns are tokens.
inline constexpr std::uint32_t kHackBlock = 64;

// A code of b bits, 1 to 8, lies in sub-planes of 8, 4, 2 or 1 bits: the bits from `shift` up of
// every code. The largest sub-plane is the first and holds the lowest bits, so that the sub-plane
// at `shift` begins 8 head_dim shift bytes into the plane of codes, which has 8 head_dim b in all.
// Dots add up: SUM a code = SUM over sub-planes of 2^shift SUM a sub-code.
struct HackSubPlane {
  std::uint32_t bits, shift;
};
struct HackSubPlanes {
  std::uint32_t count;
  HackSubPlane part[3];
};
inline constexpr HackSubPlanes kHackSubPlanes[9] = {
    // [bits of a code]
    {0, {}},       {1, {{1, 0}}},         {1, {{2, 0}}},         {2, {{2, 0}, {1, 2}}},
    {1, {{4, 0}}}, {2, {{4, 0}, {1, 4}}}, {2, {{4, 0}, {2, 4}}}, {3, {{4, 0}, {2, 4}, {1, 6}}},
    {1, {{8, 0}}},
};

// One KV head of 64 tokens of a closed tile, head_dim D. A tile of 128 tokens is attended to as two
// of these. The value that a code means is
//   K: k_row[t] (k_scale code + k_min)        V: v_column[d] (v_scale code + v_min).
//
// Codes, each sub-plane of s bits with F = 8 / s fields a byte:
//  k_codes: u32 [D / (4F)][64 tokens]. Byte b, bit field f of word (j, t) is the (sub-)code of
//           channel 4 (F j + f) + b of token t.
//  v_codes: u32 [64 / (4F)][D channels]. Byte b, bit field f of word (j, d) is the (sub-)code of
//           token 4 (F j + f) + b of channel d.
// Scales and minima:
//  k_scale, k_min: bf16 [64 / min(k_group, 64)][D], of a channel and k_group tokens. With k_group
//           128 the two halves of a tile of 128 tokens share them.
//  v_scale, v_min: bf16 [D / v_group][64 tokens], of a token and v_group channels.
//  k_row:   bf16 [64 tokens], or null for ones.
//  v_column: bf16 [D], or null for ones.
// All may be unaligned. Scales, rows and columns are positive normal numbers, minima finite.
struct HackPlanes {
  std::uint32_t head_dim = 0;  // 64, 128 or 256
  std::uint32_t k_bits = 0;    // 1 to 8
  std::uint32_t v_bits = 0;    // 1 to 8
  std::uint32_t k_group = 64;  // 32, 64 or 128 tokens
  std::uint32_t v_group = 64;  // 32, 64 or 128 channels, at most head_dim
  const std::byte* k_codes = nullptr;
  const std::byte* v_codes = nullptr;
  const std::byte* k_scale = nullptr;
  const std::byte* k_min = nullptr;
  const std::byte* v_scale = nullptr;
  const std::byte* v_min = nullptr;
  const std::byte* k_row = nullptr;
  const std::byte* v_column = nullptr;
};

// Query rows, and the tile that they attend to.
struct HackWork {
  HackPlanes planes;
  Queries queries;
  AttentionStates states;
};

struct HackKernels {
  // For each work in order: attention of its query rows over all 64 tokens, merged into its states.
  // Works may share their states, whole ones. Finite for finite queries: where a score or a sum
  // would leave f32, the row is computed in double and saturates. Many works in one call are faster
  // than one by one, since steps of one hide behind those of another; the results are the same
  // bits.
  void (*attend)(const HackWork* work, std::size_t count);
};

// The table of one instruction set, and the active one.
const HackKernels& hack_kernels(Isa isa);
const HackKernels& hack_kernels();

}  // namespace kvferry::kernels
