#include <immintrin.h>

#include <array>

#include "kernels/cpu/rans_tables.h"

namespace kvferry::kernels {
namespace {

// For each set of lanes that want a word: which of the next words each lane gets.
using Places = std::array<std::array<std::uint8_t, 8>, 256>;
constexpr Places make_places() {
  Places places{};
  for (std::size_t wants = 0; wants < places.size(); ++wants) {
    std::uint8_t taken = 0;
    for (std::size_t lane = 0; lane < 8; ++lane) {
      places[wants][lane] = taken;
      taken = static_cast<std::uint8_t>(taken + (wants >> lane & 1));
    }
  }
  return places;
}
constexpr Places kPlaces = make_places();

// Entries of 8 slots. Loads one by one: gathers are slow on AMD, and guarded by microcode
// elsewhere.
__m256i look_up(const std::uint32_t* slot, __m256i index) {
  const auto half = [slot](__m128i at) {
    const auto low = static_cast<std::uint64_t>(_mm_cvtsi128_si64(at));
    const auto high = static_cast<std::uint64_t>(_mm_extract_epi64(at, 1));
    __m128i entries = _mm_cvtsi32_si128(static_cast<int>(slot[low & 0xffffffffu]));
    entries = _mm_insert_epi32(entries, static_cast<int>(slot[low >> 32]), 1);
    entries = _mm_insert_epi32(entries, static_cast<int>(slot[high & 0xffffffffu]), 2);
    return _mm_insert_epi32(entries, static_cast<int>(slot[high >> 32]), 3);
  };
  return _mm256_inserti128_si256(_mm256_castsi128_si256(half(_mm256_castsi256_si128(index))),
                                 half(_mm256_extracti128_si256(index, 1)), 1);
}

// The lowest bytes of 8 lanes.
void store_symbols(__m256i entry, std::byte* out) {
  const __m256i order =
      _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(entry, order);
  _mm_storel_epi64(
      reinterpret_cast<__m128i*>(out),
      _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
}

template <int kVectors>
void decode_rounds(const RansDecodeTable& table, RansDecoder& decoder, std::byte*& out,
                   std::size_t& n) {
  constexpr std::size_t kLanes = 8 * kVectors;
  const __m256i slot_mask = _mm256_set1_epi32(kRansTotal - 1);
  const std::byte* next = decoder.next;
  // 8 words are read for each vector, whether all are wanted or not.
  while (n >= kLanes && decoder.end - next >= std::ptrdiff_t{2 * kLanes}) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      auto* lanes = reinterpret_cast<__m256i*>(decoder.state + 8 * v);
      const __m256i state = _mm256_load_si256(lanes);
      const __m256i entry = look_up(table.slot, _mm256_and_si256(state, slot_mask));
      store_symbols(entry, out + 8 * v);
      const __m256i freq = _mm256_and_si256(_mm256_srli_epi32(entry, 8), slot_mask);
      const __m256i scaled = _mm256_mullo_epi32(freq, _mm256_srli_epi32(state, kRansBits));
      const __m256i after = _mm256_add_epi32(scaled, _mm256_srli_epi32(entry, 20));
      const __m256i wants =
          _mm256_cmpeq_epi32(_mm256_srli_epi32(after, 16), _mm256_setzero_si256());
      const auto lanes_wanting =
          static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(wants)));
      const __m256i places = _mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces[lanes_wanting].data())));
      const __m256i words =
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next)));
      const __m256i refilled =
          _mm256_or_si256(_mm256_slli_epi32(after, 16), _mm256_permutevar8x32_epi32(words, places));
      _mm256_store_si256(lanes, _mm256_blendv_epi8(after, refilled, wants));
      next += 2 * _mm_popcnt_u32(lanes_wanting);
    }
    out += kLanes;
    n -= kLanes;
  }
  decoder.next = next;
}

bool decode(const RansDecodeTable& table, RansDecoder& decoder, std::byte* out, std::size_t n) {
  if (decoder.lanes == kRansLanes) {
    decode_rounds<8>(table, decoder, out, n);
  } else {
    decode_rounds<2>(table, decoder, out, n);
  }
  return kRansScalar.decode(table, decoder, out, n);
}

// Scalar: without a store of chosen lanes, and with half the lanes, little would be gained.
bool encode(const RansEncodeTable& table, RansEncoder& encoder, const std::byte* in,
            std::size_t n) {
  return kRansScalar.encode(table, encoder, in, n);
}

// Symbols one after the other, the slots of each from its first on: stores there, then whole halves
// of cache lines, 16 slots at a time. What is too much is overwritten by the next symbol.
void decode_table(const RansModel& model, RansDecodeTable& table) {
  const __m256i ramp = _mm256_slli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), 20);
  const __m256i eight = _mm256_set1_epi32(8 << 20);
  std::uint32_t start = 0;
  for (std::uint32_t s = 0; s < kRansSymbols; ++s) {
    const std::uint32_t freq = model.freq[s];
    if (freq == 0) continue;
    const std::uint32_t end = start + freq;
    const auto put = [&](std::uint32_t slot) {
      const std::uint32_t first = (s | freq << 8) + ((slot - start) << 20);
      const __m256i entries = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), ramp);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(table.slot + slot), entries);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(table.slot + slot + 8),
                          _mm256_add_epi32(entries, eight));
    };
    put(start);
    for (std::uint32_t slot = (start + 16) & ~7u; slot < end; slot += 16) put(slot);
    start = end;
  }
}

// 32 values of 16 bits below 256, in two vectors, to bytes in order.
__m256i narrow(__m256i first, __m256i second) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(first, second), 0b11011000);
}

void split_bf16(const std::byte* in, std::size_t n, std::byte* exponent, std::byte* rest) {
  const __m256i sign = _mm256_set1_epi16(0x80), mantissa = _mm256_set1_epi16(0x7f);
  const __m256i byte = _mm256_set1_epi16(0xff);
  const auto low = [&](__m256i value) {
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(value, 8), sign),
                           _mm256_and_si256(value, mantissa));
  };
  const auto high = [&](__m256i value) {
    return _mm256_and_si256(_mm256_srli_epi16(value, 7), byte);
  };
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const auto* from = reinterpret_cast<const __m256i*>(in + 2 * i);
    const __m256i first = _mm256_loadu_si256(from), second = _mm256_loadu_si256(from + 1);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(exponent + i),
                        narrow(high(first), high(second)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rest + i), narrow(low(first), low(second)));
  }
  kRansScalar.split_bf16(in + 2 * i, n - i, exponent + i, rest + i);
}

void join_bf16(const std::byte* exponent, const std::byte* rest, std::size_t n, std::byte* out) {
  const __m256i sign = _mm256_set1_epi16(0x80), mantissa = _mm256_set1_epi16(0x7f);
  const auto load = [](const std::byte* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  };
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i low = load(rest + i);
    const __m256i value =
        _mm256_or_si256(_mm256_slli_epi16(load(exponent + i), 7),
                        _mm256_or_si256(_mm256_slli_epi16(_mm256_and_si256(low, sign), 8),
                                        _mm256_and_si256(low, mantissa)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), value);
  }
  kRansScalar.join_bf16(exponent + i, rest + i, n - i, out + 2 * i);
}

}  // namespace

const RansKernels kRansAvx2 = {encode, decode_table, decode, split_bf16, join_bf16};

}  // namespace kvferry::kernels
