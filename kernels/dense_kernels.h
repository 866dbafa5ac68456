// Kernels on dense rows: norms, rope, activation, Hadamard, bf16 conversion, and attention over one
// dense tile. One table of functions per instruction set; the contract is the same for all:
// a row's result depends on that row alone, never on how many rows are given or where it stands
// among them (row determinism), and every sum has one fixed order per instruction set. All pointers
// need the alignment of their element type only. rms_norm, rope, add, to_bf16, from_bf16, hadamard
// (in f32 and bf16) and normalize give equal bits on every instruction set; the others on AVX2 and
// AVX-512. bf16 values are the upper half of an IEEE f32, rounded to nearest even, stored in
// uint16_t. No kernel allocates, throws, or reads outside the shapes it is given.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_state.h"
#include "kernels/isa.h"

namespace kvferry::kernels {

inline constexpr std::uint32_t kTileTokens = 64;  // tokens of a tile on the absolute grid
inline constexpr std::uint32_t kMaxHeadDim = 256;

// f32 <-> bf16 of one value. NaN stays NaN. Rounds to nearest, ties to even.
std::uint16_t bf16_from_f32(float value);
float f32_from_bf16(std::uint16_t value);

// Waves of a token's position, at most kMaxHeadDim / 2. Not owned.
struct Waves {
  std::size_t count = 0;
  const float* terms = nullptr;  // [rows][2][count]: A_p, then B_p
  const float* turn = nullptr;   // [2][count]: cosines, then sines of c_p, the angle of the centre
  // [count][2][kTileTokens / 2]: cosines, then sines of x_t w_p, for the tokens behind the centre.
  const float* basis = nullptr;
};

struct DenseKernels {
  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + eps), one row of n values. In f32.
  void (*rms_norm)(const float* x, const float* weight, float eps, std::size_t n, float* out);

  // Rotary embedding of the half-split kind (Llama): the pairs are (x[i], x[i + d/2]).
  // x: [heads][head_dim] in place. cos, sin: [head_dim / 2] of this row's position.
  void (*rope)(float* x, const float* cos, const float* sin, std::size_t heads,
               std::size_t head_dim);

  // out[i] = silu(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, std::size_t n, float* out);

  // out[i] += x[i].
  void (*add)(const float* x, std::size_t n, float* out);

  void (*to_bf16)(const float* x, std::size_t n, std::uint16_t* out);
  void (*from_bf16)(const std::uint16_t* x, std::size_t n, float* out);

  // Normalised Walsh-Hadamard transform (natural order) of each of `heads` rows of head_dim (a
  // power of two, 2..256), in place: butterflies of stride 1, 2, 4, ... in f32, then one
  // multiplication by 1/sqrt(head_dim) rounded to f32. Its own inverse up to rounding. Equal bits
  // on every instruction set, because encoded bytes depend on it.
  void (*hadamard)(float* x, std::size_t heads, std::size_t head_dim);
  // The same, then to_bf16, in one pass: row h goes to out + h * stride.
  void (*hadamard_bf16)(const float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
                        std::size_t stride);

  // Attention of `rows` query rows over one tile of dense keys and values of one KV head, merged
  // into `states`. k, v: [kTileTokens][head_dim], bf16 or f32. Row r sees the first visible[r]
  // tokens (0..64; 0 leaves its state as it was); visible == nullptr means all 64. head_dim
  // is 1..kMaxHeadDim; multiples of 32 are fast. Uses up to 136 KiB of stack. Tokens beyond
  // visible[r] are not used (they may hold anything finite). Scores and p in f32; p is taken
  // against this tile's own maximum, then the tile's state is merged. Finite for finite queries,
  // keys and values: scores are held to +-2^126, sums of values to the largest f32.
  void (*attend_dense_bf16)(const Queries& queries, const std::uint16_t* k, const std::uint16_t* v,
                            const std::uint32_t* visible, AttentionStates states);
  void (*attend_dense_f32)(const Queries& queries, const float* k, const float* v,
                           const std::uint32_t* visible, AttentionStates states);

  // What waves add to the scores of a tile: with x_t = t - 31.5 the distance from its centre,
  //   out[r][t] = SUM_p a cos(x_t w_p) + b sin(x_t w_p),
  //   a = A_p cos(c_p) + B_p sin(c_p),  b = B_p cos(c_p) - A_p sin(c_p),
  // cosines and sines summed apart, each one chain of fma over p from 0. a and b are clamped to
  // +-kMaxScoreAdd / (2 kMaxHeadDim), so out stays within kMaxScoreAdd. out: [rows][kTileTokens].
  void (*score_waves)(const Waves& waves, std::size_t rows, float* out);

  // states := merge(states, other), row by row. Both have the same shape.
  void (*merge_states)(AttentionStates states, AttentionStates other);

  // out[r][d] = o[r][d] / l[r]; zeros where l == 0.
  void (*normalize)(AttentionStates states, float* out);
};

// The table of one instruction set (which the CPU must have), and the active one.
const DenseKernels& dense_kernels(Isa isa);
const DenseKernels& dense_kernels();

}  // namespace kvferry::kernels
