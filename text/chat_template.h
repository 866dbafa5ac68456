// Chat messages to one prompt. One template is known, `plain`:
//   {{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}
// A checkpoint without a template is given this one. A checkpoint with another one cannot chat:
// render says so, and completions still work.
// Thread contract: immutable; any number of threads.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace kvferry::text {

struct ChatMessage {
  std::string role;
  std::string content;
};

struct ChatPrompt {
  std::string text;                  // valid UTF-8
  std::vector<TextRange> user_text;  // what messages say, in order: the rest is the template's

  // The template's special tokens are tokens, those in messages are text, and BOS is where the
  // template writes it. Refers to user_text.
  Tokenizer::EncodeOptions encode_options() const {
    return {.specials = Tokenizer::Specials::kTokens, .user_text = user_text};
  }
};

class ChatTemplate {
 public:
  static constexpr std::size_t kMaxBytes = 4u << 20;
  static constexpr std::string_view kPlain =
      "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}";

  // From chat_template.jinja or else tokenizer_config.json, which may both be missing.
  // Fails only when a file is broken; an unknown template is not a failure here.
  static Result<ChatTemplate> load(const std::filesystem::path& model_dir);
  // An empty source means plain; `where` is for messages.
  ChatTemplate(std::string_view source, std::string_view bos_token, std::string_view where);

  // OK, or why this checkpoint cannot chat (kUnsupported).
  const Status& status() const { return status_; }

  // The prompt, BOS token first where there is one. What is not UTF-8 in messages is replaced.
  // kUnsupported as status(); kInvalidArgument without messages.
  Result<ChatPrompt> render(std::span<const ChatMessage> messages) const;

 private:
  std::string bos_token_;
  Status status_;
};

}  // namespace kvferry::text
