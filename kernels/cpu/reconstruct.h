// Reconstruction for the instruction set (AVX2 or AVX-512) that the unit is compiled for. Included
// only by reconstruct_avx2.cpp and reconstruct_avx512.cpp; all of it has internal linkage.
//
// K's codes lie with tokens in the lanes and are wanted with channels there: squares of kLanes
// tokens and channels are transposed. V's lie as they are wanted.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/reconstruct_tables.h"

namespace kvferry::kernels {
namespace {

constexpr std::size_t kBlockTokens = 64;

// The bits from `first` up of each word, those in `mask`, shifted up to `up`.
#if defined(__AVX512F__)
using Words = __m512i;
KVFERRY_INLINE Words no_bits() { return _mm512_setzero_si512(); }
KVFERRY_INLINE Words add_bits(Words sum, const std::byte* words, __m128i first, int mask,
                              __m128i up) {
  const Words word = _mm512_loadu_si512(words);
  const Words part = _mm512_and_si512(_mm512_srl_epi32(word, first), _mm512_set1_epi32(mask));
  return _mm512_or_si512(sum, _mm512_sll_epi32(part, up));
}
KVFERRY_INLINE V to_floats(Words v) { return _mm512_cvtepi32_ps(v); }
#else
using Words = __m256i;
KVFERRY_INLINE Words no_bits() { return _mm256_setzero_si256(); }
KVFERRY_INLINE Words add_bits(Words sum, const std::byte* words, __m128i first, int mask,
                              __m128i up) {
  const Words word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  const Words part = _mm256_and_si256(_mm256_srl_epi32(word, first), _mm256_set1_epi32(mask));
  return _mm256_or_si256(sum, _mm256_sll_epi32(part, up));
}
KVFERRY_INLINE V to_floats(Words v) { return _mm256_cvtepi32_ps(v); }
#endif

// The codes of K or V of one 64-token block.
struct CodePlane {
  const std::byte* codes;
  std::uint32_t bits;
  std::size_t dim;
  std::size_t lanes;  // 64 for K, dim for V

  // Those at one place of the packed axis, kLanes from `lane` up.
  KVFERRY_INLINE V at(std::size_t place, std::size_t lane) const {
    Words code = no_bits();
    const HackSubPlanes& subs = kHackSubPlanes[bits];
    for (std::uint32_t i = 0; i < subs.count; ++i) {
      const std::uint32_t width = subs.part[i].bits;
      const std::uint32_t shift = subs.part[i].shift;
      const std::size_t row = place * width / 32;
      const std::size_t first = place % 4 * 8 + place / 4 * width % 8;
      code = add_bits(code, codes + 8 * dim * shift + 4 * (row * lanes + lane),
                      _mm_cvtsi32_si128(static_cast<int>(first)), (1 << width) - 1,
                      _mm_cvtsi32_si128(static_cast<int>(shift)));
    }
    return to_floats(code);
  }
};

KVFERRY_INLINE float plane_at(const std::byte* plane, std::size_t index) {
  const auto* values = reinterpret_cast<const std::uint16_t*>(plane);
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(values[index] << 16)));
}
KVFERRY_INLINE V plane_lanes(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V saturated(V v) {
  constexpr float kLargest = 0x1.fffffep127f;
  return min(max(v, broadcast(-kLargest)), broadcast(kLargest));
}

// Scales and minima of hack: K's a channel, V's a token; a factor for each token or channel.
struct HackMeaning {
  const HackPlanes& p;
  KVFERRY_INLINE V of_k(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = t / p.k_group * p.head_dim + d;
    const V value = fma(broadcast(plane_at(p.k_scale, at)), code, broadcast(plane_at(p.k_min, at)));
    return saturated(p.k_row == nullptr ? value : mul(value, plane_lanes(p.k_row, t)));
  }
  KVFERRY_INLINE V of_v(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = d / p.v_group * kBlockTokens + t;
    const V value = fma(broadcast(plane_at(p.v_scale, at)), code, broadcast(plane_at(p.v_min, at)));
    return saturated(p.v_column == nullptr ? value : mul(value, plane_lanes(p.v_column, d)));
  }
};

// Of layout=paper: K's a token and partition of channels, V's a channel and partition of tokens.
struct PaperMeaning {
  const PaperPlanes& p;
  KVFERRY_INLINE V of_k(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = d / p.k_partition * p.tile_tokens() + t;
    return saturated(fma(plane_lanes(p.k_scale, at), code, plane_lanes(p.k_min, at)));
  }
  KVFERRY_INLINE V of_v(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = t / p.v_partition * p.head_dim + d;
    return saturated(fma(plane_lanes(p.v_scale, at), code, plane_lanes(p.v_min, at)));
  }
};

// 64 tokens from `first` up, whose codes these are.
template <class Meaning>
void reconstruct_block(const Meaning& meaning, const CodePlane& k_codes, const CodePlane& v_codes,
                       std::size_t first, float* k, float* v) {
  const std::size_t dim = k_codes.dim;
  for (std::size_t t = 0; t < kBlockTokens; t += kLanes) {
    for (std::size_t d = 0; d < dim; d += kLanes) {
      V square[kLanes];
      for (std::size_t i = 0; i < kLanes; ++i) {
        square[i] = meaning.of_k(k_codes.at(d + i, t), first + t, d + i);
      }
      transpose(square);
      for (std::size_t i = 0; i < kLanes; ++i) store(k + (first + t + i) * dim + d, square[i]);
    }
  }
  for (std::size_t t = 0; t < kBlockTokens; ++t) {
    for (std::size_t d = 0; d < dim; d += kLanes) {
      store(v + (first + t) * dim + d, meaning.of_v(v_codes.at(t, d), first + t, d));
    }
  }
}

void reconstruct_hack(const HackPlanes& p, float* k, float* v) {
  reconstruct_block(HackMeaning{p}, {p.k_codes, p.k_bits, p.head_dim, kBlockTokens},
                    {p.v_codes, p.v_bits, p.head_dim, p.head_dim}, 0, k, v);
}

void reconstruct_paper(const PaperPlanes& p, float* k, float* v) {
  const std::size_t plane = std::size_t{8} * p.head_dim;
  for (std::size_t first = 0; first < p.tile_tokens(); first += kBlockTokens) {
    const std::size_t block = first / kBlockTokens * plane;
    reconstruct_block(
        PaperMeaning{p}, {p.k_codes + block * p.k_bits, p.k_bits, p.head_dim, kBlockTokens},
        {p.v_codes + block * p.v_bits, p.v_bits, p.head_dim, p.head_dim}, first, k, v);
  }
}

}  // namespace
}  // namespace kvferry::kernels
