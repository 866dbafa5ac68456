// What a checkpoint may ask of the tokenizer, and what is refused, by name.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/text/temp_model.h"

namespace kvferry::text {
namespace {

using boost::json::array;
using boost::json::object;
using boost::json::value;
using testing::ElementsAre;
using testing::HasSubstr;

Result<std::shared_ptr<const Tokenizer>> load(const value& tokenizer,
                                              const value& config = object()) {
  const TempModel model;
  model.write("tokenizer.json", tokenizer);
  model.write("tokenizer_config.json", config);
  return Tokenizer::load(model.dir());
}

std::vector<std::int32_t> encode(const value& tokenizer, std::string_view text,
                                 const Tokenizer::EncodeOptions& options = {
                                     .specials = Tokenizer::Specials::kTokens}) {
  const auto loaded = load(tokenizer);
  EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
  return loaded.ok() ? (*loaded)->encode(text, options).value() : std::vector<std::int32_t>();
}

void expect_refused(const char* what, Code code, const char* named,
                    const std::function<void(object&)>& change) {
  object tokenizer = byte_tokenizer();
  change(tokenizer);
  const Status status = load(tokenizer).status();
  EXPECT_EQ(status.code(), code) << what << ": " << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr(named)) << what;
  EXPECT_THAT(status.message(), HasSubstr("tokenizer.json")) << what;
}

object& in(object& outer, const char* key) { return outer[key].as_object(); }

TEST(TokenizerTest, SmallestOneWorks) {
  EXPECT_THAT(encode(byte_tokenizer(), "ab<s>\n"), ElementsAre('a', 'b', 256, '\n'));
  EXPECT_THAT(encode(byte_tokenizer(), ""), ElementsAre());
}

TEST(TokenizerTest, UnsupportedModelsAreNamed) {
  const Code code = Code::kUnsupported;
  expect_refused("unigram", code, "Unigram", [](object& t) { in(t, "model")["type"] = "Unigram"; });
  expect_refused("no type", code, "without a type",
                 [](object& t) { in(t, "model").erase("type"); });
  expect_refused("no model", code, "tokenizer model", [](object& t) { t.erase("model"); });
  expect_refused("dropout", code, "dropout", [](object& t) { in(t, "model")["dropout"] = 0.1; });
  expect_refused("byte_fallback", code, "byte_fallback",
                 [](object& t) { in(t, "model")["byte_fallback"] = true; });
  expect_refused("suffix", code, "end_of_word_suffix",
                 [](object& t) { in(t, "model")["end_of_word_suffix"] = "</w>"; });
  expect_refused("missing byte", code, "byte 97",
                 [](object& t) { in(in(t, "model"), "vocab").erase("a"); });
  expect_refused("characters", code, "without byte_fallback", [](object& t) {
    t["pre_tokenizer"] = nullptr;
    t["decoder"] = {{"type", "Fuse"}};
  });
  expect_refused("normalizer", code, "NFKC", [](object& t) {
    t["normalizer"] = {{"type", "NFKC"}};
  });
  expect_refused("replace", code, "Regex", [](object& t) {
    t["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", "b"}};
  });
  expect_refused("decoder", code, "WordPiece", [](object& t) {
    t["decoder"] = {{"type", "WordPiece"}};
  });
  expect_refused("strip", code, "Strip", [](object& t) {
    t["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  });
  expect_refused("strip at the end", code, "stop", [](object& t) {
    t["decoder"] = {
        {"type", "Sequence"},
        {"decoders",
         {{{"type", "Fuse"}}, {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 1}}}}};
  });
  expect_refused("one of two", code, "only one is ByteLevel", [](object& t) {
    t["decoder"] = {{"type", "Fuse"}};
  });
  expect_refused("no decoder", code, "null", [](object& t) { t["decoder"] = nullptr; });
}

TEST(TokenizerTest, UnsupportedStepsAreNamed) {
  const Code code = Code::kUnsupported;
  expect_refused("bert", code, "BertPreTokenizer", [](object& t) {
    t["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  });
  for (const char* pattern : {"\\w+", "[a-z&&[^b]]", "a\\b"}) {
    expect_refused(pattern, code, pattern, [&](object& t) {
      t["pre_tokenizer"] = {
          {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", pattern}}}};
    });
  }
  expect_refused("after bytes", code, "Digits after ByteLevel", [](object& t) {
    t["pre_tokenizer"] = {{"type", "Sequence"},
                          {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
  });
  expect_refused("behavior", code, "MergedWithPrevious", [](object& t) {
    t["pre_tokenizer"] = {
        {"type", "Split"}, {"behavior", "MergedWithPrevious"}, {"pattern", {{"String", "x"}}}};
  });
  expect_refused("post_processor", code, "RobertaProcessing", [](object& t) {
    t["post_processor"] = {{"type", "RobertaProcessing"}};
  });
  expect_refused("template", code, "TemplateProcessing", [](object& t) {
    const object text = {{"Sequence", {{"id", "A"}}}};
    const object token = {{"SpecialToken", {{"id", "<s>"}}}};
    t["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {text, token}}};
  });
}

TEST(TokenizerTest, BrokenFilesAreInvalid) {
  const Code code = Code::kInvalidArgument;
  expect_refused("id", code, "the id of a",
                 [](object& t) { in(in(t, "model"), "vocab")["a"] = -1; });
  expect_refused("huge id", code, "the id of a",
                 [](object& t) { in(in(t, "model"), "vocab")["a"] = std::int64_t{1} << 40; });
  expect_refused("text id", code, "the id of a",
                 [](object& t) { in(in(t, "model"), "vocab")["a"] = "1"; });
  expect_refused("double id", code, "twice",
                 [](object& t) { in(in(t, "model"), "vocab")["a"] = int{'b'}; });
  expect_refused("no vocab", code, "vocab", [](object& t) { in(t, "model").erase("vocab"); });
  expect_refused("no merges", code, "merges", [](object& t) { in(t, "model").erase("merges"); });
  expect_refused("merge", code, "merges[0] is not a pair",
                 [](object& t) { in(t, "model")["merges"] = array{"ab"}; });
  expect_refused("merge of three", code, "merges[0] is not a pair", [](object& t) {
    in(t, "model")["merges"] = array{array{"a", "b", "c"}};
  });
  expect_refused("merge result", code, "merges[0] names a token not in vocab",
                 [](object& t) { in(t, "model")["merges"] = array{"a b"}; });
  expect_refused("pattern", code, "does not compile", [](object& t) {
    t["pre_tokenizer"] = {
        {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "("}}}};
  });
  expect_refused("empty pattern", code, "one pattern", [](object& t) {
    t["pre_tokenizer"] = {
        {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", ""}}}};
  });
  expect_refused("added token", code, "added_tokens",
                 [](object& t) { t["added_tokens"].as_array()[0].as_object()["id"] = -5; });
  const TempModel model;
  EXPECT_EQ(Tokenizer::load(model.dir()).status().code(), Code::kNotFound);
  for (const char* text : {"", "{", "[]", "nul", "{\"a\": \"\xff\"}"}) {
    model.write("tokenizer.json", std::string(text));
    EXPECT_EQ(Tokenizer::load(model.dir()).status().code(), Code::kInvalidArgument) << text;
  }
  model.write("tokenizer.json", value(byte_tokenizer()));
  model.write("tokenizer_config.json", std::string("{"));
  EXPECT_EQ(Tokenizer::load(model.dir()).status().code(), Code::kInvalidArgument);
}

TEST(TokenizerTest, MergesRunByRankThenLeftmost) {
  object tokenizer = byte_tokenizer();
  object& vocab = in(in(tokenizer, "model"), "vocab");
  vocab["bc"] = 300;
  vocab["ab"] = 301;
  vocab["abc"] = 302;
  vocab["aa"] = 303;
  in(tokenizer, "model")["merges"] = array{"b c", array{"a", "b"}, "a bc", "a a"};
  EXPECT_THAT(encode(tokenizer, "abc"), ElementsAre(302));  // bc first, then a bc
  EXPECT_THAT(encode(tokenizer, "abab"), ElementsAre(301, 301));
  EXPECT_THAT(encode(tokenizer, "aaa"), ElementsAre(303, 'a'));
  EXPECT_THAT(encode(tokenizer, "aab"), ElementsAre('a', 301));
  vocab["xyz"] = 304;
  EXPECT_THAT(encode(tokenizer, "xyz"), ElementsAre('x', 'y', 'z'));
  in(tokenizer, "model")["ignore_merges"] = true;
  EXPECT_THAT(encode(tokenizer, "xyz"), ElementsAre(304));
}

// One merge of any two letters shows where pieces end.
std::string pieces(const object& pre_tokenizer, std::string_view text) {
  object tokenizer = byte_tokenizer();
  tokenizer["pre_tokenizer"] = pre_tokenizer;
  object& vocab = in(in(tokenizer, "model"), "vocab");
  array merges;
  std::int32_t id = 300;
  std::vector<std::string> alphabet = {"a", "b", "x", "1", "2", "-", "\u0120"};
  for (const std::string& left : alphabet) {
    for (const std::string& right : alphabet) {
      vocab[left + right] = id++;
      merges.push_back(array{value(left), value(right)});
    }
  }
  in(tokenizer, "model")["merges"] = merges;
  const auto loaded = load(tokenizer).value();
  std::string joined;
  const auto ids = loaded->encode(text, false).value();
  for (const std::int32_t one : ids) {
    if (!joined.empty()) joined += '/';
    joined += loaded->id_to_bytes(one);
  }
  return joined;
}

object sequence(const object& step, bool prefix = false) {
  const object bytes = {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"use_regex", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {step, bytes}}};
}

TEST(TokenizerTest, PreTokenizers) {
  const object apart = {{"type", "Digits"}, {"individual_digits", true}};
  const object together = {{"type", "Digits"}, {"individual_digits", false}};
  EXPECT_EQ(pieces(sequence(apart), "ab12ab"), "ab/1/2/ab");
  EXPECT_EQ(pieces(sequence(together), "ab12ab"), "ab/12/ab");
  const auto split = [](const char* kind, const char* pattern, const char* behavior, bool invert) {
    return object{{"type", "Split"},
                  {"pattern", {{kind, pattern}}},
                  {"behavior", behavior},
                  {"invert", invert}};
  };
  EXPECT_EQ(pieces(sequence(split("String", "-", "Isolated", false)), "ab-ab"), "ab/-/ab");
  EXPECT_EQ(pieces(sequence(split("String", "-", "Removed", false)), "ab-ab-"), "ab/ab");
  EXPECT_EQ(pieces(sequence(split("String", "-", "Removed", true)), "ab-ab-"), "-/-");
  EXPECT_EQ(pieces(sequence(split("String", ".", "Isolated", false)), "abab"), "ab/ab");
  EXPECT_EQ(pieces(sequence(split("Regex", "b+", "Isolated", false)), "abba"), "a/bb/a");
  EXPECT_EQ(pieces(sequence(split("Regex", "(?i)B", "Isolated", true)), "abx"), "a/b/x");
  EXPECT_EQ(pieces(sequence(split("Regex", "x*", "Isolated", false)), "abxx"), "a/b/xx");
  EXPECT_EQ(pieces(sequence(split("String", "-", "Removed", false), true), "a-b"), " a/ b");
  EXPECT_EQ(pieces(sequence(split("String", "-", "Removed", false), true), " a-b"), " a/ b");
}

TEST(TokenizerTest, AddedTokensLeftmostLongest) {
  object tokenizer = byte_tokenizer();
  tokenizer["added_tokens"] = {{{"id", 256}, {"content", "ab"}, {"special", true}},
                               {{"id", 257}, {"content", "abc"}},
                               {{"id", 258}, {"content", "bcd"}},
                               {{"id", 259}, {"content", "xab"}, {"normalized", true}},
                               {{"id", 260}, {"content", "x"}, {"normalized", true}}};
  EXPECT_THAT(encode(tokenizer, "abcd"), ElementsAre(257, 'd'));
  EXPECT_THAT(encode(tokenizer, "abd"), ElementsAre(256, 'd'));
  EXPECT_THAT(encode(tokenizer, "bcd"), ElementsAre(258));
  EXPECT_THAT(encode(tokenizer, "xab"),
              ElementsAre(260, 256));  // the whole text, then what is left
}

// What a user writes stays text, though a template's own markers next to it are tokens.
TEST(TokenizerTest, SpecialTokensInUserTextAreText) {
  object tokenizer = byte_tokenizer();
  tokenizer["added_tokens"] = {{{"id", 256}, {"content", "<s>"}, {"special", true}},
                               {{"id", 257}, {"content", "<t>"}, {"special", false}},
                               {{"id", 258}, {"content", "<s><u>"}, {"special", true}}};
  const auto with = [&](std::string_view text, std::vector<TextRange> user_text) {
    return encode(tokenizer, text,
                  {.specials = Tokenizer::Specials::kTokens, .user_text = user_text});
  };
  EXPECT_THAT(with("<s>a", {}), ElementsAre(256, 'a'));
  EXPECT_THAT(with("<s><s>", {{3, 6}}), ElementsAre(256, '<', 's', '>'));
  EXPECT_THAT(with("<s><s>", {{0, 3}}), ElementsAre('<', 's', '>', 256));
  EXPECT_THAT(with("<s><s>", {{1, 1}, {3, 3}}), ElementsAre(256, 256));
  EXPECT_THAT(with("<s><t>", {{0, 6}}), ElementsAre('<', 's', '>', 257));  // not special
  EXPECT_THAT(with("<s><s>", {{2, 4}}), ElementsAre('<', 's', '>', '<', 's', '>'));
  // A token that only reaches into the user's words does not hide one that does not.
  EXPECT_THAT(with("<s><u>", {{5, 6}}), ElementsAre(256, '<', 'u', '>'));
  EXPECT_THAT(with("<<s>", {{0, 1}}), ElementsAre('<', 256));
  EXPECT_THAT(encode(tokenizer, "<s><t>", {}), ElementsAre('<', 's', '>', 257));
  const auto loaded = load(tokenizer).value();
  const std::vector<TextRange> range = {{0, 1}};
  EXPECT_EQ(loaded->encode("\xff", {.user_text = range}).status().code(), Code::kInvalidArgument);
}

TEST(TokenizerTest, BosFromConfigOrTemplate) {
  const object text = {{"Sequence", {{"id", "A"}}}};
  const object token = {{"SpecialToken", {{"id", "<s>"}}}};
  object with_template = byte_tokenizer();
  with_template["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {token, text}}};

  auto tokenizer = load(byte_tokenizer()).value();
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_THAT(tokenizer->encode("a", true).value(), ElementsAre('a'));

  tokenizer = load(byte_tokenizer(), {{"bos_token", "<s>"}, {"eos_token", "<s>"}}).value();
  EXPECT_EQ(tokenizer->bos_id(), 256);
  EXPECT_EQ(tokenizer->eos_id(), 256);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_THAT(tokenizer->encode("a", true).value(), ElementsAre(256, 'a'));
  EXPECT_THAT(tokenizer->encode("a", false).value(), ElementsAre('a'));
  const Tokenizer::EncodeOptions both = {.add_bos = true, .specials = Tokenizer::Specials::kTokens};
  EXPECT_THAT(tokenizer->encode("<s>a", both).value(), ElementsAre(256, 'a'));
  EXPECT_THAT(tokenizer->encode("a<s>", both).value(), ElementsAre(256, 'a', 256));
  EXPECT_THAT(tokenizer->encode("<s>", true).value(), ElementsAre(256, '<', 's', '>'));
  EXPECT_THAT(tokenizer->encode("", true).value(), ElementsAre(256));

  tokenizer = load(with_template).value();
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->bos_token(), "<s>");
  EXPECT_FALSE(load(with_template, {{"add_bos_token", false}}).value()->add_bos());

  EXPECT_EQ(load(byte_tokenizer(), {{"bos_token", "<none>"}}).status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(load(byte_tokenizer(), {{"add_bos_token", true}}).status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(load(byte_tokenizer(), {{"add_eos_token", true}}).status().code(), Code::kUnsupported);
  EXPECT_EQ(load(with_template, {{"bos_token", "a"}}).status().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace kvferry::text
