// balance: the turns that it takes, over functions that each instruction set has of its own.
// Included only by units that define them; all of it has internal linkage.
#pragma once

#include "kernels/cpu/hack_encode_common.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

// Sums over the tokens and over the channels of a tile; the squares become variances.
struct Moments {
  alignas(64) float token_sum[kHackMaxRows], token_square[kHackMaxRows];
  alignas(64) float channel_sum[kMaxHeadDim], channel_square[kMaxHeadDim];
};

// Of the values multiplied by a (tokens), then by b (channels).
void add_moments(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                 const float* a, const float* b, Moments& m);
// Turns squares into variances.
void to_variances(const float* sum, float* square, std::uint32_t n, float inverse_count);
// The greatest of all variances over the least.
float imbalance_of(const Moments& m, std::uint32_t tokens, std::uint32_t head_dim);
void divide_by_roots(float* factors, const float* variances, std::uint32_t n);
// unit / inverse, within the limits of a factor, as bf16.
void store_factors(const float* inverse, float unit, std::uint32_t n, std::uint16_t* out);

void balance(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
             std::uint16_t* token_factor, std::uint16_t* channel_factor) {
  const float unit = hack_inverse_magnitude(x, std::size_t{tokens} * head_dim);
  alignas(64) float a[kHackMaxRows], b[kMaxHeadDim];
  for (std::uint32_t t = 0; t < tokens; ++t) a[t] = unit;
  for (std::uint32_t d = 0; d < head_dim; ++d) b[d] = 1.0f;
  float least = 0.0f;
  for (int step = 0;; ++step) {
    Moments m;
    add_moments(x, tokens, head_dim, a, b, m);
    to_variances(m.token_sum, m.token_square, tokens, 1.0f / static_cast<float>(head_dim));
    to_variances(m.channel_sum, m.channel_square, head_dim, 1.0f / static_cast<float>(tokens));
    const float imbalance = imbalance_of(m, tokens, head_dim);
    if (step == 0 || imbalance < least) {
      least = imbalance;
      store_factors(a, unit, tokens, token_factor);
      store_factors(b, 1.0f, head_dim, channel_factor);
    }
    if (step == kHackBalanceSteps) return;
    if (step % 2 == 0) {
      divide_by_roots(b, m.channel_square, head_dim);
    } else {
      divide_by_roots(a, m.token_square, tokens);
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
