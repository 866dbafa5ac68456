#include "text/unicode.h"

#include <gtest/gtest.h>

namespace kvferry::text {
namespace {

TEST(UnicodeTest, MarksAreOrderedAndComposed) {
  EXPECT_EQ(nfc("c\u0301"), "\u0107");
  EXPECT_EQ(nfc("c\u0301\u0316"), "\u0107\u0316");
  EXPECT_EQ(nfc("c\u0345\u0301"), "\u0107\u0345");
}

// The right-hand sides are what normalizers.NFC() of tokenizers 0.23.3 gives. U+11D44 came with
// Unicode 10 and has class 9, U+11938 with Unicode 13 and is U+11935 with U+11930.
TEST(UnicodeTest, WhatUnicode9LacksIsLikeLetters) {
  EXPECT_EQ(nfc("c\u0301\U00011D44"), "\u0107\U00011D44");
  EXPECT_EQ(nfc("c\U00011D44\u0301"), "c\U00011D44\u0301");
  EXPECT_EQ(nfc("\u1df6\u0301"), "\u1df6\u0301");
  EXPECT_EQ(nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(nfc("\U00011938\u0301"), "\U00011938\u0301");
}

}  // namespace
}  // namespace kvferry::text
