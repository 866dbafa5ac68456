// What attention over dense tiles does between lanes: pairs of neighbours, and sums of many
// registers at once. Included only by dense_products.h.
#pragma once

#include "kernels/cpu/dense_vec.h"

namespace kvferry::kernels {
namespace {

#if defined(__AVX512F__)

// 16 pairs of neighbours <-> those of even index in a, the others in b.
KVFERRY_INLINE void deinterleave(V& a, V& b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const V first = a;
  a = _mm512_permutex2var_ps(first, even, b);
  b = _mm512_permutex2var_ps(first, _mm512_or_si512(even, _mm512_set1_epi32(1)), b);
}
KVFERRY_INLINE void interleave(V& a, V& b) {
  const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const V first = a;
  a = _mm512_permutex2var_ps(first, lower, b);
  b = _mm512_permutex2var_ps(first, _mm512_add_epi32(lower, _mm512_set1_epi32(8)), b);
}

// The sums of the lanes of kSums times kParts registers, in their order, by the tree of reduce_add.
// A blend and a shuffle bring together what is added: a blend may start in any of the four pipes, a
// shuffle in two.
constexpr int kSums = 16;  // as many as leave registers for what is multiplied
struct Reduced {
  V parts[1];
};
KVFERRY_INLINE Reduced reduce_each(const V (&v)[1][kSums]) {
  V four[4];  // of registers c, 4 + c, 8 + c and 12 + c, one each 128 bits
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    V eight[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const V x = v[0][8 * i + c];
      const V y = v[0][8 * i + 4 + c];
      eight[i] = add(_mm512_mask_mov_ps(x, 0xff00, y), _mm512_shuffle_f32x4(x, y, 0x4e));
    }
    four[c] = add(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                  _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd));
  }
  V two[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const V x = four[2 * i];
    const V y = four[2 * i + 1];
    two[i] = add(_mm512_mask_mov_ps(x, 0xcccc, y), _mm512_shuffle_ps(x, y, 0x4e));
  }
  return {{add(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd))}};
}

// R rows of kSums / R, the first `stride` values apart, which is kSums / R here.
template <int R>
KVFERRY_INLINE void store_rows(float* p, std::size_t /*stride*/, const Reduced& sums) {
  store(p, sums.parts[0]);
}

#else

// R rows of the eight sums.
template <int R>
KVFERRY_INLINE void store_rows(float* p, std::size_t stride, __m128 lower, __m128 upper) {
  if constexpr (R <= 2) {
    _mm_storeu_ps(p, lower);
    _mm_storeu_ps(R == 1 ? p + 4 : p + stride, upper);
  } else {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), lower);
    _mm_storeh_pi(reinterpret_cast<__m64*>(p + stride), lower);
    _mm_storel_pi(reinterpret_cast<__m64*>(p + 2 * stride), upper);
    _mm_storeh_pi(reinterpret_cast<__m64*>(p + 3 * stride), upper);
  }
}

#if defined(__AVX2__)

KVFERRY_INLINE void deinterleave(V& a, V& b) {
  const V even = _mm256_shuffle_ps(a, b, 0x88);
  const V odd = _mm256_shuffle_ps(a, b, 0xdd);
  a = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
  b = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
}
KVFERRY_INLINE void interleave(V& a, V& b) {
  const V lower = _mm256_unpacklo_ps(a, b);
  const V upper = _mm256_unpackhi_ps(a, b);
  a = _mm256_permute2f128_ps(lower, upper, 0x20);
  b = _mm256_permute2f128_ps(lower, upper, 0x31);
}

constexpr int kSums = 8;
struct Reduced {
  V parts[1];
};
KVFERRY_INLINE Reduced reduce_each(const V (&v)[2][kSums]) {
  V four[4];  // of registers c and 4 + c
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const V x = add(v[0][c], v[1][c]);
    const V y = add(v[0][4 + c], v[1][4 + c]);
    four[c] = add(_mm256_blend_ps(x, y, 0xf0), _mm256_permute2f128_ps(x, y, 0x21));
  }
  V two[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const V x = four[2 * i];
    const V y = four[2 * i + 1];
    two[i] = add(_mm256_blend_ps(x, y, 0xcc), _mm256_shuffle_ps(x, y, 0x4e));
  }
  return {{add(_mm256_shuffle_ps(two[0], two[1], 0x88), _mm256_shuffle_ps(two[0], two[1], 0xdd))}};
}
template <int R>
KVFERRY_INLINE void store_rows(float* p, std::size_t stride, const Reduced& sums) {
  store_rows<R>(p, stride, _mm256_castps256_ps128(sums.parts[0]),
                _mm256_extractf128_ps(sums.parts[0], 1));
}

#else  // SSE

KVFERRY_INLINE void deinterleave(V& a, V& b) {
  const V first = a;
  a = _mm_shuffle_ps(first, b, 0x88);
  b = _mm_shuffle_ps(first, b, 0xdd);
}
KVFERRY_INLINE void interleave(V& a, V& b) {
  const V first = a;
  a = _mm_unpacklo_ps(first, b);
  b = _mm_unpackhi_ps(first, b);
}

constexpr int kSums = 8;
struct Reduced {
  V parts[2];
};
KVFERRY_INLINE Reduced reduce_each(const V (&v)[4][kSums]) {
  Reduced out;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    V four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * half + i;
      four[i] = add(add(v[0][c], v[2][c]), add(v[1][c], v[3][c]));
    }
    _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
    out.parts[half] = add(add(four[0], four[2]), add(four[1], four[3]));
  }
  return out;
}
template <int R>
KVFERRY_INLINE void store_rows(float* p, std::size_t stride, const Reduced& sums) {
  store_rows<R>(p, stride, sums.parts[0], sums.parts[1]);
}

#endif
#endif

}  // namespace
}  // namespace kvferry::kernels
