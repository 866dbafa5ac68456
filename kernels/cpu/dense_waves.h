// What waves add to scores, written in `V` of dense_vec.h. Included only by dense_<isa>.cpp; all of
// it has internal linkage.
//
// A cosine is even about the tile's centre and a sine odd, so sums over half of the tile's tokens
// give both halves: even + odd, and even - odd in reverse.
#pragma once

#include "kernels/cpu/dense_vec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr std::size_t kHalfTile = kTileTokens / 2;
constexpr int kWaveRows = kLanes == 16 ? 4 : 2;  // four sums each, which stay in registers
constexpr int kWaveVectors = 2;
constexpr float kMostTerm = kMaxScoreAdd / (2 * kMaxHeadDim);  // of kMaxHeadDim in a score

// The terms of R rows at the tile's centre.
template <int R>
struct TurnedTerms {
  alignas(64) float even[R][kMaxHeadDim / 2];
  alignas(64) float odd[R][kMaxHeadDim / 2];
};

KVFERRY_INLINE V held(V term) {
  return min(broadcast(kMostTerm), max(broadcast(-kMostTerm), term));
}

template <int R>
KVFERRY_INLINE void turn(const Waves& waves, const float* terms, TurnedTerms<R>& turned) {
  for (std::size_t p = 0; p < waves.count; p += kLanes) {
    const std::size_t left = waves.count - p;
    const std::size_t n = left < std::size_t{kLanes} ? left : std::size_t{kLanes};
    const V cosine = load_n(waves.turn + p, n);
    const V sine = load_n(waves.turn + waves.count + p, n);
    for (int r = 0; r < R; ++r) {
      const float* row = terms + static_cast<std::size_t>(r) * 2 * waves.count + p;
      const V a = load_n(row, n), b = load_n(row + waves.count, n);
      store_n(turned.even[r] + p, n, held(fma(a, cosine, mul(b, sine))));
      store_n(turned.odd[r] + p, n, held(fma(b, cosine, sub(zero(), mul(a, sine)))));
    }
  }
}

// out: [R][kTileTokens]
template <int R>
void score_waves_of(const Waves& waves, const float* terms, float* out) {
  TurnedTerms<R> turned;
  turn<R>(waves, terms, turned);
  for (std::size_t j = 0; j < kHalfTile; j += kWaveVectors * kLanes) {
    V even[R][kWaveVectors], odd[R][kWaveVectors];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int i = 0; i < kWaveVectors; ++i) even[r][i] = odd[r][i] = zero();
    }
    const float* basis = waves.basis + j;
    for (std::size_t p = 0; p < waves.count; ++p, basis += kTileTokens) {
#pragma GCC unroll 2
      for (int i = 0; i < kWaveVectors; ++i) {
        const V cosine = load(basis + i * kLanes);
        const V sine = load(basis + kHalfTile + i * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          even[r][i] = fma(broadcast(turned.even[r][p]), cosine, even[r][i]);
          odd[r][i] = fma(broadcast(turned.odd[r][p]), sine, odd[r][i]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float* centre = out + static_cast<std::size_t>(r) * kTileTokens + kHalfTile;
#pragma GCC unroll 2
      for (int i = 0; i < kWaveVectors; ++i) {
        const std::size_t at = j + static_cast<std::size_t>(i) * kLanes;
        store(centre + at, add(even[r][i], odd[r][i]));
        store(centre - at - kLanes, reversed(sub(even[r][i], odd[r][i])));
      }
    }
  }
}

void score_waves(const Waves& waves, std::size_t rows, float* out) {
  const std::size_t terms = 2 * waves.count;
  std::size_t row = 0;
  for (; row + kWaveRows <= rows; row += kWaveRows) {
    score_waves_of<kWaveRows>(waves, waves.terms + row * terms, out + row * kTileTokens);
  }
  for (; row < rows; ++row) {
    score_waves_of<1>(waves, waves.terms + row * terms, out + row * kTileTokens);
  }
}

}  // namespace
}  // namespace kvferry::kernels
