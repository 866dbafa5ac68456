#include "model/llama.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "base/clock.h"
#include "kernels/dense_kernels.h"
#include "model/rope.h"

namespace kvferry::model {
namespace {

constexpr std::uint32_t kRowsOfTask = 8;  // rows of a row-wise task; fewer run on the caller alone

// Adds the time from construction to destruction to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(std::uint64_t& total_ns) : total_ns_(total_ns), start_ns_(monotonic_ns()) {}
  ~Stopwatch() { total_ns_ += monotonic_ns() - start_ns_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  std::uint64_t& total_ns_;
  const std::uint64_t start_ns_;
};

std::size_t logit_rows(const SequenceChunk& chunk) {
  switch (chunk.logits) {
    case SequenceChunk::Logits::kNone:
      return 0;
    case SequenceChunk::Logits::kLast:
      return 1;
    case SequenceChunk::Logits::kAll:
      return chunk.ids.size();
  }
  return 0;
}

std::vector<RemovedBias::Layer> biases_of(const LlamaWeights& weights) {
  std::vector<RemovedBias::Layer> layers;
  for (const auto& layer : weights.layers) {
    layers.push_back({layer.k_bias, layer.v_bias, layer.k_deviation});
  }
  return layers;
}

}  // namespace

LlamaModel::LlamaModel(ModelConfig config, Compute compute, ComputePool& pool, LlamaWeights weights,
                       std::uint64_t fingerprint, std::uint64_t numerics_class)
    : config_(std::move(config)),
      compute_(compute),
      pool_(pool),
      weights_(std::move(weights)),
      fingerprint_(fingerprint),
      numerics_class_(numerics_class),
      row_scratch_(pool.threads()),
      gemm_scratch_(pool.threads()),
      frequency_(rope_frequencies(config_)),
      removed_bias_(config_, frequency_, biases_of(weights_)),
      attention_(config_, removed_bias_, pool) {
  config_.removed_bias = removed_bias_.id();
  const std::size_t q = std::size_t{config_.q_heads} * config_.head_dim;
  const std::size_t kv = std::size_t{config_.kv_heads} * config_.head_dim;
  const std::size_t rows = kStepRows, bytes = element_bytes();
  x_.resize(rows * config_.hidden);
  normed_.resize(rows * config_.hidden * bytes);
  qkv_.resize(rows * (q + 2 * kv));
  bias_terms_.resize(rows * config_.q_heads * 2 * removed_bias_.most_pairs());
  attended_.resize(rows * q * bytes);
  activated_.resize(rows * config_.intermediate * bytes);
  cos_.resize(rows * config_.head_dim / 2);
  sin_.resize(cos_.size());
  step_.reserve(config_.kv_geometry(), rows);
  for (auto& row : row_scratch_)
    row.resize(std::max({config_.hidden, config_.intermediate, config_.head_dim}));
  for (auto& scratch : gemm_scratch_) {
    weights_.head->reserve(scratch);
    for (const auto& layer : weights_.layers) {
      for (const auto* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
        (*linear)->reserve(scratch);
      }
    }
  }
}

Status LlamaModel::check(std::span<const SequenceChunk> chunks) const {
  std::set<const codec::SequenceKv*> seen;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const auto& [kv, ids, logits] = chunks[i];
    const std::string where = "chunk " + std::to_string(i) + ": ";
    if (kv == nullptr || kv->codec == nullptr || kv->open == nullptr || ids.empty()) {
      return invalid_argument(where + "it has no sequence, no memory or no tokens");
    }
    if (!seen.insert(kv).second) return invalid_argument(where + "its sequence comes twice");
    if (!(kv->geometry == config_.kv_geometry())) {
      return invalid_argument(where + "its KV has another geometry than the model");
    }
    if (ids.size() > config_.context || kv->length > config_.context - ids.size()) {
      return invalid_argument(where + std::to_string(kv->length + ids.size()) +
                              " tokens exceed the model's context of " +
                              std::to_string(config_.context));
    }
    const std::size_t closed = (kv->length + ids.size()) / kv->tile_tokens();
    const bool short_of_blocks =
        kv->blocks.size() < closed || std::find(kv->blocks.begin(), kv->blocks.begin() + closed,
                                                nullptr) != kv->blocks.begin() + closed;
    if (short_of_blocks) return invalid_argument(where + "its KV memory is too short");
    for (auto id : ids) {
      if (id < 0 || static_cast<std::uint32_t>(id) >= config_.vocab) {
        return invalid_argument(where + "token id " + std::to_string(id) +
                                " is outside the vocabulary of " + std::to_string(config_.vocab));
      }
    }
  }
  return ok_status();
}

