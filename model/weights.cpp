#include "model/weights.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
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
    KVF_ASSIGN_OR_RETURN(const auto tensors, find_all());
    KVF_RETURN_IF_ERROR(refuse_unused());
    LlamaWeights weights;
    KVF_RETURN_IF_ERROR(load_embedding(tensors.embedding, weights));
    for (const auto& layer : tensors.layers) {
      KVF_ASSIGN_OR_RETURN(auto packed, load_layer(layer));
      weights.layers.push_back(std::move(packed));
      report(static_cast<double>(weights.layers.size()) / (config_.layers + 1.0));
    }
    weights.final_norm = vector(tensors.final_norm);
    KVF_ASSIGN_OR_RETURN(weights.head, stacked(config_.hidden, {tensors.head}));
    KVF_RETURN_IF_ERROR(source_.read_status());
    weights.fingerprint = fingerprint_;
    report(1.0);
    return weights;
  }

 private:
  static constexpr const char* kEmbedding = "model.embed_tokens.weight";
  static constexpr const char* kHead = "lm_head.weight";

  std::size_t element_bytes() const { return compute_ == Compute::kBf16 ? 2 : 4; }

  struct LayerTensors {
    TensorRef input_norm, post_norm, q, k, v, o, gate, up, down;
    std::optional<TensorRef> q_norm, k_norm, q_bias, k_bias, v_bias, o_bias;
  };
  struct Tensors {
    TensorRef embedding, final_norm, head;
    std::vector<LayerTensors> layers;
  };

  // [rows, columns], or [columns] where rows == 0.
  Status find(const std::string& name, std::uint32_t rows, std::uint32_t columns, TensorRef& out) {
    KVF_ASSIGN_OR_RETURN(out, source_.find(name, rows, columns));
    found_.insert(name);
    return ok_status();
  }
  Status find_if(bool wanted, const std::string& name, std::uint32_t n,
                 std::optional<TensorRef>& out) {
    return wanted ? find(name, 0, n, out.emplace()) : ok_status();
  }

  Result<Tensors> find_all() {
    Tensors t;
    const auto& c = config_;
    KVF_RETURN_IF_ERROR(find(kEmbedding, c.vocab, c.hidden, t.embedding));
    KVF_RETURN_IF_ERROR(find("model.norm.weight", 0, c.hidden, t.final_norm));
    KVF_RETURN_IF_ERROR(find(c.tied_embeddings ? kEmbedding : kHead, c.vocab, c.hidden, t.head));
    for (std::uint32_t i = 0; i < c.layers; ++i) {
      KVF_ASSIGN_OR_RETURN(auto layer, find_layer("model.layers." + std::to_string(i) + "."));
      t.layers.push_back(layer);
    }
    return t;
  }

  Result<LayerTensors> find_layer(const std::string& prefix) {
    const auto& c = config_;
    const std::uint32_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    LayerTensors t;
    KVF_RETURN_IF_ERROR(find(prefix + "input_layernorm.weight", 0, c.hidden, t.input_norm));
    KVF_RETURN_IF_ERROR(find(prefix + "post_attention_layernorm.weight", 0, c.hidden, t.post_norm));
    KVF_RETURN_IF_ERROR(find(attention + "q_proj.weight", q, c.hidden, t.q));
    KVF_RETURN_IF_ERROR(find(attention + "k_proj.weight", kv, c.hidden, t.k));
    KVF_RETURN_IF_ERROR(find(attention + "v_proj.weight", kv, c.hidden, t.v));
    KVF_RETURN_IF_ERROR(find(attention + "o_proj.weight", c.hidden, q, t.o));
    KVF_RETURN_IF_ERROR(find_if(c.qkv_bias, attention + "q_proj.bias", q, t.q_bias));
    KVF_RETURN_IF_ERROR(find_if(c.qkv_bias, attention + "k_proj.bias", kv, t.k_bias));
    KVF_RETURN_IF_ERROR(find_if(c.qkv_bias, attention + "v_proj.bias", kv, t.v_bias));
    KVF_RETURN_IF_ERROR(find_if(c.output_bias, attention + "o_proj.bias", c.hidden, t.o_bias));
    KVF_RETURN_IF_ERROR(find_if(c.qk_norm, attention + "q_norm.weight", c.head_dim, t.q_norm));
    KVF_RETURN_IF_ERROR(find_if(c.qk_norm, attention + "k_norm.weight", c.head_dim, t.k_norm));
    KVF_RETURN_IF_ERROR(find(mlp + "gate_proj.weight", c.intermediate, c.hidden, t.gate));
    KVF_RETURN_IF_ERROR(find(mlp + "up_proj.weight", c.intermediate, c.hidden, t.up));
    KVF_RETURN_IF_ERROR(find(mlp + "down_proj.weight", c.hidden, c.intermediate, t.down));
    return t;
  }

  Status refuse_unused() const {
    for (const auto& name : source_.names()) {
      const bool harmless =
          name.ends_with(".rotary_emb.inv_freq") || (config_.tied_embeddings && name == kHead);
      if (harmless || found_.contains(name)) continue;
      return invalid_argument("tensor '" + name +
                              "' is in the checkpoint, but a model as config.json describes it has "
                              "no such tensor; use the config.json that belongs to these weights");
    }
    return ok_status();
  }

  Status load_embedding(const TensorRef& tensor, LlamaWeights& weights) {
    const std::size_t row_bytes = config_.hidden * element_bytes();
    KVF_RETURN_IF_ERROR(weights.embedding.allocate(config_.vocab * row_bytes));
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

  Result<LayerWeights> load_layer(const LayerTensors& t) {
    LayerWeights layer;
    layer.input_norm = vector(t.input_norm);
    layer.post_norm = vector(t.post_norm);
    KVF_ASSIGN_OR_RETURN(layer.qkv, stacked(config_.hidden, {t.q, t.k, t.v}));
    KVF_ASSIGN_OR_RETURN(layer.o, stacked(t.o.columns, {t.o}));
    KVF_ASSIGN_OR_RETURN(layer.gate_up, interleaved(t.gate, t.up));
    KVF_ASSIGN_OR_RETURN(layer.down, stacked(t.down.columns, {t.down}));
    if (t.q_norm) layer.q_norm = vector(*t.q_norm);
    if (t.k_norm) layer.k_norm = vector(*t.k_norm);
    if (t.q_bias) layer.q_bias = vector(*t.q_bias);
    if (t.k_bias) layer.k_bias = vector(*t.k_bias);
    if (t.v_bias) layer.v_bias = vector(*t.v_bias);
    if (t.o_bias) layer.o_bias = vector(*t.o_bias);
    if (t.k_bias) layer.k_deviation = deviations(t.k, layer.input_norm);
    return layer;
  }

  // The norm of each row of a projection whose input is `weight` times values of variance 1.
  std::vector<float> deviations(const TensorRef& projection, const std::vector<float>& weight) {
    std::vector<float> deviations(projection.rows);
    pool_.parallel_for(projection.rows, [&](std::size_t i, int) {
      std::vector<float> row(projection.columns);
      source_.read_rows(projection, static_cast<std::uint32_t>(i), 1, Compute::kF32,
                        reinterpret_cast<std::byte*>(row.data()));
      double square = 0;
      for (std::size_t j = 0; j < row.size(); ++j) {
        square += static_cast<double>(row[j]) * row[j] * weight[j] * weight[j];
      }
      deviations[i] = static_cast<float>(std::sqrt(square));
    });
    return deviations;
  }

  // In f32 whatever the compute type.
  std::vector<float> vector(const TensorRef& tensor) {
    std::vector<float> values(tensor.columns);
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

  void report(double fraction) const {
    if (progress_) progress_(fraction);
  }
  void mix(std::span<const std::byte> bytes) { fingerprint_ = hash64(bytes, fingerprint_); }

  const ModelConfig& config_;
  const Compute compute_;
  const TensorSource& source_;
  GemmKernels& kernels_;
  ComputePool& pool_;
  const std::function<void(double)>& progress_;
  std::set<std::string> found_;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace

Result<LlamaWeights> load_weights(const ModelConfig& config, Compute compute,
                                  const TensorSource& source, GemmKernels& kernels,
                                  ComputePool& pool, const std::function<void(double)>& progress) {
  return Loader(config, compute, source, kernels, pool, progress).load();
}

}  // namespace kvferry::model
