// Which biases of the projections of K and V are left out of the KV that a codec quantizes, and
// how they are given back (codec::CodecTraits::removes_bias).
//
// A bias b_v of V moves every value vector alike, so attention's normalised output moves by b_v: it
// is left out of V and added once. A bias of K is turned by rope: in the pair of channels i a token
// at position t holds RoPE_t(b_i). Where a pair turns within a tile, that is a wave that the
// channel's scale and minimum cannot absorb. It is left out, and a query q gets back
//   q . RoPE_t(b) = SUM_i A_i cos(t w_i) + B_i sin(t w_i),
//   A_i = q_i b_i + q_i' b_i',  B_i = q_i' b_i - q_i b_i'      (i' = i + head_dim / 2, w_i rope's)
// in f32, from the query's A and B and the angles of a tile's centre and of its tokens about it.
//
// A pair is left out where its wavelength is below kSlowWavelength tokens, beyond which it is
// nearly constant within a tile and the minimum absorbs it, and its bias is large: above
// kLargeBias times the deviation that K's channels have without it, which is estimated from the
// projection's rows for inputs of the norm's weights times independent values of variance 1.
// None is where K is normed after the bias is added (Qwen3).
//
// Thread contract: immutable but for reserve(); const functions from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"

namespace kvferry::model {

inline constexpr double kSlowWavelength = 8.0 * 64;
inline constexpr double kLargeBias = 0.5;

class RemovedBias {
 public:
  // A layer's biases and what estimates the deviation of K. Spans may be empty: no bias.
  struct Layer {
    std::span<const float> k_bias, v_bias;  // [kv_heads * head_dim]
    std::span<const float> k_deviation;     // [kv_heads * head_dim]
  };
  // frequencies: rope_frequencies(config).
  RemovedBias(const ModelConfig& config, std::span<const double> frequencies,
              std::span<const Layer> layers);

  // What KvGeometry::removed_bias shall be: 0 where nothing is left out.
  std::uint64_t id() const { return id_; }

  // The part of K's bias that stays, [kv_heads * head_dim]; empty where there is no bias.
  const std::vector<float>& kept_k(std::uint32_t layer) const { return layers_[layer].kept_k; }
  // Pairs of one KV head that are left out.
  std::size_t pairs(std::uint32_t layer, std::uint32_t kv_head) const {
    return layers_[layer].heads[kv_head].size();
  }
  std::size_t most_pairs() const { return most_pairs_; }  // of any head

  // A of each pair, then B, of a query [head_dim] after rope, times `scale`: out [2][pairs].
  void query_terms(std::uint32_t layer, std::uint32_t kv_head, const float* q, float scale,
                   float* out) const;

  // Makes the tables for tiles [0, tiles). Engine thread, while nobody else is in here.
  void reserve(std::uint32_t tiles);
  // What the terms [2][pairs] of `rows` queries add to the scores of a tile's tokens: out
  // [rows][64].
  void add_scores(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t tile,
                  const float* terms, std::size_t rows, float* out) const;

 private:
  struct Pair {
    std::uint32_t index;          // rope's
    float first = 0, second = 0;  // b_i, b_i'
  };
  struct LayerTables {
    std::vector<float> kept_k;
    std::vector<std::vector<Pair>> heads;
    // For each head, as kernels::Waves has it.
    std::vector<std::vector<float>> basis;
  };

  std::vector<Pair> choose_pairs(const Layer& layer, std::uint32_t kv_head) const;
  std::vector<float> make_basis(const std::vector<Pair>& pairs) const;

  const std::size_t head_dim_;
  const std::vector<double> frequencies_;
  std::vector<LayerTables> layers_;
  std::uint64_t id_ = 0;
  std::size_t most_pairs_ = 0;
  std::uint32_t fast_ = 0;    // pairs 0 .. fast_ - 1 are those left out anywhere
  std::vector<float> turns_;  // [tiles][fast_][cos, sin] of a tile's centre
};

}  // namespace kvferry::model
