#include <immintrin.h>

#include "kernels/cpu/ceilings_tables.h"

namespace kvferry::kernels {
namespace {

// Products of unsigned with signed bytes in pairs of 16 bits, pairs of those in 32.
double dots(std::uint64_t rounds) {
  constexpr int kSums = 8;
  __m256i sums[kSums];
  __m256i codes = _mm256_set1_epi8(3);
  __m256i query = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (auto& sum : sums) {
      asm volatile("" : "+x"(codes), "+x"(query));
      const __m256i pairs = _mm256_maddubs_epi16(codes, query);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
    }
  }
  for (auto& sum : sums) asm volatile("" : "+x"(sum));
  return static_cast<double>(rounds) * kSums * 32 * 2;
}

double float_dots(std::uint64_t rounds) {
  constexpr int kSums = 12;
  __m256 sums[kSums];
  __m256 k = _mm256_set1_ps(3.0f);
  __m256 q = _mm256_set1_ps(1.0f);
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+x"(k), "+x"(q));
    for (auto& sum : sums) sum = _mm256_fmadd_ps(k, q, sum);
  }
  for (auto& sum : sums) asm volatile("" : "+x"(sum));
  return static_cast<double>(rounds) * kSums * 8 * 2;
}

std::uint64_t read(const std::byte* bytes, std::size_t n) {
  constexpr int kSums = 8;
  __m256i sums[kSums];
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  for (std::size_t at = 0; at < n; at += 32 * kSums) {
    for (int i = 0; i < kSums; ++i) {
      const auto* from = reinterpret_cast<const __m256i*>(bytes + at + 32 * i);
      sums[i] = _mm256_xor_si256(sums[i], _mm256_loadu_si256(from));
    }
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm256_xor_si256(sums[0], sums[i]);
  return static_cast<std::uint64_t>(_mm256_extract_epi64(sums[0], 0) ^
                                    _mm256_extract_epi64(sums[0], 1));
}

}  // namespace

const CeilingKernels kCeilingsAvx2 = {dots, float_dots, read};

}  // namespace kvferry::kernels
