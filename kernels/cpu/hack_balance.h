// balance: the operations of hack_balance_scalar.cpp in their order, 16 channels at a time.
// Included only by hack_encode_<isa>.cpp; all of it has internal linkage.
#pragma once

#include "kernels/cpu/hack_balance_turns.h"
#include "kernels/cpu/hack_encode_vec.h"

namespace kvferry::kernels {
namespace {

constexpr int kTokensTogether = kLanes / 4;  // whose sums lie in registers

void add_moments(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                 const float* a, const float* b, Moments& m) {
  for (std::uint32_t d = 0; d < head_dim; d += kLanes) {
    store(m.channel_sum + d, zero());
    store(m.channel_square + d, zero());
  }
  for (std::uint32_t t = 0; t < tokens; t += kTokensTogether) {
    V sums[kTokensTogether][kParts], squares[kTokensTogether][kParts];
    for (int i = 0; i < kTokensTogether; ++i) {
      for (int part = 0; part < kParts; ++part) sums[i][part] = squares[i][part] = zero();
    }
    for (std::uint32_t d = 0; d < head_dim; d += 16) {
      for (int part = 0; part < kParts; ++part) {
        const std::size_t at = d + static_cast<std::size_t>(part * kLanes);
        V channel_sum = load(m.channel_sum + at);
        V channel_square = load(m.channel_square + at);
        for (int i = 0; i < kTokensTogether; ++i) {
          const std::size_t row = t + static_cast<std::size_t>(i);
          const V y = mul(mul(load(x + row * head_dim + at), broadcast(a[row])), load(b + at));
          const V square = mul(y, y);
          sums[i][part] = add(sums[i][part], y);
          squares[i][part] = add(squares[i][part], square);
          channel_sum = add(channel_sum, y);
          channel_square = add(channel_square, square);
        }
        store(m.channel_sum + at, channel_sum);
        store(m.channel_square + at, channel_square);
      }
    }
    for (int i = 0; i < kTokensTogether; ++i) {
      m.token_sum[t + static_cast<std::uint32_t>(i)] = reduce_add(sums[i]);
      m.token_square[t + static_cast<std::uint32_t>(i)] = reduce_add(squares[i]);
    }
  }
}

void to_variances(const float* sum, float* square, std::uint32_t n, float inverse_count) {
  const V inverse = broadcast(inverse_count);
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    const V mean = mul(load(sum + i), inverse);
    const V mean_square = mul(load(square + i), inverse);
    const V least = mul(mean_square, broadcast(kHackLeastVariance));
    const V moved = max(sub(mean_square, mul(mean, mean)), least);
    const Mask idle = less(mean_square, broadcast(kHackLeastSquare));
    store(square + i, where(idle, broadcast(1.0f), moved));
  }
}

float imbalance_of(const Moments& m, std::uint32_t tokens, std::uint32_t head_dim) {
  V least = load(m.token_square), greatest = least;
  const auto widen = [&](const float* variances, std::uint32_t n) {
    for (std::uint32_t i = 0; i < n; i += kLanes) {
      least = min(least, load(variances + i));
      greatest = max(greatest, load(variances + i));
    }
  };
  widen(m.token_square, tokens);
  widen(m.channel_square, head_dim);
  alignas(64) float lows[kLanes], highs[kLanes];
  store(lows, least);
  store(highs, greatest);
  for (int i = 1; i < kLanes; ++i) {
    if (lows[i] < lows[0]) lows[0] = lows[i];
    if (highs[i] > highs[0]) highs[0] = highs[i];
  }
  return highs[0] / lows[0];
}

void divide_by_roots(float* factors, const float* variances, std::uint32_t n) {
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    store(factors + i, div(load(factors + i), root(load(variances + i))));
  }
}

void store_factors(const float* inverse, float unit, std::uint32_t n, std::uint16_t* out) {
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    const V factor = div(broadcast(unit), load(inverse + i));
    store_bf16(out + i, round_nearest(min(max(factor, broadcast(kHackMinFactor)),
                                          broadcast(kHackMaxFactor))));
  }
}

}  // namespace
}  // namespace kvferry::kernels
