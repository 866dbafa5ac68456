// Attention over one dense tile, and the arithmetic of attention states. Included only by
// dense_<isa>.cpp.
//
// Both products of attention, scores = q . k^T and o = p . v, are the same small GEMM: rows of A by
// a row-major B whose columns lie in registers. K is transposed once per call, into f32
// [head_dim][64], and V widened to f32 [64][stride]; up to kBlockRows query rows then share each
// loaded register. Where few rows ask, both stay in bf16 and are widened in registers: the
// transposed K of head_dim 128 then fits the L1 cache beside V. Whatever the blocking, a score is
// one chain of fma over d = 0 .. head_dim - 1 from 0 and an element of o one chain over t = 0, 1,
// ... from 0. Tokens that a row does not see have p = +0; leaving them out of the chain changes
// nothing but perhaps the sign of a zero, which the "+ 0" at its end removes. So a row's bits do
// not depend on the rows beside it.
#pragma once

#include "kernels/cpu/asking.h"
#include "kernels/cpu/dense_vec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 6;
constexpr float kMinusInfinity = -__builtin_huge_valf();
constexpr float kLargest = 0x1.fffffep127f;
// Scores are held to this, so that no difference of two leaves f32.
constexpr float kLargestScore = 0x1p126f;

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// B of a product: row i, register n of columns. kStep rows lie together.
template <class T>  // float, or bf16 (std::uint16_t)
struct Matrix {
  const T* data;
  std::size_t stride;
  static constexpr int kStep = 1;
  KVFERRY_INLINE V at(std::size_t row, int /*within*/, int n) const {
    return load(data + row * stride + n * kLanes);
  }
  KVFERRY_INLINE Matrix from(int n) const { return {data + n * kLanes, stride}; }
};
// bf16, rows 2 i and 2 i + 1 as the lower and upper halves of words.
struct PairMatrix {
  const std::uint32_t* data;
  std::size_t stride;  // words from pair to pair
  static constexpr int kStep = 2;
  KVFERRY_INLINE V at(std::size_t row, int within, int n) const {
    const V words = load_words(data + row / 2 * stride + n * kLanes);
    return within == 0 ? shift_left<16>(words) : bit_and(words, as_vector(0xffff0000u));
  }
  KVFERRY_INLINE PairMatrix from(int n) const { return {data + n * kLanes, stride}; }
};

template <class Keys, class Values>
struct Tile {
  Keys keys;      // [head_dim][kTileTokens]
  Values values;  // [tokens][stride], zeros behind head_dim
  std::size_t head_dim;
};

