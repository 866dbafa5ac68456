#include <immintrin.h>

#include "kernels/cpu/ceilings_tables.h"

namespace kvferry::kernels {
namespace {

// Twelve sums: vpdpbusd takes four cycles and two start in each.
double dots(std::uint64_t rounds) {
  constexpr int kSums = 12;
  __m512i sums[kSums];
  __m512i codes = _mm512_set1_epi8(3);
  __m512i query = _mm512_set1_epi8(1);
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(codes), "+v"(query));
    for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, codes, query);
  }
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return static_cast<double>(rounds) * kSums * 64 * 2;
}

// Twelve sums: fma takes four cycles and two start in each.
double float_dots(std::uint64_t rounds) {
  constexpr int kSums = 12;
  __m512 sums[kSums];
  __m512 k = _mm512_set1_ps(3.0f);
  __m512 q = _mm512_set1_ps(1.0f);
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(k), "+v"(q));
    for (auto& sum : sums) sum = _mm512_fmadd_ps(k, q, sum);
  }
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return static_cast<double>(rounds) * kSums * 16 * 2;
}

std::uint64_t read(const std::byte* bytes, std::size_t n) {
  constexpr int kSums = 8;
  __m512i sums[kSums];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (std::size_t at = 0; at < n; at += 64 * kSums) {
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_xor_si512(sums[i], _mm512_loadu_si512(bytes + at + 64 * i));
    }
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  return static_cast<std::uint64_t>(_mm512_reduce_add_epi64(sums[0]));
}

}  // namespace

const CeilingKernels kCeilingsAvx512 = {dots, float_dots, read};

}  // namespace kvferry::kernels
