// Kernels of layout=paper: attention on codes as HACK publishes it (arXiv 2502.03589, equations 3
// and 4), where keys, values, queries and softmax weights all have a scale and a minimum along the
// axis that is summed over. docs/codecs.md has the formulas, layouts and bounds. They know planes
// of one KV head, never segments.
//
// Quantizing is that of kernels/hack_encode_kernels.h with HackRange::kMinMax, rows being what is
// summed over: channels of a partition for K (transposed), tokens of a partition for V.
//
// Thread contract: pure functions, scratch on the stack. Encoded bytes are equal on every
// instruction set; attention agrees within the bound of docs/codecs.md, and a row's result depends
// on that row alone (row determinism).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_state.h"
#include "kernels/hack_encode_kernels.h"
#include "kernels/isa.h"

namespace kvferry::kernels {

// One KV head of a tile of T = max(64, v_partition) tokens; head_dim D, C = D / k_partition
// partitions of channels, S = T / v_partition partitions of tokens.
//  k_codes, v_codes: for each 64 tokens, K [D][64 tokens] and V [64 tokens][D] packed along their
//    first axis as kernels/hack_kernels.h says: 8 D bits bytes.
//  k_scale, k_min: bf16 [C][T].  v_scale, v_min: bf16 [S][D].
//  k_sums [C][T], v_sums [S][D]: the sums of a partition's codes, u8 where all codes of P values
//    sum to at most 255, else u16 (paper_sum_bytes). Null: attention counts them itself (summation
//    elimination off).
// Codes may be unaligned. Scales are finite and positive, minima finite, sums right. Tokens from
// `tokens` on are not attended to; their codes of V are 0.
struct PaperPlanes {
  std::uint32_t head_dim = 0;     // 64, 128 or 256
  std::uint32_t k_partition = 0;  // channels: 32, 64 or 128, at most head_dim
  std::uint32_t v_partition = 0;  // tokens: 32, 64 or 128
  std::uint32_t tokens = 0;       // 1..T
  std::uint32_t k_bits = 0;       // 1 to 8
  std::uint32_t v_bits = 0;
  const std::byte* k_codes = nullptr;
  const std::byte* k_scale = nullptr;
  const std::byte* k_min = nullptr;
  const std::byte* k_sums = nullptr;
  const std::byte* v_codes = nullptr;
  const std::byte* v_scale = nullptr;
  const std::byte* v_min = nullptr;
  const std::byte* v_sums = nullptr;

  std::uint32_t tile_tokens() const { return v_partition > 64 ? v_partition : 64; }
};

// Bytes of one stored sum.
inline std::size_t paper_sum_bytes(std::uint32_t partition, std::uint32_t bits) {
  return partition * ((1u << bits) - 1u) <= 255 ? 1 : 2;
}

// Random bits of the code at row r and column c: word r row_step + c column_step + first of the
// stream `key`, as base/hash.h counter_random makes them.
struct PaperRandom {
  std::uint64_t key = 0;
  std::uint64_t first = 0;
  std::uint64_t row_step = 0;
  std::uint64_t column_step = 0;
};

struct PaperKernels {
  // Stochastic rounding with the columns' scale and min that HackEncodeKernels::quantize_block
  // chose: writes codes [rows][64]. A place t between two codes becomes the upper one with
  // probability t - floor(t); what is a code already stays.
  void (*round_stochastic)(const HackBlock& block, std::uint32_t bits, const std::uint16_t* scale,
                           const std::uint16_t* min, const PaperRandom& random,
                           std::uint8_t* codes);

  // sums[c] = SUM_r codes[r][c] of codes [rows][64], at most 128 rows.
  void (*sum_codes)(const std::uint8_t* codes, std::uint32_t rows, std::uint16_t* sums);

  // Packs one sub-plane (kHackSubPlanes), the bits from `shift` up of codes [rows][64], along the
  // rows, a multiple of 32. out word (j, c), at byte 4 (j * lanes + c): byte b, field f is the
  // sub-code of codes[4 (F j + f) + b][c]. K calls it with lanes = 64, V with lanes = head_dim.
  void (*pack_rows)(const std::uint8_t* codes, std::uint32_t rows, std::uint32_t shift,
                    std::uint32_t bits, std::size_t lanes, std::byte* out);

  // Whether the stored sums are those of the codes.
  bool (*sums_match)(const PaperPlanes& planes);

  // The scores of `rows` query rows as attend computes them before it adds score_add: out
  // [rows][T]. Those of tokens that are not attended to are unspecified. NaN in a row that f32 does
  // not hold, which attend computes in double.
  void (*scores)(const PaperPlanes& planes, const float* q, std::uint32_t rows, float* out);

  // Attention of states.rows query rows over the tile; merged into states. Queries::score_add is
  // [T / 64][rows][64]. Finite for finite queries: where a score or a sum would leave f32, the row
  // is computed in double and saturates.
  void (*attend)(const PaperPlanes& planes, const Queries& queries, AttentionStates states);
};

const PaperKernels& paper_kernels(Isa isa);
const PaperKernels& paper_kernels();

}  // namespace kvferry::kernels
