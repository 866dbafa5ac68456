// Attention on codes in AVX-512 with VNNI, in the steps of docs/codecs.md. Blocks of up to 4 query
// rows share the unpacked codes; the template parameter R is the number of rows of a block, and
// each row's operations and their order are the same for every R. Included only by hack_avx512.cpp;
// all of it has internal linkage.
//
// On Zen 4, multiplications of f32 and vpdpbusd share two ports, so what counts is how many of the
// former there are: each is a sixteenth of a token's dots.
#pragma once

#include "kernels/cpu/hack_block_avx512.h"
#include "kernels/cpu/hack_dots_avx512.h"

namespace kvferry::kernels {
namespace {

// 64 values of each row times factors that the rows share: stores the products, takes up the
// largest magnitude of each row. The sum of the values times `mins` is added to `offset`.
template <int R>
KVFERRY_INLINE void fold(const float* values, std::size_t stride, const std::byte* factors,
                         const std::byte* mins, float* folded, V (&largest)[kBlockRows],
                         V (&offset)[kBlockRows]) {
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    const std::size_t at = kLanes * static_cast<std::size_t>(i);
    const V factor = load_bf16(factors, at);
    const V min = load_bf16(mins, at);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const V value = load(values + static_cast<std::size_t>(r) * stride + at);
      const V product = mul(value, factor);
      store(folded + r * kMaxDim + at, product);
      largest[r] = _mm512_range_ps(product, largest[r], 0b1011);  // the larger magnitude
      offset[r] = fma(value, min, offset[r]);
    }
  }
}

// The products of fold() as bytes.
template <int R, class Byte>
KVFERRY_INLINE void round_folded(const float* folded, const float* inv, Byte* out,
                                 std::size_t stride) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const V factor = broadcast(inv[r]);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const __m512i rounded =
          _mm512_cvtps_epi32(mul(load(folded + r * kMaxDim + kLanes * i), factor));
      const __m128i bytes =
          Byte(-1) < Byte(0) ? _mm512_cvtsepi32_epi8(rounded) : _mm512_cvtusepi32_epi8(rounded);
      _mm_storeu_si128(
          reinterpret_cast<__m128i*>(out + static_cast<std::size_t>(r) * stride + kLanes * i),
          bytes);
    }
  }
}

KVFERRY_INLINE void clear(V (&rows)[kBlockRows]) {
#pragma GCC unroll 4
  for (V& row : rows) row = zero();
}

// q~ = q * s_K rounded to q', and q . m_K, for the tokens that share the `part`-th scales.
template <int R>
void fold_queries(const HackPlanes& planes, const float* q, std::size_t part, Block& block) {
  const std::size_t dim = planes.head_dim;
  const float most_dot = 64.0f * 127.0f * static_cast<float>((1u << planes.k_bits) - 1u);
  const std::byte* scale = planes.k_scale + 2 * part * dim;
  const std::byte* min = planes.k_min + 2 * part * dim;
  V offset[kBlockRows];
  clear(offset);
  __m128 bound = _mm_setzero_ps();
  for (std::size_t g = 0; g < dim / 64; g += 2) {
    const bool pair = g + 1 < dim / 64;
    V largest[2][kBlockRows];
    clear(largest[0]);
    clear(largest[1]);
    const auto fold_group = [&](std::size_t n) {
      const std::size_t d = 64 * (g + n);
      fold<R>(q + d, dim, scale + 2 * d, min + 2 * d, &block.folded[0][d], largest[n], offset);
    };
    fold_group(0);
    if (pair) fold_group(1);
    const __m256 step = rounding_steps(reduce<Max>(largest), 127.0f, block);
    _mm256_store_ps(block.q_step[part][g], step);
    bound =
        _mm_add_ps(bound, _mm_add_ps(_mm256_castps256_ps128(step), _mm256_extractf128_ps(step, 1)));
    const auto round_group = [&](std::size_t n) {
      const std::size_t d = 64 * (g + n);
      round_folded<R>(&block.folded[0][d], block.inv[n], &block.q[part][0][d], kMaxDim);
    };
    round_group(0);
    if (pair) round_group(1);
  }
  const __m128 sum = reduce<Add>(offset);
  _mm_store_ps(block.offset[part], sum);
  block.fits &= rows_below_huge(_mm_mul_ps(bound, _mm_set1_ps(most_dot)), sum,
                                largest_factor(planes.k_row, kTokens));
}

