// Attention on codes in AVX-512 with VNNI. Blocks of up to 4 query rows share the unpacked codes;
// the template parameter R is the number of rows of a block, and each row's operations and their
// order are the same for every R. Included only by hack_avx512.cpp; all of it has internal linkage.
//
// vpdpbusd multiplies unsigned by signed bytes, four a lane. K: codes unsigned, q' signed, 16
// tokens in the lanes. V: p' unsigned, codes signed, 16 channels in the lanes; codes of 8 bits do
// not fit a signed byte and enter as code - 128, which 128 * SUM p' makes good. All sums stay below
// 2^24, so their conversion to f32 is exact.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 4;
constexpr int kTokens = 64;
constexpr int kMaxGroups = 4;
constexpr int kMaxDim = 256;
constexpr int kVectors = kTokens / kLanes;  // of a group of channels, and of a tile's tokens

// What a block of rows needs between its steps. What is one value a row lies as [kBlockRows].
struct Block {
  alignas(64) std::int8_t q[kBlockRows][kMaxDim];                // q'
  alignas(64) float p[kBlockRows][kTokens];                      // scores, then p
  alignas(64) std::uint8_t pq[kBlockRows][kMaxGroups][kTokens];  // p'
  alignas(16) float q_step[kMaxGroups][kBlockRows];
  alignas(16) float p_step[kMaxGroups][kBlockRows];
  alignas(16) float p_offset[kMaxGroups][kBlockRows];  // SUM p m_V
  alignas(16) float inv[kBlockRows];                   // 127 or 255 / largest
  alignas(16) float offset[kBlockRows];                // q . m_K
  alignas(16) float m[kBlockRows];
  alignas(16) float l[kBlockRows];
  unsigned fits;  // bit r: whether f32 holds the sums of row r
};

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V absolute(V v) { return bit_and(v, as_vector(0x7fffffffu)); }

struct Add {
  static KVFERRY_INLINE __m256 apply(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static KVFERRY_INLINE float reduce(V v) {
    const V parts[1] = {v};
    return reduce_add(parts);
  }
};
struct Max {
  static KVFERRY_INLINE __m256 apply(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  static KVFERRY_INLINE float reduce(V v) {
    const V parts[1] = {v};
    return reduce_max(parts);
  }
};

// One vector a row to one lane a row. Every row by the tree of reduce_add: lane i with i + 8, then
// i + 4, i + 2, i + 1, so that a row's result is the same in a block of any size.
template <class Op, int R>
KVFERRY_INLINE __m128 reduce_rows(const V (&rows)[R]) {
  if constexpr (R == 1) return _mm_set_ss(Op::reduce(rows[0]));
  __m256 eight[kBlockRows];
  for (int r = 0; r < kBlockRows; ++r) {
    eight[r] =
        r < R ? Op::apply(lower_half(rows[r % R]), upper_half(rows[r % R])) : _mm256_setzero_ps();
  }
  // 128 bits each: rows 0 and 2, rows 1 and 3.
  const __m256 even = Op::apply(_mm256_permute2f128_ps(eight[0], eight[2], 0x20),
                                _mm256_permute2f128_ps(eight[0], eight[2], 0x31));
  const __m256 odd = Op::apply(_mm256_permute2f128_ps(eight[1], eight[3], 0x20),
                               _mm256_permute2f128_ps(eight[1], eight[3], 0x31));
  // 64 bits each: rows 0, 1, 2, 3.
  const __m256 two =
      Op::apply(_mm256_shuffle_ps(even, odd, 0x44), _mm256_shuffle_ps(even, odd, 0xee));
  const __m256 one = Op::apply(two, _mm256_permute_ps(two, 0xb1));
  return _mm_shuffle_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1), 0x88);
}

// The steps of symmetric or unsigned rounding to `levels` from each row's largest value: stores the
// factor of the values in block.inv, returns the step. Zero for what is tiny.
KVFERRY_INLINE __m128 rounding_steps(__m128 largest, float levels, Block& block) {
  const __m128 keep = _mm_cmpge_ps(largest, _mm_set1_ps(kHackTiny));
  _mm_store_ps(block.inv, _mm_and_ps(keep, _mm_div_ps(_mm_set1_ps(levels), largest)));
  return _mm_and_ps(keep, _mm_mul_ps(largest, _mm_set1_ps(1.0f / levels)));
}