// sink(r, n, sum) is given, for each r < R and n < N, the register
// SUM_{i < depth} a[r][i] * b.at(i, n). depth is a multiple of B::kStep. Asks once for kStep rows
// of b.
template <int R, int N, class B, class Sink>
KVFERRY_INLINE void product(const float* a, std::size_t a_stride, const B& b, std::size_t depth,
                            Asking& asking, Sink sink) {
  V sums[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = zero();
  }
  for (std::size_t i = 0; i < depth; i += B::kStep) {
    asking.step();
#pragma GCC unroll 2
    for (int within = 0; within < B::kStep; ++within) {
      V columns[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) columns[n] = b.at(i, within, n);
      const float* factors = a + i + within;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V factor = broadcast(factors[static_cast<std::size_t>(r) * a_stride]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[r][n] = fma(factor, columns[n], sums[r][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sink(r, n, sums[r][n]);
  }
}

// product over `columns` registers (not only N): sink is given the index of the register.
template <int R, class B, class Sink>
KVFERRY_INLINE void wide_product(const float* a, std::size_t a_stride, const B& b,
                                 std::size_t depth, int columns, Asking& asking, Sink sink) {
  int first = 0;
  const auto shifted = [&](int r, int n, V sum) { sink(r, first + n, sum); };
  for (; first + kBlockColumns <= columns; first += kBlockColumns) {
    product<R, kBlockColumns>(a, a_stride, b.from(first), depth, asking, shifted);
  }
  if constexpr (kBlockColumns > 2) {
    if (columns - first >= 2) {
      product<R, 2>(a, a_stride, b.from(first), depth, asking, shifted);
      first += 2;
    }
  }
  if (first < columns) product<R, 1>(a, a_stride, b.from(first), depth, asking, shifted);
}

// The softmax of one row over its first `visible` scores (> 0), in place: scores[t] becomes
// p_t = exp(s_t - maximum), zeros up to `tokens` (a multiple of kLanes).
struct RowSum {
  float maximum;
  float sum;
};
KVFERRY_INLINE RowSum softmax(float* scores, std::uint32_t visible, std::size_t tokens) {
  for (std::size_t t = visible; t < tokens; ++t) scores[t] = kMinusInfinity;
  V highest[kParts];
  V sums[kParts];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    highest[part] = broadcast(kMinusInfinity);
    sums[part] = zero();
  }
  for (std::size_t t = 0; t < tokens; t += 16) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      highest[part] = max(load(scores + t + part * kLanes), highest[part]);
    }
  }
  const float maximum = reduce_max(highest);
  // No score above -infinity: nothing is seen, and the caller leaves the row's state alone.
  if (maximum == kMinusInfinity) return {maximum, 0.0f};
  const V base = broadcast(maximum);
  for (std::size_t t = 0; t < tokens; t += 16) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      float* at = scores + t + part * kLanes;
      const V p = exp_nonpositive(sub(load(at), base));
      store(at, p);
      sums[part] = add(sums[part], p);
    }
  }
  return {maximum, reduce_add(sums)};
}

// What a merge multiplies: `mine` the state's sums, `theirs` the other's.
struct MergeFactors {
  alignas(64) float mine[16];
  alignas(64) float theirs[16];
};

// Merges the maxima and sums of R <= 16 rows. No other_m may be -infinity: then a maximum is finite
// and no difference is NaN.
template <int R>
KVFERRY_INLINE void merge_sums(float* m, float* l, const float* other_m, const float* other_l,
                               MergeFactors* factors) {
  static_assert(R <= 16);
  for (int r = 0; r < 16; ++r) factors->mine[r] = factors->theirs[r] = 0.0f;
  for (int r = 0; r < R; ++r) {
    const float maximum = m[r] > other_m[r] ? m[r] : other_m[r];
    factors->mine[r] = m[r] - maximum;
    factors->theirs[r] = other_m[r] - maximum;
    m[r] = maximum;
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; i += kLanes) {
    store(factors->mine + i, exp_nonpositive(load(factors->mine + i)));
    store(factors->theirs + i, exp_nonpositive(load(factors->theirs + i)));
  }
  for (int r = 0; r < R; ++r) {
    l[r] = l[r] * factors->mine[r] + other_l[r] * factors->theirs[r];
  }
}

// x where it lies within +-limit, else the nearer of the two; -limit where it is NaN (max gives its
// second argument then).
KVFERRY_INLINE V held_to(float limit, V x) {
  return min(max(x, broadcast(-limit)), broadcast(limit));
}

// o = o * mine + other * theirs over one register, saturated.
KVFERRY_INLINE V merged(V o, float mine, V other, float theirs) {
  return held_to(kLargest, fma(other, broadcast(theirs), mul(o, broadcast(mine))));
}

// How often both products over a whole tile ask.
template <class Tile>
KVFERRY_INLINE std::size_t asking_steps(const Tile& tile) {
  const auto passes = [](std::size_t columns) {
    const std::size_t registers = columns / kLanes;
    return registers / kBlockColumns + (registers % kBlockColumns + 1) / 2;
  };
  return tile.head_dim / decltype(tile.keys)::kStep * passes(kTileTokens) +
         kTileTokens * passes(tile.values.stride);
}

