// balance: the operations of hack_balance_scalar.cpp in their order, 16 channels at a time.
// Included only by hack_encode_<isa>.cpp; all of it has internal linkage.
#pragma once

#include "kernels/cpu/hack_encode_common.h"
#include "kernels/cpu/hack_encode_vec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

struct Moments {
  alignas(64) float token_sum[kHackMaxRows], token_square[kHackMaxRows];
  alignas(64) float channel_sum[kMaxHeadDim], channel_square[kMaxHeadDim];
};

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

// Turns the squares into variances, and widens the range of those seen.
struct Spread {
  V least, greatest;
};
void to_variances(const float* sum, float* square, std::uint32_t n, float inverse_count,
                  Spread& spread) {
  const V inverse = broadcast(inverse_count);
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    const V mean = mul(load(sum + i), inverse);
    const V mean_square = mul(load(square + i), inverse);
    const V least = mul(mean_square, broadcast(kHackLeastVariance));
    const V moved = max(sub(mean_square, mul(mean, mean)), least);
    const Mask idle = less(mean_square, broadcast(kHackLeastSquare));
    const V variance = where(idle, broadcast(1.0f), moved);
    store(square + i, variance);
    spread.least = min(spread.least, variance);
    spread.greatest = max(spread.greatest, variance);
  }
}

float imbalance_of(const Spread& spread) {
  alignas(64) float least[kLanes], greatest[kLanes];
  store(least, spread.least);
  store(greatest, spread.greatest);
  for (int i = 1; i < kLanes; ++i) {
    if (least[i] < least[0]) least[0] = least[i];
    if (greatest[i] > greatest[0]) greatest[0] = greatest[i];
  }
  return greatest[0] / least[0];
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

void balance(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
             std::uint16_t* token_factor, std::uint16_t* channel_factor) {
  const float unit = hack_inverse_magnitude(x, std::size_t{tokens} * head_dim);
  alignas(64) float a[kHackMaxRows], b[kMaxHeadDim];
  for (std::uint32_t t = 0; t < tokens; ++t) a[t] = unit;
  for (std::uint32_t d = 0; d < head_dim; ++d) b[d] = 1.0f;
  float best = 0.0f;
  for (int step = 0;; ++step) {
    Moments m;
    add_moments(x, tokens, head_dim, a, b, m);
    Spread spread = {broadcast(__builtin_huge_valf()), zero()};
    to_variances(m.token_sum, m.token_square, tokens, 1.0f / static_cast<float>(head_dim), spread);
    to_variances(m.channel_sum, m.channel_square, head_dim, 1.0f / static_cast<float>(tokens),
                 spread);
    const float imbalance = imbalance_of(spread);
    if (step == 0 || imbalance < best) {
      best = imbalance;
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