Status LlamaModel::forward(std::span<const SequenceChunk> chunks, std::vector<float>& logits,
                           const TilesClosed& tiles_closed) {
  timings_ = {};
  const Stopwatch total(timings_.total_ns);
  KVF_RETURN_IF_ERROR(check(chunks));
  std::size_t wanted = 0;
  for (const auto& chunk : chunks) wanted += logit_rows(chunk);
  logits.resize(wanted * config_.vocab);

  Piece piece;
  std::size_t out = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const SequenceChunk& chunk = chunks[i];
    const std::size_t first_wanted = chunk.ids.size() - logit_rows(chunk);
    const std::uint32_t start = chunk.kv->length;
    for (std::size_t done = 0; done < chunk.ids.size();) {
      const std::size_t room = kStepRows - piece.ids.size();
      const std::size_t take = std::min(chunk.ids.size() - done, room);
      StepPart part;
      part.kv = chunk.kv;
      part.chunk = i;
      part.start = start + static_cast<std::uint32_t>(done);
      part.rows = static_cast<std::uint32_t>(take);
      piece.parts.push_back(part);
      for (std::size_t end = done + take; done < end; ++done) {
        const auto row = static_cast<std::uint32_t>(piece.ids.size());
        if (done >= first_wanted) piece.head_rows.push_back({row, out++});
        piece.ids.push_back(chunk.ids[done]);
      }
      if (piece.ids.size() < kStepRows) continue;
      KVF_RETURN_IF_ERROR(run_piece(std::exchange(piece, {}), logits, tiles_closed));
    }
  }
  if (piece.ids.empty()) return ok_status();
  return run_piece(std::move(piece), logits, tiles_closed);
}

Status LlamaModel::run_piece(Piece piece, std::vector<float>& logits,
                             const TilesClosed& tiles_closed) {
  rows_ = static_cast<std::uint32_t>(piece.ids.size());
  step_.begin_step(std::move(piece.parts));
  attention_.plan(step_);
  embed(piece.ids);
  prepare_rope();
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    KVF_RETURN_IF_ERROR(run_layer(layer, tiles_closed));
  }
  for (const auto& part : step_.parts()) part.kv->length = part.end();
  head(piece.head_rows, logits);
  return ok_status();
}

Status LlamaModel::run_layer(std::uint32_t layer, const TilesClosed& tiles_closed) {
  const LayerWeights& weights = weights_.layers[layer];
  norm_rows(x_.data(), weights.input_norm, rows_, normed_.data());
  project_qkv(weights);
  step_.begin_layer(layer);
  rotate_and_store(layer);
  const std::uint64_t busy_ns = pool_.busy_ns();
  KVF_RETURN_IF_ERROR(step_.encode(pool_, layer));
  timings_.encode_ns += pool_.busy_ns() - busy_ns;
  if (observer_) tell_observer(layer);
  {
    const Stopwatch watch(timings_.attention_ns);
    const std::size_t stride =
        std::size_t{config_.q_heads + 2 * config_.kv_heads} * config_.head_dim;
    attention_.run(step_, layer, {qkv_.data(), stride, bias_terms_.data(), weights.v_bias},
                   compute_, attended_.data());
  }
  step_.end_layer(layer);
  if (tiles_closed) {
    for (const auto& part : step_.parts()) {
      if (part.first_tile() < part.closed_end()) {
        tiles_closed(part.chunk, layer, part.first_tile(), part.closed_end());
      }
    }
  }
  add_product(*weights.o, attended_.data(), weights.o_bias);
  mlp(weights);
  return ok_status();
}

void LlamaModel::tell_observer(std::uint32_t layer) const {
  const std::size_t stride = std::size_t{config_.q_heads + 2 * config_.kv_heads} * config_.head_dim;
  for (const auto& part : step_.parts()) {
    AttentionInputs inputs;
    inputs.chunk = part.chunk;
    inputs.layer = layer;
    inputs.start = part.start;
    inputs.rows = part.rows;
    inputs.q = qkv_.data() + part.row0 * stride;
    inputs.q_stride = stride;
    inputs.dense_tile = [&](std::uint32_t tile) { return step_.dense_tile(part, layer, tile); };
    observer_(inputs);
  }
}

