#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/ceilings_tables.h"

namespace kvferry::kernels {
namespace {

double dots(std::uint64_t rounds) {
  constexpr int kSums = 16;
  std::int32_t sums[kSums] = {};
  std::uint8_t codes[kSums];
  std::int8_t query[kSums];
  std::memset(codes, 3, sizeof codes);
  std::memset(query, 1, sizeof query);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+m"(codes), "+m"(query));
    for (int i = 0; i < kSums; ++i) sums[i] += codes[i] * query[i];
  }
  asm volatile("" : "+m"(sums));
  return static_cast<double>(rounds) * kSums * 2;
}

double float_dots(std::uint64_t rounds) {
  constexpr int kSums = 8;
  __m128 sums[kSums];
  __m128 k = _mm_set1_ps(3.0f);
  __m128 q = _mm_set1_ps(1.0f);
  for (auto& sum : sums) sum = _mm_setzero_ps();
  for (std::uint64_t round = 0; round < rounds; ++round) {
    for (auto& sum : sums) {
      asm volatile("" : "+x"(k), "+x"(q));
      sum = _mm_add_ps(sum, _mm_mul_ps(k, q));
    }
  }
  for (auto& sum : sums) asm volatile("" : "+x"(sum));
  return static_cast<double>(rounds) * kSums * 4 * 2;
}

std::uint64_t read(const std::byte* bytes, std::size_t n) {
  std::uint64_t sums[4] = {};
  for (std::size_t at = 0; at < n; at += sizeof sums) {
    std::uint64_t words[4];
    std::memcpy(words, bytes + at, sizeof words);
    for (int i = 0; i < 4; ++i) sums[i] ^= words[i];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

}  // namespace

const CeilingKernels kCeilingsScalar = {dots, float_dots, read};

}  // namespace kvferry::kernels