// Not inlined: inside a larger function the compiler spills the addresses of the inner loops.
template <int R, class Tile>
__attribute__((noinline)) void attend_rows(const Tile& tile, const Queries& queries,
                                           const std::uint32_t* visible, AttentionStates states,
                                           std::size_t row) {
  std::uint32_t most = 0;
  std::uint32_t sees[R];
  for (int r = 0; r < R; ++r) {
    sees[r] = visible == nullptr ? kTileTokens : visible[row + static_cast<std::size_t>(r)];
    if (sees[r] > most) most = sees[r];
  }
  if (most == 0) return;
  alignas(64) float scores[R][kTileTokens];
  const std::size_t tokens = round_up(most, 16);
  Asking asking(queries.ahead, asking_steps<Tile>(tile));
  wide_product<R>(queries.q + row * tile.head_dim, tile.head_dim, tile.keys, tile.head_dim,
                  static_cast<int>(tokens) / kLanes, asking, [&](int r, int n, V sum) {
                    store(scores[r] + n * kLanes, held_to(kLargestScore, sum));
                  });
  if (queries.score_add != nullptr) {
    const float* more = queries.score_add + row * kTileTokens;
    for (int r = 0; r < R; ++r, more += kTileTokens) {
      for (std::size_t t = 0; t < tokens; t += kLanes) {
        store(scores[r] + t, add(load(scores[r] + t), load(more + t)));
      }
    }
  }

  float m[R];
  float l[R];
  float tile_m[R];
  float tile_l[R];
  bool live[R];
  for (int r = 0; r < R; ++r) {
    const RowSum sum = softmax(scores[r], sees[r], tokens);
    live[r] = sum.maximum != kMinusInfinity;
    // A row that sees nothing takes part in the arithmetic with harmless numbers.
    tile_m[r] = live[r] ? sum.maximum : 0.0f;
    tile_l[r] = sum.sum;
    m[r] = states.m[row + static_cast<std::size_t>(r)];
    l[r] = states.l[row + static_cast<std::size_t>(r)];
  }
  MergeFactors factors;
  merge_sums<R>(m, l, tile_m, tile_l, &factors);
  for (int r = 0; r < R; ++r) {
    if (!live[r]) continue;
    states.m[row + static_cast<std::size_t>(r)] = m[r];
    states.l[row + static_cast<std::size_t>(r)] = l[r];
  }
  const auto merge_into_o = [&](int r, int n, V sum) {
    if (!live[r]) return;
    const std::size_t d = static_cast<std::size_t>(n) * kLanes;
    float* o = states.o + (row + static_cast<std::size_t>(r)) * tile.head_dim + d;
    const V other = held_to(kLargest, add(sum, zero()));
    if (d + kLanes <= tile.head_dim) {
      store(o, merged(load(o), factors.mine[r], other, factors.theirs[r]));
    } else {
      const std::size_t left = tile.head_dim - d;
      store_n(o, left, merged(load_n(o, left), factors.mine[r], other, factors.theirs[r]));
    }
  };
  wide_product<R>(scores[0], kTileTokens, tile.values, most,
                  static_cast<int>(tile.values.stride) / kLanes, asking, merge_into_o);
}

KVFERRY_INLINE float widened(float x) { return x; }
KVFERRY_INLINE float widened(std::uint16_t x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
}

// Asks for `bytes` at p. A tile that nobody asked for ahead seldom lies in the cache when one query
// comes by, and the strided loads of transpose_words keep only 16 misses in flight.
KVFERRY_INLINE void prefetch(const void* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(static_cast<const char*>(p) + i, _MM_HINT_T0);
  }
}

// k [64][head_dim], the first `tokens` (a multiple of 16), is transposed.
// Blocks of kLanes tokens by kLanes 32-bit words are transposed in registers; a word is one f32 or
// two bf16. sink(d, t, words): of channel d (and d + 1), tokens t .. t + kLanes. Returns the number
// of channels done, a multiple of kLanes words.
template <class T, class Sink>
KVFERRY_INLINE std::size_t transpose_words(const T* k, std::size_t head_dim, std::size_t tokens,
                                           Sink sink) {
  constexpr std::size_t kPerWord = sizeof(float) / sizeof(T);
  constexpr std::size_t kStep = kLanes * kPerWord;
  const std::size_t whole = head_dim - head_dim % kStep;
  for (std::size_t t = 0; t < tokens; t += kLanes) {
    for (std::size_t d = 0; d < whole; d += kStep) {
      V words[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        words[i] = load_words(k + (t + static_cast<std::size_t>(i)) * head_dim + d);
      }
      transpose(words);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sink(d + i * kPerWord, t, words[i]);
    }
  }
  return whole;
}

