// Attention on codes in AVX2. Blocks of up to 4 query rows share the unpacked codes; the template
// parameter R is the number of rows of a block, and each row's operations and their order are the
// same for every R. All of it has internal linkage but the table.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/asking.h"
#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_common.h"
#include "kernels/cpu/hack_dots.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 4;
constexpr int kTokens = 64;
constexpr int kMaxHalves = 2;  // runs of tokens with scales of K of their own
constexpr int kMaxGroups = 8;  // groups of channels with scales of V of their own
constexpr int kMaxDim = 256;

// What a block of rows needs between its steps. What is one value a row lies as [kBlockRows].
struct Block {
  alignas(64) std::int8_t q[kMaxHalves][kBlockRows][kMaxDim];    // q'
  alignas(64) float p[kBlockRows][kTokens];                      // scores, then p
  alignas(64) std::uint8_t pq[kMaxGroups][kBlockRows][kTokens];  // p'
  alignas(64) float folded[kBlockRows][kTokens];                 // of a group, before rounding
  alignas(16) float q_step[kMaxHalves][kMaxDim / 64][kBlockRows];
  alignas(16) float q_offset[kMaxHalves][kBlockRows];  // q . m_K
  alignas(16) float p_step[kMaxGroups][kBlockRows];
  alignas(16) float p_offset[kMaxGroups][kBlockRows];  // SUM p m_V
  alignas(16) float inv[kBlockRows];                   // 127 or 255 / largest
  alignas(16) float m[kBlockRows];
  alignas(16) float l[kBlockRows];
  unsigned fits;  // bit r: whether f32 holds the sums of row r
};

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V absolute(V v) { return bit_and(v, as_vector(0x7fffffffu)); }

struct Add {
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
};
struct Max {
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
};

