#include "bench/layer_errors.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "codec/dense.h"

namespace kvferry::bench {
namespace {

double dot(const float* a, const float* b, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

double square_about_mean(std::span<const double> x) {
  double sum = 0.0, square = 0.0;
  for (const double value : x) sum += value;
  const double mean = sum / static_cast<double>(x.size());
  for (const double value : x) square += (value - mean) * (value - mean);
  return square;
}

double square(std::span<const float> x) { return dot(x.data(), x.data(), x.size()); }

// out[d] = SUM_t weights[t] * rows[t][d].
void weighted_sum(std::span<const float> weights, const float* rows, std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0f);
  for (std::size_t t = 0; t < weights.size(); ++t) {
    for (std::size_t d = 0; d < out.size(); ++d) out[d] += weights[t] * rows[t * out.size() + d];
  }
}

ExactHead exact_head(const AttentionTrace& trace, std::uint32_t layer, std::uint32_t q_head) {
  const auto& geometry = trace.geometry();
  const std::size_t dim = geometry.head_dim;
  const std::size_t kv_head = q_head / (geometry.q_heads / geometry.kv_heads);
  const float* k = trace.layer(layer).k.data() + kv_head * trace.tokens() * dim;
  const float* v = trace.layer(layer).v.data() + kv_head * trace.tokens() * dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  ExactHead head;
  std::vector<double> scores;
  std::vector<float> output(dim);
  for (std::size_t i = 0; i < trace.positions().size(); ++i) {
    const std::size_t visible = trace.positions()[i] + 1;
    const float* q = trace.layer(layer).q.data() + (i * geometry.q_heads + q_head) * dim;
    scores.resize(visible);
    for (std::size_t t = 0; t < visible; ++t) scores[t] = scale * dot(q, k + t * dim, dim);
    head.score_spread += square_about_mean(scores);
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (double& score : scores) sum += score = std::exp(score - most);
    const std::size_t at = head.weights.size();
    for (const double p : scores) head.weights.push_back(static_cast<float>(p / sum));
    weighted_sum(std::span(head.weights).subspan(at), v, output);
    head.output_square += square(output);
  }
  return head;
}

// What encoding has changed in the closed tiles of one KV head: [closed tokens][head_dim] each.
struct HeadChange {
  std::vector<float> k, v;
};

HeadChange change_of(const AttentionTrace& own, const codec::SequenceKv& kv, std::uint32_t layer,
                     std::uint32_t kv_head) {
  const std::size_t dim = kv.geometry.head_dim;
  const std::size_t tile_values = kv.codec->traits().tile_tokens * dim;
  HeadChange change;
  change.k.resize(kv.closed_tiles() * tile_values);
  change.v.resize(change.k.size());
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    kv.codec->reconstruct(kv.geometry, kv.segment(layer, tile), kv_head,
                          change.k.data() + tile * tile_values,
                          change.v.data() + tile * tile_values);
  }
  const std::size_t from = std::size_t{kv_head} * own.tokens() * dim;
  for (std::size_t i = 0; i < change.k.size(); ++i) {
    change.k[i] -= own.layer(layer).k[from + i];
    change.v[i] -= own.layer(layer).v[from + i];
  }
  return change;
}

LayerErrors errors_of_head(const AttentionTrace& raw, const ExactHead& exact,
                           const HeadChange& change, const codec::SequenceKv& kv,
                           std::uint32_t layer, std::uint32_t q_head) {
  const std::size_t dim = kv.geometry.head_dim, tile_tokens = kv.codec->traits().tile_tokens;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  LayerErrors errors;
  errors.score_spread = exact.score_spread;
  errors.output_square = exact.output_square;
  std::vector<double> scores;
  std::vector<float> q(dim), output(dim);
  std::size_t at = 0;
  for (std::size_t i = 0; i < raw.positions().size(); ++i) {
    const std::size_t visible = raw.positions()[i] + 1;
    const std::size_t closed = (visible - 1) / tile_tokens * tile_tokens;
    const float* from = raw.layer(layer).q.data() + (i * kv.geometry.q_heads + q_head) * dim;
    std::copy_n(from, dim, q.begin());
    kv.codec->to_domain_q(q.data(), 1, dim);
    scores.assign(visible, 0.0);
    for (std::size_t t = 0; t < closed; ++t) {
      scores[t] = scale * dot(q.data(), change.k.data() + t * dim, dim);
    }
    errors.score_error += square_about_mean(scores);
    weighted_sum(std::span(exact.weights).subspan(at, closed), change.v.data(), output);
    kv.codec->from_domain_o(output.data(), 1, dim);
    errors.output_error += square(output);
    at += visible;
  }
  return errors;
}

}  // namespace

