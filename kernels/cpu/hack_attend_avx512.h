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

// What a block of rows needs between its steps.
struct Block {
  alignas(64) std::int8_t q[kBlockRows][kMaxDim];                // q'
  alignas(64) float p[kBlockRows][kTokens];                      // scores, then p
  alignas(64) std::uint8_t pq[kBlockRows][kMaxGroups][kTokens];  // p'
  float q_step[kBlockRows][kMaxGroups];
  float p_step[kBlockRows][kMaxGroups];
  float p_offset[kBlockRows][kMaxGroups];  // SUM p m_V
  float offset[kBlockRows];                // q . m_K
  float m[kBlockRows], l[kBlockRows];
  bool fits[kBlockRows];  // whether f32 holds the row's sums
};

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V absolute(V v) { return bit_and(v, as_vector(0x7fffffffu)); }
KVFERRY_INLINE float max_lane(V v) {
  const V parts[1] = {v};
  return reduce_max(parts);
}
KVFERRY_INLINE float sum_lanes(V v) {
  const V parts[1] = {v};
  return reduce_add(parts);
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
  const float dot_limit = 64.0f * 127.0f * static_cast<float>((1u << planes.k_bits) - 1u);
  V offset[R];
  float bound[R];
  for (int r = 0; r < R; ++r) offset[r] = zero(), bound[r] = 0.0f;
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
    for (int r = 0; r < R; ++r) {
      const float top = max_lane(largest[r]);
      const bool tiny = top < kHackTiny;
      const V inv = broadcast(tiny ? 0.0f : 127.0f / top);
      block.q_step[r][g] = tiny ? 0.0f : top / 127.0f;
      bound[r] = bound[r] + block.q_step[r][g] * dot_limit;
      for (int i = 0; i < kVectors; ++i) {
        const __m512i rounded = _mm512_cvtps_epi32(mul(folded[r][i], inv));
        _mm_store_si128(reinterpret_cast<__m128i*>(&block.q[r][64 * g + kLanes * i]),
                        _mm512_cvtsepi32_epi8(rounded));
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    block.offset[r] = sum_lanes(offset[r]);
    // False for NaN too.
    block.fits[r] = bound[r] + __builtin_fabsf(block.offset[r]) < kHackHuge;
  }
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
      const V step = broadcast(block.q_step[r][g]);
      for (int i = 0; i < kVectors; ++i) {
        float* at = &block.p[r][kLanes * i];
        const V before = g == 0 ? zero() : load(at);
        store(at, fma(_mm512_cvtepi32_ps(sums[r][i]), step, before));
      }
    }
  }
}

// Scores to p against the tile's maximum.
template <int R>
void soften(Block& block) {
  for (int r = 0; r < R; ++r) {
    V s[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      s[i] = add(load(&block.p[r][kLanes * i]), broadcast(block.offset[r]));
    }
    block.m[r] = max_lane(max(max(s[0], s[1]), max(s[2], s[3])));
    const V base = broadcast(block.m[r]);
    for (int i = 0; i < kVectors; ++i) {
      s[i] = exp_nonpositive(sub(s[i], base));
      store(&block.p[r][kLanes * i], s[i]);
    }
    block.l[r] = sum_lanes(add(add(s[0], s[1]), add(s[2], s[3])));
  }
}

// p~ = p * s_V rounded to p', and SUM p m_V.
template <int R>
void fold_weights(const HackPlanes& planes, Block& block) {
  for (std::size_t g = 0; g < planes.head_dim / 64; ++g) {
    V scale[kVectors], min[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      const std::size_t t = kTokens * g + kLanes * static_cast<std::size_t>(i);
      scale[i] = load_bf16(planes.v_scale, t);
      min[i] = load_bf16(planes.v_min, t);
    }
    for (int r = 0; r < R; ++r) {
      V folded[kVectors];
      V largest = zero();
      V offset = zero();
      for (int i = 0; i < kVectors; ++i) {
        const V p = load(&block.p[r][kLanes * i]);
        folded[i] = mul(p, scale[i]);
        largest = max(folded[i], largest);
        offset = fma(p, min[i], offset);
      }
      const float top = max_lane(largest);
      const bool tiny = top < kHackTiny;
      const V inv = broadcast(tiny ? 0.0f : 255.0f / top);
      block.p_step[r][g] = tiny ? 0.0f : top / 255.0f;
      block.p_offset[r][g] = sum_lanes(offset);
      block.fits[r] =
          block.fits[r] &&
          block.p_step[r][g] * kHackMaxVDot + __builtin_fabsf(block.p_offset[r][g]) < kHackHuge;
      for (int i = 0; i < kVectors; ++i) {
        const __m512i rounded = _mm512_cvtps_epi32(mul(folded[i], inv));
        _mm_store_si128(reinterpret_cast<__m128i*>(&block.pq[r][g][kLanes * i]),
                        _mm512_cvtusepi32_epi8(rounded));
      }
    }
  }
}

