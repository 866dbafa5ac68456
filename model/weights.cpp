#include "model/weights.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "base/hash.h"

namespace kvferry::model {

std::uint32_t panel_width(std::uint32_t out) { return out >= 1024 ? 256 : 128; }

namespace {

class Loader {
 public:
  Loader(const ModelConfig& config, Compute compute, const TensorSource& source,
         GemmKernels& kernels, ComputePool& pool, const std::function<void(double)>& progress)
      : config_(config),
        compute_(compute),
        source_(source),
        kernels_(kernels),
        pool_(pool),
        progress_(progress) {}

  Result<LlamaWeights> load() {
    LlamaWeights weights;
    KVF_RETURN_IF_ERROR(load_embedding(weights));
    for (std::uint32_t i = 0; i < config_.layers; ++i) {
      KVF_ASSIGN_OR_RETURN(auto layer, load_layer(i));
      weights.layers.push_back(std::move(layer));
      if (progress_) progress_((i + 1.0) / (config_.layers + 1.0));
    }
    KVF_ASSIGN_OR_RETURN(weights.final_norm, vector("model.norm.weight", config_.hidden));
    const std::string head = config_.tied_embeddings ? kEmbedding : "lm_head.weight";
    KVF_ASSIGN_OR_RETURN(const auto tensor, source_.find(head, config_.vocab, config_.hidden));
    KVF_ASSIGN_OR_RETURN(weights.head, stacked(config_.hidden, {tensor}));
    weights.fingerprint = fingerprint_;
    if (progress_) progress_(1.0);
    return weights;
  }

 private:
  static constexpr const char* kEmbedding = "model.embed_tokens.weight";

  std::size_t element_bytes() const { return compute_ == Compute::kBf16 ? 2 : 4; }

  Status load_embedding(LlamaWeights& weights) {
    KVF_ASSIGN_OR_RETURN(const auto tensor,
                         source_.find(kEmbedding, config_.vocab, config_.hidden));
    const std::size_t row_bytes = config_.hidden * element_bytes();
    weights.embedding.resize(config_.vocab * row_bytes);
    constexpr std::uint32_t kRows = 256;
    const std::size_t pieces = (config_.vocab + kRows - 1) / kRows;
    std::vector<std::uint64_t> hashes(pieces);
    pool_.parallel_for(pieces, [&](std::size_t i, int) {
      const auto row0 = static_cast<std::uint32_t>(i) * kRows;
      const std::uint32_t rows = std::min(kRows, config_.vocab - row0);
      std::byte* out = weights.embedding.data() + row0 * row_bytes;
      source_.read_rows(tensor, row0, rows, compute_, out);
      hashes[i] = hash64(std::span<const std::byte>(out, rows * row_bytes));
    });
    mix(std::as_bytes(std::span(hashes)));
    return ok_status();
  }

  Result<LayerWeights> load_layer(std::uint32_t index) {
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const auto& c = config_;
    const std::uint32_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    LayerWeights layer;
    KVF_ASSIGN_OR_RETURN(layer.input_norm, vector(prefix + "input_layernorm.weight", c.hidden));
    KVF_ASSIGN_OR_RETURN(layer.post_norm,
                         vector(prefix + "post_attention_layernorm.weight", c.hidden));
    const auto find = [&](const char* name, std::uint32_t rows, std::uint32_t columns) {
      return source_.find(prefix + name + ".weight", rows, columns);
    };
    KVF_ASSIGN_OR_RETURN(const auto q_proj, find("self_attn.q_proj", q, c.hidden));
    KVF_ASSIGN_OR_RETURN(const auto k_proj, find("self_attn.k_proj", kv, c.hidden));
    KVF_ASSIGN_OR_RETURN(const auto v_proj, find("self_attn.v_proj", kv, c.hidden));
    KVF_ASSIGN_OR_RETURN(layer.qkv, stacked(c.hidden, {q_proj, k_proj, v_proj}));
    KVF_ASSIGN_OR_RETURN(const auto o_proj, find("self_attn.o_proj", c.hidden, q));
    KVF_ASSIGN_OR_RETURN(layer.o, stacked(q, {o_proj}));
    KVF_ASSIGN_OR_RETURN(const auto gate, find("mlp.gate_proj", c.intermediate, c.hidden));
    KVF_ASSIGN_OR_RETURN(const auto up, find("mlp.up_proj", c.intermediate, c.hidden));
    KVF_ASSIGN_OR_RETURN(layer.gate_up, interleaved(gate, up));
    KVF_ASSIGN_OR_RETURN(const auto down, find("mlp.down_proj", c.hidden, c.intermediate));
    KVF_ASSIGN_OR_RETURN(layer.down, stacked(c.intermediate, {down}));
    return layer;
  }

  Result<std::vector<float>> vector(const std::string& name, std::uint32_t n) {
    KVF_ASSIGN_OR_RETURN(const auto tensor, source_.find(name, 0, n));
    std::vector<float> values(n);
    source_.read_rows(tensor, 0, 1, Compute::kF32, reinterpret_cast<std::byte*>(values.data()));
    mix(std::as_bytes(std::span(values)));
    return values;
  }

  // The tensors' rows one below the other.
  Result<std::unique_ptr<Linear>> stacked(std::uint32_t in, std::vector<TensorRef> tensors) {
    std::uint32_t out = 0;
    for (const auto& tensor : tensors) out += tensor.rows;
    const auto fill = [&, in](std::uint32_t row0, std::uint32_t rows, std::byte* to) {
      std::uint32_t base = 0;
      for (const auto& tensor : tensors) {
        const std::uint32_t first = std::max(row0, base);
        const std::uint32_t last = std::min(row0 + rows, base + tensor.rows);
        if (first < last) {
          source_.read_rows(tensor, first - base, last - first, compute_,
                            to + std::size_t{first - row0} * in * element_bytes());
        }
        base += tensor.rows;
      }
    };
    return Linear::create(kernels_, pool_, compute_, in, out, panel_width(out), fill,
                          &fingerprint_);
  }

  Result<std::unique_ptr<Linear>> interleaved(const TensorRef& gate, const TensorRef& up) {
    const std::uint32_t in = config_.hidden, out = 2 * config_.intermediate;
    const auto fill = [&, in](std::uint32_t row0, std::uint32_t rows, std::byte* to) {
      const std::uint32_t half = rows / 2;
      source_.read_rows(gate, row0 / 2, half, compute_, to);
      source_.read_rows(up, row0 / 2, half, compute_,
                        to + std::size_t{half} * in * element_bytes());
    };
    return Linear::create(kernels_, pool_, compute_, in, out, panel_width(out), fill,
                          &fingerprint_);
  }

  void mix(std::span<const std::byte> bytes) { fingerprint_ = hash64(bytes, fingerprint_); }

  const ModelConfig& config_;
  const Compute compute_;
  const TensorSource& source_;
  GemmKernels& kernels_;
  ComputePool& pool_;
  const std::function<void(double)>& progress_;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace

Result<LlamaWeights> load_weights(const ModelConfig& config, Compute compute,
                                  const TensorSource& source, GemmKernels& kernels,
                                  ComputePool& pool, const std::function<void(double)>& progress) {
  return Loader(config, compute, source, kernels, pool, progress).load();
}

}  // namespace kvferry::model
