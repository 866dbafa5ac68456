#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/text/temp_model.h"

namespace kvferry::text {
namespace {

std::shared_ptr<const Tokenizer> byte_by_byte() {
  const TempModel model;
  model.write("tokenizer.json", boost::json::value(byte_tokenizer()));
  return Tokenizer::load(model.dir()).value();
}

// Every token is one byte here, so every character is cut wherever it can be.
TEST(DetokenizerTest, NeverHalfACharacter) {
  const auto tokenizer = byte_by_byte();
  const std::string text = "aé日😀z👍🏽";
  Detokenizer detokenizer(tokenizer);
  std::string out;
  for (const std::int32_t id : tokenizer->encode(text, false).value()) {
    const std::string piece = detokenizer.feed(id);
    EXPECT_TRUE(is_utf8(piece));
    out += piece;
  }
  EXPECT_EQ(out, text);
  EXPECT_EQ(detokenizer.finish(), "");
}

TEST(DetokenizerTest, HoldsBackAndGivesUpAtTheEnd) {
  Detokenizer detokenizer(byte_by_byte());
  EXPECT_EQ(detokenizer.feed('a'), "a");
  EXPECT_EQ(detokenizer.feed(0xf0), "");
  EXPECT_EQ(detokenizer.feed(0x9f), "");
  EXPECT_EQ(detokenizer.feed('b'), "\ufffdb");
  EXPECT_EQ(detokenizer.feed(0x80), "\ufffd");
  EXPECT_EQ(detokenizer.feed(0xe2), "");
  EXPECT_EQ(detokenizer.feed(0x82), "");
  EXPECT_EQ(detokenizer.finish(), "\ufffd");
  EXPECT_EQ(detokenizer.finish(), "");
}

TEST(DetokenizerTest, SpecialAndUnknownIdsAreSilent) {
  Detokenizer detokenizer(byte_by_byte());
  EXPECT_EQ(detokenizer.feed(256), "");
  EXPECT_EQ(detokenizer.feed(0xc3), "");
  EXPECT_EQ(detokenizer.feed(256), "");  // does not break a character
  EXPECT_EQ(detokenizer.feed(-1), "");
  EXPECT_EQ(detokenizer.feed(100'000), "");
  EXPECT_EQ(detokenizer.feed(0xa9), "é");
}

// Whatever the ids: what comes out is what the bytes mean as a whole.
TEST(DetokenizerTest, AnyBytesGiveTheirReplacedText) {
  const auto tokenizer = byte_by_byte();
  const int interesting[] = {'a',  0x80, 0x9f, 0xa0, 0xbf, 0xc0, 0xc3,
                             0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xff};
  for (unsigned seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    Detokenizer detokenizer(tokenizer);
    std::string bytes;
    std::string text;
    for (unsigned i = 0; i < 12; ++i) {
      const int byte = interesting[random() % std::size(interesting)];
      bytes += static_cast<char>(byte);
      const std::string piece = detokenizer.feed(byte);
      ASSERT_TRUE(is_utf8(piece));
      text += piece;
    }
    ASSERT_EQ(text + detokenizer.finish(), replace_invalid_utf8(bytes)) << seed;
  }
}

}  // namespace
}  // namespace kvferry::text
