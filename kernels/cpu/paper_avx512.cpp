// Stochastic rounding needs products of 64 bits, which AVX2 has none of.
#include <immintrin.h>

#include "kernels/cpu/paper_attend.h"

namespace kvferry::kernels {
namespace {

KVFERRY_INLINE __m512i finalise(__m512i z) {
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 30));
  z = _mm512_mullo_epi64(z, _mm512_set1_epi64(static_cast<long long>(0xbf58476d1ce4e5b9)));
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 27));
  z = _mm512_mullo_epi64(z, _mm512_set1_epi64(static_cast<long long>(0x94d049bb133111eb)));
  return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

// The upper 24 bits of eight words of the stream, as numbers in 0..1.
KVFERRY_INLINE __m256 uniform(__m512i stream, std::uint64_t first, std::uint64_t step) {
  const __m512i golden = _mm512_set1_epi64(static_cast<long long>(0x9e3779b97f4a7c15));
  const __m512i counter =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first + 1)),
                       _mm512_mullo_epi64(_mm512_set1_epi64(static_cast<long long>(step)),
                                          _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)));
  const __m512i bits = finalise(_mm512_add_epi64(stream, _mm512_mullo_epi64(counter, golden)));
  return _mm256_mul_ps(_mm512_cvtepu64_ps(_mm512_srli_epi64(bits, 40)), _mm256_set1_ps(0x1p-24f));
}

// Rows r..r+15 of columns c..c+15.
KVFERRY_INLINE void load_square(const HackBlock& block, std::uint32_t r, std::uint32_t c,
                                V (&square)[kLanes]) {
  for (std::uint32_t i = 0; i < kLanes; ++i) {
    square[i] = load(block.transposed ? block.x + (c + i) * block.stride + r
                                      : block.x + (r + i) * block.stride + c);
  }
  if (block.transposed) transpose(square);
}

void round_stochastic(const HackBlock& block, std::uint32_t bits, const std::uint16_t* scale,
                      const std::uint16_t* min_in, const PaperRandom& random, std::uint8_t* codes) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  const __m512i stream = finalise(_mm512_set1_epi64(static_cast<long long>(random.key + kGolden)));
  const V levels = broadcast(static_cast<float>((1u << bits) - 1u));
  for (std::uint32_t c = 0; c < 64u; c += kLanes) {
    const V inv = div(broadcast(2.0f), load(scale + c));
    const V mh = mul(load(min_in + c), broadcast(0.5f));
    V square[kLanes];
    for (std::uint32_t r = 0; r < block.rows; ++r) {
      if (r % kLanes == 0) load_square(block, r, c, square);
      const std::uint64_t counter = random.first + r * random.row_step + c * random.column_step;
      const V u = _mm512_insertf32x8(
          _mm512_castps256_ps512(uniform(stream, counter, random.column_step)),
          uniform(stream, counter + 8 * random.column_step, random.column_step), 1);
      const V place = mul(sub(mul(square[r % kLanes], broadcast(0.5f)), mh), inv);
      const V clamped = min(max(place, zero()), levels);
      const V lower = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      const __mmask16 up = _mm512_cmp_ps_mask(u, sub(clamped, lower), _CMP_LT_OQ);
      const V code = _mm512_mask_add_ps(lower, up, lower, broadcast(1.0f));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + r * 64u + c),
                       _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(code)));
    }
  }
}

}  // namespace

const PaperKernels kPaperAvx512 = {round_stochastic, sum_codes, pack_rows,
                                   sums_match,       scores,    attend};

}  // namespace kvferry::kernels
