#include <immintrin.h>

#include "kernels/cpu/rans_tables.h"

namespace kvferry::kernels {
namespace {

// table[index] for 16 indices. Loads one by one: with vpgatherdd decoding ran at 2.0 GB/s in place
// of 2.6 (Zen 4), and CPUs whose microcode guards gathers are slower still.
inline __attribute__((always_inline)) __m512i look_up(const std::uint32_t* slot, __m512i index) {
  const auto quarter = [slot](__m128i at) {
    const auto low = static_cast<std::uint64_t>(_mm_cvtsi128_si64(at));
    const auto high = static_cast<std::uint64_t>(_mm_extract_epi64(at, 1));
    __m128i entries = _mm_cvtsi32_si128(static_cast<int>(slot[low & 0xffffffffu]));
    entries = _mm_insert_epi32(entries, static_cast<int>(slot[low >> 32]), 1);
    entries = _mm_insert_epi32(entries, static_cast<int>(slot[high & 0xffffffffu]), 2);
    return _mm_insert_epi32(entries, static_cast<int>(slot[high >> 32]), 3);
  };
  const __m256i low =
      _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(_mm512_castsi512_si128(index))),
                              quarter(_mm512_extracti32x4_epi32(index, 1)), 1);
  const __m256i high =
      _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(_mm512_extracti32x4_epi32(index, 2))),
                              quarter(_mm512_extracti32x4_epi32(index, 3)), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

template <int kVectors>
void decode_rounds(const RansDecodeTable& table, RansDecoder& decoder, std::byte*& out,
                   std::size_t& n) {
  constexpr std::size_t kLanes = 16 * kVectors;
  const __m512i slot_mask = _mm512_set1_epi32(kRansTotal - 1);
  const __m512i least = _mm512_set1_epi32(kRansLow);
  const std::byte* next = decoder.next;
  __m512i state[kVectors];
  for (int v = 0; v < kVectors; ++v) state[v] = _mm512_load_si512(decoder.state + 16 * v);
  // 16 words are read for each vector, whether all are wanted or not.
  while (n >= kLanes && decoder.end - next >= std::ptrdiff_t{2 * kLanes}) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const __m512i entry = look_up(table.slot, _mm512_and_si512(state[v], slot_mask));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * v), _mm512_cvtepi32_epi8(entry));
      const __m512i freq = _mm512_and_si512(_mm512_srli_epi32(entry, 8), slot_mask);
      const __m512i scaled = _mm512_mullo_epi32(freq, _mm512_srli_epi32(state[v], kRansBits));
      const __m512i after = _mm512_add_epi32(scaled, _mm512_srli_epi32(entry, 20));
      const __mmask16 wants = _mm512_cmplt_epu32_mask(after, least);
      const __m512i words =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(next)));
      const __m512i word = _mm512_maskz_expand_epi32(wants, words);
      state[v] = _mm512_or_si512(_mm512_mask_slli_epi32(after, wants, after, 16), word);
      next += 2 * _mm_popcnt_u32(wants);
    }
    out += kLanes;
    n -= kLanes;
  }
  for (int v = 0; v < kVectors; ++v) _mm512_store_si512(decoder.state + 16 * v, state[v]);
  decoder.next = next;
}

bool decode(const RansDecodeTable& table, RansDecoder& decoder, std::byte* out, std::size_t n) {
  if (decoder.lanes == kRansLanes) {
    decode_rounds<4>(table, decoder, out, n);
  } else {
    decode_rounds<1>(table, decoder, out, n);
  }
  return kRansScalar.decode(table, decoder, out, n);
}

// One vector's symbols; words go below `next`.
__m512i encode_lanes(const RansEncodeTable& table, __m512i state, const std::byte* in,
                     std::byte*& next) {
  const __m512i symbol =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
  const __m512i interval = look_up(table.interval, symbol);
  const __m512i freq = _mm512_and_si512(interval, _mm512_set1_epi32(0xffff));
  const __mmask16 full = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(state, 20), freq);
  const std::uint32_t words = _mm_popcnt_u32(full);
  next -= 2 * words;
  _mm256_mask_storeu_epi16(next, static_cast<__mmask16>((1u << words) - 1),
                           _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state)));
  state = _mm512_mask_srli_epi32(state, full, state, 16);
  // The quotient is below 2^20, so in f32 it is wrong by less than 1 before it is cut: by 1 after,
  // which its remainder shows.
  const __m512 ratio = _mm512_div_ps(_mm512_cvtepu32_ps(state), _mm512_cvtepu32_ps(freq));
  __m512i quotient = _mm512_cvttps_epu32(ratio);
  const __m512i rest = _mm512_sub_epi32(state, _mm512_mullo_epi32(quotient, freq));
  const __m512i one = _mm512_set1_epi32(1);
  const __mmask16 less = _mm512_cmplt_epi32_mask(rest, _mm512_setzero_si512());
  const __mmask16 more = _mm512_cmpge_epi32_mask(rest, freq);
  quotient = _mm512_mask_sub_epi32(quotient, less, quotient, one);
  quotient = _mm512_mask_add_epi32(quotient, more, quotient, one);
  const __m512i gap = _mm512_sub_epi32(_mm512_set1_epi32(kRansTotal), freq);
  return _mm512_add_epi32(_mm512_add_epi32(state, _mm512_srli_epi32(interval, 16)),
                          _mm512_mullo_epi32(quotient, gap));
}

