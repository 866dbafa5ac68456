// The online-softmax state that every attention kernel merges into, on CPU and GPU alike.
//
// For one query row over a set of tokens T with scores s_t:
//   m = max_t s_t,  l = SUM_t exp(s_t - m),  o[d] = SUM_t exp(s_t - m) v_t[d]   (not normalised)
// Merging two states over disjoint sets (Milakov and Gimelshein 2018, FlashAttention):
//   m = max(m1, m2), l = l1 e^(m1-m) + l2 e^(m2-m), o likewise.
// The empty state is m = -infinity, l = 0, o = 0. Merging two empty states gives an empty state
// (never exp(-inf - -inf) = NaN), and an empty state normalises to zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvferry::kernels {

// States of `rows` query rows. Not owned. o is [rows][head_dim] with stride head_dim.
struct AttentionStates {
  float* m = nullptr;  // [rows]
  float* l = nullptr;  // [rows]
  float* o = nullptr;  // [rows][head_dim]
  std::uint32_t rows = 0;
  std::uint32_t head_dim = 0;
};

// Memory that will be read soon, a few tiles of work later. A kernel asks for it (prefetch) line by
// line between its own steps: asked for at once, more lines are missing than a core can wait for
// (24 on Zen 4), and it stops. Never read through; may be unaligned.
struct Ahead {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

// What an attention kernel asks with. Not owned. Rows are those of the states.
struct Queries {
  const float* q = nullptr;  // [rows][head_dim], already multiplied by 1/sqrt(head_dim)
  // Added to the scores, or null for nothing: [rows][kTileTokens], of magnitude at most
  // kMaxScoreAdd.
  const float* score_add = nullptr;
  Ahead ahead = {};
};
// Far beyond any score, and far enough below the largest f32 that sums with it stay finite.
inline constexpr float kMaxScoreAdd = 0x1p100f;

}  // namespace kvferry::kernels