AttentionTrace::AttentionTrace(const codec::KvGeometry& geometry, std::uint32_t tokens,
                               std::vector<std::uint32_t> positions)
    : geometry_(geometry),
      tokens_(tokens),
      positions_(std::move(positions)),
      layers_(geometry.layers) {
  const std::size_t values = std::size_t{geometry.kv_heads} * tokens * geometry.head_dim;
  for (Layer& layer : layers_) {
    layer.k.resize(values);
    layer.v.resize(values);
    layer.q.resize(positions_.size() * geometry.q_heads * geometry.head_dim);
  }
}

void AttentionTrace::record(const model::AttentionInputs& inputs, const codec::Codec& codec) {
  const std::size_t dim = geometry_.head_dim, tile_tokens = codec.traits().tile_tokens;
  const auto dtype = codec.traits().open_dtype;
  Layer& layer = layers_[inputs.layer];
  const std::uint32_t end = inputs.start + inputs.rows;
  for (std::uint32_t t = inputs.start; t < end; ++t) {
    const auto tile = inputs.dense_tile(static_cast<std::uint32_t>(t / tile_tokens));
    for (std::size_t head = 0; head < geometry_.kv_heads; ++head) {
      const std::size_t from = (head * tile_tokens + t % tile_tokens) * dim * bytes_of(dtype);
      const std::size_t to = (head * tokens_ + t) * dim;
      codec::widen(dtype, tile.k + from, dim, layer.k.data() + to);
      codec::widen(dtype, tile.v + from, dim, layer.v.data() + to);
    }
  }
  const std::size_t width = geometry_.q_heads * dim;
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    if (positions_[i] < inputs.start || positions_[i] >= end) continue;
    const float* from = inputs.q + (positions_[i] - inputs.start) * inputs.q_stride;
    std::copy_n(from, width, layer.q.data() + i * width);
  }
}

std::vector<ExactHead> exact_attention(const AttentionTrace& trace, ComputePool& pool) {
  const std::uint32_t q_heads = trace.geometry().q_heads;
  std::vector<ExactHead> heads(std::size_t{trace.geometry().layers} * q_heads);
  pool.parallel_for(heads.size(), [&](std::size_t i, int) {
    heads[i] = exact_head(trace, static_cast<std::uint32_t>(i / q_heads),
                          static_cast<std::uint32_t>(i % q_heads));
  });
  return heads;
}

void LayerErrors::add(const LayerErrors& other) {
  score_error += other.score_error;
  score_spread += other.score_spread;
  output_error += other.output_error;
  output_square += other.output_square;
}

double LayerErrors::k() const {
  return score_spread > 0.0 ? std::sqrt(score_error / score_spread) : 0.0;
}

double LayerErrors::v() const {
  return output_square > 0.0 ? std::sqrt(output_error / output_square) : 0.0;
}

std::vector<LayerErrors> layer_errors(const AttentionTrace& raw,
                                      const std::vector<ExactHead>& exact,
                                      const AttentionTrace& own, const codec::SequenceKv& kv,
                                      ComputePool& pool) {
  const auto& geometry = kv.geometry;
  const std::uint32_t group = geometry.q_heads / geometry.kv_heads;
  std::vector<LayerErrors> heads(std::size_t{geometry.layers} * geometry.kv_heads);
  pool.parallel_for(heads.size(), [&](std::size_t i, int) {
    const auto layer = static_cast<std::uint32_t>(i / geometry.kv_heads);
    const auto kv_head = static_cast<std::uint32_t>(i % geometry.kv_heads);
    const HeadChange change = change_of(own, kv, layer, kv_head);
    for (std::uint32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const ExactHead& head = exact[std::size_t{layer} * geometry.q_heads + h];
      heads[i].add(errors_of_head(raw, head, change, kv, layer, h));
    }
  });
  std::vector<LayerErrors> layers(geometry.layers);
  for (std::size_t i = 0; i < heads.size(); ++i) layers[i / geometry.kv_heads].add(heads[i]);
  return layers;
}

}  // namespace kvferry::bench