// Whole rounds. False when the words may not fit.
template <int kVectors>
bool encode_rounds(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
                   std::size_t n) {
  constexpr std::size_t kLanes = 16 * kVectors;
  std::byte* next = encoder.next;
  __m512i state[kVectors];
  for (int v = 0; v < kVectors; ++v) state[v] = _mm512_load_si512(encoder.state + 16 * v);
  while (n > 0) {
    if (next - encoder.begin < std::ptrdiff_t{2 * kLanes}) return false;
    n -= kLanes;
#pragma GCC unroll 4
    for (int v = kVectors - 1; v >= 0; --v) {
      state[v] = encode_lanes(table, state[v], in + n + 16 * v, next);
    }
  }
  for (int v = 0; v < kVectors; ++v) _mm512_store_si512(encoder.state + 16 * v, state[v]);
  encoder.next = next;
  return true;
}

bool encode(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
            std::size_t n) {
  const std::size_t odd = n % encoder.lanes;
  n -= odd;
  if (!kRansScalar.encode(table, encoder, in + n, odd)) return false;
  return encoder.lanes == kRansLanes ? encode_rounds<4>(table, encoder, in, n)
                                     : encode_rounds<1>(table, encoder, in, n);
}

// Symbols one after the other, the slots of each from its first on: one store there, then whole
// cache lines. What is too much is overwritten by the next symbol.
void decode_table(const RansModel& model, RansDecodeTable& table) {
  const __m512i ramp = _mm512_slli_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 20);
  std::uint32_t start = 0;
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    const std::uint32_t freq = model.freq[s];
    if (freq == 0) continue;
    const std::uint32_t end = start + freq;
    const auto entries_at = [&](std::uint32_t slot) {
      const std::uint32_t first = (s | freq << 8) + ((slot - start) << 20);
      return _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), ramp);
    };
    _mm512_storeu_si512(table.slot + start, entries_at(start));
    std::uint32_t slot = (start + 16) & ~15u;
    do {
      _mm512_store_si512(table.slot + slot, entries_at(slot));
      slot += 16;
    } while (slot < end);
    start = end;
  }
}

void split_bf16(const std::byte* in, std::size_t n, std::byte* exponent, std::byte* rest) {
  const __m512i sign = _mm512_set1_epi16(0x80), mantissa = _mm512_set1_epi16(0x7f);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512i value = _mm512_loadu_si512(in + 2 * i);
    const __m512i low = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(value, 8), sign),
                                        _mm512_and_si512(value, mantissa));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(exponent + i),
                        _mm512_cvtepi16_epi8(_mm512_srli_epi16(value, 7)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rest + i), _mm512_cvtepi16_epi8(low));
  }
  kRansScalar.split_bf16(in + 2 * i, n - i, exponent + i, rest + i);
}

void join_bf16(const std::byte* exponent, const std::byte* rest, std::size_t n, std::byte* out) {
  const __m512i sign = _mm512_set1_epi16(0x80), mantissa = _mm512_set1_epi16(0x7f);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512i high =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(exponent + i)));
    const __m512i low =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rest + i)));
    const __m512i value =
        _mm512_or_si512(_mm512_slli_epi16(high, 7),
                        _mm512_or_si512(_mm512_slli_epi16(_mm512_and_si512(low, sign), 8),
                                        _mm512_and_si512(low, mantissa)));
    _mm512_storeu_si512(out + 2 * i, value);
  }
  kRansScalar.join_bf16(exponent + i, rest + i, n - i, out + 2 * i);
}

}  // namespace

const RansKernels kRansAvx512 = {encode, decode_table, decode, split_bf16, join_bf16};

}  // namespace kvferry::kernels
