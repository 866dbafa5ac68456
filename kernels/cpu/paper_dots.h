// Integer dots of q' or p', unsigned, with codes of layout=paper. Included only by paper_attend.h;
// all of it has internal linkage.
//
// AVX-512: vpdpbusd multiplies unsigned by signed bytes, four a lane. Codes of up to 7 bits fit a
// signed byte; those of 8 bits enter as code - 128, which 128 times the sum of q' or p' makes good.
// A sum of 128 products is at most 128 * 255 * 255 < 2^23, on its way there at most 128 * 128 * 255
// more: int32 holds it, and f32 exactly. AVX2: as hack_dots.h takes those of V.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/paper_common.h"
#if !defined(__AVX512F__)
#include "kernels/cpu/hack_dots.h"
#endif

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kDotLanes = 64;  // of a call: tokens of K, channels of V

// Codes of K or V in one 64-token block.
struct PaperCodes {
  const std::byte* codes;
  std::uint32_t bits;
  std::size_t dim;
  std::size_t lanes;  // 64 for K, dim for V
};

// q' or p' of some rows, and their sums.
struct Left {
  const std::uint8_t* codes;
  std::size_t stride;
  const std::int32_t* sums;  // of the whole partition
};

#if defined(__AVX512F__)

constexpr int kVectors = kDotLanes / kLanes;

// The four codes of each lane at places 4 i.. of a run of 32, for i in 0..7: the sub-plane of Width
// bits, which holds the bits from Shift on.
template <int Width, int Shift>
KVFERRY_INLINE __m512i part_of_group(const std::byte* run, std::size_t row_bytes, int i,
                                     int vector) {
  constexpr int kFields = 8 / Width;
  const __m512i word = _mm512_loadu_si512(run + i / kFields * row_bytes + 64 * vector);
  if constexpr (Width == 8) return _mm512_xor_si512(word, _mm512_set1_epi8(-128));
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Width) - 1));
  const __m512i part =
      _mm512_and_si512(_mm512_srli_epi32(word, static_cast<unsigned>(i % kFields * Width)), mask);
  return _mm512_slli_epi32(part, Shift);
}

template <int Bits>
KVFERRY_INLINE __m512i group_of(const std::byte* const (&runs)[3], std::size_t row_bytes, int i,
                                int vector) {
  if constexpr (Bits == 8) return part_of_group<8, 0>(runs[0], row_bytes, i, vector);
  __m512i codes = _mm512_setzero_si512();
  if constexpr ((Bits & 4) != 0) codes = part_of_group<4, 0>(runs[0], row_bytes, i, vector);
  if constexpr ((Bits & 2) != 0) {
    codes = _mm512_or_si512(codes, part_of_group<2, Bits & 4>(runs[1], row_bytes, i, vector));
  }
  if constexpr ((Bits & 1) != 0) {
    codes = _mm512_or_si512(codes, part_of_group<1, Bits & 6>(runs[2], row_bytes, i, vector));
  }
  return codes;
}

template <int Bits, int R>
void dots_of(const PaperCodes& plane, std::size_t first_place, std::uint32_t count,
             std::size_t lane, const Left& left, std::int32_t* sums) {
  __m512i total[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      total[r][v] = _mm512_loadu_si512(sums + r * kDotLanes + v * kLanes);
    }
  }
  const std::size_t row_bytes = 4 * plane.lanes;
  const std::byte* first = plane.codes + 4 * lane;
  for (std::uint32_t place = 0; place < count; place += 32) {
    // 32 places of a sub-plane of w bits are w rows of words.
    const std::size_t run = (first_place + place) / 32 * row_bytes;
    const std::byte* const runs[3] = {
        first + run * (Bits == 8 ? 8 : 4),
        first + 8 * plane.dim * (Bits & 4) + run * 2,
        first + 8 * plane.dim * (Bits & 6) + run,
    };
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m512i group[kVectors];
      for (int v = 0; v < kVectors; ++v) group[v] = group_of<Bits>(runs, row_bytes, i, v);
      for (int r = 0; r < R; ++r) {
        int four;
        std::memcpy(&four, left.codes + r * left.stride + place + 4 * i, sizeof(four));
        const __m512i factor = _mm512_set1_epi32(four);
        for (int v = 0; v < kVectors; ++v) {
          total[r][v] = _mm512_dpbusd_epi32(total[r][v], factor, group[v]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_storeu_si512(sums + r * kDotLanes + v * kLanes, total[r][v]);
    }
  }
}

using DotsOf = void (*)(const PaperCodes&, std::size_t, std::uint32_t, std::size_t, const Left&,
                        std::int32_t*);
template <int R>
constexpr DotsOf kDotsOf[8] = {dots_of<1, R>, dots_of<2, R>, dots_of<3, R>, dots_of<4, R>,
                               dots_of<5, R>, dots_of<6, R>, dots_of<7, R>, dots_of<8, R>};

// What the sums of a partition begin with.
template <int R>
KVFERRY_INLINE void start_dots(std::uint32_t bits, const Left& left, std::int32_t* sums) {
  for (int r = 0; r < R; ++r) {
    const __m512i start = _mm512_set1_epi32(bits == 8 ? 128 * left.sums[r] : 0);
    for (int v = 0; v < kVectors; ++v) {
      _mm512_storeu_si512(sums + r * kDotLanes + v * kLanes, start);
    }
  }
}

// sums[r][i] += SUM left * code over `count` places from `place` up, a multiple of 32 within the
// block, of the 64 lanes from `lane` up.
template <int R>
KVFERRY_INLINE void add_dots(const PaperCodes& plane, std::size_t place, std::uint32_t count,
                             std::size_t lane, const Left& left, std::int32_t* sums) {
  kDotsOf<R>[plane.bits - 1](plane, place, count, lane, left, sums);
}

#else

template <int R>
KVFERRY_INLINE void start_dots(std::uint32_t, const Left&, std::int32_t* sums) {
  std::memset(sums, 0, R * kDotLanes * sizeof(*sums));
}

// hack_dots.h goes over 64 places at a time: half a run is one beside zeros.
template <int R>
void add_dots(const PaperCodes& plane, std::size_t place, std::uint32_t count, std::size_t lane,
              const Left& left, std::int32_t* sums) {
  alignas(32) std::uint8_t half[R][64];
  const std::uint8_t* codes = left.codes;
  std::size_t stride = left.stride;
  if (count < 64) {
    std::memset(half, 0, sizeof(half));
    for (int r = 0; r < R; ++r) {
      std::memcpy(half[r] + place % 64, left.codes + r * left.stride, count);
    }
    codes = half[0];
    stride = sizeof(half[0]);
  }
  const Plane whole{plane.codes, plane.bits, plane.dim, plane.lanes};
  for (std::size_t done = 0; done < count; done += 64) {
    for (std::size_t i = 0; i < kDotLanes; i += kChunk) {
      I part[R][kTogether];
      dots<ValueDot>(whole, (place + done) / 64, lane + i, codes + done, stride, part);
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kTogether; ++v) {
          auto* at = reinterpret_cast<I*>(sums + r * kDotLanes + i) + v;
          _mm256_storeu_si256(at, add_words(_mm256_loadu_si256(at), part[r][v]));
        }
      }
    }
  }
}

#endif

}  // namespace
}  // namespace kvferry::kernels
