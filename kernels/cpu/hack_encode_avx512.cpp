// Quantizing and packing in AVX-512: the operations of hack_encode_scalar.cpp in their order, 16
// columns in the lanes.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_encode_common.h"

namespace kvferry::kernels {
namespace {

constexpr int kRows = 64;     // of a block, and its columns
constexpr int kTogether = 3;  // candidates of search whose errors are summed in one pass
static_assert(kHackShrinks % kTogether == 0);

std::size_t first_not_finite(const std::uint16_t* x, std::size_t n) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  for (std::size_t i = 0; i < n; i += 32) {
    const auto valid = n - i < 32 ? static_cast<__mmask32>((1u << (n - i)) - 1u) : ~__mmask32{0};
    const __m512i values = _mm512_maskz_loadu_epi16(valid, x + i);
    const __mmask32 bad = _mm512_cmpeq_epi16_mask(_mm512_and_si512(values, exponent), exponent);
    if (bad != 0) return i + static_cast<std::size_t>(__builtin_ctz(bad));
  }
  return n;
}

void widen_block(const std::uint16_t* x, std::size_t stride, float* out) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kRows; c += kLanes) store(out + kRows * r + c, load(x + r * stride + c));
  }
}

void transpose_block(const std::uint16_t* x, std::size_t stride, float* out) {
  for (int c = 0; c < kRows; c += kLanes) {
    for (int r = 0; r < kRows; r += kLanes) {
      V square[kLanes];
      for (int i = 0; i < kLanes; ++i) square[i] = load(x + (c + i) * stride + r);
      transpose(square);
      for (int i = 0; i < kLanes; ++i) store(out + kRows * (r + i) + c, square[i]);
    }
  }
}

// To the bf16 below, above (of a positive value) and nearest, as f32.
KVFERRY_INLINE V upper_half_of(__m512i bits) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
KVFERRY_INLINE V round_down(V v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i away = _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 16);
  return upper_half_of(_mm512_add_epi32(bits, away));
}
KVFERRY_INLINE V round_up_positive(V v) {
  return upper_half_of(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0xffff)));
}
KVFERRY_INLINE V round_nearest(V v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  return upper_half_of(_mm512_add_epi32(bits, half));
}

struct Ranges {
  V scale, min;
};

KVFERRY_INLINE Ranges shrunk_range(V lowest, V half, V levels, int index) {
  const V two = broadcast(2.0f);
  const V floor = broadcast(kHackMinScale);
  if (index == 0) {
    return {round_up_positive(max(mul(div(half, levels), two), floor)), round_down(lowest)};
  }
  const float f = kHackShrink[index];
  const V step = mul(div(mul(half, broadcast(f)), levels), two);
  return {round_nearest(max(step, floor)),
          round_nearest(add(lowest, mul(half, broadcast(1.0f - f))))};
}

