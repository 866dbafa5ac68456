#include "text/chat_template.h"

#include "text/json_file.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

constexpr std::size_t kShownCharacters = 60;

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string_view bos_token,
                           std::string_view where)
    : bos_token_(bos_token) {
  if (source.empty() || source == kPlain) return;
  std::string shown(source.substr(0, kShownCharacters));
  if (shown.size() < source.size()) shown += "...";
  status_ = unsupported("the chat template in " + std::string(where) + " (" + shown +
                        ") is not one that this version knows (plain). Send a prompt to the "
                        "completions endpoint instead");
}

Result<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_dir) {
  const std::filesystem::path config_file = model_dir / "tokenizer_config.json";
  Result<boost::json::value> config = read_json_object(config_file, kMaxBytes);
  if (!config.ok() && config.status().code() != Code::kNotFound) return config.status();
  const boost::json::value none;
  const boost::json::value& members = config.ok() ? *config : none;
  const std::string bos_token(token_text_of(member(members, "bos_token")));

  const std::filesystem::path template_file = model_dir / "chat_template.jinja";
  const Result<std::string> file = read_file(template_file, kMaxBytes);
  if (file.ok()) return ChatTemplate(*file, bos_token, template_file.string());
  if (file.status().code() != Code::kNotFound) return file.status();

  const boost::json::value& given = member(members, "chat_template");
  if (given.is_null() || given.is_string()) {
    return ChatTemplate(text_of(given), bos_token, config_file.string());
  }
  return ChatTemplate("a list of named templates", bos_token, config_file.string());
}

Result<ChatPrompt> ChatTemplate::render(std::span<const ChatMessage> messages) const {
  KVF_RETURN_IF_ERROR(status_);
  if (messages.empty()) return invalid_argument("messages must not be empty");
  ChatPrompt prompt{bos_token_, {}};
  for (const ChatMessage& message : messages) {
    const std::size_t begin = prompt.text.size();
    prompt.text.append(replace_invalid_utf8(message.content));
    prompt.user_text.push_back({begin, prompt.text.size()});
    prompt.text += '\n';
  }
  return prompt;
}

}  // namespace kvferry::text