void LlamaModel::for_rows(std::uint32_t rows,
                          const std::function<void(std::uint32_t row, int worker)>& task) {
  pool_.parallel_for((rows + kRowsOfTask - 1) / kRowsOfTask, [&](std::size_t i, int worker) {
    const auto first = static_cast<std::uint32_t>(i) * kRowsOfTask;
    for (std::uint32_t row = first; row < std::min(rows, first + kRowsOfTask); ++row) {
      task(row, worker);
    }
  });
}

void LlamaModel::gemm(const Linear& linear, const std::byte* x, std::uint32_t rows,
                      const Linear::Epilogue& epilogue) {
  const Stopwatch watch(timings_.gemm_ns);
  linear.run(pool_, x, rows, gemm_scratch_, epilogue);
}

void LlamaModel::round_row(const float* x, std::size_t n, std::byte* out) const {
  if (compute_ == Compute::kBf16) {
    kernels::dense_kernels().to_bf16(x, n, reinterpret_cast<std::uint16_t*>(out));
  } else {
    std::memcpy(out, x, n * sizeof(float));
  }
}

void LlamaModel::embed(const std::vector<std::int32_t>& ids) {
  const std::size_t n = config_.hidden;
  for_rows(rows_, [&](std::uint32_t row, int) {
    const std::byte* from = weights_.embedding.data() + ids[row] * n * element_bytes();
    float* to = x_.data() + row * n;
    if (compute_ == Compute::kBf16) {
      kernels::dense_kernels().from_bf16(reinterpret_cast<const std::uint16_t*>(from), n, to);
    } else {
      std::memcpy(to, from, n * sizeof(float));
    }
  });
}

// Angle of pair i at position p: p * frequency i, in double, its cosine and sine rounded to f32
// once (in the half-split form of Llama checkpoints).
void LlamaModel::prepare_rope() {
  const std::size_t half = config_.head_dim / 2;
  for (const auto& part : step_.parts()) {
    for_rows(part.rows, [&](std::uint32_t row, int) {
      const double position = part.start + row;
      const std::size_t at = (part.row0 + row) * half;
      for (std::size_t i = 0; i < half; ++i) {
        cos_[at + i] = static_cast<float>(std::cos(position * frequency_[i]));
        sin_[at + i] = static_cast<float>(std::sin(position * frequency_[i]));
      }
    });
  }
}

void LlamaModel::norm_rows(const float* x, const std::vector<float>& weight, std::uint32_t rows,
                           std::byte* out) {
  const std::size_t n = config_.hidden;
  for_rows(rows, [&](std::uint32_t row, int worker) {
    float* scratch = row_scratch_[worker].data();
    kernels::dense_kernels().rms_norm(x + row * n, weight.data(), config_.rms_eps, n, scratch);
    round_row(scratch, n, out + row * n * element_bytes());
  });
}

void LlamaModel::project_qkv(const LayerWeights& weights) {
  const std::size_t stride = weights.qkv->out();
  gemm(*weights.qkv, normed_.data(), rows_, [&](const PanelOutput& panel) {
    for (std::uint32_t i = 0; i < panel.rows; ++i) {
      std::memcpy(qkv_.data() + (panel.row0 + i) * stride + panel.column0,
                  panel.y + std::size_t{i} * panel.columns, panel.columns * sizeof(float));
    }
  });
}

void LlamaModel::norm_heads(const std::vector<float>& weight, std::size_t heads, float* x,
                            float* scratch) const {
  const std::size_t d = config_.head_dim;
  for (std::size_t h = 0; h < heads; ++h) {
    kernels::dense_kernels().rms_norm(x + h * d, weight.data(), config_.rms_eps, d, scratch);
    std::memcpy(x + h * d, scratch, d * sizeof(float));
  }
}

void LlamaModel::add_biases(std::uint32_t layer, const codec::Codec& codec, float* q, float* k,
                            float* v) const {
  const LayerWeights& weights = weights_.layers[layer];
  if (weights.q_bias.empty()) return;
  const auto& kernels = kernels::dense_kernels();
  const bool removes = codec.traits().removes_bias;
  const auto& k_bias = removes ? removed_bias_.kept_k(layer) : weights.k_bias;
  kernels.add(weights.q_bias.data(), weights.q_bias.size(), q);
  kernels.add(k_bias.data(), k_bias.size(), k);
  if (!removes) kernels.add(weights.v_bias.data(), weights.v_bias.size(), v);
}

