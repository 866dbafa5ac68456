#include "text/utf8.h"

#include <gtest/gtest.h>

#include "text/byte_alphabet.h"

namespace kvferry::text {
namespace {

// The right-hand sides are what Python's bytes.decode('utf-8', errors='replace') gives.
TEST(Utf8Test, ReplacesAsPythonDoes) {
  const auto replaced = [](std::string_view bytes) { return replace_invalid_utf8(bytes); };
  EXPECT_EQ(replaced(""), "");
  EXPECT_EQ(replaced("plain é 日 😀"), "plain é 日 😀");
  EXPECT_EQ(replaced("\xff"), "\ufffd");
  EXPECT_EQ(replaced("a\x80z"), "a\ufffdz");
  EXPECT_EQ(replaced("\xc0\x80"), "\ufffd\ufffd");                      // overlong
  EXPECT_EQ(replaced("\xe0\x80\x80"), "\ufffd\ufffd\ufffd");            // overlong
  EXPECT_EQ(replaced("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");            // a surrogate
  EXPECT_EQ(replaced("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");  // above U+10FFFF
  EXPECT_EQ(replaced("\xf5z"), "\ufffdz");
  EXPECT_EQ(replaced("\xe2\x28"), "\ufffd(");
  EXPECT_EQ(replaced("\xe2\x82"), "\ufffd");  // cut off: one for all of it
  EXPECT_EQ(replaced("\xe2\x82z"), "\ufffdz");
  EXPECT_EQ(replaced("\xf0\x9f\x98"), "\ufffd");
  EXPECT_EQ(replaced("\xf0\x9f\x98\xf0\x9f\x98\x80"), "\ufffd😀");
  EXPECT_EQ(replaced("\xf0\x8f\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");
}

TEST(Utf8Test, SaysWhatMoreBytesMayComplete) {
  for (const std::string_view start :
       {"\xc3", "\xe2", "\xe2\x82", "\xf0", "\xf0\x9f", "\xf0\x9f\x98"}) {
    const Utf8Step step = utf8_step(start);
    EXPECT_TRUE(step.truncated);
    EXPECT_FALSE(step.valid);
    EXPECT_EQ(step.length, start.size());
  }
  for (const std::string_view bad : {"\x80", "\xc0", "\xed\xa0", "\xf0\x80", "\xf5", "\xff"}) {
    EXPECT_FALSE(utf8_step(bad).truncated);
    EXPECT_FALSE(utf8_step(bad).valid);
    EXPECT_EQ(utf8_step(bad).length, 1u);
  }
}

TEST(Utf8Test, CodePointsThereAndBack) {
  for (char32_t point = 1; point < 0x110000; point += point < 0x3000 ? 1 : 251) {
    std::string text;
    append_utf8(point, text);
    const bool surrogate = point >= 0xd800 && point < 0xe000;
    ASSERT_EQ(is_utf8(text), !surrogate) << static_cast<std::uint32_t>(point);
    ASSERT_EQ(decode_utf8(text), point);
  }
}

TEST(ByteAlphabetTest, EveryByteHasOneLetter) {
  std::string letters;
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    append_utf8(letter_of_byte(static_cast<std::uint8_t>(byte)), letters);
    bytes += static_cast<char>(byte);
  }
  EXPECT_EQ(bytes_of_letters(letters), bytes);
  EXPECT_EQ(letter_of_byte(' '), 0x120u);  // the G with a dot of every vocabulary
  EXPECT_EQ(letter_of_byte('\n'), 0x10au);
  EXPECT_EQ(letter_of_byte('A'), static_cast<char32_t>('A'));
  EXPECT_EQ(bytes_of_letters("a b"), std::nullopt);
  EXPECT_EQ(bytes_of_letters("日"), std::nullopt);
  EXPECT_EQ(bytes_of_letters("\u0144"), std::nullopt);  // one behind the last
  EXPECT_EQ(bytes_of_letters("\xff"), std::nullopt);
}

}  // namespace
}  // namespace kvferry::text
