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

// One KV head of a closed tile: 64 tokens, head_dim D, G = D / 64 groups of channels. F = 8 / bits
// codes share a byte, W = bits * 64 / 32 words a lane and block of 64.
//  k_codes: u32 [D / (4F)][64 tokens]. Byte b, bit field f of word (j, t) is the code of channel
//           4 (F j + f) + b of token t.
//  v_codes: u32 [64 / (4F)][D channels]. Byte b, bit field f of word (j, d) is the code of token
//           4 (F j + f) + b of channel d.
//  k_scale, k_min: bf16 [D].  v_scale, v_min: bf16 [G][64 tokens].
// Codes may be unaligned. Scales are finite and positive, minima finite.
struct HackPlanes {
  std::uint32_t head_dim = 0;  // 64, 128 or 256
  std::uint32_t k_bits = 0;    // 2, 4 or 8
  std::uint32_t v_bits = 0;
  const std::byte* k_codes = nullptr;
  const std::byte* v_codes = nullptr;
  const std::byte* k_scale = nullptr;
  const std::byte* k_min = nullptr;
  const std::byte* v_scale = nullptr;
  const std::byte* v_min = nullptr;
};

struct HackKernels {
  // Attention of states.rows query rows over all 64 tokens; merged into states. Finite for finite
  // queries: where a score or a sum would leave f32, the row is computed in double and saturates.
  void (*attend)(const HackPlanes& planes, const Queries& queries, AttentionStates states);
};

const HackKernels& hack_kernels(Isa isa);
const HackKernels& hack_kernels();

// The instruction set whose functions hack_kernels(isa) really holds: there are none for AVX2,
// which runs the scalar ones. For reports of what ran.
Isa hack_kernels_isa(Isa isa);

// What the codes mean: k, v [64][head_dim] f32, each one rounding of scale * code + minimum,
// saturated to the largest finite f32. Not fast: for tests and for peers that ask.
void hack_reconstruct(const HackPlanes& planes, float* k, float* v);

}  // namespace kvferry::kernels
