// Integer dots of codes with bytes, in registers `I` of the instruction set (AVX2 or AVX-512) that
// the unit is compiled for. Included only by hack_attend_avx2.cpp and paper_dots.h; all of it has
// internal linkage.
//
// K: codes are the unsigned operand, q' the signed one, tokens in the lanes. V: p' unsigned, codes
// signed, channels in the lanes. Codes enter with 4 bits at most, which fit either operand; codes
// of 8 bits are read twice, as 4 high and 4 low bits. The dot of a group of 64 is below 2^23 (64 *
// 255 * 255), so its conversion to f32 is exact.
//
// AVX-512 has vpdpbusd: four products of a lane are added up in its 32 bits, exactly.
// AVX2 has vpmaddubsw, which multiplies bytes, adds two neighbouring products and SATURATES that
// sum to 16 bits; vpaddw, which adds it up, wraps. Neither may happen, so the sums of 16 bits are
// widened (vpmaddwd by ones) after every N steps of 4 products in a lane of 32 bits, 2 in one of
// 16:
//   K, |q'| <= 127: N = 8 at 4 bits, for 8 * 2 * 127 * 15 = 30,480 <= 32,767;
//                   N = 16, the whole group, at 2 bits: 12,192, and at 1 bit: 4,064.
//   V, p' <= 255:   N = 4 at 4 bits, for 4 * 2 * 255 * 15 = 30,600 <= 32,767;
//                   N = 16 at 2 bits: 24,480, and at 1 bit: 8,160.
// static_asserts hold the code to this.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/hack_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr int kSteps = 16;    // of 4 products, along a group of 64
constexpr int kTogether = 2;  // registers of lanes whose dots are summed at once
constexpr int kChunk = kTogether * kLanes;

#if defined(__AVX512F__)

using I = __m512i;
KVFERRY_INLINE I zeros() { return _mm512_setzero_si512(); }
KVFERRY_INLINE I load_codes(const std::byte* p) { return _mm512_loadu_si512(p); }
KVFERRY_INLINE I broadcast_word(int word) { return _mm512_set1_epi32(word); }
KVFERRY_INLINE I add_words(I a, I b) { return _mm512_add_epi32(a, b); }
KVFERRY_INLINE I shift_words(I v, __m128i count) { return _mm512_sll_epi32(v, count); }
KVFERRY_INLINE V to_floats(I v) { return _mm512_cvtepi32_ps(v); }
// The bits from `first` up of each byte, as many as `mask` has.
KVFERRY_INLINE I field(I word, int first, I mask) {
  return _mm512_and_si512(_mm512_srli_epi32(word, static_cast<unsigned>(first)), mask);
}
// Adds products to sums, which `widened` makes sums of 32 bits.
KVFERRY_INLINE I add_products(I sum, I unsigned_bytes, I signed_bytes) {
  return _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}
KVFERRY_INLINE I widened(I sum) { return sum; }
constexpr std::int64_t kPartialMax = 0x7fffffff;

#else

