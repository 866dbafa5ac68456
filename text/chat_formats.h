// The chat formats that are known: what published chat templates render, written out. A template is
// recognised by the hash of its text, so that none is taken for another that differs in a detail.
// Thread contract: pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/chat_prompt.h"

namespace kvferry::text {

// What templates know besides the messages.
struct ChatContext {
  std::string_view bos_token, eos_token;
  std::string_view today;  // "26 Jul 2024", for templates that say it
};

struct ChatFormat {
  std::string_view name;
  // The messages alone, which are valid UTF-8, at least one. kInvalidArgument for what the format
  // has no place for.
  Result<ChatPrompt> (*render)(std::span<const ChatMessage> messages, const ChatContext& context);
  std::string_view generation_prompt;  // comes last; what render() always writes is not in it
  std::string_view no_thoughts;        // behind it without enable_thinking; empty: no such switch
};

// The messages and what `options` add to them, as the format's templates do.
Result<ChatPrompt> render_chat(const ChatFormat& format, std::span<const ChatMessage> messages,
                               const ChatContext& context, const ChatOptions& options);

// All of them, by name.
std::span<const ChatFormat> chat_formats();
// Null when there is none of that name.
const ChatFormat* find_chat_format(std::string_view name);
// The format of a template; null when it is not known. Carriage returns, the kind of quotes, "\n"
// for a line end within strings and white space around it all make no difference.
const ChatFormat* recognise_chat_template(std::string_view source);
// The same by SHA-256, in hex, of the template in that form.
const ChatFormat* find_chat_format_by_hash(std::string_view hex);

}  // namespace kvferry::text