// block.p = k_row (SUM_g q_step * (q' . codes) + q . m_K) + score_add, 64 tokens.
template <int Bits, int R>
void score(const HackPlanes& planes, const float* score_add, Asking& asking, Block& block) {
  const std::size_t dim = planes.head_dim;
  for (std::size_t token = 0; token < kTokens; token += kStrip) {
    const std::size_t part = planes.k_group == 32 ? token / kStrip : 0;
    V scores[R][kStripVectors];
    for (int r = 0; r < R; ++r) {
      for (V& s : scores[r]) s = broadcast(block.offset[part][r]);
    }
    for (std::size_t g = 0; g < dim / 64; ++g) {
      __m512i sums[R][kStripVectors];
      for (int r = 0; r < R; ++r) {
        for (__m512i& s : sums[r]) s = _mm512_setzero_si512();
      }
      const Strip strip{planes.k_codes + 4 * token, 4 * kTokens, 8 * dim, g};
      add_dots<Operand::kK, Bits, R>(strip, &block.q[part][0][64 * g], kMaxDim, asking, sums);
      for (int r = 0; r < R; ++r) {
        const V step = broadcast(block.q_step[part][g][r]);
        for (int i = 0; i < kStripVectors; ++i) {
          scores[r][i] = fma(_mm512_cvtepi32_ps(sums[r][i]), step, scores[r][i]);
        }
      }
    }
    for (int i = 0; i < kStripVectors; ++i) {
      const std::size_t t = token + kLanes * static_cast<std::size_t>(i);
      for (int r = 0; r < R; ++r) {
        V s = scores[r][i];
        if (planes.k_row != nullptr) s = mul(s, load_bf16(planes.k_row, t));
        if (score_add != nullptr) s = add(s, load(score_add + r * kTokens + t));
        store(&block.p[r][t], s);
      }
    }
  }
}

// Scores to p against the tile's maximum.
template <int R>
void soften(Block& block) {
  V rows[kBlockRows];
  clear(rows);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const float* s = block.p[r];
    rows[r] = max(max(load(s), load(s + 16)), max(load(s + 32), load(s + 48)));
  }
  _mm_store_ps(block.m, reduce<Max>(rows));
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const V m = broadcast(block.m[r]);
    V p[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      float* at = &block.p[r][kLanes * i];
      p[i] = exp_weight(sub(load(at), m));
      store(at, p[i]);
    }
    rows[r] = add(add(p[0], p[1]), add(p[2], p[3]));
  }
  _mm_store_ps(block.l, reduce<Add>(rows));
}

// p~ = p * s_V rounded to p', and SUM p m_V.
template <int R>
void fold_weights(const HackPlanes& planes, Block& block) {
  const std::size_t groups = planes.head_dim / planes.v_group;
  const float column = largest_factor(planes.v_column, planes.head_dim);
  for (std::size_t g = 0; g < groups; g += 2) {
    const bool pair = g + 1 < groups;
    V largest[2][kBlockRows], offset[2][kBlockRows];
    for (int n = 0; n < 2; ++n) {
      clear(largest[n]);
      clear(offset[n]);
    }
    const auto fold_group = [&](std::size_t n) {
      const std::size_t at = 2 * kTokens * (g + n);
      fold<R>(block.p[0], kTokens, planes.v_scale + at, planes.v_min + at,
              &block.folded[0][kTokens * n], largest[n], offset[n]);
    };
    fold_group(0);
    if (pair) fold_group(1);
    const __m256 step = rounding_steps(reduce<Max>(largest), 255.0f, block);
    const __m256 sum = reduce<Add>(offset);
    _mm256_store_ps(block.p_step[g], step);
    _mm256_store_ps(block.p_offset[g], sum);
    const __m256 bound = _mm256_mul_ps(step, _mm256_set1_ps(kHackMaxVDot));
    block.fits &=
        rows_below_huge(_mm256_castps256_ps128(bound), _mm256_castps256_ps128(sum), column) &
        rows_below_huge(_mm256_extractf128_ps(bound, 1), _mm256_extractf128_ps(sum, 1), column);
    const auto round_group = [&](std::size_t n) {
      round_folded<R>(&block.folded[0][kTokens * n], block.inv[n], block.pq[g + n][0], kTokens);
    };
    round_group(0);
    if (pair) round_group(1);
  }
}

// Updates m and l of the rows that fit, and leaves the factors by which their o is merged:
// block.before of the old state, and the tile's in block.p_step and block.p_offset. Returns whether
// any is not 1 before.
template <int R>
bool merge_normalisers(const HackPlanes& planes, AttentionStates states, std::uint32_t first,
                       Block& block) {
  const auto rows = static_cast<__mmask8>(((1u << R) - 1u) & block.fits);
  const __m128 m_before = _mm_maskz_loadu_ps(rows, states.m + first);
  const __m128 m_tile = _mm_maskz_loadu_ps(rows, block.m);
  const __m128 m = _mm_max_ps(m_before, m_tile);
  const V exponents =
      _mm512_insertf32x4(_mm512_zextps128_ps512(_mm_sub_ps(m_before, m)), _mm_sub_ps(m_tile, m), 1);
  const V factors = exp_nonpositive(exponents);
  const __m128 before = _mm512_castps512_ps128(factors);
  const __m128 tile = _mm512_extractf32x4_ps(factors, 1);
  const __m128 l = _mm_maskz_loadu_ps(rows, states.l + first);
  _mm_mask_storeu_ps(states.m + first, rows, m);
  _mm_mask_storeu_ps(states.l + first, rows,
                     _mm_fmadd_ps(_mm_load_ps(block.l), tile, _mm_mul_ps(l, before)));
  _mm_store_ps(block.before, before);
  for (std::size_t g = 0; g < planes.head_dim / planes.v_group; ++g) {
    _mm_store_ps(block.p_step[g], _mm_mul_ps(_mm_load_ps(block.p_step[g]), tile));
    _mm_store_ps(block.p_offset[g], _mm_mul_ps(_mm_load_ps(block.p_offset[g]), tile));
  }
  return _mm_mask_cmp_ps_mask(rows, before, _mm_set1_ps(1.0f), _CMP_NEQ_UQ) != 0;
}

// Adds the tile's o to the states of the rows that fit. Where nothing is rescaled, fma(o, 1,
// offset) is an addition, to the bit. Nothing overflows: what is added is below kHackHuge, which is
// lost in the largest f32.
template <int Bits, int R>
void add_values(const HackPlanes& planes, const Block& block, bool rescale, Asking& asking,
                AttentionStates states, std::uint32_t first) {
  const std::size_t dim = planes.head_dim;
  for (std::size_t d = 0; d < dim; d += kStrip) {
    const std::size_t g = d / planes.v_group;
    __m512i sums[R][kStripVectors];
    for (int r = 0; r < R; ++r) {
      const __m512i start =
          Bits == 8 ? sum_of_bytes_times_128(block.pq[g][r]) : _mm512_setzero_si512();
      for (__m512i& s : sums[r]) s = start;
    }
    const Strip strip{planes.v_codes + 4 * d, 4 * dim, 8 * dim, 0};
    add_dots<Operand::kV, Bits, R>(strip, block.pq[g][0], kTokens, asking, sums);
    for (int r = 0; r < R; ++r) {
      if ((block.fits >> r & 1u) == 0) continue;
      const V step = broadcast(block.p_step[g][r]);
      const V offset = broadcast(block.p_offset[g][r]);
      const V before = broadcast(block.before[r]);
      float* o = states.o + (first + static_cast<std::uint32_t>(r)) * dim + d;
      for (int i = 0; i < kStripVectors; ++i) {
        const V sum = _mm512_cvtepi32_ps(sums[r][i]);
        const V old = load(o + kLanes * i);
        V merged;
        if (planes.v_column != nullptr) {
          const V column = load_bf16(planes.v_column, d + kLanes * static_cast<std::size_t>(i));
          merged = fma(fma(sum, step, offset), column, mul(old, before));
        } else {
          merged = fma(sum, step, rescale ? fma(old, before, offset) : add(old, offset));
        }
        store(o + kLanes * i, merged);
      }
    }
  }
}

// call(std::integral_constant<int, bits>) for bits in 1..8.
template <class Call>
KVFERRY_INLINE void with_bits(std::uint32_t bits, Call call) {
  switch (bits) {
    case 1:
      return call.template operator()<1>();
    case 2:
      return call.template operator()<2>();
    case 3:
      return call.template operator()<3>();
    case 4:
      return call.template operator()<4>();
    case 5:
      return call.template operator()<5>();
    case 6:
      return call.template operator()<6>();
    case 7:
      return call.template operator()<7>();
    default:
      return call.template operator()<8>();
  }
}

template <int R>
void attend_block(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                  std::uint32_t first) {
  Block block;
  block.fits = (1u << R) - 1u;
  Asking asking(queries.ahead, planes.head_dim);  // a step is four values of 32 lanes
  const std::size_t parts = planes.k_group == 32 ? 2 : 1;
  for (std::size_t part = 0; part < parts; ++part) {
    fold_queries<R>(planes, queries.q, part, block);
  }
  with_bits(planes.k_bits,
            [&]<int Bits>() { score<Bits, R>(planes, queries.score_add, asking, block); });
  soften<R>(block);
  fold_weights<R>(planes, block);
  const bool rescale = merge_normalisers<R>(planes, states, first, block);
  with_bits(planes.v_bits, [&]<int Bits>() {
    add_values<Bits, R>(planes, block, rescale, asking, states, first);
  });
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) != 0) continue;
    const auto row = static_cast<std::uint32_t>(r);
    hack_attend_row_exact(planes, skip_rows(queries, row, planes.head_dim), states, first + row);
  }
}

void attend(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  std::uint32_t row = 0;
  Queries left = queries;
  for (; row + kBlockRows <= states.rows; row += kBlockRows) {
    attend_block<kBlockRows>(planes, left, states, row);
    left = skip_rows(left, kBlockRows, planes.head_dim);
  }
  if (states.rows - row == 3) attend_block<3>(planes, left, states, row);
  if (states.rows - row == 2) attend_block<2>(planes, left, states, row);
  if (states.rows - row == 1) attend_block<1>(planes, left, states, row);
}

}  // namespace
}  // namespace kvferry::kernels