// To f32 out [head_dim][64].
template <class T>
void transpose_keys(const T* k, std::size_t head_dim, std::size_t tokens, float* out) {
  const auto widen = [out](std::size_t d, std::size_t t, V words) {
    float* to = out + d * kTileTokens + t;
    if constexpr (sizeof(T) == sizeof(float)) {
      store(to, words);
    } else {
      store(to, shift_left<16>(words));
      store(to + kTileTokens, bit_and(words, as_vector(0xffff0000u)));
    }
  };
  for (std::size_t d = transpose_words(k, head_dim, tokens, widen); d < head_dim; ++d) {
    for (std::size_t t = 0; t < tokens; ++t) {
      out[d * kTileTokens + t] = widened(k[t * head_dim + d]);
    }
  }
}

template <class T>
void widen_values(const T* v, std::size_t head_dim, std::size_t tokens, std::size_t stride,
                  float* out) {
  if (stride == head_dim) {
    for (std::size_t i = 0; i < tokens * head_dim; ++i) out[i] = widened(v[i]);
    return;
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t d = 0; d < head_dim; ++d) out[t * stride + d] = widened(v[t * head_dim + d]);
    for (std::size_t d = head_dim; d < stride; ++d) out[t * stride + d] = 0.0f;
  }
}

static_assert(kBlockRows == 6, "attend_last_rows lists the cases");

// The rows from `row` on, at most kBlockRows.
template <class Tile>
void attend_last_rows(const Tile& tile, const Queries& queries, const std::uint32_t* visible,
                      AttentionStates states, std::size_t row) {
  switch (states.rows - row) {
    case 6:
      return attend_rows<6>(tile, queries, visible, states, row);
    case 5:
      return attend_rows<5>(tile, queries, visible, states, row);
    case 4:
      return attend_rows<4>(tile, queries, visible, states, row);
    case 3:
      return attend_rows<3>(tile, queries, visible, states, row);
    case 2:
      return attend_rows<2>(tile, queries, visible, states, row);
    case 1:
      return attend_rows<1>(tile, queries, visible, states, row);
    default:
      return;
  }
}

template <class Tile>
void attend_all_rows(const Tile& tile, const Queries& queries, const std::uint32_t* visible,
                     AttentionStates states) {
  Queries left = queries;
  std::size_t row = 0;
  for (; row + kBlockRows < states.rows; row += kBlockRows) {
    attend_rows<kBlockRows>(tile, left, visible, states, row);
    left.ahead = {};
  }
  attend_last_rows(tile, left, visible, states, row);
}

// Up to how many rows attend_few is the faster one: on Zen 4 AVX2 loses by it from 24 rows on,
// AVX-512 gains to about 32.
constexpr std::size_t kFewRows = 2 * kBlockRows;

// Every block of rows widens K and V in registers, which saves few rows the detour through memory.
void attend_few(const Queries& queries, const std::uint16_t* k, const std::uint16_t* v,
                const std::uint32_t* visible, AttentionStates states, std::size_t tokens) {
  const std::size_t head_dim = states.head_dim;
  alignas(64) std::uint32_t pairs[kMaxHeadDim / 2 * kTileTokens];
  transpose_words(k, head_dim, tokens, [&](std::size_t d, std::size_t t, V words) {
    store(reinterpret_cast<float*>(pairs + d / 2 * kTileTokens + t), words);
  });
  const PairMatrix keys = {pairs, kTileTokens};
  const Matrix<std::uint16_t> values = {v, head_dim};
  attend_all_rows(Tile<PairMatrix, Matrix<std::uint16_t>>{keys, values, head_dim}, queries, visible,
                  states);
}

