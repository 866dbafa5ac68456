// Dot products of bytes with packed codes in AVX-512 with VNNI. Included only by hack_avx512.cpp;
// all of it has internal linkage.
//
// vpdpbusd multiplies unsigned by signed bytes, four a lane. K: codes unsigned, q' signed, tokens
// in the lanes. V: p' unsigned, codes signed, channels in the lanes; codes of 8 bits do not fit a
// signed byte and enter as code - 128, which 128 * SUM p' makes good. A sum is of 64 products of at
// most 255 * 255, so it stays below 2^22: nothing saturates, and its conversion to f32 is exact.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/asking.h"
#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

// Dots are taken of 32 lanes at a time: with 4 rows, 8 sums hide the latency of vpdpbusd, and one
// load of a row's four bytes serves two vectors of codes.
constexpr int kStripVectors = 2;
constexpr std::size_t kStrip = kStripVectors * kLanes;

// 64 values along the axis of a dot product, and the lanes of a strip, in a plane of codes.
struct Strip {
  const std::byte* codes;   // of the plane, at the first lane of the strip
  std::size_t row_bytes;    // of one row of words: all lanes
  std::size_t plane_bytes;  // of one bit of every code
  std::size_t group;        // the 64 values are those from 64 * group on
};

// Steps of a group's dots take 4 quads of values; 8 where a byte has as many fields, so that every
// quad of a step stands in a field that is known when this is compiled.
template <int Bits>
constexpr int kStepQuads = Bits % 2 == 1 ? 8 : 4;
template <int Bits>
constexpr int kGroupSteps = 16 / kStepQuads<Bits>;
constexpr std::size_t group_steps(std::uint32_t bits) { return bits % 2 == 1 ? 2 : 4; }

// The codes of values 4 quad .. 4 quad + 3 of a step of the strip's group, in the lanes of vector
// `i`. Sub-planes are shifted to where their bits belong.
template <int Bits>
KVFERRY_INLINE __m512i codes_at(const Strip& strip, int step, int quad, int i) {
  __m512i codes = _mm512_setzero_si512();
#pragma GCC unroll 3
  for (std::uint32_t n = 0; n < kHackSubPlanes[Bits].count; ++n) {
    const auto bits = static_cast<int>(kHackSubPlanes[Bits].part[n].bits);
    const auto shift = static_cast<int>(kHackSubPlanes[Bits].part[n].shift);
    const int fields = 8 / bits;
    // 64 values take 2 * bits rows.
    const std::size_t row =
        static_cast<std::size_t>(2 * bits) * strip.group +
        static_cast<std::size_t>(kStepQuads<Bits> / fields * step + quad / fields);
    const __m512i word = _mm512_loadu_si512(strip.codes + strip.plane_bytes * shift +
                                            strip.row_bytes * row + 64 * i);
    if (bits == 8) return word;
    const int right = quad % fields * bits - shift;
    const __m512i moved = right >= 0 ? _mm512_srli_epi32(word, static_cast<unsigned>(right))
                                     : _mm512_slli_epi32(word, static_cast<unsigned>(-right));
    const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << bits) - 1) << shift));
    codes = n == 0 ? _mm512_and_si512(moved, mask)
                   : _mm512_ternarylogic_epi32(moved, mask, codes, 0xea);  // moved & mask | codes
  }
  return codes;
}

KVFERRY_INLINE __m512i broadcast_bytes(const void* p) {
  int word;
  std::memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

enum class Operand : std::uint8_t { kK, kV };

// sums[r][i] += SUM over the group of row r's bytes times codes. bytes: [R][64], `stride` apart;
// signed for K, unsigned for V. In between a job on 4 rows of 64 values is done, job.at(i, r) for
// vector i of row r, 8 dots or a few instructions of the job at a time: see hack_jobs_avx512.h.
template <Operand kOperand, int Bits, int R, class Byte, class Job>
KVFERRY_INLINE void add_dots(const Strip& strip, const Byte* bytes, std::size_t stride,
                             Asking& asking, Job& job, __m512i (&sums)[R][kStripVectors]) {
  constexpr int kQuads = kStepQuads<Bits>;
#pragma GCC unroll 1
  for (int step = 0; step < kGroupSteps<Bits>; ++step, bytes += 4 * kQuads) {
    asking.step();
#pragma GCC unroll 8
    for (int quad = 0; quad < kQuads; ++quad) {
      __m512i codes[kStripVectors];
#pragma GCC unroll 2
      for (int i = 0; i < kStripVectors; ++i) {
        codes[i] = codes_at<Bits>(strip, step, quad, i);
        if (kOperand == Operand::kV && Bits == 8) {
          codes[i] = _mm512_xor_si512(codes[i], _mm512_set1_epi8(-128));
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i row =
            broadcast_bytes(bytes + static_cast<std::size_t>(r) * stride + 4 * quad);
#pragma GCC unroll 2
        for (int i = 0; i < kStripVectors; ++i) {
          sums[r][i] = kOperand == Operand::kK ? _mm512_dpbusd_epi32(sums[r][i], codes[i], row)
                                               : _mm512_dpbusd_epi32(sums[r][i], row, codes[i]);
        }
      }
      job.at(step * (kQuads / 4) + quad / 4, quad % 4);
    }
  }
}

// 128 * the sum of 64 bytes, in every lane: what codes of 8 bits lack.
KVFERRY_INLINE __m512i sum_of_bytes_times_128(const std::uint8_t* bytes) {
  const __m512i eights = _mm512_sad_epu8(_mm512_loadu_si512(bytes), _mm512_setzero_si512());
  return _mm512_set1_epi32(static_cast<int>(128 * _mm512_reduce_add_epi64(eights)));
}

}  // namespace
}  // namespace kvferry::kernels
