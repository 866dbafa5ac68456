#include "base/hash.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string_view>
#include <vector>

namespace kvferry {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::vector<std::byte> random_bytes(std::size_t size) {
  std::mt19937 random(static_cast<unsigned>(size));
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(Crc32cTest, PublishedVectors) {
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);  // the check value of CRC-32C
  // RFC 3720, B.4.
  std::vector<std::byte> block(32, std::byte{0});
  EXPECT_EQ(crc32c(block), 0x8a9136aau);
  block.assign(32, std::byte{0xff});
  EXPECT_EQ(crc32c(block), 0x62a8ab43u);
  for (std::size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(block), 0x46dd794eu);
  for (std::size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(31 - i);
  EXPECT_EQ(crc32c(block), 0x113fdb5cu);
}

// Sizes on both sides of every border between the long streams, the short ones, words and bytes.
TEST(Crc32cTest, FastPathEqualsTable) {
  const std::vector<std::byte> data = random_bytes(3 * 12'288 + 3 * 768 + 64);
  std::vector<std::size_t> sizes(40);
  std::iota(sizes.begin(), sizes.end(), 0);
  for (const std::size_t border : {768, 2 * 768, 12'288, 12'288 + 768, 2 * 12'288}) {
    for (std::size_t size = border - 9; size <= border + 9; ++size) sizes.push_back(size);
  }
  for (const std::size_t size : sizes) {
    for (const std::size_t offset : {0, 1, 7}) {
      const auto part = std::span(data).subspan(offset, size);
      ASSERT_EQ(crc32c(part, 5), detail::crc32c_portable(part, 5)) << size << " at " << offset;
    }
  }
}

TEST(Crc32cTest, SeedContinues) {
  const std::vector<std::byte> data = random_bytes(30'000);
  const std::uint32_t whole = crc32c(data);
  for (std::size_t cut = 0; cut <= data.size(); cut += 997) {
    const auto all = std::span(data);
    ASSERT_EQ(crc32c(all.subspan(cut), crc32c(all.first(cut))), whole) << cut;
  }
}

TEST(Crc32cTest, EveryFlippedBitShows) {
  std::vector<std::byte> data = random_bytes(1000);
  const std::uint32_t good = crc32c(data);
  for (std::size_t bit = 0; bit < 8 * data.size(); bit += 7) {
    data[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    ASSERT_NE(crc32c(data), good) << bit;
    data[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
}

TEST(Hash64Test, IsXxh3) {
  EXPECT_EQ(hash64(std::string_view()), 0x2d06800538d394c2u);  // published for the empty input
  EXPECT_EQ(hash64("kvferry"), hash64(bytes_of("kvferry")));
  EXPECT_NE(hash64("kvferry"), hash64("kvferry", 1));
}

TEST(CounterRandomTest, IsAFunctionOfKeyAndCounter) {
  EXPECT_EQ(counter_random(1, 2), counter_random(1, 2));
  std::set<std::uint64_t> seen;
  double ones = 0;
  for (std::uint64_t key = 0; key < 64; ++key) {
    for (std::uint64_t counter = 0; counter < 64; ++counter) {
      const std::uint64_t bits = counter_random(key, counter);
      seen.insert(bits);
      ones += __builtin_popcountll(bits);
    }
  }
  EXPECT_EQ(seen.size(), 64u * 64u);
  // 262,144 fair bits have a standard deviation of 256.
  EXPECT_NEAR(ones, 131'072, 5 * 256);
}

// Sampled tokens depend on these bits: a change would change every seeded answer.
TEST(CounterRandomTest, GoldenValues) {
  EXPECT_EQ(counter_random(0, 0), 0xa706dd2f4d197e6fu);
  EXPECT_EQ(counter_random(42, 7), 0xbc16a3d4cc48678eu);
}

TEST(FreshIdTest, NeverZeroNeverTwice) {
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(fresh_id());
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(seen.count(0), 0u);
}

}  // namespace
}  // namespace kvferry
