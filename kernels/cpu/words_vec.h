// One native register of 32-bit words, `Words`, for AVX2 and AVX-512, and rounding to bf16 with it.
// Included only by units that are compiled for one of them; all of it has internal linkage.
#pragma once

#include <cstdint>

#include "kernels/cpu/dense_vec.h"

// The intrinsics of the native width whose names differ in nothing else.
#if defined(__AVX512F__)
#define KVFERRY_MM(name) _mm512_##name
#define KVFERRY_MM_BITS(name) _mm512_##name##_si512
#else
#define KVFERRY_MM(name) _mm256_##name
#define KVFERRY_MM_BITS(name) _mm256_##name##_si256
#endif

namespace kvferry::kernels {
namespace {

#if defined(__AVX512F__)
using Words = __m512i;
KVFERRY_INLINE V floats_of(Words w) { return _mm512_castsi512_ps(w); }
#else
using Words = __m256i;
KVFERRY_INLINE V floats_of(Words w) { return _mm256_castsi256_ps(w); }
#endif

KVFERRY_INLINE Words words_of(V v) { return KVFERRY_MM_BITS(castps)(v); }  // the bits
KVFERRY_INLINE V to_floats(Words w) { return KVFERRY_MM(cvtepi32_ps)(w); }
KVFERRY_INLINE Words words_at(const void* p) {
  return KVFERRY_MM_BITS(loadu)(static_cast<const Words*>(p));
}
KVFERRY_INLINE void store_words(void* p, Words w) {
  KVFERRY_MM_BITS(storeu)(static_cast<Words*>(p), w);
}
KVFERRY_INLINE Words broadcast_word(int w) { return KVFERRY_MM(set1_epi32)(w); }
KVFERRY_INLINE Words broadcast_byte(char b) { return KVFERRY_MM(set1_epi8)(b); }
KVFERRY_INLINE Words word_add(Words a, Words b) { return KVFERRY_MM(add_epi32)(a, b); }
KVFERRY_INLINE Words word_and(Words a, Words b) { return KVFERRY_MM_BITS(and)(a, b); }
KVFERRY_INLINE Words word_or(Words a, Words b) { return KVFERRY_MM_BITS(or)(a, b); }
KVFERRY_INLINE Words word_min(Words a, Words b) { return KVFERRY_MM(min_epi32)(a, b); }
KVFERRY_INLINE Words word_max(Words a, Words b) { return KVFERRY_MM(max_epi32)(a, b); }
KVFERRY_INLINE Words sign_of(Words w) { return KVFERRY_MM(srai_epi32)(w, 31); }
KVFERRY_INLINE Words shift_left(Words w, int n) {
  return KVFERRY_MM(sll_epi32)(w, _mm_cvtsi32_si128(n));
}
KVFERRY_INLINE Words shift_right(Words w, int n) {
  return KVFERRY_MM(srl_epi32)(w, _mm_cvtsi32_si128(n));
}
// Each lane by a count of its own.
KVFERRY_INLINE Words shift_right(Words w, Words n) { return KVFERRY_MM(srlv_epi32)(w, n); }
template <int N>
KVFERRY_INLINE Words shift_left(Words w) {
  return KVFERRY_MM(slli_epi32)(w, N);
}
template <int N>
KVFERRY_INLINE Words shift_right(Words w) {
  return KVFERRY_MM(srli_epi32)(w, N);
}

// To nearest even, in the upper halves; not of NaN. Not the bf16 instruction, which takes
// subnormals for zeros.
KVFERRY_INLINE Words rounded(V v) {
  const Words bits = words_of(v);
  const Words up = word_add(bits, broadcast_word(0x7fff));
#if defined(__AVX512F__)
  const __mmask16 odd = _mm512_test_epi32_mask(bits, broadcast_word(0x10000));
  return _mm512_mask_add_epi32(up, odd, bits, broadcast_word(0x8000));
#else
  return word_add(up, word_and(shift_right<16>(bits), broadcast_word(1)));
#endif
}

// The upper halves of all words of a, then of b.
KVFERRY_INLINE Words upper_halves(Words a, Words b) {
#if defined(__AVX512F__)
  alignas(64) static constexpr std::uint16_t kUpper[32] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(a, words_at(kUpper), b);
#else
  const Words halves = _mm256_packus_epi32(shift_right<16>(a), shift_right<16>(b));
  return _mm256_permute4x64_epi64(halves, 0b11011000);
#endif
}

// Infinities among bf16 values become the largest finite ones: they are one above those of their
// sign, as signed and as unsigned numbers.
KVFERRY_INLINE Words finite_halves(Words v) {
  const Words no_more = KVFERRY_MM(min_epi16)(v, KVFERRY_MM(set1_epi16)(0x7f7f));
  return KVFERRY_MM(min_epu16)(no_more, KVFERRY_MM(set1_epi16)(static_cast<short>(0xff7f)));
}

KVFERRY_INLINE bool any_nan(V a, V b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0;
#else
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
#endif
}

}  // namespace
}  // namespace kvferry::kernels
