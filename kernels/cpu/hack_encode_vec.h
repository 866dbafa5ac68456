// What the encoding kernels of hack need of a register beyond words_vec.h, for AVX-512 and
// AVX2. Included only by hack_encode_<isa>.cpp; all of it has internal linkage.
#pragma once

#include "kernels/cpu/words_vec.h"

namespace kvferry::kernels {
namespace {

#if defined(__AVX512F__)

using Mask = __mmask16;

KVFERRY_INLINE Mask less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
KVFERRY_INLINE V where(Mask mask, V a, V b) { return _mm512_mask_mov_ps(b, mask, a); }
KVFERRY_INLINE bool all(Mask mask) { return mask == 0xffff; }

KVFERRY_INLINE V nearest_integer(V v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

KVFERRY_INLINE V root(V v) { return _mm512_sqrt_ps(v); }

KVFERRY_INLINE void store_bf16(std::uint16_t* out, V v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v), 16)));
}

// Rounds four registers to the nearest integers and stores them as bytes; what is below 0 gives 0.
KVFERRY_INLINE void store_codes(std::uint8_t* out, const V (&v)[4]) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
  const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
  const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(places, _mm512_packus_epi16(low, high)));
}

// The place of the first of n bf16 values, at most 2 kLanes, that is NaN or infinite; 2 kLanes if
// none is.
KVFERRY_INLINE std::size_t find_not_finite(const std::uint16_t* x, std::size_t n) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  const auto valid = n < 32 ? static_cast<__mmask32>((1u << n) - 1u) : ~__mmask32{0};
  const __m512i values = _mm512_maskz_loadu_epi16(valid, x);
  const __mmask32 bad = _mm512_cmpeq_epi16_mask(_mm512_and_si512(values, exponent), exponent);
  return bad == 0 ? 32 : static_cast<std::size_t>(__builtin_ctz(bad));
}

#else

using Mask = __m256;

KVFERRY_INLINE Mask less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
KVFERRY_INLINE V where(Mask mask, V a, V b) { return _mm256_blendv_ps(b, a, mask); }
KVFERRY_INLINE bool all(Mask mask) { return _mm256_movemask_ps(mask) == 0xff; }

KVFERRY_INLINE V nearest_integer(V v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

KVFERRY_INLINE V root(V v) { return _mm256_sqrt_ps(v); }

KVFERRY_INLINE void store_bf16(std::uint16_t* out, V v) {
  const __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(v), 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(out),
      _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

KVFERRY_INLINE void store_codes(std::uint8_t* out, const V (&v)[4]) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
  const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
  const __m256i places = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), places));
}

KVFERRY_INLINE std::size_t find_not_finite(const std::uint16_t* x, std::size_t n) {
  const __m256i exponent = _mm256_set1_epi16(0x7f80);
  alignas(32) std::uint16_t rest[16] = {};
  if (n < 16) {
    for (std::size_t i = 0; i < n; ++i) rest[i] = x[i];
    x = rest;
  }
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const int bad =
      _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_and_si256(values, exponent), exponent));
  return bad == 0 ? 16 : static_cast<std::size_t>(__builtin_ctz(static_cast<unsigned>(bad))) / 2;
}

#endif

// To the bf16 below, above (of a positive value) and nearest, as f32.
KVFERRY_INLINE V upper_half_of(Words bits) {
  return floats_of(word_and(bits, broadcast_word(static_cast<int>(0xffff0000u))));
}
KVFERRY_INLINE V round_down(V v) {
  const Words bits = words_of(v);
  return upper_half_of(word_add(bits, shift_right<16>(sign_of(bits))));
}
KVFERRY_INLINE V round_up_positive(V v) {
  return upper_half_of(word_add(words_of(v), broadcast_word(0xffff)));
}
KVFERRY_INLINE V round_nearest(V v) { return upper_half_of(rounded(v)); }

}  // namespace
}  // namespace kvferry::kernels