// Bit r: bound + |offset| < kHackHuge in row r; not where either is NaN.
KVFERRY_INLINE unsigned rows_below_huge(__m128 bound, __m128 offset) {
  const __m128 magnitude = _mm_andnot_ps(_mm_set1_ps(-0.0f), offset);
  return static_cast<unsigned>(
      _mm_movemask_ps(_mm_cmplt_ps(_mm_add_ps(bound, magnitude), _mm_set1_ps(kHackHuge))));
}

KVFERRY_INLINE __m512i broadcast_bytes(const void* p) {
  int word;
  std::memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

// q~ = q * s_K rounded to q', and q . m_K.
template <int R>
void fold_queries(const HackPlanes& planes, const float* q, Block& block) {
  const std::size_t dim = planes.head_dim;
  const __m128 dot_limit =
      _mm_set1_ps(64.0f * 127.0f * static_cast<float>((1u << planes.k_bits) - 1u));
  V offset[R];
  for (int r = 0; r < R; ++r) offset[r] = zero();
  __m128 bound = _mm_setzero_ps();
  for (std::size_t g = 0; g < dim / 64; ++g) {
    V folded[R][kVectors];
    V largest[R];
    for (int r = 0; r < R; ++r) largest[r] = zero();
    for (int i = 0; i < kVectors; ++i) {
      const std::size_t d = 64 * g + kLanes * static_cast<std::size_t>(i);
      const V scale = load_bf16(planes.k_scale, d);
      const V min = load_bf16(planes.k_min, d);
      for (int r = 0; r < R; ++r) {
        const V row = load(q + r * dim + d);
        folded[r][i] = mul(row, scale);
        largest[r] = max(absolute(folded[r][i]), largest[r]);
        offset[r] = fma(row, min, offset[r]);
      }
    }
    const __m128 step = rounding_steps(reduce_rows<Max>(largest), 127.0f, block);
    _mm_store_ps(block.q_step[g], step);
    bound = _mm_add_ps(bound, _mm_mul_ps(step, dot_limit));
    for (int r = 0; r < R; ++r) {
      const V inv = broadcast(block.inv[r]);
      for (int i = 0; i < kVectors; ++i) {
        const __m512i rounded = _mm512_cvtps_epi32(mul(folded[r][i], inv));
        _mm_store_si128(reinterpret_cast<__m128i*>(&block.q[r][64 * g + kLanes * i]),
                        _mm512_cvtsepi32_epi8(rounded));
      }
    }
  }
  const __m128 sum = reduce_rows<Add>(offset);
  _mm_store_ps(block.offset, sum);
  block.fits = rows_below_huge(bound, sum);
}

// block.p = SUM_g q_step * (q' . codes), 64 tokens.
template <int Bits, int R>
void score(const HackPlanes& planes, Block& block) {
  constexpr int kFields = 8 / Bits;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1));
  const std::byte* words = planes.k_codes;
  for (std::size_t g = 0; g < planes.head_dim / 64; ++g) {
    __m512i sums[R][kVectors];
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kVectors; ++i) sums[r][i] = _mm512_setzero_si512();
    }
    for (int j = 0; j < 16 / kFields; ++j, words += 4 * kTokens) {
      __m512i word[kVectors];
      for (int i = 0; i < kVectors; ++i) word[i] = _mm512_loadu_si512(words + 64 * i);
#pragma GCC unroll 4
      for (int f = 0; f < kFields; ++f) {
        __m512i codes[kVectors];
        for (int i = 0; i < kVectors; ++i) {
          codes[i] =
              Bits == 8 ? word[i] : _mm512_and_si512(_mm512_srli_epi32(word[i], f * Bits), mask);
        }
        for (int r = 0; r < R; ++r) {
          const __m512i q = broadcast_bytes(&block.q[r][64 * g + 4 * (kFields * j + f)]);
          for (int i = 0; i < kVectors; ++i) {
            sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], codes[i], q);
          }
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      const V step = broadcast(block.q_step[g][r]);
      for (int i = 0; i < kVectors; ++i) {
        float* at = &block.p[r][kLanes * i];
        const V before = g == 0 ? zero() : load(at);
        store(at, fma(_mm512_cvtepi32_ps(sums[r][i]), step, before));
      }
    }
  }
}

