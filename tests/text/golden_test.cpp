// Ids and texts against those of Hugging Face's tokenizers.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "text/all.h"

namespace kvferry::text {
namespace {

std::filesystem::path source_dir() {
  const char* dir = std::getenv("KVFERRY_SOURCE_DIR");
  return dir == nullptr ? "." : dir;
}

struct Case {
  std::string text;
  std::vector<std::int32_t> ids, with_bos;
  std::string decoded;
};

std::vector<Case> read_cases(const std::string& name) {
  std::ifstream file(source_dir() / "tests/text/golden" / name);
  std::stringstream content;
  content << file.rdbuf();
  std::vector<Case> cases;
  const boost::json::value parsed = boost::json::parse(content.str());
  for (const auto& entry : parsed.as_array()) {
    cases.push_back({boost::json::value_to<std::string>(entry.at("text")),
                     boost::json::value_to<std::vector<std::int32_t>>(entry.at("ids")),
                     boost::json::value_to<std::vector<std::int32_t>>(entry.at("with_bos")),
                     boost::json::value_to<std::string>(entry.at("decoded"))});
  }
  return cases;
}

struct Golden {
  const char* cases;
  const char* model_dir;
};

class GoldenTest : public testing::TestWithParam<Golden> {
 protected:
  void SetUp() override {
    auto loaded = Tokenizer::load(source_dir() / GetParam().model_dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    tokenizer_ = *loaded;
    cases_ = read_cases(GetParam().cases);
    ASSERT_GT(cases_.size(), 100u);
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Case> cases_;
};

TEST_P(GoldenTest, Encodes) {
  for (const Case& c : cases_) {
    const auto ids = tokenizer_->encode(c.text, false);
    ASSERT_TRUE(ids.ok()) << ids.status().to_string();
    EXPECT_EQ(*ids, c.ids) << "for " << testing::PrintToString(c.text);
  }
}

TEST_P(GoldenTest, EncodesWithBosButNeverTwice) {
  EXPECT_TRUE(tokenizer_->add_bos());
  for (const Case& c : cases_) {
    const auto ids = tokenizer_->encode(c.text, true);
    ASSERT_TRUE(ids.ok()) << ids.status().to_string();
    const bool begins_with_bos = c.text.starts_with(tokenizer_->bos_token());
    EXPECT_EQ(*ids, begins_with_bos ? c.ids : c.with_bos) << testing::PrintToString(c.text);
  }
}

TEST_P(GoldenTest, Decodes) {
  for (const Case& c : cases_) {
    Detokenizer detokenizer(tokenizer_);
    std::string text;
    for (const std::int32_t id : c.with_bos) {
      text += detokenizer.feed(id);
      EXPECT_TRUE(is_utf8(text));
    }
    text += detokenizer.finish();
    EXPECT_EQ(text, c.decoded) << testing::PrintToString(c.text);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenTest,
    testing::Values(Golden{"mini.json", "models/mini"},
                    Golden{"split.json", "tests/text/golden/split"}),
    [](const auto& param) {
      return std::string(param.param.cases).substr(0, param.index == 0 ? 4 : 5);
    });

TEST(MiniTokenizerTest, Facts) {
  const auto tokenizer = Tokenizer::load(source_dir() / "models/mini").value();
  EXPECT_EQ(tokenizer->vocab_size(), 1024);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->bos_token(), "<|begin|>");
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(2));
  EXPECT_FALSE(tokenizer->is_special(-1));
  EXPECT_FALSE(tokenizer->is_special(1024));
  EXPECT_EQ(tokenizer->id_to_bytes(2), "!");
  EXPECT_EQ(tokenizer->id_to_bytes(0), "<|endoftext|>");
  EXPECT_EQ(tokenizer->id_to_bytes(-1), "");
  EXPECT_EQ(tokenizer->id_to_bytes(1024), "");
}

TEST(MiniTokenizerTest, InvalidUtf8BecomesTheReplacementCharacter) {
  const auto tokenizer = Tokenizer::load(source_dir() / "models/mini").value();
  EXPECT_EQ(tokenizer->encode("a\xff\xe2\x82z", false).value(),
            tokenizer->encode("a\ufffd\ufffdz", false).value());
}

TEST(MiniTokenizerTest, TextsHaveALimit) {
  const auto tokenizer = Tokenizer::load(source_dir() / "models/mini").value();
  const std::string text(Tokenizer::kMaxTextBytes + 1, 'x');
  EXPECT_EQ(tokenizer->encode(text, false).status().code(), Code::kInvalidArgument);
}

// One piece of 200,000 letters, spaces or line ends: no quadratic merge, no exhausted pattern.
TEST(SplitTokenizerTest, LongPieces) {
  const auto tokenizer = Tokenizer::load(source_dir() / "tests/text/golden/split").value();
  for (const char* unit : {"a", " ", "\n", " \n", "the", "<|begin", "'"}) {
    std::string text;
    while (text.size() < 200'000) text += unit;
    const auto ids = tokenizer->encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.status().to_string();
    std::string joined;
    for (const std::int32_t id : *ids) joined += tokenizer->id_to_bytes(id);
    EXPECT_EQ(joined, text);
  }
}

}  // namespace
}  // namespace kvferry::text
