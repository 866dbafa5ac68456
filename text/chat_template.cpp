#include "text/chat_template.h"

#include <ctime>
#include <vector>

#include "text/chat_formats.h"
#include "text/json_file.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

constexpr std::size_t kShownCharacters = 60;

// "26 Jul 2024", with the month in English whatever the locale.
std::string local_date() {
  constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  const std::string day = std::to_string(local.tm_mday);
  return (day.size() < 2 ? "0" : "") + day + " " + kMonths[local.tm_mon] + " " +
         std::to_string(1900 + local.tm_year);
}

std::string known_names() {
  std::string names;
  for (const ChatFormat& format : chat_formats()) names.append(format.name).append(", ");
  return names.append(ChatTemplate::kNone);
}

struct Source {
  std::string text;   // empty: no template
  std::string where;  // for messages
};

// The template of a list of named ones that counts.
std::string_view default_of(const boost::json::array& list) {
  for (const boost::json::value& entry : list) {
    if (text_of(member(entry, "name")) == "default") return text_of(member(entry, "template"));
  }
  return list.empty() ? std::string_view() : text_of(member(list.front(), "template"));
}

Result<Source> find_source(const std::filesystem::path& model_dir,
                           const boost::json::value& config) {
  const std::filesystem::path file = model_dir / "chat_template.jinja";
  const Result<std::string> content = read_file(file, ChatTemplate::kMaxBytes);
  if (content.ok()) return Source{*content, file.string()};
  if (content.status().code() != Code::kNotFound) return content.status();
  const boost::json::value& given = member(config, "chat_template");
  const boost::json::array* const list = given.if_array();
  return Source{std::string(list == nullptr ? text_of(given) : default_of(*list)),
                (model_dir / "tokenizer_config.json").string()};
}

Result<const ChatFormat*> recognise(const Source& source) {
  if (source.text.empty()) return find_chat_format("plain");
  if (const ChatFormat* const format = recognise_chat_template(source.text)) return format;
  const std::string text = replace_invalid_utf8(source.text);
  std::size_t end = std::min(text.size(), kShownCharacters);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80)
    --end;
  return unsupported("the chat template in " + source.where + " (" + text.substr(0, end) +
                     "...) is not a known one; choose one with --chat-template, its name or a file "
                     "with a known template: " +
                     known_names() + " (no chat, completions only)");
}

}  // namespace

ChatTemplate::ChatTemplate() : format_(find_chat_format("plain")) {}

Result<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_dir,
                                        const std::string& choice) {
  const std::filesystem::path config_file = model_dir / "tokenizer_config.json";
  Result<boost::json::value> config = read_json_object(config_file, kMaxBytes);
  if (!config.ok() && config.status().code() != Code::kNotFound) return config.status();
  const boost::json::value none;
  const boost::json::value& members = config.ok() ? *config : none;
  ChatTemplate made;
  made.bos_token_ = token_text_of(member(members, "bos_token"));
  made.eos_token_ = token_text_of(member(members, "eos_token"));
  made.format_ = find_chat_format(choice);
  if (made.format_ != nullptr || choice == kNone) return made;
  if (choice.empty()) {
    KVF_ASSIGN_OR_RETURN(const Source source, find_source(model_dir, members));
    KVF_ASSIGN_OR_RETURN(made.format_, recognise(source));
    return made;
  }
  Result<std::string> file = read_file(choice, kMaxBytes);
  if (!file.ok()) {
    return invalid_argument("--chat-template " + choice + " is no file (" +
                            file.status().message() + ") and none of " + known_names());
  }
  KVF_ASSIGN_OR_RETURN(made.format_, recognise({std::move(*file), choice}));
  return made;
}

std::string_view ChatTemplate::name() const { return format_ == nullptr ? kNone : format_->name; }

Result<ChatPrompt> ChatTemplate::render(std::span<const ChatMessage> messages,
                                        const ChatOptions& options,
                                        const std::string& today) const {
  if (format_ == nullptr) {
    return unsupported(
        "this server runs with --chat-template none: it has no chat. Send a prompt to "
        "the completions endpoint instead");
  }
  if (messages.empty()) return invalid_argument("messages must not be empty");
  std::vector<ChatMessage> valid(messages.begin(), messages.end());
  for (ChatMessage& message : valid) {
    if (message.role == "developer") message.role = "system";
    for (std::string* text : {&message.role, &message.content, &message.tool_call_id}) {
      *text = replace_invalid_utf8(*text);
    }
    for (ChatMessage::ToolCall& call : message.tool_calls) {
      for (std::string* text : {&call.id, &call.name, &call.arguments}) {
        *text = replace_invalid_utf8(*text);
      }
    }
  }
  const std::string date = today.empty() ? local_date() : today;
  return render_chat(*format_, valid, {bos_token_, eos_token_, date}, options);
}

}  // namespace kvferry::text
