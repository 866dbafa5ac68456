#include "base/sha256.h"

#include <gtest/gtest.h>

namespace kvferry {
namespace {

// FIPS 180-4's examples.
TEST(Sha256, KnownHashes) {
  EXPECT_EQ(to_hex(sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Sha256, HexThereAndBack) {
  const Sha256 hash = sha256("abc");
  const auto back = sha256_of_hex(to_hex(hash));
  ASSERT_TRUE(back);
  EXPECT_TRUE(equal_in_constant_time(*back, hash));
  EXPECT_TRUE(sha256_of_hex("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"));
  EXPECT_FALSE(sha256_of_hex(to_hex(hash).substr(1)));
  EXPECT_FALSE(sha256_of_hex(to_hex(hash).replace(5, 1, "g")));
}

TEST(Sha256, OneBitMakesThemUnequal) {
  for (std::size_t i : {0u, 31u}) {
    Sha256 other = sha256("abc");
    other[i] ^= std::byte{1};
    EXPECT_FALSE(equal_in_constant_time(other, sha256("abc")));
  }
}

}  // namespace
}  // namespace kvferry
