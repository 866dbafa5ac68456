// How texts and questions become the tokens that codecs are measured over.
#include "bench/passages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

namespace kvferry::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Passages : public testing::Test {
 protected:
  Passages() {
    const char* root = std::getenv("KVFERRY_SOURCE_DIR");
    auto loaded = text::Tokenizer::load(std::string(root != nullptr ? root : ".") + "/models/mini");
    if (!loaded.ok()) std::abort();
    tokenizer_ = *loaded;
  }
  std::vector<std::int32_t> ids(std::string_view text, bool bos = false) const {
    return tokenizer_->encode(text, bos).value();
  }
  std::shared_ptr<const text::Tokenizer> tokenizer_;
};

std::string words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "One day Tom went to the lake. ";
  return text;
}

TEST_F(Passages, AWindowBeginsWithBosAndNoneSpansDocuments) {
  const std::string first = words(90), second = words(50) + "Lily had a cat.";
  const auto passages = text_passages(*tokenizer_, first + "\f" + second, 400, 0);
  ASSERT_TRUE(passages.ok()) << passages.status().to_string();
  // Of 399 tokens behind BOS each; what is left counts from kLeastWindow tokens on.
  std::vector<std::vector<std::int32_t>> want;
  for (const std::string& document : {first, second}) {
    const auto all = ids(document);
    for (std::size_t at = 0; at < all.size(); at += 399) {
      std::vector<std::int32_t> part = {tokenizer_->bos_id()};
      part.insert(part.end(), all.begin() + at, all.begin() + std::min(all.size(), at + 399));
      if (part.size() >= kLeastWindow) want.push_back(part);
    }
  }
  ASSERT_GE(want.size(), 2u);
  ASSERT_EQ(passages->size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ((*passages)[i].ids, want[i]);
    std::vector<std::uint32_t> behind(want[i].size() - 1 - 128);
    std::iota(behind.begin(), behind.end(), 128u);
    EXPECT_EQ((*passages)[i].measured, behind);
    EXPECT_TRUE((*passages)[i].answers.empty());
  }
}

TEST_F(Passages, FewerAreTakenEvenly) {
  std::string text;
  for (int i = 0; i < 6; ++i) text += (i > 0 ? "\f" : "") + std::to_string(i) + words(90);
  const auto all = text_passages(*tokenizer_, text, 256, 0);
  const auto some = text_passages(*tokenizer_, text, 256, 2);
  ASSERT_TRUE(all.ok() && some.ok());
  ASSERT_EQ(some->size(), 2u);
  EXPECT_EQ((*some)[0].ids, (*all)[0].ids);
  EXPECT_EQ((*some)[1].ids, (*all)[all->size() / 2].ids);
}

TEST_F(Passages, RefusesTextsAndWindowsThatAreTooShort) {
  EXPECT_THAT(text_passages(*tokenizer_, words(200), 255, 0).status().message(),
              HasSubstr("256 tokens"));
  EXPECT_EQ(text_passages(*tokenizer_, "short", 256, 0).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(text_passages(*tokenizer_, "", 256, 0).status().code(), Code::kInvalidArgument);
}

TEST_F(Passages, AnswersAreWhatIsCompared) {
  const auto passages = question_passages(
      *tokenizer_, "[\"What?\", \" that\\n\", \"Who?\", \" Lily\\n\"]\n", 2048, 0);
  ASSERT_TRUE(passages.ok()) << passages.status().to_string();
  ASSERT_EQ(passages->size(), 1u);
  const Passage& passage = (*passages)[0];
  auto want = ids("What?", tokenizer_->add_bos());
  std::vector<std::uint32_t> measured;
  for (const char* part : {" that\n", "Who?", " Lily\n"}) {
    for (const auto id : ids(part)) {
      if (part[0] == ' ') measured.push_back(static_cast<std::uint32_t>(want.size()) - 1);
      want.push_back(id);
    }
  }
  EXPECT_EQ(passage.ids, want);
  EXPECT_EQ(passage.measured, measured);
  ASSERT_EQ(passage.answers.size(), 2u);
  EXPECT_EQ(passage.answers[0].first, 0u);
  EXPECT_EQ(passage.answers[0].last, ids(" that\n").size());
  EXPECT_EQ(passage.answers[1].first, passage.answers[0].last);
  EXPECT_EQ(passage.answers[1].last, measured.size());
}

TEST_F(Passages, QuestionsThatAreWrongAreNamedByLine) {
  const auto error = [&](std::string_view lines, std::uint32_t context = 2048) {
    const auto passages = question_passages(*tokenizer_, lines, context, 0);
    return passages.ok() ? "" : passages.status().message();
  };
  EXPECT_THAT(error("[\"a\",\"b\"]\n[\"a\"]\n"), HasSubstr("line 2"));
  EXPECT_THAT(error("{}\n"), HasSubstr("not a JSON array"));
  EXPECT_THAT(error("[\n"), HasSubstr("not a JSON array"));
  EXPECT_THAT(error("[1, 2]\n"), HasSubstr("not a string"));
  EXPECT_THAT(error("[\"a\", \"\"]\n"), HasSubstr("empty"));
  EXPECT_THAT(error("\n\n"), HasSubstr("no question"));
  EXPECT_THAT(error("[\"Once upon a time\", \" there was a girl\"]\n", 5),
              HasSubstr("context of 5"));
}

TEST(PassageFile, IsReadWhole) {
  EXPECT_EQ(read_passage_file("/no/such/file").status().code(), Code::kNotFound);
  const auto folder = read_passage_file(testing::TempDir());
  EXPECT_EQ(folder.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(folder.status().message(), HasSubstr("is a directory"));
}

TEST(PassageFile, IsUtf8) {
  const auto path = std::filesystem::path(testing::TempDir()) / "latin1.txt";
  std::ofstream(path) << "Gr\xfc\xdf dich";
  const auto text = read_passage_file(path);
  std::filesystem::remove(path);
  EXPECT_EQ(text.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(text.status().message(), HasSubstr("is not UTF-8"));
}

}  // namespace
}  // namespace kvferry::bench
