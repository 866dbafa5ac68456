// A checkpoint's chat template: which of the known formats it is.
// Thread contract: immutable; any number of threads.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/chat_prompt.h"

namespace kvferry::text {

struct ChatFormat;

class ChatTemplate {
 public:
  static constexpr std::size_t kMaxBytes = 4u << 20;  // of a file
  static constexpr std::string_view kNone = "none";   // the choice not to chat

  // Recognises the template of chat_template.jinja or else of tokenizer_config.json, where it is a
  // string or a list of which `default` counts; a checkpoint without one gets `plain`, each content
  // and a line end. `choice` is taken instead when it is not empty: the name of a format
  // (chat_formats.h), a file with a template, or kNone.
  // kUnsupported, naming --chat-template, for a template that is not known.
  static Result<ChatTemplate> load(const std::filesystem::path& model_dir,
                                   const std::string& choice = {});

  // `plain` without a BOS token.
  ChatTemplate();

  // The format's name, or kNone.
  std::string_view name() const;

  // The prompt for the next answer of the assistant, as transformers' apply_chat_template renders
  // it with these options. What is not UTF-8 in messages is replaced; a developer's message
  // is a system message. kInvalidArgument without messages or for what the format has no place for,
  // kUnsupported for kNone. `today` is for templates that say the date; the local one unless given.
  Result<ChatPrompt> render(std::span<const ChatMessage> messages, const ChatOptions& options = {},
                            const std::string& today = {}) const;

 private:
  const ChatFormat* format_;  // null: kNone
  std::string bos_token_, eos_token_;
};

}  // namespace kvferry::text
