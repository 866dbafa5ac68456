// The definition of balance: its order of operations decides the factors' bits (docs/codecs.md).
#include <algorithm>
#include <bit>

#include "kernels/cpu/hack_balance_turns.h"

namespace kvferry::kernels {
namespace {

// i with i + 8, then i + 4, i + 2, i + 1.
float tree_sum(float (&part)[16]) {
  for (std::uint32_t width = 8; width > 0; width /= 2) {
    for (std::uint32_t i = 0; i < width; ++i) part[i] = part[i] + part[i + width];
  }
  return part[0];
}

void add_moments(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                 const float* a, const float* b, Moments& m) {
  for (std::uint32_t d = 0; d < head_dim; ++d) m.channel_sum[d] = m.channel_square[d] = 0.0f;
  for (std::uint32_t t = 0; t < tokens; ++t) {
    float sums[16] = {}, squares[16] = {};
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      const float y = (f32_from_bf16(x[t * head_dim + d]) * a[t]) * b[d];
      const float square = y * y;
      sums[d % 16] = sums[d % 16] + y;
      squares[d % 16] = squares[d % 16] + square;
      m.channel_sum[d] = m.channel_sum[d] + y;
      m.channel_square[d] = m.channel_square[d] + square;
    }
    m.token_sum[t] = tree_sum(sums);
    m.token_square[t] = tree_sum(squares);
  }
}

void to_variances(const float* sum, float* square, std::uint32_t n, float inverse_count) {
  for (std::uint32_t i = 0; i < n; ++i) {
    const float mean = sum[i] * inverse_count;
    const float mean_square = square[i] * inverse_count;
    const float variance = std::max(mean_square - mean * mean, mean_square * kHackLeastVariance);
    square[i] = mean_square < kHackLeastSquare ? 1.0f : variance;
  }
}

float imbalance_of(const Moments& m, std::uint32_t tokens, std::uint32_t head_dim) {
  const auto token = std::minmax_element(m.token_square, m.token_square + tokens);
  const auto channel = std::minmax_element(m.channel_square, m.channel_square + head_dim);
  return std::max(*token.second, *channel.second) / std::min(*token.first, *channel.first);
}

void divide_by_roots(float* factors, const float* variances, std::uint32_t n) {
  for (std::uint32_t i = 0; i < n; ++i) factors[i] = factors[i] / __builtin_sqrtf(variances[i]);
}

void store_factors(const float* inverse, float unit, std::uint32_t n, std::uint16_t* out) {
  for (std::uint32_t i = 0; i < n; ++i) {
    out[i] = bf16_from_f32(std::clamp(unit / inverse[i], kHackMinFactor, kHackMaxFactor));
  }
}

}  // namespace

float hack_inverse_magnitude(const std::uint16_t* x, std::size_t n) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::uint32_t{x[i]} & 0x7fffu);
  const std::uint32_t exponent = std::clamp(largest >> 7, 1u, 253u);
  return std::bit_cast<float>((254 - exponent) << 23);
}

void hack_balance_scalar(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                         std::uint16_t* token_factor, std::uint16_t* channel_factor) {
  balance(x, tokens, head_dim, token_factor, channel_factor);
}

}  // namespace kvferry::kernels
