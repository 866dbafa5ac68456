// A conversation as a prompt, and which of its bytes are whose.
// Thread contract: values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace kvferry::text {

struct ChatMessage {
  struct ToolCall {
    std::string id, name;
    std::string arguments;  // JSON
  };
  std::string role;
  std::string content;
  std::vector<ToolCall> tool_calls = {};  // of an assistant
  std::string tool_call_id = {};          // of a tool
};

// Arguments of transformers' apply_chat_template. Templates that know nothing of one ignore it.
struct ChatOptions {
  bool add_generation_prompt = true;
  bool enable_thinking = true;  // of Qwen3: false puts empty thoughts into the generation prompt
};

struct ChatPrompt {
  std::string text;                  // valid UTF-8
  std::vector<TextRange> user_text;  // what messages say, in order: the rest is the template's

  // The template's special tokens are tokens, those in messages are text, and BOS is where the
  // template writes it. Refers to user_text.
  Tokenizer::EncodeOptions encode_options() const {
    return {.specials = Tokenizer::Specials::kTokens, .user_text = user_text};
  }

  ChatPrompt& markup(std::string_view written_by_template) {
    text += written_by_template;
    return *this;
  }
  ChatPrompt& said(std::string_view written_by_user) {
    user_text.push_back({text.size(), text.size() + written_by_user.size()});
    text += written_by_user;
    return *this;
  }
};

}  // namespace kvferry::text
