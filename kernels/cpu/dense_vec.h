// One native float register `V` and the operations the dense kernels are written in, for the
// instruction set this translation unit is compiled for. Included only by dense_<isa>.cpp; all of
// it has internal linkage (see dense_tables.h) and it uses no function of the standard library.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define KVFERRY_INLINE inline __attribute__((always_inline))

namespace kvferry::kernels {
namespace {

#if defined(__AVX512F__)

using V = __m512;
constexpr int kLanes = 16;
constexpr int kBlockColumns = 4;  // registers of a register tile's row: 6 x 4 sums of 32 registers

KVFERRY_INLINE V zero() { return _mm512_setzero_ps(); }
KVFERRY_INLINE V broadcast(float x) { return _mm512_set1_ps(x); }
KVFERRY_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
KVFERRY_INLINE V load(const std::uint16_t* p) {  // bf16, widened
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
KVFERRY_INLINE V load_words(const void* p) { return _mm512_loadu_ps(p); }
KVFERRY_INLINE void store(float* p, V v) { _mm512_storeu_ps(p, v); }
KVFERRY_INLINE __mmask16 first_lanes(std::size_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}
KVFERRY_INLINE V load_n(const float* p, std::size_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
KVFERRY_INLINE void store_n(float* p, std::size_t n, V v) {
  _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
KVFERRY_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
KVFERRY_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
KVFERRY_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
KVFERRY_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
KVFERRY_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// Where either is NaN, max gives the second.
KVFERRY_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
KVFERRY_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
// The bits of v, shifted as 32-bit words.
template <int N>
KVFERRY_INLINE V shift_left(V v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), N));
}
KVFERRY_INLINE V bit_and(V a, V b) { return _mm512_and_ps(a, b); }
// b where x < limit is false (also where x is NaN), else +0.
KVFERRY_INLINE V zero_where_less(V x, V limit, V b) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), b);
}
// a where the sign of x is clear, else b.
KVFERRY_INLINE V select_by_sign(V x, V a, V b) {
  return _mm512_mask_mov_ps(a, _mm512_movepi32_mask(_mm512_castps_si512(x)), b);
}
KVFERRY_INLINE V as_vector(std::uint32_t bits) {
  return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits)));
}

KVFERRY_INLINE __m256 upper_half(V v) { return _mm512_extractf32x8_ps(v, 1); }
KVFERRY_INLINE __m256 lower_half(V v) { return _mm512_castps512_ps256(v); }

// Swaps neighbours at distance S, S < kLanes.
template <int S>
KVFERRY_INLINE V partner(V v) {
  if constexpr (S == 1) return _mm512_permute_ps(v, 0xb1);
  if constexpr (S == 2) return _mm512_permute_ps(v, 0x4e);
  if constexpr (S == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
  return _mm512_shuffle_f32x4(v, v, 0x4e);
}
// -0 in the lanes whose index has bit S, +0 elsewhere.
template <int S>
KVFERRY_INLINE V upper_signs() {
  constexpr unsigned kMask = S == 1 ? 0xaaaa : S == 2 ? 0xcccc : S == 4 ? 0xf0f0 : 0xff00;
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(kMask), _mm512_set1_ps(-0.0f));
}
KVFERRY_INLINE V bit_xor(V a, V b) { return _mm512_xor_ps(a, b); }

KVFERRY_INLINE V reversed(V v) {
  const __m512i order = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_permutexvar_ps(order, v);
}

KVFERRY_INLINE void transpose(V (&r)[kLanes]) {
  V t[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  // r[4 i + c] holds columns c, 4 + c, 8 + c, 12 + c (one each 128 bits) of rows 4 i .. 4 i + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    t[8 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0x88);
    r[8 + c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0xdd);
    r[4 + c] = _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0x88);
    r[12 + c] = _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0xdd);
  }
}

#elif defined(__AVX2__)