// One register to its lanes i + 4 n, put together.
template <class Op>
KVFERRY_INLINE __m128 quarter(V v) {
  return Op::apply(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

// One register a row to one lane a row, every row by the same tree: quarters, then lane i with
// i + 2, i + 1.
template <class Op, int R>
KVFERRY_INLINE __m128 reduce_rows(const V (&rows)[R]) {
  __m128 four[kBlockRows];
#pragma GCC unroll 4
  for (int r = 0; r < kBlockRows; ++r) {
    four[r] = r < R ? quarter<Op>(rows[r % R]) : _mm_setzero_ps();
  }
  _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
  return Op::apply(Op::apply(four[0], four[2]), Op::apply(four[1], four[3]));
}

// The largest of a plane of factors, at least 1, which null stands for.
float largest_factor(const std::byte* plane, std::size_t count) {
  if (plane == nullptr) return 1.0f;
  V largest[1] = {broadcast(1.0f)};
  for (std::size_t i = 0; i < count; i += kLanes) largest[0] = max(load_bf16(plane, i), largest[0]);
  return _mm_cvtss_f32(reduce_rows<Max>(largest));
}

// The steps of symmetric or unsigned rounding to `levels` from each row's largest value: stores the
// factor of the values in block.inv, returns the step. Zero for what is tiny.
KVFERRY_INLINE __m128 rounding_steps(__m128 largest, float levels, Block& block) {
  const __m128 keep = _mm_cmpge_ps(largest, _mm_set1_ps(kHackTiny));
  _mm_store_ps(block.inv, _mm_and_ps(keep, _mm_div_ps(_mm_set1_ps(levels), largest)));
  return _mm_and_ps(keep, _mm_mul_ps(largest, _mm_set1_ps(1.0f / levels)));
}

// Bit r: (bound + |offset|) * factor < kHackHuge in row r; not where any is NaN.
KVFERRY_INLINE unsigned rows_below_huge(__m128 bound, __m128 offset, float factor) {
  const __m128 sum = _mm_add_ps(bound, _mm_andnot_ps(_mm_set1_ps(-0.0f), offset));
  return static_cast<unsigned>(
      _mm_movemask_ps(_mm_cmplt_ps(_mm_mul_ps(sum, _mm_set1_ps(factor)), _mm_set1_ps(kHackHuge))));
}

// 32 values, times inv, to the nearest integers, saturated to signed or unsigned bytes.
template <bool Signed>
KVFERRY_INLINE void round_to_bytes(const float* values, V inv, void* out) {
  __m256i x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = _mm256_cvtps_epi32(mul(load(values + kLanes * i), inv));
  const __m256i low = _mm256_packs_epi32(x[0], x[1]);
  const __m256i high = _mm256_packs_epi32(x[2], x[3]);
  const __m256i bytes = Signed ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
  // Packing goes by halves of 128 bits: words 0, 2, 4, 6 lie below 1, 3, 5, 7.
  _mm256_store_si256(static_cast<__m256i*>(out),
                     _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

std::size_t halves_of(const HackPlanes& planes) { return planes.k_group == 32 ? 2 : 1; }

// q~ = q * s_K rounded to q', and q . m_K, for each run of tokens that shares scales.
template <int R>
void fold_queries(const HackPlanes& planes, const float* q, float largest_row, Block& block) {
  const std::size_t dim = planes.head_dim;
  const __m128 dot_limit =
      _mm_set1_ps(64.0f * 127.0f * static_cast<float>((1u << planes.k_bits) - 1u));
  block.fits = (1u << R) - 1u;
  for (std::size_t half = 0; half < halves_of(planes); ++half) {
    V offset[R];
    for (int r = 0; r < R; ++r) offset[r] = zero();
    __m128 bound = _mm_setzero_ps();
    for (std::size_t g = 0; g < dim / 64; ++g) {
      V largest[R];
      for (int r = 0; r < R; ++r) largest[r] = zero();
      for (std::size_t i = 0; i < 64; i += kLanes) {
        const V scale = load_bf16(planes.k_scale, half * dim + 64 * g + i);
        const V min = load_bf16(planes.k_min, half * dim + 64 * g + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const V row = load(q + r * dim + 64 * g + i);
          const V folded = mul(row, scale);
          store(block.folded[r] + i, folded);
          largest[r] = max(absolute(folded), largest[r]);
          offset[r] = fma(row, min, offset[r]);
        }
      }
      const __m128 step = rounding_steps(reduce_rows<Max>(largest), 127.0f, block);
      _mm_store_ps(block.q_step[half][g], step);
      bound = _mm_add_ps(bound, _mm_mul_ps(step, dot_limit));
      for (int r = 0; r < R; ++r) {
        const V inv = broadcast(block.inv[r]);
        for (int i = 0; i < 64; i += 32) {
          round_to_bytes<true>(block.folded[r] + i, inv, block.q[half][r] + 64 * g + i);
        }
      }
    }
    const __m128 sum = reduce_rows<Add>(offset);
    _mm_store_ps(block.q_offset[half], sum);
    block.fits &= rows_below_huge(bound, sum, largest_row);
  }
}

// block.p = (SUM_g q_step * (q' . codes) + q . m_K) * row, 64 tokens.
template <int R>
void score(const HackPlanes& planes, Asking& asking, Block& block) {
  const std::size_t dim = planes.head_dim;
  const Plane codes{planes.k_codes, planes.k_bits, dim, kTokens};
  for (std::size_t t = 0; t < kTokens; t += kChunk) {
    const std::size_t half = t / (kTokens / halves_of(planes));
    V scores[R][kTogether];
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) scores[r][i] = broadcast(block.q_offset[half][r]);
    }
    for (std::size_t g = 0; g < dim / 64; ++g) {
      I sums[R][kTogether];
      asking.step();
      dots<KeyDot>(codes, g, t, block.q[half][0] + 64 * g, kMaxDim, sums);
      for (int r = 0; r < R; ++r) {
        const V step = broadcast(block.q_step[half][g][r]);
        for (int i = 0; i < kTogether; ++i) {
          scores[r][i] = fma(to_floats(sums[r][i]), step, scores[r][i]);
        }
      }
    }
    for (int i = 0; i < kTogether; ++i) {
      const std::size_t at = t + kLanes * static_cast<std::size_t>(i);
      const V factor = planes.k_row == nullptr ? broadcast(1.0f) : load_bf16(planes.k_row, at);
      for (int r = 0; r < R; ++r) store(block.p[r] + at, mul(scores[r][i], factor));
    }
  }
}

// Scores to p against the tile's maximum. score_add: [R][64] or null.
template <int R>
void soften(const float* score_add, Block& block) {
  V row[R];
  for (int r = 0; r < R; ++r) {
    row[r] = broadcast(-__builtin_huge_valf());
    for (int t = 0; t < kTokens; t += kLanes) {
      V s = load(block.p[r] + t);
      if (score_add != nullptr) {
        s = add(s, load(score_add + r * kTokens + t));
        store(block.p[r] + t, s);
      }
      row[r] = max(s, row[r]);
    }
  }
  _mm_store_ps(block.m, reduce_rows<Max>(row));
  V largest[R];
  for (int r = 0; r < R; ++r) {
    largest[r] = broadcast(block.m[r]);
    row[r] = zero();
  }
  for (int t = 0; t < kTokens; t += kLanes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {  // side by side, for exp is one long chain
      const V p = exp_nonpositive(sub(load(block.p[r] + t), largest[r]));
      store(block.p[r] + t, p);
      row[r] = add(row[r], p);
    }
  }
  _mm_store_ps(block.l, reduce_rows<Add>(row));
}

// p~ = p * s_V rounded to p', and SUM p m_V, for each group of channels that shares scales.
template <int R>
void fold_weights(const HackPlanes& planes, float largest_column, Block& block) {
  for (std::size_t g = 0; g < planes.head_dim / planes.v_group; ++g) {
    V largest[R], offset[R];
    for (int r = 0; r < R; ++r) largest[r] = offset[r] = zero();
    for (std::size_t t = 0; t < kTokens; t += kLanes) {
      const V scale = load_bf16(planes.v_scale, kTokens * g + t);
      const V min = load_bf16(planes.v_min, kTokens * g + t);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V p = load(block.p[r] + t);
        const V folded = mul(p, scale);
        store(block.folded[r] + t, folded);
        largest[r] = max(folded, largest[r]);
        offset[r] = fma(p, min, offset[r]);
      }
    }
    const __m128 step = rounding_steps(reduce_rows<Max>(largest), 255.0f, block);
    const __m128 sum = reduce_rows<Add>(offset);
    _mm_store_ps(block.p_step[g], step);
    _mm_store_ps(block.p_offset[g], sum);
    block.fits &= rows_below_huge(_mm_mul_ps(step, _mm_set1_ps(kHackMaxVDot)), sum, largest_column);
    for (int r = 0; r < R; ++r) {
      const V inv = broadcast(block.inv[r]);
      for (int t = 0; t < kTokens; t += 32) {
        round_to_bytes<false>(block.folded[r] + t, inv, block.pq[g][r] + t);
      }
    }
  }
}

// The factors by which merging multiplies the old state and the tile's; updates m and l of the rows
// that fit.
struct Weights {
  alignas(64) float factors[16];  // the old state's, the tile's
  const float* before = factors;
  const float* tile = factors + kBlockRows;
};
template <int R>
void merge_normalisers(const Block& block, AttentionStates states, std::uint32_t first,
                       Weights& weights) {
  alignas(64) float exponents[16] = {};
  float m[R];
  for (int r = 0; r < R; ++r) {
    const float before = states.m[first + r];
    m[r] = before > block.m[r] ? before : block.m[r];
    exponents[r] = before - m[r];
    exponents[kBlockRows + r] = block.m[r] - m[r];
  }
  store(weights.factors, exp_nonpositive(load(exponents)));
  alignas(16) float l[kBlockRows] = {};
  for (int r = 0; r < R; ++r) l[r] = states.l[first + r];
  _mm_store_ps(l, _mm_fmadd_ps(_mm_load_ps(block.l), _mm_load_ps(weights.tile),
                               _mm_mul_ps(_mm_load_ps(l), _mm_load_ps(weights.before))));
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    states.m[first + r] = m[r];
    states.l[first + r] = l[r];
  }
}

