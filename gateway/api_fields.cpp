#include "gateway/api_fields.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "text/chat_template.h"

namespace kvferry::gateway {

namespace json = boost::json;

namespace {

// Content is a string or a list of parts {"type":"text","text":...}.
std::optional<std::string> content_of(const json::value& content) {
  if (content.is_string()) return std::string(content.get_string());
  if (!content.is_array()) return std::nullopt;
  std::string text;
  for (const json::value& part : content.get_array()) {
    if (!part.is_object()) return std::nullopt;
    const json::value* type = part.get_object().if_contains("type");
    const json::value* words = part.get_object().if_contains("text");
    if (type == nullptr || *type != "text" || words == nullptr || !words->is_string()) {
      return std::nullopt;
    }
    text += words->get_string();
  }
  return text;
}

const json::value* member(const json::value& of, const char* key) {
  return of.is_object() ? of.get_object().if_contains(key) : nullptr;
}

std::optional<std::string> text_member(const json::value& of, const char* key) {
  const json::value* value = member(of, key);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

// [{"id", "type": "function", "function": {"name", "arguments"}}]
std::optional<std::vector<text::ChatMessage::ToolCall>> tool_calls_of(const json::value& list) {
  std::vector<text::ChatMessage::ToolCall> calls;
  if (!list.is_array()) return std::nullopt;
  for (const json::value& entry : list.get_array()) {
    const json::value* function = member(entry, "function");
    if (function == nullptr) return std::nullopt;
    auto name = text_member(*function, "name");
    auto arguments = text_member(*function, "arguments");
    if (!name || !arguments) return std::nullopt;
    calls.push_back({text_member(entry, "id").value_or(""), *name, *arguments});
  }
  return calls;
}

constexpr const char* kMessageForm =
    " must have a role (system, developer, user, assistant or tool) and a content of text";
constexpr const char* kToolCallsForm =
    " must be a list of {\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\"}}, "
    "name and arguments strings";

// Fails `fields` where it is none; `which` names it.
std::optional<text::ChatMessage> message_of(const json::value& value, const std::string& which,
                                            JsonFields& fields) {
  const auto fail = [&](const std::string& param, const char* form) {
    fields.fail(param, "'" + param + "'" + form);
    return std::nullopt;
  };
  const json::value* role = member(value, "role");
  if (role == nullptr || !role->is_string()) return fail(which, kMessageForm);
  static constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  const std::string name(role->get_string());
  if (std::find(std::begin(kRoles), std::end(kRoles), name) == std::end(kRoles)) {
    return fail(which, kMessageForm);
  }
  text::ChatMessage message{name, ""};
  const json::value* calls = member(value, "tool_calls");
  const bool has_calls = name == "assistant" && calls != nullptr && !calls->is_null();
  if (has_calls) {
    auto read = tool_calls_of(*calls);
    if (!read) return fail(which + ".tool_calls", kToolCallsForm);
    message.tool_calls = std::move(*read);
  }
  message.tool_call_id = text_member(value, "tool_call_id").value_or("");
  const json::value* content = member(value, "content");
  if (has_calls && (content == nullptr || content->is_null())) return message;
  if (content == nullptr) return fail(which, kMessageForm);
  auto text = content_of(*content);
  if (!text) return fail(which, kMessageForm);
  message.content = std::move(*text);
  return message;
}

// The template alone writes special tokens: what messages say is text.
void refuse_special_tokens_of_messages(JsonFields& fields) {
  if (!fields.boolean("split_special_tokens").value_or(true)) {
    fields.fail("split_special_tokens",
                "'split_special_tokens' must be true with 'messages': what they say is text. Send "
                "a prompt to the completions endpoint instead");
  }
  if (fields.boolean("add_special_tokens").value_or(false)) {
    fields.fail("add_special_tokens",
                "'add_special_tokens' must be false with 'messages': the chat template writes "
                "them");
  }
}

text::ChatOptions read_chat_options(JsonFields& fields) {
  text::ChatOptions options;
  options.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  const json::value* given = fields.find("chat_template_kwargs");
  if (given == nullptr) return options;
  if (!given->is_object()) {
    fields.fail("chat_template_kwargs", "'chat_template_kwargs' must be an object");
    return options;
  }
  for (const auto& [key, value] : given->get_object()) {
    const std::string name = "chat_template_kwargs." + std::string(key);
    if (key != "enable_thinking") {
      fields.fail(name, "'" + name + "' is not supported; there is 'enable_thinking'");
    } else if (!value.is_bool()) {
      fields.fail(name, "'" + name + "' must be true or false");
    } else {
      options.enable_thinking = value.get_bool();
    }
  }
  return options;
}

}  // namespace

ApiResult<json::object> parse_body(std::string_view body) {
  json::error_code problem;
  json::value value = json::parse(body, problem);
  if (problem) {
    return bad_request("The body is not valid JSON: " + problem.message(), "", "invalid_json");
  }
  if (!value.is_object()) return bad_request("The body must be a JSON object");
  return std::move(value.get_object());
}

ApiResult<std::uint64_t> read_timeout(std::string_view header, std::uint64_t most_ns) {
  if (header.empty()) return most_ns;
  double seconds = 0;
  const char* end = header.data() + header.size();
  const auto [stopped, error] = std::from_chars(header.data(), end, seconds);
  if (error != std::errc() || stopped != end || !(seconds > 0)) {
    return bad_request("The header 'timeout' must be a number of seconds above 0", "timeout");
  }
  const double ns = seconds * static_cast<double>(kSecond);
  if (ns >= static_cast<double>(most_ns)) return most_ns;
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(ns));
}

void read_model(JsonFields& fields, const ServedModel& model) {
  const auto name = fields.string("model");
  if (!name || *name == model.name) return;
  fields.fail(unknown_model(*name, model.name));
}

text::ChatPrompt read_chat_prompt(JsonFields& fields, const ServedModel& model) {
  const json::value* list = fields.find("messages");
  if (list == nullptr) {
    fields.fail("messages", "'messages' is missing");
    return {};
  }
  if (!list->is_array() || list->get_array().empty()) {
    fields.fail("messages", "'messages' must be a list of at least one message");
    return {};
  }
  std::vector<text::ChatMessage> messages;
  for (const json::value& value : list->get_array()) {
    auto message = message_of(value, "messages[" + std::to_string(messages.size()) + "]", fields);
    if (!message) return {};
    messages.push_back(std::move(*message));
  }
  refuse_special_tokens_of_messages(fields);
  const text::ChatOptions options = read_chat_options(fields);
  if (!fields.ok()) return {};
  auto prompt = model.chat.render(messages, options);
  if (!prompt.ok()) {
    fields.fail("messages", prompt.status().message());
    return {};
  }
  return std::move(*prompt);
}

text::Tokenizer::EncodeOptions read_encode_options(JsonFields& fields, const ServedModel& model) {
  const bool special = fields.boolean("add_special_tokens").value_or(true);
  const bool split = fields.boolean("split_special_tokens").value_or(true);
  using Specials = text::Tokenizer::Specials;
  return {.add_bos = special && model.tokenizer->add_bos(),
          .specials = split ? Specials::kText : Specials::kTokens};
}

}  // namespace kvferry::gateway