using V = __m256;
constexpr int kLanes = 8;
constexpr int kBlockColumns = 2;  // 6 x 2 sums of 16 registers

KVFERRY_INLINE V zero() { return _mm256_setzero_ps(); }
KVFERRY_INLINE V broadcast(float x) { return _mm256_set1_ps(x); }
KVFERRY_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
KVFERRY_INLINE V load(const std::uint16_t* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
KVFERRY_INLINE V load_words(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
KVFERRY_INLINE void store(float* p, V v) { _mm256_storeu_ps(p, v); }
KVFERRY_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
KVFERRY_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
KVFERRY_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
KVFERRY_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
KVFERRY_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
KVFERRY_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
KVFERRY_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
template <int N>
KVFERRY_INLINE V shift_left(V v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), N));
}
KVFERRY_INLINE V bit_and(V a, V b) { return _mm256_and_ps(a, b); }
KVFERRY_INLINE V zero_where_less(V x, V limit, V b) {
  return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), b);
}
KVFERRY_INLINE V select_by_sign(V x, V a, V b) { return _mm256_blendv_ps(a, b, x); }
KVFERRY_INLINE V as_vector(std::uint32_t bits) {
  return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits)));
}
KVFERRY_INLINE V bit_xor(V a, V b) { return _mm256_xor_ps(a, b); }

template <int S>
KVFERRY_INLINE V partner(V v) {
  if constexpr (S == 1) return _mm256_permute_ps(v, 0xb1);
  if constexpr (S == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute2f128_ps(v, v, 0x01);
}
template <int S>
KVFERRY_INLINE V upper_signs() {
  if constexpr (S == 1) return _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f);
  if constexpr (S == 2) return _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f);
  return _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
}

KVFERRY_INLINE V reversed(V v) {
  return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

KVFERRY_INLINE void transpose(V (&r)[kLanes]) {
  V t[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const V low = r[c];
    const V high = r[4 + c];
    r[c] = _mm256_permute2f128_ps(low, high, 0x20);
    r[4 + c] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

#else

using V = __m128;
constexpr int kLanes = 4;
constexpr int kBlockColumns = 2;

KVFERRY_INLINE V zero() { return _mm_setzero_ps(); }
KVFERRY_INLINE V broadcast(float x) { return _mm_set1_ps(x); }
KVFERRY_INLINE V load(const float* p) { return _mm_loadu_ps(p); }
KVFERRY_INLINE V load(const std::uint16_t* p) {
  const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves));
}
KVFERRY_INLINE V load_words(const void* p) { return _mm_loadu_ps(static_cast<const float*>(p)); }
KVFERRY_INLINE void store(float* p, V v) { _mm_storeu_ps(p, v); }
KVFERRY_INLINE V add(V a, V b) { return _mm_add_ps(a, b); }
KVFERRY_INLINE V sub(V a, V b) { return _mm_sub_ps(a, b); }
KVFERRY_INLINE V mul(V a, V b) { return _mm_mul_ps(a, b); }
KVFERRY_INLINE V div(V a, V b) { return _mm_div_ps(a, b); }
// Two roundings: baseline x86-64 has no fused multiply-add.
KVFERRY_INLINE V fma(V a, V b, V c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
KVFERRY_INLINE V max(V a, V b) { return _mm_max_ps(a, b); }
KVFERRY_INLINE V min(V a, V b) { return _mm_min_ps(a, b); }
template <int N>
KVFERRY_INLINE V shift_left(V v) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(v), N));
}
KVFERRY_INLINE V bit_and(V a, V b) { return _mm_and_ps(a, b); }
KVFERRY_INLINE V zero_where_less(V x, V limit, V b) {
  return _mm_and_ps(_mm_cmpnlt_ps(x, limit), b);
}
KVFERRY_INLINE V select_by_sign(V x, V a, V b) {
  const V mask = _mm_castsi128_ps(_mm_srai_epi32(_mm_castps_si128(x), 31));
  return _mm_or_ps(_mm_andnot_ps(mask, a), _mm_and_ps(mask, b));
}
KVFERRY_INLINE V as_vector(std::uint32_t bits) {
  return _mm_castsi128_ps(_mm_set1_epi32(static_cast<int>(bits)));
}
KVFERRY_INLINE V bit_xor(V a, V b) { return _mm_xor_ps(a, b); }

