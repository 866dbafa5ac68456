// The Llama family on the CPU: RMSNorm, rotary attention with grouped KV heads, SwiGLU; with biases
// in attention's projections (Qwen2) and norms of each head's Q and K (Qwen3) where the config
// says.
//
// A step's rows are cut into pieces of kStepRows over the concatenation of the chunks, and each
// piece goes through all layers. Residual stream, norms, rope and attention states are f32; with
// Compute::kBf16 the inputs of a GEMM are rounded to bf16, its sums stay f32.
//
// Thread contract: as Model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "model/attention.h"
#include "model/gemm_kernel.h"
#include "model/model.h"
#include "model/removed_bias.h"
#include "model/step_kv.h"
#include "model/weights.h"

namespace kvferry::model {

class LlamaModel : public Model {
 public:
  // The GEMM kernels are those that the weights were packed with.
  LlamaModel(ModelConfig config, Compute compute, ComputePool& pool, LlamaWeights weights,
             std::uint64_t fingerprint, std::uint64_t numerics_class);

  const ModelConfig& config() const override { return config_; }
  Compute compute() const override { return compute_; }
  std::uint64_t fingerprint() const override { return fingerprint_; }
  std::uint64_t numerics_class() const override { return numerics_class_; }
  Status forward(std::span<const SequenceChunk> chunks, std::vector<float>& logits,
                 const TilesClosed& tiles_closed) override;
  ComputePool& pool() override { return pool_; }
  const StepTimings& last_step() const override { return timings_; }
  void observe(AttentionObserver observer) override { observer_ = std::move(observer); }

 private:
  Status check(std::span<const SequenceChunk> chunks) const;
  // Up to kStepRows rows of a step.
  struct HeadRow {
    std::uint32_t row = 0;  // in the piece
    std::size_t out = 0;    // in logits
  };
  struct Piece {
    std::vector<StepPart> parts;
    std::vector<std::int32_t> ids;
    std::vector<HeadRow> head_rows;
  };
  Status run_piece(Piece piece, std::vector<float>& logits, const TilesClosed& tiles_closed);
  Status run_layer(std::uint32_t layer, const TilesClosed& tiles_closed);

  // The stages of a layer; each spreads itself over the pool.
  void embed(const std::vector<std::int32_t>& ids);
  void prepare_rope();
  void norm_rows(const float* x, const std::vector<float>& weight, std::uint32_t rows,
                 std::byte* out);
  void project_qkv(const LayerWeights& weights);
  void rotate_and_store(std::uint32_t layer);
  // Adds the projections' biases to one row, but for what `codec` wants left out.
  void add_biases(std::uint32_t layer, const codec::Codec& codec, float* q, float* k,
                  float* v) const;
  void tell_observer(std::uint32_t layer) const;
  void keep_bias_terms(std::uint32_t layer, std::uint32_t row, const float* q);
  void norm_heads(const std::vector<float>& weight, std::size_t heads, float* x,
                  float* scratch) const;
  // x += linear(input) + bias, where there is one.
  void add_product(const Linear& linear, const std::byte* input, const std::vector<float>& bias);
  void mlp(const LayerWeights& weights);
  void head(const std::vector<HeadRow>& rows, std::vector<float>& logits);

  void for_rows(std::uint32_t rows, const std::function<void(std::uint32_t row, int worker)>& task);
  void gemm(const Linear& linear, const std::byte* x, std::uint32_t rows,
            const Linear::Epilogue& epilogue);
  void round_row(const float* x, std::size_t n, std::byte* out) const;
  std::size_t element_bytes() const { return compute_ == Compute::kBf16 ? 2 : 4; }

  ModelConfig config_;
  const Compute compute_;
  ComputePool& pool_;
  const LlamaWeights weights_;
  const std::uint64_t fingerprint_, numerics_class_;

  // Memory of a piece, reused. Rows: kStepRows, the number in use is rows_.
  std::uint32_t rows_ = 0;
  std::vector<float> x_;                         // [rows][hidden] residual stream
  std::vector<std::byte> normed_;                // [rows][hidden] compute type
  std::vector<float> qkv_;                       // [rows][q + 2 kv]
  std::vector<float> bias_terms_;                // [rows][q heads][2 * most_pairs()]
  std::vector<std::byte> attended_;              // [rows][q heads * head_dim] compute type
  std::vector<std::byte> activated_;             // [rows][intermediate] compute type
  std::vector<float> cos_, sin_;                 // [rows][head_dim / 2]
  std::vector<std::vector<float>> row_scratch_;  // one row for each worker
  std::vector<GemmScratch> gemm_scratch_;
  const std::vector<double> frequency_;  // [head_dim / 2], radians a token
  RemovedBias removed_bias_;
  StepKv step_;
  Attention attention_;
  StepTimings timings_;
  AttentionObserver observer_;
};

}  // namespace kvferry::model
