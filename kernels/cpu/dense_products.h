// The products of attention over a dense tile, from rows of bf16 or f32 as they lie. Included only
// by dense_attention.h, which says in what order sums are taken.
#pragma once

#include "kernels/cpu/asking.h"
#include "kernels/cpu/dense_lanes.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

// Scores are held to this, so that no difference of two leaves f32.
constexpr float kLargestScore = 0x1p126f;

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// x where it lies within +-limit, else the nearer of the two; -limit where it is NaN (max gives its
// second argument then).
KVFERRY_INLINE V held_to(float limit, V x) {
  return min(max(x, broadcast(-limit)), broadcast(limit));
}

// 2 kLanes neighbouring values as two registers. Of bf16 `a` has those of even index, which are the
// lower halves of words, and `b` the odd ones; f32 come in order.
KVFERRY_INLINE void load_two(const float* p, V& a, V& b) {
  a = load(p);
  b = load(p + kLanes);
}
KVFERRY_INLINE void load_two(const std::uint16_t* p, V& a, V& b) {
  const V words = load_words(p);
  a = shift_left<16>(words);
  b = bit_and(words, as_vector(0xffff0000u));
}

// B of a product: rows whose columns lie in registers, two for 2 kLanes columns.
template <class T>  // float, or bf16 (std::uint16_t)
struct Matrix {
  const T* data;
  std::size_t stride;
  KVFERRY_INLINE void load_row(std::size_t row, int n, V& a, V& b) const {
    load_two(data + row * stride + n * kLanes, a, b);
  }
  // Two registers of sums over what load_row gave, in order of columns.
  static KVFERRY_INLINE void order(V& a, V& b) {
    if constexpr (sizeof(T) == sizeof(std::uint16_t)) interleave(a, b);
  }
  KVFERRY_INLINE Matrix from(int n) const { return {data + n * kLanes, stride}; }
};

// Channels whose products one round of a score adds up: 16 lanes of pairs.
constexpr std::size_t kChannels = 32;

// sink(r, n, sum) is given, for each r < R and n < N, the register SUM_{i < depth} a(r, i) *
// b[i][n]. Asks once for each row of b.
template <int R, int N, class A, class B, class Sink>
KVFERRY_INLINE void product(A a, const B& b, std::size_t depth, Asking& asking, Sink sink) {
  static_assert(N % 2 == 0);
  V sums[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = zero();
  }
  for (std::size_t i = 0; i < depth; ++i) {
    asking.step();
    V columns[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n += 2) b.load_row(i, n, columns[n], columns[n + 1]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V factor = broadcast(a(r, i));
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[r][n] = fma(factor, columns[n], sums[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; n += 2) {
      B::order(sums[r][n], sums[r][n + 1]);
      sink(r, n, sums[r][n]);
      sink(r, n + 1, sums[r][n + 1]);
    }
  }
}

// product over `columns` registers, an even number: sink is given the index of the register.
template <int R, class A, class B, class Sink>
KVFERRY_INLINE void wide_product(A a, const B& b, std::size_t depth, int columns, Asking& asking,
                                 Sink sink) {
  int first = 0;
  const auto shifted = [&](int r, int n, V sum) { sink(r, first + n, sum); };
  for (; first + kBlockColumns <= columns; first += kBlockColumns) {
    product<R, kBlockColumns>(a, b.from(first), depth, asking, shifted);
  }
  if (first < columns) product<R, 2>(a, b.from(first), depth, asking, shifted);
}

// x [rows][head_dim] to out [rows][width] in f32, arranged: of 2 kLanes channels those of even
// index before the odd ones, as load_two has bf16. Zeros behind head_dim.
template <class T>
void arrange(const T* x, std::size_t rows, std::size_t head_dim, std::size_t width, float* out) {
  for (std::size_t row = 0; row < rows; ++row, x += head_dim, out += width) {
    alignas(64) T padded[kMaxHeadDim];
    const T* from = x;
    if (width != head_dim) {
      for (std::size_t d = 0; d < width; ++d) padded[d] = d < head_dim ? x[d] : T{};
      from = padded;
    }
    for (std::size_t d = 0; d < width; d += 2 * kLanes) {
      V even, odd;
      load_two(from + d, even, odd);
      if constexpr (sizeof(T) == sizeof(float)) deinterleave(even, odd);
      store(out + d, even);
      store(out + d + kLanes, odd);
    }
  }
}

// sum(i, j) += a_i * b_j of even channels, then of odd ones, for i < I and j < J. All of a stays in
// registers.
template <int I, int J, class A, class B, class Sum>
KVFERRY_INLINE void add_products(A load_a, B load_b, Sum sum) {
  V a_even[I], a_odd[I];
#pragma GCC unroll 4
  for (int i = 0; i < I; ++i) load_a(i, a_even[i], a_odd[i]);
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    V even, odd;
    load_b(j, even, odd);
#if !defined(__AVX512F__)
    // Else gcc 12 loads b from memory again for every i.
    asm("" : "+x"(even), "+x"(odd));
#endif
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) sum(i, j) = fma(a_even[i], even, sum(i, j));
#pragma GCC unroll 4
    for (int i = 0; i < I; ++i) sum(i, j) = fma(a_odd[i], odd, sum(i, j));
  }
}

// Scores of R rows for kSums / R tokens from k on: those of a row behind each other. q: [R][width],
// arranged. Asks for each 2 kLanes channels.
template <int R, class T>
KVFERRY_INLINE Reduced score_block(const float* q, const T* k, std::size_t width, Asking& asking) {
  constexpr int kTokens = kSums / R;
  V sums[kParts][kSums];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    V(&own)[kSums] = sums[part];
#pragma GCC unroll 16
    for (V& sum : own) sum = zero();
    for (std::size_t d = part * 2 * kLanes; d < width; d += kChannels) {
      asking.step();
      const auto load_q = [&](int r, V& even, V& odd) {
        even = load(q + static_cast<std::size_t>(r) * width + d);
        odd = load(q + static_cast<std::size_t>(r) * width + d + kLanes);
      };
      const auto load_k = [&](int t, V& even, V& odd) {
        load_two(k + static_cast<std::size_t>(t) * width + d, even, odd);
      };
      if constexpr (R <= kTokens) {
        add_products<R, kTokens>(load_q, load_k,
                                 [&](int r, int t) -> V& { return own[r * kTokens + t]; });
      } else {
        add_products<kTokens, R>(load_k, load_q,
                                 [&](int t, int r) -> V& { return own[r * kTokens + t]; });
      }
    }
  }
  Reduced out = reduce_each(sums);
  for (V& scores : out.parts) scores = held_to(kLargestScore, scores);
  return out;
}

}  // namespace
}  // namespace kvferry::kernels