template <int S>
KVFERRY_INLINE V partner(V v) {
  if constexpr (S == 1) return _mm_shuffle_ps(v, v, 0xb1);
  return _mm_shuffle_ps(v, v, 0x4e);
}
template <int S>
KVFERRY_INLINE V upper_signs() {
  if constexpr (S == 1) return _mm_setr_ps(0, -0.0f, 0, -0.0f);
  return _mm_setr_ps(0, 0, -0.0f, -0.0f);
}

KVFERRY_INLINE V reversed(V v) { return _mm_shuffle_ps(v, v, 0x1b); }

KVFERRY_INLINE void transpose(V (&r)[kLanes]) { _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]); }

#endif

#if !defined(__AVX512F__)
KVFERRY_INLINE V load_n(const float* p, std::size_t n) {
  alignas(64) float lanes[kLanes] = {};
  for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
KVFERRY_INLINE void store_n(float* p, std::size_t n, V v) {
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (std::size_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#endif

constexpr int kParts = 16 / kLanes;  // registers that make 16 lanes

// The sum and the maximum of 16 lanes, by the same tree on every instruction set: lane i with
// i + 8, then i + 4, i + 2, i + 1.
KVFERRY_INLINE float reduce_add(const V (&v)[kParts]) {
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(lower_half(v[0]), upper_half(v[0]));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
  const __m256 eight = _mm256_add_ps(v[0], v[1]);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
  const __m128 four = _mm_add_ps(_mm_add_ps(v[0], v[2]), _mm_add_ps(v[1], v[3]));
#endif
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
KVFERRY_INLINE float reduce_max(const V (&v)[kParts]) {
#if defined(__AVX512F__)
  const __m256 eight = _mm256_max_ps(lower_half(v[0]), upper_half(v[0]));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
  const __m256 eight = _mm256_max_ps(v[0], v[1]);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
  const __m128 four = _mm_max_ps(_mm_max_ps(v[0], v[2]), _mm_max_ps(v[1], v[3]));
#endif
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// e^x for x <= 0, at most 2 ulp off the true value with fused multiply-add (2.5 without), e^0 = 1
// exactly; +0 below -87.33 (e^x would be subnormal), so e^-inf = 0; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r = 1 + r + r^2 p(r), p of degree 4 fitted for the least
// greatest relative error (3.1e-9). n is taken from the low bits of x / ln 2 + 1.5 * 2^23 + 127,
// which are also the exponent bits of 2^n.
KVFERRY_INLINE V exp_nonpositive(V x) {
  const V limit = broadcast(-87.33f);
  const V magic = broadcast(12582912.0f + 127.0f);
  const V clamped = max(limit, x);
  const V shifted = fma(clamped, broadcast(1.442695041f), magic);
  const V n = sub(shifted, magic);
  const V upper = fma(n, broadcast(-0.693359375f), clamped);  // exact: 9 bits times 7 bits
  const V r = fma(n, broadcast(2.1219444e-4f), upper);
  V p = broadcast(0x1.6a2344p-10f);
  p = fma(p, r, broadcast(0x1.123a6ap-7f));
  p = fma(p, r, broadcast(0x1.5558f4p-5f));
  p = fma(p, r, broadcast(0x1.55549p-3f));
  p = fma(p, r, broadcast(0x1.fffffcp-2f));
  const V e = add(fma(mul(r, r), p, r), broadcast(1.0f));
  return zero_where_less(x, limit, mul(e, shift_left<23>(shifted)));
}

}  // namespace
}  // namespace kvferry::kernels
