#include "cli/chat_client.h"

#include <boost/json.hpp>

#include "base/clock.h"

namespace kvferry::cli {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kModelsTimeoutNs = 10 * kSecond;
// Between two tokens, and before the first.
constexpr std::uint64_t kQuietNs = 120 * kSecond;
constexpr std::string_view kData = "data:";

double ms_since(std::uint64_t begin_ns) {
  return static_cast<double>(monotonic_ns() - begin_ns) * 1e-6;
}

const json::value* at(const json::value& value, std::string_view pointer) {
  json::error_code error;
  return value.find_pointer(pointer, error);
}

template <class Number>
Number number(const json::value& value, std::string_view pointer) {
  const json::value* found = at(value, pointer);
  return found != nullptr && found->is_number() ? found->to_number<Number>() : Number{};
}

std::string string(const json::value& value, std::string_view pointer) {
  const json::value* found = at(value, pointer);
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : "";
}

// The message of an error object, or the body as it is.
std::string words_of(std::string_view body) {
  json::error_code error;
  const json::value value = json::parse(body, error);
  const std::string message = error ? "" : string(value, "/error/message");
  return message.empty() ? std::string(body) : message;
}

std::string body_of(const ChatQuestion& question) {
  json::array messages;
  for (const ChatTurn& turn : question.turns) {
    messages.push_back(json::object{{"role", turn.role}, {"content", turn.content}});
  }
  json::object body{{"model", question.model},
                    {"messages", std::move(messages)},
                    {"stream", true},
                    {"stream_options", json::object{{"include_usage", true}}},
                    {"max_tokens", question.max_tokens},
                    {"temperature", question.temperature}};
  if (!question.codec.empty()) body["kv_codec"] = question.codec;
  return json::serialize(body);
}

void read_usage(const json::value& chunk, ChatAnswer& answer) {
  const json::value* usage = at(chunk, "/usage");
  if (usage == nullptr || !usage->is_object()) return;
  answer.prompt_tokens = number<std::uint64_t>(*usage, "/prompt_tokens");
  answer.completion_tokens = number<std::uint64_t>(*usage, "/completion_tokens");
  answer.raw_bytes = number<std::uint64_t>(*usage, "/kvferry/raw_bytes");
  answer.sent_bytes = number<std::uint64_t>(*usage, "/kvferry/sent_bytes");
  answer.bits_per_value = number<double>(*usage, "/kvferry/bits_per_value");
  answer.codec = string(*usage, "/kvferry/codec");
}

}  // namespace

void EventReader::feed(std::string_view bytes,
                       const std::function<void(std::string_view data)>& event) {
  for (const char byte : bytes) {
    if (byte == '\r') continue;
    if (byte != '\n') {
      line_ += byte;
      continue;
    }
    std::string_view line = line_;
    if (line.starts_with(kData)) {
      line.remove_prefix(kData.size());
      if (line.starts_with(' ')) line.remove_prefix(1);
      event(line);
    }
    line_.clear();
  }
}

Result<std::string> first_model(const HttpUrl& url) {
  KVF_ASSIGN_OR_RETURN(const HttpResponse response, http_get(url, "/v1/models", kModelsTimeoutNs));
  if (response.status != 200) return unavailable(words_of(response.body));
  json::error_code error;
  const json::value value = json::parse(response.body, error);
  std::string name = error ? "" : string(value, "/data/0/id");
  if (name.empty()) return unavailable("/v1/models names no model: " + response.body);
  return name;
}

Result<ChatAnswer> ask_chat(const HttpUrl& url, const ChatQuestion& question,
                            const std::function<void(std::string_view)>& text,
                            const std::function<bool()>& stop) {
  ChatAnswer answer;
  EventReader events;
  std::string failure;
  const std::uint64_t begin_ns = monotonic_ns();
  const auto on_event = [&](std::string_view data) {
    if (data == "[DONE]") return;
    json::error_code error;
    const json::value chunk = json::parse(data, error);
    if (error) {
      failure = "an event is not JSON: " + std::string(data);
    } else if (at(chunk, "/error") != nullptr) {
      failure = words_of(data);
    } else {
      read_usage(chunk, answer);
      const std::string piece = string(chunk, "/choices/0/delta/content");
      if (piece.empty()) return;
      if (answer.text.empty()) answer.first_token_ms = ms_since(begin_ns);
      answer.text += piece;
      text(piece);
    }
  };
  KVF_ASSIGN_OR_RETURN(const HttpResponse response,
                       http_post_stream(
                           url, "/v1/chat/completions", body_of(question), kQuietNs,
                           [&](std::string_view bytes) { events.feed(bytes, on_event); }, stop));
  answer.stopped = response.stopped;
  answer.total_ms = ms_since(begin_ns);
  if (!response.stopped && response.status != 200) return unavailable(words_of(response.body));
  if (!failure.empty()) return unavailable(failure);
  return answer;
}

}  // namespace kvferry::cli
