#include "model/removed_bias.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/hash.h"
#include "kernels/dense_kernels.h"

namespace kvferry::model {

using codec::kGridTokens;

RemovedBias::RemovedBias(const ModelConfig& config, std::span<const double> frequencies,
                         std::span<const Layer> layers)
    : head_dim_(config.head_dim), frequencies_(frequencies.begin(), frequencies.end()) {
  std::vector<std::uint32_t> choice;  // what id() stands for
  for (const Layer& layer : layers) {
    LayerTables tables;
    tables.kept_k.assign(layer.k_bias.begin(), layer.k_bias.end());
    tables.heads.resize(config.kv_heads);
    for (std::uint32_t head = 0; head < config.kv_heads; ++head) {
      if (!layer.k_bias.empty() && !config.qk_norm) tables.heads[head] = choose_pairs(layer, head);
      for (const Pair& pair : tables.heads[head]) {
        float* bias = tables.kept_k.data() + head * head_dim_ + pair.index;
        bias[0] = bias[head_dim_ / 2] = 0.0f;
        fast_ = std::max(fast_, pair.index + 1);
        choice.push_back(pair.index);
      }
      choice.push_back(UINT32_MAX);  // end of a head
      most_pairs_ = std::max(most_pairs_, tables.heads[head].size());
      tables.basis.push_back(make_basis(tables.heads[head]));
    }
    layers_.push_back(std::move(tables));
  }
  const bool any = most_pairs_ > 0 || std::any_of(layers.begin(), layers.end(),
                                                  [](const Layer& l) { return !l.v_bias.empty(); });
  if (any) id_ = hash64(std::as_bytes(std::span(choice)));
}

std::vector<RemovedBias::Pair> RemovedBias::choose_pairs(const Layer& layer,
                                                         std::uint32_t kv_head) const {
  std::vector<Pair> pairs;
  const std::size_t half = head_dim_ / 2, base = kv_head * head_dim_;
  for (std::uint32_t i = 0; i < half; ++i) {
    const std::size_t first = base + i, second = first + half;
    const auto square = [](double x) { return x * x; };
    const double bias = square(layer.k_bias[first]) + square(layer.k_bias[second]);
    const double spread = square(layer.k_deviation[first]) + square(layer.k_deviation[second]);
    const bool turns = 2 * std::numbers::pi / frequencies_[i] < kSlowWavelength;
    // The amplitude of the wave against the deviation of one channel.
    if (!turns || !(bias > square(kLargeBias) * spread / 2)) continue;
    pairs.push_back({i, layer.k_bias[first], layer.k_bias[second]});
  }
  return pairs;
}

std::vector<float> RemovedBias::make_basis(const std::vector<Pair>& pairs) const {
  constexpr std::uint32_t kHalf = kGridTokens / 2;
  std::vector<float> basis(pairs.size() * kGridTokens);
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    float* cosine = basis.data() + p * kGridTokens;
    for (std::uint32_t i = 0; i < kHalf; ++i) {
      const double angle = (i + 0.5) * frequencies_[pairs[p].index];
      cosine[i] = static_cast<float>(std::cos(angle));
      cosine[i + kHalf] = static_cast<float>(std::sin(angle));
    }
  }
  return basis;
}

void RemovedBias::query_terms(std::uint32_t layer, std::uint32_t kv_head, const float* q,
                              float scale, float* out) const {
  const std::size_t half = head_dim_ / 2;
  const auto& pairs = layers_[layer].heads[kv_head];
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    const Pair& pair = pairs[p];
    const float x = q[pair.index] * scale, y = q[pair.index + half] * scale;
    out[p] = x * pair.first + y * pair.second;
    out[pairs.size() + p] = y * pair.first - x * pair.second;
  }
}

void RemovedBias::reserve(std::uint32_t tiles) {
  if (fast_ == 0) return;
  for (std::size_t tile = turns_.size() / (2 * fast_); tile < tiles; ++tile) {
    for (std::uint32_t i = 0; i < fast_; ++i) {
      const double centre = tile * double{kGridTokens} + (kGridTokens - 1) / 2.0;
      const double angle = centre * frequencies_[i];
      turns_.push_back(static_cast<float>(std::cos(angle)));
      turns_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void RemovedBias::add_scores(std::uint32_t layer, std::uint32_t kv_head, std::uint32_t tile,
                             const float* terms, std::size_t rows, float* out) const {
  const auto& pairs = layers_[layer].heads[kv_head];
  const float* turns = turns_.data() + std::size_t{tile} * 2 * fast_;
  float turn[kernels::kMaxHeadDim];
  for (std::size_t p = 0; p < pairs.size(); ++p) {
    turn[p] = turns[2 * pairs[p].index];
    turn[pairs.size() + p] = turns[2 * pairs[p].index + 1];
  }
  kernels::dense_kernels().score_waves(
      {pairs.size(), terms, turn, layers_[layer].basis[kv_head].data()}, rows, out);
}

}  // namespace kvferry::model
