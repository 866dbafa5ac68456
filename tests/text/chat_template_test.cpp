#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/text/temp_model.h"

namespace kvferry::text {
namespace {

using testing::HasSubstr;

const std::vector<ChatMessage> kMessages = {{"system", "Be short."}, {"user", "Who?"}};

std::filesystem::path source_dir() {
  const char* dir = std::getenv("KVFERRY_SOURCE_DIR");
  return dir == nullptr ? "." : dir;
}

TEST(ChatTemplateTest, PlainOfTheBundledModel) {
  const auto loaded = ChatTemplate::load(source_dir() / "models/mini").value();
  ASSERT_TRUE(loaded.status().ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded.render(kMessages).value().text, "<|begin|>Be short.\nWho?\n");
  EXPECT_EQ(loaded.render({}).status().code(), Code::kInvalidArgument);
}

TEST(ChatTemplateTest, NoTemplateMeansPlain) {
  const TempModel model;
  EXPECT_EQ(ChatTemplate::load(model.dir()).value().render(kMessages).value().text,
            "Be short.\nWho?\n");
  model.write("tokenizer_config.json", std::string(R"({"bos_token": {"content": "<s>"}})"));
  EXPECT_EQ(ChatTemplate::load(model.dir()).value().render(kMessages).value().text,
            "<s>Be short.\nWho?\n");
}

TEST(ChatTemplateTest, AnotherTemplateRefusesToChatByName) {
  const TempModel model;
  model.write("tokenizer_config.json",
              boost::json::value{{"chat_template",
                                  "{% for message in messages %}<|im_start|>{{ message.role }}"}});
  const auto loaded = ChatTemplate::load(model.dir()).value();
  const Status status = loaded.render(kMessages).status();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_EQ(loaded.status().code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr("{% for message in messages %}<|im_start|>"));
  EXPECT_THAT(status.message(), HasSubstr("tokenizer_config.json"));
  EXPECT_THAT(status.message(), HasSubstr("completions"));
  const ChatTemplate nearly(std::string(ChatTemplate::kPlain) + " ", "<s>", "here");
  EXPECT_EQ(nearly.status().code(), Code::kUnsupported);
}

TEST(ChatTemplateTest, AFileOfItsOwnComesFirst) {
  const TempModel model;
  model.write("tokenizer_config.json",
              boost::json::value{{"bos_token", "<s>"}, {"chat_template", ChatTemplate::kPlain}});
  EXPECT_TRUE(ChatTemplate::load(model.dir()).value().status().ok());
  model.write("chat_template.jinja", std::string("{{ messages }}"));
  EXPECT_THAT(ChatTemplate::load(model.dir()).value().status().message(),
              HasSubstr("chat_template.jinja"));
  model.write("chat_template.jinja", std::string(ChatTemplate::kPlain));
  EXPECT_EQ(ChatTemplate::load(model.dir()).value().render(kMessages).value().text,
            "<s>Be short.\nWho?\n");
}

TEST(ChatTemplateTest, NamedTemplatesAreRefusedAndBrokenFilesFail) {
  const TempModel model;
  model.write("tokenizer_config.json",
              std::string(R"({"chat_template": [{"name": "default", "template": "x"}]})"));
  EXPECT_EQ(ChatTemplate::load(model.dir()).value().status().code(), Code::kUnsupported);
  model.write("tokenizer_config.json", std::string("{"));
  EXPECT_EQ(ChatTemplate::load(model.dir()).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::text