// Adds the tile's o to the states of the rows that fit.
template <int R>
void add_values(const HackPlanes& planes, Asking& asking, const Block& block,
                AttentionStates states, std::uint32_t first, const Weights& weights) {
  constexpr float kLargest = 0x1.fffffep127f;
  const std::size_t dim = planes.head_dim;
  const Plane codes{planes.v_codes, planes.v_bits, dim, dim};
  for (std::size_t d = 0; d < dim; d += kChunk) {
    const std::size_t g = d / planes.v_group;
    V column[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      column[i] =
          planes.v_column == nullptr ? broadcast(1.0f) : load_bf16(planes.v_column, d + kLanes * i);
    }
    I sums[R][kTogether];
    asking.step();
    dots<ValueDot>(codes, 0, d, block.pq[g][0], kTokens, sums);
    for (int r = 0; r < R; ++r) {
      if ((block.fits >> r & 1u) == 0) continue;
      const V step = broadcast(block.p_step[g][r]);
      const V offset = broadcast(block.p_offset[g][r]);
      const V before = broadcast(weights.before[r]);
      const V factor = broadcast(weights.tile[r]);
      float* o = states.o + (first + r) * dim + d;
      for (int i = 0; i < kTogether; ++i) {
        const V tile = mul(fma(to_floats(sums[r][i]), step, offset), column[i]);
        const V merged = fma(tile, factor, mul(load(o + kLanes * i), before));
        store(o + kLanes * i, min(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
      }
    }
  }
}

template <int R>
void attend_block(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                  std::uint32_t first) {
  Block block;
  // Once for the dots of each group of channels in K, kChunk tokens, and once in V, kChunk
  // channels.
  Asking asking(queries.ahead, planes.head_dim / kChunk * 2);
  fold_queries<R>(planes, queries.q, largest_factor(planes.k_row, kTokens), block);
  score<R>(planes, asking, block);
  soften<R>(queries.score_add, block);
  fold_weights<R>(planes, largest_factor(planes.v_column, planes.head_dim), block);
  Weights weights;
  merge_normalisers<R>(block, states, first, weights);
  add_values<R>(planes, asking, block, states, first, weights);
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) != 0) continue;
    hack_attend_row_exact(planes, skip_rows(queries, r, planes.head_dim), states, first + r);
  }
}

void attend_one(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  std::uint32_t row = 0;
  Queries left = queries;  // what lies ahead is asked for once, by the first block
  for (; row + kBlockRows <= states.rows; row += kBlockRows) {
    attend_block<kBlockRows>(planes, left, states, row);
    left = skip_rows(left, kBlockRows, planes.head_dim);
  }
  if (states.rows - row == 3) attend_block<3>(planes, left, states, row);
  if (states.rows - row == 2) attend_block<2>(planes, left, states, row);
  if (states.rows - row == 1) attend_block<1>(planes, left, states, row);
}

void attend(const HackWork* work, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    attend_one(work[i].planes, work[i].queries, work[i].states);
  }
}

}  // namespace

const HackKernels kHackAvx2 = {attend};

}  // namespace kvferry::kernels
