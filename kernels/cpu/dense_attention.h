// Attention over one dense tile, and the arithmetic of attention states. Included only by
// dense_<isa>.cpp.
//
// Both products of attention, scores = q . k^T and o = p . v, are the same small GEMM: rows of A by
// a row-major B whose columns lie in registers. K is transposed into f32 [head_dim][64] once per
// call, V widened to f32 [64][stride] (unless few rows ask); up to kBlockRows query rows then share
// each loaded register. Whatever the blocking, a score is one chain of fma over
// d = 0 .. head_dim - 1 from 0 and an element of o one chain over t = 0, 1, ... from 0. Tokens that
// a row does not see have p = +0; leaving them out of the chain changes nothing but perhaps the
// sign of a zero, which the "+ 0" at its end removes. So a row's bits do not depend on the rows
// beside it.
#pragma once

#include "kernels/cpu/dense_vec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 6;
constexpr float kMinusInfinity = -__builtin_huge_valf();

constexpr std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

// Value is float, or bf16 (std::uint16_t) where V is read as it lies.
template <class Value>
struct Tile {
  const float* keys;    // [head_dim][kTileTokens]
  const Value* values;  // [tokens][value_stride]
  std::size_t head_dim;
  std::size_t value_stride;  // head_dim rounded up to kLanes, zeros behind head_dim
};