// Scores to p against the tile's maximum. score_add: [R][64] or null.
template <int R>
void soften(const float* score_add, Block& block) {
  V row[R];
  for (int r = 0; r < R; ++r) {
    V s[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      s[i] = add(load(&block.p[r][kLanes * i]), broadcast(block.offset[r]));
      if (score_add != nullptr) s[i] = add(s[i], load(score_add + r * kTokens + kLanes * i));
      store(&block.p[r][kLanes * i], s[i]);
    }
    row[r] = max(max(s[0], s[1]), max(s[2], s[3]));
  }
  _mm_store_ps(block.m, reduce_rows<Max>(row));
  for (int r = 0; r < R; ++r) {
    V p[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      float* at = &block.p[r][kLanes * i];
      p[i] = exp_nonpositive(sub(load(at), broadcast(block.m[r])));
      store(at, p[i]);
    }
    row[r] = add(add(p[0], p[1]), add(p[2], p[3]));
  }
  _mm_store_ps(block.l, reduce_rows<Add>(row));
}

// p~ = p * s_V rounded to p', and SUM p m_V.
template <int R>
void fold_weights(const HackPlanes& planes, Block& block) {
  for (std::size_t g = 0; g < planes.head_dim / 64; ++g) {
    V scale[kVectors];
    V largest[R], offset[R];
    for (int r = 0; r < R; ++r) largest[r] = offset[r] = zero();
    for (int i = 0; i < kVectors; ++i) {
      const std::size_t t = kTokens * g + kLanes * static_cast<std::size_t>(i);
      scale[i] = load_bf16(planes.v_scale, t);
      const V min = load_bf16(planes.v_min, t);
      for (int r = 0; r < R; ++r) {
        const V p = load(&block.p[r][kLanes * i]);
        largest[r] = max(mul(p, scale[i]), largest[r]);
        offset[r] = fma(p, min, offset[r]);
      }
    }
    const __m128 step = rounding_steps(reduce_rows<Max>(largest), 255.0f, block);
    const __m128 sum = reduce_rows<Add>(offset);
    _mm_store_ps(block.p_step[g], step);
    _mm_store_ps(block.p_offset[g], sum);
    block.fits &= rows_below_huge(_mm_mul_ps(step, _mm_set1_ps(kHackMaxVDot)), sum);
    for (int r = 0; r < R; ++r) {
      const V inv = broadcast(block.inv[r]);
      for (int i = 0; i < kVectors; ++i) {
        const V folded = mul(load(&block.p[r][kLanes * i]), scale[i]);
        const __m512i rounded = _mm512_cvtps_epi32(mul(folded, inv));
        _mm_store_si128(reinterpret_cast<__m128i*>(&block.pq[r][g][kLanes * i]),
                        _mm512_cvtusepi32_epi8(rounded));
      }
    }
  }
}

// The factors by which merging multiplies the old state and the tile's; updates m and l.
struct Weights {
  alignas(16) float before[kBlockRows], tile[kBlockRows];
};
template <int R>
void merge_normalisers(const Block& block, AttentionStates states, std::uint32_t first,
                       Weights& weights) {
  const auto rows = static_cast<__mmask8>(((1u << R) - 1u) & block.fits);
  const __m128 m_before = _mm_maskz_loadu_ps(rows, states.m + first);
  const __m128 m_tile = _mm_maskz_loadu_ps(rows, block.m);
  const __m128 m = _mm_max_ps(m_before, m_tile);
  const V exponents =
      _mm512_insertf32x4(_mm512_zextps128_ps512(_mm_sub_ps(m_before, m)), _mm_sub_ps(m_tile, m), 1);
  const V factors = exp_nonpositive(exponents);
  const __m128 before = _mm512_castps512_ps128(factors);
  const __m128 tile = _mm512_extractf32x4_ps(factors, 1);
  _mm_store_ps(weights.before, before);
  _mm_store_ps(weights.tile, tile);
  const __m128 l = _mm_maskz_loadu_ps(rows, states.l + first);
  _mm_mask_storeu_ps(states.m + first, rows, m);
  _mm_mask_storeu_ps(states.l + first, rows,
                     _mm_fmadd_ps(_mm_load_ps(block.l), tile, _mm_mul_ps(l, before)));
}