using I = __m256i;
KVFERRY_INLINE I zeros() { return _mm256_setzero_si256(); }
KVFERRY_INLINE I load_codes(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
KVFERRY_INLINE I broadcast_word(int word) { return _mm256_set1_epi32(word); }
KVFERRY_INLINE I add_words(I a, I b) { return _mm256_add_epi32(a, b); }
KVFERRY_INLINE I shift_words(I v, __m128i count) { return _mm256_sll_epi32(v, count); }
KVFERRY_INLINE V to_floats(I v) { return _mm256_cvtepi32_ps(v); }
KVFERRY_INLINE I field(I word, int first, I mask) {
  return _mm256_and_si256(_mm256_srli_epi32(word, first), mask);
}
KVFERRY_INLINE I add_products(I sum, I unsigned_bytes, I signed_bytes) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(unsigned_bytes, signed_bytes));
  asm("" : "+x"(sum));  // or gcc adds up trees of products first and spills the sums
  return sum;
}
KVFERRY_INLINE I widened(I sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
constexpr std::int64_t kPartialMax = 32767;

#endif

KVFERRY_INLINE I broadcast_bytes(const std::byte* p) {
  int word;
  std::memcpy(&word, p, sizeof(word));
  return broadcast_word(word);
}

// Which operand the codes are, and the largest magnitude of the other one.
struct KeyDot {
  static constexpr int kLargest = 127;
  static KVFERRY_INLINE I add(I sum, I codes, I q) { return add_products(sum, codes, q); }
};
struct ValueDot {
  static constexpr int kLargest = 255;
  static KVFERRY_INLINE I add(I sum, I codes, I p) { return add_products(sum, p, codes); }
};

// After how many steps sums are widened, and what they reach by then at the most: two products a
// step in 16 bits (in 32 bits four, of which there is room for any number).
template <class Dot, int Bits>
constexpr std::int64_t sum_of(int steps) {
  return std::int64_t{steps} * 2 * Dot::kLargest * ((1 << Bits) - 1);
}
template <class Dot, int Bits>
constexpr int widening_steps() {
  int steps = kSteps;
  while (sum_of<Dot, Bits>(steps) > kPartialMax) steps /= 2;
  return steps;
}

// Lanes of codes at one place of the packed axis: 4 bytes a lane, words of 4 * `row_bytes`.
struct Codes {
  const std::byte* words;  // of step 0, first lane
  std::size_t row_bytes;   // from a row of words to the next
};

// sums[r][i] += dot over 16 steps of the `Fields` fields from `First` up of `Bits` bits in each
// byte. Row r's other operand is at others + r * stride, 4 bytes a step.
template <class Dot, int Bits, int First, int Fields, int R>
KVFERRY_INLINE void add_fields(const Codes& codes, const void* others, std::size_t stride,
                               I (&sums)[R][kTogether]) {
  constexpr int kWiden = widening_steps<Dot, Bits>();
  static_assert(sum_of<Dot, Bits>(kWiden) <= kPartialMax && kWiden % Fields == 0);
  const I mask = broadcast_word(((1 << Bits) - 1) * 0x01010101);
  const auto* other = static_cast<const std::byte*>(others);
  const std::byte* words = codes.words;
  for (int step = 0; step < kSteps; step += kWiden) {
    I partial[R][kTogether];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) partial[r][i] = zeros();
    }
#pragma GCC unroll 2
    for (int s = 0; s < kWiden; s += Fields, words += codes.row_bytes, other += 4 * Fields) {
      I word[kTogether];
      for (int i = 0; i < kTogether; ++i) {
        word[i] = load_codes(words + 4 * kLanes * i);
      }
#pragma GCC unroll 8
      for (int f = 0; f < Fields; ++f) {
        I code[kTogether];
        for (int i = 0; i < kTogether; ++i) {
          code[i] = field(word[i], (First + f) * Bits, mask);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const I bytes = broadcast_bytes(other + r * stride + 4 * f);
          for (int i = 0; i < kTogether; ++i) {
            partial[r][i] = Dot::add(partial[r][i], code[i], bytes);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) {
        sums[r][i] = add_words(sums[r][i], widened(partial[r][i]));
      }
    }
  }
}

template <int R>
KVFERRY_INLINE void set_zero(I (&sums)[R][kTogether]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kTogether; ++i) sums[r][i] = zeros();
  }
}

// sums[r][i] = the dots of one sub-plane, of 1, 2, 4 or 8 bits.
template <class Dot, int R>
KVFERRY_INLINE void sub_plane_dots(std::uint32_t bits, const Codes& codes, const void* others,
                                   std::size_t stride, I (&sums)[R][kTogether]) {
  set_zero(sums);
  switch (bits) {
    case 1:
      return add_fields<Dot, 1, 0, 8>(codes, others, stride, sums);
    case 2:
      return add_fields<Dot, 2, 0, 4>(codes, others, stride, sums);
    case 4:
      return add_fields<Dot, 4, 0, 2>(codes, others, stride, sums);
    default:
      add_fields<Dot, 4, 1, 1>(codes, others, stride, sums);
      for (int r = 0; r < R; ++r) {
        for (int i = 0; i < kTogether; ++i) {
          sums[r][i] = shift_words(sums[r][i], _mm_cvtsi32_si128(4));
        }
      }
      return add_fields<Dot, 4, 0, 1>(codes, others, stride, sums);
  }
}

// What a tile's dots are taken of: the codes of K or of V.
struct Plane {
  const std::byte* codes;
  std::size_t bits;
  std::size_t dim;
  std::size_t lanes;  // 64 for K, dim for V
};

// sums[r][i] = the dots with the codes of kChunk lanes from `lane` up, over the places from 64 *
// `block` up of the packed axis.
template <class Dot, int R>
KVFERRY_INLINE void dots(const Plane& plane, std::size_t block, std::size_t lane,
                         const void* others, std::size_t stride, I (&sums)[R][kTogether]) {
  const auto codes_of = [&](const HackSubPlane& sub) {
    return Codes{
        plane.codes + 8 * (plane.dim * sub.shift + plane.lanes * sub.bits * block) + 4 * lane,
        4 * plane.lanes};
  };
  const HackSubPlanes& subs = kHackSubPlanes[plane.bits];
  sub_plane_dots<Dot>(subs.part[0].bits, codes_of(subs.part[0]), others, stride, sums);
  for (std::uint32_t n = 1; n < subs.count; ++n) {
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(subs.part[n].shift));
    I more[R][kTogether];
    sub_plane_dots<Dot>(subs.part[n].bits, codes_of(subs.part[n]), others, stride, more);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) {
        sums[r][i] = add_words(sums[r][i], shift_words(more[r][i], shift));
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels
