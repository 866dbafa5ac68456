// What a block of up to 4 query rows needs between the steps of attention on codes, and the steps'
// common arithmetic. Included only by hack_avx512.cpp; all of it has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 4;
constexpr int kTokens = 64;
constexpr int kMaxDim = 256;
constexpr int kMaxKGroups = kMaxDim / 64;  // of channels, for the rounding of q~
constexpr int kMaxVGroups = kMaxDim / 32;
constexpr int kVectors = kTokens / kLanes;  // of 64 values

// What is one value a row lies as [kBlockRows], so that two neighbours make 8 lanes. While a
// block's values are added up, the next block's queries are folded into its upper half.
struct Block {
  alignas(64) float folded[kBlockRows][kMaxDim];      // q~, or p~ of two groups
  alignas(64) std::int8_t q[2][kBlockRows][kMaxDim];  // q', of each half of the tokens
  alignas(32) float q_step[2][kMaxKGroups][kBlockRows];
  alignas(16) float offset[2][kBlockRows];  // q . m_K, of each half
  alignas(32) float inv[2][kBlockRows];     // 127 or 255 / largest, of two groups
  alignas(64) V largest[2];                 // four lanes a row, of two groups
  alignas(64) V sum[2];
  unsigned q_fits;  // bit r: whether f32 holds the scores

  alignas(64) float p[kBlockRows][kTokens];                       // scores, then p
  alignas(64) std::uint8_t pq[kMaxVGroups][kBlockRows][kTokens];  // p'
  alignas(32) float p_step[kMaxVGroups][kBlockRows];
  alignas(32) float p_offset[kMaxVGroups][kBlockRows];  // SUM p m_V
  alignas(64) V l_lanes[kBlockRows];
  alignas(16) float m[kBlockRows];
  alignas(16) float l[kBlockRows];
  alignas(16) float before[kBlockRows];  // the factor of the old state
  bool rescale;                          // whether any is not 1
  unsigned fits;                         // bit r: whether f32 holds the sums of row r
};

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}

struct Add {
  static KVFERRY_INLINE V apply(V a, V b) { return _mm512_add_ps(a, b); }
  static KVFERRY_INLINE __m256 apply(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
};
struct Max {
  static KVFERRY_INLINE V apply(V a, V b) { return _mm512_max_ps(a, b); }
  static KVFERRY_INLINE __m256 apply(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
};

// Two vectors to one of 8 lanes each: lane i with i + 8.
template <class Op>
KVFERRY_INLINE V join_halves(V a, V b) {
  return Op::apply(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
// Four vectors to 128 bits each: lane i with i + 8, then i + 4.
template <class Op>
KVFERRY_INLINE V join_quarters(const V (&rows)[kBlockRows]) {
  const V ab = join_halves<Op>(rows[0], rows[1]);
  const V cd = join_halves<Op>(rows[2], rows[3]);
  return Op::apply(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}
// Four lanes of each of four rows to one. Whatever stands in the other rows, a row's lanes are
// joined by the same tree: i with i + 8, then i + 4, i + 2, i + 1. So its result is the same in a
// block of any size.
template <class Op>
KVFERRY_INLINE __m128 finish(V four) {
  const V two = Op::apply(four, _mm512_permute_ps(four, 0x4e));
  const V one = Op::apply(two, _mm512_permute_ps(two, 0xb1));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(first, one));
}
// The same of two groups of rows.
template <class Op>
KVFERRY_INLINE __m256 finish(V low, V high) {
  const V two = Op::apply(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
  const V one = Op::apply(two, _mm512_permute_ps(two, 0xb1));
  const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps256(_mm512_permutexvar_ps(first, one));
}

// The steps of symmetric or unsigned rounding to `levels` from the largest values of two groups:
// stores the factors of the values in block.inv, returns the steps. Zero for what is tiny.
KVFERRY_INLINE __m256 rounding_steps(__m256 largest, float levels, Block& block) {
  const __m256 keep = _mm256_cmp_ps(largest, _mm256_set1_ps(kHackTiny), _CMP_GE_OS);
  _mm256_store_ps(block.inv[0],
                  _mm256_and_ps(keep, _mm256_div_ps(_mm256_set1_ps(levels), largest)));
  return _mm256_and_ps(keep, _mm256_mul_ps(largest, _mm256_set1_ps(1.0f / levels)));
}

// Bit r: (bound + |offset|) * factor < kHackHuge in row r; not where any is NaN.
KVFERRY_INLINE unsigned rows_below_huge(__m128 bound, __m128 offset, float factor) {
  const __m128 magnitude = _mm_andnot_ps(_mm_set1_ps(-0.0f), offset);
  const __m128 most = _mm_mul_ps(_mm_add_ps(bound, magnitude), _mm_set1_ps(factor));
  return static_cast<unsigned>(_mm_movemask_ps(_mm_cmplt_ps(most, _mm_set1_ps(kHackHuge))));
}

// The largest of a plane of bf16 factors, at least 1, which null stands for. count: a multiple
// of 16.
KVFERRY_INLINE float largest_factor(const std::byte* plane, std::size_t count) {
  if (plane == nullptr) return 1.0f;
  V largest = broadcast(1.0f);
  for (std::size_t i = 0; i < count; i += kLanes) largest = max(load_bf16(plane, i), largest);
  const V parts[1] = {largest};
  return reduce_max(parts);
}

// 2^x for x <= 0 within 2^-18 of the true value, 2^0 = 1; what is below 2^-126 becomes that. Three
// multiplications, for which the ports that also multiply the codes pay: x = k / 16 + r, 2^(k mod
// 16 / 16) from a table, 2^r - 1 = r (c1 + c2 r). k stands in the low bits of `shifted`; its upper
// part becomes the exponent by a shift that leaves its lower four bits in the mantissa, which the
// table's entries lack: bits of 2^(j / 16), less j << 19.
KVFERRY_INLINE V exp2_weight(V x) {
  const __m512i table =
      _mm512_setr_epi32(0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532,
                        0x3f75fed7, 0x3f75583f, 0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                        0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d);
  const V magic = broadcast(0x1.8p19f);  // the last bit is 1 / 16
  const V clamped = max(broadcast(-126.0f), x);
  const V shifted = add(clamped, magic);
  const V r = sub(clamped, sub(shifted, magic));
  const V growth = mul(r, fma(r, broadcast(0.2402265f), broadcast(0.6931472f)));
  const __m512i k = _mm512_castps_si512(shifted);
  const __m512i entry = _mm512_permutexvar_epi32(k, table);
  const V power = _mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32(k, 19)));
  return fma(power, growth, power);
}

}  // namespace
}  // namespace kvferry::kernels
