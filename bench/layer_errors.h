// How much error a codec puts into attention, layer by layer: of the scores by what it does to K,
// and of the outputs by what it does to V.
//
// Of a query q of the token at position p, with t over positions 0 .. p, K, V and the softmax
// weights w of the run with `raw`, and K', V' the KV that the codec stored for the same tokens in
// its own run, before (K, V) and after encoding (K^, V^), in its domain:
//
//   score error   e_t = q' . (K^_t - K'_t) / sqrt(head_dim)      q' = q in the codec's domain
//   K             sqrt( SUM_q SUM_t (e_t - mean e)^2 / SUM_q SUM_t (s_t - mean s)^2 )
//                 where s_t = q . K_t / sqrt(head_dim): a shift of all scores changes no weight
//   V             sqrt( SUM_q | SUM_t w_t (V^_t - V'_t) |^2 / SUM_q | SUM_t w_t V_t |^2 )
//                 the difference brought back out of the domain
//
// Tokens of p's own tile are not encoded yet and have no error, but count among the t. The rounding
// of q and of the weights, which attention on codes adds, is not in it; the divergence of the next
// token is measured with it.
//
// Thread contract: one thread, which drives the pool.
#pragma once

#include <cstdint>
#include <vector>

#include "base/compute_pool.h"
#include "codec/sequence_kv.h"
#include "model/model.h"

namespace kvferry::bench {

// The KV of one sequence before encoding, and the queries at some of its positions.
class AttentionTrace {
 public:
  // positions: ascending, below `tokens`.
  AttentionTrace(const codec::KvGeometry& geometry, std::uint32_t tokens,
                 std::vector<std::uint32_t> positions);

  // For Model::observe in a run with `codec`.
  void record(const model::AttentionInputs& inputs, const codec::Codec& codec);

  struct Layer {
    std::vector<float> k, v;  // [kv_heads][tokens][head_dim]
    std::vector<float> q;     // [positions][q_heads][head_dim]
  };
  const Layer& layer(std::uint32_t i) const { return layers_[i]; }
  const codec::KvGeometry& geometry() const { return geometry_; }
  const std::vector<std::uint32_t>& positions() const { return positions_; }
  std::uint32_t tokens() const { return tokens_; }

 private:
  const codec::KvGeometry geometry_;
  const std::uint32_t tokens_;
  const std::vector<std::uint32_t> positions_;
  std::vector<Layer> layers_;
};

// Exact attention of a trace's queries, for one query head of a layer.
struct ExactHead {
  std::vector<float> weights;  // of position i: [positions[i] + 1], one after the other
  double score_spread = 0.0;   // SUM_q SUM_t (s_t - mean s)^2
  double output_square = 0.0;  // SUM_q | SUM_t w_t V_t |^2
};
// [layers][q_heads].
std::vector<ExactHead> exact_attention(const AttentionTrace& trace, ComputePool& pool);

// The four sums of a layer; those of several sequences add up.
struct LayerErrors {
  double score_error = 0.0, score_spread = 0.0;
  double output_error = 0.0, output_square = 0.0;

  void add(const LayerErrors& other);
  double k() const;  // 0 where nothing was measured
  double v() const;
};
// own: the trace of the run that filled `kv`. One entry a layer.
std::vector<LayerErrors> layer_errors(const AttentionTrace& raw,
                                      const std::vector<ExactHead>& exact,
                                      const AttentionTrace& own, const codec::SequenceKv& kv,
                                      ComputePool& pool);

}  // namespace kvferry::bench