// sink(r, n, sum) is given, for each r < R and n < N, the register
// SUM_{i < depth} a[r][i] * b[i][n * kLanes ..].
template <int R, int N, class Value, class Sink>
KVFERRY_INLINE void product(const float* a, std::size_t a_stride, const Value* b,
                            std::size_t b_stride, std::size_t depth, Sink sink) {
  V sums[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[r][n] = zero();
  }
  for (std::size_t i = 0; i < depth; ++i) {
    V columns[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) columns[n] = load(b + i * b_stride + n * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V factor = broadcast(a[static_cast<std::size_t>(r) * a_stride + i]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[r][n] = fma(factor, columns[n], sums[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sink(r, n, sums[r][n]);
  }
}

// product over `columns` registers (not only N): sink is given the index of the register.
template <int R, class Value, class Sink>
KVFERRY_INLINE void wide_product(const float* a, std::size_t a_stride, const Value* b,
                                 std::size_t b_stride, std::size_t depth, int columns, Sink sink) {
  int first = 0;
  const auto shifted = [&](int r, int n, V sum) { sink(r, first + n, sum); };
  for (; first + kBlockColumns <= columns; first += kBlockColumns) {
    product<R, kBlockColumns>(a, a_stride, b + first * kLanes, b_stride, depth, shifted);
  }
  if constexpr (kBlockColumns > 2) {
    if (columns - first >= 2) {
      product<R, 2>(a, a_stride, b + first * kLanes, b_stride, depth, shifted);
      first += 2;
    }
  }
  if (first < columns) product<R, 1>(a, a_stride, b + first * kLanes, b_stride, depth, shifted);
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

// o = o * mine + other * theirs over one register.
KVFERRY_INLINE V merged(V o, float mine, V other, float theirs) {
  return fma(other, broadcast(theirs), mul(o, broadcast(mine)));
}

// Not inlined: inside a larger function the compiler spills the addresses of the inner loops.
template <int R, class Value>
__attribute__((noinline)) void attend_rows(const Tile<Value>& tile, const Queries& queries,
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
  wide_product<R>(queries.q + row * tile.head_dim, tile.head_dim, tile.keys, kTileTokens,
                  tile.head_dim, static_cast<int>(tokens) / kLanes,
                  [&](int r, int n, V sum) { store(scores[r] + n * kLanes, sum); });
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
    const V other = add(sum, zero());
    if (d + kLanes <= tile.head_dim) {
      store(o, merged(load(o), factors.mine[r], other, factors.theirs[r]));
    } else {
      const std::size_t left = tile.head_dim - d;
      store_n(o, left, merged(load_n(o, left), factors.mine[r], other, factors.theirs[r]));
    }
  };
  wide_product<R>(scores[0], kTileTokens, tile.values, tile.value_stride, most,
                  static_cast<int>(tile.value_stride) / kLanes, merge_into_o);
}

KVFERRY_INLINE float widened(float x) { return x; }
KVFERRY_INLINE float widened(std::uint16_t x) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
}

// Asks for `bytes` at p. A tile seldom lies in the cache when one query comes by (decode), and the
// strided loads of transpose_keys keep only 16 misses in flight, a fifth of what memory can give.
KVFERRY_INLINE void prefetch(const void* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(static_cast<const char*>(p) + i, _MM_HINT_T0);
  }
}

// k [64][head_dim] to out [head_dim][64], the first `tokens` (a multiple of 16); v is only asked
// for. Blocks of kLanes tokens by kLanes 32-bit words are transposed in registers; a word is one
// f32 or two bf16.
template <class T>
void transpose_keys(const T* k, std::size_t head_dim, std::size_t tokens, const T* v, float* out) {
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
      // The block's share of V, which is wanted next.
      prefetch(v + t * head_dim + d * kLanes, sizeof(words));
      transpose(words);
      float* to = out + d * kTileTokens + t;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if constexpr (kPerWord == 1) {
          store(to + i * kTileTokens, words[i]);
        } else {
          store(to + 2 * i * kTileTokens, shift_left<16>(words[i]));
          store(to + (2 * i + 1) * kTileTokens, bit_and(words[i], as_vector(0xffff0000u)));
        }
      }
    }
    for (std::size_t d = whole; d < head_dim; ++d) {
      for (std::size_t i = t; i < t + kLanes; ++i) {
        out[d * kTileTokens + i] = widened(k[i * head_dim + d]);
      }
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
template <class Value>
void attend_last_rows(const Tile<Value>& tile, const Queries& queries, const std::uint32_t* visible,
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

template <class T>
void attend(const Queries& queries, const T* k, const T* v, const std::uint32_t* visible,
            AttentionStates states) {
  std::uint32_t most = visible == nullptr ? kTileTokens : 0;
  for (std::size_t r = 0; visible != nullptr && r < states.rows; ++r) {
    if (visible[r] > most) most = visible[r];
  }
  if (most == 0 || states.rows == 0) return;
  alignas(64) float keys[kMaxHeadDim * kTileTokens];
  prefetch(k, most * states.head_dim * sizeof(T));
  transpose_keys(k, states.head_dim, round_up(most, 16), v, keys);
  // A single block of rows reads V once, so widening it in registers saves the detour.
  if (states.rows <= kBlockRows && states.head_dim % kLanes == 0) {
    attend_last_rows(Tile<T>{keys, v, states.head_dim, states.head_dim}, queries, visible, states,
                     0);
    return;
  }
  alignas(64) float values[kTileTokens * kMaxHeadDim];
  const std::size_t stride = round_up(states.head_dim, kLanes);
  widen_values(v, states.head_dim, most, stride, values);
  const Tile<float> tile = {keys, values, states.head_dim, stride};
  std::size_t row = 0;
  for (; row + kBlockRows < states.rows; row += kBlockRows) {
    attend_rows<kBlockRows>(tile, queries, visible, states, row);
  }
  attend_last_rows(tile, queries, visible, states, row);
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
  wide_product<R>(c, depth, basis, kTileTokens, depth, static_cast<int>(kTileTokens) / kLanes,
                  [&](int r, int n, V sum) {
                    // max and min give their second argument where the first is NaN.
                    const V clamped =
                        min(max(sum, broadcast(-kMaxScoreAdd)), broadcast(kMaxScoreAdd));
                    store(out + static_cast<std::size_t>(r) * kTileTokens + n * kLanes, clamped);
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