// Adds the tile's o to the states of the rows that fit.
template <int Bits, int R>
void add_values(const HackPlanes& planes, const Block& block, AttentionStates states,
                std::uint32_t first, const Weights& weights) {
  constexpr int kFields = 8 / Bits;
  constexpr float kLargest = 0x1.fffffep127f;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1));
  const std::size_t dim = planes.head_dim;
  for (std::size_t g = 0; g < dim / 64; ++g) {
    __m512i sums[R][kVectors];
    for (int r = 0; r < R; ++r) {
      __m512i start = _mm512_setzero_si512();
      if constexpr (Bits == 8) {  // 128 * SUM p', in every lane
        const __m512i eights = _mm512_sad_epu8(_mm512_load_si512(block.pq[r][g]), start);
        start = _mm512_set1_epi32(static_cast<int>(128 * _mm512_reduce_add_epi64(eights)));
      }
      for (int i = 0; i < kVectors; ++i) sums[r][i] = start;
    }
    const std::byte* words = planes.v_codes + 256 * g;
    for (int j = 0; j < 16 / kFields; ++j, words += 4 * dim) {
      __m512i word[kVectors];
      for (int i = 0; i < kVectors; ++i) word[i] = _mm512_loadu_si512(words + 64 * i);
#pragma GCC unroll 4
      for (int f = 0; f < kFields; ++f) {
        __m512i codes[kVectors];
        for (int i = 0; i < kVectors; ++i) {
          codes[i] = Bits == 8 ? _mm512_xor_si512(word[i], _mm512_set1_epi8(-128))
                               : _mm512_and_si512(_mm512_srli_epi32(word[i], f * Bits), mask);
        }
        for (int r = 0; r < R; ++r) {
          const __m512i p = broadcast_bytes(&block.pq[r][g][4 * (kFields * j + f)]);
          for (int i = 0; i < kVectors; ++i) {
            sums[r][i] = _mm512_dpbusd_epi32(sums[r][i], p, codes[i]);
          }
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      if ((block.fits >> r & 1u) == 0) continue;
      const V step = broadcast(block.p_step[g][r]);
      const V offset = broadcast(block.p_offset[g][r]);
      float* o = states.o + (first + r) * dim + 64 * g;
      for (int i = 0; i < kVectors; ++i) {
        const V tile = fma(_mm512_cvtepi32_ps(sums[r][i]), step, offset);
        const V scaled = mul(load(o + kLanes * i), broadcast(weights.before[r]));
        const V merged = fma(tile, broadcast(weights.tile[r]), scaled);
        store(o + kLanes * i,
              _mm512_min_ps(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
      }
    }
  }
}

template <int R>
void attend_block(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                  std::uint32_t first) {
  Block block;
  fold_queries<R>(planes, queries.q, block);
  switch (planes.k_bits) {
    case 2:
      score<2, R>(planes, block);
      break;
    case 4:
      score<4, R>(planes, block);
      break;
    default:
      score<8, R>(planes, block);
  }
  soften<R>(queries.score_add, block);
  fold_weights<R>(planes, block);
  Weights weights;
  merge_normalisers<R>(block, states, first, weights);
  switch (planes.v_bits) {
    case 2:
      add_values<2, R>(planes, block, states, first, weights);
      break;
    case 4:
      add_values<4, R>(planes, block, states, first, weights);
      break;
    default:
      add_values<8, R>(planes, block, states, first, weights);
  }
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) != 0) continue;
    hack_attend_row_exact(planes, skip_rows(queries, r, planes.head_dim), states, first + r);
  }
}

// What these functions do; the rest is left to hack_attend.h.
bool does(const HackPlanes& planes) {
  return kHackSubPlanes[planes.k_bits].count == 1 && kHackSubPlanes[planes.v_bits].count == 1 &&
         planes.k_bits > 1 && planes.v_bits > 1 && planes.k_group >= 64 && planes.v_group == 64 &&
         planes.k_row == nullptr && planes.v_column == nullptr;
}

void attend(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  if (!does(planes)) {
    kHackAnyAvx512.attend(planes, queries, states);
    return;
  }
  std::uint32_t row = 0;
  for (; row + kBlockRows <= states.rows; row += kBlockRows) {
    attend_block<kBlockRows>(planes, skip_rows(queries, row, planes.head_dim), states, row);
  }
  const Queries left = skip_rows(queries, row, planes.head_dim);
  if (states.rows - row == 3) attend_block<3>(planes, left, states, row);
  if (states.rows - row == 2) attend_block<2>(planes, left, states, row);
  if (states.rows - row == 1) attend_block<1>(planes, left, states, row);
}

}  // namespace
}  // namespace kvferry::kernels