// The factors by which merging multiplies the old state and the tile's; updates m and l.
template <int R>
void merge_normalisers(const Block& block, AttentionStates states, std::uint32_t first,
                       float* old_weight, float* new_weight) {
  alignas(64) float exponents[kLanes] = {};
  for (int r = 0; r < R; ++r) {
    if (!block.fits[r]) continue;
    const float before = states.m[first + r];
    const float m = before > block.m[r] ? before : block.m[r];
    exponents[r] = before - m;
    exponents[kBlockRows + r] = block.m[r] - m;
    states.m[first + r] = m;
  }
  store(exponents, exp_nonpositive(load(exponents)));
  for (int r = 0; r < R; ++r) {
    old_weight[r] = exponents[r];
    new_weight[r] = exponents[kBlockRows + r];
    if (!block.fits[r]) continue;
    states.l[first + r] = states.l[first + r] * old_weight[r] + block.l[r] * new_weight[r];
  }
}

// Adds the tile's o to the states of the rows that fit.
template <int Bits, int R>
void add_values(const HackPlanes& planes, const Block& block, AttentionStates states,
                std::uint32_t first, const float* old_weight, const float* new_weight) {
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
      if (!block.fits[r]) continue;
      const V step = broadcast(block.p_step[r][g]);
      const V offset = broadcast(block.p_offset[r][g]);
      float* o = states.o + (first + r) * dim + 64 * g;
      for (int i = 0; i < kVectors; ++i) {
        const V tile = fma(_mm512_cvtepi32_ps(sums[r][i]), step, offset);
        const V scaled = mul(load(o + kLanes * i), broadcast(old_weight[r]));
        const V merged = fma(tile, broadcast(new_weight[r]), scaled);
        store(o + kLanes * i,
              _mm512_min_ps(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
      }
    }
  }
}

template <int R>
void attend_block(const HackPlanes& planes, const float* q, AttentionStates states,
                  std::uint32_t first) {
  Block block;
  fold_queries<R>(planes, q, block);
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
  soften<R>(block);
  fold_weights<R>(planes, block);
  float old_weight[R], new_weight[R];
  merge_normalisers<R>(block, states, first, old_weight, new_weight);
  switch (planes.v_bits) {
    case 2:
      add_values<2, R>(planes, block, states, first, old_weight, new_weight);
      break;
    case 4:
      add_values<4, R>(planes, block, states, first, old_weight, new_weight);
      break;
    default:
      add_values<8, R>(planes, block, states, first, old_weight, new_weight);
  }
  for (int r = 0; r < R; ++r) {
    if (block.fits[r]) continue;
    hack_attend_row_exact(planes, q + r * planes.head_dim, states, first + r);
  }
}

void attend(const HackPlanes& planes, const float* q, AttentionStates states) {
  std::uint32_t row = 0;
  for (; row + kBlockRows <= states.rows; row += kBlockRows) {
    attend_block<kBlockRows>(planes, q + std::size_t{row} * planes.head_dim, states, row);
  }
  q += std::size_t{row} * planes.head_dim;
  if (states.rows - row == 3) attend_block<3>(planes, q, states, row);
  if (states.rows - row == 2) attend_block<2>(planes, q, states, row);
  if (states.rows - row == 1) attend_block<1>(planes, q, states, row);
}

}  // namespace
}  // namespace kvferry::kernels