void LlamaModel::keep_bias_terms(std::uint32_t layer, std::uint32_t row, const float* q) {
  const std::size_t d = config_.head_dim, stride = 2 * removed_bias_.most_pairs();
  if (stride == 0) return;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const std::uint32_t group = config_.q_heads / config_.kv_heads;
  for (std::uint32_t h = 0; h < config_.q_heads; ++h) {
    removed_bias_.query_terms(layer, h / group, q + h * d, scale,
                              bias_terms_.data() + (row * config_.q_heads + h) * stride);
  }
}

void LlamaModel::rotate_and_store(std::uint32_t layer) {
  const LayerWeights& weights = weights_.layers[layer];
  const auto& kernels = kernels::dense_kernels();
  const std::size_t d = config_.head_dim, q_heads = config_.q_heads, kv_heads = config_.kv_heads;
  const auto& parts = step_.parts();
  for_rows(rows_, [&](std::uint32_t row, int worker) {
    const auto part =
        std::prev(std::upper_bound(parts.begin(), parts.end(), row,
                                   [](std::uint32_t r, const StepPart& p) { return r < p.row0; }));
    const codec::Codec& codec = *part->kv->codec;
    float* q = qkv_.data() + row * (q_heads + 2 * kv_heads) * d;
    float* k = q + q_heads * d;
    float* v = k + kv_heads * d;
    add_biases(layer, codec, q, k, v);
    if (config_.qk_norm) {
      norm_heads(weights.q_norm, q_heads, q, row_scratch_[worker].data());
      norm_heads(weights.k_norm, kv_heads, k, row_scratch_[worker].data());
    }
    // q and k lie next to each other: one call rotates both.
    kernels.rope(q, cos_.data() + row * d / 2, sin_.data() + row * d / 2, q_heads + kv_heads, d);
    if (codec.traits().removes_bias) keep_bias_terms(layer, row, q);
    codec.to_domain_q(q, q_heads, d);
    step_.write_row(*part, layer, row - part->row0, k, v);
  });
}

void LlamaModel::add_product(const Linear& linear, const std::byte* input,
                             const std::vector<float>& bias) {
  const std::size_t n = config_.hidden;
  const auto& kernels = kernels::dense_kernels();
  gemm(linear, input, rows_, [&](const PanelOutput& panel) {
    for (std::uint32_t i = 0; i < panel.rows; ++i) {
      float* y = panel.y + std::size_t{i} * panel.columns;
      if (!bias.empty()) kernels.add(bias.data() + panel.column0, panel.columns, y);
      kernels.add(y, panel.columns, x_.data() + (panel.row0 + i) * n + panel.column0);
    }
  });
}

void LlamaModel::mlp(const LayerWeights& weights) {
  const std::size_t n = config_.intermediate;
  norm_rows(x_.data(), weights.post_norm, rows_, normed_.data());
  gemm(*weights.gate_up, normed_.data(), rows_, [&](const PanelOutput& panel) {
    const std::size_t half = panel.columns / 2;
    for (std::uint32_t i = 0; i < panel.rows; ++i) {
      float* gate = panel.y + std::size_t{i} * panel.columns;
      kernels::dense_kernels().silu_mul(gate, gate + half, half, gate);
      round_row(gate, half,
                activated_.data() + ((panel.row0 + i) * n + panel.column0 / 2) * element_bytes());
    }
  });
  add_product(*weights.down, activated_.data(), {});
}

void LlamaModel::head(const std::vector<HeadRow>& rows, std::vector<float>& logits) {
  if (rows.empty()) return;
  const std::size_t n = config_.hidden;
  // Rows move down only, and each is read before any later one is written.
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memmove(x_.data() + i * n, x_.data() + rows[i].row * n, n * sizeof(float));
  }
  const auto count = static_cast<std::uint32_t>(rows.size());
  norm_rows(x_.data(), weights_.final_norm, count, normed_.data());
  gemm(*weights_.head, normed_.data(), count, [&](const PanelOutput& panel) {
    for (std::uint32_t i = 0; i < panel.rows; ++i) {
      std::memcpy(logits.data() + rows[panel.row0 + i].out * config_.vocab + panel.column0,
                  panel.y + std::size_t{i} * panel.columns, panel.columns * sizeof(float));
    }
  });
}

}  // namespace kvferry::model