KVFERRY_INLINE V nearest_code(V position, V levels) {
  const V clamped = min(max(position, zero()), levels);
  return _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Squared errors of kTogether ranges over 16 columns, in units of their scales. xh: halved values
// [64][16].
KVFERRY_INLINE void squared_errors(const float* xh, const Ranges* ranges, V levels, V* sums) {
  V mh[kTogether], inv[kTogether];
  for (int i = 0; i < kTogether; ++i) {
    mh[i] = mul(ranges[i].min, broadcast(0.5f));
    inv[i] = div(broadcast(2.0f), ranges[i].scale);
    sums[i] = zero();
  }
  for (int r = 0; r < kRows; ++r) {
    const V x = load(xh + kLanes * r);
    for (int i = 0; i < kTogether; ++i) {
      const V t = mul(sub(x, mh[i]), inv[i]);
      const V e = sub(t, nearest_code(t, levels));
      sums[i] = add(sums[i], mul(e, e));
    }
  }
}

KVFERRY_INLINE Ranges search_range(const float* xh, V lowest, V half, V levels) {
  Ranges best = shrunk_range(lowest, half, levels, 0);
  const V whole_scale = best.scale;
  V best_error = zero();
  for (int first = 0; first < kHackShrinks; first += kTogether) {
    Ranges ranges[kTogether];
    V sums[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      ranges[i] = shrunk_range(lowest, half, levels, first + i);
    }
    squared_errors(xh, ranges, levels, sums);
    for (int i = 0; i < kTogether; ++i) {
      if (first + i == 0) {
        best_error = sums[0];
        continue;
      }
      const V ratio = div(ranges[i].scale, whole_scale);
      const V error = mul(sums[i], mul(ratio, ratio));
      const __mmask16 better = _mm512_cmp_ps_mask(error, best_error, _CMP_LT_OQ);
      best_error = _mm512_mask_mov_ps(best_error, better, error);
      best.scale = _mm512_mask_mov_ps(best.scale, better, ranges[i].scale);
      best.min = _mm512_mask_mov_ps(best.min, better, ranges[i].min);
    }
  }
  return best;
}

KVFERRY_INLINE void store_bf16(std::uint16_t* out, V v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v), 16)));
}

void quantize_block(const float* x, std::uint32_t bits, HackRange range, std::uint8_t* codes,
                    std::uint16_t* scale, std::uint16_t* min_out) {
  const V levels = broadcast(static_cast<float>((1u << bits) - 1u));
  for (int c = 0; c < kRows; c += kLanes) {
    alignas(64) float xh[kRows * kLanes];
    V lowest = load(x + c);
    V highest = lowest;
    for (int r = 0; r < kRows; ++r) {
      const V v = load(x + kRows * r + c);
      lowest = min(lowest, v);
      highest = max(highest, v);
      store(xh + kLanes * r, mul(v, broadcast(0.5f)));
    }
    const V half = sub(mul(highest, broadcast(0.5f)), mul(lowest, broadcast(0.5f)));
    const Ranges best = range == HackRange::kMinMax ? shrunk_range(lowest, half, levels, 0)
                                                    : search_range(xh, lowest, half, levels);
    const V mh = mul(best.min, broadcast(0.5f));
    const V inv = div(broadcast(2.0f), best.scale);
    for (int r = 0; r < kRows; ++r) {
      const V code = nearest_code(mul(sub(load(xh + kLanes * r), mh), inv), levels);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + kRows * r + c),
                       _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(code)));
    }
    store_bf16(scale + c, best.scale);
    store_bf16(min_out + c, best.min);
  }
}

void pack_block(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                std::size_t lanes, std::byte* out) {
  const int fields = static_cast<int>(8 / bits);
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1u << bits) - 1u));
  const __m128i first = _mm_cvtsi32_si128(static_cast<int>(shift));
  for (int r = 0; r < kRows; r += kLanes) {
    V words[kLanes];  // after the transpose: 4 codes along the packed axis, of 16 lanes
    for (int i = 0; i < kLanes; ++i) words[i] = load_words(codes + kRows * (r + i));
    transpose(words);
    for (int j = 0; j < kLanes / fields; ++j) {
      __m512i packed = _mm512_setzero_si512();
      for (int f = 0; f < fields; ++f) {
        const __m128i field = _mm_cvtsi32_si128(f * static_cast<int>(bits));
        const __m512i word = _mm512_castps_si512(words[fields * j + f]);
        const __m512i sub = _mm512_and_si512(_mm512_srl_epi32(word, first), mask);
        packed = _mm512_or_si512(packed, _mm512_sll_epi32(sub, field));
      }
      _mm512_storeu_si512(out + 4 * (j * lanes + static_cast<std::size_t>(r)), packed);
    }
  }
}

}  // namespace

const HackEncodeKernels kHackEncodeAvx512 = {first_not_finite, widen_block, transpose_block,
                                             quantize_block, pack_block};

}  // namespace kvferry::kernels