template <class T>
void attend(const Queries& queries, const T* k, const T* v, const std::uint32_t* visible,
            AttentionStates states) {
  std::uint32_t most = visible == nullptr ? kTileTokens : 0;
  for (std::size_t r = 0; visible != nullptr && r < states.rows; ++r) {
    if (visible[r] > most) most = visible[r];
  }
  if (most == 0 || states.rows == 0) return;
  const std::size_t tokens = round_up(most, 16);
  if (queries.ahead.bytes == 0) {  // else the caller has asked for this tile too
    prefetch(k, most * states.head_dim * sizeof(T));
    prefetch(v, most * states.head_dim * sizeof(T));
  }
  if constexpr (sizeof(T) == sizeof(std::uint16_t)) {
    if (states.rows <= kFewRows && states.head_dim % (2 * kLanes) == 0) {
      attend_few(queries, k, v, visible, states, tokens);
      return;
    }
  }
  alignas(64) float keys[kMaxHeadDim * kTileTokens];
  transpose_keys(k, states.head_dim, tokens, keys);
  const std::size_t stride = round_up(states.head_dim, kLanes);
  alignas(64) float copy[kTileTokens * kMaxHeadDim];
  const float* values = copy;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (stride == states.head_dim) values = v;
  }
  if (values == copy) widen_values(v, states.head_dim, most, stride, copy);
  attend_all_rows(
      Tile<Matrix<float>, Matrix<float>>{{keys, kTileTokens}, {values, stride}, states.head_dim},
      queries, visible, states);
}

void attend_bf16(const Queries& queries, const std::uint16_t* k, const std::uint16_t* v,
                 const std::uint32_t* visible, AttentionStates states) {
  attend(queries, k, v, visible, states);
}

void attend_f32(const Queries& queries, const float* k, const float* v,
                const std::uint32_t* visible, AttentionStates states) {
  attend(queries, k, v, visible, states);
}

template <int R>
void score_terms_of(const float* c, const float* basis, std::size_t depth, float* out) {
  Asking nothing({}, 1);
  wide_product<R>(c, depth, Matrix<float>{basis, kTileTokens}, depth,
                  static_cast<int>(kTileTokens) / kLanes, nothing, [&](int r, int n, V sum) {
                    store(out + static_cast<std::size_t>(r) * kTileTokens + n * kLanes,
                          held_to(kMaxScoreAdd, sum));
                  });
}

void score_terms(const float* c, const float* basis, std::size_t depth, std::size_t rows,
                 float* out) {
  std::size_t row = 0;
  for (; row + kBlockRows <= rows; row += kBlockRows) {
    score_terms_of<kBlockRows>(c + row * depth, basis, depth, out + row * kTileTokens);
  }
  for (; row < rows; ++row) {
    score_terms_of<1>(c + row * depth, basis, depth, out + row * kTileTokens);
  }
}

void merge_states(AttentionStates states, AttentionStates other) {
  const std::size_t head_dim = states.head_dim;
  for (std::size_t row = 0; row < states.rows; ++row) {
    if (other.m[row] == kMinusInfinity) continue;
    MergeFactors factors;
    merge_sums<1>(states.m + row, states.l + row, other.m + row, other.l + row, &factors);
    float* o = states.o + row * head_dim;
    const float* other_o = other.o + row * head_dim;
    std::size_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      store(o + d, merged(load(o + d), factors.mine[0], load(other_o + d), factors.theirs[0]));
    }
    if (d < head_dim) {
      const std::size_t left = head_dim - d;
      store_n(o + d, left,
              merged(load_n(o + d, left), factors.mine[0], load_n(other_o + d, left),
                     factors.theirs[0]));
    }
  }
}

void normalize(AttentionStates states, float* out) {
  for (std::size_t row = 0; row < states.rows; ++row) {
    const float l = states.l[row];
    const float* o = states.o + row * states.head_dim;
    float* to = out + row * states.head_dim;
    for (std::size_t d = 0; d < states.head_dim; ++d) to[d] = l == 0.0f ? 0.0f : o[d] / l;
  }
}

}  // namespace
}  // namespace kvferry::kernels
